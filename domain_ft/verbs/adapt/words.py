"""What the report on an adapted model says in words.

A claim is made only where the interval excludes zero. What the control gained too is not the field's gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from domain_ft.report.numbers import bounds, level, number, signed
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.shared import loading_code as code
from domain_ft.verbs.shared.loss_words import (
    change,
    control_finding,
    digits_for,
    few_held_out,
    too_few,
    verdict,
)

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


def _domain_finding(report: AdaptReport) -> str:
    before, after = (report.result[when]["domain"] for when in ("before", "after"))
    unsure = [number(one["perplexity"], 0) for one in (before, after)]
    return (
        f"On held-out {report.corpus.name} text the loss went from {change(report, 'domain')}. "
        f"In other words, at each token asked for it was as unsure as between {unsure[0]} equally likely tokens "
        f"before, and {unsure[1]} after."
    )


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


def statistics(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what it is, how many) of a corpus's counts; a share is written in percent."""
    return [
        (label, f"{counts[name]:,}" if isinstance(counts[name], int) else f"{100 * counts[name]:.0f}%")
        for name, label in STATISTICS.items()
        if counts.get(name) is not None
    ]


def right_guesses(samples: Sequence[Mapping[str, Any]], when: str) -> int:
    """In how many samples the word of the document was the first guess."""
    return sum(sample[when]["answer_rank"] == 1 for sample in samples)


def loading_code(report: AdaptReport) -> str:
    """Python that loads the run from within the run folder."""
    auto = "AutoModelForMaskedLM" if report.result["objective"] == "mlm" else "AutoModelForCausalLM"
    return code.loading_code(report.base, auto, full=report.full)
