"""Leaks: test texts that stand in training too, by count and by name, and labels that copies do not agree on.

A copy is exact where nothing but case and white space differs, and near from a MinHash similarity of 0.85 on. Against
the text that a model was adapted to the measure is containment: how much of a test text stands in one document, which
is far longer than it.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import json
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.corpus import content_key
from domain_ft.corpus.documents import Document
from domain_ft.corpus.duplicates import CONTAINED, NEAR, Containment, shingles
from domain_ft.corpus.examples import SPLITS, Example, TaskData
from domain_ft.corpus.near_copies import Integers, all_similar_pairs
from domain_ft.corpus.prepared import PreparedCorpus, overlaps_of_texts
from domain_ft.corpus.tasks.fingerprints import content, fingerprints, labels_of
from domain_ft.corpus.workers import in_order
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, write_atomic

# Where a copy may not stand, and the split that it would flatter.
BETWEEN = (("train", "test"), ("train", "validation"), ("validation", "test"))
KINDS = (
    *(f"{kind}_{first}_{second}" for first, second in BETWEEN for kind in ("exact", "near")),
    "corpus_test",
    "exact_label_conflicts",
    "near_label_conflicts",
)
KIND_WORDS = {
    "exact_train_test": "test examples that stand in the training examples, word for word",
    "near_train_test": "test examples with a near copy in the training examples",
    "exact_train_validation": "validation examples that stand in the training examples, word for word",
    "near_train_validation": "validation examples with a near copy in the training examples",
    "exact_validation_test": "test examples that stand in the validation examples, word for word",
    "near_validation_test": "test examples with a near copy in the validation examples",
    "corpus_test": "test examples that stand in the text that the model was adapted to (without their labels)",
    "exact_label_conflicts": "texts that come with different labels",
    "near_label_conflicts": "pairs of near copies with different labels",
}
"""What each kind is, for a person."""

_BATCH = 1_000_000  # characters of a corpus that are compared at a time


@dataclass(frozen=True)
class Leak:
    """One example and its copy. No text stands in it, so that the list can be shown where the data cannot.

    Attributes:
        kind: one of `KINDS`.
        ids, files, lines: of the copy (in training, or the document of a corpus), then of the example.
        similarity: 1 of exact copies; of near ones MinHash's estimate; of `corpus_test` the share of the example that
            stands in the document.
        labels: of both, where they disagree.
    """

    kind: str
    ids: tuple[str, str]
    files: tuple[str, str]
    lines: tuple[int | None, int | None]
    similarity: float
    labels: tuple[tuple[str, ...], tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Leaks:
    """What `find_leaks` found.

    Attributes:
        found: every leak, in the order of `KINDS`.
        counts: by kind: test (or validation) examples with a copy, `near` without those that have an exact one too;
            texts, or pairs of near copies, with two labels.
        removals: by split, the indices of the examples that `remove_leaks` takes out.
        notes: what was not looked for, in sentences.
    """

    found: Sequence[Leak]
    counts: Mapping[str, int]
    removals: Mapping[str, Integers]
    notes: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Write the list, a JSON object a line."""
        text = io.StringIO()
        for leak in self.found:
            values = {name: value for name, value in dataclasses.asdict(leak).items() if value is not None}
            text.write(json.dumps(values, ensure_ascii=False) + "\n")
        write_atomic(path, text.getvalue())


def find_leaks(task: TaskData, corpora: Sequence[PreparedCorpus] = (), progress: Progress | None = None) -> Leaks:
    """Look for copies between the splits, and between the training text of adaptation corpora and the test texts.

    Args:
        task: from `open_task`.
        corpora: what the model was adapted to.
        progress: told (label, done, all or None).
    """
    return _Search(task, progress).run(corpora)


def remove_leaks(task: TaskData, leaks: Leaks) -> TaskData:
    """The task without the training examples that stand in validation or test, and the validation's that stand in test.

    What stands in a corpus that the model was adapted to cannot be taken out here, nor are labels that disagree.

    Raises:
        CorpusError: nothing would be left of a split.
    """
    splits = dict(task.splits)
    for split, indices in leaks.removals.items():
        if len(indices) == len(splits[split]):
            raise CorpusError(
                f"all {len(indices):,} {split} examples stand in another split too: without them none is left",
                where=task.name,
                fix="give other files, or let the splits be made: leave out --validation and --test",
            )
        if len(indices):
            splits[split] = splits[split].take(np.setdiff1d(np.arange(len(splits[split])), indices))
    removed = ", ".join(f"{len(indices):,} {split}" for split, indices in leaks.removals.items() if len(indices))
    if not removed:
        return task
    notes = [*task.notes, f"Examples that stand in another split too were left out: {removed} examples."]
    counts = {split: dict(Counter(itertools.chain.from_iterable(labels_of(own)))) for split, own in splits.items()}
    lost = [name for name in task.labels.names if name not in counts["train"]]
    if lost:
        notes.append(f"With them went the last training examples of {len(lost):,} classes, such as '{lost[0]}'.")
    sizes = {split: len(examples) for split, examples in splits.items()}
    facts = {**task.facts, "examples": sizes, "counts": counts}
    key = content_key(task.key, {split: examples.key for split, examples in splits.items()})
    return dataclasses.replace(task, splits=splits, key=key, facts=facts, notes=notes)


class _Search:
    """One call of `find_leaks`. The examples of all splits are numbered through, in the order of `SPLITS`.

    Attributes:
        of_text: the examples of each text; exact copies are one text.
    """

    def __init__(self, task: TaskData, progress: Progress | None) -> None:
        self.progress = progress
        self.splits = [task.splits[split] for split in SPLITS]
        self.starts = np.cumsum([0, *(len(split) for split in self.splits)])
        self.prints = [fingerprints(split, progress) for split in self.splits]
        digests = np.concatenate([part.digests for part in self.prints])
        _, self.first, text_of = np.unique(digests, return_index=True, return_inverse=True)
        self.of_text: list[list[int]] = [[] for _ in self.first]
        for example, text in enumerate(text_of.tolist()):
            self.of_text[text].append(example)
        self.split_of = np.repeat(np.arange(len(SPLITS)), np.diff(self.starts)).tolist()
        self.labels = [own for split in self.splits for own in labels_of(split)]
        self.found: dict[str, list[Leak]] = defaultdict(list)
        self.counts: Counter[str] = Counter()
        self.exact: dict[str, set[int]] = defaultdict(set)  # by kind, the examples that have an exact copy
        self.contained: set[int] = set()  # test examples that stand in a corpus
        self.leaking: set[int] = set()  # examples to take out
        self.notes: list[str] = []

    def run(self, corpora: Sequence[PreparedCorpus]) -> Leaks:
        for own in self.of_text:
            if len(own) > 1:
                self._exact(own)
        self._near()
        for corpus in corpora:
            self._corpus(corpus)
        removals = {
            split: np.array(sorted(e - int(self.starts[i]) for e in self.leaking if self.split_of[e] == i), np.int64)
            for i, split in enumerate(SPLITS[:2])
        }
        found = [leak for kind in KINDS for leak in self.found[kind]]
        return Leaks(found, {kind: self.counts[kind] for kind in KINDS}, removals, self.notes)

    def _exact(self, own: list[int]) -> None:
        """What is wrong with the examples of one text."""
        for first, second in BETWEEN:
            copies, harmed = self._within(own, first), self._within(own, second)
            if copies and harmed:
                pairs = [*((copies[0], example) for example in harmed), *((copy, harmed[0]) for copy in copies[1:])]
                for one, other in pairs:
                    self._add(f"exact_{first}_{second}", one, other, 1.0)
                self.exact[f"exact_{first}_{second}"].update(harmed)
                self.counts[f"exact_{first}_{second}"] += len(harmed)
                self.leaking.update(copies)
        others = [example for example in own[1:] if set(self.labels[example]) != set(self.labels[own[0]])]
        if others:
            self._add("exact_label_conflicts", own[0], others[0], 1.0, labels=True)
            self.counts["exact_label_conflicts"] += 1

    def _near(self) -> None:
        """The same for near copies, of which two texts make a pair."""
        signatures = [part.signatures for part in self.prints]
        if any(part is None for part in signatures):
            self.notes.append("There are so many examples that only exact copies were looked for.")
            return
        whole = np.concatenate([part for part in signatures if part is not None])
        pairs, similarity = all_similar_pairs(whole[self.first], NEAR)
        # By kind, for each example that is harmed and for each copy that harms: the nearest of the other side.
        harmed: dict[str, dict[int, tuple[float, int]]] = defaultdict(dict)
        harming: dict[str, dict[int, tuple[float, int]]] = defaultdict(dict)
        for (one, other), share in zip(pairs.tolist(), similarity.tolist(), strict=True):
            if set(self.labels[self.of_text[one][0]]) != set(self.labels[self.of_text[other][0]]):
                self._add("near_label_conflicts", self.of_text[one][0], self.of_text[other][0], share, labels=True)
                self.counts["near_label_conflicts"] += 1
            for first, second in BETWEEN:
                kind = f"near_{first}_{second}"
                for here, there in ((one, other), (other, one)):
                    copies = self._within(self.of_text[here], first)
                    examples = self._within(self.of_text[there], second)
                    if copies and examples:
                        _keep_nearest(harmed[kind], examples, (share, copies[0]))
                        _keep_nearest(harming[kind], copies, (share, examples[0]))
        for kind in harmed:
            self.counts[kind] = len(harmed[kind].keys() - self.exact[kind.replace("near", "exact")])
            self.leaking.update(harming[kind])
            listed = {(copy, example, share) for example, (share, copy) in harmed[kind].items()}
            listed |= {(copy, example, share) for copy, (share, example) in harming[kind].items()}
            for copy, example, share in sorted(listed):
                self._add(kind, copy, example, share)

    def _corpus(self, corpus: PreparedCorpus) -> None:
        """Test texts of which half or more stands in one document that the model was adapted to."""
        test = self.splits[SPLITS.index("test")]
        start = int(self.starts[SPLITS.index("test")])
        best: dict[int, tuple[float, str]] = {}
        with tempfile.TemporaryDirectory(prefix="test-texts-", dir=cache_folder("tasks")) as place:
            Containment.of_documents(shingles(normalise(content(example))) for example in test).save(Path(place))
            documents = corpus.split("train")
            ids: deque[str] = deque()  # of the documents under way
            found = in_order(functools.partial(overlaps_of_texts, Path(place)), _texts(documents.documents(), ids))
            for done, (owners, shares) in enumerate(itertools.chain.from_iterable(found), 1):
                document = ids.popleft()
                for owner, share in zip(owners.tolist(), shares.tolist(), strict=True):
                    if share >= CONTAINED and share > best.get(owner, (0.0, ""))[0]:
                        best[owner] = (share, document)
                if self.progress and done % 100 == 0:
                    self.progress(f"looking for test texts in {corpus.name}", done, len(documents))
        for owner, (share, document) in sorted(best.items()):
            example = self._example(start + owner)
            leak = Leak(
                "corpus_test",
                (document, example.id),
                (corpus.name, example.file),
                (None, example.line),
                round(share, 3),
            )
            self.found["corpus_test"].append(leak)
        self.contained.update(best)
        self.counts["corpus_test"] = len(self.contained)

    def _within(self, examples: Sequence[int], split: str) -> list[int]:
        place = SPLITS.index(split)
        return [example for example in examples if self.split_of[example] == place]

    def _example(self, number: int) -> Example:
        place = self.split_of[number]
        return self.splits[place][number - int(self.starts[place])]

    def _add(self, kind: str, one: int, other: int, similarity: float, *, labels: bool = False) -> None:
        first, second = self._example(one), self._example(other)
        self.found[kind].append(
            Leak(
                kind,
                (first.id, second.id),
                (first.file, second.file),
                (first.line, second.line),
                round(similarity, 3),
                (first.labels, second.labels) if labels else None,
            )
        )


def _keep_nearest(nearest: dict[int, tuple[float, int]], examples: Iterable[int], found: tuple[float, int]) -> None:
    for example in examples:
        nearest[example] = max(nearest.get(example, (0.0, 0)), found)


def _texts(documents: Iterable[Document], ids: deque[str]) -> Iterator[list[str]]:
    """The texts in batches; the ids are put down as they come."""
    batch: list[str] = []
    waiting = 0
    for document in documents:
        ids.append(document.id)
        batch.append(document.text)
        waiting += len(document.text)
        if waiting >= _BATCH:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch
