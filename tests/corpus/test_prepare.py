"""Preparing a corpus: what is kept, how it is split, the cache, and small or broken corpora."""

from __future__ import annotations

import errno
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from domain_ft.corpus import prepared as prepared_module
from domain_ft.corpus import workers
from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.corpus import Corpus, open_corpus
from domain_ft.corpus.documents import Document
from domain_ft.corpus.duplicates import CONTAINED, FAMILY, shingles
from domain_ft.corpus.prepared import PreparedCorpus, prepare
from domain_ft.corpus.readers.base import SourceDocument
from domain_ft.errors import CorpusError, RecordError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path | None:
    """An empty cache for each test, except tests that need assets: they use the user's cache."""
    if request.node.get_closest_marker("assets"):
        return None
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sentence(draw: random.Random) -> str:
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=draw.randint(3, 8))) for _ in range(12)) + "."


def article(seed: int, sentences: int = 20) -> list[str]:
    draw = random.Random(seed)
    return [sentence(draw) for _ in range(sentences)]


def with_near_copies(families: int = 150, seed: int = 0) -> list[str]:
    """Texts, half of which have copies: edited lightly, edited heavily, or quoted in a longer text."""
    draw = random.Random(seed)
    texts: list[str] = []
    for family in range(families):
        original = article(1000 + family)
        texts.append(" ".join(original))
        kind = family % 6
        if kind == 0:  # one sentence of twenty is replaced
            texts.append(" ".join([*original[:7], sentence(draw), *original[8:]]))
        elif kind == 1:  # four of twenty are replaced, in two ways
            texts.extend(" ".join(s if i % 5 != n else sentence(draw) for i, s in enumerate(original)) for n in (1, 3))
        elif kind == 2:  # quoted whole in a text three times as long
            texts.append(" ".join([*article(5000 + family), *original, *article(6000 + family)]))
    draw.shuffle(texts)
    return texts


def write(folder: Path, texts: list[str], name: str = "texts.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def ready(path: Path, **options: str) -> PreparedCorpus:
    return prepare(open_corpus(str(path), **options), evaluation_fraction=0.1)  # type: ignore[arg-type]


def leaks(train: list[Document], evaluation: list[Document]) -> int:
    """The number of evaluation texts that a training text resembles or largely contains.

    It resembles them from a Jaccard similarity of `FAMILY`. It largely contains them from a share of `CONTAINED` + 0.1,
    where 0.1 allows for the error of the program's estimate. Both are computed from all runs, without samples.
    """
    own = [shingles(normalise(document.text)) for document in evaluation]
    sizes = np.array([len(part) for part in own])
    owners, flat = np.repeat(np.arange(len(own)), sizes), np.concatenate(own)
    order = np.argsort(flat)
    owners, flat = owners[order], flat[order]
    leaking = np.zeros(len(own), bool)
    for document in train:
        other = shingles(normalise(document.text))
        hits = [np.searchsorted(flat, other, side) for side in ("left", "right")]
        found = np.concatenate([owners[:0], *(owners[a:b] for a, b in zip(*hits, strict=True) if a < b)])
        shared = np.bincount(found, minlength=len(own))
        leaking |= (shared / (sizes + len(other) - shared) >= FAMILY) | (shared / sizes >= CONTAINED + 0.1)
    return int(leaking.sum())


def test_a_naive_split_leaks_near_copies_and_ours_does_not(tmp_path: Path) -> None:
    prepared = ready(write(tmp_path, with_near_copies()))
    train = list(prepared.split("train").documents())
    evaluation = list(prepared.split("evaluation").documents())
    assert len(evaluation) >= 10
    assert leaks(train, evaluation) == 0

    everything = train + evaluation
    random.Random(1).shuffle(everything)
    assert leaks(everything[len(evaluation) :], everything[: len(evaluation)]) >= 3


def test_copies_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = [" ".join(article(seed)) for seed in range(40)]
    exact = [texts[0].upper(), texts[1].replace(" ", "\n"), texts[2]]
    near = [texts[3] + " And a word."]
    prepared = ready(write(tmp_path, [*texts, *exact, *near, "  ", "\u3000"]))
    statistics = prepared.statistics
    assert (statistics.read, statistics.kept, statistics.empty) == (46, 40, 2)
    assert (statistics.exact_duplicates, statistics.near_duplicates) == (3, 1)
    assert statistics.train_documents + statistics.evaluation_documents == 40
    assert statistics.characters == sum(map(len, texts)) == statistics.bytes
    assert sum(count for _, _, count in statistics.histogram) == 40
    assert all(low <= len(texts[0]) for low, _, _ in statistics.histogram)
    assert len(statistics.samples) == 3 and all(len(sample) <= 200 for sample in statistics.samples)
    kept = {d.text for name in ("train", "evaluation") for d in prepared.split(name).documents()}
    assert kept == set(texts)
    assert prepared.rejects_path is not None
    assert prepared.rejects_path.read_text().count("cleaning leaves nothing") == 2


def test_the_split_does_not_depend_on_the_order_of_reading(tmp_path: Path) -> None:
    texts = [" ".join(article(seed)) for seed in range(60)]
    first = ready(write(tmp_path / "a", texts))
    second = ready(write(tmp_path / "b", texts[::-1]))
    sides = [{d.text for d in prepared.split("evaluation").documents()} for prepared in (first, second)]
    assert sides[0] == sides[1]
    assert first.key != second.key


def test_a_second_call_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", [" ".join(article(seed)) for seed in range(40)])
    first = ready(path)
    monkeypatch.setattr(Corpus, "documents", lambda *_: pytest.fail("the corpus was read again"))
    second = ready(path)
    assert first == second
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / path.name)
    assert ready(moved).key == first.key


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path, [" ".join(article(seed)) for seed in range(40)])
    first = ready(path)
    ids = first.split("train").ids
    arrow = first.folder / "train.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-100])
    assert ready(path).split("train").ids == ids
    (first.folder / "evaluation.arrow").unlink()
    assert len(ready(path).split("evaluation")) == first.statistics.evaluation_documents


def test_the_fraction_the_policy_and_the_content_change_the_key(tmp_path: Path) -> None:
    path = write(tmp_path, [" ".join(article(seed)) for seed in range(40)])
    keys = {ready(path).key, prepare(open_corpus(str(path))).key, ready(path, on_bad_record="skip").key}
    write(tmp_path, [" ".join(article(seed)) for seed in range(41)])
    keys.add(ready(path).key)
    assert len(keys) == 4


def test_a_split_can_be_streamed_and_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_module, "_EXAMINED", 5000)
    prepared = ready(write(tmp_path, [" ".join(article(seed)) for seed in range(60)]))
    split = prepared.split("train")
    documents = list(split.documents())
    assert len(split) == len(documents) == prepared.statistics.train_documents
    assert [split.document(index) for index in range(len(split))] == documents
    assert split.ids == [document.id for document in documents]
    assert all(d.id.startswith("texts.jsonl:") and d.source == "texts.jsonl" for d in documents)
    assert split.key != prepared.split("evaluation").key
    with pytest.raises(IndexError):
        split.document(len(split))
    assert len(prepared.samples(3)) == 3


def test_rejects_are_listed_beside_the_texts(tmp_path: Path) -> None:
    path = write(tmp_path, [" ".join(article(seed)) for seed in range(40)])
    with path.open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(RecordError, match="line 41"):
        ready(path)
    prepared = ready(path, on_bad_record="skip")
    assert prepared.statistics.rejects == 1
    assert prepared.rejects_path is not None
    reject = json.loads(prepared.rejects_path.read_text())
    assert (reject["file"], reject["line"]) == ("texts.jsonl", 41)
    assert "broken JSON" in reject["reason"]


def test_a_single_long_text_is_cut_in_two(tmp_path: Path) -> None:
    text = "\n\n".join(" ".join(article(seed, 4)) for seed in range(200))
    path = tmp_path / "book.txt"
    path.write_text(text, encoding="utf-8")
    prepared = ready(path)
    (train,) = prepared.split("train").documents()
    evaluation = list(prepared.split("evaluation").documents())
    assert [document.id for document in evaluation][:2] == ["book.txt#end-1", "book.txt#end-2"]
    assert "".join((train.text + "".join(d.text for d in evaluation)).split()) == "".join(text.split())
    assert 0.08 < sum(len(document.text) for document in evaluation) / len(text) < 0.12
    assert "too few documents" in prepared.statistics.notes[0]


def test_a_single_long_japanese_text_is_cut_at_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "law.txt"
    path.write_text(
        "".join(f"第{i}条　この法律は、公布の日から{i}日を経て施行する。" for i in range(300)), encoding="utf-8"
    )
    prepared = ready(path)
    assert prepared.split("train").document(0).text.endswith("。")


def test_one_of_a_few_documents_is_held_out(tmp_path: Path) -> None:
    prepared = ready(write(tmp_path, [" ".join(article(seed)) for seed in range(4)]))
    assert (prepared.statistics.train_documents, prepared.statistics.evaluation_documents) == (3, 1)
    assert prepared.statistics.notes


def test_two_short_texts_make_one_for_each_split(tmp_path: Path) -> None:
    prepared = ready(write(tmp_path, ["one short text of its own", "and quite another"]))
    assert (len(prepared.split("train")), len(prepared.split("evaluation"))) == (1, 1)


def test_if_all_documents_are_alike_a_note_calls_the_scores_optimistic(tmp_path: Path) -> None:
    base, draw = article(1), random.Random(0)
    texts = [" ".join([*base[:i], sentence(draw), sentence(draw), *base[i + 2 :]]) for i in range(0, 18, 2)]
    prepared = ready(write(tmp_path, texts))
    assert prepared.statistics.kept == 9 and prepared.statistics.groups == 1
    assert prepared.statistics.evaluation_documents == 1
    assert prepared.statistics.greatest_overlap is None
    assert "optimistic" in prepared.statistics.notes[-1]


def test_if_the_only_training_text_quotes_the_evaluation_text_a_note_calls_the_scores_optimistic(
    tmp_path: Path,
) -> None:
    short = " ".join(article(1, 2))
    prepared = ready(write(tmp_path, [short, f"{short} {' '.join(article(2, 4))}"]))
    assert prepared.statistics.groups == 2
    assert prepared.split("evaluation").document(0).text == short
    assert "optimistic" in prepared.statistics.notes[-1]


def test_one_short_text_is_too_little(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("Too short to cut in two.", encoding="utf-8")
    with pytest.raises(CorpusError, match="at least two different documents"):
        ready(path)


@pytest.mark.parametrize(("texts", "part"), [(["", " "], "2 were empty"), (["\u200b\ufeff\x00"], "single text")])
def test_fewer_than_two_usable_documents_are_refused(tmp_path: Path, texts: list[str], part: str) -> None:
    with pytest.raises(CorpusError, match=part):
        ready(write(tmp_path, texts))


def test_the_error_for_no_usable_documents_shows_why(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": 1}\n{"text": 2}\n')
    with pytest.raises(CorpusError) as caught:
        ready(path, on_bad_record="skip", text_field="text")
    assert "2 could not be read" in str(caught.value)
    assert "a number, not text" in str(caught.value)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_fraction_that_leaves_one_split_empty_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(CorpusError, match="leaves nothing on one side"):
        prepare(open_corpus(str(write(tmp_path, ["a", "b"]))), evaluation_fraction=fraction)


def folders(cache: Path) -> list[str]:
    """The names of the folders of prepared corpora."""
    return [entry.name for entry in (cache / "corpora").iterdir() if entry.is_dir()]


@pytest.mark.parametrize("step", [(prepared_module.GrowingFiles, "append"), (prepared_module._Writer, "copy")])
def test_a_full_disk_is_reported_and_what_was_read_is_kept(
    step: tuple[type, str], tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write(tmp_path, ["one text here", "another one there"])
    with monkeypatch.context() as patch, pytest.raises(CorpusError, match="No space left on device"):
        patch.setattr(*step, full)
        ready(path)
    assert [name[-11:] for name in folders(own_cache)] == [".unfinished"]
    prepared = ready(path)
    assert folders(own_cache) == [prepared.key]
    assert len(prepared.split("train")) == 1


def test_an_unusable_corpus_leaves_no_folder(tmp_path: Path, own_cache: Path) -> None:
    path = write(tmp_path, ["one short text"])
    with pytest.raises(CorpusError, match="has a single text"):
        ready(path)
    path.write_text("nonsense")
    with pytest.raises(RecordError):
        ready(path)
    assert folders(own_cache) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from domain_ft.corpus import prepared, workers
from domain_ft.corpus.corpus import open_corpus

prepared._EXAMINED, prepared._COMMIT_BATCHES = 2_000, 2
workers.FEW_BATCHES, workers.cores = 1, lambda: 1

def kill(label, done, total):
    if done == 200:
        os.kill(os.getpid(), signal.SIGKILL)

prepared.prepare(open_corpus(sys.argv[1], on_bad_record="skip"), evaluation_fraction=0.1, progress=kill)
"""


def test_a_killed_preparation_is_continued(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_module, "_EXAMINED", 2_000)
    monkeypatch.setattr(workers, "cores", lambda: 1)
    texts = [" ".join(article(seed, 3)) for seed in range(250)]
    lines = [json.dumps({"text": text}) for text in texts]
    for place in range(0, 250, 40):  # all over the file, records that are left out for different reasons
        lines[place : place + 1] = [
            "nonsense",
            lines[place],
            json.dumps({"text": texts[place // 2].upper()}),
            '{"text": " "}',
        ]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(lines))
    with monkeypatch.context() as patch:
        patch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "other"))
        whole = ready(path, on_bad_record="skip")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL

    examined: list[str] = []
    examine = prepared_module._examine_one

    def watched(document: SourceDocument) -> prepared_module.Examined:
        examined.append(document.id)
        return examine(document)

    monkeypatch.setattr(prepared_module, "_examine_one", watched)
    resumed = ready(path, on_bad_record="skip")
    assert 50 <= len(examined) <= whole.statistics.read - 180
    assert resumed.statistics == whole.statistics
    assert (resumed.statistics.rejects, resumed.statistics.empty, resumed.statistics.exact_duplicates) == (7, 7, 7)
    for name in ("train.arrow", "evaluation.arrow", "rejects.jsonl", "statistics.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert folders(own_cache) == [resumed.key]


def test_what_was_read_is_not_read_again_after_an_interruption(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path = write(tmp_path, ["one text here", "another one there"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepared_module, "write_json", interrupt)
        ready(path)
    monkeypatch.setattr(prepared_module, "_examine_one", lambda document: pytest.fail("a document was signed again"))
    assert len(ready(path).split("train")) == 1


def test_languages_are_counted_if_the_source_states_them(tmp_path: Path) -> None:
    folder = tmp_path / "licences"
    folder.mkdir()
    for number, language in enumerate(["", "", "language: de\n"]):
        content = f"---\nkey: x-{number}\n{language}---\n\n{' '.join(article(number))}\n"
        (folder / f"x-{number}.LICENSE").write_text(content)
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[[sources]]\nkind = "files"\npath = "licences"\nreader = "licences"\n')
    assert ready(recipe).statistics.languages == {"de": 1}


def test_progress_is_reported(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = write(tmp_path, [" ".join(article(seed, 2)) for seed in range(250)])
    prepare(open_corpus(str(path)), progress=lambda *step: seen.append(step))
    label = f"reading {tmp_path.name}-texts"
    assert (label, 100, None) in seen and (label, 250, 250) in seen


@pytest.mark.slow
@pytest.mark.assets
def test_the_legal_corpus_does_not_leak() -> None:
    """2,310 licences, many in families of near copies."""
    prepared = prepare(open_corpus("legal"))
    statistics = prepared.statistics
    assert statistics.read == 2310 and 1900 < statistics.kept < 2150
    assert statistics.languages["de"] >= 5
    evaluation = list(prepared.split("evaluation").documents())
    assert 60 < len(evaluation) < 250
    assert leaks(list(prepared.split("train").documents()), evaluation) == 0


@pytest.mark.assets
def test_the_medical_corpus_reads_as_text() -> None:
    documents = {document.id: document for document in open_corpus("medical").documents()}
    assert len(documents) > 17_000
    assert documents["HP:0000003"].text.startswith(
        "Multicystic kidney dysplasia\nMulticystic dysplasia of the kidney is"
    )
    assert documents["A00"].text.startswith("A00 Cholera\nA00.0 Cholera due to Vibrio cholerae 01, biovar cholerae")
    assert min(len(document.text) for document in documents.values()) > 10
