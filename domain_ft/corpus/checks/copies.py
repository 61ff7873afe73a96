"""Finds copies and near copies of records, prompts with contradicting answers, and test rows in the training file.

No text is kept. A record is kept as up to four hashes of 16 bytes, a MinHash signature of 512 bytes (see `duplicates`)
and a signature of its prompt of 256 bytes. Near copies with different prompts, such as answers from a template, are
reported, but a cleaned file keeps them.
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

_SHORT = 1_000  # maximum characters of a short text
_RUN = 5  # characters of a run in a short text
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_BEGINNING = 500  # characters of a prompt that are compared
_SKETCH = 64  # permutations of a prompt's signature
_ALIKE = 0.6  # prompts are similar if at least this share of their signatures' values agrees
_LONG_ANSWER = 0.5  # in a near copy, an answer of more than this share of the text counts as reworded

_Nearest = tuple[int, float]
"""The number of a record, and how similar it is."""


@dataclass(frozen=True)
class _Record:
    """Hashes and signatures of a record.

    Attributes:
        line: the line of the record.
        whole: a hash of its text and its answer.
        prompt, answer: hashes of its prompt and of its answer; None if the record has no such part.
        labels: a hash of its labels, in order.
        sketch: a short MinHash signature of the prompt.
        share: the length of the answer divided by the length of the text.
        field: the field of the answer.
        one_answer: whether another answer to the same prompt contradicts this one.
    """

    line: int | None
    whole: bytes
    prompt: bytes | None
    answer: bytes | None
    labels: bytes
    sketch: bytes | None
    share: float
    field: str | None
    one_answer: bool


class Copies:
    """Collects the hashes of a file's records, and then finds copies among them.

    Attributes:
        records: the hashes of each record.
        spare: filled by `findings`: the lines of copies and near copies, except those with another prompt, a
            contradicting answer or other labels.
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
        *,
        one_answer: bool = True,
    ) -> None:
        """Add a record.

        Args:
            line: the line of the record.
            whole: its text.
            prompt, answer: the prompt, and the answer or label.
            field: the field of the answer.
            labels: the labels of an example, or of the entities of a text.
            one_answer: whether another answer to the same prompt contradicts this one.
        """
        normalised = normalise(whole)
        digest = _digest(normalised if answer is None else f"{normalised}\n{_letters(answer)}")
        prompt_digest = None if prompt is None else _digest(normalise(prompt))
        answer_digest = None if answer is None else _digest(_letters(answer))
        sketch = (
            None if prompt is None else self._signer.sign(_grams(normalise(prompt)[:_BEGINNING]))[:_SKETCH].tobytes()
        )
        share = len(answer or "") / max(len(whole), 1)
        labels_digest = _digest("\n".join(labels))
        self.records.append(
            _Record(line, digest, prompt_digest, answer_digest, labels_digest, sketch, share, field, one_answer)
        )
        if len(self.records) <= MOST_COMPARED:
            self._signatures += self._signer.sign(_shingles(normalised)).tobytes()

    def add_item(self, item: Item) -> None:
        """Add a record if it is `comparable` and not blank."""
        whole = item.compared
        if item.comparable and whole.strip():
            prompt, answer = (text and without_surrogates(text) for text in (item.prompt, item.answer))
            labels = tuple(map(without_surrogates, item.labels))
            self.add(
                item.line,
                without_surrogates(whole),
                prompt,
                answer,
                item.answer_field,
                labels,
                one_answer=item.one_answer,
            )

    @property
    def signatures(self) -> Signatures | None:
        """(records, 128) uint32 MinHash signatures; None if there are more than MOST_COMPARED records."""
        if len(self.records) > MOST_COMPARED:
            return None
        return np.frombuffer(self._signatures, np.uint32).reshape(-1, PERMUTATIONS)

    def findings(self) -> Iterator[Finding]:
        """Records that repeat or nearly repeat an earlier record, or have its prompt but another answer."""
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
            if record.prompt is None or not record.one_answer:
                continue
            earlier = self.records[answers.setdefault(record.prompt, number)]
            reworded = number in copies and record.share > _LONG_ANSWER
            if earlier.answer != record.answer and not reworded:
                contradicting.add(number)
                message = f"it has the same prompt as {self._place(answers[record.prompt])}, but another answer"
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
                yield Finding(record.line, record.field, "near-duplicate", f"{nearly}, but has another prompt")

    def _near(self, numbers: npt.NDArray[np.int64]) -> tuple[dict[int, _Nearest], dict[int, _Nearest]]:
        """The near copies among the records `numbers`: those with similar prompts, and those with different prompts.

        Each maps the number of a record to the most similar earlier record and the similarity.
        """
        signatures = self.signatures
        if signatures is None or len(numbers) < 2:
            return {}, {}
        pairs, similarity = all_similar_pairs(signatures[numbers], NEAR)
        same_prompt = np.array([self._have_similar_prompts(*numbers[pair].tolist()) for pair in pairs], dtype=bool)
        result: list[dict[int, _Nearest]] = []
        for chosen in (same_prompt, ~same_prompt):
            copies = near_copies(len(numbers), pairs[chosen])
            nearest: dict[int, _Nearest] = {}
            for (one, other), share in zip(numbers[pairs[chosen]].tolist(), similarity[chosen].tolist(), strict=True):
                if share > nearest.get(other, (0, 0.0))[1]:
                    nearest[other] = (one, share)
            result.append({number: nearest[number] for number in numbers[copies].tolist()})
        return result[0], result[1]

    def _have_similar_prompts(self, one: int, other: int) -> bool:
        """Whether the prompts of two records are similar, or at least one record has no prompt."""
        first, second = self.records[one].sketch, self.records[other].sketch
        if first is None or second is None:
            return True
        same = np.frombuffer(first, np.uint32) == np.frombuffer(second, np.uint32)
        return bool(same.mean() >= _ALIKE)

    def leaks(self, test: Copies) -> Iterator[Finding]:
        """Records that are in the test file, as copies or near copies, and records whose prompt is in it."""
        whole = {record.whole: record for record in reversed(test.records)}
        prompts = {record.prompt: record for record in reversed(test.records) if record.prompt is not None}
        near = self._near_test(test)
        for number, record in enumerate(self.records):
            if record.whole in whole:
                message = f"it is also in the test file ({_line(whole[record.whole].line)})"
                yield Finding(record.line, None, "leaked-test-row", message, error=True)
            elif number in near:
                original, similarity = near[number]
                place = _line(test.records[original].line)
                message = f"it is a near copy of a row of the test file ({place}, similarity {similarity:.2f})"
                yield Finding(record.line, None, "leaked-test-row", message, error=True)
            elif record.prompt in prompts:
                place = _line(prompts[record.prompt].line)
                message = f"its prompt is also in the test file, with another answer ({place})"
                yield Finding(record.line, None, "leaked-test-prompt", message)

    def _near_test(self, test: Copies) -> dict[int, _Nearest]:
        """For each record that is a near copy of a test row, the most similar test row and the similarity."""
        own, others = self.signatures, test.signatures
        if own is None or others is None:
            return {}
        pairs, similarity = all_similar_pairs(np.concatenate([others, own]), NEAR)
        nearest: dict[int, _Nearest] = {}
        for (row, number), share in zip(pairs.tolist(), similarity.tolist(), strict=True):
            if row < len(others) <= number and share > nearest.get(number - len(others), (0, 0.0))[1]:
                nearest[number - len(others)] = (row, share)
        return nearest

    def _place(self, number: int) -> str:
        return _line(self.records[number].line)


def _line(line: int | None) -> str:
    return "an earlier one" if line is None else f"line {line}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def _shingles(normalised: str) -> Shingles:
    """The shingles of a normalised text.

    In a short text, they are runs of five characters, because one changed word affects most runs of 24 bytes. In a long
    text, they are runs of 24 bytes, because long texts in the same language share most short runs.
    """
    return _grams(normalised) if len(normalised) <= _SHORT else shingles(normalised)


def _grams(text: str) -> Shingles:
    """The distinct hashes of all runs of five characters, sorted. A shorter text is one run."""
    codes = np.frombuffer(text.ljust(_RUN, "\0").encode("utf-32-le"), np.uint32).astype(np.uint64)
    runs = np.zeros(len(codes) - _RUN + 1, np.uint64)
    for place in range(_RUN):
        runs = runs * _FACTOR + codes[place : place + len(runs)]
    runs *= _FACTOR
    return np.unique((runs >> np.uint64(32)).astype(np.uint32))


def _letters(text: str) -> str:
    """The letters and digits of a text, by which answers are compared; the normalised text if it has none."""
    normalised = normalise(text)
    return "".join(filter(str.isalnum, normalised)) or normalised
