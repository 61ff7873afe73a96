"""Copies and near copies of records, prompts with contradicting answers, and test rows among the training rows.

No text is kept: of each record four hashes of 16 bytes, a MinHash signature of 512 (see `duplicates`) and a short one
of its prompt. A record that nearly repeats another under another prompt, as answers from a form do, is no copy of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.checks.encoding import without_surrogates
from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.checks.items import Item
from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.duplicates import NEAR, PERMUTATIONS, Shingles, Signatures, Signer, near_copies, shingles
from domain_ft.corpus.near_copies import MOST_COMPARED, all_similar_pairs

_SHORT = 1_000  # characters of a short text
_RUN = 5
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_BEGINNING = 500  # characters of a prompt that are compared with others
_SKETCH = 64  # permutations of a prompt's signature
_ALIKE = 0.6  # of the places of two such signatures, from which on the prompts ask nearly the same
_LONG_ANSWER = 0.5  # of a record's text: a near copy whose answer is longer has nearly that answer too

_Nearest = tuple[int, float]
"""The number of a record, and how similar it is."""


@dataclass(frozen=True)
class _Record:
    """What is kept of a record.

    Attributes:
        whole: the hash of all its text.
        prompt, answer: the hashes of what is asked and of what is to be said; None where it has no such parts.
        labels: the hash of its labels, in their order.
        asked: a short MinHash signature of what is asked.
        share: of the text that is the answer.
        field: where the answer stands.
    """

    line: int | None
    whole: bytes
    prompt: bytes | None
    answer: bytes | None
    labels: bytes
    asked: bytes | None
    share: float
    field: str | None


class Copies:
    """Takes the records of a file one by one; then knows which are copies, and of which.

    Attributes:
        records: what is kept of each.
        spare: the lines of those that say nothing new, once `findings` has looked: copies and near copies, without
            those that ask something else or have other labels.
    """

    def __init__(self) -> None:
        self.records: list[_Record] = []
        self.spare: set[int | None] = set()
        self._signatures = bytearray()
        self._signer = Signer()

    def add(
        self,
        line: int | None,
        whole: str,
        prompt: str | None = None,
        answer: str | None = None,
        field: str | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        """Take a record.

        Args:
            line: where it stands.
            whole: all its text.
            prompt, answer: what is asked, and what is to be said or the label.
            field: where the answer stands.
            labels: of an example, or of the entities of a text.
        """
        essence = normalise(whole)
        digest = _digest(essence if answer is None else f"{essence}\n{_letters(answer)}")
        asked = None if prompt is None else _digest(normalise(prompt))
        said = None if answer is None else _digest(_letters(answer))
        sketch = (
            None if prompt is None else self._signer.sign(_grams(normalise(prompt)[:_BEGINNING]))[:_SKETCH].tobytes()
        )
        share = len(answer or "") / max(len(whole), 1)
        self.records.append(_Record(line, digest, asked, said, _digest("\n".join(labels)), sketch, share, field))
        if len(self.records) <= MOST_COMPARED:
            self._signatures += self._signer.sign(_shingles(essence)).tobytes()

    def add_item(self, item: Item) -> None:
        """Take a record, if copies of it are worth a word."""
        whole = item.compared
        if item.comparable and whole.strip():
            prompt, answer = (text and without_surrogates(text) for text in (item.prompt, item.answer))
            labels = tuple(map(without_surrogates, item.labels))
            self.add(item.line, without_surrogates(whole), prompt, answer, item.answer_field, labels)

    @property
    def signatures(self) -> Signatures | None:
        """(records, 128); None where there are too many records."""
        if len(self.records) > MOST_COMPARED:
            return None
        return np.frombuffer(self._signatures, np.uint32).reshape(-1, PERMUTATIONS)

    def findings(self) -> Iterator[Finding]:
        """Records that repeat an earlier one, and records that answer an earlier one's prompt otherwise."""
        first: dict[bytes, int] = {}
        for number, record in enumerate(self.records):
            original = first.setdefault(record.whole, number)
            if original != number:
                self.spare.add(record.line)
                yield Finding(record.line, None, "duplicate", f"it repeats {self._place(original)}")
        copies, repeats = self._near(np.array(list(first.values()), np.int64))
        contradicting = set()
        answers: dict[bytes, int] = {}
        for number in first.values():
            record = self.records[number]
            if record.prompt is None:
                continue
            earlier = self.records[answers.setdefault(record.prompt, number)]
            reworded = number in copies and record.share > _LONG_ANSWER
            if earlier.answer != record.answer and not reworded:
                contradicting.add(number)
                message = f"its prompt is that of {self._place(answers[record.prompt])}, with another answer"
                yield Finding(record.line, record.field, "contradicting-answers", message)
        for number, (original, similarity) in copies.items():
            record = self.records[number]
            if number not in contradicting:
                message = f"it is a near copy of {self._place(original)} (similarity {similarity:.2f})"
                if record.labels == self.records[original].labels:
                    self.spare.add(record.line)
                else:
                    message += ", with other labels"
                yield Finding(record.line, None, "near-duplicate", message)
        for number, (original, similarity) in repeats.items():
            if number not in copies and number not in contradicting:
                record = self.records[number]
                nearly = f"it nearly repeats {self._place(original)} (similarity {similarity:.2f})"
                yield Finding(record.line, record.field, "near-duplicate", f"{nearly}, under another prompt")

    def _near(self, numbers: npt.NDArray[np.int64]) -> tuple[dict[int, _Nearest], dict[int, _Nearest]]:
        """Near copies among some records: those that ask nearly the same, and those that do not.

        Each comes with the earlier record that it is nearest to, and how near.
        """
        signatures = self.signatures
        if signatures is None or len(numbers) < 2:
            return {}, {}
        pairs, similarity = all_similar_pairs(signatures[numbers], NEAR)
        alike = np.array([self._ask_alike(*numbers[pair].tolist()) for pair in pairs], dtype=bool)
        found: list[dict[int, _Nearest]] = []
        for chosen in (alike, ~alike):
            copies = near_copies(len(numbers), pairs[chosen])
            nearest: dict[int, _Nearest] = {}
            for (one, other), share in zip(numbers[pairs[chosen]].tolist(), similarity[chosen].tolist(), strict=True):
                if share > nearest.get(other, (0, 0.0))[1]:
                    nearest[other] = (one, share)
            found.append({number: nearest[number] for number in numbers[copies].tolist()})
        return found[0], found[1]

    def _ask_alike(self, one: int, other: int) -> bool:
        """Whether the prompts of two records are near copies, or they have none."""
        asked, also = self.records[one].asked, self.records[other].asked
        if asked is None or also is None:
            return True
        same = np.frombuffer(asked, np.uint32) == np.frombuffer(also, np.uint32)
        return bool(same.mean() >= _ALIKE)

    def leaks(self, test: Copies) -> Iterator[Finding]:
        """Records that stand in the test file too."""
        whole = {record.whole: record for record in reversed(test.records)}
        asked = {record.prompt: record for record in reversed(test.records) if record.prompt is not None}
        near = self._near_test(test)
        for number, record in enumerate(self.records):
            if record.whole in whole:
                message = f"it stands in the test file too ({_line(whole[record.whole].line)})"
                yield Finding(record.line, None, "leaked-test-row", message, error=True)
            elif number in near:
                original, similarity = near[number]
                place = _line(test.records[original].line)
                message = f"it is a near copy of a row of the test file ({place}, similarity {similarity:.2f})"
                yield Finding(record.line, None, "leaked-test-row", message, error=True)
            elif record.prompt in asked:
                message = (
                    f"its prompt stands in the test file too, with another answer ({_line(asked[record.prompt].line)})"
                )
                yield Finding(record.line, None, "leaked-test-prompt", message)

    def _near_test(self, test: Copies) -> dict[int, _Nearest]:
        """By record, the test row that it is nearest to, and how near, where it is a near copy."""
        own, others = self.signatures, test.signatures
        if own is None or others is None:
            return {}
        pairs, similarity = all_similar_pairs(np.concatenate([others, own]), NEAR)
        found: dict[int, _Nearest] = {}
        for (row, number), share in zip(pairs.tolist(), similarity.tolist(), strict=True):
            if row < len(others) <= number and share > found.get(number - len(others), (0, 0.0))[1]:
                found[number - len(others)] = (row, share)
        return found

    def _place(self, number: int) -> str:
        return _line(self.records[number].line)


def _line(line: int | None) -> str:
    return "an earlier one" if line is None else f"line {line}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def _shingles(essence: str) -> Shingles:
    """What a normalised text is compared by. In a short one a changed word takes most runs of 24 bytes with it, so that
    its runs are of a few characters; a long one would have most of those in common with any other of its language."""
    return _grams(essence) if len(essence) <= _SHORT else shingles(essence)


def _grams(text: str) -> Shingles:
    """The hashes of all runs of five characters of a text, sorted, each once. A shorter text is one run."""
    codes = np.frombuffer(text.ljust(_RUN, "\0").encode("utf-32-le"), np.uint32).astype(np.uint64)
    runs = np.zeros(len(codes) - _RUN + 1, np.uint64)
    for place in range(_RUN):
        runs = runs * _FACTOR + codes[place : place + len(runs)]
    runs *= _FACTOR
    return np.unique((runs >> np.uint64(32)).astype(np.uint32))


def _letters(text: str) -> str:
    """The letters and digits of a text: answers that differ in nothing else do not contradict each other."""
    essence = normalise(text)
    return "".join(filter(str.isalnum, essence)) or essence
