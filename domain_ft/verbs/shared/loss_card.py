"""Metadata of model cards: the task type, and the losses after training as evaluation results."""

from __future__ import annotations

from huggingface_hub import EvalResult

from domain_ft.verbs.shared import loss_words

TASKS = {
    "mlm": "fill-mask",
    "clm": "text-generation",
    "contrastive": "sentence-similarity",
    "instructions": "text-generation",
}
"""The Hub's task type by objective; that of a preference loss is text-generation."""


def loss_results(report: loss_words.LossReport) -> list[EvalResult]:
    """A result for each role and measure."""
    return [
        EvalResult(
            task_type=TASKS.get(report.result["objective"], "text-generation"),
            dataset_type=corpus.name,
            dataset_name=f"{corpus.name}, held out ({role})",
            metric_type=measure,
            metric_name=f"{label}, after training",
            metric_value=round(float(report.result["after"][role][measure]), 6),
        )
        for role, corpus in report.roles
        for measure, label in loss_words.MEASURES.items()
    ]
