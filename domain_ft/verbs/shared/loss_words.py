"""Losses in words, for the reports of `adapt`, `instruct`, `evaluate` and `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from domain_ft.corpus.left_out import fields_read
from domain_ft.evaluation.bootstrap import FEWEST_UNITS
from domain_ft.report.numbers import bounds, level, number, signed
from domain_ft.wording import counted


class Measured(Protocol):
    """The data that losses were measured on: a corpus or conversations."""

    @property
    def name(self) -> str:
        """The data's name, such as `legal`."""


class LossReport(Protocol):
    """A report on a run whose losses were measured before and after training, by role."""

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's result.json."""

    @property
    def roles(self) -> Sequence[tuple[str, Measured]]:
        """Pairs of a role (`domain`, `test` or `control`) and the data that it was measured on."""

    @property
    def control(self) -> Measured | None:
        """The data that forgetting was measured on, if any."""

    @property
    def differences(self) -> Mapping[str, Mapping[str, Any]]:
        """By role, the result of `evaluation.bootstrap.difference`; may also have `beyond_control`."""

    @property
    def metrics(self) -> Sequence[Mapping[str, Any]]:
        """The lines of metrics.jsonl."""


Difference = Mapping[str, Any]
"""The result of `evaluation.bootstrap.difference`."""


MEASURES = {"loss": "loss (nats per token)", "perplexity": "perplexity", "bits_per_byte": "bits per byte"}
VERDICTS = {"better": "better", "worse": "worse", "unclear": "no clear change"}


def measure(name: str, value: float) -> str:
    """A `loss`, `perplexity` or `bits_per_byte` with a suitable number of decimals."""
    if name == "perplexity":
        return f"{value:.3g}" if value >= 1e6 else number(value, 1 if value < 1000 else 0)
    return number(value, 3)


def digits_for(difference: Difference) -> int:
    """The decimals for a difference and its interval: 2, or more if they are small."""
    sizes = [abs(value) for value in (difference.get("interval") or [difference["loss"]])]
    return 2 if min(sizes) >= 0.01 else 3 if min(sizes) >= 0.001 else 4


def verdict(difference: Difference) -> str:
    """`better` or `worse` if the interval of the loss excludes zero, else `unclear`."""
    interval = difference["interval"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "unclear"
    return "better" if interval[1] < 0 else "worse"


def few_held_out(report: LossReport, unit: str) -> list[str]:
    """A warning for each role with few held-out documents; `unit` names a document."""
    sentences = []
    for role, data in report.roles:
        difference = report.differences[role]
        if not difference.get("few_documents"):
            continue
        worth = "the interval is rough" if difference["documents"] >= FEWEST_UNITS else "too few to show anything"
        documents = counted(difference["documents"], unit)
        was = "was" if difference["documents"] == 1 else "were"
        sentences.append(f"Only {documents} of {data.name} {was} held out: {worth}.")
    return sentences


def too_few(difference: Difference) -> bool:
    """Whether there are too few documents to show anything."""
    return bool(difference["documents"] < FEWEST_UNITS)


def control_finding(report: LossReport) -> str:
    """What the run forgot, as measured on the control."""
    assert report.control is not None
    finding = {
        "worse": "The model forgot something",
        "better": "The model shows no forgetting",
        "unclear": "No forgetting is shown",
    }[verdict(report.differences["control"])]
    return f"{finding}: on {report.control.name} text, the control, the loss went from {change(report, 'control')}."


def change(report: LossReport, role: str, unit: str = "document") -> str:
    """The change of a role's loss, as in `6.10 to 4.80 (−1.30; 95% interval −1.42 to −1.18, 115 documents)`."""
    difference = report.differences[role]
    digits = digits_for(difference)
    before, after = (report.result[when][role]["loss"] for when in ("before", "after"))
    units = counted(difference["documents"], unit)
    interval = f"{level(difference)} {bounds(difference['interval'], digits)}"
    if difference["interval"] is None:
        interval = "too few for an interval"
    return (
        f"{number(before, digits)} to {number(after, digits)} ({signed(difference['loss'], digits)}; "
        f"{interval}, {units})"
    )


def parameters(report: LossReport) -> str:
    """The trained parameters, as in `1,331,712 of 23,866,122 (5.6%)`."""
    trained, total = report.result["trainable_parameters"], report.result["total_parameters"]
    return f"{trained:,} of {total:,} ({100 * trained / total:.1f}%)"


def about_text(result: Mapping[str, Any]) -> list[str]:
    """The warnings about the text, and sentences on the fields that were read."""
    fields = [sentence[0].upper() + sentence[1:] + "." for sentence in fields_read(result.get("text_fields") or ())]
    return [*(result.get("warnings") or ()), *fields]
