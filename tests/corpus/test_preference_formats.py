"""Records of preferences: every format gives the same examples, and each fault is named with its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.preferences.examples import PreferenceExample, RatedExample
from domain_ft.corpus.preferences.fields import PreferenceChoice, recognise
from domain_ft.corpus.preferences.parsing import ParsedPreferences, parse
from domain_ft.corpus.readers.base import RawRecord

ASKED = {"role": "user", "content": "Why?"}


def said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def parsed(fields: dict[str, Any], choice: PreferenceChoice | None = None) -> ParsedPreferences:
    choice = choice or PreferenceChoice()
    format = recognise(fields, choice)
    assert format is not None
    return parse(RawRecord(3, fields), "a.jsonl", format, choice)


def pair(fields: dict[str, Any], choice: PreferenceChoice | None = None) -> PreferenceExample:
    found = parsed(fields, choice)
    assert [fault for fault in found.faults if fault.error] == []
    (example,) = found.examples
    assert isinstance(example, PreferenceExample)
    return example


def contents(example: PreferenceExample | RatedExample) -> list[list[str]]:
    return [[turn.content for turn in turns] for turns in (example.prompt, *example.answers)]


def faults(fields: dict[str, Any]) -> list[tuple[str, str | None]]:
    found = parsed(fields)
    assert found.examples == ()
    return [(fault.kind, fault.field) for fault in found.faults if fault.error]


# --- Pairs ------------------------------------------------------------------------------------------------------------

SAME: dict[str, dict[str, Any]] = {
    "explicit texts": {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    "question": {"question": "Why?", "chosen": "So.", "rejected": "No."},
    "instruction": {"instruction": "Why?", "input": "", "chosen": "So.", "rejected": "No."},
    "messages": {"prompt": [ASKED], "chosen": [said("So.")], "rejected": [said("No.")]},
    "text prompt, messages": {"prompt": "Why?", "chosen": [said("So.")], "rejected": [said("No.")]},
    "single messages": {"messages": [ASKED], "chosen": said("So."), "rejected": said("No.")},
    "implicit prompt": {"chosen": [ASKED, said("So.")], "rejected": [ASKED, said("No.")]},
    "both prompts": {"prompt": "Why?", "chosen": [ASKED, said("So.")], "rejected": [ASKED, said("No.")]},
    "messages as JSON": {
        "chosen": json.dumps([ASKED, said("So.")]),
        "rejected": json.dumps([ASKED, said("No.")]),
    },
    "share-gpt": {
        "conversations": [{"from": "human", "value": "Why?"}],
        "chosen": {"from": "gpt", "value": "So."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "transcripts": {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
    "transcript as prompt": {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": " So.", "rejected": " No."},
    "arena": {"prompt": "Why?", "response_a": "No.", "response_b": "So.", "winner": "model_b"},
    "numbered": {"prompt": "Why?", "response_0": "No.", "response_1": "So.", "better_response_id": 1},
    "numbered in a table": {"prompt": "Why?", "output_1": "So.", "output_2": "No.", "preference": "1.0"},
    "whole conversations": {
        "conversation_a": [ASKED, said("So.")],
        "conversation_b": [ASKED, said("No.")],
        "winner": "A",
    },
    "scores": {
        "instruction": "Why?",
        "completions": [{"response": "No.", "overall_score": 2}, {"response": "So.", "overall_score": 7.5}],
    },
    "ranks": {"prompt": "Why?", "answers": [{"answer": "So.", "rank": 1}, {"answer": "No.", "rank": 2}]},
    "lists": {"prompt": "Why?", "responses": ["No.", "So."], "scores": [0.5, 1.5]},
    "lists in a table": {"prompt": "Why?", "responses": '["No.", "So."]', "ranks": "[2, 1]"},
}


@pytest.mark.parametrize("fields", SAME.values(), ids=SAME)
def test_every_format_gives_the_same_pair(fields: dict[str, Any]) -> None:
    example = pair(fields)
    assert contents(example) == [["Why?"], ["So."], ["No."]]
    assert example.id == "a.jsonl:3"
    assert example.source.place == "a.jsonl, line 3"
    assert not any(turn.trained for turn in example.prompt)
    assert all(turn.trained for answer in example.answers for turn in answer)
    assert parsed(fields).unread == ()


def test_the_formats_are_recognised() -> None:
    found = [recognise(fields, PreferenceChoice()) for fields in SAME.values()]
    assert found == ["pairs"] * 10 + ["transcript"] * 2 + ["compared"] * 4 + ["ranking"] * 4


def test_a_later_transcript_is_read_as_one_unless_the_user_named_the_format() -> None:
    record = RawRecord(3, SAME["transcripts"])
    (example,) = parse(record, "a.jsonl", "pairs", PreferenceChoice()).examples
    assert contents(example) == [["Why?"], ["So."], ["No."]]
    assert parse(record, "a.jsonl", "pairs", PreferenceChoice(format="pairs")).examples == ()


def test_the_shared_turns_are_the_prompt_and_the_system_turn_and_tools_are_kept() -> None:
    before = [ASKED, said("Ask on."), {"role": "user", "content": "How?"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    system = {"role": "system", "content": "Short."}
    example = pair(
        {"chosen": [system, *before, said("So.")], "rejected": [system, *before, said("No.")], "tools": tools}
    )
    assert contents(example) == [["Short.", "Why?", "Ask on.", "How?"], ["So."], ["No."]]
    assert example.source.tools == tuple(tools)
    assert contents(pair({"prompt": "Why?", "system": "Short.", "chosen": "a", "rejected": "b"}))[0] == [
        "Short.",
        "Why?",
    ]


def test_fields_can_be_named() -> None:
    choice = PreferenceChoice(
        prompt_field="ask", chosen_field="win", rejected_field="lose", id_field="n", group_field="who"
    )
    example = pair({"ask": "Why?", "win": "So.", "lose": "No.", "n": 7, "who": "x"}, choice)
    assert (example.id, example.source.group) == ("7", "x")
    assert contents(example) == [["Why?"], ["So."], ["No."]]
    ranked = {"ask": [ASKED], "answers": [{"text": "No.", "votes": 1}, {"text": "So.", "votes": 3}]}
    assert pair(ranked, PreferenceChoice(prompt_field="ask", score_field="votes")).margin == 2


def test_the_margin_is_the_records_or_the_difference_of_the_scores() -> None:
    fields = SAME["explicit texts"]
    assert pair(fields).margin is None
    assert pair({**fields, "margin": "0.5"}).margin == 0.5
    assert pair({**fields, "score_chosen": 8, "score_rejected": 5.5}).margin == 2.5
    assert pair({**fields, "chosen-rating": 8, "rejected-rating": 5}).margin == 3
    assert pair(SAME["scores"]).margin == 5.5
    assert pair(SAME["ranks"]).margin == 1


# --- Rankings ---------------------------------------------------------------------------------------------------------


def test_all_answers_with_different_scores_are_compared() -> None:
    texts = [("a", 3), ("b", 1), ("c", 3), ("d", 5)]
    fields = {"prompt": "Why?", "completions": [{"response": text, "score": score} for text, score in texts]}
    found = parsed({**fields, "id": "q"}, PreferenceChoice(id_field="id"))
    pairs = [(one.id, one.chosen[0].content, one.rejected[0].content, one.margin) for one in found.examples]  # type: ignore[union-attr]
    assert pairs == [
        ("q#1-2", "a", "b", 2),
        ("q#4-1", "d", "a", 2),
        ("q#3-2", "c", "b", 2),
        ("q#4-2", "d", "b", 4),
        ("q#4-3", "d", "c", 2),
    ]
    assert found.ties == 1


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_each_pair_of_a_ranking_is_made_once_or_is_a_tie(scores: list[int]) -> None:
    fields = {"prompt": "Why?", "responses": [f"answer {n}" for n in range(len(scores))], "scores": scores}
    found = parsed(fields)
    assert len(found.examples) + found.ties == len(scores) * (len(scores) - 1) // 2
    for example in found.examples:
        assert isinstance(example, PreferenceExample)
        better, worse = (scores[int(answer[0].content.split()[1])] for answer in example.answers)
        assert example.margin == better - worse > 0


def test_fine_grained_scores_are_preferred_to_overall_ones() -> None:
    completions = [
        {"response": "No.", "overall_score": 9, "fine-grained_score": 1.5},
        {"response": "So.", "overall_score": 2, "fine-grained_score": 4.0},
    ]
    assert pair({"instruction": "Why?", "completions": completions}).chosen[0].content == "So."


def test_a_list_without_scores_is_ordered_only_if_the_user_says_so() -> None:
    fields = {"prompt": "Why?", "responses": ["So.", "No."]}
    assert recognise(fields, PreferenceChoice()) is None
    example = pair(fields, PreferenceChoice(format="ranking"))
    assert (contents(example), example.margin) == ([["Why?"], ["So."], ["No."]], None)


# --- Rated answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "good"), [(True, True), (0, False), ("1", True), ("False", False), (1.0, True), ("good", True)]
)
def test_a_label_rates_the_completion(label: Any, good: bool) -> None:
    for fields in (
        {"prompt": "Why?", "completion": "So.", "label": label},
        {"prompt": [ASKED], "completion": [said("So.")], "label": label},
        {"messages": [ASKED, said("So.")], "kto_tag": label},
        {"instruction": "Why?", "output": "So.", "label": label},
    ):
        (example,) = parsed(fields).examples
        assert isinstance(example, RatedExample)
        assert contents(example) == [["Why?"], ["So."]]
        assert example.desirable is good
        assert example.completion[0].trained


def test_only_the_last_answer_is_rated() -> None:
    talk = [ASKED, said("Ask on."), {"role": "user", "content": "How?"}, said("So.")]
    (example,) = parsed({"messages": talk, "label": False}).examples
    assert contents(example) == [["Why?", "Ask on.", "How?"], ["So."]]
    assert not any(turn.trained for turn in example.prompt)


# --- Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"prompt": "Why?", "chosen": "So.", "rejected": " So.\n"}, ("equal-answers", "rejected")),
        ({"prompt": "Why?", "chosen": "So.", "rejected": " "}, ("empty-answer", "rejected")),
        ({"prompt": "", "chosen": "So.", "rejected": "No."}, ("empty-prompt", "prompt")),
        ({"chosen": "So.", "rejected": "No."}, ("no-prompt", None)),
        ({"prompt": "Why?", "chosen": "So.", "rejected": 4}, ("wrong-type", "rejected")),
        ({"prompt": "Why?", "chosen": "So.", "rejected": None}, ("missing-field", "rejected")),
        ({"prompt": [ASKED], "chosen": [ASKED], "rejected": [said("No.")]}, ("empty-answer", "chosen")),
        ({"prompt": "Why?", "chosen": "So.", "rejected": "No.", "margin": "big"}, ("bad-margin", "margin")),
        ({"prompt": "Why?", "chosen": "So.", "rejected": "No.", "margin": -1}, ("bad-margin", "margin")),
        (
            {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "score_chosen": 1, "score_rejected": 2},
            ("contradicting-scores", "score_rejected"),
        ),
        (
            {"chosen": [ASKED, said("a")], "rejected": [{"role": "user", "content": "How?"}, said("b")]},
            ("other-prompt", "rejected"),
        ),
        (
            {
                "chosen": [ASKED, said("a"), {"role": "user", "content": "How?"}, said("b")],
                "rejected": [ASKED, said("a"), {"role": "user", "content": "Who?"}, said("c")],
            },
            ("other-prompt", "chosen"),
        ),
        (
            {"prompt": "How?", "chosen": [ASKED, said("a")], "rejected": [ASKED, said("b")]},
            ("other-prompt", "chosen"),
        ),
        (
            {"prompt": [ASKED, said("a")], "chosen": "b", "rejected": "c"},
            ("other-prompt", "chosen"),
        ),
        ({"prompt": "Why?", "chosen": [ASKED, said("a")], "rejected": "b"}, ("other-prompt", "rejected")),
        ({"prompt": "Why?", "response_a": "a", "response_b": "b", "winner": 1}, ("bad-winner", "winner")),
        ({"prompt": "Why?", "responses": ["a", "b"], "scores": [1]}, ("no-score", "scores")),
        ({"prompt": "Why?", "completion": "So.", "label": 0.5}, ("bad-label", "label")),
        ({"prompt": "Why?", "completion": "", "label": 1}, ("empty-answer", "completion")),
        (
            {"chosen": [{"role": "robot", "content": "Why?"}, said("a")], "rejected": [ASKED, said("b")]},
            ("unknown-role", "chosen[0].role"),
        ),
        (
            {"prompt": "Why?", "chosen": "<|im_start|>assistant\nSo.", "rejected": "No."},
            ("rendered-text", None),
        ),
    ],
)
def test_each_fault_is_named_with_its_field(fields: dict[str, Any], fault: tuple[str, str | None]) -> None:
    assert faults(fields) == [fault]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "Why?", "response_a": "a", "response_b": "b", "winner": "tie (bothbad)"}, "winner"),
        (
            {"prompt": "Why?", "chosen": "a", "rejected": "b", "score_chosen": 4, "score_rejected": 4.0},
            "score_rejected",
        ),
        ({"prompt": "Why?", "responses": ["a", "b", "c"], "scores": [2, 2, 2]}, "scores"),
    ],
)
def test_ties_are_left_out_and_are_no_fault(fields: dict[str, Any], field: str) -> None:
    found = parsed(fields)
    assert (found.examples, found.faults) == ((), ())
    assert found.left_out is not None
    assert (found.left_out.kind, found.left_out.field) == ("tie", field)
    assert found.ties >= 1


def test_a_marked_record_is_left_out() -> None:
    found = parsed({"prompt": "Why?", "chosen": "a", "rejected": "b", "status": "rejected"})
    assert found.left_out is not None
    assert (found.examples, found.ties) == ((), 0)


def test_equal_answers_of_a_ranking_are_in_no_pair() -> None:
    fields = {"prompt": "Why?", "responses": ["a", "a", "b"], "scores": [3, 2, 1]}
    found = parsed(fields)
    assert len(found.examples) == 2
    assert [(fault.kind, fault.field) for fault in found.faults] == [("equal-answers", "responses[1]")]
    assert faults({**fields, "responses": ["a", "a", "a"]}) == [("equal-answers", "responses[0]")]


def test_fields_that_are_not_read_are_listed() -> None:
    fields = {**SAME["scores"], "source": "web", "models": ["x", "y"]}
    assert parsed(fields).unread == ("source", "models")
    copy = {"messages": [ASKED, said("So.")], **SAME["both prompts"]}
    assert parsed(copy).unread == ("messages",)
