"""`data check`: exit status, JSON, and a screen of 80 columns that ten thousand findings do not flood."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from faulty_chat import LONG, planted, sound_row, write_faulty_chat, write_test_rows
from rich.cells import cell_len
from rich.console import Console
from tiny_models import save_tiny

from domain_ft.cli import main
from domain_ft.errors import SettingsError
from domain_ft.verbs.data.check import Checked, check, print_checked
from domain_ft.verbs.data.settings import DataCheckSettings


def printed(checked: Checked, width: int = 80) -> str:
    """What is shown on a terminal of `width` columns."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_checked(checked, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    write_faulty_chat(tmp_path / "chat.jsonl")
    return tmp_path / "chat.jsonl"


def test_json_has_every_fault_with_its_line_and_the_status_is_1(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_test_rows(chat.with_name("test.jsonl"))
    assert main(["data", "check", str(chat), "--test", str(chat.with_name("test.jsonl")), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"errors", "warnings", "statistics"}
    found = result["errors"] + result["warnings"]
    assert all(set(finding) == {"line", "field", "kind", "message"} for finding in found)
    assert {(finding["line"], finding["kind"]) for finding in found} == planted(test=True)
    assert result["statistics"]["kind"] == "conversations"
    assert result["statistics"]["format"] == "chat"
    assert result["statistics"]["prompt_characters"]["p95"] > 0


def test_a_sound_file_has_the_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sound.jsonl"
    path.write_text("".join(json.dumps(sound_row(number)) + "\n" for number in range(40)))
    assert main(["data", "check", str(path)]) == 0
    output = capsys.readouterr().out
    assert "No errors." in output
    assert "40 records" in output


def test_what_cannot_be_checked_has_the_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "none.jsonl")]) == 2
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(SettingsError, match="--model"):
        check(DataCheckSettings(data="chat.jsonl", max_length=100))
    with pytest.raises(SettingsError, match="--names"):
        check(DataCheckSettings(data="chat.jsonl", names="en_core_web_sm", private=False))


def test_the_screen_fits_80_columns_and_shows_no_private_value(chat: Path) -> None:
    text = printed(check(DataCheckSettings(data=str(chat))))
    assert max(map(cell_len, text.splitlines())) <= 80
    for words in ("unknown-role", "line 11", "messages[1].role", "characters of the prompt", "p95", "en "):
        assert words in text
    for value in ("jane.doe@example.org", "536-90-4399", "4111 1111 1111 1111", "AKIAIOSFODNN7EXAMPLE", "tr0ub4dor&3"):
        assert value not in text


@pytest.mark.slow
def test_ten_thousand_findings_stay_readable(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"messages": [{"role": "bot", "content": "Yes."}]}\n' * 10_000)
    checked = check(DataCheckSettings(data=str(path), private=False))
    assert len(checked.result.errors) == 10_000
    text = printed(checked)
    assert len(text.splitlines()) < 40
    assert "and 9,997 more, on lines 4, 5, 6" in text


def test_fix_writes_a_copy_that_is_clean_of_errors(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = chat.with_name("clean.jsonl")
    assert main(["data", "check", str(chat), "--fix", str(clean)]) == 1
    assert "records are written to" in capsys.readouterr().out
    assert main(["data", "check", str(clean)]) == 0
    assert main(["data", "check", str(chat), "--fix", str(clean)]) == 2  # nothing is overwritten


def test_fix_accepts_files_of_entities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, clean = tmp_path / "train.conll", tmp_path / "clean.conll"
    path.write_text("東京 B-LOC\nの O\n\nbroken I-LOC\n\nmail O\njane@example.org B-MAIL\n", encoding="utf-8")
    assert main(["data", "check", str(path), "--fix", str(clean), "--json"]) == 1
    fixed = json.loads(capsys.readouterr().out)["statistics"]["fixed"]
    assert (fixed["records"], fixed["changes"]) == (2, {"bad-tag": 1, "personal-email": 1})
    assert clean.read_text(encoding="utf-8") == "東京 B-LOC\nの O\n\nmail O\n[EMAIL] B-MAIL\n"
    assert main(["data", "check", str(clean)]) == 0
    assert (
        main(["data", "check", str(path), "--fix", str(tmp_path / "clean.jsonl")]) == 2
    )  # columns are not written as JSON lines


def test_with_a_model_tokens_are_counted_and_long_rows_found(chat: Path, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "tiny")
    checked = check(DataCheckSettings(data=str(chat), model=str(model), max_length=2_500))
    assert {f.line for f in checked.result.findings if f.kind == "over-long"} == {LONG}
    assert checked.result.statistics["answer_tokens"]["p50"] > 10
    text = printed(checked)
    assert "tokens of the answers" in text
    assert "characters" not in text.split("errors")[0]


def test_tokens_after_the_last_answer_do_not_make_a_record_too_long(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "tiny")
    turns = [("user", "Why?"), ("assistant", "So."), ("user", "word " * 300)]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    data = tmp_path / "chat.jsonl"
    data.write_text(json.dumps(record) + "\n", encoding="utf-8")
    result = check(DataCheckSettings(data=str(data), model=str(model), max_length=128)).result
    assert "over-long" not in {finding.kind for finding in result.findings}
    assert result.statistics["example_tokens"]["max"] < 128


NAMED = (
    (
        "tags.jsonl",
        {"words_": ["Ada", "lives"], "ner": ["B-PER", "O"], "note": "x"},
        {"tokens": "words_", "tags": "ner"},
    ),
    ("spans.jsonl", {"text": "Ada lives", "marked": [[0, 3, "PER"]], "note": "x"}, {"spans": "marked"}),
    ("columns.conll", "O Ada x B-PER\nO lives x O\n\n", {"tokens": "2", "tags": "4"}),
)


@pytest.mark.parametrize(("name", "content", "fields"), NAMED, ids=[name for name, *_ in NAMED])
def test_the_fields_of_tags_can_be_named_as_for_tag(
    tmp_path: Path, name: str, content: object, fields: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, copy = tmp_path / name, tmp_path / f"clean{Path(name).suffix}"
    path.write_text((content if isinstance(content, str) else json.dumps(content) + "\n") * 3)
    options = [part for role, field in fields.items() for part in (f"--{role}-field", field)]
    main(["data", "check", str(path), "--json", "--fix", str(copy), *options])
    statistics = json.loads(capsys.readouterr().out)["statistics"]
    assert (statistics["kind"], statistics["labels"], statistics["unreadable"]) == ("tags", {"PER": 3}, 0)
    if not isinstance(content, str):
        assert statistics["unread_fields"] == statistics["fixed"]["unread_fields"] == {"note": 3}
    assert "PER" in copy.read_text()


def test_fix_reports_what_it_left_out_and_what_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [json.dumps({"text": f"The court decides case {number}.", "source": "x"}) for number in range(4)]
    path.write_text("\n".join([*rows, "broken", rows[0]]) + "\n")
    checked = check(DataCheckSettings(data=str(path), kind="text", private=False, fix=tmp_path / "clean.jsonl"))
    fixed = checked.as_dict()["statistics"]["fixed"]
    assert (fixed["records"], fixed["rejected"], fixed["unread_fields"]) == (4, 2, {"source": 5})
    assert fixed["unread_files"]["count"] == 0
    changes = (tmp_path / "clean.jsonl.changes.jsonl").read_text().splitlines()
    assert fixed["rejects"] == str(tmp_path / "clean.jsonl.changes.jsonl")
    assert sum("left out" in line for line in changes) == 2
    text = " ".join(printed(checked).split())
    assert "2 records were left out; clean.jsonl.changes.jsonl says which and why" in text
    assert "fields that were not read, with the number of records that have them: source (5)" in text
