"""`data split`, `data mix` and `data sample`: what they write and show, and that refused data writes nothing."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_files import alpacas, chats, left_in, lines, save_decoder, words, write
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from transformers import AutoTokenizer

from domain_ft.cli import main
from domain_ft.corpus.conversations.formats import FieldChoice
from domain_ft.corpus.conversations.reading import ConversationSource, iterate_conversations, open_conversations
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import encode_conversations
from domain_ft.corpus.near_copies import text_fingerprints
from domain_ft.corpus.readers.base import BadRecords
from domain_ft.errors import CorpusError, RecordError, SettingsError
from domain_ft.verbs.data.mix import mix
from domain_ft.verbs.data.sample import sample
from domain_ft.verbs.data.settings import DataMixSettings, DataSampleSettings, DataSplitSettings
from domain_ft.verbs.data.split import PARTS, Split, _parts_of, split

# --- data split -------------------------------------------------------------------------------------------------------


def split_of(data: Path, output: Path, **changes: Any) -> Split:
    return split(DataSplitSettings(**{"data": str(data), "output": output, "test_fraction": 0.2} | changes))


def part_of(found: Split) -> dict[str, str]:
    """The part of each line."""
    return {line: part for part, written in found.parts.items() for line in lines(written.file)}


def test_every_line_goes_to_one_part_as_it_is(tmp_path: Path) -> None:
    """A split does not change numbers, spacing and escapes."""
    records = [json.dumps(record, ensure_ascii=bool(i % 2)) for i, record in enumerate(chats(300))]
    records[3] = records[3].replace('{"messages"', '{ "weight": 1.50e+3,  "messages"')
    data = write(tmp_path / "all.jsonl.gz", [records[0], "", *records[1:]])
    found = split_of(data, tmp_path / "parts", validation_fraction=0.1)
    assert left_in(tmp_path / "parts") == ["test.jsonl", "train.jsonl", "validation.jsonl"]
    written = [line for part in found.parts.values() for line in lines(part.file)]
    assert Counter(written) == Counter(records)
    assert {part: len(lines(one.file)) for part, one in found.parts.items()} == {
        part: one.records for part, one in found.parts.items()
    }
    for part in found.parts.values():  # in the order of the file
        places = [records.index(line) for line in lines(part.file)]
        assert places == sorted(places)
    assert found.records == 300


def test_the_shares_are_met_on_average(tmp_path: Path) -> None:
    data = write(tmp_path / "all.jsonl", ({"text": words(i)} for i in range(2000)))
    found = split_of(data, tmp_path / "parts", validation_fraction=0.1)
    assert found.parts["test"].records / 2000 == pytest.approx(0.2, abs=0.03)  # three standard errors
    assert found.parts["validation"].records / 2000 == pytest.approx(0.1, abs=0.02)


def test_a_split_depends_on_content_alone(tmp_path: Path) -> None:
    """The same file gives the same parts; further records and another order do not move a record."""
    records = [json.dumps(record) for record in chats(200)]
    first = split_of(write(tmp_path / "a.jsonl", records), tmp_path / "a")
    again = split_of(tmp_path / "a.jsonl", tmp_path / "again")
    for part in first.parts:
        assert (tmp_path / "a" / f"{part}.jsonl").read_bytes() == (tmp_path / "again" / f"{part}.jsonl").read_bytes()
    assert again.records == 200
    more = [*records, *map(json.dumps, chats(150, begin=500))]
    random.Random(0).shuffle(more)
    grown = part_of(split_of(write(tmp_path / "b.jsonl", more), tmp_path / "b"))
    assert {line: grown[line] for line in records} == part_of(first)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**64 - 1)), min_size=1), st.floats(0.01, 0.5))
def test_families_stay_together_and_none_is_larger_than_the_share_of_its_part(
    rows: list[tuple[int, int]], share: float
) -> None:
    groups = np.unique([group for group, _ in rows], return_inverse=True)[1]
    parts = _parts_of(groups, np.array([key for _, key in rows], np.uint64), {"validation": 0.2, "test": share})
    for group in set(groups.tolist()):
        members = parts[groups == group]
        assert len(set(members.tolist())) == 1
        limit = {"train": len(rows), "validation": max(0.2 * len(rows), 1), "test": max(share * len(rows), 1)}
        assert len(members) <= limit[PARTS[members[0]]]


def test_the_pairs_of_a_prompt_are_in_one_part(tmp_path: Path) -> None:
    prompts = [f"{words(number, 12)}?" for number in range(30)]
    pairs = [
        {"prompt": prompts[number % 30], "chosen": f"So {number}.", "rejected": f"No {number}."} for number in range(90)
    ]
    source = write(tmp_path / "a.jsonl", pairs)
    made = split(DataSplitSettings(data=str(source), output=tmp_path / "parts", test_fraction=0.3))
    parts = [{json.loads(line)["prompt"] for line in lines(part.file)} for part in made.parts.values() if part.records]
    assert len(parts) == 2
    assert parts[0].isdisjoint(parts[1])
    assert parts[0] | parts[1] == set(prompts)


def test_what_is_split_off_is_not_what_other_verbs_hold_out(tmp_path: Path) -> None:
    """They choose by the hash of a text, so the remaining texts must have evenly spread hashes."""
    data = write(tmp_path / "all.jsonl", ({"text": words(i)} for i in range(1000)))
    found = split_of(data, tmp_path / "parts")
    prints = text_fingerprints(json.loads(line)["text"] for line in lines(found.parts["train"].file))
    assert (prints.digests["hash"] < 0.2 * 2**64).mean() == pytest.approx(0.2, abs=0.05)


def test_test_examples_can_be_held_out_of_the_training_part(tmp_path: Path) -> None:
    found = split_of(write(tmp_path / "all.jsonl", chats(100)), tmp_path / "parts")
    data = open_conversations(ConversationSource(str(found.parts["train"].file)))
    assert len(data.test) > 2


def test_copies_and_near_copies_and_equal_questions_stay_together(tmp_path: Path) -> None:
    """Each conversation, one with a word added, and one with the question in capitals and another answer."""
    records = []
    for i, record in enumerate(chats(120)):
        asked, answer = (message["content"] for message in record["messages"])
        for said in ((asked, answer), (asked + " " + words(i, 1), answer), (asked.upper(), words(i + 50_000))):
            roles = ("user", "assistant")
            records.append(
                json.dumps({"messages": [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]})
            )
    found = split_of(write(tmp_path / "all.jsonl", records), tmp_path / "parts")
    parts = part_of(found)
    assert all(len({parts[line] for line in records[i : i + 3]}) == 1 for i in range(0, 360, 3))
    assert (found.families, found.in_families, found.joined) == (120, 360, "near copies")
    assert found.compared_by == "what is asked and answered"


def test_records_of_one_source_stay_together(tmp_path: Path) -> None:
    records = [{"text": words(i), "case": f"c{i // 4}", "label": "x"} for i in range(200)]
    found = split_of(write(tmp_path / "all.jsonl", records), tmp_path / "parts", group_field="case")
    cases = [{json.loads(line)["case"] for line in lines(part.file)} for part in found.parts.values()]
    assert not cases[0] & cases[1]
    assert found.families == 50
    assert found.compared_by == "the field text"


def test_copies_are_found_by_the_text_and_not_by_the_id(tmp_path: Path) -> None:
    records = [{"id": words(i + 90_000), "text": f"Short {i // 2}."} for i in range(200)]
    found = split_of(write(tmp_path / "all.jsonl", records), tmp_path / "parts")
    assert found.families == 100


def test_one_long_system_text_makes_no_family(tmp_path: Path) -> None:
    data = write(tmp_path / "all.jsonl", chats(100, system=words(7, 300)))
    assert split_of(data, tmp_path / "parts").families == 0


def test_examples_of_one_long_instruction_are_still_split(tmp_path: Path) -> None:
    records = [{"instruction": words(7, 300), "input": words(i, 6), "output": "yes"} for i in range(200)]
    found = split_of(write(tmp_path / "all.jsonl", records), tmp_path / "parts")
    assert found.joined in ("nearest copies", "copies")
    assert 20 <= found.parts["test"].records <= 60


def test_tables_become_json_lines(tmp_path: Path) -> None:
    rows = [{"question": f'{words(i)}, "or"\nnot?', "answer": words(i + 1000), "number": i} for i in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "all.parquet")
    (tmp_path / "all.json").write_text(json.dumps(rows), encoding="utf-8")
    with (tmp_path / "all.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    parts = {}
    for ending in ("parquet", "json", "csv"):
        found = split_of(tmp_path / f"all.{ending}", tmp_path / ending)
        records = [json.loads(line) for part in found.parts.values() for line in lines(part.file)]
        assert sorted(records, key=lambda r: int(r["number"])) == [
            row | {"number": str(row["number"])} if ending == "csv" else row for row in rows
        ]
        parts[ending] = {record["question"] for record in map(json.loads, lines(found.parts["test"].file))}
    assert parts["parquet"] == parts["json"] == parts["csv"]


def test_values_that_json_cannot_hold_become_text_or_are_refused(tmp_path: Path) -> None:
    """Dates and decimals become text; bytes are refused with the place of the record, and nothing is written."""
    rows = [{"text": words(i), "day": datetime.date(2026, 1, 5), "sum": decimal.Decimal("1.50")} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dates.parquet")
    found = split_of(tmp_path / "dates.parquet", tmp_path / "dates")
    record = json.loads(lines(found.parts["train"].file)[0])
    assert (record["day"], record["sum"]) == ("2026-01-05", "1.50")
    pq.write_table(pa.Table.from_pylist([row | {"raw": b"\xff"} for row in rows]), tmp_path / "bytes.parquet")
    with pytest.raises(CorpusError, match="bytes") as refused:
        split_of(tmp_path / "bytes.parquet", tmp_path / "bytes")
    assert "bytes.parquet, line 1" in str(refused.value)
    assert left_in(tmp_path) == ["bytes.parquet", "dates", "dates.parquet"]


def test_a_lone_surrogate_stays_an_escape(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(json.dumps([{"text": words(i) + "\ud83d"} for i in range(40)]), encoding="utf-8")
    found = split_of(tmp_path / "all.json", tmp_path / "parts")
    assert json.loads(lines(found.parts["train"].file)[0])["text"].endswith("\ud83d")


@pytest.mark.parametrize(
    ("spoil", "changes", "said"),
    [
        (lambda r: [*r[:4], '{"messages": ', *r[5:]], {}, "all.jsonl, line 5"),
        (lambda r: [*r[:4], '{"messages": []}', *r[5:]], {}, "all.jsonl, line 5"),
        (lambda r: [*r[:4], '{"text": "other"}', *r[5:]], {}, 'line 5, field "messages"'),
        (lambda r: r, {"group_field": "case"}, 'line 1, field "case"'),
        (lambda r: r, {"text_field": "body"}, 'line 1, field "body"'),
        (lambda r: [], {}, "the file is empty"),
        (lambda r: r[:3], {"test_fraction": 0.01}, "the part 'test' would be empty: the file has 3 records"),
        (lambda r: r[:1], {}, "the file has 1 record, and the largest group"),
        (lambda r: [r[0]] * 50, {}, "the largest group of copies holds 50"),
    ],
)
def test_what_cannot_be_split_is_refused_and_nothing_is_written(
    spoil: Callable[[list[str]], list[str]], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    data = write(tmp_path / "all.jsonl", spoil([json.dumps(record) for record in chats(50)]))
    with pytest.raises(CorpusError) as refused:
        split_of(data, tmp_path / "parts", **changes)
    assert said in str(refused.value)
    assert "--on-bad-record" not in str(refused.value)  # there is no such option here
    assert left_in(tmp_path) == ["all.jsonl"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_fraction": 0.0}, "nothing is split off"),
        ({"test_fraction": 0.6, "validation_fraction": 0.4}, "leave nothing to train on"),
    ],
)
def test_shares_that_make_no_sense_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        split_of(write(tmp_path / "all.jsonl", chats(30)), tmp_path / "parts", **changes)


@pytest.mark.parametrize("name", ["no-such.jsonl", "notes.txt", "folder"])
def test_what_is_no_file_of_records_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError):
        split_of(tmp_path / name, tmp_path / "parts")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "all.jsonl", chats(60))
    parts = tmp_path / "parts"
    parts.mkdir()
    split_of(data, parts)
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    with pytest.raises(SettingsError, match="exists already"):
        split_of(data, parts, test_fraction=0.5)
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before


def test_the_split_on_the_screen_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "all.jsonl", [*chats(60), *chats(3)])
    assert main(["data", "split", str(data), "--output", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "train" in shown
    assert "6 of 63 records are near copies" in " ".join(shown.split())
    assert max(map(cell_len, shown.splitlines())) <= 80
    assert main(["data", "split", str(data), "--output", str(tmp_path / "b"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["records"] == 63 == sum(part["records"] for part in result["parts"].values())
    assert Path(result["parts"]["test"]["file"]).is_file()


# --- data mix ---------------------------------------------------------------------------------------------------------


def turns(path: Path) -> list[Any]:
    """The turns of each conversation of a file."""
    read = iterate_conversations(path, FieldChoice(), BadRecords("stop", lambda _: None))
    return [conversation.turns for conversation in read]


def mixture(folder: Path, *data: str, name: str = "mixed.jsonl", **changes: Any) -> Any:
    return mix(DataMixSettings(data=data, output=folder / name, **changes))


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """A file of the user in chat form, and a general one in Alpaca's form."""
    own = write(tmp_path / "own.jsonl", chats(80))
    general = write(tmp_path / "general.jsonl", alpacas(200))
    return str(own), str(general)


def test_files_are_mixed_by_weight(two: tuple[str, str], tmp_path: Path) -> None:
    own, general = two
    found = mixture(tmp_path, f"{own}:8", f"{general}:2")
    assert [(one.conversations, one.taken, one.weight, one.share) for one in found.files] == [
        (80, 80, 0.8, 0.8),
        (200, 20, 0.2, 0.2),
    ]
    assert (found.conversations, found.notes) == (100, ())
    mixed = turns(tmp_path / "mixed.jsonl")
    assert all(mixed.count(one) == 1 for one in turns(Path(own)))
    others = [one for one in mixed if one not in turns(Path(own))]
    assert len(others) == 20
    assert all(one in turns(Path(general)) for one in others)
    assert all(set(json.loads(line)) == {"messages"} for line in lines(tmp_path / "mixed.jsonl"))
    assert mixed[:80] != turns(Path(own))  # in another order


def test_a_mixture_is_the_same_again_and_grows_with_a_weight(two: tuple[str, str], tmp_path: Path) -> None:
    own, general = two
    for name, weight, seed in (("a", 0.2, 0), ("b", 0.2, 0), ("c", 0.4, 0), ("d", 0.2, 1)):
        mixture(tmp_path, f"{own}:0.8", f"{general}:{weight}", name=f"{name}.jsonl", seed=seed)
    a, c, d = (set(lines(tmp_path / f"{name}.jsonl")) for name in "acd")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert a < c
    assert a != d


def test_a_file_that_is_too_short_is_used_whole_or_repeated(two: tuple[str, str], tmp_path: Path) -> None:
    own, general = two
    found = mixture(tmp_path, f"{general}:0.5", f"{own}:0.5")
    assert [one.taken for one in found.files] == [200, 80]
    assert "asks for 200" in found.notes[0]
    assert found.files[1].share == 80 / 280
    again = mixture(tmp_path, f"{general}:0.5", f"{own}:0.5", name="again.jsonl", repeat=True)
    assert [one.taken for one in again.files] == [200, 200]
    assert again.notes == (f"{own}: each conversation is used 2.5 times on average",)
    counts = Counter(lines(tmp_path / "again.jsonl"))
    assert sorted(counts.values()) == [1] * 200 + [2] * 40 + [3] * 40


def test_a_weight_of_less_than_one_conversation_is_noted(two: tuple[str, str], tmp_path: Path) -> None:
    own, general = two
    found = mixture(tmp_path, f"{own}:1", f"{general}:0.001")
    assert found.files[1].taken == 0
    assert "less than one conversation" in found.notes[0]


def test_a_file_with_nothing_to_train_on_is_named_with_the_reason(two: tuple[str, str], tmp_path: Path) -> None:
    own, general = two
    for count, said in ((1, "its one record is"), (2, "all 2 records are")):
        write(Path(general), ['{"prompt": "a", "completion": "b", "weight": 0}'] * count)
        with pytest.raises(
            CorpusError, match=f"holds no conversation: {said} marked as excluded from training"
        ) as refused:
            mixture(tmp_path / "new", f"{own}:0.8", f"{general}:0.2")
        assert refused.value.where == general
        assert "leave the file out" in str(refused.value.fix)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"instruction": "a", "output": ""}', 'general.jsonl, line 3, field "output"'),
        ('{"text": "no conversation"}', "general.jsonl, line 3"),
        ("{", "general.jsonl, line 3"),
    ],
)
def test_a_line_without_a_conversation_is_refused_and_nothing_is_written(
    line: str, said: str, two: tuple[str, str], tmp_path: Path
) -> None:
    own, general = two
    records = lines(Path(general))
    write(Path(general), [*records[:2], line, *records[3:]])
    with pytest.raises(RecordError) as refused:
        mixture(tmp_path / "new", f"{own}:0.8", f"{general}:0.2")
    assert said in str(refused.value)
    assert "--on-bad-record" not in str(refused.value)
    assert left_in(tmp_path) == ["general.jsonl", "own.jsonl"]


def test_all_that_is_wrong_with_the_weights_is_reported_at_once(two: tuple[str, str], tmp_path: Path) -> None:
    own, _ = two
    given = (own, f"{own}:0", "a.jsonl:x", "b.jsonl:-1", ":0.5", "c.jsonl:1", "c.jsonl:2")
    with pytest.raises(SettingsError) as refused:
        mixture(tmp_path, *given)
    assert str(refused.value).startswith("6 settings are wrong")
    assert f"{own}:0.2" in str(refused.value)


def test_an_output_that_exists_or_is_no_jsonl_is_refused(two: tuple[str, str], tmp_path: Path) -> None:
    own, general = two
    with pytest.raises(SettingsError, match="exists already"):
        mixture(tmp_path, f"{own}:0.8", f"{general}:0.2", name="own.jsonl")
    assert len(lines(Path(own))) == 80
    with pytest.raises(SettingsError, match=r"\.jsonl"):
        mixture(tmp_path, f"{own}:0.8", f"{general}:0.2", name="mixed.csv")


def test_the_mixture_on_the_screen_and_as_json(
    two: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, general = two
    words = ["data", "mix", f"{own}:0.8", f"{general}:0.2"]
    assert main([*words, "--output", str(tmp_path / "a.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert "20.0%" in shown
    assert "100 conversations in" in shown
    assert main([*words, "--output", str(tmp_path / "b.jsonl"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["conversations"] == 100
    assert [one["taken"] for one in result["files"]] == [80, 20]


# --- data sample ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "tiny-chat")


def shown_samples(data: Path, model: Path, **changes: Any) -> Any:
    return sample(DataSampleSettings(**{"data": str(data), "model": str(model), "max_length": 512} | changes))


def test_the_answers_and_the_ends_of_their_turns_are_what_is_trained_on(decoder: Path, tmp_path: Path) -> None:
    records = chats(20)
    data = write(tmp_path / "chats.jsonl", records)
    found = shown_samples(data, decoder, count=4)
    assert (found.template, found.conversations, len(found.samples)) == ("model", 20, 4)
    assert [one.line for one in found.samples] == sorted(one.line for one in found.samples)
    for one in found.samples:
        answer = records[one.line - 1]["messages"][1]["content"]
        assert [one.text[first:last] for first, last in one.spans] == [f"{answer}<|im_end|>"]
        assert "".join(text for _, text in one.parts) == one.text
    assert found == shown_samples(data, decoder, count=4)
    assert found != shown_samples(data, decoder, count=4, seed=1)


@pytest.mark.parametrize("max_length", [16, 40, 90, 512])
def test_tokens_are_counted_as_they_are_trained_on(max_length: int, decoder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "chats.jsonl", chats(6))
    found = shown_samples(data, decoder, count=6, max_length=max_length)
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    conversations = list(iterate_conversations(data, FieldChoice(), BadRecords("stop", lambda _: None)))
    long = encode_conversations(conversations, tokenizer, ChatTemplate.of(tokenizer), max_length=512)
    kept = np.minimum(long.lengths, max_length)
    for place, one in enumerate(found.samples):
        trained = long.pack([place]).trained
        assert one.trained_tokens == trained[:max_length].sum()
        assert one.tokens == (kept[place] if one.trained_tokens else 0)
        assert one.cut_tokens == long.lengths[place] - kept[place]
        assert (one.cut_at is None) == (one.cut_tokens == 0)
    try:
        rows = encode_conversations(conversations, tokenizer, ChatTemplate.of(tokenizer), max_length=max_length)
    except CorpusError:
        assert not any(one.trained_tokens for one in found.samples)
    else:
        assert rows.lengths.tolist() == [one.tokens for one in found.samples if one.tokens]
        assert rows.trained_tokens == sum(one.trained_tokens for one in found.samples)


def test_what_is_cut_off_is_marked(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "chats.jsonl", chats(1))
    whole = shown_samples(data, decoder).samples[0]
    length = whole.tokens - 10
    (one,) = shown_samples(data, decoder, max_length=length).samples
    assert one.cut_tokens == 10
    assert one.spans[0][1] == one.cut_at
    command = ["data", "sample", str(data), "--model", str(decoder), "--max-length", str(length)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "10 cut" in shown
    assert "⟦It is" in shown
    assert shown.index("⟧⟨") < shown.index("<|im_end|>⟩\n")
    assert max(map(cell_len, shown.splitlines())) <= 80
    assert main([*command[:-1], "8"]) == 0
    assert "because no trained token remains" in " ".join(capsys.readouterr().out.split())


def test_on_a_terminal_what_is_trained_is_in_colour_and_no_text_controls_it(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    record = {"prompt": "Ask [bold]\x1b[2J", "completion": "Answer [red]."}
    assert main(["data", "sample", str(write(tmp_path / "c.jsonl", [record])), "--model", str(decoder)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[1;32mAnswer [red].<|im_end|>" in shown
    assert "[bold]" in shown
    assert "\x1b[2J" not in shown
    assert "⟦" not in shown


def test_samples_as_json_and_what_cannot_be_read(
    decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [json.dumps(record, ensure_ascii=False) for record in chats(5)]
    data = write(tmp_path / "chats.jsonl", [records[0], '{"messages": []}', *records[1:]])
    command = ["data", "sample", str(data), "--model", str(decoder), "--count", "9"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [one["line"] for one in result["samples"]] == [1, 3, 4, 5, 6]
    assert [one["line"] for one in result["rejects"]] == [2]
    assert all(one["text"][slice(*one["spans"][0])].startswith("It is") for one in result["samples"])
    assert main(command) == 0
    assert "1 record is left out, the first on line 2" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(CorpusError, match="no conversation"):
        shown_samples(write(tmp_path / "none.jsonl", ['{"messages": []}']), decoder)


def test_a_model_without_a_template_gets_the_plain_one(decoder: Path, tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "plain", template=None)
    found = shown_samples(write(tmp_path / "chats.jsonl", alpacas(3)), folder)
    assert found.template == "plain"
    assert all(one.text.startswith("### User:\n") for one in found.samples)


FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that writes the reasoning of the last answer only."""


def test_a_conversation_in_several_texts_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_decoder(tmp_path / "model", template=FORGETS)
    answer = {"role": "assistant", "content": "So.", "reasoning_content": "Hm"}
    records = [{"messages": [{"role": "user", "content": f"Why {i}?"}, answer] * 2} for i in range(2)]
    data = write(tmp_path / "chats.jsonl", records)
    found = shown_samples(data, folder, count=2)
    assert (len(found.samples), found.drawn) == (4, 2)
    assert main(["data", "sample", str(data), "--model", str(folder)]) == 0
    assert "2 of 2 conversations in 4 texts, rendered by" in " ".join(capsys.readouterr().out.split())
