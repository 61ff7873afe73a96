"""The report's words and numbers: one place decides what a result means in plain language, and how a number is written.

A claim is made only where the interval excludes zero. What the control gained too is not the field's gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from domain_ft.corpus.left_out import fields_read
from domain_ft.evaluation.bootstrap import FEWEST_UNITS
from domain_ft.report.data import AdaptReport
from domain_ft.report.instruct_data import InstructReport

LossReport = AdaptReport | InstructReport
"""A report on a run whose losses were measured before and after, by role."""

Difference = Mapping[str, Any]
"""What `evaluation.bootstrap.difference` gives."""

MINUS = "−"
MEASURES = {"loss": "loss (nats per token)", "perplexity": "perplexity", "bits_per_byte": "bits per byte"}
VERDICTS = {"better": "better", "worse": "worse", "unclear": "no clear change"}

STATISTICS = {
    "read": "documents read",
    "kept": "documents kept",
    "empty": "documents with no text",
    "rejects": "records that could not be read",
    "exact_duplicates": "exact duplicates left out",
    "near_duplicates": "near duplicates left out",
    "groups": "groups of similar documents",
    "characters": "characters",
    "bytes": "bytes (UTF-8)",
    "train_documents": "documents to train on",
    "evaluation_documents": "documents held out",
    "greatest_overlap": "greatest share of a held-out text found in one training text",
}
"""What a corpus's counts are called, in the order in which they are shown."""


def number(value: float, digits: int = 2) -> str:
    """`value` with `digits` decimals and a true minus sign; thousands are set apart.

    >>> number(-1234.5, 1)
    '−1,234.5'
    """
    text = f"{abs(value):,.{digits}f}"
    return MINUS + text if value < 0 and text.strip("0.,") else text


def signed(value: float, digits: int = 2) -> str:
    """`number` with a plus sign where it is above zero.

    >>> signed(0.5), signed(-0.25), signed(0.001)
    ('+0.50', '−0.25', '0.00')
    """
    text = number(value, digits)
    return "+" + text if value > 0 and text.strip("0.,") else text


def measure(name: str, value: float) -> str:
    """A `loss`, `perplexity` or `bits_per_byte` with as many decimals as it bears."""
    if name == "perplexity":
        return f"{value:.3g}" if value >= 1e6 else number(value, 1 if value < 1000 else 0)
    return number(value, 3)


def bounds(interval: list[float] | None, digits: int = 2) -> str:
    """`−1.42 to −1.18`; `no interval` where there is none."""
    if interval is None:
        return "no interval"
    return f"{signed(interval[0], digits)} to {signed(interval[1], digits)}"


def digits_for(difference: Difference) -> int:
    """Decimals that show where the interval of a difference stands: 2, or more for a small one."""
    sizes = [abs(value) for value in (difference.get("interval") or [difference["loss"]])]
    return 2 if min(sizes) >= 0.01 else 3 if min(sizes) >= 0.001 else 4


def level(difference: Difference) -> str:
    """`95% interval`."""
    return f"{100 * difference['level']:g}% interval"


def verdict(difference: Difference) -> str:
    """`better` or `worse` where the interval of the loss excludes zero, else `unclear`."""
    interval = difference["interval"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "unclear"
    return "better" if interval[1] < 0 else "worse"


def headline(report: AdaptReport) -> str:
    """What came out, in one sentence for everybody."""
    name, corpus = report.base.short_name, report.corpus.name
    if too_few(report.differences["domain"]):
        return f"Too few documents were held out to show whether {name} reads {corpus} text better."
    return {
        "better": f"After training, {name} reads {corpus} text better.",
        "worse": f"After training, {name} reads {corpus} text worse.",
        "unclear": f"After training, {name} reads {corpus} text neither better nor worse, as far as this measures.",
    }[verdict(report.differences["domain"])]


def findings(report: AdaptReport) -> list[str]:
    """The headline's grounds, a sentence or two each: the domain, the control, what is the field's own, and doubts."""
    sentences = [_domain_finding(report)]
    if report.control is None:
        sentences.append("What the model forgot was not measured: there was no control corpus.")
    else:
        sentences.append(control_finding(report))
        if "beyond_control" in report.differences:
            sentences.append(_own_finding(report))
    return sentences + few_held_out(report, "document")


def few_held_out(report: LossReport, unit: str) -> list[str]:
    """What so few held-out documents (`unit`) are worth, a sentence for each role that has few."""
    sentences = []
    for role, data in report.roles:
        difference = report.differences[role]
        if not difference.get("few_documents"):
            continue
        worth = "the interval is rough" if difference["documents"] >= FEWEST_UNITS else "nothing is shown"
        plural = "" if difference["documents"] == 1 else "s"
        sentences.append(f"Only {difference['documents']:,} {unit}{plural} of {data.name} held out: {worth}.")
    return sentences


def too_few(difference: Difference) -> bool:
    """Whether so few documents were measured that nothing can be shown."""
    return bool(difference["documents"] < FEWEST_UNITS)


def _domain_finding(report: AdaptReport) -> str:
    before, after = (report.result[when]["domain"] for when in ("before", "after"))
    unsure = [number(one["perplexity"], 0) for one in (before, after)]
    return (
        f"On held-out {report.corpus.name} text the loss went from {change(report, 'domain')}. "
        f"In other words, at each token asked for it was as unsure as between {unsure[0]} equally likely tokens "
        f"before, and {unsure[1]} after."
    )


def control_finding(report: LossReport) -> str:
    """What the run forgot, as far as the control shows it."""
    assert report.control is not None
    said = {
        "worse": "It forgot something",
        "better": "It shows no forgetting",
        "unclear": "No forgetting could be shown",
    }[verdict(report.differences["control"])]
    return f"{said}: on {report.control.name} text, the control, the loss went from {change(report, 'control')}."


def _own_finding(report: AdaptReport) -> str:
    assert report.control is not None
    own = report.differences["beyond_control"]
    field, control, digits = report.corpus.name, report.control.name, digits_for(own)
    if verdict(own) == "better":
        low, high = sorted(-bound for bound in own["interval"])
        return (
            f"The {field} loss fell by {number(-own['loss'], digits)} more than the {control} one "
            f"({level(own)} {number(low, digits)} to {number(high, digits)}): that part is the field's own."
        )
    return (
        f"The {field} loss changed by {signed(own['loss'], digits)} against the {control} one "
        f"({level(own)} {bounds(own['interval'], digits)}): no gain is shown that is the field's own."
    )


def change(report: LossReport, role: str, unit: str = "document") -> str:
    """`6.10 to 4.80 (−1.30; 95% interval −1.42 to −1.18, 115 documents)`."""
    difference = report.differences[role]
    digits = digits_for(difference)
    before, after = (report.result[when][role]["loss"] for when in ("before", "after"))
    units = f"{difference['documents']:,} {unit}{'' if difference['documents'] == 1 else 's'}"
    interval = f"{level(difference)} {bounds(difference['interval'], digits)}"
    if difference["interval"] is None:
        interval = "too few for an interval"
    return (
        f"{number(before, digits)} to {number(after, digits)} ({signed(difference['loss'], digits)}; "
        f"{interval}, {units})"
    )


def limits(report: AdaptReport) -> list[str]:
    """What the numbers do not say."""
    held_out = report.differences["domain"]["documents"]
    said = [
        f"Measured on {held_out:,} held-out documents of one corpus, with one seed. The interval says how the figure "
        "would vary with other documents of the same kind, not with another seed or another source.",
        "A lower loss means that the model predicts the field's wording better. It does not mean that a classifier or "
        "a tagger built on it is better: measure that on the task.",
        "The loss compares only between models with the same tokenizer; bits per byte compare between all.",
        "The model repeats what stands in its training text, mistakes and bias included. Do not rely on it for legal "
        "or medical advice.",
    ]
    if report.result["objective"] == "mlm":
        said.append(
            "Losses are over masked tokens: the masks are the same before and after, drawn once from the seed. They do "
            "not compare with a decoder's."
        )
    if report.control is not None:
        said.append(
            "Forgetting was measured on one control corpus. Other abilities of the base model may have changed unseen."
        )
    return said


def parameters(report: LossReport) -> str:
    """`1,331,712 of 23,866,122 (5.6%)`, the parameters that were trained."""
    trained, total = report.result["trainable_parameters"], report.result["total_parameters"]
    return f"{trained:,} of {total:,} ({100 * trained / total:.1f}%)"


def duration(seconds: float) -> str:
    """`5 min 12 s`.

    >>> duration(312.4), duration(4000), duration(7.6)
    ('5 min 12 s', '1 h 7 min', '8 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def statistics(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what it is, how many) of a corpus's counts; a share is written in percent."""
    return [
        (label, f"{counts[name]:,}" if isinstance(counts[name], int) else f"{100 * counts[name]:.0f}%")
        for name, label in STATISTICS.items()
        if counts.get(name) is not None
    ]


def about_text(result: Mapping[str, Any]) -> list[str]:
    """What result.json says of how the text was read, in sentences: warnings, fields, and what was not read."""
    fields = [sentence[0].upper() + sentence[1:] + "." for sentence in fields_read(result.get("text_fields") or ())]
    return [*(result.get("warnings") or ()), *fields]


def right_guesses(samples: Sequence[Mapping[str, Any]], when: str) -> int:
    """In how many samples the word of the document was the first guess."""
    return sum(sample[when]["answer_rank"] == 1 for sample in samples)


def loading_code(report: AdaptReport) -> str:
    """Python that loads the run with `peft` from within the run folder; it runs as it stands."""
    auto = "AutoModelForMaskedLM" if report.result["objective"] == "mlm" else "AutoModelForCausalLM"
    if report.full:
        return "\n".join(
            [
                f"from transformers import {auto}, AutoTokenizer",
                "",
                f'model = {auto}.from_pretrained("model")  # the run folder\'s',
                'tokenizer = AutoTokenizer.from_pretrained("model")',
            ]
        )
    return "\n".join(
        [
            *(["from domain_ft.models import embedded"] if report.base.embedded else []),
            "from peft import PeftModel",
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f"source = embedded.resolve({report.base.name!r})  # fetched once, then from the cache"
            if report.base.embedded
            else f"source = {report.base.source!r}",
            f"base = {auto}.from_pretrained(source)",
            'model = PeftModel.from_pretrained(base, "adapter")  # the run folder\'s',
            "tokenizer = AutoTokenizer.from_pretrained(source)",
        ]
    )
