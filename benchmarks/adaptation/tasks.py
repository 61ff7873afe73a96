"""The development tasks: classification tasks of law and medicine, from public data sets and from the bundled corpora.

Recipes are chosen on these tasks, so what a recipe is worth has to be measured on others.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain_ft.corpus.examples import Example, Labels
from domain_ft.corpus.near_copies import duplicate_groups, text_fingerprints
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.randomness import generator

POOL, TEST = 1_200, 600
"""The most examples in a task's pool and in its test set."""


@dataclass(frozen=True)
class Task:
    """A task, split in two: `pool` has no text of `test` and no near copy of one.

    Attributes:
        name: of the task.
        field: `legal` or `medical`.
        labels: the classes.
        pool: the examples that training sets are drawn from.
        test: the examples that the scores are measured on.
    """

    name: str
    field: str
    labels: Labels
    pool: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def test_texts(self) -> Iterator[str]:
        """The texts that no model may have been adapted to."""
        for example in self.test:
            yield example.text
            if example.pair:
                yield example.pair


Rows = Iterable[tuple[str, str | None, str, str]]
"""(text, second text of a pair or None, label, group or "")."""


def development_tasks(data: Path | None, only: Sequence[str] = ()) -> list[Task]:
    """The tasks of the bundled corpora and, if `data` is given, of the public data sets in that folder."""
    found = []
    for name, (field, source) in BUNDLED.items():
        if not only or name in only:
            found.append(_cut(name, field, _bundled(source)))
    for name, (field, read) in PUBLIC.items():
        if data and (not only or name in only):
            found.append(_cut(name, field, read(data)))
    return found


def _cut(name: str, field: str, rows: Rows) -> Task:
    """A task from a random sample of the rows, split by groups. Exact copies and rare classes are left out."""
    unique = {(text, pair): (label, group) for text, pair, label, group in rows if text.strip()}
    counts = Counter(label for label, _ in unique.values())
    kept = [(text, pair, label, group) for (text, pair), (label, group) in unique.items() if counts[label] >= FEWEST]
    order = generator(0, "development tasks", name).permutation(len(kept))[: 3 * (POOL + TEST)]
    kept = [kept[place] for place in order]
    prints = text_fingerprints("\n".join(filter(None, row[:2])) for row in kept)
    groups = duplicate_groups(prints, [row[3] for row in kept])
    examples = [
        Example(f"{name}-{place}", text, (label,), pair=pair, group=str(group))
        for place, ((text, pair, label, _), group) in enumerate(zip(kept, groups, strict=True))
    ]
    # In the order of the sample, each whole group that still fits goes to the test set, the others to the pool.
    test_groups: set[str] = set()
    size = 0
    of_group = Counter(example.group for example in examples)
    share = min(TEST, len(examples) // 3)
    for example in examples:
        if example.group not in test_groups and size + of_group[example.group] <= share:
            test_groups.add(example.group)
            size += of_group[example.group]
    test = [example for example in examples if example.group in test_groups]
    pool = [example for example in examples if example.group not in test_groups][:POOL]
    classes = sorted({example.labels[0] for example in pool})
    test = [example for example in test if example.labels[0] in classes]
    return Task(name, field, Labels(tuple(classes)), tuple(pool), tuple(test))


FEWEST = 20
"""Classes with fewer examples are left out."""


# ----------------------------------------------------------------------------------------------------- bundled corpora

BUNDLED = {
    "license-category": ("legal", "legal/license-category"),
    "clause-or-notice": ("legal", "legal/clause-or-notice"),
    "phenotype-system": ("medical", "medical/phenotype-system"),
    "icd-chapter": ("medical", "medical/icd-chapter"),
}


def _bundled(name: str) -> Rows:
    for examples in open_task(TaskSource(task=name)).splits.values():
        for example in examples:
            if len(example.labels) == 1:
                yield example.text, example.pair, example.labels[0], example.group


# ---------------------------------------------------------------------------------------------------- public data sets


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _overruling(data: Path) -> Rows:
    for row in _csv(data / "overruling/overruling.csv"):
        yield row["sentence1"], None, row["label"], ""


def _clause_topic(data: Path) -> Rows:
    for row in _json_lines(data / "contract_nli/clause_topic.jsonl.gz"):
        yield row["text"], None, row["label"], row["document"]


def _contract_nli(data: Path) -> Rows:
    for row in _json_lines(data / "contract_nli/pairs.jsonl.gz"):
        yield row["evidence"], row["hypothesis"], row["label"], row["document"]


CODE_TITLES = 12
"""The number of classes of `code-title`: the most frequent titles of the District of Columbia's code."""


def _code_title(data: Path) -> Rows:
    sections = [(row["id"].split("-")[0], row["text"]) for row in _json_lines(data / "legal_dc_code.jsonl.gz")]
    titles = [title for title, _ in Counter(title for title, _ in sections).most_common(CODE_TITLES)]
    for title, text in _sample(sections, "code title", 3_000):
        if title in titles:
            yield _beginning(text.partition(". ")[2]), None, title, ""  # without the section's heading


def _code_heading(data: Path) -> Rows:
    sections = [row["text"] for row in _json_lines(data / "legal_dc_code.jsonl.gz")]
    chosen = _sample(sections, "code heading", 1_800)
    for place, text in enumerate(chosen):
        heading, _, body = text.partition(". ")
        other = chosen[(place + 7) % len(chosen)].partition(". ")[0]
        matches = place % 2 == 0
        yield heading if matches else other, _beginning(body), "own" if matches else "other", ""


def _section_header(data: Path) -> Rows:
    for name in ("TrainingSet", "ValidationSet", "TestSet-1-MEDIQA-Chat-2023", "TestSet-2-MEDIQA-Sum-2023"):
        for row in _csv(data / f"mts_dialog/MTS-Dialog-{name}.csv"):
            yield row["dialogue"], None, row["section_header"], ""


def _pubmedqa(data: Path) -> Rows:
    for row in json.loads((data / "pubmedqa/data/ori_pqal.json").read_text(encoding="utf-8")).values():
        yield row["QUESTION"], " ".join(row["CONTEXTS"]), row["final_decision"], ""


def _sentences(lines: Iterable[str], column: int) -> Iterator[tuple[str, set[str]]]:
    """Each sentence of a file with one word per line, and the entity types in it."""
    words: list[str] = []
    types: set[str] = set()
    for line in [*lines, ""]:
        parts = line.split()
        if parts:
            words.append(parts[0])
            types |= {parts[column].partition("-")[2]} - {""}
        elif words:
            yield re.sub(r" ([,.;:)\]])", r"\1", " ".join(words)), types
            words, types = [], set()


def _has_disease(data: Path) -> Rows:
    for name in ("train", "dev", "test"):
        lines = (data / f"ner_ncbi_disease/{name}.txt").read_text(encoding="utf-8").splitlines()
        for text, types in _sentences(lines, 3):
            yield text, None, "disease" if "Disease" in types else "none", ""


def _has_chemical(data: Path) -> Rows:
    for name in ("train", "devel", "test"):
        with gzip.open(data / f"ner_bc5cdr/{name}.tsv.gz", "rt", encoding="utf-8") as file:
            for text, types in _sentences(file, 1):
                yield text, None, "chemical" if "Chemical" in types else "none", ""


QUESTION_TYPES = {
    "What is (are)": "information",
    "What are the treatments": "treatment",
    "What are the symptoms": "symptoms",
    "What are the genetic": "genetics",
    "How many people": "frequency",
    "How to diagnose": "diagnosis",
    "What causes": "causes",
    "Is ": "inheritance",
    "what research": "research",
    "Who is at risk": "risk",
    "What to do": "care",
    "How to prevent": "prevention",
}


def _medquad(data: Path) -> list[dict[str, Any]]:
    """The sample of questions and answers that both MedQuAD tasks use."""
    return _sample(list(_json_lines(data / "medical_medquad.jsonl.gz")), "medquad", 3_500)


def _answer_source(data: Path) -> Rows:
    for row in _medquad(data):
        yield _beginning(row["answer"]), None, row["source"], ""


def _answer_type(data: Path) -> Rows:
    for row in _medquad(data):
        for beginning, kind in QUESTION_TYPES.items():
            if row["question"].startswith(beginning):
                yield _beginning(row["answer"]), None, kind, ""


def _entailed_question(data: Path) -> Rows:
    for name in ("train", "validation"):
        for row in _json_lines(data / f"rqe/{name}.jsonl.gz"):
            yield row["text"], row["pair"], row["label"], ""


def _sample(rows: list[Any], name: str, size: int) -> list[Any]:
    return [rows[place] for place in generator(0, name).permutation(len(rows))[:size]]


def _beginning(text: str) -> str:
    """The first 800 characters: usually more than the MAX_LENGTH tokens that a model reads of an example."""
    return text[:800]


Reader = Callable[[Path], Rows]

PUBLIC: dict[str, tuple[str, Reader]] = {
    "overruling": ("legal", _overruling),
    "clause-topic": ("legal", _clause_topic),
    "contract-nli": ("legal", _contract_nli),
    "code-title": ("legal", _code_title),
    "code-heading": ("legal", _code_heading),
    "section-header": ("medical", _section_header),
    "pubmedqa": ("medical", _pubmedqa),
    "has-disease": ("medical", _has_disease),
    "has-chemical": ("medical", _has_chemical),
    "answer-source": ("medical", _answer_source),
    "answer-type": ("medical", _answer_type),
    "entailed-question": ("medical", _entailed_question),
}
