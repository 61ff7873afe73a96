"""README.md of an `adapt` run: its model card."""

from __future__ import annotations

from huggingface_hub import ModelCardData

from domain_ft.report.cards import licence_of, template
from domain_ft.verbs.adapt import words
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.shared import loss_words
from domain_ft.verbs.shared.loss_card import TASKS, loss_results


def render(report: AdaptReport) -> str:
    """The model card of an `adapt` run, as Markdown with YAML front matter."""
    body = template("adapt/card.md.j2").render(report=report, words=words, losses=loss_words)
    return f"---\n{card_data(report).to_yaml()}\n---\n\n{body}\n"


def card_data(report: AdaptReport) -> ModelCardData:
    """The metadata of the card, for the Hub and its tools."""
    return ModelCardData(
        model_name=f"{report.base.short_name}-{report.corpus.name}",
        base_model=report.base.source if report.base.on_hub else None,
        library_name="transformers" if report.full else "peft",
        pipeline_tag=TASKS[report.result["objective"]],
        language=report.corpus.language or None,
        license=licence_of(report.base.licence, report.corpus.licence),
        tags=["domain-ft", "domain-adaptation", str(report.settings.get("method", "lora")), report.corpus.name],
        eval_results=list(loss_results(report)),
    )
