"""Scores of answers: SQuAD's and ROUGE's in English, chrF in any script, and intervals paired by example."""

from __future__ import annotations

import math
import string
import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import CHRF
from torchmetrics.functional.text import rouge_score, squad

from domain_ft.evaluation.answers import (
    ANSWER_METRICS,
    AnswerScores,
    answer_differences,
    chrf,
    distinct,
    exact_match,
    repetition,
    rouge_l,
    squad_tokens,
    token_f1,
)

ENGLISH = st.lists(
    st.sampled_from(
        ["the", "The", "a", "an", "patient", "patients", "denies", "chest", "pain.", "(no", "fever),", "it's", "38.5",
         "long-term", "and", "or", "--", "...", "theory"]
    ),
    max_size=12,
).map(" ".join)  # fmt: skip
ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


def scored(pairs: list[tuple[str, str]], stopped: list[bool] | None = None) -> AnswerScores:
    answers, references = zip(*pairs, strict=True)
    tokens = [len(text) for text in answers]
    return AnswerScores.of(answers, references, tokens=tokens, stopped=stopped or [True] * len(pairs))


# ------------------------------------------------------------------------------------------------------ short answers


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("the Eiffel Tower", "Eiffel Tower.", 1, 1),  # case, articles and punctuation do not count
        ("Denver Broncos", "The Denver Broncos won", 0, 0.8),  # 2 of 2 and 2 of 3 words
        ("in the year 1999", "1999", 0, 0.5),  # 1 of 3 (in, year, 1999) and 1 of 1
        ("no no no", "no", 0, 0.5),  # each word counts as often as both have it
        ("chest pain", "pain chest", 0, 1),  # the order counts only for the exact match
        ("fever", "cough", 0, 0),
        ("", "cough", 0, 0),
        ("long-term", "longterm", 1, 1),
        ("don’t", "don't", 1, 1),  # any script's apostrophe
        ("STRASSE", "Straße", 1, 1),
        ("cafe\u0301", "caf\u00e9", 1, 1),  # decomposed and composed
        ("A", "B", 0, 0),  # a choice is an answer, although "a" is an article
        ("", "A", 0, 0),
        ("+", "-", 0, 0),  # and so are signs
        ("+", "+", 1, 1),
        ("≥ 5 mg", "5 mg", 0, 0.8),
        ("👍", "👎", 0, 0),
    ],
)
def test_short_answers_are_scored(answer: str, reference: str, exact: float, f1: float) -> None:
    assert exact_match(answer, reference) == exact
    assert token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("東京都。", "東京都", 1, 1),
        ("東京", "東京都", 0, 0.8),  # 2 of 2 and 2 of 3 characters
        ("「東京 都」", "東京都", 1, 1),  # a space does not separate Japanese words
        ("３８．５度", "38.5度", 1, 1),  # full and half width
        ("ｶﾞｰｾﾞ", "ガーゼ", 1, 1),
        ("ビタミンA", "ビタミン", 0, 8 / 9),  # an A within a word is no article
        ("あり", "なし", 0, 0),
        ("โรคหัวใจ", "โรคหัวใจ", 1, 1),
        ("당뇨병 환자", "당뇨병", 0, 2 / 3),  # Korean separates words by spaces: 1 of 2 and 1 of 1
    ],
)
def test_short_answers_in_asian_scripts_are_scored(answer: str, reference: str, exact: float, f1: float) -> None:
    assert exact_match(answer, reference) == exact
    assert token_f1(answer, reference) == pytest.approx(f1)


@given(ENGLISH, ENGLISH)
def test_in_english_exact_match_and_f1_are_squads(answer: str, reference: str) -> None:
    """Texts of only articles and punctuation are left out: SQuAD treats them as empty, even the choice "A"."""
    theirs = squad(
        [{"prediction_text": answer, "id": "1"}],
        [{"answers": {"answer_start": [0], "text": [reference]}, "id": "1"}],
    )
    bare = [set(squad_tokens(text)) <= {"a", "an", "the", *string.punctuation} for text in (answer, reference)]
    assume(not any(bare))
    assert 100 * exact_match(answer, reference) == theirs["exact_match"].item()
    assert 100 * token_f1(answer, reference) == pytest.approx(theirs["f1"].item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------- long answers


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004, section 3.1: 3 of 4 and 3 of 4
        ("the gunman kill police", "police kill the gunman", 0.5),  # "the gunman": 2 of 4 and 2 of 4
        ("Chest-pain, no fever", "chest pain. No cough!", 0.75),
        ("東京に行く", "東京へ行く", 0.8),  # 4 of 5 characters, in order
        ("", "something", 0),
        ("...", "something", 0),
    ],
)
def test_rouge_l_by_hand(answer: str, reference: str, score: float) -> None:
    assert rouge_l(answer, reference) == pytest.approx(score)


@settings(max_examples=30)
@given(ENGLISH, ENGLISH)
def test_in_english_rouge_l_is_that_of_torchmetrics(answer: str, reference: str) -> None:
    theirs = rouge_score(answer, reference, rouge_keys="rougeL")["rougeL_fmeasure"]
    assert rouge_l(answer, reference) == pytest.approx(float(theirs), rel=1e-6)


def test_chrf_by_hand() -> None:
    # "abcd" for "abce", orders 1 to 4: 3/4, 2/3, 1/2 and 0/1 of both are shared, so F2 has these values.
    assert chrf("abcd", "abce") == pytest.approx((3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)
    # "ab" for "abcdef": precision 2/2, 1/1 and recall 2/6, 1/5; the orders 3 to 6 are 0. F2 = 5PR / (4P + R).
    assert chrf("ab", "abcdef") == pytest.approx((5 / 3 / (4 + 1 / 3) + 1 / (4 + 1 / 5)) / 6)


@pytest.mark.parametrize("text", ["東京", "はい", "a", "yes", "👩‍⚕️", "A longer answer, with\nlines."])
def test_an_identical_answer_has_a_chrf_of_1(text: str) -> None:
    assert chrf(text, text) == pytest.approx(1)
    assert chrf("", text) == 0


@settings(max_examples=40)
@given(ANY, st.text(st.characters(exclude_categories=("Cs", "Z", "Cc")), min_size=6, max_size=30))
def test_chrf_is_sacrebleus(answer: str, reference: str) -> None:
    """With the smoothing of Popović's own program. A reference of six characters has n-grams of every order."""
    composed, composed_reference = (unicodedata.normalize("NFC", text) for text in (answer, reference))
    assume(len(composed_reference) >= 6)
    theirs = CHRF(eps_smoothing=True).sentence_score(composed, [composed_reference]).score / 100
    assert chrf(answer, reference) == pytest.approx(theirs, abs=1e-5)


@given(ANY, ANY)
def test_exact_match_and_f1_are_symmetrical_and_1_for_the_same_text(answer: str, reference: str) -> None:
    for score in (exact_match, token_f1):
        assert 0 <= score(answer, reference) <= 1
        assert score(answer, answer) == 1
        assert score(answer, reference) == pytest.approx(score(reference, answer))


# ------------------------------------------------------------------------------------------------- variety and sizes


def test_distinct_counts_over_all_answers() -> None:
    assert distinct(["no fever", "no cough"], 1) == 3 / 4
    assert distinct(["no fever", "no cough"], 2) == 1.0  # n-grams do not run from one answer into the next
    assert distinct(["No fever.", "no fever"], 2) == 0.5
    assert distinct(["ははは"], 1) == 1 / 3
    assert distinct(["yes", ""], 2) is None


def test_repetition_is_the_share_of_repeated_runs_of_four_words() -> None:
    assert repetition("the heart and the lungs and the heart and the lungs") == 2 / 8
    assert repetition("no fever " * 10) == 15 / 17  # 17 runs of four words, of which two are different
    assert repetition("no fever, no cough") == 0.0
    assert repetition("咳なし咳なし咳なし") == 3 / 6
    assert repetition("no fever") == repetition("") == 0.0


@given(st.lists(st.sampled_from(["no", "fever", "咳", "熱"]), min_size=4))
def test_repetition_counts_runs_of_words_and_characters(words: list[str]) -> None:
    grams = list(zip(*(words[place:] for place in range(4)), strict=False))
    assert repetition(" ".join(words)) == pytest.approx(1 - len(set(grams)) / len(grams))
    assert 0 < repetition(" ".join(words + words)) < 1


def test_sizes_are_of_answers_and_references() -> None:
    found = AnswerScores.of(
        ["はい", "no no", ""], ["はい", "no fever", "東京都"], tokens=[3, 8, 1], stopped=[True, False, True]
    ).summary(resamples=50)
    assert found["examples"] == 3
    assert found["answer_tokens"] == {"mean": 4.0, "p50": 3.0}
    assert found["answer_characters"] == {"mean": pytest.approx(7 / 3), "p50": 2.0}
    assert found["reference_characters"]["p50"] == 3.0
    assert found["reference_words"] == {"mean": pytest.approx(7 / 3), "p50": 2.0}
    assert found["answer_repetition"] == found["reference_repetition"] == {"mean": 0.0, "p50": 0.0}
    assert found["end_of_turn_rate"] == pytest.approx(2 / 3)
    assert found["distinct_1"] == 3 / 4


@pytest.mark.parametrize("sizes", [(0, 0, 0, 0), (2, 1, 2, 2), (2, 2, 1, 2), (2, 2, 2, 3)])
def test_unequal_numbers_and_none_are_refused(sizes: tuple[int, int, int, int]) -> None:
    answers, references, tokens, stopped = sizes
    with pytest.raises(ValueError, match="answers"):
        AnswerScores.of(["a"] * answers, ["b"] * references, tokens=[1] * tokens, stopped=[True] * stopped)


# --------------------------------------------------------------------------------------------------------- intervals


def made_up(rng: np.random.Generator, examples: int, gain: float = 0.0) -> AnswerScores:
    """Random scores, which are independent of those of other calls."""
    values = {name: np.clip(rng.normal(0.4 + gain, 0.2, examples), 0, 1) for name in ANSWER_METRICS}
    sizes = dict.fromkeys(
        ("answer_tokens", "answer_characters", "reference_characters", "reference_words"), np.ones(examples)
    )
    return AnswerScores(values, sizes, {"distinct_1": 1.0, "distinct_2": None})


def test_a_summary_holds_the_means_and_their_intervals() -> None:
    one = made_up(np.random.default_rng(0), 200)
    found = one.summary(seed=3)
    for name in ANSWER_METRICS:
        assert found[name] == pytest.approx(one.values[name].mean())
        half = 1.96 * one.values[name].std() / math.sqrt(200)
        assert found["interval"][name] == pytest.approx([found[name] - half, found[name] + half], abs=0.006)
    assert found == one.summary(seed=3)
    assert found["interval"] != one.summary(seed=4)["interval"]


def test_a_difference_is_paired_by_example() -> None:
    """An equal gain for every example is certain, however much the examples differ."""
    rng = np.random.default_rng(0)
    before = made_up(rng, 30)
    after = AnswerScores({name: values + 0.05 for name, values in before.values.items()}, before.sizes, before.distinct)
    found = answer_differences(before, after, resamples=200)
    assert set(found) == set(ANSWER_METRICS)
    for difference in found.values():
        assert difference["difference"] == pytest.approx(0.05)
        assert difference["interval"] == pytest.approx([0.05, 0.05])
        assert difference["verdict"] == "better"
        assert difference["units"] == 30
    assert answer_differences(after, before, resamples=200)["chrf"]["verdict"] == "worse"
    assert answer_differences(before, before, resamples=200)["chrf"]["verdict"] == "not shown"


def test_a_single_prompt_has_no_interval() -> None:
    one = scored([("no fever", "no cough")])
    assert one.summary(resamples=50)["interval"]["chrf"] is None
    assert answer_differences(one, one, resamples=50)["chrf"]["interval"] is None


def test_different_numbers_of_prompts_are_not_compared() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="same units"):
        answer_differences(made_up(rng, 5), made_up(rng, 6))


def test_alike_models_are_seldom_called_different() -> None:
    """Of 200 pairs of models that differ only by chance, about 10 are expected to be called better or worse."""
    rng = np.random.default_rng(1)
    called = sum(
        answer_differences(made_up(rng, 20), made_up(rng, 20), seed=world, resamples=400)["rouge_l"]["verdict"]
        != "not shown"
        for world in range(200)
    )
    assert called <= 22


def test_japanese_answers_are_scored_by_the_same_rules() -> None:
    found = scored([("発熱はありません。", "発熱なし"), ("咳あり", "咳あり。")]).summary(resamples=50)
    assert found["exact_match"] == 0.5
    for name in ("token_f1", "rouge_l"):
        assert found[name] == pytest.approx((2 * 2 / (8 + 4) + 1) / 2)  # 発 and 熱 of 8 and 4 characters; then all
    assert 0 < found["chrf"] < 0.5  # punctuation counts there
