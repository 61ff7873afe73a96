"""The checks of whole files: only the planted faults are found, each in its line; copies, lengths and repairs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from faulty_chat import DUPLICATES, LONG, planted, sound_row, write_faulty_chat, write_test_rows
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer

from domain_ft.corpus.checks.checking import Checker, CheckResult
from domain_ft.corpus.checks.conversations import collect, rewrite
from domain_ft.corpus.checks.copies import Copies
from domain_ft.corpus.checks.items import Passage, Rejections
from domain_ft.corpus.checks.lengths import TokenLengths
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.checks.private import PrivateData
from domain_ft.corpus.checks.repairs import repair
from domain_ft.corpus.conversations.formats import FieldChoice, recognise
from domain_ft.errors import CorpusError

CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}


def checked(path: Path, fields: Fields | None = None, **options: Any) -> CheckResult:
    """The result of checking a file."""
    rejections = Rejections()
    file = CheckedFile.open(str(path), "auto", fields or Fields())
    return Checker(private=PrivateData(), **options).check(file.items(rejections.bad), rejections)


def places(result: CheckResult) -> set[tuple[int | None, str]]:
    """The line and the kind of every finding."""
    return {(finding.line, finding.kind) for finding in result.findings}


def write_lines(path: Path, *records: Any) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class TestFaultyChat:
    def test_every_planted_fault_is_found_in_its_line_and_nothing_else(self, tmp_path: Path) -> None:
        wanted = write_faulty_chat(tmp_path / "chat.jsonl")
        result = checked(tmp_path / "chat.jsonl")
        assert places(result) == wanted
        lines = [finding.line or 0 for finding in result.findings]
        assert lines == sorted(lines)

    def test_rows_of_the_test_file_are_found(self, tmp_path: Path) -> None:
        write_faulty_chat(tmp_path / "chat.jsonl")
        write_test_rows(tmp_path / "test.jsonl")
        test = CheckedFile.open(str(tmp_path / "test.jsonl"), "conversations", Fields()).copies()
        result = checked(tmp_path / "chat.jsonl", test=test)
        assert places(result) == planted(test=True)
        assert {f.line for f in result.errors if f.kind == "leaked-test-row"} == {131, 136}

    def test_findings_name_their_field(self, tmp_path: Path) -> None:
        write_faulty_chat(tmp_path / "chat.jsonl")
        fields = {(finding.line, finding.kind): finding.field for finding in checked(tmp_path / "chat.jsonl").findings}
        assert fields[11, "unknown-role"] == "messages[1].role"
        assert fields[28, "empty-answer"] == "messages[1].content"
        assert fields[91, "personal-email"] == "messages[1].content"
        assert fields[122, "contradicting-answers"] == "messages[1].content"
        assert fields[113, "duplicate"] is None

    def test_statistics_are_those_of_the_rows(self, tmp_path: Path) -> None:
        rows = [sound_row(number) for number in range(1, 101)]
        numbers = checked(write_lines(tmp_path / "sound.jsonl", *rows)).statistics
        answers = sorted(
            sum(len(m["content"] or "") for m in row["messages"] if m["role"] == "assistant") for row in rows
        )
        assert numbers["records"] == numbers["conversations"] == 100
        assert numbers["roles"]["assistant"] == sum(
            message["role"] == "assistant" for row in rows for message in row["messages"]
        )
        assert numbers["answer_characters"]["sum"] == sum(answers)
        assert numbers["answer_characters"]["p50"] == (answers[49] + answers[50]) / 2
        assert set(numbers["languages"]) == {"en"}
        assert numbers["findings"] == {}


class TestFormats:
    def test_each_format_is_recognised_and_its_fields_named(self, tmp_path: Path) -> None:
        mail = "Write to jane@example.org, who knows."
        records: dict[str, Any] = {
            "answer": {"question": "Who?", "answer": mail},
            "output": {"instruction": "Say who.", "input": "", "output": mail},
            "completion": {"prompt": "Who?", "completion": mail},
            "conversations[1].value": {
                "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": mail}]
            },
            "messages[1].content[0].text": {
                "messages": [
                    {"role": "user", "content": "Who?"},
                    {"role": "assistant", "content": [{"type": "text", "text": mail}]},
                ]
            },
            "messages[1].tool_calls[0].function.arguments": {
                "messages": [
                    {"role": "user", "content": "Who?"},
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {**CALLED, "function": {"name": "f", "arguments": '{"to": "jane@example.org"}'}}
                        ],
                    },
                ]
            },
        }
        for field, record in records.items():
            (finding,) = checked(write_lines(tmp_path / "one.jsonl", record)).findings
            assert (finding.field, finding.kind) == (field, "personal-email")

    def test_fields_can_be_named_by_option(self, tmp_path: Path) -> None:
        path = tmp_path / "dialogues.csv"
        path.write_text('dialogue,note,id\n"Doctor: Hm?\nPatient: Ow.",Pain.,1\n"Doctor: And now?",,2\n')
        with pytest.raises(CorpusError, match="dialogue, note, id"):
            checked(path)
        result = checked(path, Fields(FieldChoice(prompt_field="dialogue", answer_field="note")))
        assert [(f.line, f.field, f.kind) for f in result.errors] == [(4, "note", "empty-answer")]

    def test_labelled_examples_are_checked(self, tmp_path: Path) -> None:
        records = [{"text": f"Clause {word} of the lease.", "label": "a"} for word in ("one", "two", "three")]
        more = [{"text": "Clause one of the lease.", "label": "b"}, {"text": "", "label": "a"}, {"text": "x" * 9}]
        result = checked(write_lines(tmp_path / "labels.jsonl", *records, *more, records[1]))
        assert places(result) == {
            (4, "contradicting-answers"),
            (5, "empty-text"),
            (6, "missing-field"),
            (7, "duplicate"),
        }
        assert result.statistics["labels"] == {"a": 4, "b": 1}

    def test_tags_are_checked(self, tmp_path: Path) -> None:
        path = tmp_path / "entities.txt"
        path.write_text(
            "Ada\tB-PER\nwrites\tO\n\nmail\tO\nto\tO\na@example.org\tO\n\nno tag at all\n", encoding="utf-8"
        )
        result = checked(path)
        assert places(result) == {(4, "personal-email"), (8, "broken-record")}
        assert result.statistics["labels"] == {"PER": 1}

    def test_tags_without_types_are_checked(self, tmp_path: Path) -> None:
        path = tmp_path / "entities.conll"
        path.write_text("-DOCSTART- O\n\nAda  B\nLovelace I\nwrites O\n\nto O\nBabbage B\n", encoding="utf-8")
        result = checked(path)
        assert (result.findings, result.statistics["labels"]) == ([], {"entity": 2})

    def test_plain_text_and_documents_are_checked(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_bytes("A line.\ncafÃ© is open\n".encode() + b"caf\xe9\n" + b"mail jane@example.org\n")
        assert places(checked(path)) == {(2, "mojibake"), (3, "not-utf8"), (4, "personal-email")}
        documents = write_lines(tmp_path / "documents.jsonl", {"text": "a b c " * 9}, {"text": "a b c " * 9})
        assert places(checked(documents)) == {(2, "duplicate")}

    @pytest.mark.parametrize(("content", "kind"), [(b"", "empty-file"), ("{}".encode("utf-16"), "not-utf8")])
    def test_a_file_that_cannot_be_read_is_an_error(self, content: bytes, kind: str, tmp_path: Path) -> None:
        (tmp_path / "chat.jsonl").write_bytes(content)
        assert [finding.kind for finding in checked(tmp_path / "chat.jsonl").errors] == [kind]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["role", "content", "text", "tool_calls", "function", "x"]), inner, max_size=3
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["chat", "sharegpt", "alpaca", "prompt", "qa"]),
)
def test_rewriting_a_record_with_its_own_texts_changes_nothing(value: Any, format: Any) -> None:
    names = (
        "messages",
        "conversations",
        "prompt",
        "completion",
        "question",
        "answer",
        "instruction",
        "output",
        "system",
    )
    record = dict.fromkeys(names, value)
    passages: list[Passage] = []
    assert rewrite(record, format, FieldChoice(), collect(passages)) == record
    marked = rewrite(record, format, FieldChoice(), lambda passage: f"<{passage.text}>")
    assert json.dumps(marked).count("<") - json.dumps(record).count("<") == len(passages)


MAIL = "mail jane@example.org"
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


@pytest.mark.parametrize("field", ["system", "system_prompt", "system_message", "system_instruction"])
@pytest.mark.parametrize("rest", [{"messages": TURNS}, {"question": "Why?", "answer": "So."}], ids=["chat", "qa"])
def test_every_field_that_is_read_as_the_system_turn_is_checked(field: str, rest: Any) -> None:
    record = {field: MAIL, **rest}
    format = recognise(record, FieldChoice())
    assert format is not None
    passages: list[Passage] = []
    rewritten = rewrite(record, format, FieldChoice(), lambda one: passages.append(one) or "masked")  # type: ignore[func-returns-value]
    assert Passage(field, MAIL, "system") in passages
    assert rewritten[field] == "masked"


def test_tools_are_checked_and_keep_their_names() -> None:
    tool = {"type": "function", "function": {"name": "send", "description": MAIL}}
    record = {"messages": TURNS, "tools": [tool]}
    rewritten = rewrite(
        record, "chat", FieldChoice(), lambda one: one.text.replace(MAIL, "[EMAIL]").replace("send", "x")
    )
    assert rewritten["tools"][0]["function"] == {"name": "send", "description": "[EMAIL]"}


def test_a_question_that_the_messages_repeat_is_checked_too() -> None:
    record = {"question": MAIL, "messages": [{"role": "user", "content": MAIL}, TURNS[1]]}
    rewritten = rewrite(record, "chat", FieldChoice(), lambda one: one.text.replace(MAIL, "[EMAIL]"))
    assert rewritten["question"] == rewritten["messages"][0]["content"] == "[EMAIL]"


class TestCopies:
    def test_a_reworded_answer_is_a_near_copy_and_another_answer_a_contradiction(self) -> None:
        copies = Copies()
        long = " ".join(f"sentence {i} of it says that {i * i} is the square of {i}." for i in range(12))
        for line, answer in enumerate((long, long.replace("says", "tells", 1), "No.", long, long.rstrip(".")), 1):
            copies.add(line, f"Is it so?\n{answer}", "Is it so?", answer, "answer")
        assert {(finding.line, finding.kind) for finding in copies.findings()} == {
            (2, "near-duplicate"),
            (3, "contradicting-answers"),
            (4, "duplicate"),
            (5, "near-duplicate"),
        }

    def test_the_same_answer_to_another_prompt_is_found_but_not_left_out(self) -> None:
        copies = Copies()
        form = " ".join(f"Of {i} families that we asked, {i * i} had a member with form {i} of it." for i in range(20))
        prompts = (
            "Is Bloom syndrome inherited, and how?",
            "Is Bloom's syndrome inherited, and how?",
            "Who has asthma?",
        )
        for line, prompt in enumerate(prompts, 1):
            copies.add(line, f"{prompt}\n{form}", prompt, form, "answer")
        two, three = copies.findings()
        assert (two.line, two.kind, three.line, three.kind) == (2, "near-duplicate", 3, "near-duplicate")
        assert "but has another prompt" in three.message
        assert copies.spare == {2}

    @pytest.mark.parametrize("words", [30, 100, 400])
    def test_one_changed_word_is_a_near_copy_in_a_text_of_any_length(self, words: int) -> None:
        drawn = random.Random(words).choices([f"word{i}" for i in range(500)], k=words)
        copies = Copies()
        for line in range(1, 4):
            copies.add(line, " ".join(drawn))
            drawn = random.Random(line).choices(drawn, k=words) if line == 2 else [*drawn[:5], "other", *drawn[6:]]
        assert [(finding.line, finding.kind) for finding in copies.findings()] == [(2, "near-duplicate")]

    def test_a_copy_names_the_line_that_it_repeats(self) -> None:
        copies = Copies()
        for line in (3, 8, 9):
            copies.add(line, "the same text, over and over")
        assert [(f.line, f.message) for f in copies.findings()] == [(8, "it repeats line 3"), (9, "it repeats line 3")]


class TestLengths:
    def measured(self, path: Path, max_length: int) -> CheckResult:
        return checked(path, measure=TokenLengths(tiny_tokenizer("gpt2"), max_length))

    def test_what_truncation_would_cut_is_counted(self, tmp_path: Path) -> None:
        exchange = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because of the lease."}]
        asks_long = [{"role": "user", "content": "Why? " * 40}, exchange[1]]
        answers_long = [exchange[0], {"role": "assistant", "content": "Because of the lease. " * 40}]
        rows = [{"messages": messages} for messages in (exchange, asks_long, answers_long)]
        result = self.measured(write_lines(tmp_path / "chat.jsonl", *rows), 100)
        over = [finding for finding in result.findings if finding.kind == "over-long"]
        assert [(finding.line, finding.error) for finding in over] == [(2, True), (3, False)]
        numbers = result.statistics
        assert numbers["over_long"]["examples"] == 2
        assert numbers["over_long"]["dropped"] == 1
        total = numbers["example_tokens"]["sum"]
        assert total == numbers["prompt_tokens"]["sum"] + numbers["answer_tokens"]["sum"]
        lengths = [numbers["example_tokens"]["min"], 100, 100]
        assert numbers["over_long"]["tokens_cut"] == total - sum(lengths)

    def test_only_the_planted_long_answer_is_over_long(self, tmp_path: Path) -> None:
        write_faulty_chat(tmp_path / "chat.jsonl")
        result = self.measured(tmp_path / "chat.jsonl", 2_500)
        assert places(result) == planted() | {(LONG, "over-long")} | not_renderable(result)

    def test_a_turn_that_the_template_refuses_is_an_error(self, tmp_path: Path) -> None:
        messages = [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {"role": "tool", "content": "x", "tool_call_id": "c"},
            {"role": "assistant", "content": "So."},
        ]
        (finding,) = self.measured(write_lines(tmp_path / "chat.jsonl", {"messages": messages}), 100).errors
        assert (finding.line, finding.kind) == (1, "not-renderable")


def not_renderable(result: CheckResult) -> set[tuple[int | None, str]]:
    """The findings that a row has tools, which the plain template cannot render."""
    found = {(finding.line, finding.kind) for finding in result.findings if finding.kind == "not-renderable"}
    assert all(line is not None and line % 40 == 4 for line, _ in found)
    return found


class TestRepair:
    def repaired(self, path: Path, output: Path) -> list[dict[str, Any]]:
        """The list of changes that a repair makes."""
        file = CheckedFile.open(str(path), "auto", Fields())
        repair(file, checked(path), output, PrivateData(), "en")
        return read_lines(output.with_name(f"{output.name}.changes.jsonl"))

    def test_the_copy_of_the_faulty_file_has_no_errors(self, tmp_path: Path) -> None:
        write_faulty_chat(tmp_path / "chat.jsonl")
        changes = self.repaired(tmp_path / "chat.jsonl", tmp_path / "clean.jsonl")
        result = checked(tmp_path / "clean.jsonl")
        assert result.errors == []
        left = {finding.kind for finding in result.findings}
        assert left == {"contradicting-answers", "truncated-answer", "wrong-language", "mojibake"}  # of lost characters
        by_line = {change["line"]: change for change in changes}
        assert by_line[8]["kind"] == "broken-record"
        assert by_line[67] == {"line": 67, "field": "messages[1].content", "kind": "mojibake", "change": "fixed"}
        assert by_line[91]["change"] == "masked: [EMAIL]"
        assert all(by_line[line]["change"].startswith("left out") for line in (*DUPLICATES, 11, 22, 28, 41))
        clean = (tmp_path / "clean.jsonl").read_text(encoding="utf-8")
        assert "jane.doe" not in clean
        assert "[SECRET]" in clean
        untouched = set(range(1, 201)) - set(by_line)
        rows = (tmp_path / "chat.jsonl").read_bytes().splitlines()
        assert {json.dumps(json.loads(rows[line - 1])) for line in untouched} <= {
            json.dumps(json.loads(line)) for line in clean.splitlines()
        }

    def test_blank_messages_are_left_out_if_the_rest_can_be_used(self, tmp_path: Path) -> None:
        pair = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
        blank = {"role": "user", "content": " "}
        rows = [{"messages": [*pair, blank, {"role": "assistant", "content": ""}]}, {"messages": [blank, pair[1]]}]
        changes = self.repaired(write_lines(tmp_path / "chat.jsonl", *rows), tmp_path / "clean.jsonl")
        assert read_lines(tmp_path / "clean.jsonl") == [{"messages": pair}]
        assert [(c["line"], c["kind"]) for c in changes] == [(1, "blank-message"), (2, "first-turn-of-assistant")]

    def test_lone_surrogates_are_fixed_in_every_field(self, tmp_path: Path) -> None:
        path = tmp_path / "chat.jsonl"
        path.write_text(json.dumps({"prompt": "Why \ud83d?", "completion": "So.", "id": "\ud83d"}) + "\n")
        self.repaired(path, tmp_path / "clean.jsonl")
        assert read_lines(tmp_path / "clean.jsonl") == [{"prompt": "Why ?", "completion": "So.", "id": "\ufffd"}]

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "chat.jsonl", sound_row(1))
        with pytest.raises(CorpusError, match="exists already"):
            self.repaired(path, path)

    def test_the_copy_of_a_text_file_is_a_text_file(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_bytes("\ufeffA line.\n\ncafÃ© is open\n".encode() + b"caf\xe9\n" + b"mail jane@example.org")
        changes = self.repaired(path, tmp_path / "clean.txt")
        assert (tmp_path / "clean.txt").read_text(encoding="utf-8") == "A line.\n\ncafé is open\nmail [EMAIL]"
        assert [change["kind"] for change in changes] == ["byte-order-mark", "mojibake", "not-utf8", "personal-email"]

    def test_labels_and_other_fields_of_examples_stay(self, tmp_path: Path) -> None:
        path = tmp_path / "labels.csv"
        path.write_text("text,label,by\nmail a@example.org,x,b@example.org\nmore of it,y,me\n")
        self.repaired(path, tmp_path / "clean.jsonl")
        assert read_lines(tmp_path / "clean.jsonl") == [
            {"text": "mail [EMAIL]", "label": "x", "by": "b@example.org"},
            {"text": "more of it", "label": "y", "by": "me"},
        ]
