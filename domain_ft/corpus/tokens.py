"""A split of a corpus as rows of tokens: tokenised once, cut into sequences, and cached in files.

Each token is stored with its id, its kind (first of a word, inside a word, or special) and the number of bytes of text
that it covers. Whole-word masks and bits per byte need no more.

Sequences. A document is cut into sequences of at most `max_length` tokens, special tokens included. All but the last
one or two are equally long, because attention is fastest on sequences of one length. A last sequence that would be less
than a quarter full is too short to learn from: its tokens and those of the sequence before it are divided evenly
between the two.

Special tokens. See `SpecialTokens`. Text that spells a special token, such as `[MASK]`, is encoded as plain text, so
that special tokens never come from a document.

Scale. All cores tokenise batches of about a million characters; long documents are tokenised in sections, which end
after a line or before a space if possible. The results are appended to files. A stopped run resumes from these files,
and sequences are read from them one by one, so that memory does not grow with the corpus.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import operator
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.documents import Document
from domain_ft.corpus.growing import GrowingFiles, unfinished_folder
from domain_ft.corpus.stored_rows import RecordFile, SequenceRows, cached_rows
from domain_ft.corpus.workers import in_order
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.progress import Progress
from domain_ft.randomness import derive
from domain_ft.storage import write_json

if TYPE_CHECKING:  # workers do not need this slow import
    from transformers import PreTrainedTokenizerFast

Records = npt.NDArray[np.void]

VERSION = 4  # of the files: increase it whenever the same text would give other rows or files

COMMIT_BATCHES = 64  # batches between commits, which survive a power cut or a kill
BATCH_CHARACTERS = 1_000_000  # tokenised at once
SECTION_CHARACTERS = 100_000  # longer documents are tokenised in sections, in parallel
SHORTEST_TAIL = 0.25  # of a full sequence: a shorter last sequence is evened out with the one before it
DOCUMENT_SHARE = 1 / 32  # the largest share of an evaluation's tokens for one document
_SCANNED = 1 << 16  # records of documents or tokens read at a time
_COUNTED_PARTS = 64  # the most parts, of `_SCANNED` tokens each, in which `count_token` counts

CONTINUES, BEGINS, SPECIAL = 0, 1, 2  # kinds of tokens: inside a word, first of a word, special

# The records of the files. `bytes` is the size of the text from the end of the previous token to the end of this one.
TOKEN = [("id", "<u4"), ("kind", "u1"), ("bytes", "<i4")]
SHORT_TOKEN = [("id", "<u2"), *TOKEN[1:]]  # for a vocabulary of up to 65,536
SEQUENCE = [("start", "<i8"), ("document", "<i8"), ("bytes", "<i8"), ("number", "<i4")]
# A document: a hash that gives the order of evaluation, and where its sequences and its id in names.txt end.
DOCUMENT = [("order", "<i8"), ("sequence_end", "<i8"), ("name_end", "<i8")]


class TextDocuments(Protocol):
    """The input, such as a split of a prepared corpus."""

    @property
    def key(self) -> str:
        """A hash of the content: equal keys mean equal documents."""

    def __len__(self) -> int: ...

    def documents(self) -> Iterator[Document]:
        """The documents, in a fixed order."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens around the sequences of a document.

    A tokenizer with a mask token belongs to an encoder. Each sequence gets the tokens of the tokenizer's
    post-processor, such as `[CLS] … [SEP]` or `<s> … </s>`. If it adds none at the start, CLS (or BOS) is added there;
    if it adds none at the end, SEP (or EOS).

    Any other tokenizer belongs to a decoder. Every sequence, not only the first, begins with the start token. So every
    token of the text is predicted, and all bytes of a document are scored, however it is cut. Only the last sequence
    ends with the end token. The start and the end token are the first that exist in this list:

    - the tokens of the post-processor;
    - `<|endoftext|>`: GPT-2, GPT-NeoX, SmolLM and Qwen separate documents with it, and their chat models use BOS and
      EOS for turns, which raw text must not imitate;
    - at the start BOS, or EOS if there is no BOS; at the end EOS.

    Attributes:
        start: ids before each sequence.
        end: ids after each sequence, or only after the last sequence of a document.
        end_every_sequence: whether `end` follows each sequence.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    end_every_sequence: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
        """The special tokens of `tokenizer`."""
        start, end = _post_processed(tokenizer)
        if tokenizer.mask_token_id is not None:
            start = start or _known(tokenizer.cls_token_id, tokenizer.bos_token_id)
            end = end or _known(tokenizer.sep_token_id, tokenizer.eos_token_id)
            return cls(start, end, end_every_sequence=True)
        separator = next(
            (i for i, token in tokenizer.added_tokens_decoder.items() if str(token) == "<|endoftext|>"), None
        )
        start = start or _known(separator, tokenizer.bos_token_id, tokenizer.eos_token_id)
        end = end or _known(separator, tokenizer.eos_token_id)
        return cls(start, end, end_every_sequence=False)

    def __len__(self) -> int:
        return len(self.start) + len(self.end)


class TokenRows(SequenceRows):
    """The sequences of a split, in files. Opening takes the same time for any size.

    Attributes:
        key: a hash of the text, the tokenizer and `max_length`: equal keys mean equal rows.
        max_length: the maximum number of tokens in a sequence, special tokens included.
        special: the special tokens around the sequences.
        lengths: (sequences,) int32, tokens of each sequence, special tokens included.
        documents: (sequences,) int64, the index in the split of each sequence's document, in ascending order.
        sequences: (sequences,) int32, the number of each sequence within its document, from 0.
        bytes: (sequences,) int64, UTF-8 bytes of the text of each sequence.
        tokens: of all sequences together, special tokens included.
        document_count: the number of documents in the split.
        documents_without_tokens: how many of them have no tokens and so no sequence.
    """

    def __init__(self, folder: Path) -> None:
        """Open the files that `tokenize` wrote."""
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.key: str = facts["key"]
        self.max_length: int = facts["max_length"]
        self.special = SpecialTokens(
            tuple(facts["special"]["start"]), tuple(facts["special"]["end"]), facts["special"]["end_every_sequence"]
        )
        self._token_count: int = facts["tokens"]
        self.document_count: int = facts["documents"]
        self.documents_without_tokens: int = facts["documents_without_tokens"]
        sequences = np.memmap(folder / "sequences.bin", np.dtype(SEQUENCE), mode="r")
        self.sequences, self.bytes = sequences["number"], sequences["bytes"]
        super().__init__(
            RecordFile(folder / "tokens.bin", np.dtype([tuple(field) for field in facts["token"]])),
            RecordFile(folder / "sequences.bin", sequences.dtype),
            np.memmap(folder / "lengths.bin", np.dtype("<i4"), mode="r"),
            sequences["document"],
        )
        self._documents = RecordFile(folder / "documents.bin", np.dtype(DOCUMENT))
        self._names = RecordFile(folder / "names.txt", np.dtype(np.uint8))

    @property
    def tokens(self) -> int:
        """Tokens of all sequences together, special tokens included."""
        return self._token_count

    def document_id(self, document: int) -> str:
        """The id of the document with index `document` in the split."""
        start, end = self._bounds(document, "name_end")
        return self._names.read([start], [end - start]).tobytes().decode("utf-8")

    def document_tokens(self, most: int = 20_000) -> npt.NDArray[np.int64]:
        """(documents,) tokens of each document, special tokens included; at most `most` documents, evenly spaced."""
        sample = np.unique(np.linspace(0, self.document_count - 1, min(most, self.document_count), dtype=np.int64))
        rows = (slice(*self._bounds(document, "sequence_end")) for document in sample.tolist())
        return np.array([self.lengths[span].sum() for span in rows], dtype=np.int64)

    def count_token(self, token: int | None) -> tuple[int, int, int, int]:
        """Count the tokens of the text, and the occurrences of one token, without the special tokens around sequences.

        In a large file, only evenly spaced parts are counted.

        Returns:
            tokens, text_bytes: the number of tokens, and the bytes of text that they cover.
            of_token, bytes_of_token: the same for the token with the id `token`; 0 for None.
        """
        parts = max(1, -(-self.tokens // _SCANNED))
        chosen = np.unique(np.linspace(0, parts - 1, min(parts, _COUNTED_PARTS), dtype=np.int64))
        counts = np.zeros(4, dtype=np.int64)
        for part in chosen.tolist():
            start = part * _SCANNED
            tokens = self._tokens.read([start], [min(_SCANNED, self.tokens - start)])
            text = tokens[tokens["kind"] != SPECIAL]
            matches = text[text["id"] == token] if token is not None else text[:0]
            counts += [len(text), text["bytes"].sum(dtype=np.int64), len(matches), matches["bytes"].sum(dtype=np.int64)]
        tokens_counted, text_bytes, of_token, bytes_of_token = counts.tolist()
        return tokens_counted, text_bytes, of_token, bytes_of_token

    def _bounds(self, document: int, field: str) -> tuple[int, int]:
        """Where the sequences or the name of `document` start and end; `field` is the field of the ends in DOCUMENT."""
        ends = self._documents.read([max(document - 1, 0)], [2 if document else 1])[field].tolist()
        return (ends[0] if document else 0), ends[-1]

    def pack(self, rows: npt.ArrayLike) -> PackedBatch:
        """Pack the sequences `rows` (sequences,) end to end, in that order."""
        tokens, layout = self._read(rows)
        words = np.cumsum(tokens["kind"] == BEGINS, dtype=np.int32) - 1
        words[tokens["kind"] == SPECIAL] = -1
        return PackedBatch.of(tokens["id"], word_ids=words, token_bytes=tokens["bytes"], **layout)

    def select_documents(self, max_tokens: int | None) -> npt.NDArray[np.int64]:
        """The rows of as many documents as `max_tokens` allows, in an order that depends only on their ids.

        So an evaluation reads the same documents before and after training, and on every machine. A document may take
        1/32 of the budget. From a longer document, evenly spaced sequences are selected, so that no book dominates. At
        least one sequence is selected, whatever the budget.

        Args:
            max_tokens: the budget, special tokens included; None for all documents.

        Returns:
            (selected,) row indices: documents in the order of a hash of their ids, each with its sequences in order.
        """
        allowed = np.inf if max_tokens is None else max_tokens
        selected: list[npt.NDArray[np.int64]] = []
        used = 0
        # Each document takes at least one token.
        for document in self._evaluated_first(self.document_count if max_tokens is None else max_tokens + 1):
            rows = _spread(np.arange(*self._bounds(document, "sequence_end")), self.lengths, allowed * DOCUMENT_SHARE)
            used += int(self.lengths[rows].sum())
            if used > allowed and selected:
                break
            selected.append(rows)
        return np.concatenate(selected)

    def _evaluated_first(self, most: int) -> list[int]:
        """The first `most` documents that have sequences, in the order of evaluation.

        The table is read in parts, because it may be long and little of it is kept.
        """
        first, orders, sequence_end = np.empty(0, np.int64), np.empty(0, np.int64), 0
        for start in range(0, self.document_count, _SCANNED):
            table = self._documents.read([start], [min(_SCANNED, self.document_count - start)])
            present = np.flatnonzero(np.diff(table["sequence_end"], prepend=sequence_end))
            sequence_end = int(table["sequence_end"][-1])
            orders = np.append(orders, table["order"][present])
            kept = np.argsort(orders, kind="stable")[:most]
            first, orders = np.append(first, start + present)[kept], orders[kept]
        return list(first.tolist())


def tokenize(
    split: TextDocuments,
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> TokenRows:
    """Tokenise `split`, or find its rows in the cache.

    A stopped run resumes. If another process tokenises the same split, this one waits for its rows.

    Args:
        split: documents with a key of their content.
        tokenizer: any fast tokenizer; its truncation and padding are ignored.
        max_length: the maximum number of tokens in a sequence, special tokens included.
        progress: called with ("tokenising", documents done, documents in total), and while this process waits.

    Raises:
        SettingsError: `max_length` leaves no room for text.
        CorpusError: the split has no tokens, or its rows cannot be written.
    """
    special = SpecialTokens.of(tokenizer)
    if max_length <= len(special):
        raise SettingsError(
            f"max-length {max_length} leaves no room for text: {len(special)} tokens of each sequence are special",
            fix=f"give at least {len(special) + 1}; 128 to 512 are usual",
        )
    backend = plain_backend(tokenizer)
    key = _key(split, backend, special, max_length)

    def write(folder: Path) -> None:
        _write(folder, key, split, backend, special, max_length, progress)

    return TokenRows(cached_rows("tokens", key, write, progress, "text"))


# ---------------------------------------------------------------------------------------------- tokens of a document


def _section_tokens(text: str, encoding: Encoding, kind: np.dtype[Any]) -> Records:
    """The tokens of `text` as records. The last token also gets the bytes after it, so that every byte is counted."""
    tokens = np.empty(len(encoding), dtype=kind)
    tokens["id"] = encoding.ids
    # Several tokens may share the offsets of one character, and normalisers may reorder characters. So ends are made
    # non-decreasing, and the first token of a character gets all of its bytes.
    ends = np.fromiter(map(operator.itemgetter(1), encoding.offsets), dtype=np.int64, count=len(tokens))
    ends = np.maximum.accumulate(ends)
    ends[-1:] = len(text)
    tokens["bytes"] = np.diff(byte_offsets(text, ends), prepend=0)
    words = np.array(encoding.word_ids, dtype=np.float64)  # None becomes NaN, which equals no other word
    tokens["kind"] = np.where(np.append(True, words[1:] != words[:-1])[: len(tokens)], BEGINS, CONTINUES)
    return tokens


def byte_offsets(text: str, characters: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Convert offsets in characters of `text` to offsets in its UTF-8 bytes."""
    if text.isascii():
        return characters
    encoded = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    first_bytes = np.flatnonzero((encoded & 0xC0) != 0x80)
    return np.append(first_bytes, len(encoded))[characters]


def sections(text: str) -> Iterator[str]:
    """Cut `text` into sections of at most `SECTION_CHARACTERS`: after a line, else before a space, else anywhere.

    A space belongs to the word after it, as in byte-level tokenizers.
    """
    start = 0
    while len(text) - start > SECTION_CHARACTERS:
        limit = start + SECTION_CHARACTERS
        cut = (text.rfind("\n", start, limit) + 1) or max(text.rfind(" ", start + 1, limit), 0) or limit
        yield text[start:cut]
        start = cut
    yield text[start:]


class _Section(NamedTuple):
    """A section of a document. `document` is its index and `id` its id; `last` marks its last section."""

    document: int
    id: str
    text: str
    last: bool


def _section_batches(split: TextDocuments, first: int) -> Iterator[list[_Section]]:
    """All sections of all documents from index `first` on, in batches of about `BATCH_CHARACTERS`."""
    batch: list[_Section] = []
    characters = 0
    for index, document in enumerate(itertools.islice(split.documents(), first, None), first):
        parts = list(sections(document.text))
        for place, text in enumerate(parts):
            batch.append(_Section(index, document.id, text, last=place == len(parts) - 1))
            characters += len(text)
            if characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class _Encoded:
    """Tokenised sections.

    Attributes:
        tokens: (tokens,) records, without special tokens.
        counts: (sections,) tokens of each section.
        sizes: (sections,) UTF-8 bytes of each section's text.
        last: (sections,) bool, whether the section is the last of its document.
        names: the ids of the documents that end in these sections.
        orders: (documents,) hashes of these ids, which give the order of evaluation.
    """

    tokens: Records
    counts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    last: npt.NDArray[np.bool_]
    names: list[str]
    orders: npt.NDArray[np.int64]

    @classmethod
    def joined(cls, parts: list[_Encoded]) -> _Encoded:
        """`parts` end to end."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            np.concatenate([part.last for part in parts]),
            [name for part in parts for name in part.names],
            np.concatenate([part.orders for part in parts]),
        )

    def split_off_rest(self) -> tuple[_Encoded, _Encoded]:
        """The complete documents, and the sections of an incomplete one at the end, if any."""
        sections = int(np.flatnonzero(self.last)[-1]) + 1
        tokens = int(self.counts[:sections].sum())
        return self._between(0, sections, 0, tokens), self._between(sections, None, tokens, None)

    def _between(self, first: int, last: int | None, token: int, last_token: int | None) -> _Encoded:
        """A part in which either all documents are complete or none is."""
        names, orders = ([], self.orders[:0]) if first else (self.names, self.orders)
        part = slice(first, last)
        return _Encoded(
            self.tokens[token:last_token], self.counts[part], self.sizes[part], self.last[part], names, orders
        )


def _encode(backend: Tokenizer, kind: np.dtype[Any], sections: list[_Section]) -> _Encoded:
    """Tokenise a batch, in a worker."""
    encodings = backend.encode_batch([section.text for section in sections], add_special_tokens=False)
    tokens = [
        _section_tokens(section.text, encoding, kind) for section, encoding in zip(sections, encodings, strict=True)
    ]
    names = [section.id for section in sections if section.last]
    return _Encoded(
        np.concatenate(tokens),
        np.array([len(part) for part in tokens], dtype=np.int64),
        np.array([len(section.text.encode("utf-8")) for section in sections], dtype=np.int64),
        np.array([section.last for section in sections]),
        names,
        np.array([derive(0, "document", name) for name in names], dtype=np.int64),
    )


def _whole_documents(batches: Iterable[_Encoded]) -> Iterator[tuple[_Encoded, npt.NDArray[np.int64]]]:
    """Batches of complete documents, each with (documents,) the number of tokens of each document, which may be 0."""
    waiting: list[_Encoded] = []
    for batch in batches:
        waiting.append(batch)
        if not batch.last.any():  # the whole batch is inside one long document
            continue
        whole, rest = _Encoded.joined(waiting).split_off_rest()
        waiting = [rest] if len(rest.counts) else []
        first = np.flatnonzero(np.append(True, whole.last[:-1]))
        counts = np.add.reduceat(whole.counts, first)
        # Bytes of a section without tokens go to the last token of its document.
        ends = np.cumsum(counts)
        bytes_before = np.append(0, np.cumsum(whole.tokens["bytes"], dtype=np.int64))
        missing = np.add.reduceat(whole.sizes, first) - (bytes_before[ends] - bytes_before[ends - counts])
        whole.tokens["bytes"][ends[counts > 0] - 1] += missing[counts > 0]
        yield whole, counts


# ----------------------------------------------------------------------------------------------- cutting into sequences


def _cut(counts: npt.NDArray[np.int64], capacity: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut documents of `counts` (documents,) tokens into sequences of at most `capacity`.

    Returns:
        sizes: (sequences,) tokens of each sequence: `capacity` except for the last one or two of a document.
        numbers: (documents,) sequences of each document; 0 for an empty one.
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


def _sequences(
    text: Records, counts: npt.NDArray[np.int64], special: SpecialTokens, max_length: int
) -> tuple[Records, Records, npt.NDArray[np.int32]]:
    """Cut documents of `counts` (documents,) tokens, end to end in `text` (tokens,), into sequences.

    Returns:
        tokens: (tokens,) records, with special tokens.
        sequences: (sequences,) records, with documents and starts counted from 0.
        lengths: (sequences,) tokens of each sequence.
    """
    sizes, numbers = _cut(counts, max_length - len(special))
    first = np.cumsum(numbers) - numbers
    number = np.arange(len(sizes)) - np.repeat(first, numbers)
    has_end = np.full(len(sizes), special.end_every_sequence) | (number == np.repeat(numbers - 1, numbers))
    lengths = len(special.start) + sizes + len(special.end) * has_end
    starts = np.cumsum(lengths) - lengths
    text_starts = np.cumsum(sizes) - sizes

    tokens = np.zeros(int(lengths.sum()), dtype=text.dtype)
    tokens["kind"] = SPECIAL
    tokens[np.arange(len(text)) + np.repeat(starts + len(special.start) - text_starts, sizes)] = text
    tokens["kind"][starts + len(special.start)] = BEGINS  # the rest of a word that was cut counts as a word
    for offset, token in enumerate(special.start):
        tokens["id"][starts + offset] = token
    for offset, token in enumerate(special.end):
        tokens["id"][(starts + lengths)[has_end] - len(special.end) + offset] = token

    sequences = np.empty(len(sizes), dtype=SEQUENCE)
    sequences["start"], sequences["document"], sequences["number"] = (
        starts,
        np.repeat(np.arange(len(counts)), numbers),
        number,
    )
    sequences["bytes"] = np.add.reduceat(tokens["bytes"], starts, dtype=np.int64) if len(tokens) else 0
    return tokens, sequences, lengths.astype(np.int32)


# --------------------------------------------------------------------------------------------------------- the files


def _write(
    folder: Path,
    key: str,
    split: TextDocuments,
    backend: Tokenizer,
    special: SpecialTokens,
    max_length: int,
    progress: Progress | None,
) -> None:
    """Tokenise `split` into `folder`, or resume a stopped run."""
    token = TOKEN if backend.get_vocab_size() > 1 << 16 else SHORT_TOKEN
    unfinished = unfinished_folder(folder)
    names = ("tokens.bin", "sequences.bin", "lengths.bin", "documents.bin", "names.txt")
    with contextlib.closing(GrowingFiles(unfinished, names, commit_every=COMMIT_BATCHES)) as files:
        done = {
            "documents": 0,
            "documents_without_tokens": 0,
            "sequences": 0,
            "tokens": 0,
            "name_end": 0,
            **files.facts,
        }
        batches = _section_batches(split, done["documents"])
        encoded = in_order(
            functools.partial(_encode, backend, np.dtype(token)), batches, work="tokenises the corpus", saved=True
        )
        with contextlib.closing(encoded):
            for texts, counts in _whole_documents(encoded):
                data, done = _file_parts(done, texts, counts, special, max_length)
                files.append(data, done)
                if progress:
                    progress("tokenising", done["documents"], len(split))
        if done["tokens"]:
            facts = {"key": key, "max_length": max_length, "special": dataclasses.asdict(special), "token": token}
            write_json(unfinished / "facts.json", facts | done)
            files.keep(folder)
    if not done["tokens"]:
        shutil.rmtree(unfinished)
        raise CorpusError(
            f"the tokenizer gives no tokens for any of the {done['documents']} documents",
            fix="check that the corpus has text in a language that the model's tokenizer supports",
        )


def _file_parts(
    done: dict[str, int],
    texts: _Encoded,
    counts: npt.NDArray[np.int64],
    special: SpecialTokens,
    max_length: int,
) -> tuple[dict[str, bytes | npt.NDArray[Any]], dict[str, int]]:
    """The data that complete documents add to each file, and the counts after them. `done` has the counts before."""
    tokens, sequences, lengths = _sequences(texts.tokens, counts, special, max_length)
    sequences["start"] += done["tokens"]
    sequences["document"] += done["documents"]
    encoded_names = [name.encode("utf-8") for name in texts.names]
    documents = np.empty(len(counts), dtype=DOCUMENT)
    documents["order"] = texts.orders
    numbers = done["documents"] + np.arange(len(counts))
    documents["sequence_end"] = done["sequences"] + np.searchsorted(sequences["document"], numbers, side="right")
    documents["name_end"] = np.cumsum([len(name) for name in encoded_names]) + done["name_end"]
    done = {
        "documents": done["documents"] + len(counts),
        "documents_without_tokens": done["documents_without_tokens"] + int((counts == 0).sum()),
        "sequences": done["sequences"] + len(sequences),
        "tokens": done["tokens"] + len(tokens),
        "name_end": int(documents["name_end"][-1]),
    }
    data: dict[str, bytes | npt.NDArray[Any]] = {
        "tokens.bin": tokens,
        "sequences.bin": sequences,
        "lengths.bin": lengths.astype("<i4"),
        "documents.bin": documents,
        "names.txt": b"".join(encoded_names),
    }
    return data, done


def _key(split: TextDocuments, backend: Tokenizer, special: SpecialTokens, max_length: int) -> str:
    """A hash of everything that determines the rows."""
    parts = [VERSION, split.key, backend.to_str(), dataclasses.astuple(special), max_length]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


# ----------------------------------------------------------------------------------------------------- the tokenizer


def plain_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the fast tokenizer that does not truncate or pad, and reads special tokens in a text as plain text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _post_processed(tokenizer: PreTrainedTokenizerFast) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer's post-processor adds before and after a text."""
    backend = plain_backend(tokenizer)
    for probe in ("a", "。", *sorted(backend.get_vocab())):
        encoding = backend.encode(probe, add_special_tokens=True)
        text = [place for place, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
        if text:
            return tuple(encoding.ids[: text[0]]), tuple(encoding.ids[text[-1] + 1 :])
    return (), ()


def _known(*ids: int | None) -> tuple[int, ...]:
    """The first of `ids` that is not None, as a tuple; empty if there is none."""
    return next(((token,) for token in ids if token is not None), ())


def _spread(rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32], allowed: float) -> npt.NDArray[np.int64]:
    """All `rows` of a document, or evenly spaced ones with about `allowed` tokens in total; at least one."""
    total = int(lengths[rows].sum())
    if total <= allowed:
        return rows
    wanted = max(1, int(len(rows) * allowed / total))
    return rows[(np.arange(wanted) * 2 + 1) * len(rows) // (wanted * 2)]
