"""The checks of preferences: each planted fault is found in its line, and so is a bias of the winners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_chats import CHATML, chat_tokenizer

from domain_ft.corpus.checks.checking import Checker, CheckResult
from domain_ft.corpus.checks.items import Rejections
from domain_ft.corpus.checks.lengths import TokenLengths
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.checks.private import PrivateData
from domain_ft.corpus.checks.repairs import repair
from domain_ft.randomness import generator

WORDS = ["bone", "fox", "law", "heart", "dog", "work", "terms", "growth", "bird", "holder", "wolf", "notice", "rain"]


def text(number: int, length: int = 12) -> str:
    return " ".join(generator(0, "text", number).choice(WORDS, length)).capitalize() + "."


def pairs(count: int, chosen: int = 12, rejected: int = 12) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{text(3 * n)[:-1]}?", "chosen": text(3 * n + 1, chosen), "rejected": text(3 * n + 2, rejected)}
        for n in range(count)
    ]


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def opened(path: Path, kind: Any = "auto") -> CheckedFile:
    return CheckedFile.open(str(path), kind, Fields())


def checked(path: Path, kind: Any = "auto", **options: Any) -> CheckResult:
    rejections = Rejections()
    return Checker(private=PrivateData(), **options).check(opened(path, kind).items(rejections.bad), rejections)


def found(result: CheckResult) -> list[tuple[int | None, str | None, str, bool]]:
    return [(one.line, one.field, one.kind, one.error) for one in result.findings]


def test_preferences_are_recognised_and_sound_ones_have_no_findings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *pairs(8))
    assert (opened(path).kind, opened(path).format) == ("preferences", "pairs")
    result = checked(path)
    assert found(result) == []
    assert (result.statistics["records"], result.statistics["preferences"]) == (8, 8)
    ranked = {"instruction": "Why?", "completions": [{"response": "a", "score": 1}, {"response": "b", "score": 2}]}
    assert opened(write(tmp_path / "b.jsonl", ranked)).format == "ranking"


def test_completions_with_a_label_are_preferences_only_if_the_user_says_so(tmp_path: Path) -> None:
    rows = [{"prompt": one["prompt"], "completion": one["chosen"], "label": n % 2} for n, one in enumerate(pairs(6))]
    path = write(tmp_path / "a.jsonl", *rows)
    assert opened(path).kind == "conversations"
    assert opened(path, "preferences").format == "rated"
    result = checked(path, "preferences")
    assert (found(result), result.statistics["labels"]) == ([], {"good": 3, "bad": 3})


def test_every_planted_fault_is_found_in_its_line(tmp_path: Path) -> None:
    rows = pairs(6)
    swapped = {"prompt": rows[0]["prompt"], "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    asked, other = ({"role": "user", "content": text(n)} for n in (90, 91))
    replies = [{"role": "assistant", "content": text(n)} for n in (92, 93)]
    faulty = [
        {**pairs(20)[10], "rejected": ""},
        {**pairs(20)[11], "rejected": pairs(20)[11]["chosen"]},
        {"chosen": [asked, replies[0]], "rejected": [other, replies[1]]},
        {**pairs(20)[12], "score_chosen": 3, "score_rejected": 3},
        swapped,
        rows[1],
        {**pairs(20)[13], "chosen": "Write to anna.schmidt@example.com, she knows it all."},
    ]
    assert found(checked(write(tmp_path / "a.jsonl", *rows, *faulty))) == [
        (7, "rejected", "empty-answer", True),
        (8, "rejected", "equal-answers", True),
        (9, "rejected", "other-prompt", True),
        (10, "score_rejected", "tie", False),
        (11, None, "contradicting-pairs", False),
        (12, None, "duplicate", False),
        (13, "chosen", "personal-email", False),
    ]


def test_an_answer_that_is_rated_as_good_and_as_bad_is_found(tmp_path: Path) -> None:
    row = {"prompt": "Why is it so?", "completion": text(1)}
    path = write(tmp_path / "a.jsonl", {**row, "label": True}, {**row, "label": False})
    assert found(checked(path, "preferences")) == [(2, None, "contradicting-ratings", False)]


def test_prompts_in_both_files_are_found_and_other_pairs_of_a_prompt_do_not_contradict(tmp_path: Path) -> None:
    rows = pairs(6)
    other = {"prompt": rows[0]["prompt"], "chosen": text(80), "rejected": text(81)}
    test = opened(write(tmp_path / "test.jsonl", rows[0], rows[5])).copies()
    result = checked(write(tmp_path / "a.jsonl", *rows[1:5], other, rows[5]), test=test)
    assert found(result) == [(5, None, "leaked-test-prompt", False), (6, None, "leaked-test-row", True)]
    assert found(checked(write(tmp_path / "b.jsonl", *rows, other))) == []


@pytest.mark.parametrize(("chosen", "rejected", "which"), [(20, 10, "longer"), (10, 20, "shorter")])
def test_a_length_bias_is_reported_with_its_interval(chosen: int, rejected: int, which: str, tmp_path: Path) -> None:
    result = checked(write(tmp_path / "a.jsonl", *pairs(40, chosen, rejected)))
    (finding,) = result.findings
    assert (finding.kind, finding.line, finding.error) == ("length-bias", None, False)
    # Wilson (1927): with 40 of 40, z = 1.96, the lower bound is n / (n + z²) = 91.2 %.
    assert f"the {which} answer wins in 100% of 40 pairs (95% interval 91% to 100%)" in finding.message
    numbers = result.statistics["longer_wins"]
    assert (numbers["pairs"], numbers["prompts"], numbers["share"]) == (40, 40, 1.0 if which == "longer" else 0.0)


def test_the_pairs_of_one_prompt_count_as_one_for_the_interval(tmp_path: Path) -> None:
    rows = [{**one, "prompt": "Why is it so?"} for one in pairs(40, 20, 10)]
    result = checked(write(tmp_path / "a.jsonl", *rows))
    assert result.statistics["longer_wins"]["prompts"] == 1
    assert "length-bias" not in {finding.kind for finding in result.findings}


def test_answers_of_one_kind_that_end_in_mid_sentence_are_reported(tmp_path: Path) -> None:
    rows = [{**one, "rejected": one["rejected"][:-1] + " and the"} for one in pairs(40, 12, 11)]
    kinds = {finding.kind: finding.message for finding in checked(write(tmp_path / "a.jsonl", *rows)).findings}
    assert "it is the rejected one in 100% of 40 pairs" in kinds["ending-bias"]


def test_what_truncation_would_cut_is_reported(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(CHATML)
    short, long = "So it is.", " ".join(["Long"] * 40)
    rows = [
        {"prompt": "Why?", "chosen": short, "rejected": "No."},
        {"prompt": "Who?", "chosen": short, "rejected": long},
        {"prompt": long, "chosen": short, "rejected": "No."},
        {"prompt": "Why <|im_end|>?", "chosen": short, "rejected": "No."},
    ]
    path = write(tmp_path / "a.jsonl", *rows)
    result = checked(path, measure=TokenLengths(tokenizer, 64))
    places = [one for one in found(result) if one[2] in ("over-long", "not-renderable")]
    assert places == [
        (2, None, "over-long", False),
        (3, None, "over-long", True),
        (4, None, "not-renderable", True),
    ]
    messages = [finding.message for finding in result.findings if finding.kind == "over-long"]
    assert "of the answers, 0 of " in messages[0]
    assert "the prompt alone has" in messages[1]
    over = result.statistics["over_long"]
    assert (over["examples"], over["dropped"]) == (2, 1)


def test_a_cleaned_copy_masks_private_data_in_every_format_and_lists_what_it_leaves_out(tmp_path: Path) -> None:
    secret = "Write to anna.schmidt@example.com, she knows it all."
    asked, said = {"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": secret}
    rows = [
        {"prompt": "Why is it so?", "chosen": secret, "rejected": text(1)},
        {"chosen": [asked, said], "rejected": [asked, {"role": "assistant", "content": text(2)}]},
        {"prompt": "Why is it so?", "chosen": "Same.", "rejected": "Same."},
    ]
    ranked = {"prompt": "Why?", "completions": [{"response": secret, "score": 1}, {"response": "b", "score": 2}]}
    for name, records, kept in (("a", rows, 2), ("b", [ranked], 1)):
        path, output = write(tmp_path / f"{name}.jsonl", *records), tmp_path / f"{name}-clean.jsonl"
        file = opened(path)
        repaired = repair(file, checked(path), output, PrivateData(), "en")
        assert (repaired.records, repaired.rejected) == (kept, len(records) - kept)
        assert "anna.schmidt" not in output.read_text(encoding="utf-8")
        assert output.read_text(encoding="utf-8").count("[EMAIL]") == kept
