"""Text to rows of tokens, once: tokenised in batches, cut into pieces, kept as memory-mapped Arrow files.

It stands between the splits of a corpus and the passes of the loop. What it keeps of a token is its id, whether a word
begins with it, and how many bytes of text it stands for: enough for whole-word masks and for bits per byte.

Pieces. A document is cut at `max_length` tokens, special tokens included. Its pieces are full, but for the last; a tail
that would be shorter than a quarter of a piece (two words are nothing to learn from) shares evenly with the piece
before it. Equal full pieces are kept on purpose: attention runs fastest over pieces of one length.

Special tokens. See `SpecialTokens`. Text that happens to spell a special token, such as `[MASK]`, is encoded as plain
text, so that no document can forge one.

Memory. Documents pass through in batches of a million characters, long ones in sections that are cut after a line or a
word, and the columns are written as they come. So memory stays flat, and a document of any length raises no warning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.documents import Document
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.randomness import derive
from domain_ft.storage import cache_folder, new_folder, write_json

Progress = Callable[[str, int, int | None], None]

VERSION = 1  # of what the files hold: raise it whenever the same text would give other rows

BATCH_CHARACTERS = 1_000_000  # tokenised at once
SECTION_CHARACTERS = 100_000  # longer documents are tokenised in sections, in parallel
SHORTEST_TAIL = 0.25  # of a full piece
DOCUMENT_SHARE = 1 / 32  # of an evaluation's budget: the most that one document may take

CONTINUES, BEGINS, SPECIAL = 0, 1, 2  # what a token is: the rest of a word, the first of one, a special token


class TextDocuments(Protocol):
    """What is tokenised: one split of a prepared corpus."""

    @property
    def key(self) -> str:
        """A name for the split's content: equal keys, equal documents."""

    def __len__(self) -> int: ...

    def documents(self) -> Iterator[Document]:
        """The documents, in an order that stays."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that are laid around the pieces of a document.

    A tokenizer with a mask token is an encoder's: each piece stands between the tokens that the tokenizer's own
    post-processor adds, `[CLS] … [SEP]` or `<s> … </s>`.

    Any other is a decoder's. Each piece, and not only the first, opens with the token that opens a document: so every
    token of the text has something to be predicted from, and the bytes of a document are all accounted for, however it
    is cut. The last piece ends with the token that ends a document. Which tokens these are: what the post-processor
    adds; else `<|endoftext|>` where the vocabulary has it (GPT-2, GPT-NeoX, SmolLM and Qwen separate documents with it,
    and the chat-tuned ones use their bos and eos for turns, which raw text must not imitate); else bos (or eos where
    there is no bos) to open and eos to end.

    Attributes:
        start: ids before each piece.
        end: ids after each piece, or after the last piece of a document only.
        end_every_piece: which of the two.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    end_every_piece: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
        """The policy for `tokenizer`."""
        start, end = _post_processed(tokenizer)
        if tokenizer.mask_token_id is not None:
            start = start or _known(tokenizer.cls_token_id, tokenizer.bos_token_id)
            end = end or _known(tokenizer.sep_token_id, tokenizer.eos_token_id)
            return cls(start, end, end_every_piece=True)
        separator = next(
            (i for i, token in tokenizer.added_tokens_decoder.items() if str(token) == "<|endoftext|>"), None
        )
        start = start or _known(separator, tokenizer.bos_token_id, tokenizer.eos_token_id)
        end = end or _known(separator, tokenizer.eos_token_id)
        return cls(start, end, end_every_piece=False)

    def __len__(self) -> int:
        return len(self.start) + len(self.end)


class TokenRows:
    """The pieces of a split, as rows of tokens in memory-mapped files: opening costs nothing, whatever the size.

    Attributes:
        key: names the content (the text, the tokenizer, the length): equal keys, equal rows.
        max_length: tokens of the longest piece that was allowed, special tokens included.
        special: the special tokens around the pieces.
        lengths: (pieces,) int32, tokens of each piece, special tokens included.
        documents: (pieces,) int64, the index in its split of the document that a piece is cut from; never falls.
        pieces: (pieces,) int32, which piece of its document each is, counted from 0.
        bytes: (pieces,) int64, UTF-8 bytes of text that each piece stands for.
        tokens: of all pieces together, special tokens included.
        document_count: documents of the split.
        documents_without_tokens: how many of them gave no token at all, so that they have no piece.
    """

    def __init__(self, folder: Path) -> None:
        """Open what `tokenize` has written."""
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.key: str = facts["key"]
        self.max_length: int = facts["max_length"]
        self.special = SpecialTokens(
            tuple(facts["special"]["start"]), tuple(facts["special"]["end"]), facts["special"]["end_every_piece"]
        )
        self.tokens: int = facts["tokens"]
        self.document_count: int = facts["documents"]
        self.documents_without_tokens: int = facts["documents_without_tokens"]
        pieces = _read_columns(folder / "pieces.arrow")
        self._starts = pieces["start"]
        self.lengths, self.documents, self.pieces = pieces["length"], pieces["document"], pieces["piece"]
        self.bytes = pieces["bytes"]
        tokens = _read_columns(folder / "tokens.arrow")
        self._ids, self._kinds, self._token_bytes = tokens["id"], tokens["kind"], tokens["bytes"]
        documents = pa.ipc.open_file(pa.memory_map(str(folder / "documents.arrow"))).read_all()
        self._document_ids, self._document_order = documents["id"], documents["order"]

    def __len__(self) -> int:
        return len(self.lengths)

    def document_id(self, document: int) -> str:
        """The id of the document with index `document`, as `documents` gives it."""
        return str(self._document_ids[int(document)].as_py())

    def pack(self, rows: npt.ArrayLike) -> PackedBatch:
        """Lay the pieces `rows` (pieces,) end to end, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        cu_seqlens = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        within = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
        where = within + np.repeat(self._starts[rows], lengths)
        kinds = self._kinds[where]
        words = np.cumsum(kinds == BEGINS, dtype=np.int32) - 1
        words[kinds == SPECIAL] = -1
        return PackedBatch(
            input_ids=self._ids[where].astype(np.int64),
            position_ids=within.astype(np.int64),
            cu_seqlens=cu_seqlens,
            rows=rows,
            documents=self.documents[rows],
            pieces=self.pieces[rows],
            word_ids=words,
            token_bytes=self._token_bytes[where],
        )

    def select_documents(self, max_tokens: int | None) -> npt.NDArray[np.int64]:
        """The rows of as many documents as `max_tokens` allows, in an order that depends on their ids alone.

        So an evaluation reads the same documents before and after training, and on every machine. A document gives all
        its pieces, unless it alone would take more than 1/32 of the budget: then as many as that allows, evenly spaced
        through it, so that one book does not stand for a field. There is always one document, whatever the budget.

        Args:
            max_tokens: the budget, special tokens included; None for all.

        Returns:
            (selected,) row indices: documents in their hashed order, the pieces of each in the order of its text.
        """
        present, first, counts = np.unique(self.documents, return_index=True, return_counts=True)
        order = np.argsort(self._document_order.to_numpy()[present], kind="stable")
        allowed = np.inf if max_tokens is None else max_tokens
        selected: list[npt.NDArray[np.int64]] = []
        used = 0
        for place in order:
            rows = _spread(
                np.arange(first[place], first[place] + counts[place]), self.lengths, allowed * DOCUMENT_SHARE
            )
            used += int(self.lengths[rows].sum())
            if used > allowed and selected:
                break
            selected.append(rows)
        return np.concatenate(selected)


def tokenize(
    split: TextDocuments,
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> TokenRows:
    """The rows of `split` under `tokenizer`: from the cache where they are there, else made and cached.

    Args:
        split: documents with a key that names their content.
        tokenizer: any fast tokenizer; it is copied, and neither its truncation nor its padding matters.
        max_length: tokens of a piece at most, special tokens included.
        progress: called with ("tokenising", documents done, documents in all).

    Raises:
        SettingsError: where `max_length` leaves no room for text.
        CorpusError: where the split has no token.
    """
    special = SpecialTokens.of(tokenizer)
    if max_length <= len(special):
        raise SettingsError(
            f"max-length {max_length} leaves no room for text: {len(special)} tokens of each piece are special tokens",
            fix=f"give at least {len(special) + 1}; 128 to 512 are usual",
        )
    backend = _plain_backend(tokenizer)
    key = _key(split, backend, special, max_length)
    folder = cache_folder("tokens") / key
    if not folder.is_dir():
        with new_folder(folder) as unfinished:
            _write(unfinished, key, split, backend, special, max_length, progress)
    return TokenRows(folder)


# ---------------------------------------------------------------------------------------------- tokens of a document


@dataclass(frozen=True)
class _Tokens:
    """Tokens without special ones: of a section, of a document, or of several documents end to end.

    Attributes:
        ids: (tokens,) int64.
        begins: (tokens,) bool, whether a word begins with the token.
        bytes: (tokens,) int64, bytes of text from the end of the token before to the end of this one.
    """

    ids: npt.NDArray[np.int64]
    begins: npt.NDArray[np.bool_]
    bytes: npt.NDArray[np.int64]

    @classmethod
    def of_section(cls, text: str, encoding: Encoding) -> _Tokens:
        """What the tokenizer made of `text`. The last token is given the bytes after it, so that none is left over."""
        count = len(encoding)
        ends = np.fromiter((end for _, end in encoding.offsets), dtype=np.int64, count=count)
        # The tokens of one character split in bytes share its offsets, and normalisers may reorder: an end never falls.
        # So the first of such tokens has all the bytes of the character.
        ends = np.maximum.accumulate(ends)
        ends[-1:] = len(text)
        words = np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int64)
        begins = np.ones(count, dtype=bool)
        begins[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
        return cls(np.array(encoding.ids, dtype=np.int64), begins, np.diff(_byte_offsets(text, ends), prepend=0))

    @classmethod
    def joined(cls, parts: Sequence[_Tokens]) -> _Tokens:
        """`parts` end to end."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(cls)))

    def __len__(self) -> int:
        return len(self.ids)


def _byte_offsets(text: str, characters: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Offsets in characters of `text`, as offsets in the bytes of its UTF-8."""
    if text.isascii():
        return characters
    encoded = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    first_bytes = np.flatnonzero((encoded & 0xC0) != 0x80)
    return np.append(first_bytes, len(encoded))[characters]


def _sections(text: str) -> Iterator[str]:
    """`text` in sections that are short enough to tokenise at once, cut after a line, else a word, else anywhere.

    A space goes with the word after it, as byte-level tokenizers have it.
    """
    start = 0
    while len(text) - start > SECTION_CHARACTERS:
        limit = start + SECTION_CHARACTERS
        cut = (text.rfind("\n", start, limit) + 1) or max(text.rfind(" ", start + 1, limit), 0) or limit
        yield text[start:cut]
        start = cut
    yield text[start:]


@dataclass(frozen=True)
class _Section:
    """A section of a document on its way to the tokenizer; `last` of its document or not."""

    document: int
    id: str
    text: str
    last: bool


def _section_batches(split: TextDocuments) -> Iterator[list[_Section]]:
    """All sections of all documents, in batches of about `BATCH_CHARACTERS`."""
    batch: list[_Section] = []
    characters = 0
    for index, document in enumerate(split.documents()):
        sections = list(_sections(document.text))
        for place, text in enumerate(sections):
            batch.append(_Section(index, document.id, text, last=place == len(sections) - 1))
            characters += len(text)
            if characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _tokenized(split: TextDocuments, backend: Tokenizer) -> Iterator[tuple[list[int], list[str], list[_Tokens]]]:
    """Whole documents in batches: their indices, ids and tokens. Documents without a token are among them."""
    pending: list[_Tokens] = []
    size = 0  # of the document so far, in bytes
    for batch in _section_batches(split):
        indices, ids, documents = [], [], []
        encodings = backend.encode_batch([section.text for section in batch], add_special_tokens=False)
        for section, encoding in zip(batch, encodings, strict=True):
            pending.append(_Tokens.of_section(section.text, encoding))
            size += len(section.text.encode("utf-8"))
            if section.last:
                document = _Tokens.joined(pending)
                document.bytes[-1:] += size - document.bytes.sum()  # of sections that gave no token
                indices.append(section.document)
                ids.append(section.id)
                documents.append(document)
                pending, size = [], 0
        yield indices, ids, documents


# ------------------------------------------------------------------------------------------------- cutting in pieces


def _cut(counts: npt.NDArray[np.int64], capacity: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut documents of `counts` (documents,) tokens into pieces of at most `capacity`.

    Returns:
        sizes: (pieces,) tokens of each piece. All of a document's are `capacity` but the last, or the last two.
        numbers: (documents,) pieces of each document; none of an empty one.
    """
    numbers = -(-counts // capacity)
    last = np.cumsum(numbers)[numbers > 0] - 1
    sizes = np.full(numbers.sum(), capacity, dtype=np.int64)
    tails = (counts - (numbers - 1) * capacity)[numbers > 0]
    sizes[last] = tails
    short = (tails < capacity * SHORTEST_TAIL) & (numbers[numbers > 0] > 1)
    rest = tails[short] + capacity
    sizes[last[short] - 1] = rest - rest // 2
    sizes[last[short]] = rest // 2
    return sizes, numbers


def _pieces(
    indices: npt.NDArray[np.int64], documents: Sequence[_Tokens], special: SpecialTokens, max_length: int
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Documents as rows of tokens: the columns of the tokens, and the columns of the pieces (starts from 0)."""
    sizes, numbers = _cut(
        np.array([len(document) for document in documents], dtype=np.int64), max_length - len(special)
    )
    text = _Tokens.joined(documents)
    first = np.cumsum(numbers) - numbers
    piece = np.arange(len(sizes)) - np.repeat(first, numbers)
    has_end = np.full(len(sizes), special.end_every_piece) | (piece == np.repeat(numbers - 1, numbers))
    lengths = len(special.start) + sizes + len(special.end) * has_end
    starts = np.cumsum(lengths) - lengths
    text_starts = np.cumsum(sizes) - sizes

    place = np.arange(len(text)) + np.repeat(starts + len(special.start) - text_starts, sizes)
    total = int(lengths.sum())
    ids, kinds, counts = np.zeros(total, np.int64), np.full(total, SPECIAL, np.uint8), np.zeros(total, np.int64)
    ids[place], kinds[place], counts[place] = text.ids, np.where(text.begins, BEGINS, CONTINUES), text.bytes
    kinds[starts + len(special.start)] = BEGINS  # the rest of a word that was cut counts as a word of its own
    for offset, token in enumerate(special.start):
        ids[starts + offset] = token
    for offset, token in enumerate(special.end):
        ids[(starts + lengths)[has_end] - len(special.end) + offset] = token
    return (
        {"id": ids, "kind": kinds, "bytes": counts},
        {
            "start": starts,
            "length": lengths,
            "document": np.repeat(indices, numbers),
            "piece": piece,
            "bytes": np.add.reduceat(counts, starts) if total else counts,
        },
    )


# --------------------------------------------------------------------------------------------------------- the files


class _ColumnFile:
    """Columns of numbers of one length, written as they come and joined into one Arrow record batch at the end.

    One record batch makes each column a single array in the mapped file, so that a gather over it is one numpy
    operation. An Arrow record batch must be written whole; hence the raw files in between, until the `with` block ends.
    """

    def __init__(self, path: Path, types: Mapping[str, npt.DTypeLike]) -> None:
        self.path = path
        self.types = {name: np.dtype(kind) for name, kind in types.items()}
        self.rows = 0
        self._parts = {name: path.with_suffix(f".{name}") for name in types}
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> _ColumnFile:
        self._files = {name: part.open("wb") for name, part in self._parts.items()}
        return self

    def append(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        """Add rows; each column is brought to its type."""
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(columns[name], dtype=self.types[name]).data)
        self.rows += len(columns[name])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for file in self._files.values():
            file.close()
        if error is None:
            self._join()

    def _join(self) -> None:
        """Write the Arrow file and remove the raw ones."""
        arrays = [pa.array(np.memmap(self._parts[name], self.types[name], mode="r")) for name in self.types]
        batch = pa.record_batch(arrays, names=list(self.types))
        with pa.ipc.new_file(str(self.path), batch.schema) as writer:
            writer.write_batch(batch)
        for part in self._parts.values():
            part.unlink()


def _read_columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The columns of a file of `_ColumnFile`, as read-only arrays over the mapped file."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return {name: batch.column(name).to_numpy(zero_copy_only=True) for name in batch.schema.names}


def _write(
    folder: Path,
    key: str,
    split: TextDocuments,
    backend: Tokenizer,
    special: SpecialTokens,
    max_length: int,
    progress: Progress | None,
) -> None:
    """Tokenise `split` into `folder`: tokens.arrow, pieces.arrow, documents.arrow, facts.json."""
    id_type = np.uint16 if backend.get_vocab_size() <= 1 << 16 else np.uint32
    token_types = {"id": id_type, "kind": np.uint8, "bytes": np.int32}
    piece_types = {"start": np.int64, "length": np.int32, "document": np.int64, "piece": np.int32, "bytes": np.int64}
    schema = pa.schema([("id", pa.large_string()), ("order", pa.int64())])
    count = without = 0
    with (
        _ColumnFile(folder / "tokens.arrow", token_types) as tokens,
        _ColumnFile(folder / "pieces.arrow", piece_types) as pieces,
        pa.ipc.new_file(str(folder / "documents.arrow"), schema) as documents,
    ):
        for indices, ids, texts in _tokenized(split, backend):
            if not indices:  # a batch within one long document
                continue
            token_columns, piece_columns = _pieces(np.array(indices, dtype=np.int64), texts, special, max_length)
            pieces.append(piece_columns | {"start": piece_columns["start"] + tokens.rows})
            tokens.append(token_columns)
            orders = [derive(0, "document", name) for name in ids]
            documents.write_batch(pa.record_batch([ids, orders], schema=schema))
            count += len(indices)
            without += sum(len(text) == 0 for text in texts)
            if progress:
                progress("tokenising", count, len(split))
        if tokens.rows == 0:
            raise CorpusError(
                f"the tokenizer found no token in any of the {count} documents",
                fix="check that the corpus has text, in a language that the model's tokenizer knows",
            )
    facts = {
        "key": key,
        "max_length": max_length,
        "special": dataclasses.asdict(special),
        "tokens": tokens.rows,
        "documents": count,
        "documents_without_tokens": without,
    }
    write_json(folder / "facts.json", facts)


def _key(split: TextDocuments, backend: Tokenizer, special: SpecialTokens, max_length: int) -> str:
    """A name for the rows: what they are made of, and how."""
    made_of = [VERSION, split.key, backend.to_str(), dataclasses.astuple(special), max_length]
    return hashlib.blake2b(json.dumps(made_of).encode(), digest_size=16).hexdigest()


# ----------------------------------------------------------------------------------------------------- the tokenizer


def _plain_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the fast tokenizer that neither truncates nor pads, and reads special tokens in the text as text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _post_processed(tokenizer: PreTrainedTokenizerFast) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer's post-processor lays before and after a text."""
    backend = _plain_backend(tokenizer)
    for probe in ("a", "。", *sorted(backend.get_vocab())):
        encoding = backend.encode(probe, add_special_tokens=True)
        text = [place for place, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
        if text:
            return tuple(encoding.ids[: text[0]]), tuple(encoding.ids[text[-1] + 1 :])
    return (), ()


def _known(*ids: int | None) -> tuple[int, ...]:
    """The first of `ids` that the tokenizer has, or none."""
    return next(((token,) for token in ids if token is not None), ())


def _spread(rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32], allowed: float) -> npt.NDArray[np.int64]:
    """`rows` of one document, or as many of them as `allowed` tokens hold, evenly spaced; one at least."""
    total = int(lengths[rows].sum())
    if total <= allowed:
        return rows
    wanted = max(1, int(len(rows) * allowed / total))
    return rows[(np.arange(wanted) * 2 + 1) * len(rows) // (wanted * 2)]
