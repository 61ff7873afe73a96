"""The report on an adapted model in words.

A claim is made only if the interval excludes zero. A gain that the control shows too is not specific to the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from domain_ft.evaluation.retrieval import METRICS, NAMES
from domain_ft.report.numbers import bounds, difference_span, level, number, points, signed, signed_points
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.shared import loading_code as code
from domain_ft.verbs.shared import task_words
from domain_ft.verbs.shared.loss_words import (
    change,
    control_finding,
    digits_for,
    few_held_out,
    too_few,
    verdict,
)
from domain_ft.wording import counted

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
    "greatest_overlap": "largest share of a held-out text found in one training text",
}
"""The names of a corpus's counts, in the order in which they are shown."""


def headline(report: AdaptReport) -> str:
    """The result in one plain sentence."""
    name, corpus = report.base.short_name, report.corpus.name
    if too_few(report.differences["domain"]):
        return f"Too few documents were held out to show whether {name} reads {corpus} text better."
    return {
        "better": f"After training, {name} reads {corpus} text better.",
        "worse": f"After training, {name} reads {corpus} text worse.",
        "unclear": f"After training, {name} reads {corpus} text neither clearly better nor clearly worse.",
    }[verdict(report.differences["domain"])]


def findings(report: AdaptReport) -> list[str]:
    """The evidence: results on task, retrieval, domain and control, the field-specific gain, and caveats."""
    sentences = [_domain_finding(report)]
    if report.retrieval:
        sentences.insert(0, _retrieval_finding(report, report.retrieval))
    if report.result.get("probe"):
        sentences.insert(0, _task_finding(report))
    if report.control is None:
        sentences.append("What the model forgot was not measured: there was no control corpus.")
    else:
        sentences.append(control_finding(report))
        if "beyond_control" in report.differences:
            sentences.append(_field_finding(report))
    return sentences + few_held_out(report, "document")


def _task_finding(report: AdaptReport) -> str:
    probe = report.result["probe"]
    before, after = (points(report.result[when]["probe"]["macro_f1"]) for when in ("before", "after"))
    difference = probe["difference"]["macro_f1"]
    shown = {
        "better": "The adapted model is",
        "worse": "The adapted model is",
        "not shown": "A difference is",
    }[difference["verdict"]]
    against = _wrong_field_finding(probe["wrong_field"]) if probe["wrong_field"] else ""
    svm = probe["tfidf_svm"].get("macro_f1")
    if svm is not None:
        against += f" TF-IDF with a linear SVM reaches {points(svm)}."
    if probe["left_out_test_examples"]:
        left_out = counted(probe["left_out_test_examples"], "test example that is", "test examples that are")
        against += f" Left out of the test: {left_out} in the training text."
    return (
        f"On the task {probe['task']}, a linear probe fitted to {counted(probe['train_examples'], 'example')} reaches "
        f"a macro F1 of {before} with the base model's features, and {after} with the adapted model's. {shown} "
        f"{task_words.verdict(difference, 'macro_f1')}.{against}"
    )


def _wrong_field_finding(wrong_field: Mapping[str, Any]) -> str:
    """The task's score after training on another field, and how much more training on this field gives."""
    difference = wrong_field["difference"]["macro_f1"]
    shown = (
        "That this field's text serves better is" if difference["verdict"] == "not shown" else "The adapted model is"
    )
    return (
        f" A model adapted to {wrong_field['corpus']} instead ({counted(wrong_field['tokens_seen'], 'token')}) reaches "
        f"{points(wrong_field['macro_f1'])}. {shown} {task_words.verdict(difference, 'macro_f1')}."
    )


def _retrieval_finding(report: AdaptReport, differences: Mapping[str, Any]) -> str:
    before, after, bm25 = _retrieval_scores(report, "ndcg@10")
    queries = report.result["after"]["retrieval"]["queries"]
    gain = differences["ndcg@10"]
    interval = gain["interval"]
    if interval is None:
        shown = "too few documents were held out for an interval"
    else:
        shown = f"{level(differences)} of the change {difference_span(interval)} points"
        if differences["few"]:
            shown += f", which is weak: only {differences['groups']} documents"
    return (
        f"With {queries:,} held-out {report.corpus.name} headings and first sentences as queries, retrieval of the "
        f"text that follows reaches an nDCG@10 of {points(before)} before training and {points(after)} after it "
        f"({shown}). BM25, which compares tokens, reaches {points(bm25)}."
    )


def _domain_finding(report: AdaptReport) -> str:
    before, after = (report.result[when]["domain"] for when in ("before", "after"))
    choices = [number(one["perplexity"], 0) for one in (before, after)]
    return (
        f"On held-out {report.corpus.name} text the loss went from {change(report, 'domain')}. "
        f"On average, the model was as uncertain as if it chose among {choices[0]} equally likely tokens before, and "
        f"among {choices[1]} after (perplexity)."
    )


def _field_finding(report: AdaptReport) -> str:
    assert report.control is not None
    beyond = report.differences["beyond_control"]
    field, control, digits = report.corpus.name, report.control.name, digits_for(beyond)
    if verdict(beyond) == "better":
        low, high = sorted(-bound for bound in beyond["interval"])
        return (
            f"The {field} loss fell by {number(-beyond['loss'], digits)} more than the {control} loss "
            f"({level(beyond)} {number(low, digits)} to {number(high, digits)}): that part is specific to the field."
        )
    interval = f"{level(beyond)} {bounds(beyond['interval'], digits)}"
    if beyond["interval"] is None:
        interval = "too few documents for an interval"
    return (
        f"The {field} loss changed by {signed(beyond['loss'], digits)} relative to the {control} loss "
        f"({interval}): no gain that is specific to the field is shown."
    )


def retrieval_rows(report: AdaptReport) -> list[tuple[str, str, str, str, str, str]]:
    """(metric, before, after, change, interval, BM25) of each retrieval metric, in percent."""
    assert report.retrieval is not None
    rows = []
    for name in METRICS:
        before, after, bm25 = _retrieval_scores(report, name)
        gain = report.retrieval[name]
        moved = signed_points(gain["difference"])
        interval = "" if gain["interval"] is None else difference_span(gain["interval"])
        rows.append((NAMES[name], points(before), points(after), moved, interval, points(bm25)))
    return rows


def _retrieval_scores(report: AdaptReport, metric: str) -> tuple[float, float, float]:
    """The scores before and after training, and of BM25."""
    scores = (report.result["before"]["retrieval"], report.result["after"]["retrieval"], report.result["bm25"])
    before, after, bm25 = (float(one[metric]) for one in scores)
    return before, after, bm25


def limits(report: AdaptReport) -> list[str]:
    """What the numbers do not show."""
    held_out = report.differences["domain"]["documents"]
    sentences = [
        f"Measured on {counted(held_out, 'held-out document')} of one corpus, with one seed. The interval covers other "
        "documents from the same source, but not another source or another seed.",
        "A lower loss means that the model predicts the field's language better, not that a classifier or a tagger "
        "based on it is better: measure that on the task.",
        "Losses can be compared only between models with the same tokenizer; bits per byte can be compared across "
        "tokenizers, too.",
        "The model may repeat its training text, including mistakes and bias. Do not rely on it for legal or medical "
        "advice.",
    ]
    if report.encoder:
        sentences.append(
            "Losses are measured on masked tokens, with the same masks before and after. They cannot be compared with "
            "a decoder's."
        )
    if report.control is not None:
        sentences.append(
            "Forgetting was measured on one control corpus. Other abilities of the base model may have changed, too."
        )
    return sentences


def statistics(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of a corpus's statistics; shares are in percent."""
    return [
        (label, f"{counts[name]:,}" if isinstance(counts[name], int) else f"{100 * counts[name]:.0f}%")
        for name, label in STATISTICS.items()
        if counts.get(name) is not None
    ]


def right_guesses(samples: Sequence[Mapping[str, Any]], when: str) -> int:
    """The number of samples in which the model's first guess was the masked word."""
    return sum(sample[when]["answer_rank"] == 1 for sample in samples)


def packages(report: AdaptReport) -> str:
    """The packages that `loading_code` needs, as arguments of `pip install`."""
    if report.full:
        return "transformers"
    if report.base.is_run:  # domain-ft merges the adapter first
        return "domain-ft transformers"
    return "peft transformers domain-ft" if report.base.embedded else "peft transformers"


def loading_code(report: AdaptReport) -> str:
    """Python code that loads the run, from inside the run folder."""
    auto = "AutoModelForMaskedLM" if report.encoder else "AutoModelForCausalLM"
    return code.loading_code(report.base, auto, full=report.full)
