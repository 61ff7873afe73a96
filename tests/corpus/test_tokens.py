"""Rows of tokens: nothing of a document is lost, bytes add up, the cache is used, and much text needs little memory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_text import KINDS, SENTENCES, Split, document_rows, sequence_slices, tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from domain_ft.corpus import tokens, workers
from domain_ft.corpus.tokens import SpecialTokens, tokenize
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.storage import cache_folder

LETTERS = st.sampled_from(
    [*"the licence ", "é", "e\u0301", "ß", "İ", "ﬁ", "日", "本", "か\u3099", "ー", "👩‍👩‍👧", "\n", "\t", "　"]
)
TEXTS = st.one_of(
    st.lists(st.one_of(LETTERS, st.sampled_from(SENTENCES)), max_size=60).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), max_length=st.integers(4, 40))
def test_nothing_of_a_document_is_lost(kind: str, texts: list[str], max_length: int) -> None:
    """The sequences together have the tokens of the whole text, and their bytes add up to its bytes."""
    texts = [*texts, SENTENCES[0]]
    rows = tokenize(Split(texts), tokenizer(kind), max_length=max_length)
    backend = Tokenizer.from_str(tokenizer(kind).backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    assert rows.lengths.max() <= max_length
    for document, text in enumerate(texts):
        wanted = backend.encode(text, add_special_tokens=False)
        mine = document_rows(rows, document)
        assert list(rows.sequences[mine]) == list(range(len(mine)))
        if not wanted.ids:
            assert len(mine) == 0
            continue
        batch = rows.pack(mine)
        is_text = batch.word_ids >= 0
        assert batch.input_ids[is_text].tolist() == wanted.ids
        assert batch.token_bytes.min() >= 0
        assert batch.token_bytes.sum() == rows.bytes[mine].sum() == len(text.encode("utf-8"))
        assert not batch.token_bytes[~is_text].any()
        _assert_same_words(batch.word_ids, batch.cu_seqlens, wanted.word_ids)


def _assert_same_words(words: np.ndarray, cu_seqlens: np.ndarray, wanted: list[int]) -> None:
    """Within a sequence, neighbouring tokens are of one word exactly if the tokenizer says so."""
    sequence = np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens))[words >= 0]
    words, expected = words[words >= 0], np.array(wanted)
    together = sequence[1:] == sequence[:-1]
    assert np.array_equal((words[1:] == words[:-1])[together], (expected[1:] == expected[:-1])[together])


def test_bytes_of_a_token_are_counted_from_the_end_of_the_previous_one() -> None:
    batch = tokenize(Split(["  Café  the work \n"]), tokenizer("wordpiece"), max_length=64).pack([0])
    names = tokenizer("wordpiece").convert_ids_to_tokens(batch.input_ids)
    ends = np.cumsum(batch.token_bytes)
    encoded = "  Café  the work \n".encode()
    assert (names[0], names[-1]) == ("[CLS]", "[SEP]")
    place = names.index("the")
    assert encoded[ends[place - 1] : ends[place]] == b"  the"
    assert ends[-1] == len(encoded)


def test_a_character_in_several_tokens_counts_once() -> None:
    batch = tokenize(Split(["a😀b"]), tokenizer("gpt2"), max_length=64).pack([0])
    assert batch.tokens > 5  # the emoji is more than one token
    assert sorted(batch.token_bytes[batch.token_bytes > 0].tolist()) == [1, 1, 4]


@pytest.mark.parametrize(
    ("kind", "start", "end", "end_every_sequence"),
    [
        ("wordpiece", ["[CLS]"], ["[SEP]"], True),
        ("roberta", ["<s>"], ["</s>"], True),
        ("unigram", ["<s>"], ["</s>"], True),
        ("gpt2", ["<|endoftext|>"], ["<|endoftext|>"], False),
        ("llama", ["<s>"], ["</s>"], False),
    ],
)
def test_special_tokens_are_at_the_ends(kind: str, start: list[str], end: list[str], end_every_sequence: bool) -> None:
    """An encoder's are around every sequence. A decoder's begin every sequence, and end the document."""
    tok = tokenizer(kind)
    special = SpecialTokens.of(tok)
    assert tok.convert_ids_to_tokens(special.start) == start
    assert tok.convert_ids_to_tokens(special.end) == end
    assert special.end_every_sequence == end_every_sequence
    rows = tokenize(Split([SENTENCES[0] * 5, SENTENCES[1] * 5]), tok, max_length=24)
    for document in (0, 1):
        batch = rows.pack(document_rows(rows, document))
        for number, where in enumerate(sequence_slices(batch)):
            ends = end_every_sequence or number == len(batch.rows) - 1
            is_special = batch.word_ids[where] == -1
            assert batch.input_ids[where][0] == special.start[0]
            assert is_special[0]
            assert is_special[-1] == ends
            assert is_special.sum() == 1 + ends
            if ends:
                assert batch.input_ids[where][-1] == special.end[0]


def test_a_chat_model_separates_documents_as_it_did_in_pretraining() -> None:
    """Its BOS and EOS mark the turns of a conversation, so `<|endoftext|>` is used if the vocabulary has it."""
    backend = Tokenizer.from_str(tokenizer("gpt2").backend_tokenizer.to_str())
    chat = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    separator = chat.convert_tokens_to_ids("<|endoftext|>")
    assert SpecialTokens.of(chat) == SpecialTokens((separator,), (separator,), end_every_sequence=False)


def test_text_cannot_forge_special_tokens() -> None:
    rows = tokenize(Split(["the [MASK] of [SEP] the work"]), tokenizer("wordpiece"), max_length=64)
    inside = rows.pack([0]).input_ids[1:-1]
    assert not set(inside.tolist()) & {tokenizer("wordpiece").mask_token_id, tokenizer("wordpiece").sep_token_id}


def test_the_tokenizers_own_truncation_and_padding_do_not_matter() -> None:
    """all-MiniLM-L6-v2's tokenizer.json truncates to 128 tokens, and pads to as many."""
    plain = tokenizer("wordpiece")
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.enable_truncation(8)
    backend.enable_padding(length=8)
    cutting = PreTrainedTokenizerFast(tokenizer_object=backend, **plain.special_tokens_map)
    split = Split([SENTENCES[0] * 3])
    rows = tokenize(split, cutting, max_length=500)
    assert rows.key == tokenize(split, plain, max_length=500).key
    assert len(rows) == 1
    assert rows.lengths[0] > 20
    assert cutting.backend_tokenizer.truncation["max_length"] == 8  # the tokenizer is not changed


@given(counts=st.lists(st.integers(0, 400), max_size=20), capacity=st.integers(1, 100))
def test_cuts_are_full_except_for_a_tail_that_is_not_too_short(counts: list[int], capacity: int) -> None:
    sizes, numbers = tokens._cut(np.array(counts, dtype=np.int64), capacity)
    for count, mine in zip(counts, np.split(sizes, np.cumsum(numbers)[:-1]) if counts else [], strict=True):
        assert mine.sum() == count
        assert len(mine) == -(-count // capacity)  # no more sequences than needed
        assert (mine <= capacity).all()
        assert (mine[:-2] == capacity).all()
        if len(mine) > 1:
            assert mine[-1] >= min(capacity * tokens.SHORTEST_TAIL, capacity // 2)
            assert mine[-2] == capacity or mine[-2] - mine[-1] in (0, 1)


def test_a_second_run_reads_no_text() -> None:
    first, second = Split(SENTENCES), Split(SENTENCES)
    rows = tokenize(first, tokenizer("wordpiece"), max_length=32)
    again = tokenize(second, tokenizer("wordpiece"), max_length=32)
    assert (first.reads, second.reads) == (1, 0)
    everything = np.arange(len(rows))
    for name, value in vars(rows.pack(everything)).items():
        assert np.array_equal(value, getattr(again.pack(everything), name)), name


def test_the_key_depends_on_text_tokenizer_and_length() -> None:
    split = Split(SENTENCES[:2])
    keys = {
        tokenize(split, tokenizer("wordpiece"), max_length=32).key,
        tokenize(split, tokenizer("wordpiece"), max_length=33).key,
        tokenize(split, tokenizer("roberta"), max_length=32).key,
        tokenize(Split(SENTENCES[:3]), tokenizer("wordpiece"), max_length=32).key,
    }
    assert len(keys) == 4


def test_the_code_version_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(SENTENCES[:2])
    before = tokenize(split, tokenizer("wordpiece"), max_length=32).key
    monkeypatch.setattr(tokens, "VERSION", tokens.VERSION + 1)
    assert tokenize(split, tokenizer("wordpiece"), max_length=32).key != before


def test_arrays_are_mapped_and_tokens_are_compact() -> None:
    rows = tokenize(Split(SENTENCES), tokenizer("wordpiece"), max_length=32)
    for array in (rows.lengths, rows.documents, rows.sequences, rows.bytes):
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert rows.tokens == rows.lengths.sum()
    assert (cache_folder("tokens") / rows.key / "tokens.bin").stat().st_size == 7 * rows.tokens


def test_pack_lays_sequences_end_to_end_in_the_given_order() -> None:
    rows = tokenize(Split([s * 4 for s in SENTENCES]), tokenizer("wordpiece"), max_length=20)
    asked = np.random.default_rng(0).permutation(len(rows))[:7]
    batch = rows.pack(asked)
    assert batch.rows.tolist() == asked.tolist()
    assert batch.lengths.tolist() == rows.lengths[asked].tolist()
    assert batch.documents.tolist() == rows.documents[asked].tolist()
    dtypes = [array.dtype.name for array in (batch.input_ids, batch.cu_seqlens, batch.word_ids)]
    assert dtypes == ["int64", "int32", "int32"]
    for row, where in zip(asked, sequence_slices(batch), strict=True):
        alone = rows.pack([row])
        assert batch.input_ids[where].tolist() == alone.input_ids.tolist()
        assert batch.token_bytes[where].tolist() == alone.token_bytes.tolist()
        assert batch.position_ids[where].tolist() == list(range(rows.lengths[row]))
    words = [set(batch.word_ids[where].tolist()) - {-1} for where in sequence_slices(batch)]
    assert sum(map(len, words)) == len(set.union(*words))  # a number is never shared between sequences


@pytest.mark.parametrize("kind", ["wordpiece", "gpt2"])
def test_sections_of_a_long_document_have_the_tokens_of_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["\n".join(SENTENCES * 6), " ".join(SENTENCES * 6), " " * 300 + SENTENCES[0] + " " * 300, "x" * 250]
    whole = tokenize(Split(texts), tokenizer(kind), max_length=30)
    monkeypatch.setattr(tokens, "SECTION_CHARACTERS", 100)
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 200)
    monkeypatch.setattr(tokens, "VERSION", -1)
    parts = tokenize(Split(texts), tokenizer(kind), max_length=30)
    assert parts.key != whole.key
    for document, text in enumerate(texts):
        mine = parts.pack(document_rows(parts, document))
        assert mine.token_bytes.sum() == len(text.encode())
        if document < 2:  # no cut within 300 spaces or 250 letters leaves the tokens as they are
            assert mine.input_ids.tolist() == whole.pack(document_rows(whole, document)).input_ids.tolist()
            assert np.array_equal(mine.cu_seqlens, whole.pack(document_rows(whole, document)).cu_seqlens)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wordpiece", "gpt2"])
def test_a_document_of_five_million_characters_is_tokenised(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    text = ("\n".join(SENTENCES[:2]) + "\n") * 32_000
    assert len(text) > 5_000_000
    rows = tokenize(Split(["before", text, "after"]), tokenizer(kind), max_length=256)
    mine = document_rows(rows, 1)
    assert rows.bytes[mine].sum() == len(text.encode())
    assert (rows.lengths[mine[:-2]] >= 255).all()
    assert rows.documents[-1] == 2
    output = capfd.readouterr()
    assert output.out + output.err == ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Ten times the text (nearly 60 million characters more) takes less than 40 MiB more of the process's memory."""
    script = """
import sys
from tiny_text import SENTENCES, Split, tokenizer
from domain_ft.corpus.documents import Document
from domain_ft.corpus.tokens import tokenize

class Stream:
    key = sys.argv[1]
    def __len__(self):
        return int(sys.argv[1])
    def documents(self):
        return (Document(str(i), f"{i} " + SENTENCES[0] * 200, "memory") for i in range(len(self)))

print(tokenize(Stream(), tokenizer("wordpiece"), max_length=256).tokens)
print(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
"""
    used = []
    for documents in (400, 4_000):
        result = subprocess.run(
            [sys.executable, "-c", script, str(documents)],
            env={**os.environ, "DOMAIN_FT_CACHE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        tokens_read, kilobytes = map(int, result.stdout.split())
        assert tokens_read > 2_000 * documents
        used.append(kilobytes / 1024)
    assert used[1] - used[0] < 40, used


def test_progress_counts_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 100)
    calls: list[tuple[str, int, int | None]] = []
    tokenize(
        Split([f"{i} {SENTENCES[0]}" for i in range(9)]),
        tokenizer("wordpiece"),
        max_length=33,
        progress=lambda *call: calls.append(call),
    )
    assert len(calls) > 2
    assert calls[-1] == ("tokenising", 9, 9)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_documents_without_tokens_are_counted() -> None:
    rows = tokenize(Split(["", "the work", "   \n"], ids=["a", "b", "c"]), tokenizer("wordpiece"), max_length=16)
    assert (rows.document_count, rows.documents_without_tokens) == (3, 2)
    assert rows.documents.tolist() == [1]
    assert rows.document_id(rows.documents[0]) == "b"
    assert rows.select_documents(None).tolist() == [0]


def test_documents_without_any_token_are_refused_and_leave_nothing() -> None:
    before = set(cache_folder("tokens").glob("[!.]*"))
    with pytest.raises(CorpusError, match="no tokens for any of the 2 documents"):
        tokenize(Split(["", "  "]), tokenizer("wordpiece"), max_length=16)
    assert set(cache_folder("tokens").glob("[!.]*")) == before
    assert not list(cache_folder("tokens").glob(".*.unfinished"))


class Stopped(Split):
    """A split that is interrupted before the document with index `at` is read."""

    at = 3

    def documents(self) -> Iterator:
        yield from list(super().documents())[: self.at]
        raise KeyboardInterrupt


def same(one: tokens.TokenRows, other: tokens.TokenRows) -> bool:
    """Whether the .bin and .txt files of two sets of rows are equal byte for byte."""
    files = [sorted((cache_folder("tokens") / rows.key).glob("*.[bt][ix][nt]")) for rows in (one, other)]
    return [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


@pytest.mark.parametrize("at", [0, 1, 3, 17, 39, 40])
def test_a_stopped_run_continues_where_it_was(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 100)
    monkeypatch.setattr(workers, "FEW_BATCHES", 1)
    monkeypatch.setattr(workers, "cores", lambda: 1)
    texts = [f"{at} {i} {SENTENCES[i % 4]} " * (i % 3) for i in range(40)]
    whole = tokenize(Split(texts), tokenizer("wordpiece"), max_length=21)
    monkeypatch.setattr(tokens, "VERSION", -2)
    stopped = Stopped(texts)
    stopped.at = at
    with pytest.raises(KeyboardInterrupt):
        tokenize(stopped, tokenizer("wordpiece"), max_length=21)
    begun: list[int] = []
    section_batches = tokens._section_batches

    def watched(split: Split, first: int) -> Iterator:
        begun.append(first)
        return section_batches(split, first)

    monkeypatch.setattr(tokens, "_section_batches", watched)
    rows = tokenize(Split(texts), tokenizer("wordpiece"), max_length=21)
    assert rows.key != whole.key
    assert same(rows, whole)
    assert at - 6 <= begun[0] <= at  # all but a batch or two were kept
    assert not list(cache_folder("tokens").glob(f".{rows.key}.unfinished"))


def test_a_killed_run_continues_from_its_last_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written after that commit is dropped, as after a power failure."""
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 100)
    monkeypatch.setattr(tokens, "COMMIT_BATCHES", 5)
    texts = [f"{i} {SENTENCES[i % 4]}" for i in range(30)]
    whole = tokenize(Split(texts), tokenizer("gpt2"), max_length=21)
    monkeypatch.setattr(tokens, "VERSION", -3)
    calls: list[int] = []

    def kill(label: str, done: int, total: int | None) -> None:
        calls.append(done)
        if len(calls) == 13:
            monkeypatch.setattr(tokens.GrowingFiles, "commit", lambda self: None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(Split(texts), tokenizer("gpt2"), max_length=21, progress=kill)
    monkeypatch.undo()
    monkeypatch.setattr(tokens, "VERSION", -3)
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 100)
    again: list[int] = []
    rows = tokenize(Split(texts), tokenizer("gpt2"), max_length=21, progress=lambda _, done, __: again.append(done))
    assert same(rows, whole)
    assert calls[-1] > again[0] - 1 >= calls[9]  # ten batches were committed


def test_a_full_disk_is_reported_and_what_was_done_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 100)
    split, append = Split([f"full {i} {SENTENCES[0]}" for i in range(20)]), tokens.GrowingFiles.append

    def full(files: tokens.GrowingFiles, data: dict, facts: dict) -> None:
        if facts["documents"] > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(files, data, facts)

    with monkeypatch.context() as patch, pytest.raises(CorpusError, match="No space left on device"):
        patch.setattr(tokens.GrowingFiles, "append", full)
        tokenize(split, tokenizer("wordpiece"), max_length=32)
    done: list[int] = []
    tokenize(split, tokenizer("wordpiece"), max_length=32, progress=lambda _, number, __: done.append(number))
    assert done[0] > 8 and done[-1] == 20


def test_two_runs_do_not_make_the_same_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    split, labels = Split([*SENTENCES, "two at once"]), []
    made = tokenize(split, tokenizer("wordpiece"), max_length=32)
    folder = cache_folder("tokens") / made.key
    hidden = folder.rename(folder.with_name("hidden"))
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    lock.acquire()

    def other_run_ends(label: str, done: int, total: int | None) -> None:
        labels.append(label)
        hidden.rename(folder)
        lock.release()

    rows = tokenize(split, tokenizer("wordpiece"), max_length=32, progress=other_run_ends)
    assert labels == ["waiting for another run that tokenises the same text"]
    assert (rows.tokens, split.reads) == (made.tokens, 1)


def test_several_cores_make_the_rows_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{i} {SENTENCES[i % 4]}" * (i % 5) for i in range(60)] + [SENTENCES[2] * 200]
    alone = tokenize(Split(texts), tokenizer("wordpiece"), max_length=50)
    monkeypatch.setattr(tokens, "VERSION", -4)
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 500)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    together = tokenize(Split(texts), tokenizer("wordpiece"), max_length=50)
    assert together.key != alone.key
    assert same(together, alone)


def test_no_room_for_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="max-length 2 leaves no room"):
        tokenize(Split(SENTENCES), tokenizer("wordpiece"), max_length=2)
    assert tokenize(Split(SENTENCES), tokenizer("wordpiece"), max_length=3).lengths.max() == 3


class TestSelectDocuments:
    """Which documents an evaluation reads."""

    def test_whole_documents_up_to_the_budget_whatever_their_order_in_the_file(self) -> None:
        texts = [f"{i} {SENTENCES[i % 2]} " * (1 + i % 3) for i in range(200)]
        ids = [f"d{i}" for i in range(200)]
        rows = tokenize(Split(texts, ids), tokenizer("wordpiece"), max_length=32)
        chosen = rows.select_documents(9_000)
        assert 8_000 < rows.lengths[chosen].sum() <= 9_000
        names = list(dict.fromkeys(rows.document_id(d) for d in rows.documents[chosen]))
        for document in set(rows.documents[chosen].tolist()):
            mine = chosen[rows.documents[chosen] == document]
            assert mine.tolist() == document_rows(rows, document).tolist()
        turned = tokenize(Split(texts[::-1], ids[::-1]), tokenizer("wordpiece"), max_length=32)
        again = turned.select_documents(9_000)
        assert list(dict.fromkeys(turned.document_id(d) for d in turned.documents[again])) == names

    def test_without_a_budget_everything_is_selected(self) -> None:
        rows = tokenize(Split([s * 9 for s in SENTENCES]), tokenizer("wordpiece"), max_length=32)
        assert sorted(rows.select_documents(None)) == list(range(len(rows)))

    def test_a_book_does_not_use_up_the_budget(self) -> None:
        texts = [SENTENCES[0] * 2_000, *(f"{i} {SENTENCES[1]}" for i in range(60))]
        rows = tokenize(Split(texts), tokenizer("wordpiece"), max_length=32)
        book = rows.select_documents(32_000)
        mine = book[rows.documents[book] == 0]
        assert 1 <= rows.lengths[mine].sum() <= 1_000
        gaps = np.diff(mine)
        assert gaps.max() - gaps.min() <= 1  # evenly spaced
        assert len(set(rows.documents[book].tolist())) == 61

    def test_at_least_one_document_is_selected(self) -> None:
        rows = tokenize(Split(SENTENCES), tokenizer("wordpiece"), max_length=32)
        assert len(rows.select_documents(1)) == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tokens.TokenRows:
    """The rows of 400,000 documents of up to three sequences. The index is complete, but there are no tokens."""
    folder = tmp_path_factory.mktemp("large")
    draw = np.random.default_rng(0)
    numbers = draw.integers(0, 4, 400_000)
    sequences = np.zeros(numbers.sum(), dtype=tokens.SEQUENCE)
    sequences["document"] = np.repeat(np.arange(len(numbers)), numbers)
    sequences["number"] = np.arange(len(sequences)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    documents = np.zeros(len(numbers), dtype=tokens.DOCUMENT)
    documents["order"], documents["sequence_end"] = draw.integers(0, 2**62, len(numbers)), np.cumsum(numbers)
    lengths = draw.integers(3, 33, len(sequences)).astype("<i4")
    for name, records in {"sequences": sequences, "documents": documents, "lengths": lengths}.items():
        records.tofile(folder / f"{name}.bin")
    (folder / "tokens.bin").touch()
    (folder / "names.txt").touch()
    special = {"start": [1], "end": [2], "end_every_sequence": True}
    counts = {
        "tokens": int(lengths.sum()),
        "documents": len(numbers),
        "documents_without_tokens": int((numbers == 0).sum()),
    }
    facts = {"key": "large", "max_length": 32, "special": special, "token": tokens.SHORT_TOKEN}
    (folder / "facts.json").write_text(json.dumps(facts | counts))
    return tokens.TokenRows(folder)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Less than the table of documents (9.6 MB), the table of sequences (17 MB) or a list of all their numbers."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


class TestALargeIndex:
    """What `adapt` reads of a large index needs no list or array that is as long as the corpus."""

    def test_the_documents_of_an_evaluation_are_selected_in_little_memory(self, large: tokens.TokenRows) -> None:
        with little_memory():
            chosen = large.select_documents(2_000)
        assert isinstance(large.lengths, np.memmap)
        assert large.lengths.filename is not None
        table = np.fromfile(Path(large.lengths.filename).with_name("documents.bin"), tokens.DOCUMENT)
        documents = large.documents[chosen]
        orders = table["order"][documents]
        assert (np.diff(orders) >= 0).all() and 1_900 < large.lengths[chosen].sum() <= 2_000
        with_sequences = np.diff(table["sequence_end"], prepend=0) > 0
        assert (with_sequences & (table["order"] < orders[-1])).sum() == len(set(documents)) - 1

    def test_the_documents_of_the_report_are_sampled_in_little_memory(self, large: tokens.TokenRows) -> None:
        with little_memory():
            sample = large.document_tokens()
        assert len(sample) == 20_000
        ends = [large.lengths[large.documents == document].sum() for document in (0, 399_999)]
        assert large.document_tokens(4)[[0, 3]].tolist() == ends
        assert abs(sample.mean() - large.tokens / large.document_count) < 1
