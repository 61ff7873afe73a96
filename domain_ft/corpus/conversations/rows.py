"""Conversations as rows of tokens, with a mask of the tokens to train on.

A row is a rendered conversation (some need several rows, see `rendering`). It is tokenised as a whole. A token is
trained on if it contains a character of an answer to train on, unless it is the first of the row. So a token that spans
the end of a prompt and the start of an answer is trained on, and so are all tokens of a character that is split into
several. A row ends after its last trained token, because later tokens have no loss.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from domain_ft.corpus.batches import Indices, PackedBatch
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.rendering import ChatTemplate, Rendered
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.stored_rows import RecordsInMemory, SequenceRows, sequence_records
from domain_ft.corpus.tokens import byte_offsets, plain_backend
from domain_ft.errors import CorpusError, RecordError, SettingsError
from domain_ft.progress import Progress
from domain_ft.randomness import derive
from domain_ft.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


BATCH = 256  # conversations that are rendered and tokenised at a time
SHORTEST = 8  # the smallest max-length that is accepted

# A token: its id, whether it is trained on, and its length in UTF-8 bytes of text (0 for a special token).
TOKEN = np.dtype([("id", "<i4"), ("trained", np.bool_), ("bytes", "<i4")])


@dataclass(frozen=True)
class ConversationBatch(PackedBatch):
    """One micro-batch of conversations. Its documents are conversations.

    Attributes:
        trained: (tokens,) bool, the tokens to train on, never the first of a sequence.
    """

    trained: npt.NDArray[np.bool_]

    def _taken(self, tokens: Indices, sequences: Indices, lengths: Sequence[int]) -> dict[str, Any]:
        # `repeated` makes this batch to measure memory. The first tokens of a conversation may all be prompt, so here
        # all but the first count as trained on: no real micro-batch of this size needs more memory.
        return super()._taken(tokens, sequences, lengths) | {"trained": tokens > 0}


@dataclass(frozen=True)
class Dropped:
    """A conversation without a row.

    Attributes:
        id: of the conversation.
        place: its file and line, for messages.
        reason: why it has no row.
        file, line: of the conversation.
        too_long: whether it has tokens to train on beyond max-length.
    """

    id: str
    place: str
    reason: str
    file: str = ""
    line: int | None = None
    too_long: bool = False

    @property
    def reject(self) -> Reject:
        """The conversation as a line of rejects.jsonl."""
        return Reject(self.file, self.line, None, self.reason)


class ConversationRows(SequenceRows):
    """Rendered conversations as rows of tokens, in memory: nine bytes a token.

    Attributes:
        lengths: (rows,) int32, tokens of each row, with special tokens.
        documents: (rows,) int64, the index of each row's conversation among those that were encoded.
        cut: (rows,) bool, whether the row's conversation has tokens to train on that did not fit.
        trained_lengths: (rows,) int32, tokens to train on in each row.
        dropped: the conversations with no tokens to train on after the cut.
    """

    PER_ROW: ClassVar[tuple[str, ...]] = ("lengths", "documents", "cut", "trained_lengths")

    def __init__(
        self,
        rows: Sequence[npt.NDArray[np.void]],
        documents: npt.NDArray[np.int64],
        cut: npt.NDArray[np.bool_],
        names: Sequence[str],
        dropped: Sequence[Dropped] = (),
    ) -> None:
        """Lay the rows end to end.

        Args:
            rows: the TOKEN records (tokens,) of each row.
            documents, cut, dropped: see the class.
            names: the ids of the conversations, without repetitions.
        """
        tokens = np.concatenate(rows)
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        sequences = sequence_records(lengths, documents)
        super().__init__(RecordsInMemory(tokens), RecordsInMemory(sequences), lengths, documents)
        self.cut, self.dropped, self._names = cut, tuple(dropped), names
        self.trained_lengths = np.add.reduceat(tokens["trained"], sequences["start"], dtype=np.int32)
        self._digest = hashlib.blake2b(json.dumps(names).encode(), digest_size=16)
        for part in (tokens, np.cumsum(lengths, dtype=np.int64), documents, cut):
            self._digest.update(np.ascontiguousarray(part).tobytes())

    @property
    def trained_tokens(self) -> int:
        """The number of tokens to train on in all rows, per epoch."""
        return int(self.trained_lengths.sum(dtype=np.int64))

    @property
    def key(self) -> str:
        """A hash of the content: equal keys mean equal rows in equal order."""
        digest = self._digest.copy()
        digest.update(self._at(np.arange(len(self))).tobytes())
        return digest.hexdigest()

    def document_id(self, document: int) -> str:
        """The id of the conversation with index `document`. Repeated ids get a number: `a`, `a#2`."""
        return self._names[document]

    def tokens_of(self, row: int) -> npt.NDArray[np.void]:
        """(tokens,) the TOKEN records of a row."""
        return self._read([row])[0]

    def take(self, indices: npt.ArrayLike) -> ConversationRows:
        """A view of the rows with these indices, in that order. Indices may repeat."""
        return self._view(indices)

    def select_documents(self, max_tokens: int | None) -> npt.NDArray[np.int64]:
        """The indices of the rows of whole conversations: the first that fit into `max_tokens`, and at least one.

        The order of the conversations depends only on their ids, so the same rows are evaluated before and after
        training.

        Args:
            max_tokens: the budget; None for all rows.
        """
        rows_of: dict[int, list[int]] = {}
        for row, document in enumerate(self.documents.tolist()):
            rows_of.setdefault(document, []).append(row)
        selected: list[int] = []
        used = 0
        for document in sorted(rows_of, key=lambda document: derive(0, "document", self._names[document])):
            used += int(self.lengths[rows_of[document]].sum())
            if max_tokens is not None and used > max_tokens and selected:
                break
            selected += rows_of[document]
        return np.array(selected, dtype=np.int64)

    def pack(self, rows: npt.ArrayLike) -> ConversationBatch:
        """Lay these rows end to end, in that order."""
        tokens, layout = self._read(rows)
        trained = tokens["trained"].copy()
        return ConversationBatch.of(tokens["id"], token_bytes=tokens["bytes"], trained=trained, **layout)


def encode_conversations(
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    *,
    max_length: int,
    rejects: Callable[[Reject], None] | None = None,
    progress: Progress | None = None,
) -> ConversationRows:
    """The rows of conversations.

    Args:
        conversations: each with an answer to train on.
        tokenizer: any fast tokenizer.
        template: made for that tokenizer.
        max_length: maximum tokens of a row, at least `SHORTEST`; the end of a longer row is cut.
        rejects: receives each conversation that the template cannot render, which then has no row. If None, the first
            one raises.
        progress: called with ("tokenising", conversations done, conversations in total).

    Raises:
        SettingsError: `max_length` is too small.
        RecordError: the template cannot render a conversation.
        CorpusError: there are no tokens to train on.
    """
    if max_length < SHORTEST:
        raise SettingsError(f"max-length {max_length} leaves no room for a conversation", fix="256 to 1024 are usual")
    encoder = _Encoder(tokenizer, template, max_length, rejects)
    for start in range(0, len(conversations), BATCH):
        encoder.add(conversations[start : start + BATCH])
        if progress:
            progress("tokenising", min(start + BATCH, len(conversations)), len(conversations))
    return encoder.rows(conversations)


class _Encoder:
    """Builds the rows of `encode_conversations`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: ChatTemplate,
        max_length: int,
        rejects: Callable[[Reject], None] | None,
    ) -> None:
        self.backend = plain_backend(tokenizer)
        self.backend.encode_special_tokens = False  # the template's special tokens are tokens, not text
        self.special = np.array([i for i, token in tokenizer.added_tokens_decoder.items() if token.special])
        self.template, self.max_length, self.rejects = template, max_length, rejects
        self.tokens: list[npt.NDArray[np.void]] = []
        self.documents: list[int] = []
        self.cut: list[bool] = []
        self.dropped: list[Dropped] = []
        self.refused: list[Dropped] = []
        self.done = 0

    def add(self, conversations: Sequence[Conversation]) -> None:
        """Render and tokenise the next conversations."""
        rendered = [self._rendered(conversation) for conversation in conversations]
        texts = [text.text for texts in rendered for text in texts]
        encodings = iter(self.backend.encode_batch(texts, add_special_tokens=False))
        for conversation, parts in zip(conversations, rendered, strict=True):
            rows = [
                self._row(part, encoding)
                for part, encoding in zip(parts, itertools.islice(encodings, len(parts)), strict=True)
            ]
            kept = [row for row, _, _ in rows if len(row)]
            lost = any(cut for _, cut, _ in rows)
            if parts and not kept:
                if lost:
                    begin = min(first for _, cut, first in rows if cut)
                    reason = f"its first answer begins after {begin:,} tokens, and max-length is {self.max_length:,}"
                else:
                    reason = "the tokenizer finds no token in its answers"
                at = (conversation.file, conversation.line)
                reason = f"nothing is left to learn: {reason}"
                self.dropped.append(Dropped(conversation.id, conversation.place, reason, *at, too_long=lost))
            self.tokens += kept
            self.documents += [self.done] * len(kept)
            self.cut += [lost] * len(kept)
            self.done += 1

    def rows(self, conversations: Sequence[Conversation]) -> ConversationRows:
        """The rows of all conversations added so far."""
        if not self.tokens:
            first = next(iter([*self.refused, *self.dropped]), None)
            why = f"; the first: {first.reason}" if first else ""
            too_long = any(one.too_long for one in self.dropped)
            raise CorpusError(
                f"nothing can be learned from {counted(len(conversations), 'conversation')}{why}",
                where=first.place if first else None,
                fix="give a larger --max-length, or shorter prompts"
                if too_long
                else "check the answers of that record, or use a model whose tokenizer and chat template fit them",
            )
        return ConversationRows(
            self.tokens,
            np.array(self.documents, dtype=np.int64),
            np.array(self.cut, dtype=np.bool_),
            _unique(conversation.id for conversation in conversations),
            self.dropped,
        )

    def _rendered(self, conversation: Conversation) -> tuple[Rendered, ...]:
        try:
            return self.template.render(conversation)
        except RecordError as error:
            if self.rejects is None:
                fix = f"{error.fix}; or leave such examples out: --on-bad-record skip"
                raise RecordError(error.reason, where=error.where or conversation.place, fix=fix) from error
            self.rejects(Reject(conversation.file, conversation.line, None, error.reason))
            self.refused.append(Dropped(conversation.id, conversation.place, error.reason))
            return ()

    def _row(self, rendered: Rendered, encoding: Encoding) -> tuple[npt.NDArray[np.void], bool, int]:
        """A row, whether tokens to train on were cut from it, and the index of the first token to train on.

        The row ends with the last token to train on that fits. The index refers to the uncut row; it is -1 if there is
        no such token.
        """
        tokens = np.empty(len(encoding), dtype=TOKEN)
        tokens["id"] = encoding.ids
        ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 1]
        tokens["trained"] = trained_mask(rendered, encoding)
        # Byte tokens of one character share its offsets, and normalisers may reorder characters. So the ends are made
        # non-decreasing, and no length is negative.
        ends = byte_offsets(rendered.text, np.maximum.accumulate(ends))
        tokens["bytes"] = np.where(np.isin(tokens["id"], self.special), 0, np.diff(ends, prepend=0))
        trained = np.flatnonzero(tokens["trained"])
        kept = trained[trained < self.max_length]
        length = int(kept[-1]) + 1 if len(kept) else 0
        return tokens[:length], len(kept) < len(trained), int(trained[0]) if len(trained) else -1


def trained_mask(rendered: Rendered, encoding: Encoding) -> npt.NDArray[np.bool_]:
    """(tokens,) True for the tokens to train on in a rendered conversation."""
    starts, ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    trained = np.zeros(len(starts), dtype=np.bool_)
    for first, last in rendered.spans:
        trained |= (starts < last) & (ends > first)
    trained[:1] = False  # the first token cannot be predicted
    return trained


def _unique(names: Iterable[str]) -> list[str]:
    """The names, with a number after each repeated one."""
    seen: dict[str, None] = {}
    numbers: dict[str, int] = {}  # the next number to try, by name
    for name in names:
        unique = name
        while unique in seen:
            number = numbers.get(name, 2)
            unique, numbers[name] = f"{name}#{number}", number + 1
        seen[unique] = None
    return list(seen)
