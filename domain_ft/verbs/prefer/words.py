"""The report on a preference-tuned model in words. Claims follow from intervals: see `task_words`."""

from __future__ import annotations

from typing import Any

from domain_ft.corpus.left_out import sentences
from domain_ft.evaluation.bootstrap import FEWEST_UNITS
from domain_ft.evaluation.preferences import LENGTH_MATCHED, MEASURES, SHARES
from domain_ft.report.numbers import bounds, difference_span, level, number, points, signed, signed_points
from domain_ft.verbs.prefer.report import PreferReport
from domain_ft.verbs.shared import loading_code as code
from domain_ft.verbs.shared.loss_words import control_finding
from domain_ft.wording import counted

MEASURE_WORDS = {
    "accuracy": "accuracy",
    "matched_accuracy": "accuracy, equal lengths",
    "ranking_accuracy": "accuracy per token",
    "margin": "margin",
    "chosen_log_prob": "log p, better",
    "rejected_log_prob": "log p, worse",
}

LOSS_WORDS = {
    "dpo": "direct preference optimisation (DPO)",
    "robust": "robust DPO",
    "ipo": "identity preference optimisation (IPO)",
    "hinge": "the hinge loss on DPO's margin",
    "kto": "Kahneman-Tversky optimisation (KTO)",
    "orpo": "odds ratio preference optimisation (ORPO)",
    "simpo": "simple preference optimisation (SimPO)",
    "cpo": "contrastive preference optimisation (CPO)",
}

MOST_SHOWN = 10
"""The most prompts on the page."""

LONGER = 1.25
"""Answers that are longer by this factor are mentioned."""

_FORMATS = {
    "pairs": "a chosen and a rejected answer",
    "transcript": "transcripts of dialogues (HH-RLHF)",
    "compared": "two answers and the winner",
    "ranking": "several answers with scores or ranks",
    "rated": "prompt, completion and label",
}
_FACTS = {
    "split": "how the examples were split",
    "ties": "pairs of equally good answers, left out",
    "leaks": "test prompts with a copy or near copy in training",
}


def headline(report: PreferReport) -> str:
    """The result in one plain sentence."""
    name, data = report.base.short_name, report.data.name
    accuracy = report.differences["test"].get("accuracy")
    if accuracy is None or accuracy["units"] < FEWEST_UNITS:
        return f"Too few prompts were held out to show whether {name} learned the preferences of {data}."
    if report.result["both_fell"]:
        return f"Warning: after training, {name} finds both the better and the worse answers of {data} less likely."
    verdict = accuracy["verdict"]
    start = f"After training, {name} tells better answers of {data} from worse ones"
    return {
        "better": f"{start} better than its reference.",
        "worse": f"{start} worse than its reference.",
        "not shown": f"{start} neither clearly better nor clearly worse than its reference.",
    }[verdict]


def findings(report: PreferReport) -> list[str]:
    """The evidence: accuracy, degeneration, distance, length, answers, control, and caveats."""
    found = [_accuracy(report), *_lengths(report), _likelihoods(report), _distance(report)]
    if report.answered:
        found += _answers(report)
    else:
        found.append("The model's own answers were not measured: no prompts were answered.")
    if report.control is None:
        found.append("What the model forgot was not measured: there was no control corpus.")
    else:
        found.append(control_finding(report))
    accuracy = report.differences["test"].get("accuracy")
    if accuracy and accuracy["few_units"]:
        found.append(f"Only {counted(accuracy['units'], 'prompt')} were held out: the intervals are rough.")
    return found


def measure_rows(report: PreferReport) -> list[tuple[str, str, str, str, str, str]]:
    """(name, before, after, change, interval, verdict) of each measure on the test rows."""
    before, after = (report.result[when]["test"] for when in ("before", "after"))
    rows = []
    for name in MEASURES:
        difference = report.differences["test"].get(name)
        if difference is None:
            continue
        share = name in SHARES
        old, new, gain, interval = before[name], after[name], difference["difference"], difference["interval"]
        if share:
            cells = (points(old), points(new), signed_points(gain), difference_span(interval))
        else:
            cells = (number(old, 1), number(new, 1), signed(gain, 1), bounds(interval, 1))
        rows.append((MEASURE_WORDS[name], *cells, difference["verdict"]))
    kl = after["kl_per_token"]
    rows.append(("KL per token", number(0.0, 4), number(kl, 4), signed(kl, 4), "", "not shown"))
    return rows


def answer_rows(report: PreferReport) -> list[tuple[str, str, str]]:
    """(name, before, after) of the statistics of the models' own answers."""
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    rows: dict[str, Any] = {
        "tokens, mean": lambda scores: number(scores["answer_tokens"]["mean"], 1),
        "ended its turn, %": lambda scores: points(scores["end_of_turn_rate"]),
        "repeated 4-grams, %": lambda scores: points(scores["answer_repetition"]["mean"]),
        "ROUGE-L": lambda scores: points(scores["rouge_l"]),
        "chrF": lambda scores: points(scores["chrf"]),
    }
    return [(label, say(before), say(after)) for label, say in rows.items()]


def measure_notes(report: PreferReport) -> str:
    """An explanation of the measures."""
    pair = (
        "A pair is right if training raised the log-probability of its better answer more than that of its worse one; "
        "a tie counts one half, so the accuracy before training is 50."
        if report.paired
        else "The accuracy is the share of pairs of a desirable and an undesirable answer, across prompts, in which "
        "training raised the log-probability of the desirable one more; a tie counts one half."
    )
    matched = f" Lengths are matched if the longer answer has at most {LENGTH_MATCHED:.0%} more tokens."
    matched = matched if report.paired else ""
    return (
        f"{pair} The margin is the difference of these log-ratios.{matched} The accuracy per token compares "
        "log-probabilities per token, without the reference. log p is the log-probability of a whole answer. It, the "
        "margin and the KL divergence to the reference are in nats; accuracies are in points (of 100). ROUGE-L and "
        "chrF compare the model's own answers with the better ones."
    )


def _accuracy(report: PreferReport) -> str:
    test, difference = report.result["after"]["test"], report.differences["test"].get("accuracy")
    if difference is None:
        return "The accuracy was not measured: there are not both better and worse answers among those held out."
    interval = test["interval"]["accuracy"]
    span = f" ({level(test)} {points(interval[0])} to {points(interval[1])})" if interval else ""
    units = counted(difference["units"], "held-out prompt")
    return (
        f"On {units}, the accuracy is {points(test['accuracy'])}{span}, where the reference has 50, and the margin is "
        f"{number(test['margin'])} nats."
    )


def _lengths(report: PreferReport) -> list[str]:
    """Whether the preferences are only about length."""
    longer = report.result["longer_wins"]
    if longer is None:
        return []
    matched = report.result["after"]["test"].get("matched_accuracy")
    few = "; no pair has answers of about equal length" if matched is None else ""
    said = "" if matched is None else f" On pairs with answers of about equal length, it is {points(matched)}."
    return [f"Always preferring the longer answer would have an accuracy of {points(longer)}{few}.{said}"]


def _likelihoods(report: PreferReport) -> str:
    before, after = (report.result[when]["test"] for when in ("before", "after"))
    parts = []
    for name, label in (("chosen_log_prob", "better"), ("rejected_log_prob", "worse")):
        if before.get(name) is not None:
            parts.append(f"of the {label} answers from {number(before[name], 1)} to {number(after[name], 1)}")
    said = f"The mean log-probability went, {', and '.join(parts)} nats."
    if report.result["both_fell"]:
        said += (
            " Both fell: the model moves away from all answers in the data, and its own may degenerate. Add "
            "--sft-weight 1, raise --beta, or train for fewer steps."
        )
    return said


def _distance(report: PreferReport) -> str:
    kl, largest = report.result["after"]["test"]["kl_per_token"], report.result["reference"]["largest_log_ratio_before"]
    return (
        f"After training, the KL divergence to the reference is {number(kl, 4)} nats per token, on the held-out "
        f"answers. Before the first step, log-ratios were 0 up to rounding: at most {number(largest, 3)} nats."
    )


def _answers(report: PreferReport) -> list[str]:
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    lengths = [one["answer_tokens"]["mean"] for one in (before, after)]
    ended = [f"{round(one['end_of_turn_rate'] * one['examples']):,}" for one in (before, after)]
    found = [
        f"Both models answered {counted(after['examples'], 'test prompt')}: with {number(lengths[0], 0)} tokens on "
        f"average before, and {number(lengths[1], 0)} after. {ended[0]} answers ended their turn before, and "
        f"{ended[1]} after."
    ]
    if lengths[1] > LONGER * lengths[0]:
        found.append(
            "The answers got longer: what looks better may only be longer. Compare the accuracy on pairs of matched "
            "length; --length-weight below 1, or --loss simpo, reacts less to length."
        )
    return found


def limits(report: PreferReport) -> list[str]:
    """What the numbers do not show."""
    prompts = counted(report.result["before"]["test"]["prompts"], "held-out prompt")
    return [
        f"Measured on {prompts} of one data set, with one seed. The interval covers other prompts from the same "
        "source, but not another source or another seed.",
        "A high accuracy means that the model agrees with the people who compared the answers, on answers that it did "
        "not write. Whether its own answers are better, only people who read them can say.",
        "The model may confidently state what is false, and may repeat mistakes and bias of its data. Do not rely on "
        "it for legal or medical advice.",
    ]


def facts(report: PreferReport) -> list[tuple[str, str]]:
    """(name, value) of the preferences: counts, kind, and how they were split."""
    amounts = report.result["examples"]
    return [
        ("training examples", f"{amounts['train']:,}"),
        ("examples held out", f"{amounts['test']:,}"),
        ("left out: unusable", f"{amounts['rejected']:,}"),
        ("left out: an answer does not fit into --max-length", f"{amounts['dropped']:,}"),
        ("with an answer cut to --max-length", f"{amounts['cut']:,}"),
        ("format", _FORMATS[report.data.format]),
        *[(label, str(report.data.facts[name])) for name, label in _FACTS.items() if name in report.data.facts],
        ("log-probabilities of the reference", _reuse(report)),
    ]


def _reuse(report: PreferReport) -> str:
    reference = report.result["reference"]
    return f"{reference['rows']:,} rows, {reference['reused']:,} of them from the cache"


def not_read(report: PreferReport) -> list[str]:
    """What was not read from the preferences, in sentences."""
    return sentences(report.result)


def loading_code(report: PreferReport) -> str:
    """Python code that loads the run and answers a prompt, from inside the run folder."""
    return code.chat_loading_code(report.base, full=report.full)
