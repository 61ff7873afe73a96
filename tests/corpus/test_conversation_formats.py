"""Records of every usual format become conversations, and every fault is reported with its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chats import WEATHER, tool_chat

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.formats import FieldChoice, Format, Parsed, parse, recognise, to_chat
from domain_ft.corpus.readers.base import RawRecord

AUTO = FieldChoice()
ASKED = Turn("user", "Why?")
ANSWER = Turn("assistant", "Because.", trained=True)


def read(fields: dict[str, Any], choice: FieldChoice = AUTO, *, answered: bool = True) -> Parsed:
    format = recognise(fields, choice, answered=answered)
    assert format is not None
    return parse(RawRecord(4, fields), "f.jsonl", format, choice, answered=answered)


def turns(fields: dict[str, Any], choice: FieldChoice = AUTO) -> tuple[Turn, ...]:
    conversation, faults, *_ = read(fields, choice)
    assert conversation is not None
    assert faults == ()
    return conversation.turns


def errors(fields: dict[str, Any], choice: FieldChoice = AUTO) -> list[tuple[str, str | None]]:
    conversation, faults, *_ = read(fields, choice)
    assert (conversation is None) == any(fault.error for fault in faults)
    return [(fault.kind, fault.field) for fault in faults]


def messages(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


# --- The formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "fields"),
    [
        ("chat", messages(("user", "Why?"), ("assistant", "Because."))),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}),
        ("sharegpt", {"conversation": [{"from": "user", "value": "Why?"}, {"from": "chatgpt", "value": "Because."}]}),
        ("sharegpt", {"conversations": messages(("user", "Why?"), ("assistant", "Because."))["messages"]}),
        ("alpaca", {"instruction": "Why?", "input": "", "output": "Because."}),
        ("alpaca", {"instruction": "Why?", "context": " ", "response": "Because."}),
        ("prompt", {"prompt": "Why?", "completion": " Because."}),
        (
            "prompt",
            {
                "prompt": [{"role": "user", "content": "Why?"}],
                "completion": [{"role": "assistant", "content": "Because."}],
            },
        ),
        ("qa", {"question": "Why?", "answer": "Because.", "source": "x"}),
        ("qa", {"query": "Why?", "response": "Because."}),
        ("qa", {"input": "Why?", "output": "Because."}),
    ],
)
def test_every_format_is_recognised_and_read_alike(format: Format, fields: dict[str, Any]) -> None:
    assert recognise(fields, AUTO) == format
    assert turns(fields) == (ASKED, ANSWER)


def test_a_record_of_no_format_is_not_recognised() -> None:
    assert recognise({"text": "abc", "label": 1}, AUTO) is None
    assert recognise({"text": "abc"}, AUTO, answered=False) == "qa"
    assert recognise({"text": "abc"}, FieldChoice(format="chat")) == "chat"


def test_alpacas_input_follows_the_instruction() -> None:
    found = turns({"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"})
    assert found[0].content == "Translate.\n\nGuten Tag"


def test_windows_line_ends_are_converted() -> None:
    assert turns({"question": "Why?\r\nWell?", "answer": "Because."})[0].content == "Why?\nWell?"


def test_fields_can_be_chosen() -> None:
    fields = {"dialogue": "Doctor: Hello.", "header": "CC", "section_text": "A cough.", "ID": 12, "doctor": "d7"}
    choice = FieldChoice(
        prompt_field="header,dialogue",
        answer_field="section_text",
        id_field="ID",
        group_field="doctor",
        system="Write the section.",
    )
    conversation, faults, *_ = read(fields, choice)
    assert faults == ()
    assert conversation is not None
    assert [(turn.role, turn.content) for turn in conversation.turns] == [
        ("system", "Write the section."),
        ("user", "CC\n\nDoctor: Hello."),
        ("assistant", "A cough."),
    ]
    assert (conversation.id, conversation.group, conversation.place) == ("12", "d7", "f.jsonl, line 4")
    assert ("missing-field", "section_text") in errors({"header": "CC", "dialogue": "Hello"}, choice)
    assert ("missing-field", "ID") in errors({**fields, "ID": None}, choice)


def test_if_one_field_is_named_the_other_is_found() -> None:
    assert turns({"q": "Why?", "answer": "Because."}, FieldChoice(prompt_field="q")) == (ASKED, ANSWER)
    assert turns({"question": "Why?", "a": "Because."}, FieldChoice(answer_field="a")) == (ASKED, ANSWER)


def test_the_records_own_system_text_is_preferred_to_the_chosen_one() -> None:
    choice = FieldChoice(system="Be brief.")
    own = messages(("system", "Be kind."), ("user", "Why?"), ("assistant", "Because."))
    assert [turn.content for turn in turns(own, choice)][:2] == ["Be kind.", "Why?"]
    assert turns({"question": "Why?", "answer": "Because."}, choice)[0] == Turn("system", "Be brief.")
    shared = {
        "system": "Be calm.",
        "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "?"}],
    }
    assert turns(shared, choice)[0] == Turn("system", "Be calm.")


def test_openais_roles_parts_and_weights_are_read() -> None:
    found = turns(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "this?"}]},
                {"role": "assistant", "content": "So.", "weight": 0},
                {"role": "user", "content": "Again?", "name": None},
                {"role": "assistant", "content": "Yes.", "weight": 1, "tool_calls": None},
            ]
        }
    )
    assert [turn.role for turn in found] == ["system", "user", "assistant", "user", "assistant"]
    assert found[1].content == "Why\nthis?"
    assert [turn.trained for turn in found] == [False, False, False, False, True]


def test_tool_calls_are_read() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "京都"}'}}
    record = {
        "messages": [
            {"role": "user", "content": "Is it raining?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": '{"rain": true}', "name": "weather", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is."},
        ],
        "tools": [WEATHER],
    }
    conversation, faults, *_ = read(record)
    assert faults == ()
    assert conversation is not None
    assert (conversation.turns, conversation.tools) == (tool_chat().turns, tool_chat().tools)


def test_sharegpts_tool_calls_are_read() -> None:
    spoken = [
        {"from": "human", "value": "Is it raining?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"town": "京都"}}'},
        {"from": "observation", "value": '{"rain": true}'},
        {"from": "gpt", "value": "It is."},
    ]
    conversation, faults, *_ = read({"conversations": spoken, "tools": json.dumps([WEATHER])})
    assert faults == ()
    assert conversation is not None
    assert conversation.turns[1].tool_calls[0]["function"] == tool_chat().turns[1].tool_calls[0]["function"]
    assert [turn.role for turn in conversation.turns] == ["user", "assistant", "tool", "assistant"]
    assert conversation.tools == (WEATHER,)


def test_prompts_without_answers_are_read_if_no_answer_is_needed() -> None:
    for fields in ({"prompt": "Why?"}, {"question": "Why?"}, {"instruction": "Why?"}, {"text": "Why?"}):
        conversation, faults, *_ = read(fields, answered=False)
        assert faults == ()
        assert conversation is not None
        assert conversation.turns == (ASKED,)
    conversation, faults, *_ = read(messages(("user", "Why?")), answered=False)
    assert faults == ()
    assert conversation is not None
    conversation, *_ = read({"question": "Why?", "answer": "Because."}, answered=False)
    assert conversation is not None
    assert conversation.turns == (ASKED, ANSWER)


# --- Faults -----------------------------------------------------------------------------------------------------------

GOOD = ("assistant", "Because.")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (messages(("usr", "Why?"), GOOD), [("unknown-role", "messages[0].role")]),
        (messages(("user", None), GOOD), [("missing-content", "messages[0].content")]),
        (messages(("user", "Why?")), [("no-assistant-turn", "messages")]),
        (messages(("user", "Why?"), ("assistant", " \n")), [("empty-answer", "messages[1].content")]),
        (messages(("user", ""), GOOD), [("empty-prompt", "messages[0].content")]),
        (messages(("user", 3), GOOD), [("wrong-type", "messages[0].content")]),
        (messages(GOOD, ("user", "Why?"), GOOD), [("first-turn-of-assistant", "messages[0]")]),
        ({"messages": "Why?"}, [("wrong-type", "messages")]),
        ({"messages": []}, [("no-messages", "messages")]),
        ({"messages": ["Why?", {"role": "assistant", "content": "x"}]}, [("wrong-type", "messages[0]")]),
        ({"messages": [{"content": "Why?"}]}, [("missing-role", "messages[0].role")]),
        (
            {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "x", "weight": 0}]},
            [("no-trained-turn", "messages")],
        ),
        (
            {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "x", "weight": 2}]},
            [("bad-weight", "messages[1].weight")],
        ),
        (
            messages(("user", [{"type": "image_url", "image_url": {}}]), GOOD),
            [("unsupported-part", "messages[0].content[0]")],
        ),
        (messages(("user", "Why?"), ("tool", "x"), GOOD), [("tool-without-call", "messages[1]")]),
        ({"instruction": "", "output": " "}, [("empty-prompt", "instruction"), ("empty-answer", "output")]),
        ({"prompt": "Why?", "completion": ""}, [("empty-answer", "completion")]),
        ({"question": "Why?", "answer": 4}, [("wrong-type", "answer")]),
        ({"question": "", "answer": "x"}, [("empty-prompt", "question")]),
        (
            {"conversations": [{"from": "humn", "value": "x"}, {"from": "gpt", "value": ""}]},
            [("unknown-role", "conversations[0].from"), ("empty-answer", "conversations[1].value")],
        ),
    ],
)
def test_each_fault_is_named_with_its_field(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert errors(fields) == expected


def test_no_fault_hides_another() -> None:
    record = messages(("usr", "Why?"), ("assistant", ""), ("user", None), ("assistant", 5))
    record["messages"][3]["weight"] = "high"
    assert errors(record) == [
        ("unknown-role", "messages[0].role"),
        ("empty-answer", "messages[1].content"),
        ("missing-content", "messages[2].content"),
        ("bad-weight", "messages[3].weight"),
        ("wrong-type", "messages[3].content"),
    ]


def test_bad_tool_calls_are_reported_with_their_field() -> None:
    def calling(call: Any) -> list[tuple[str, str | None]]:
        return errors(
            {
                "messages": [
                    {"role": "user", "content": "Why?"},
                    {"role": "assistant", "content": None, "tool_calls": call},
                ]
            }
        )

    place = "messages[1].tool_calls"
    assert calling("x") == [("bad-tool-call", place)]
    assert calling([{"function": {"arguments": "{}"}}]) == [("bad-tool-call", f"{place}[0]")]
    broken = [{"function": {"name": "f", "arguments": "{"}}]
    assert calling(broken) == [("bad-tool-call", f"{place}[0].function.arguments")]
    assert calling([]) == [("missing-content", "messages[1].content")]
    old = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
    found = errors({"messages": [{"role": "user", "content": "Why?"}, old]})
    assert ("old-function-call", "messages[1].function_call") in found


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ({"from": "function_call", "value": "not json"}, ("bad-tool-call", "value")),
        ({"from": "function_call", "value": "[]"}, ("empty-answer", "value")),
        ({"role": "assistant", "content": "", "tool_calls": "x"}, ("bad-tool-call", "tool_calls")),
        ({"role": "assistant", "content": "", "tool_calls": ["x"]}, ("bad-tool-call", "tool_calls[0]")),
        ({"role": "assistant", "content": "", "tool_call": {"name": "f"}}, ("bad-tool-call", "tool_call")),
        ({"role": "assistant", "tool_use": {"name": "f"}}, ("bad-tool-call", "tool_use")),
        ({"role": "assistant", "content": "", "function_call": {}}, ("old-function-call", "function_call")),
        ({"role": "assistant", "content": "", "tool_calls": []}, ("empty-answer", "content")),
    ],
)
@pytest.mark.parametrize("with_result", [False, True])
def test_a_bad_call_is_one_fault(message: dict[str, Any], fault: tuple[str, str], with_result: bool) -> None:
    """Its message is not also an empty answer, and a result after it is not also a result without a call."""
    result = [{"role": "tool", "content": "x"}] if with_result and fault[0] != "empty-answer" else []
    user, answer = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
    found = errors({"messages": [user, message, *result, user, answer]})
    assert found == [(fault[0], f"messages[1].{fault[1]}")]


def test_a_bad_call_excuses_only_the_results_that_directly_follow() -> None:
    bad = {"role": "assistant", "content": "", "tool_calls": "x"}
    tool, user = {"role": "tool", "content": "x"}, {"role": "user", "content": "Why?"}
    found = errors({"messages": [user, bad, tool, user, tool, {"role": "assistant", "content": "Because."}]})
    assert found == [("bad-tool-call", "messages[1].tool_calls"), ("tool-without-call", "messages[4]")]


def test_unusual_records_are_read_with_warnings() -> None:
    record = messages(("user", "Why?"), ("user", "Well?"), GOOD, ("system", "Hm."), ("user", "\ud83d!"))
    conversation, faults, *_ = read(record)
    assert conversation is not None
    assert conversation.turns[-1].content == "\ufffd!"
    assert {fault.kind for fault in faults if not fault.error} == {
        "roles-do-not-alternate",
        "system-not-first",
        "unanswered-last-turn",
        "half-character",
    }


# --- Round trip -------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), min_size=1).filter(str.strip)
CALL = st.builds(
    lambda name, arguments: {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}},
    TEXT,
    st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.lists(TEXT))),
)
EXCHANGE = st.one_of(
    st.builds(lambda q, a, t: [Turn("user", q), Turn("assistant", a, t)], TEXT, TEXT, st.booleans()),
    st.builds(
        lambda q, c, r, a: [
            Turn("user", q),
            Turn("assistant", "", True, (c,)),
            Turn("tool", r, tool_call_id="c"),
            Turn("assistant", a, True),
        ],
        TEXT,
        CALL,
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r")),
        TEXT,
    ),
)


@given(st.lists(EXCHANGE, min_size=1, max_size=3), st.one_of(st.none(), TEXT), st.booleans())
def test_a_conversation_in_openais_format_is_read_back_unchanged(
    exchanges: list[list[Turn]], system: str | None, with_tools: bool
) -> None:
    found = tuple(turn for exchange in exchanges for turn in exchange)
    if not any(turn.trained for turn in found):
        found += (Turn("user", "More?"), Turn("assistant", "No.", True))
    found = (Turn("system", system), *found) if system else found
    base = tool_chat()
    conversation = type(base)("f.jsonl:4", "f.jsonl", 4, found, base.tools if with_tools else ())
    record = json.loads(json.dumps(to_chat(conversation)))
    assert read(record).conversation == conversation
