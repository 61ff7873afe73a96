"""README.md of an `instruct` run: its model card."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from domain_ft.report.cards import licence_of, template
from domain_ft.verbs.instruct import words
from domain_ft.verbs.instruct.report import InstructReport
from domain_ft.verbs.shared import loss_words, task_words
from domain_ft.verbs.shared.loss_card import loss_results

_ANSWER_METRICS = {"exact_match": "exact_match", "token_f1": "f1", "rouge_l": "rouge", "chrf": "chrf"}


def render_instruct(report: InstructReport) -> str:
    """The model card of an `instruct` run, as Markdown with YAML front matter."""
    body = template("instruct/card.md.j2").render(report=report, words=words, losses=loss_words, tasks=task_words)
    return f"---\n{instruct_card_data(report).to_yaml()}\n---\n\n{body}\n"


def instruct_card_data(report: InstructReport) -> ModelCardData:
    """The metadata of the card, for the Hub and its tools."""
    return ModelCardData(
        model_name=f"{report.base.short_name}-{report.data.name}",
        base_model=report.base.source if report.base.on_hub else None,
        library_name="transformers" if report.full else "peft",
        pipeline_tag="text-generation",
        language=report.data.facts.get("language") or None,
        license=licence_of(report.base.licence, report.data.facts.get("licence")),
        tags=["domain-ft", "instruction-tuning", "conversational", str(report.settings.get("method", "lora"))],
        eval_results=[*loss_results(report), *_answer_results(report)],
    )


def _answer_results(report: InstructReport) -> list[EvalResult]:
    if not report.answered:
        return []
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=report.data.name,
            dataset_name=f"{report.data.name}, test prompts",
            metric_type=_ANSWER_METRICS[name],
            metric_name=f"{words.METRIC_WORDS[name]} of answers, after training",
            metric_value=round(float(report.result["after"]["answers"][name]), 6),
        )
        for name in words.similarity_metrics(report)
    ]
