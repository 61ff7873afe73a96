"""The report on an instruction-tuned model in words. Claims follow from intervals: see `task_words`.

Scores of answers are in points (of 100).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from domain_ft.corpus.left_out import sentences
from domain_ft.report.numbers import difference_span, level, number, points
from domain_ft.verbs.instruct.report import InstructReport
from domain_ft.verbs.shared import loading_code as code
from domain_ft.verbs.shared.loss_words import change, control_finding, few_held_out, too_few, verdict
from domain_ft.verbs.shared.task_words import few_units
from domain_ft.wording import counted

METRIC_WORDS = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "end_of_turn_rate": "ended its turn",
}
"""The names of answer scores."""


SHORT = 10
"""Exact match and token F1 are shown if the median reference has at most this many words; SQuAD's have three."""

REPEATING = 0.1
"""If answers were cut, and their repetition exceeds that of the references (about 0.02) by this much, the report
mentions it."""

MOST_SHOWN = 50
"""The most prompts on the page."""

_FORMATS = {
    "chat": "messages (chat)",
    "alpaca": "instruction, input and output (Alpaca)",
    "prompt": "prompt and completion",
    "sharegpt": "conversations of from and value (ShareGPT)",
    "qa": "question and answer",
}


_TEMPLATES = {"model": "that of the model", "plain": "a plain one, because the model has none"}
_FACTS = {
    "leaks": "test examples with a copy or near copy in training",
    "split": "how the examples were split",
    "language": "language",
    "licence": "licence",
    "citation": "cite as",
}


def headline(report: InstructReport) -> str:
    """The result in one plain sentence."""
    name, data = report.base.short_name, report.data.name
    if too_few(report.differences["test"]):
        return f"Too few examples were held out to show whether {name} predicts the answers of {data} better."
    start = f"After training, {name} predicts the answers of {data}"
    return {
        "better": f"{start} better.",
        "worse": f"{start} worse.",
        "unclear": f"{start} neither clearly better nor clearly worse.",
    }[verdict(report.differences["test"])]


def findings(report: InstructReport) -> list[str]:
    """The evidence: loss, answers, control, and caveats."""
    sentences = [
        f"On held-out examples the loss went from {change(report, 'test', 'example')}. It is measured on the tokens "
        "of the answers, given the prompts."
    ]
    if report.answered:
        sentences += [_similarity(report), _ends(report)]
    else:
        sentences.append("The model's own answers were not measured: no prompts were answered.")
    if report.control is None:
        sentences.append("What the model forgot was not measured: there was no control corpus.")
    else:
        sentences.append(control_finding(report))
    sentences += few_held_out(report, "example")
    if report.answered and report.differences["answers"]["chrf"]["few_units"]:
        sentences.append(few_units(report.differences["answers"]["chrf"]["units"], "test prompts"))
    return sentences


def similarity_metrics(report: InstructReport) -> tuple[str, ...]:
    """The similarity scores that suit the length of the references; result.json has all of them."""
    short = report.result["after"]["answers"]["reference_words"]["p50"] <= SHORT
    return ("exact_match", "token_f1") if short else ("rouge_l", "chrf")


def answer_rows(report: InstructReport) -> list[tuple[str, str, str]]:
    """(name, before, after) of the answer statistics that have no interval."""
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    rows = {
        "tokens, mean": lambda scores: number(scores["answer_tokens"]["mean"], 1),
        "repeated 4-grams": lambda scores: points(scores["answer_repetition"]["mean"]),
        "characters, median": lambda scores: number(scores["answer_characters"]["p50"], 0),
        "distinct-1": lambda scores: points(scores["distinct_1"]),
        "distinct-2": lambda scores: points(scores["distinct_2"]),
    }
    return [(label, say(before), say(after)) for label, say in rows.items()]


def answer_notes(report: InstructReport) -> str:
    """An explanation of the answer scores."""
    after = report.result["after"]["answers"]
    similarity = {
        "exact_match": "exact match and token F1 as in SQuAD, which ignore case, punctuation and articles",
        "rouge_l": "ROUGE-L on words and chrF on characters",
    }[similarity_metrics(report)[0]]
    return (
        f"Similarity to the reference is measured by {similarity}. These scores and the share of answers that end "
        "their turn are means over prompts, in points (of 100). The median length of the references is "
        f"{number(after['reference_characters']['p50'], 0)} characters. Repeated 4-grams are sequences of four words "
        "that have already occurred in the same answer; many of them mean that answers repeat themselves. Their share "
        f"is {points(after['reference_repetition']['mean'])} in the references. Distinct-1 and distinct-2 are the "
        "shares of distinct words and word pairs over all answers. They are low if a model repeats itself, but also "
        "if answers are long."
    )


def _similarity(report: InstructReport) -> str:
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    changes = [
        f"{METRIC_WORDS[name]} went from {points(before[name])} to {points(after[name])}: "
        f"{changed(report.differences['answers'][name])}"
        for name in similarity_metrics(report)
    ]
    return (
        f"Both models answered {counted(after['examples'], 'test prompt')}. Measured against the references, "
        f"{', and '.join(changes)}."
    )


def _ends(report: InstructReport) -> str:
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    ended = [f"{round(one['end_of_turn_rate'] * one['examples']):,}" for one in (before, after)]
    limit = report.settings.get("max_new_tokens")
    all_ended = before["end_of_turn_rate"] == after["end_of_turn_rate"] == 1
    cut = "" if all_ended or limit is None else f"; the rest were cut at {limit:,} tokens"
    within = report.result["references_within_limit"]
    fitting = f" ({within:,} of the references fit)" if cut and within < after["examples"] else ""
    sentence = (
        f"{ended[0]} of {after['examples']:,} answers ended their turn before training, and {ended[1]} after training"
        f"{cut}{fitting}."
    )
    repeated = after["answer_repetition"]["mean"]
    if not cut or repeated < after["reference_repetition"]["mean"] + REPEATING:
        return sentence
    return (
        f"{sentence} {points(repeated)}% of the sequences of four words repeat earlier ones of the same answer: small "
        "models tend to repeat themselves under greedy decoding. With --repetition-penalty 1.1 (of domain-ft instruct "
        "and generate), more answers end their turn."
    )


def changed(difference: Mapping[str, Any]) -> str:
    """A difference of answer scores in words.

    >>> changed({"verdict": "better", "difference": 0.068, "interval": [0.021, 0.11], "level": 0.95})
    'better by 6.8 points (95% interval 2.1 to 11.0)'
    >>> changed({"verdict": "better", "difference": 1.0, "interval": [1.0, 1.0], "level": 0.95})
    'better by 100.0 points, the same for each prompt'
    >>> changed({"verdict": "not shown", "difference": 0.01, "interval": [-0.02, 0.04], "level": 0.95})
    'no change is shown (95% interval −2.0 to +4.0)'
    """
    bounds = difference["interval"]
    if bounds is None:
        return "no change is shown (too few prompts for an interval)"
    if difference["verdict"] == "not shown":
        return f"no change is shown ({level(difference)} {difference_span(bounds)})"
    low, high = sorted(abs(bound) for bound in bounds)
    amount = f"{difference['verdict']} by {points(abs(difference['difference']))} points"
    if math.isclose(low, high):  # all resamples agree
        return f"{amount}, the same for each prompt"
    return f"{amount} ({level(difference)} {points(low)} to {points(high)})"


def limits(report: InstructReport) -> list[str]:
    """What the numbers do not show."""
    sentences = [
        f"Measured on {counted(report.differences['test']['documents'], 'held-out example')} of one data set, with one "
        "seed. The interval covers other examples from the same source, but not another source or another seed.",
        "A lower loss means that the model predicts the answers in the data better, not that what it writes is true.",
        "Losses can be compared only between models with the same tokenizer and template; bits per byte can be "
        "compared across tokenizers, too.",
    ]
    if report.answered:
        sentences.append(
            "Answer scores measure similarity to the wording of one reference. A correct answer in other words scores "
            "low, and a wrong answer in similar words scores high. Read some answers before you rely on them."
        )
    sentences.append(
        "The model may confidently state what is false, and may repeat mistakes and bias of its examples. Do not rely "
        "on it for legal or medical advice."
    )
    if report.control is not None:
        sentences.append(
            "Forgetting was measured on one control corpus. Other abilities of the base model, such as refusing "
            "harmful requests, may have changed, too."
        )
    return sentences


def facts(report: InstructReport) -> list[tuple[str, str]]:
    """(name, value) of the examples: counts, format, template and origin."""
    amounts, known = report.result["examples"], report.data.facts
    described = [
        (label, f"{known[name]:,}" if isinstance(known[name], int) else str(known[name]))
        for name, label in _FACTS.items()
        if known.get(name) not in (None, "")
    ]
    return [
        ("training examples", f"{amounts['train']:,}"),
        ("examples held out", f"{amounts['test']:,}"),
        ("left out: unusable, or marked as excluded", f"{amounts['rejected']:,}"),
        ("left out: no answer within --max-length", f"{amounts['dropped']:,}"),
        ("cut to --max-length", f"{amounts['cut']:,}"),
        *described,
        ("format", _FORMATS.get(report.data.format, report.data.format)),
        ("chat template", _TEMPLATES[report.result["template"]]),
    ]


def not_read(report: InstructReport) -> list[str]:
    """What was not read from the examples, in sentences."""
    return sentences(report.result)


def loading_code(report: InstructReport) -> str:
    """Python code that loads the run and answers a prompt, from inside the run folder."""
    return code.chat_loading_code(report.base, full=report.full)
