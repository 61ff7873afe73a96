"""The texts for --read-first: training and validation texts without labels, and unlabelled texts, but no test texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from domain_ft.corpus.cleaning import clean, normalise
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.examples import Example
from domain_ft.corpus.unlabelled import Gathered, Unlabelled, gather_texts, open_unlabelled
from domain_ft.errors import CorpusError, RecordError
from domain_ft.randomness import generator


class Listed(list[Example]):
    """Examples in a list."""

    key = "listed"

    def take(self, indices: npt.ArrayLike) -> Listed:
        return Listed(self[index] for index in np.asarray(indices).tolist())


def sentence(number: int, words: int = 12) -> str:
    """A text that resembles no other."""
    draw = generator(0, "sentence", number)
    return " ".join("".join(draw.choice(list("abcdefghij"), 6)) for _ in range(words))


def examples(texts: Sequence[str | tuple[str, str]]) -> Listed:
    parts = [(text, None) if isinstance(text, str) else text for text in texts]
    return Listed(Example(f"e{number}", text, ("label",), pair=pair) for number, (text, pair) in enumerate(parts))


def splits(train: Sequence[Any], validation: Sequence[Any] = (), test: Sequence[Any] = ()) -> dict[str, Listed]:
    return {"train": examples(train), "validation": examples(validation), "test": examples(test)}


def write_pool(path: Path, records: Sequence[Any]) -> Path:
    lines = [json.dumps({"text": one} if isinstance(one, str) else one) for one in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pool_of(path: Path) -> Unlabelled:
    return Unlabelled(open_corpus(str(path)), str(path))


def texts_in(path: Path) -> list[str]:
    *lines, after = path.read_text(encoding="utf-8").split("\n")
    assert after == ""
    return [json.loads(line)["text"] for line in lines]


def compared(texts: Sequence[str]) -> set[str]:
    """The texts in the form in which copies are equal."""
    return {normalise(clean(text)) for text in texts} - {""}


def test_training_and_validation_texts_are_read_and_no_test_text(tmp_path: Path) -> None:
    a, b, c, d = map(sentence, range(4))
    found = gather_texts(splits([a, b], [c], [d]), into=tmp_path / "texts.jsonl")
    assert texts_in(tmp_path / "texts.jsonl") == [a, b, c]
    assert (found.texts, found.labelled, found.unlabelled, found.copies, found.left_out) == (3, 3, 0, 0, 0)


def test_nothing_of_a_label_is_written(tmp_path: Path) -> None:
    gather_texts(splits([sentence(0), sentence(1)]), into=tmp_path / "texts.jsonl")
    records = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert all(set(record) == {"id", "text"} for record in records)
    assert len({record["id"] for record in records}) == 2
    assert "label" not in (tmp_path / "texts.jsonl").read_text()


def test_both_texts_of_a_pair_are_read_and_a_shared_one_once(tmp_path: Path) -> None:
    premise, one, two = map(sentence, range(3))
    found = gather_texts(splits([(premise, one), (premise, two)]), into=tmp_path / "texts.jsonl")
    assert texts_in(tmp_path / "texts.jsonl") == [premise, one, two]
    assert (found.labelled, found.copies) == (3, 1)


def test_copies_are_read_once(tmp_path: Path) -> None:
    """Copies may differ in case, white space and Unicode form, as everywhere."""
    text, other = sentence(0), sentence(1)
    pool = write_pool(tmp_path / "pool.jsonl", [text.upper(), f"  {other}\n", sentence(2), sentence(2)])
    found = gather_texts(splits([text, text], [other]), pool_of(pool), into=tmp_path / "texts.jsonl")
    assert texts_in(tmp_path / "texts.jsonl") == [text, other, sentence(2)]
    assert (found.labelled, found.unlabelled, found.copies) == (2, 1, 4)


def test_unlabelled_texts_that_contain_a_test_text_are_left_out(tmp_path: Path) -> None:
    test = sentence(9, words=40)
    words = test.split()
    near = " ".join([*words[:20], "another", *words[21:]])
    longer = f"{sentence(3)} {test} {sentence(4)}"
    apart = sentence(5)
    pool = write_pool(tmp_path / "pool.jsonl", [test, test.upper(), near, longer, apart])
    found = gather_texts(splits([sentence(0), sentence(1)], [], [test]), pool_of(pool), into=tmp_path / "texts.jsonl")
    assert texts_in(tmp_path / "texts.jsonl")[2:] == [apart]
    assert (found.left_out, found.unlabelled) == (4, 1)


def test_unlabelled_copies_of_either_text_of_a_test_pair_are_left_out(tmp_path: Path) -> None:
    premise, hypothesis, other = map(sentence, range(10, 13))
    pool = write_pool(tmp_path / "pool.jsonl", [premise, hypothesis, other])
    task = splits([(sentence(0), sentence(1))], [], [(premise, hypothesis)])
    found = gather_texts(task, pool_of(pool), into=tmp_path / "texts.jsonl")
    assert texts_in(tmp_path / "texts.jsonl")[2:] == [other]
    assert found.left_out == 2


@pytest.mark.parametrize(
    "words", [["今日は良い天気です。", "明日は雨が降ります。", "契約は終了しました。"], ["şöyle", "böyle", "ışık"]]
)
def test_short_texts_of_any_script_are_compared(tmp_path: Path, words: list[str]) -> None:
    pool = write_pool(tmp_path / "pool.jsonl", [words[2], sentence(7)])
    found = gather_texts(splits(words[:2], [], [words[2]]), pool_of(pool), into=tmp_path / "texts.jsonl")
    assert texts_in(tmp_path / "texts.jsonl") == [*words[:2], sentence(7)]
    assert found.left_out == 1


_TEXTS = st.lists(st.integers(0, 7).map(sentence) | st.text(max_size=30), max_size=8)


@settings_of_hypothesis(max_examples=40)
@given(train=_TEXTS, validation=_TEXTS, test=_TEXTS, pool=_TEXTS)
def test_whatever_is_given_each_text_is_read_once_and_no_test_text_comes_from_the_pool(
    tmp_path_factory: pytest.TempPathFactory,
    train: list[str],
    validation: list[str],
    test: list[str],
    pool: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    task = splits([*train, sentence(100), sentence(101)], validation, test)
    pooled = write_pool(folder / "pool.jsonl", [*pool, sentence(102)])
    found = gather_texts(task, pool_of(pooled), into=folder / "texts.jsonl")
    written = [normalise(text) for text in texts_in(folder / "texts.jsonl")]
    assert len(written) == len(set(written)) == found.texts
    assert "" not in written
    labelled, added = written[: found.labelled], written[found.labelled :]
    assert set(labelled) == compared([*train, *validation, sentence(100), sentence(101)])
    assert not set(added) & compared(test)
    assert found.digest == hashlib.sha256((folder / "texts.jsonl").read_bytes()).hexdigest()


def test_counts_are_the_same_when_nothing_is_written(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.jsonl", [sentence(5), sentence(0)])
    task = splits([sentence(0), sentence(1)], [sentence(2)], [sentence(5)])
    counts = [gather_texts(task, pool_of(pool), into=into) for into in (tmp_path / "texts.jsonl", None)]
    assert counts[0] == counts[1]


def test_many_texts_are_compared_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domain_ft.corpus.unlabelled._BATCH", 50)
    monkeypatch.setattr("domain_ft.corpus.workers.cores", lambda: 2)
    pool = write_pool(tmp_path / "pool.jsonl", [sentence(number) for number in range(20)])
    found = gather_texts(
        splits([sentence(100), sentence(101)], [], [sentence(3), sentence(4)]),
        pool_of(pool),
        into=tmp_path / "texts.jsonl",
    )
    assert texts_in(tmp_path / "texts.jsonl")[2:] == [sentence(number) for number in range(20) if number not in (3, 4)]
    assert found.left_out == 2


def test_a_single_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"only one text to read[\s\S]*--unlabelled F"):
        gather_texts(splits([sentence(0), sentence(0).upper()]), into=tmp_path / "texts.jsonl")


@pytest.mark.parametrize(
    ("records", "reason"),
    [(["", " \n"], r"2 were empty"), ([sentence(9)], r"1 hold the text of a test example")],
)
def test_an_unlabelled_file_with_nothing_to_read_is_refused(tmp_path: Path, records: list[str], reason: str) -> None:
    pool = write_pool(tmp_path / "pool.jsonl", records)
    with pytest.raises(CorpusError, match=f"--unlabelled .*pool.jsonl has no text that can be read .*{reason}"):
        gather_texts(
            splits([sentence(0), sentence(1)], [], [sentence(9)]), pool_of(pool), into=tmp_path / "texts.jsonl"
        )


def test_an_empty_file_and_a_bad_record_stop_with_the_file_and_line(tmp_path: Path) -> None:
    task = splits([sentence(0), sentence(1)])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RecordError, match="the file is empty"):
        gather_texts(task, pool_of(tmp_path / "empty.jsonl"), into=tmp_path / "texts.jsonl")
    pool = tmp_path / "bad.jsonl"
    pool.write_text(f'{{"text": "{sentence(3)}"}}\n{{"text": \n')
    with pytest.raises(RecordError, match=r"bad\.jsonl, line 2"):
        gather_texts(task, pool_of(pool), into=tmp_path / "texts.jsonl")
    skipped = open_unlabelled(str(pool), [], on_bad_record="skip")
    found = gather_texts(task, skipped, into=tmp_path / "texts.jsonl")
    assert [(one.file, one.line) for one in found.rejects] == [("bad.jsonl", 2)]
    assert found.unread.records == 1


@pytest.mark.parametrize(
    ("record", "fields", "read"),
    [
        ({"body": "the body", "title": "the title"}, ["body"], "the body"),
        ({"one": "first text", "two": "second text"}, ["one", "two"], "first text\n\nsecond text"),
        ({"one": "first text", "text": "other text"}, ["one", "two"], "first text"),
        ({"text": "other text", "title": "the title"}, ["body"], "other text"),
        ({"text": "other text"}, [], "other text"),
    ],
)
def test_the_field_is_that_of_the_examples_if_the_records_have_it(
    tmp_path: Path, record: dict[str, str], fields: list[str], read: str
) -> None:
    pool = write_pool(tmp_path / "pool.jsonl", [record])
    found: Gathered = gather_texts(
        splits([sentence(0), sentence(1)]), open_unlabelled(str(pool), fields), into=tmp_path / "texts.jsonl"
    )
    assert texts_in(tmp_path / "texts.jsonl")[2:] == [read]
    assert set(found.unread.fields) == set(record) - {name for name in record if record[name] in read}


def test_a_folder_of_texts_is_read_and_its_other_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    for number in (5, 6):
        (folder / f"{number}.txt").write_text(sentence(number))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    found = gather_texts(
        splits([sentence(0), sentence(1)]), open_unlabelled(str(folder), ["body"]), into=tmp_path / "texts.jsonl"
    )
    assert texts_in(tmp_path / "texts.jsonl")[2:] == [sentence(5), sentence(6)]
    assert [Path(one.file).name for one in found.unread.files] == ["picture.png"]


def test_a_missing_unlabelled_file_is_refused() -> None:
    with pytest.raises(CorpusError, match="no such file"):
        open_unlabelled("no-such-folder/pool.jsonl", ["text"])
