"""The losses after training, as the evaluation results in a model card's metadata."""

from __future__ import annotations

from huggingface_hub import EvalResult

from domain_ft.verbs.shared import loss_words

TASKS = {
    "mlm": "fill-mask",
    "clm": "text-generation",
    "contrastive": "sentence-similarity",
    "instructions": "text-generation",
}


def loss_results(report: loss_words.LossReport) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=TASKS[report.result["objective"]],
            dataset_type=corpus.name,
            dataset_name=f"{corpus.name}, held out ({role})",
            metric_type=measure,
            metric_name=f"{label}, after training",
            metric_value=round(float(report.result["after"][role][measure]), 6),
        )
        for role, corpus in report.roles
        for measure, label in loss_words.MEASURES.items()
    ]
