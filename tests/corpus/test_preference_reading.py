"""Files of preferences: all kinds are read alike, prompts are in one split only, and nothing is left out silently."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.preferences.examples import PreferenceExample, RatedExample
from domain_ft.corpus.preferences.fields import PreferenceChoice
from domain_ft.corpus.preferences.reading import PreferenceData, PreferenceSource, open_preferences, prompt_text
from domain_ft.corpus.readers.base import Reject
from domain_ft.errors import CorpusError, RecordError
from domain_ft.randomness import generator

WORDS = ["bone", "fox", "law", "heart", "dog", "work", "terms", "growth", "bird", "holder", "wolf", "notice", "rain"]


def text(number: int, length: int = 30) -> str:
    return " ".join(generator(0, "text", number).choice(WORDS, length))


def records(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{text(3 * n, 12)}?", "chosen": f"{text(3 * n + 1)}.", "rejected": f"{text(3 * n + 2)}."}
        for n in range(first, first + count)
    ]


def rated(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": one["prompt"], "completion": one["chosen"], "label": number % 2}
        for number, one in enumerate(records(count))
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def opened(path: Path, **options: Any) -> PreferenceData:
    return open_preferences(PreferenceSource(str(path), **options))


# --- Files ------------------------------------------------------------------------------------------------------------


def as_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    return write(folder / "a.jsonl", rows)


def as_json(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "a.json"


def as_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    with (folder / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "a.csv"


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize("make", [as_jsonl, as_json, as_csv, as_parquet])
@pytest.mark.parametrize("rows", [[{**one, "margin": 1.5} for one in records(12)], rated(12)], ids=["pairs", "rated"])
def test_every_kind_of_file_is_read_alike(
    make: Callable[[Path, list[dict[str, Any]]], Path], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = opened(make(tmp_path, rows), test_fraction=0.25)
    found = []
    for example in [*data.train, *data.test]:
        answers = tuple(answer[0].content for answer in example.answers)
        judged = example.margin if isinstance(example, PreferenceExample) else int(example.desirable)
        found.append((example.prompt[0].content, *answers, judged))
    assert sorted(found) == sorted(tuple(row.values()) for row in rows)


def test_messages_in_parquet_are_read(tmp_path: Path) -> None:
    asked, no = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}
    chosen = [[asked, {"role": "assistant", "content": text(number)}] for number in range(2)]
    rows = [{"chosen": one, "rejected": [asked, no]} for one in chosen]
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[1:]), tmp_path / "b.parquet")
    data = opened(tmp_path / "a.parquet", test=str(tmp_path / "b.parquet"))
    assert [turn.content for turn in data.train[0].prompt] == ["Why?"]
    assert (len(data.train), len(data.test), data.facts["leaks"]) == (1, 1, 1)


def test_facts_and_key(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [{**one, "extra": "x"} for one in records(20)])
    data = opened(path)
    assert (data.kind, data.format, data.name) == ("pairs", "pairs", "pairs")
    assert data.facts["examples"] == data.facts["prompts"] == {"train": 18, "test": 2}
    assert dict(data.left_out.fields) == {"extra": 20}
    assert opened(path).key == data.key
    assert opened(write(tmp_path / "b.jsonl", records(19))).key != data.key
    swapped = [{"prompt": one["prompt"], "chosen": one["rejected"], "rejected": one["chosen"]} for one in records(20)]
    assert opened(write(path, swapped)).key != data.key


# --- Splits -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=12, max_size=40))
def test_a_prompt_is_in_one_split_only(numbers: list[int]) -> None:
    """Copies of a prompt, also with other case and spaces, stay together whatever their answers are."""
    prompts = [one["prompt"] for one in records(10)]
    rows = []
    for place, number in enumerate([*range(10), *numbers]):
        prompt = prompts[number].upper() if place % 2 else f" {prompts[number]}  "
        rows.append({"prompt": prompt, "chosen": text(100 + place), "rejected": text(200 + place)})
    with tempfile.TemporaryDirectory() as folder:
        data = opened(write(Path(folder) / "a.jsonl", rows), test_fraction=0.3)
    assert len(data.train) + len(data.test) == len(rows)
    assert set(map(prompt_text, data.train)).isdisjoint(map(prompt_text, data.test))


def test_near_copies_of_a_prompt_and_records_of_one_source_stay_together(tmp_path: Path) -> None:
    rows = records(30)
    long = text(999, 80)
    near = [{**one, "prompt": f"{long} {WORDS[n]}?"} for n, one in enumerate(records(5, 100))]
    grouped = [{**one, "who": "x"} for one in records(5, 200)]
    path = write(tmp_path / "a.jsonl", [{**one, "who": f"p{n}"} for n, one in enumerate(rows + near)] + grouped)
    for fraction in (0.15, 0.3, 0.5):
        data = opened(path, test_fraction=fraction, choice=PreferenceChoice(group_field="who"))
        held = {example.id for example in data.test}
        for first in (31, 36):
            together = {f"a.jsonl:{line}" for line in range(first, first + 5)}
            assert together <= held or together.isdisjoint(held)


def test_a_test_file_is_used_as_it_is_and_its_leaks_are_counted(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", records(20))
    shared = {**records(1)[0], "chosen": "Another answer."}
    test = write(tmp_path / "b.jsonl", [*records(3, 50), shared])
    data = opened(train, test=str(test))
    assert (len(data.train), len(data.test)) == (20, 4)
    assert data.facts["leaks"] == 1
    assert data.facts["leak_list"] == [{"test": "b.jsonl:4", "train": "a.jsonl:1", "similarity": 1.0}]
    assert any("1 of the 4 test examples" in note for note in data.notes)


def test_a_test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", records(3)), write(tmp_path / "b.jsonl", rated(3))
    with pytest.raises(CorpusError, match="holds rated answers, but the training file pairs"):
        opened(train, test=str(test))


def test_too_few_prompts_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**one, "prompt": "Why?"} for one in records(5)])
    with pytest.raises(CorpusError, match="none of the 5 examples can be held out"):
        opened(path)


# --- What is left out -------------------------------------------------------------------------------------------------


def test_a_bad_record_stops_with_its_line_and_field_or_is_listed(tmp_path: Path) -> None:
    bad = {"prompt": "Why?", "chosen": "So.", "rejected": "So."}
    path = write(tmp_path / "a.jsonl", [*records(20), bad])
    with pytest.raises(RecordError) as caught:
        opened(path)
    assert "line 21" in str(caught.value)
    assert "rejected" in str(caught.value)
    rejects: list[Reject] = []
    source = PreferenceSource(str(path), on_bad_record="skip")
    data = open_preferences(source, rejects=rejects.append)
    assert [(one.file, one.line, one.field) for one in rejects] == [("a.jsonl", 21, "rejected")]
    assert data.left_out.records == data.facts["rejects"] == 1
    assert data.facts["ties"] == 0


def test_ties_are_counted_and_listed(tmp_path: Path) -> None:
    rows = [{**one, "score_chosen": 3, "score_rejected": n % 4} for n, one in enumerate(records(20)) if n % 4 != 2]
    rejects: list[Reject] = []
    data = open_preferences(PreferenceSource(str(write(tmp_path / "a.jsonl", rows))), rejects=rejects.append)
    assert data.facts["ties"] == len(rejects) == 5
    assert len(data.train) + len(data.test) == 10
    assert all("same score" in one.reason for one in rejects)
    assert any(note.startswith("5 pairs of answers are equally good") for note in data.notes)


def test_ratings_of_one_kind_are_noted(tmp_path: Path) -> None:
    data = opened(write(tmp_path / "a.jsonl", [{**one, "label": 1} for one in rated(20)]))
    assert all(isinstance(example, RatedExample) and example.desirable for example in data.train)
    assert any("rated as good" in note for note in data.notes)


def test_files_that_hold_no_preferences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="these are not preferences: the fields are question, answer"):
        opened(write(tmp_path / "a.jsonl", [{"question": "Why?", "answer": "So."}]))
    with pytest.raises(CorpusError, match="have neither scores nor ranks"):
        opened(write(tmp_path / "a.jsonl", [{"prompt": "Why?", "responses": ["So.", "No."]}]))
    (tmp_path / "a.txt").write_text("Why?", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"preferences cannot be read from a file ending in '\.txt'"):
        opened(tmp_path / "a.txt")
