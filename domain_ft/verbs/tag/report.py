"""The report on a tagger, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain_ft.verbs.shared.facts import BaseFacts
from domain_ft.verbs.shared.task_facts import WORST, TaskSummary

if TYPE_CHECKING:
    from domain_ft.corpus.tagging.entities import Span, TaggedText, TaggingData


_SHOWN = 600  # characters of a text that a report shows


@dataclass(frozen=True)
class Segment:
    """Part of a text: an entity with its label, right or wrong, or without a label the text between entities."""

    text: str
    label: str = ""
    right: bool = True


@dataclass(frozen=True)
class TagReport:
    """All results of `tag`. Make one with `of`.

    Attributes:
        result: the run's result.json.
        base: the base model.
        task: the task; its labels are the types of entities.
        settings: the settings, with every default resolved.
        provenance: versions, device, hashes.
        metrics: the lines of metrics.jsonl; a held-out point has `evaluation` with `macro_f1`.
        errors: the test texts with the most mistakes, from `worst_texts`; empty if no example may be shown.
    """

    result: Mapping[str, Any]
    base: BaseFacts
    task: TaskSummary
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    errors: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(
        cls,
        result: Mapping[str, Any],
        base: BaseFacts,
        task: TaggingData,
        spans: Sequence[Sequence[Span]],
        *,
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        metrics: Sequence[Mapping[str, Any]] = (),
        examples: bool = True,
    ) -> TagReport:
        """The report of a run whose kept model predicts these `spans` for the task's test texts."""
        facts = TaskSummary(
            name=task.name,
            labels=task.types,
            examples={split: len(texts) for split, texts in task.splits.items()},
            facts=task.facts,
            notes=tuple(task.notes),
        )
        errors = worst_texts(task.splits["test"], spans) if examples else []
        return cls(result, base, facts, settings, provenance, metrics, errors)

    @property
    def test(self) -> Mapping[str, Any]:
        """The kept model's scores on the test texts; `per_class` is another name of `per_type`, for `task_plots`."""
        scores: Mapping[str, Any] = self.result["test"]
        return {**scores, "per_class": scores["per_type"]}


def worst_texts(texts: Sequence[TaggedText], predicted: Sequence[Sequence[Span]]) -> list[dict[str, Any]]:
    """At most `WORST` texts with the most wrong and missed entities.

    Returns:
        For each text its `id`, and in `truth` and `predicted` its `Segment`s from `marked`.
    """
    wrong = [set(text.spans) ^ set(spans) for text, spans in zip(texts, predicted, strict=True)]
    order = sorted(range(len(texts)), key=lambda index: -len(wrong[index]))[:WORST]
    return [
        {
            "id": texts[index].id,
            "truth": marked(texts[index].text, texts[index].spans, wrong[index]),
            "predicted": marked(texts[index].text, predicted[index], wrong[index]),
        }
        for index in order
        if wrong[index]
    ]


def marked(text: str, spans: Iterable[Span], wrong: set[Span]) -> list[Segment]:
    """`text` divided at its spans. A long text is shortened to the part around the first span in `wrong`."""
    first = min(wrong).start
    start = 0 if len(text) <= _SHOWN else max(0, min(first - _SHOWN // 3, len(text) - _SHOWN))
    end = min(len(text), start + _SHOWN)
    segments = [Segment("… ")] if start else []
    for span in sorted(spans):
        if span.start >= start and span.end <= end:
            segments += [
                Segment(text[start : span.start]),
                Segment(text[span.start : span.end], span.label, span not in wrong),
            ]
            start = span.end
    segments.append(Segment(text[start:end] + (" …" if end < len(text) else "")))
    return [segment for segment in segments if segment.text]
