"""Finds leaks: examples with a copy in an earlier split or in a training corpus, and copies with different labels.

Copies are exact if they differ only in case, white space and Unicode form, and near if their MinHash similarity is 0.85
or more. Documents of the corpus that a model was adapted to are much longer than test texts. So the measure for them is
containment: the share of a test text that is in one document.
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
from domain_ft.wording import counted

# (split with the copy, split whose scores the copy inflates)
BETWEEN = (("train", "test"), ("train", "validation"), ("validation", "test"))
KINDS = (
    *(f"{kind}_{first}_{second}" for first, second in BETWEEN for kind in ("exact", "near")),
    "corpus_test",
    "exact_label_conflicts",
    "near_label_conflicts",
)
KIND_WORDS = {
    "exact_train_test": "test examples with an exact copy in the training examples",
    "near_train_test": "test examples with a near copy in the training examples",
    "exact_train_validation": "validation examples with an exact copy in the training examples",
    "near_train_validation": "validation examples with a near copy in the training examples",
    "exact_validation_test": "test examples with an exact copy in the validation examples",
    "near_validation_test": "test examples with a near copy in the validation examples",
    "corpus_test": "test examples in the corpus that the model was adapted to (without their labels)",
    "exact_label_conflicts": "texts with different labels",
    "near_label_conflicts": "pairs of near copies with different labels",
}
"""The kinds in words, for reports."""

_BATCH = 1_000_000  # characters of a corpus compared at a time


@dataclass(frozen=True)
class Leak:
    """An example and its copy. A leak has no text, so the list of leaks can be shared even if the data cannot.

    Attributes:
        kind: one of `KINDS`.
        ids, files, lines: of the copy (in an earlier split, or a document of a corpus), then of the example.
        similarity: 1 for exact copies, MinHash's estimate for near ones; for `corpus_test` the estimated share of the
            example that is in the document.
        labels: of both, for label conflicts; otherwise None.
    """

    kind: str
    ids: tuple[str, str]
    files: tuple[str, str]
    lines: tuple[int | None, int | None]
    similarity: float
    labels: tuple[tuple[str, ...], tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Leaks:
    """The result of `find_leaks`.

    Attributes:
        found: leaks, in the order of `KINDS`. An example with several copies may be listed with only one of them.
        counts: by kind, the number of test or validation examples with a copy. Near kinds do not count examples with
            an exact copy. For label conflicts, the number of texts, or of pairs of near copies, with different labels.
        removals: by split, the indices of the examples that `remove_leaks` removes.
        notes: sentences about what was not searched for.
    """

    found: Sequence[Leak]
    counts: Mapping[str, int]
    removals: Mapping[str, Integers]
    notes: Sequence[str] = ()

    @property
    def test_examples_read(self) -> frozenset[str]:
        """The ids of the test examples that are in a corpus that the model was adapted to."""
        return frozenset(leak.ids[1] for leak in self.found if leak.kind == "corpus_test")

    def write(self, path: Path) -> None:
        """Write the list as JSON lines."""
        text = io.StringIO()
        for leak in self.found:
            values = {name: value for name, value in dataclasses.asdict(leak).items() if value is not None}
            text.write(json.dumps(values, ensure_ascii=False) + "\n")
        write_atomic(path, text.getvalue())


def find_leaks(task: TaskData, corpora: Sequence[PreparedCorpus] = (), progress: Progress | None = None) -> Leaks:
    """Find copies between the splits, and test texts in the training text of corpora.

    Args:
        task: from `open_task` or `tagging.opening.as_task`.
        corpora: those that the model was adapted to.
        progress: called with (label, done, total or None).
    """
    return _Search(task, progress).run(corpora)


def remove_leaks(task: TaskData, leaks: Leaks) -> TaskData:
    """The task without the training and validation examples that have a copy or near copy in a later split.

    The order of the splits is training, validation, test. Test examples in a corpus that the model was adapted to are
    kept, and so are examples with conflicting labels.

    Raises:
        CorpusError: a split would be empty.
    """
    splits = dict(task.splits)
    for split, indices in leaks.removals.items():
        if len(indices) == len(splits[split]):
            raise CorpusError(
                f"all {len(indices):,} {split} examples are also in another split: without them none is left",
                where=task.name,
                fix="give other files; or leave out --validation and --test to have the splits made automatically",
            )
        if len(indices):
            splits[split] = splits[split].take(np.setdiff1d(np.arange(len(splits[split])), indices))
    removed = ", ".join(f"{len(indices):,} {split}" for split, indices in leaks.removals.items() if len(indices))
    if not removed:
        return task
    notes = [*task.notes, f"Examples that are also in another split were left out: {removed} examples."]
    counts = {
        split: dict(Counter(itertools.chain.from_iterable(labels_of(examples)))) for split, examples in splits.items()
    }
    lost = [name for name in task.labels.names if name not in counts["train"]]
    if lost:
        notes.append(
            f"This removed the last training examples of {counted(len(lost), 'class', 'classes')}, such as '{lost[0]}'."
        )
    sizes = {split: len(examples) for split, examples in splits.items()}
    facts = {**task.facts, "examples": sizes, "counts": counts}
    key = content_key(task.key, {split: examples.key for split, examples in splits.items()})
    return dataclasses.replace(task, splits=splits, key=key, facts=facts, notes=notes)


class _Search:
    """One call of `find_leaks`. Examples are numbered across all splits, in the order of `SPLITS`.

    Attributes:
        of_text: by text, the examples with it. Exact copies are one text.
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
        self.labels = [labels for split in self.splits for labels in labels_of(split)]
        self.found: dict[str, list[Leak]] = defaultdict(list)
        self.counts: Counter[str] = Counter()
        self.exact: dict[str, set[int]] = defaultdict(set)  # by kind, the examples with an exact copy
        self.contained: set[int] = set()  # the test examples in a corpus
        self.leaking: set[int] = set()  # examples to remove
        self.notes: list[str] = []

    def run(self, corpora: Sequence[PreparedCorpus]) -> Leaks:
        for examples in self.of_text:
            if len(examples) > 1:
                self._exact(examples)
        self._near()
        for corpus in corpora:
            self._corpus(corpus)
        removals = {
            split: np.array(sorted(e - int(self.starts[i]) for e in self.leaking if self.split_of[e] == i), np.int64)
            for i, split in enumerate(SPLITS[:2])
        }
        found = [leak for kind in KINDS for leak in self.found[kind]]
        return Leaks(found, {kind: self.counts[kind] for kind in KINDS}, removals, self.notes)

    def _exact(self, examples: list[int]) -> None:
        """Add the leaks among the examples of one text."""
        for first, second in BETWEEN:
            copies, harmed = self._within(examples, first), self._within(examples, second)
            if copies and harmed:
                pairs = [*((copies[0], example) for example in harmed), *((copy, harmed[0]) for copy in copies[1:])]
                for one, other in pairs:
                    self._add(f"exact_{first}_{second}", one, other, 1.0)
                self.exact[f"exact_{first}_{second}"].update(harmed)
                self.counts[f"exact_{first}_{second}"] += len(harmed)
                self.leaking.update(copies)
        others = [example for example in examples[1:] if set(self.labels[example]) != set(self.labels[examples[0]])]
        if others:
            self._add("exact_label_conflicts", examples[0], others[0], 1.0, labels=True)
            self.counts["exact_label_conflicts"] += 1

    def _near(self) -> None:
        """Add the leaks among near copies."""
        signatures = [part.signatures for part in self.prints]
        if any(part is None for part in signatures):
            self.notes.append("There are too many examples to search for near copies: only exact copies were found.")
            return
        whole = np.concatenate([part for part in signatures if part is not None])
        pairs, similarity = all_similar_pairs(whole[self.first], NEAR)
        # By kind, for each example with a copy and for each copy: (similarity, the most similar one on the other side).
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
        """Add the test texts of which a single document of a corpus contains at least the share `CONTAINED`."""
        test = self.splits[SPLITS.index("test")]
        start = int(self.starts[SPLITS.index("test")])
        best: dict[int, tuple[float, str]] = {}
        with tempfile.TemporaryDirectory(prefix="test-texts-", dir=cache_folder("tasks")) as place:
            Containment.of_documents(shingles(normalise(content(example))) for example in test).save(Path(place))
            documents = corpus.split("train")
            ids: deque[str] = deque()  # of the documents in progress
            found = in_order(
                functools.partial(overlaps_of_texts, Path(place)),
                _texts(documents.documents(), ids),
                work=f"looks for test texts in {corpus.name}",
            )
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
    """The texts of documents, in batches. Appends the document ids to `ids`."""
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
