"""Preferences as rows of tokens. A row has two sequences, each a prompt with an answer.

- A pair: the prompt with the better answer, and the prompt with the worse one.
- A rated answer: the prompt with its answer, and the prompt with another example's answer, from which KTO estimates how
  far the model is from the reference. The other example is the next one by a hash of the ids. So it does not depend on
  the seed, and its log-probability under the reference can be kept.

Sequences are tokenised as for `instruct`, and cut at the end: the prompt of a pair is the same in both sequences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import ConversationBatch, ConversationRows, Dropped, encode_conversations
from domain_ft.corpus.preferences.examples import Example, RatedExample
from domain_ft.corpus.readers.base import Reject
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress
from domain_ft.randomness import derive
from domain_ft.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class PreferenceRows:
    """Preferences as rows of two sequences, in memory.

    Attributes:
        lengths: (rows,) int32, tokens of both sequences of each row.
        documents: (rows,) int64, the index of each row's example among those that were encoded.
        answer_lengths: (rows, 2) int32, tokens of the answers.
        cut: (rows,) bool, whether the end of an answer did not fit.
        desirable: (rows,) bool for rated answers; None for pairs.
        dropped: the examples without a row, because an answer does not fit.
    """

    def __init__(
        self,
        store: ConversationRows,
        documents: npt.NDArray[np.int64],
        names: Sequence[str],
        desirable: npt.NDArray[np.bool_] | None,
        dropped: Sequence[Dropped],
    ) -> None:
        """Rows of a store that has the two sequences of each row one after the other.

        Args:
            names: (rows,) the ids of the rows' examples.
        """
        self._store, self._names = store, names
        self.lengths = store.lengths.reshape(-1, 2).sum(axis=1, dtype=np.int32)
        self.answer_lengths = store.trained_lengths.reshape(-1, 2)
        self.documents, self.desirable, self.dropped = documents, desirable, tuple(dropped)
        own = store.cut.reshape(-1, 2)
        self.cut = own.any(axis=1) if desirable is None else own[:, 0]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all rows together."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def key(self) -> str:
        """A hash of the content: equal keys mean equal rows in equal order."""
        digest = hashlib.blake2b(self._store.key.encode(), digest_size=16)
        digest.update(b"pairs" if self.desirable is None else self.desirable.tobytes())
        return digest.hexdigest()

    def row_id(self, row: int) -> str:
        """The id of the row's example."""
        return self._names[row]

    def select(self, max_tokens: int) -> npt.NDArray[np.int64]:
        """The rows that fit into `max_tokens`, and at least one, in an order that depends only on their ids."""
        order = sorted(range(len(self)), key=lambda row: derive(0, "document", self._names[row]))
        fitting = int(np.searchsorted(np.cumsum(self.lengths[order], dtype=np.int64), max_tokens, side="right"))
        return np.sort(np.array(order[: max(1, fitting)], dtype=np.int64))

    def pack(self, rows: npt.ArrayLike) -> ConversationBatch:
        """Lay the sequences of these rows end to end.

        Pairs: the better and the worse answer of the first row, then those of the second, and so on. Rated answers:
        all answers, then all mismatched answers.
        """
        rows = np.asarray(rows, dtype=np.int64)
        places = np.stack([2 * rows, 2 * rows + 1], axis=1)  # (rows, 2)
        ordered = places.reshape(-1) if self.desirable is None else places.T.reshape(-1)
        batch = self._store.pack(ordered)
        return replace(batch, rows=batch.rows // 2, documents=self.documents[batch.rows // 2])


def encode_preferences(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    *,
    max_length: int,
    rejects: Callable[[Reject], None] | None = None,
    progress: Progress | None = None,
) -> PreferenceRows:
    """The rows of preferences, all pairs or all rated.

    Args:
        examples: at least one.
        tokenizer: any fast tokenizer.
        template: made for that tokenizer.
        max_length: maximum tokens of a sequence; the end of a longer one is cut.
        rejects: receives each example that the template cannot render. If None, the first one raises.
        progress: see `encode_conversations`.

    Raises:
        RecordError: the template cannot render an example.
        CorpusError: no example has all of its answers within `max_length`.
    """
    each = len(examples[0].answers)
    sequences = [as_conversation(example, answer) for example in examples for answer in example.answers]
    refused: dict[tuple[str, int | None], Reject] = {}

    def refuse(reject: Reject) -> None:
        refused.setdefault((reject.file, reject.line), reject)

    rows = encode_conversations(
        sequences, tokenizer, template, max_length=max_length, rejects=refuse if rejects else None, progress=progress
    )
    for reject in refused.values():
        assert rejects is not None
        rejects(reject)
    row_of = dict(zip(rows.documents.tolist(), range(len(rows)), strict=True))
    places = [[row_of.get(each * number + answer) for answer in range(each)] for number in range(len(examples))]
    kept = np.array([number for number, found in enumerate(places) if None not in found], dtype=np.int64)
    dropped = {(one.file, one.line): one for one in rows.dropped}
    if not len(kept):
        first = next(iter(dropped.values()), None)
        raise CorpusError(
            f"nothing can be learned from {counted(len(examples), 'example')}: none has all its answers within "
            f"--max-length {max_length}" + (f"; the first: {first.reason}" if first else ""),
            where=first.place if first else None,
            fix="give a larger --max-length, or shorter prompts",
        )
    tokens = [rows.tokens_of(row) for number in kept for row in places[number] if row is not None]
    cut = [bool(rows.cut[row]) for number in kept for row in places[number] if row is not None]
    names = [examples[number].id for number in kept]
    if each == 1:
        tokens, cut = _with_mismatched(tokens, cut, names, max_length)
    store = ConversationRows(tokens, np.repeat(kept, 2), np.array(cut), _sequence_names(len(examples)))
    return PreferenceRows(store, kept, names, _desirable(examples, kept), list(dropped.values()))


def as_conversation(example: Example, answer: tuple[Turn, ...]) -> Conversation:
    """The prompt with one answer, of which only the answer is trained on."""
    prompt = tuple(replace(turn, trained=False) for turn in example.prompt)
    learned = tuple(replace(turn, trained=turn.role == "assistant") for turn in answer)
    return replace(example.source, turns=(*prompt, *learned))


def _with_mismatched(
    tokens: Sequence[npt.NDArray[np.void]], cut: Sequence[bool], names: Sequence[str], max_length: int
) -> tuple[list[npt.NDArray[np.void]], list[bool]]:
    """After each sequence, the same prompt with the answer of the next example by a hash of the ids."""
    order = sorted(range(len(tokens)), key=lambda place: derive(0, "mismatched", names[place]))
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    begins = [int(one["trained"].argmax()) for one in tokens]
    found, cuts = [], []
    for place, one in enumerate(tokens):
        other = following[place]
        mismatched = np.concatenate([one[: begins[place]], tokens[other][begins[other] :]])
        found += [one, mismatched[:max_length]]
        cuts += [cut[place], len(mismatched) > max_length]
    return found, cuts


def _desirable(examples: Sequence[Example], kept: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
    chosen: list[Any] = [examples[number] for number in kept]
    if not isinstance(chosen[0], RatedExample):
        return None
    return np.array([example.desirable for example in chosen], dtype=np.bool_)


def _sequence_names(examples: int) -> list[str]:
    return [str(number) for number in range(examples)]
