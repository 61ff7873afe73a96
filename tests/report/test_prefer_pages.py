"""The page, the card and the table of prefer: they claim what the numbers show, and warn of degeneration."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from domain_ft.verbs.prefer import card, page, terminal, words
from domain_ft.verbs.prefer.report import PreferenceFacts, PreferReport
from domain_ft.verbs.shared.facts import AnswerPair, BaseFacts

BEFORE = {
    "accuracy": 0.5,
    "ranking_accuracy": 0.55,
    "matched_accuracy": 0.5,
    "margin": 0.0,
    "chosen_log_prob": -80.0,
    "rejected_log_prob": -90.0,
}
AFTER = {
    "accuracy": 0.8,
    "ranking_accuracy": 0.7,
    "matched_accuracy": 0.75,
    "margin": 4.0,
    "chosen_log_prob": -79.0,
    "rejected_log_prob": -93.0,
}


def measured(values: dict[str, float], kl: float) -> dict[str, Any]:
    return {
        "pairs": 40,
        "prompts": 40,
        **values,
        "interval": {name: [value - 0.1, value + 0.1] for name, value in values.items()},
        "level": 0.95,
        "resamples": 4000,
        "kl_per_token": kl,
    }


def answered(tokens: float) -> dict[str, Any]:
    return {
        "examples": 12,
        "answer_tokens": {"mean": tokens, "p50": tokens},
        "answer_repetition": {"mean": 0.02, "p50": 0.0},
        "end_of_turn_rate": 0.5,
        "rouge_l": 0.2,
        "chrf": 0.3,
        "level": 0.95,
        "resamples": 4000,
    }


def report(*, verdict: str = "better", tokens: float = 60.0, units: int = 40, **changes: Any) -> PreferReport:
    """An invented run."""
    differences = {
        name: {
            "difference": AFTER[name] - BEFORE[name],
            "interval": [0.1, 0.5],
            "verdict": verdict,
            "level": 0.95,
            "units": units,
            "resamples": 4000,
            "few_units": units < 10,
        }
        for name in BEFORE
    }
    result = {
        "command": "prefer",
        "model": "runs/taught",
        "objective": "dpo",
        "device": "cpu",
        "kernels": "torch",
        "format": "pairs",
        "examples": {"train": 160, "test": 40, "rejected": 3, "dropped": 1, "cut": 2},
        "rejected": 4,
        "unread_fields": {"annotator": 200},
        "unread_files": {"count": 0, "files": []},
        "template": "model",
        "tokens_seen": 100_000,
        "steps": 60,
        "wall_seconds": 300.0,
        "peak_memory_bytes": 2e9,
        "trainable_parameters": 1000,
        "total_parameters": 100_000,
        "reference": {"rows": 200, "reused": 200, "largest_log_ratio_before": 2e-6},
        "longer_wins": 0.7,
        "both_fell": False,
        "before": {"test": measured(BEFORE, 0.0), "control": None, "answers": answered(50.0)},
        "after": {"test": measured(AFTER, 0.0123), "control": None, "answers": answered(tokens)},
    }
    return PreferReport(
        result=result | changes,
        base=BaseFacts(name="runs/taught", source="smollm2"),
        data=PreferenceFacts(
            "comparisons", "pairs", "pairs", {"split": "10% of the examples are held out", "leaks": 0}
        ),
        control=None,
        differences={"test": differences},
        settings={"loss": "dpo", "beta": 0.1, "sft_weight": 0.0, "method": "lora", "rank": 8, "max_length": 512},
        provenance={"torch": "2"},
        answers=(AnswerPair("a:1", "Why <b>?", "Because & so.", "No.", "Yes.", stopped=(True, False)),),
    )


def shown(one: PreferReport) -> str:
    """What the terminal shows."""
    console = Console(file=io.StringIO(), width=200)
    terminal.print_prefer(one, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_page_card_and_screen_state_the_numbers() -> None:
    one = report()
    said = page.render_prefer(one), card.render_prefer(one), shown(one)
    for text in said:
        assert "better than its reference" in text
        assert "0.0123" in text
        assert "Always preferring the longer answer would have an accuracy of 70.0" in text
        assert "annotator" in text
    assert "Why &lt;b&gt;?" in said[0]
    assert "Cut here" in said[0]
    assert "Because" not in said[1]
    assert "200 rows, 200 of them from the cache" in said[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "worse"}, "worse than its reference"),
        ({"verdict": "not shown"}, "neither clearly better nor clearly worse"),
        ({"units": 3}, "Too few prompts were held out"),
        ({"both_fell": True}, "Warning: after training, taught finds both the better and the worse answers"),
    ],
)
def test_the_headline_claims_what_the_interval_shows(changes: dict[str, Any], said: str) -> None:
    assert said in words.headline(report(**changes))


def test_degeneration_and_longer_answers_are_named_with_what_to_do() -> None:
    fell = " ".join(words.findings(report(both_fell=True)))
    assert "Both fell" in fell
    assert "--sft-weight 1" in fell
    assert "The answers got longer" in " ".join(words.findings(report(tokens=90.0)))
    assert "The answers got longer" not in " ".join(words.findings(report(tokens=55.0)))
    assert "the intervals are rough" in " ".join(words.findings(report(units=7)))
