"""The page and the card of a `tag` run."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from domain_ft.corpus.left_out import sentences
from domain_ft.report import cards, numbers, page
from domain_ft.verbs.shared import task_plots, task_words
from domain_ft.verbs.tag import words
from domain_ft.verbs.tag.report import TagReport


def render_page(report: TagReport) -> str:
    """The page of a `tag` run."""
    return page.page(
        "tag/page.html.j2",
        title=f"{report.base.short_name} for {report.task.name}",
        report=report,
        figures=[(caption, Markup(figure)) for caption, figure in _figures(report)],
        facts=_facts(report),
        words=words,
        tasks=task_words,
        unread=sentences(report.result),
    )


def _figures(report: TagReport) -> list[tuple[str, str]]:
    bars = (
        f"F1 of each type, with its {numbers.level(report.test)}; the number of test entities is in brackets. Grey "
        f"types have fewer than {task_words.FEW}."
    )
    figures = [(bars, task_plots.class_bars(report))]
    if report.result["learning_curve"]:
        figures.append(
            ("Scores on the same test texts, by number of training texts.", task_plots.learning_curve(report))
        )
    if report.metrics:
        caption = "Loss of single steps (pale) and running mean (dark). The ring marks the model that was kept."
        figures.append((caption, task_plots.training(report)))
    return figures


def render_card(report: TagReport) -> str:
    """The model card of a `tag` run, as Markdown with YAML front matter."""
    body = cards.template("tag/card.md.j2").render(
        report=report, words=words, tasks=task_words, facts=_facts(report), unread=sentences(report.result)
    )
    return f"---\n{card_data(report).to_yaml()}\n---\n\n{body}\n"


def card_data(report: TagReport) -> ModelCardData:
    """The metadata of the card, for the Hub and its tools."""
    method = str(report.settings["method"])
    return ModelCardData(
        model_name=f"{report.base.short_name}-{report.task.name}",
        base_model=report.base.source if report.base.on_hub else None,
        library_name="transformers" if method == "full" else "peft",
        pipeline_tag="token-classification",
        license=cards.licence_of(report.base.licence, None),
        tags=["domain-ft", "token-classification", method],
        eval_results=[
            EvalResult(
                task_type="token-classification",
                dataset_type=report.task.name,
                dataset_name=f"{report.task.name}, test texts",
                metric_type="f1" if metric == "macro_f1" else metric,
                metric_name=task_words.METRIC_WORDS[metric],
                metric_value=round(float(report.test[metric]), 6),
            )
            for metric in ("f1", "macro_f1", "precision", "recall")
        ],
    )


def _facts(report: TagReport) -> list[tuple[str, str]]:
    """(name, value) of the task's sizes, types, tagging scheme and method of splitting."""
    sizes = [(f"{split} texts", f"{amount:,}") for split, amount in report.task.examples.items()]
    splits = [(f"{split} split", how) for split, how in report.task.facts.get("split", {}).items()]
    scheme = report.result["scheme"] or "none: character spans"
    return [*sizes, ("types", ", ".join(report.task.labels[:50])), ("tagging scheme", scheme), *splits]
