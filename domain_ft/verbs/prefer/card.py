"""README.md of a `prefer` run: its model card."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from domain_ft.report.cards import licence_of, template
from domain_ft.verbs.prefer import words
from domain_ft.verbs.prefer.report import PreferReport
from domain_ft.verbs.shared import loss_words
from domain_ft.verbs.shared.loss_card import loss_results


def render_prefer(report: PreferReport) -> str:
    """The model card of a `prefer` run, as Markdown with YAML front matter."""
    body = template("prefer/card.md.j2").render(report=report, words=words, losses=loss_words)
    return f"---\n{prefer_card_data(report).to_yaml()}\n---\n\n{body}\n"


def prefer_card_data(report: PreferReport) -> ModelCardData:
    """The metadata of the card, for the Hub and its tools."""
    return ModelCardData(
        model_name=f"{report.base.short_name}-{report.data.name}",
        base_model=report.base.source if report.base.on_hub else None,
        library_name="transformers" if report.full else "peft",
        pipeline_tag="text-generation",
        license=licence_of(report.base.licence, report.data.facts.get("licence")),
        tags=["domain-ft", "preference-tuning", str(report.settings["loss"]), "conversational"],
        eval_results=[*loss_results(report), *_preference_results(report)],
    )


def _preference_results(report: PreferReport) -> list[EvalResult]:
    accuracy = report.result["after"]["test"].get("accuracy")
    if accuracy is None:
        return []
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=report.data.name,
            dataset_name=f"{report.data.name}, test prompts",
            metric_type="accuracy",
            metric_name="share of pairs whose better answer has the larger log-ratio, after training",
            metric_value=round(float(accuracy), 6),
        )
    ]
