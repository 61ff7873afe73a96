"""Fields beside the question or messages: followed if well known, else refused by name, or counted as unread."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chats import CHATML, THINKING, chat_tokenizer

from domain_ft.corpus.checks.checking import Checker, CheckResult
from domain_ft.corpus.checks.items import Rejections
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.formats import FieldChoice, Parsed, parse, recognise, to_chat
from domain_ft.corpus.conversations.placeholders import Placeholders
from domain_ft.corpus.conversations.reading import (
    ConversationData,
    ConversationSource,
    iterate_conversations,
    open_conversations,
)
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import encode_conversations
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import BadRecords, RawRecord, Reject
from domain_ft.errors import CorpusError, RecordError

ASKED, ANSWER = Turn("user", "Why?"), Turn("assistant", "Because.", trained=True)
QA = {"question": "Why?", "answer": "Because."}
CHAT = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]}


def parsed(fields: dict[str, Any], *, answered: bool = True, compared: bool = False, **choice: Any) -> Parsed:
    chosen = FieldChoice(**choice)
    format = recognise(fields, chosen, answered=answered)
    assert format is not None
    return parse(RawRecord(4, fields), "f.jsonl", format, chosen, answered=answered, compared=compared)


def turns(fields: dict[str, Any], **choice: Any) -> tuple[Turn, ...]:
    found = parsed(fields, **choice)
    assert found.faults == ()
    assert found.conversation is not None
    assert found.unread == ()
    return found.conversation.turns


def asked(fields: dict[str, Any], **choice: Any) -> str:
    return next(turn.content for turn in turns(fields, **choice) if turn.role == "user")


def faults(fields: dict[str, Any], **choice: Any) -> list[tuple[str, str | None]]:
    return [(fault.kind, fault.field) for fault in parsed(fields, **choice).faults if fault.error]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def opened(path: Path) -> tuple[ConversationData, list[Reject]]:
    rejects: list[Reject] = []
    return open_conversations(ConversationSource(str(path)), rejects=rejects.append), rejects


def chats(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {n * 7919:x} {n * 104729:x}?"},
                {"role": "assistant", "content": f"It is {n * 1299709:x}."},
            ],
            **more,
        }
        for n in range(1, count + 1)
    ]


# --- Earlier turns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Why?", "input": "", "output": "Because."},
        {"prompt": "Why?", "response": "Because."},
        {"prompt": "Why?", "completion": " Because."},
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_history_becomes_earlier_turns_whose_answers_are_learned(record: dict[str, str], as_text: bool) -> None:
    history: Any = [["Who?", "You."], ["When?", "Now."]]
    found = turns({"system": "Be brief.", **record, "history": json.dumps(history) if as_text else history})
    assert [(turn.role, turn.content, turn.trained) for turn in found] == [
        ("system", "Be brief.", False),
        ("user", "Who?", False),
        ("assistant", "You.", True),
        ("user", "When?", False),
        ("assistant", "Now.", True),
        ("user", "Why?", False),
        ("assistant", "Because.", True),
    ]


@pytest.mark.parametrize("nothing", [[], "", None, "  "])
def test_an_empty_history_adds_no_turns(nothing: Any) -> None:
    assert turns({"instruction": "Why?", "output": "Because.", "history": nothing}) == (ASKED, ANSWER)


@pytest.mark.parametrize("history", ["x", [["a"]], [["a", 3]], [["a", " "]], {"a": "b"}, ["ab"]])
def test_a_history_of_another_form_is_refused(history: Any) -> None:
    found = faults({"instruction": "Why?", "output": "Because.", "history": history})
    assert found
    assert all(str(field).startswith("history") for _, field in found)


def test_history_beside_messages_is_refused() -> None:
    assert faults({**CHAT, "history": [["Who?", "You."]]}) == [("unsupported-field", "history")]


# --- Marks of what is learned -----------------------------------------------------------------------------------------


NOT_LEARNED: list[dict[str, Any]] = [
    {"train": False},
    {"loss": False},
    {"training": False},
    {"weight": 0},
    {"loss": 0},
    {"learn": False},
    {"trainable": "false"},
    {"train_on_turn": 0},
    {"loss_weight": 0},
    {"mask": True},
    {"masked": 1},
    {"ignore": True},
]


@pytest.mark.parametrize("mark", NOT_LEARNED)
@pytest.mark.parametrize("names", [("messages", "role", "content"), ("conversations", "from", "value")])
def test_marked_turns_are_not_learned(mark: dict[str, Any], names: tuple[str, str, str]) -> None:
    field, role, content = names
    found = turns(
        {
            field: [
                {role: "user", content: "Why?"},
                {role: "assistant", content: "BAD", **mark},
                {role: "user", content: "Well?"},
                {role: "assistant", content: "Because.", **{name: _opposite(value) for name, value in mark.items()}},
            ]
        }
    )
    assert [turn.trained for turn in found] == [False, False, False, True]


def _opposite(value: Any) -> Any:
    return {True: False, False: True, "false": "true"}[value] if not isinstance(value, int) else type(value)(not value)


@pytest.mark.parametrize("mark", [{"rating": "thumbs_down"}, {"accepted": False}, {"status": "Rejected"}])
def test_a_turn_that_somebody_rejected_is_not_learned(mark: dict[str, Any]) -> None:
    bad = {**CHAT["messages"][1], **mark}
    found = turns({"messages": [CHAT["messages"][0], bad, *CHAT["messages"]]})
    assert [turn.trained for turn in found] == [False, False, False, True]
    alone = parsed({"messages": [CHAT["messages"][0], bad]})
    assert alone.faults == ()
    assert alone.left_out is not None
    assert alone.left_out.field == "messages"
    assert parsed({"messages": [CHAT["messages"][0], bad]}, compared=True).conversation is not None


def test_an_annotators_answer_beside_another_answer_is_a_verdict() -> None:
    record = {"text": "Why?", "said": "Because.", "answer": "reject"}
    assert parsed(record, prompt_field="text", answer_field="said").left_out is not None
    assert parsed({**QA, "answer": "reject"}).conversation is not None


@pytest.mark.parametrize(
    ("mark", "field"),
    [
        ({"mask": 0}, "messages[1].mask"),
        ({"mask": 1}, "messages[1].mask"),
        ({"masked": "partly"}, "messages[1].masked"),
        ({"ignore": True, "train": True}, "messages[1]"),
        ({"train": "partly"}, "messages[1].train"),
        ({"loss": 0.5}, "messages[1].loss"),
        ({"weight": 0.5}, "messages[1].weight"),
        ({"weight": 1, "train": False}, "messages[1]"),
    ],
)
def test_invalid_or_contradicting_marks_are_refused(mark: dict[str, Any], field: str) -> None:
    record = {"messages": [CHAT["messages"][0], {**CHAT["messages"][1], **mark}]}
    assert ("bad-weight", field) in faults(record)


def test_marks_for_parts_of_a_turn_are_refused() -> None:
    detail = [{"begin_offset": 0, "end_offset": 2, "train": False}]
    record = {"messages": [CHAT["messages"][0], {**CHAT["messages"][1], "train_detail": detail}]}
    assert faults(record) == [("unsupported-field", "messages[1].train_detail")]


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({**CHAT, "weight": 0}, "weight"),
        ({**QA, "weight": "0"}, "weight"),
        ({**QA, "train": False}, "train"),
        ({**QA, "loss": False}, "loss"),
        ({**QA, "ignore": True}, "ignore"),
        ({**CHAT, "masked": "true"}, "masked"),
        ({**CHAT, "status": "rejected"}, "status"),
        ({**QA, "review_status": " Discarded "}, "review_status"),
        ({**QA, "is_correct": False}, "is_correct"),
        ({**QA, "is_correct": 0}, "is_correct"),
        ({**CHAT, "accepted": "False"}, "accepted"),
        ({**QA, "desirable": False}, "desirable"),
        ({**QA, "thumbs_down": True}, "thumbs_down"),
        ({**QA, "rejected": True}, "rejected"),
        ({**QA, "was_cancelled": True}, "was_cancelled"),
        ({**CHAT, "deleted": True}, "deleted"),
        ({**CHAT, "review_result": False}, "review_result"),
        ({**CHAT, "rating": "down"}, "rating"),
        ({**CHAT, "feedback": "\U0001f44e\U0001f3fd"}, "feedback"),
        ({"prompt": "Why?", "completion": "BAD", "label": "bad"}, "label"),
        ({"prompt": "Why?", "completion": "BAD", "label": "Rejected"}, "label"),
        ({**CHAT, "kto_tag": "undesirable"}, "kto_tag"),
        ({"prompt": "Why?", "completion": "BAD", "label": False}, "label"),
        ({"prompt": "Why?", "completion": "BAD", "label": "false"}, "label"),
        ({"prompt": "Why?", "completion": "BAD", "label": 0}, "label"),
        ({**CHAT, "kto_tag": False}, "kto_tag"),
    ],
)
def test_marked_records_are_left_out_without_a_fault(record: dict[str, Any], field: str) -> None:
    found = parsed(record)
    assert found.conversation is None
    assert found.faults == ()
    assert found.left_out is not None
    assert found.left_out.field == field
    assert parsed(record, compared=True).conversation is not None  # `data split` keeps them


@pytest.mark.parametrize(
    "record",
    [
        {**CHAT, "weight": 1},
        {**QA, "weight": "1.0"},
        {**QA, "weight": ""},
        {**QA, "ignore": False},
        {**CHAT, "status": "accepted"},
        {**QA, "is_correct": True, "rating": "up", "deleted": False},
        {**CHAT, "mask": "User"},
        {"prompt": "Why?", "completion": "Because.", "label": True},
    ],
)
def test_records_that_are_marked_to_be_learned_are_learned(record: dict[str, Any]) -> None:
    assert turns(record) == (ASKED, ANSWER)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "pending"),
        ("rating", 1),
        ("rating", "1"),
        ("feedback", "The answer is bad."),
        ("score", -1),
        ("correct", 0),
        ("valid", "unknown"),
        ("label", "bad smell"),
        ("ignore", "nothing"),
        ("loss", [0.5, 0.25]),
    ],
)
def test_values_that_may_be_no_verdict_are_unread(name: str, value: Any) -> None:
    found = parsed({**QA, name: value})
    assert found.conversation is not None
    assert found.unread == (name,)


@pytest.mark.parametrize("name", ["label", "status", "decision"])
def test_the_answer_itself_is_no_verdict(name: str) -> None:
    same = parsed({"prompt": "Is the loan accepted?", "completion": "rejected", name: "rejected"})
    assert same.conversation is not None
    assert same.unread == (name,)
    named = parsed({"text": "Is the loan accepted?", name: "false"}, prompt_field="text", answer_field=name)
    assert named.conversation is not None
    assert named.conversation.turns[1].content == "false"


@pytest.mark.parametrize("name", ["loss_mask", "mask", "train_on_turn"])
def test_marks_of_turns_outside_the_turns_are_refused(name: str) -> None:
    assert faults({**CHAT, name: [0, 1]}) == [("unsupported-field", name)]


def test_a_record_whose_assistant_is_masked_is_refused() -> None:
    assert faults({**CHAT, "mask": "Assistant"}) == [("unsupported-field", "mask")]


def test_a_class_or_a_measurement_is_no_mark() -> None:
    assert parsed({**QA, "label": 0, "loss": 0.0}).unread == ("label", "loss")


@pytest.mark.parametrize("weight", [0.5, 2, -1, "high"])
def test_weights_other_than_zero_and_one_are_refused(weight: Any) -> None:
    assert faults({**CHAT, "weight": weight}) == [("bad-weight", "weight")]


def test_marked_records_are_counted_and_listed_once(tmp_path: Path) -> None:
    records = chats(30)
    for record in records[:5]:
        record["weight"] = 0
    data, rejects = opened(write(tmp_path / "a.jsonl", records))
    assert len(data.train) + len(data.test) == 25
    assert [reject.line for reject in rejects] == [1, 2, 3, 4, 5]
    assert data.left_out.records == data.facts["rejects"] == 5
    assert sum("5 records are marked" in note for note in data.notes) == 1
    with pytest.raises(CorpusError, match=r"(?s)30 records are left out. The first: .*weight: 0"):
        opened(write(tmp_path / "b.jsonl", chats(30, weight=0)))


def test_left_out_completions_mention_preference_tuning(tmp_path: Path) -> None:
    records = [
        {"prompt": f"What is {n * 7919:x}?", "completion": f"It is {n * 104729:x}.", "label": n % 2 == 0}
        for n in range(40)
    ]
    data, rejects = opened(write(tmp_path / "a.jsonl", records))
    assert len(data.train) + len(data.test) == len(rejects) == 20
    assert "domain-ft prefer --loss kto" in rejects[0].reason


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"instruction": "Why?", "input": "", "chosen": "Because.", "rejected": "No."},
        {"chosen": "Human: Why? Assistant: So.", "rejected": "Human: Why? Assistant: No."},
        {"conversations": [{"from": "human", "value": "Why?"}], "chosen": {"from": "gpt"}, "rejected": {"from": "gpt"}},
    ],
)
def test_pairs_of_chosen_and_rejected_answers_are_refused(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"(?s)a chosen and a rejected answer.*--answer-field chosen"):
        opened(write(tmp_path / "a.jsonl", [record] * 3))


def test_the_field_of_the_chosen_answers_can_be_named() -> None:
    found = parsed(
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, prompt_field="prompt", answer_field="chosen"
    )
    assert found.conversation is not None
    assert found.conversation.turns == (ASKED, ANSWER)
    assert found.unread == ("rejected",)


# --- Reasoning --------------------------------------------------------------------------------------------------------

REASONS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("template", [REASONS, REASONS.replace("reasoning_content", "thinking")])
def test_reasoning_is_rendered_and_learned_if_the_template_supports_it(name: str, template: str) -> None:
    record = {"messages": [CHAT["messages"][0], {**CHAT["messages"][1], name: "Because. Or not?"}]}
    conversation = parsed(record).conversation
    assert conversation is not None
    (rendered,) = ChatTemplate.of(chat_tokenizer(template)).render(conversation)
    (span,) = rendered.spans
    assert rendered.text[slice(*span)] == "<think>\nBecause. Or not?\n</think>\n\nBecause.<|im_end|>"
    assert parsed(to_chat(conversation)).conversation == conversation


@pytest.mark.parametrize("template", [CHATML, THINKING, None])
def test_reasoning_that_a_template_does_not_support_is_refused(template: str | None) -> None:
    for record in ({**QA, "reasoning": "Hm."}, {"instruction": "Why?", "output": "So.", "thinking": "Hm."}):
        conversation = parsed(record).conversation
        assert conversation is not None
        with pytest.raises(RecordError, match=r"(?s)does not support reasoning.*<think>"):
            ChatTemplate.of(chat_tokenizer(template)).render(conversation)


def test_reasoning_in_the_content_stays_text() -> None:
    record = {"messages": [CHAT["messages"][0], {"role": "assistant", "content": "<think>Hm.</think>Because."}]}
    assert turns(record)[1].content == "<think>Hm.</think>Because."


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize(
    "record", [CHAT, {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}, {"prompt": "Why?", **CHAT}]
)
def test_reasoning_beside_the_messages_belongs_to_the_only_answer(name: str, record: dict[str, Any]) -> None:
    assert turns({**record, name: "Hm."})[1] == Turn("assistant", "Because.", trained=True, reasoning="Hm.")


def test_reasoning_beside_several_answers_is_refused_unless_one_repeats_it() -> None:
    twice = {"messages": [*CHAT["messages"], *CHAT["messages"]]}
    assert faults({**twice, "reasoning": "Hm."}) == [("unsupported-field", "reasoning")]
    assert len(turns({**twice, "reasoning": "Because."})) == 4


@pytest.mark.parametrize("value", ["on", "off", "high", True])
def test_settings_for_reasoning_are_not_taken_for_reasoning(value: Any) -> None:
    assert parsed({**CHAT, "reasoning": value}).unread == ("reasoning",)
    assert turns({**QA, "thinking": value}) == (ASKED, ANSWER)


def test_reasoning_in_its_own_turn_is_refused() -> None:
    thought = {"role": "assistant", "channel": "analysis", "content": "Hm."}
    record = {"messages": [CHAT["messages"][0], thought, CHAT["messages"][1]]}
    assert faults(record) == [("unsupported-field", "messages[1].channel")]


def test_two_reasonings_that_differ_are_refused() -> None:
    assert faults({**QA, "reasoning": "a", "thinking": "b"}) == [("unsupported-field", None)]
    assert turns({**QA, "reasoning": "a", "thinking": "a"})[1].reasoning == "a"


# --- Context and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({**QA, "context": "It rained."}, "It rained.\n\nWhy?"),
        ({**QA, "passages": ["It rained.", "We stayed."]}, "It rained.\n\nWe stayed.\n\nWhy?"),
        ({**QA, "document": "It rained."}, "It rained.\n\nWhy?"),
        ({**QA, "documents": [{"title": "Rain", "text": "It rained.", "id": 3}]}, "Rain\nIt rained.\n\nWhy?"),
        ({**QA, "passages": {"passage_text": ["It rained."], "url": ["a.org/b"]}}, "It rained.\n\nWhy?"),
        ({**QA, "background": "It rained."}, "It rained.\n\nWhy?"),
        ({**QA, "evidence": "It rained."}, "It rained.\n\nWhy?"),
        ({**QA, "reference_text": "It rained."}, "It rained.\n\nWhy?"),
        ({**QA, "passage": "It rained.", "document": "It rained."}, "It rained.\n\nWhy?"),
        ({"question": "It rained.\nWhy?", "answer": "So.", "passage": "It rained."}, "It rained.\nWhy?"),
        ({"instruction": "Why?", "output": "So.", "document": "It rained."}, "Why?\n\nIt rained."),
        ({"prompt": "Why?", "input": "the rain", "completion": "So."}, "Why?\n\nthe rain"),
        ({**QA, "prompt": "Why?"}, "Why?"),
        ({**QA, "context": ["It rained.", "We stayed."]}, "It rained.\n\nWe stayed.\n\nWhy?"),
        ({**QA, "context": {"contexts": ["It rained."], "labels": ["A"]}}, "It rained.\n\nWhy?"),
        ({**QA, "input": "the rain"}, "Why?\n\nthe rain"),
        ({**QA, "options": ["yes", "no"]}, "Why?\n\nA. yes\nB. no"),
        ({**QA, "options": ["A. yes", "B. no"]}, "Why?\n\nA. yes\nB. no"),
        ({**QA, "choices": {"text": ["yes", "no"], "label": ["1", "2"]}}, "Why?\n\n1. yes\n2. no"),
        ({**QA, "options": {"A": "yes", "B": "no"}}, "Why?\n\nA. yes\nB. no"),
        ({**QA, "options": [{"key": "A", "value": "yes"}, {"key": "B", "value": "no"}]}, "Why?\n\nA. yes\nB. no"),
        ({**QA, "options": "A) yes B) no"}, "Why?\n\nA) yes B) no"),
        ({**QA, "context": "", "options": [], "choices": None}, "Why?"),
        ({"prompt": "Why?", "completion": "So.", "context": "It rained."}, "It rained.\n\nWhy?"),
        ({"instruction": "Why?", "context": "It rained.", "response": "So."}, "Why?\n\nIt rained."),
        ({"instruction": "Why?", "input": "a", "context": "b", "output": "So."}, "Why?\n\na\n\nb"),
        ({"instruction": "Why?", "output": "So.", "options": ["y", "n"]}, "Why?\n\nA. y\nB. n"),
        ({**QA, "context": "It rained.", "options": ["yes"]}, "It rained.\n\nWhy?\n\nA. yes"),
    ],
)
def test_context_and_options_become_part_of_the_question(fields: dict[str, Any], expected: str) -> None:
    assert asked(fields) == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({**QA, "context": {"page": 3}}, "context"),
        ({**QA, "options": [{"a": 1}]}, "options"),
        ({**QA, "options": 4}, "options"),
        ({**QA, "opa": "yes", "opb": "no"}, "opa"),
        ({**QA, "A": "yes", "B": "no"}, "A"),
        ({**QA, "instruction": "Answer in rhymes."}, "instruction"),
        ({"instruction": "Answer.", "question": "Why?", "output": "So."}, "question"),
        ({"prompt": "Answer in rhymes.", "input": "Why?", "output": "So."}, "prompt"),
        ({**QA, "documents": [{"pages": 3}]}, "documents"),
        ({**CHAT, "documents": [{"text": "It rained."}]}, "documents"),
        ({**CHAT, "evidence": "It rained."}, "evidence"),
        ({**CHAT, "context": "It rained."}, "context"),
        ({**CHAT, "options": ["yes", "no"]}, "options"),
        ({**CHAT, "functions": [{"name": "f"}]}, "functions"),
        ({**CHAT, "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ],
)
def test_fields_that_cannot_be_followed_are_refused_by_name(fields: dict[str, Any], field: str) -> None:
    assert faults(fields) == [("unsupported-field", field)]


def test_only_the_named_fields_become_the_question() -> None:
    fields = {**QA, "opa": "yes", "opb": "no", "reasoning": "Hm.", "context": "It rained."}
    found = parsed(fields, prompt_field="question,opa,opb")
    assert found.conversation is not None
    assert found.conversation.turns == (Turn("user", "Why?\n\nyes\n\nno"), ANSWER)
    assert found.unread == ("reasoning", "context")


def test_context_that_a_message_repeats_is_not_unread() -> None:
    assert turns({**CHAT, "context": "Why?"}) == (ASKED, ANSWER)
    assert turns({**CHAT, "documents": [{"text": "Because.", "id": "a-1"}]}) == (ASKED, ANSWER)
    assert turns({**CHAT, "prompt": "Why?"}) == (ASKED, ANSWER)


@pytest.mark.parametrize("value", ["doc-17", "https://example.org/a", ["d-1", "d-2"], [1, 2], 4, "notes/a.txt"])
@pytest.mark.parametrize("record", [QA, CHAT, {"instruction": "Why?", "output": "Because."}])
def test_the_name_of_a_document_is_no_context(record: dict[str, Any], value: Any) -> None:
    found = parsed({**record, "document": value})
    assert found.conversation is not None
    assert found.conversation.turns == (ASKED, ANSWER)
    assert found.unread == ("document",)


def test_a_prompt_that_contains_the_question_is_unread() -> None:
    assert parsed({**QA, "prompt": "You are kind. Why?"}).unread == ("prompt",)


def test_tools_beside_a_question_are_read() -> None:
    tools = [{"name": "f", "parameters": {}}]
    for record in ({**QA, "tools": tools}, {**QA, "tools": json.dumps(tools)}):
        found = parsed(record).conversation
        assert found is not None
        assert found.tools == tuple(tools)
    assert parsed({**QA, "tools": "a hammer"}).unread == ("tools",)


def test_a_single_call_under_another_name_is_refused() -> None:
    record = {"messages": [CHAT["messages"][0], {**CHAT["messages"][1], "tool_call": {"name": "f"}}]}
    assert faults(record) == [("bad-tool-call", "messages[1].tool_call")]


def test_parts_of_text_are_read_under_openais_names() -> None:
    parts = ("input_text", "Why?"), ("output_text", "Because.")
    messages = [
        {**message, "content": [{"type": kind, "text": text}]}
        for message, (kind, text) in zip(CHAT["messages"], parts, strict=True)
    ]
    assert turns({"messages": messages}) == (ASKED, ANSWER)


def test_a_system_text_beside_the_messages_is_read_unless_a_message_has_one() -> None:
    assert turns({**CHAT, "system": "Be brief."})[0] == Turn("system", "Be brief.")
    assert turns({**QA, "system_prompt": "Be brief."})[0] == Turn("system", "Be brief.")
    other = {"messages": [{"role": "system", "content": "Be kind."}, *CHAT["messages"]], "system": "Be brief."}
    found = parsed(other)
    assert [fault.kind for fault in found.faults] == ["two-system-texts"]
    assert found.unread == ("system",)


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {**CHAT, "images": ["a.jpg"]},
        {**QA, "image": "scans/a.PNG"},
        {**QA, "image": {"bytes": "x", "path": None}},
        {**CHAT, "videos": "a.mp4"},
        {**CHAT, "audios": ["a.wav"]},
        {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]},
        {**QA, "question": "What is this? <image>"},
        {"messages": [{"role": "user", "content": "Hm?", "images": ["a.jpg"]}, CHAT["messages"][1]]},
        {**QA, "image_path": "scans/17"},
        {**QA, "image_url": "https://example.org/17"},
        {**QA, "image": "iVBORw0KGgo" * 30},
        {**QA, "pixel_values": [[0.5]]},
        {**QA, "audio": {"array": [0.5], "sampling_rate": 16000}},
        {**CHAT, "files": ["a.pdf"]},
        {**CHAT, "attachments": [{"name": "a.pdf"}]},
        {"messages": [{"role": "user", "content": "Hm?", "attachments": ["a.pdf"]}, CHAT["messages"][1]]},
        {**QA, "question": "Look at this <image> and say what it is."},
        {**QA, "question": "See <image 1> and <image 2>: which one?"},
        {**QA, "answer": "It is like <image> here."},
        {**QA, "question": "What is <|image_1|> about?"},
        {**QA, "question": "a <|vision_start|><|image_pad|><|vision_end|> b"},
        {**QA, "answer": "Here it is: <|image|>"},
        {**QA, "question": "What does [IMG] show?"},
        {**QA, "question": "Picture 1: <img>a.jpg</img> What is it?"},
        {**QA, "question": "What is on the left of <img> here?", "image_id": 7},
        {**QA, "question": "See [image]: what is it?", "image_id": 7},
    ],
)
def test_pictures_recordings_and_files_are_refused(fields: dict[str, Any]) -> None:
    assert {kind for kind, _ in faults(fields)} == {"unsupported-media"}
    assert parsed(fields, compared=True).conversation is not None


@pytest.mark.parametrize(
    "fields",
    [
        {**CHAT, "images": []},
        {**CHAT, "images": None},
        {**QA, "question": "What does <image> mean in this file?"},
        {**QA, "question": "Read:\n<image>\n<url>a</url>\n</image>"},
        {**QA, "question": "How do I show a picture?", "answer": "Write <img src='a.png'>, or <video> for a film."},
        {**QA, "question": "What is <img>?", "answer": "The <img> tag shows a picture; <audio> plays a sound."},
        {**QA, "answer": "It is written `<|image|>`."},
        {**QA, "answer": "```\n<image>\n```"},
        {**QA, "answer": "The model reads '<image>' as a picture."},
        {**QA, "answer": "[IMG]http://example.org/a.png[/IMG]"},
        {**QA, "image": "a dog in the rain"},
        {**QA, "image_id": 7},
        {**QA, "file": "a.txt"},
    ],
)
def test_what_is_no_picture_is_not_refused(fields: dict[str, Any]) -> None:
    assert faults(fields) == []


# --- Text that a template rendered ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", "completion": "Because."},
        {"prompt": "[INST] Why? [/INST]", "completion": "Because."},
        {"prompt": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\nWhy? [/INST]", "completion": "Because."},
        {"instruction": "<|start_header_id|>user<|end_header_id|>\nWhy?", "output": "Because."},
        {**QA, "question": "<start_of_turn>user\nWhy?"},
        {**QA, "question": "<|user|>\nWhy?\n<|assistant|>"},
        {**QA, "answer": "<|start|>assistant<|channel|>final<|message|>Because."},
    ],
)
def test_text_that_a_template_rendered_is_refused(fields: dict[str, Any]) -> None:
    assert {kind for kind, _ in faults(fields)} == {"rendered-text"}
    assert parsed(fields, compared=True).conversation is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "### Instruction:\nWhy?\n\n### Response:\n", "completion": "Because."},
        {**QA, "answer": "Because.</s>"},
        {**QA, "answer": "Because.<|endoftext|>"},
        {**QA, "question": "Human: Why?\n\nAssistant:"},
    ],
)
def test_text_that_a_template_may_have_rendered_is_a_warning(fields: dict[str, Any]) -> None:
    found = parsed(fields)
    assert found.conversation is not None
    assert [fault.kind for fault in found.faults] == ["rendered-text"]


@pytest.mark.parametrize(
    "answer",
    [
        "ChatML begins a turn with `<|im_start|>user`.",
        "```\n<|im_start|>user\n```",
        "The token <|im_start|> begins a turn.",
        "## Response times",
        "Human: to err",
        "Llama writes [INST] before a question.",
    ],
)
def test_text_about_templates_has_no_fault(answer: str) -> None:
    assert turns({**QA, "answer": answer})[1].content == answer


def test_whole_conversations_in_one_text_are_refused_by_instruct_and_found_by_data_check(tmp_path: Path) -> None:
    text = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>"
    path = write(tmp_path / "a.jsonl", [{"text": text}] * 3)
    with pytest.raises(CorpusError, match=r"(?s)'text'.*rendered.*<\|im_start\|>user.*messages"):
        opened(path)
    found = [one for one in checked(path).findings if one.kind == "rendered-text"]
    assert [(one.line, one.field, one.error) for one in found] == [(n, "text", False) for n in (1, 2, 3)]


# --- Unread fields ----------------------------------------------------------------------------------------------------


def test_unread_fields_are_counted_and_never_stop_the_reader(tmp_path: Path) -> None:
    records = chats(30, id=7, source="x", meta={"a": 1}, note=None)
    records[3]["messages"][1]["tag"] = "t"
    data, _ = opened(write(tmp_path / "a.jsonl", records))
    assert data.left_out.to_result()["unread_fields"] == {"id": 30, "source": 30, "meta": 30, "messages[].tag": 1}
    left_out = LeftOut()
    bad = BadRecords("stop", lambda _: None)
    list(iterate_conversations(tmp_path / "a.jsonl", FieldChoice(id_field="id"), bad, left_out=left_out))
    assert "id" not in left_out.fields


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers() | st.text(max_size=5) | st.none(), max_size=4))
def test_every_field_is_read_refused_or_counted(more: dict[str, Any]) -> None:
    plain = parsed(CHAT).conversation
    found = parsed({**more, **CHAT})
    assert plain is not None
    if found.conversation is not None and found.conversation.turns == plain.turns:
        marks = {"weight", "train", "training", "loss", "label", "kto_tag"}
        there = {name for name, value in more.items() if value is not None}
        assert there - marks - {"tools", "system", "system_prompt", "messages"} <= set(found.unread)


# --- Placeholders -----------------------------------------------------------------------------------------------------


def unfilled(*texts: str) -> list[tuple[str, int, int | None]]:
    found = Placeholders()
    for line, text in enumerate(texts, 1):
        found.add(line, [text])
    return [tuple(one) for one in found.unfilled()]


def test_placeholders_are_found_with_their_first_line() -> None:
    assert unfilled("a", "Dear {{ name }},", "Dear {{name}}, {{name}}") == [("{{name}}", 2, 2)]
    assert unfilled("Dear {name},", "Dear {name},", "To <NAME>", "Dear {name}") == [("{name}", 3, 1)]
    assert unfilled(*["To <NAME>."] * 3) == [("<NAME>", 3, 1)]


@pytest.mark.parametrize(
    "text",
    [r"\frac{abc}{bcd}", "x^{abc}", "`{name}` is code", "```\nf'{name}'\n```", "f(){return}", "<b>", "{a}", "${home}"],
)
def test_code_and_mathematics_are_no_placeholders(text: str) -> None:
    assert unfilled(*[text] * 5) == []


def test_unfilled_placeholders_are_noted_by_instruct_and_found_by_data_check(tmp_path: Path) -> None:
    records = chats(30)
    records[6]["messages"][0]["content"] += " {{topic}}"
    path = write(tmp_path / "a.jsonl", records)
    data, _ = opened(path)
    assert any("{{topic}}" in note and "line 7" in note for note in data.notes)
    found = checked(path)
    assert [(one.line, one.error) for one in found.findings if one.kind == "unfilled-placeholder"] == [(7, False)]


# --- data check -------------------------------------------------------------------------------------------------------


def checked(path: Path) -> CheckResult:
    rejections = Rejections()
    file = CheckedFile.open(str(path), "auto", Fields())
    return Checker().check(file.items(rejections.bad), rejections)


def test_data_check_finds_what_instruct_refuses_leaves_out_and_does_not_read(tmp_path: Path) -> None:
    records = chats(10, source="x")
    records[1]["weight"] = 0
    records[2]["images"] = ["a.jpg"]
    records[3]["context"] = "It rained."
    found = checked(write(tmp_path / "a.jsonl", records))
    kinds = {(one.line, one.kind, one.error) for one in found.findings}
    assert {(2, "not-learned", False), (3, "unsupported-media", True), (4, "unsupported-field", True)} <= kinds
    assert found.statistics["unread_fields"]["source"] == 9  # not 10: the fields of a left-out record are not counted


def test_data_check_reads_the_documents_of_a_question_as_its_context(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**QA, "documents": [{"text": "It rained."}]}])
    file = CheckedFile.open(str(path), "auto", Fields())
    assert (file.kind, file.format) == ("conversations", "qa")
    assert [one.kind for one in checked(path).findings if one.error] == []


def test_data_check_searches_history_for_private_data(tmp_path: Path) -> None:
    record = {"instruction": "Why?", "output": "So.", "history": [["Who is a@b.org?", "Nobody."]]}
    file = CheckedFile.open(str(write(tmp_path / "a.jsonl", [record])), "auto", Fields())
    (item,) = file.items(Rejections().bad)
    assert ("history[0][0]", "Who is a@b.org?") in {(one.field, one.text) for one in item.passages}


# --- Roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "meant"),
    [
        ("ユーザー", "user"),
        ("アシスタント", "assistant"),
        ("\uff55\uff53\uff45\uff52", "user"),  # full-width letters
        ("User", "user"),
        ("Human", "user"),
        ("GPT", "assistant"),
    ],
)
def test_other_names_of_roles_are_refused_with_the_role_that_is_meant(role: str, meant: str) -> None:
    found = parsed({"conversations": [{"from": role, "value": "なぜ？"}, {"from": "gpt", "value": "だから。"}]})
    assert found.conversation is None
    fault = next(fault for fault in found.faults if fault.kind == "unknown-role")
    assert fault.field == "conversations[0].from"
    assert f"write '{meant}'" in fault.message


# --- Files and rows ---------------------------------------------------------------------------------------------------


def test_a_json_list_is_read_like_json_lines(tmp_path: Path) -> None:
    records = chats(30)
    (tmp_path / "a.json").write_text(json.dumps(records, indent=2), encoding="utf-8")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))
    lines, _ = opened(write(tmp_path / "a.jsonl", records))
    for name in ("a.json", "a.json.gz"):
        data, _ = opened(tmp_path / name)
        assert [one.turns for one in data.train] == [one.turns for one in lines.train]


def test_a_conversation_without_room_for_its_answer_is_dropped_with_the_reason() -> None:
    long = Conversation("a", "f.jsonl", 3, (Turn("user", "long " * 300), ANSWER))
    short = Conversation("b", "f.jsonl", 4, (ASKED, ANSWER))
    tokenizer = chat_tokenizer()
    rows = encode_conversations([long, short], tokenizer, ChatTemplate.of(tokenizer), max_length=64)
    (reject,) = (one.reject for one in rows.dropped)
    assert (reject.file, reject.line) == ("f.jsonl", 3)
    assert "nothing is left to learn" in reject.reason
    assert len(rows) == 1


def test_a_conversation_that_an_annotator_rejected_or_ignored_is_left_out(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    rows = [{"messages": turns, "answer": verdict} for verdict in ("accept", "reject", "Ignore", "accept")]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    marked: list[Reject] = []
    found = list(iterate_conversations(path, FieldChoice(), BadRecords("stop", print), marked=marked.append))
    assert [one.line for one in found] == [1, 4]
    assert [(one.line, one.field) for one in marked] == [(2, "answer"), (3, "answer")]
