"""README.md of a `classify` run: its model card."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from domain_ft.report.cards import licence_of, template
from domain_ft.verbs.classify import words
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.shared import task_words


def render_classify(report: ClassifyReport) -> str:
    """The model card of a `classify` run, as Markdown with YAML front matter."""
    body = template("classify/card.md.j2").render(
        report=report, words=words, tasks=task_words, facts=task_words.facts(report.task)
    )
    return f"---\n{classify_card_data(report).to_yaml()}\n---\n\n{body}\n"


def classify_card_data(report: ClassifyReport) -> ModelCardData:
    """The metadata of the card, for the Hub and its tools."""
    method = str(report.settings.get("method", "lora"))
    return ModelCardData(
        model_name=f"{report.base.short_name}-{report.task.name}",
        base_model=report.base.source if report.base.on_hub else None,
        library_name={"full": "transformers", "lora": "peft", "dora": "peft"}.get(method, "domain-ft"),
        pipeline_tag="text-classification",
        language=report.task.facts.get("language") or None,
        license=licence_of(report.base.licence, report.task.facts.get("licence")),
        tags=["domain-ft", "text-classification", method],
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=report.task.name,
                dataset_name=f"{report.task.name}, test examples",
                metric_type=kind,
                metric_name=task_words.METRIC_WORDS[metric],
                metric_value=round(float(report.test[metric]), 6),
            )
            for metric, kind in (("macro_f1", "f1"), ("accuracy", "accuracy"), ("mcc", "matthews_correlation"))
        ],
    )
