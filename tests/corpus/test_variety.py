"""An answer or a phrase that dominates is found, in English and Japanese; varied conversations have none."""

from __future__ import annotations

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.variety import DOMINATES, dominant_answer, dominant_phrase, phrases


def asked(prompts: list[str], answers: list[str]) -> list[Conversation]:
    return [
        Conversation(str(i), "f.jsonl", i, (Turn("user", prompt), Turn("assistant", answer, trained=True)))
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1)
    ]


def varied(count: int) -> list[str]:
    """Texts that have no phrase in common."""
    return [" ".join(f"{chr(97 + i % 26)}{i}{j}word" for j in range(8)) for i in range(count)]


def test_a_phrase_that_most_prompts_begin_with_is_found() -> None:
    prompts = [f"Please classify the following text: {text}" for text in varied(20)]
    found = dominant_phrase(asked([*prompts, *varied(5)], varied(25)))
    assert found is not None
    assert found.text == "Please classify the following"
    assert found.share == 20 / 25


def test_a_phrase_at_the_end_of_long_prompts_is_found() -> None:
    long = [f"{' '.join(varied(60)[i:])} Now sum up what was said in one sentence." for i in range(20)]
    found = dominant_phrase(asked(long, varied(20)))
    assert found is not None
    assert found.share == 1.0


def test_a_japanese_phrase_is_found() -> None:
    prompts = [f"次の文章を日本語で要約してください。{chr(0x4E00 + 37 * i)}{chr(0x5E00 + 53 * i)}" for i in range(20)]
    found = dominant_phrase(asked(prompts, varied(20)))
    assert found is not None
    assert found.text == "次の文章を日本語"


def test_case_and_white_space_make_no_difference() -> None:
    prompts = [
        ("What IS the\ncapital city of " if i % 2 else "what is the  capital city of ") + text
        for i, text in enumerate(varied(20))
    ]
    found = dominant_phrase(asked(prompts, varied(20)))
    assert found is not None
    assert found.share == 1.0


def test_varied_prompts_and_answers_have_no_dominant_one() -> None:
    conversations = asked(varied(40), varied(40))
    assert dominant_phrase(conversations) is None
    assert dominant_answer(conversations) is None


def test_a_dominant_answer_is_found() -> None:
    answers = ["Yes.", "yes. ", "YES."] * 10 + ["No."] * 10
    found = dominant_answer(asked(varied(40), answers))
    assert found is not None
    assert found.text == "Yes."
    assert found.share == 30 / 40


def test_two_answers_that_are_about_even_do_not_dominate() -> None:
    assert DOMINATES > 24 / 40
    assert dominant_answer(asked(varied(40), ["yes"] * 24 + ["no"] * 16)) is None


def test_nothing_dominates_a_handful() -> None:
    assert dominant_answer(asked(varied(9), ["yes"] * 9)) is None


def test_only_trained_turns_are_answers() -> None:
    turns = (Turn("user", "a"), Turn("assistant", "no"), Turn("user", "b"), Turn("assistant", "yes", trained=True))
    found = dominant_answer(
        [Conversation(str(i), "f", i, (*turns, Turn("user", "c"), Turn("assistant", "x"))) for i in range(20)]
    )
    assert found is not None
    assert found.text == "yes"


def test_short_texts_are_one_phrase_and_empty_ones_have_none() -> None:
    assert list(phrases("Hi").values()) == ["Hi"]
    assert phrases("") == {}
    assert phrases(" \n ") == {}
