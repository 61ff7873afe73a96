"""README.md of the run folder: a model card that Hugging Face's tools parse and a person can read.

The front matter is made by `huggingface_hub`, with the before and after as evaluation results; the text by a template
from the same report as the page.
"""

from __future__ import annotations

import functools
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from domain_ft.report import instruct_words, task_words, words
from domain_ft.report.data import AdaptReport
from domain_ft.report.instruct_data import InstructReport
from domain_ft.report.task_data import ClassifyReport

TASKS = {"mlm": "fill-mask", "clm": "text-generation", "instructions": "text-generation"}
_ANSWER_METRICS = {"exact_match": "exact_match", "token_f1": "f1", "rouge_l": "rouge", "chrf": "chrf"}
_MARKS = str.maketrans({mark: "\\" + mark for mark in "\\`*_[]|#"} | {"<": "&lt;", ">": "&gt;", "\n": " "})


def render(report: AdaptReport) -> str:
    """The model card of an `adapt` run, as Markdown with YAML front matter."""
    body = template("card.md.j2").render(report=report, words=words)
    return f"---\n{card_data(report).to_yaml()}\n---\n\n{body}\n"


def card_data(report: AdaptReport) -> ModelCardData:
    """What the hub and its tools read of a card."""
    return ModelCardData(
        model_name=f"{report.base.short_name}-{report.corpus.name}",
        base_model=report.base.source if report.base.on_hub else None,
        library_name="transformers" if report.full else "peft",
        pipeline_tag=TASKS[report.result["objective"]],
        language=report.corpus.language or None,
        license=report.base.licence.lower() or None,
        tags=["domain-ft", "domain-adaptation", str(report.settings.get("method", "lora")), report.corpus.name],
        eval_results=list(_results(report)),
    )


def _results(report: words.LossReport) -> list[EvalResult]:
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
        for measure, label in words.MEASURES.items()
    ]


def render_classify(report: ClassifyReport) -> str:
    """The model card of a `classify` run, as Markdown with YAML front matter."""
    body = template("classify_card.md.j2").render(report=report, words=task_words, facts=task_words.facts(report.task))
    return f"---\n{classify_card_data(report).to_yaml()}\n---\n\n{body}\n"


def classify_card_data(report: ClassifyReport) -> ModelCardData:
    """What the hub and its tools read of a classifier's card."""
    method = str(report.settings.get("method", "lora"))
    return ModelCardData(
        model_name=f"{report.base.short_name}-{report.task.name}",
        base_model=report.base.source if report.base.on_hub else None,
        library_name={"full": "transformers", "head": "domain-ft"}.get(method, "peft"),
        pipeline_tag="text-classification",
        language=report.task.facts.get("language") or None,
        license=report.base.licence.lower() or None,
        tags=["domain-ft", "text-classification", method],
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=report.task.name,
                dataset_name=f"{report.task.name}, test examples",
                metric_type=kind,
                metric_name=task_words.METRICS[metric],
                metric_value=round(float(report.test[metric]), 6),
            )
            for metric, kind in (("macro_f1", "f1"), ("accuracy", "accuracy"), ("mcc", "matthews_correlation"))
        ],
    )


def render_instruct(report: InstructReport) -> str:
    """The model card of an `instruct` run, as Markdown with YAML front matter."""
    body = template("instruct_card.md.j2").render(
        report=report, words=words, says=instruct_words, task_words=task_words
    )
    return f"---\n{instruct_card_data(report).to_yaml()}\n---\n\n{body}\n"


def instruct_card_data(report: InstructReport) -> ModelCardData:
    """What the hub and its tools read of an instructed model's card."""
    return ModelCardData(
        model_name=f"{report.base.short_name}-{report.data.name}",
        base_model=report.base.source if report.base.on_hub else None,
        library_name="transformers" if report.full else "peft",
        pipeline_tag="text-generation",
        language=report.data.facts.get("language") or None,
        license=report.base.licence.lower() or None,
        tags=["domain-ft", "instruction-tuning", "conversational", str(report.settings.get("method", "lora"))],
        eval_results=[*_results(report), *_answer_results(report)],
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
            metric_name=f"{instruct_words.METRICS[name]} of answers, after training",
            metric_value=round(float(report.result["after"]["answers"][name]), 6),
        )
        for name in instruct_words.likeness_metrics(report)
    ]


@functools.cache
def template(name: str) -> Any:
    """A template of a card."""
    environment = Environment(
        loader=PackageLoader("domain_ft.report"),
        autoescape=False,  # it is Markdown: `plain` takes the marks out of foreign text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    return environment.get_template(name)


def _plain(text: Any) -> str:
    """Foreign text that Markdown must show as it is, on one line and in a table's cell."""
    return str(text).translate(_MARKS)
