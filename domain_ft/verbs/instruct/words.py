"""What the report on an instructed model says in words. A claim goes as far as its interval and no further.

Scores of answers are written in points, of 100, as in `task_words`.
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

METRICS = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "end_of_turn_rate": "ended by itself",
}
"""What the scores of answers are called."""


SHORT = 10
"""Words of the middle reference up to which exact match and token F1 tell something: SQuAD's answers have three."""


REPEATING = 0.1
"""How much more than the references answers may repeat themselves before it is worth a word: references are at 0.02."""


MOST_SHOWN = 50
"""Prompts on the page."""


_CLIPPED = 1500  # characters of a text that the page shows


_FORMATS = {
    "chat": "messages (chat)",
    "alpaca": "instruction, input and output (Alpaca)",
    "prompt": "prompt and completion",
    "sharegpt": "conversations of from and value (ShareGPT)",
    "qa": "question and answer",
}


_TEMPLATES = {"model": "the model's own", "plain": "a plain one, since the model has none"}


_FACTS = {
    "leaks": "held-out examples with a copy among the others",
    "split": "how they were split",
    "language": "language",
    "licence": "licence",
    "citation": "cite as",
}


def headline(report: InstructReport) -> str:
    """What came out, in one sentence for everybody."""
    name, data = report.base.short_name, report.data.name
    if too_few(report.differences["test"]):
        return f"Too few examples were held out to show whether {name} predicts the answers of {data} better."
    said = f"After training, {name} predicts the answers of {data}"
    return {
        "better": f"{said} better.",
        "worse": f"{said} worse.",
        "unclear": f"{said} neither better nor worse, as far as this measures.",
    }[verdict(report.differences["test"])]


def findings(report: InstructReport) -> list[str]:
    """The headline's grounds, a sentence or two each: the loss, the answers, the control, and doubts."""
    sentences = [
        f"On held-out examples the loss went from {change(report, 'test', 'example')}. It is that of the tokens of the "
        "answers, given what was asked."
    ]
    if report.answered:
        sentences += [_likeness(report), _ends(report)]
    else:
        sentences.append("What the model writes by itself was not measured: no prompts were answered.")
    if report.control is None:
        sentences.append("What the model forgot was not measured: there was no control corpus.")
    else:
        sentences.append(control_finding(report))
    sentences += few_held_out(report, "example")
    if report.answered and report.differences["answers"]["chrf"]["few_units"]:
        sentences.append(few_units(report.differences["answers"]["chrf"]["units"], "test prompts"))
    return sentences


def likeness_metrics(report: InstructReport) -> tuple[str, ...]:
    """The scores of likeness that fit the length of the references; result.json has all."""
    short = report.result["after"]["answers"]["reference_words"]["p50"] <= SHORT
    return ("exact_match", "token_f1") if short else ("rouge_l", "chrf")


def answer_rows(report: InstructReport) -> list[tuple[str, str, str]]:
    """(what it is, before, after) of what is told of the answers without an interval."""
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    told = {
        "tokens, mean": lambda scores: number(scores["answer_tokens"]["mean"], 1),
        "repeated 4-grams": lambda scores: points(scores["answer_repetition"]["mean"]),
        "characters, median": lambda scores: number(scores["answer_characters"]["p50"], 0),
        "distinct-1": lambda scores: points(scores["distinct_1"]),
        "distinct-2": lambda scores: points(scores["distinct_2"]),
    }
    return [(label, say(before), say(after)) for label, say in told.items()]


def answer_notes(report: InstructReport) -> str:
    """How to read the scores of answers."""
    after = report.result["after"]["answers"]
    likeness = {
        "exact_match": "exact match and token F1 as SQuAD has them, without case, punctuation and articles",
        "rouge_l": "ROUGE-L by words and chrF by characters",
    }[likeness_metrics(report)[0]]
    return (
        f"Likeness to the reference is {likeness}, in points of 100; it is the mean over prompts, and so is the share "
        f"of answers that ended by themselves. Of the references the middle one has "
        f"{number(after['reference_characters']['p50'], 0)} characters. Repeated are the runs of four words that stood "
        f"in the same answer before (of the references {points(after['reference_repetition']['mean'])}): many where an "
        "answer goes round in circles. Distinct-1 and -2 are the shares of words and of pairs of words that are "
        "different, over all answers together: low where a model repeats itself, but also where answers are long."
    )


def _likeness(report: InstructReport) -> str:
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    said = [
        f"{METRICS[name]} went from {points(before[name])} to {points(after[name])}: "
        f"{changed(report.differences['answers'][name])}"
        for name in likeness_metrics(report)
    ]
    return (
        f"Both models answered {counted(after['examples'], 'test prompt')}. Compared with the references, "
        f"{', and '.join(said)}."
    )


def _ends(report: InstructReport) -> str:
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    ended = [f"{round(one['end_of_turn_rate'] * one['examples']):,}" for one in (before, after)]
    limit = report.settings.get("max_new_tokens")
    all_ended = before["end_of_turn_rate"] == after["end_of_turn_rate"] == 1
    cut = "" if all_ended or limit is None else f"; the rest were cut at {limit:,} tokens"
    within = report.result["references_within_limit"]
    could = f", within which {within:,} of the references end" if cut and within < after["examples"] else ""
    said = f"Of {after['examples']:,} answers {ended[0]} ended by themselves before, {ended[1]} after{cut}{could}."
    repeated = after["answer_repetition"]["mean"]
    if not cut or repeated < after["reference_repetition"]["mean"] + REPEATING:
        return said
    return (
        f"{said} In the answers {points(repeated)} of 100 runs of four words stood in the same answer before: small "
        "models go round in circles where the likeliest token is taken each time. With --repetition-penalty 1.1, here "
        "and in domain-ft generate, more of them come to an end."
    )


def changed(difference: Mapping[str, Any]) -> str:
    """What a difference of scores of answers is.

    >>> changed({"verdict": "better", "difference": 0.068, "interval": [0.021, 0.11], "level": 0.95})
    'better by 6.8 points (95% interval 2.1 to 11.0)'
    >>> changed({"verdict": "better", "difference": 1.0, "interval": [1.0, 1.0], "level": 0.95})
    'better by 100.0 points, alike for each prompt'
    >>> changed({"verdict": "not shown", "difference": 0.01, "interval": [-0.02, 0.04], "level": 0.95})
    'no change is shown (95% interval −2.0 to +4.0)'
    """
    bounds = difference["interval"]
    if bounds is None:
        return "no change is shown (a single prompt has no interval)"
    if difference["verdict"] == "not shown":
        return f"no change is shown ({level(difference)} {difference_span(bounds)})"
    low, high = sorted(abs(bound) for bound in bounds)
    amount = f"{difference['verdict']} by {points(abs(difference['difference']))} points"
    if math.isclose(low, high):  # draws that all agree make no interval
        return f"{amount}, alike for each prompt"
    return f"{amount} ({level(difference)} {points(low)} to {points(high)})"


def limits(report: InstructReport) -> list[str]:
    """What the numbers do not say."""
    said = [
        f"Measured on {counted(report.differences['test']['documents'], 'held-out example')} of one data set, with one "
        "seed. The interval says how the figure would vary with other examples of the same kind, not with another seed "
        "or another source.",
        "A lower loss means that the answers of the data are likelier to the model, not that what it writes is true.",
        "The loss compares only between models with the same tokenizer and the same template; bits per byte compare "
        "between all.",
    ]
    if report.answered:
        said.append(
            "The scores of answers measure likeness to the wording of one reference. A right answer in other words "
            "scores low, and a false one in much the same words scores high. Have a person read answers before anybody "
            "relies on them."
        )
    said.append(
        "The model may state what is false in a sure tone, and it repeats the mistakes and the bias of its examples. "
        "Do not rely on it for legal or medical advice."
    )
    if report.control is not None:
        said.append(
            "Forgetting was measured on one control corpus. Other abilities of the base model, such as to refuse what "
            "does harm, may have changed unseen."
        )
    return said


def facts(report: InstructReport) -> list[tuple[str, str]]:
    """(what it is, what it says) of the examples: how many, how they were written and rendered, where they are from."""
    amounts, known = report.result["examples"], report.data.facts
    told = [
        (label, f"{known[name]:,}" if isinstance(known[name], int) else str(known[name]))
        for name, label in _FACTS.items()
        if known.get(name) not in (None, "")
    ]
    return [
        ("examples to learn from", f"{amounts['train']:,}"),
        ("examples held out", f"{amounts['test']:,}"),
        ("left out: cannot be read or rendered", f"{amounts['rejected']:,}"),
        ("left out: no answer within the length", f"{amounts['dropped']:,}"),
        ("cut to the length", f"{amounts['cut']:,}"),
        *told,
        ("format", _FORMATS.get(report.data.format, report.data.format)),
        ("chat template", _TEMPLATES[report.result["template"]]),
    ]


def not_read(report: InstructReport) -> list[str]:
    """What of the examples was not read, in sentences."""
    return sentences(report.result)


def clipped(text: str) -> str:
    """A text that the page has room for: its beginning, and its end where it is long.

    >>> clipped("short")
    'short'
    """
    text = text.strip()
    return text if len(text) <= _CLIPPED else f"{text[: _CLIPPED * 2 // 3]} … {text[-_CLIPPED // 3 :]}"


def loading_code(report: InstructReport) -> str:
    """Python that loads the run from within the run folder and answers a prompt."""
    use = (
        "",
        'messages = [{"role": "user", "content": "A question."}]',
        "prompt = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "answer = model.generate(**prompt, max_new_tokens=128)",
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
    )
    template = '"adapter"'  # the tokenizer there has the chat template
    return code.loading_code(report.base, "AutoModelForCausalLM", full=report.full, use=use, tokenizer=template)
