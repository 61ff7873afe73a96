"""`domain-ft evaluate --task` or `--test`: compare runs of `classify` on the same labelled examples.

`compare` reads saved predictions instead; this module runs the models, so any examples can be scored.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from domain_ft.corpus.examples import Examples
from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames
from domain_ft.corpus.tasks.opening import open_task
from domain_ft.corpus.tasks.reading import places
from domain_ft.corpus.tasks.rows import encode
from domain_ft.corpus.tasks.sources import TaskSource
from domain_ft.corpus.tasks.table import tabulate
from domain_ft.embedded.loading import load_task_run
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.evaluation.classification import METRICS, classification_metrics, paired_difference, seed_metrics
from domain_ft.evaluation.logits import predict_logits
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.task_facts import TaskFacts
from domain_ft.report.numbers import listed
from domain_ft.report.run_folder import RunFolder, report_folder
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.evaluate.settings import EvaluateSettings, no_list
from domain_ft.verbs.shared.comparison import ComparedRun, CompareReport
from domain_ft.verbs.shared.comparison_terminal import print_compare
from domain_ft.verbs.shared.machine import Machine, choose_machine, is_main_process
from domain_ft.wording import counted

TOKENS_PER_MICRO_BATCH = 4096
_LISTED = 5


def evaluate_task(settings: EvaluateSettings) -> tuple[CompareReport, list[Predictions]]:
    """Score the kept model of each run on the same examples, and compare the others with the first.

    Raises:
        ModelError: a model is not a finished run of `classify`.
        SettingsError: a run is of `tag`, or has other classes than the first.
        CorpusError: the examples cannot be read, or have labels that are not classes of the runs.
    """
    machine = choose_machine(settings)
    runs = [Path(name) for name in settings.model]
    facts = [TaskFacts.load(run) for run in runs]
    for run, own in zip(runs, facts, strict=True):
        if own.kind != "sequence":
            raise SettingsError(
                f"'{run}' is a run of `tag`, which cannot be scored on other files yet",
                fix="give runs of `classify`, or compare finished runs of `tag`: domain-ft compare RUN RUN",
            )
        if set(own.labels) != set(facts[0].labels) or own.multi_label != facts[0].multi_label:
            raise SettingsError(
                f"'{run}' has other classes than '{runs[0]}'", fix="evaluate only runs of the same task together"
            )
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        subject, examples, left_out, rejects = _examples(settings, runs[0], facts[0], display)
        predicted = [_predict(run, own, examples, machine, display) for run, own in zip(runs, facts, strict=True)]
    compared: list[ComparedRun] = []
    for name, own, predictions in zip(settings.model, facts, predicted, strict=True):
        scores = seed_metrics([predictions], seed=settings.seed)
        others = paired_difference(predicted[:1], [predictions], seed=settings.seed) if compared else {}
        compared.append(ComparedRun(name, own.base, seeds=int(scores.pop("n")), scores=scores, differences=others))
    shown = [metric for metric in METRICS if metric != "micro_f1" or facts[0].multi_label]
    note = "Only the kept model of each run is scored, from a single seed: the intervals do not cover other seeds."
    notes = [note, *sentences(left_out.to_result() | no_list(settings)), *_listed(rejects)]
    return CompareReport("classify", subject, compared, shown, notes, left_out, rejects), predicted


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """The verb: score, print the table, and write the folder of --output."""
    with report_folder(settings.output if is_main_process() else None) as folder:
        return _run(settings, folder)


def _run(settings: EvaluateSettings, folder: RunFolder | None) -> dict[str, Any]:
    """The work of `run`; `folder` is that of --output, or None."""
    began = time.perf_counter()
    main = is_main_process()
    report, predicted = evaluate_task(settings)
    result = {
        "command": "evaluate",
        "task": report.subject,
        "wall_seconds": time.perf_counter() - began,
        **report.left_out.to_result(),
        "models": [
            {
                "model": one.name,
                "test": classification_metrics(own, seed=settings.seed),
                "differences": dict(one.differences),
            }
            for one, own in zip(report.runs, predicted, strict=True)
        ],
    }
    print_compare(report, Console(quiet=settings.json or not main))
    if folder:
        from domain_ft.verbs.shared.comparison_page import render_compare  # matplotlib is slow to import

        if report.rejects:
            folder.write_lines(folder.rejects, map(dataclasses.asdict, report.rejects))
        folder.write_report(render_compare(report))
        folder.write_result(result)
    return result


def _listed(rejects: Sequence[Reject]) -> list[str]:
    """Notes on the first records that were left out, because without --output there is no rejects.jsonl."""
    notes = [
        f"Left out: {one.file}" + ("" if one.line is None else f", line {one.line}") + f": {one.reason}."
        for one in rejects[:_LISTED]
    ]
    if len(rejects) > _LISTED:
        notes.append(f"And {len(rejects) - _LISTED:,} more; --output DIR lists all of them in rejects.jsonl.")
    return notes


def _examples(
    settings: EvaluateSettings, first: Path, facts: TaskFacts, display: ProgressDisplay
) -> tuple[str, Examples, LeftOut, list[Reject]]:
    """A task's test examples, split as in the first run, or the examples of a file.

    Returns:
        The name of the examples, the examples, what was not read from them, and the records that could not be read.

    Raises:
        CorpusError: there is no usable example, or a label is not among the classes of the first run.
    """
    trained = ClassifySettings.from_toml(first / "config.toml")
    rejects: list[Reject] = []
    if settings.task:
        source = TaskSource(
            task=settings.task,
            validation_fraction=trained.validation_fraction,
            test_fraction=trained.test_fraction,
            on_bad_record=settings.on_bad_record,
            encoding=settings.encoding,
        )
        data = open_task(source, rejects=rejects.append, progress=display.job)
        examples: Examples = data.splits["test"]
        left_out = data.left_out
        unknown = sorted(set(data.labels.names) - set(facts.labels))
    else:
        found = places(str(settings.test))
        place = found.get("test", found["train"])
        table = tabulate(
            place.content,
            place.read,
            ExampleFields(
                FieldNames(**facts.fields),
                multi_label=facts.multi_label,
                rules=TaskSource.of(trained).label_rules,
                known=facts.labels,
            ),
            on_bad_record=settings.on_bad_record,
            encoding=settings.encoding,
            rejects=rejects.append,
            progress=display.job,
            label=f"reading {place.name}",
        )
        examples, unknown = table, sorted(set(table.facts.counts) - set(facts.labels))
        left_out = LeftOut(len(rejects), Counter(table.facts.unread_fields), list(place.unread))
    if not len(examples):
        raise CorpusError("there is no usable example", where=settings.task or settings.test)
    if unknown:
        raise CorpusError(
            f"{counted(len(unknown), 'label is', 'labels are')} not among the classes of '{first}': {listed(unknown)}",
            where=settings.task or settings.test,
            fix=f"the classes of the run are {listed(facts.labels)}",
        )
    return str(settings.task or settings.test), examples, left_out, rejects


def _predict(
    run: Path, facts: TaskFacts, examples: Examples, machine: Machine, display: ProgressDisplay
) -> Predictions:
    """The predictions of a run's model for the examples."""
    model = load_task_run(run, device=machine.device, dtype=machine.weights_dtype(facts.method))
    rows = encode(
        examples,
        model.labels,
        model.tokenizer,
        max_length=facts.max_length,
        long_text=facts.long_text,
        progress=display.job,
    )
    with machine.accelerator.autocast():
        logits = predict_logits(
            model,
            rows,
            tokens_per_micro_batch=TOKENS_PER_MICRO_BATCH,
            accelerator=machine.accelerator,
            progress=display.job,
            label=str(run),
        )
    predictions = Predictions.of(examples, model.labels, logits)
    return dataclasses.replace(predictions, temperature=facts.temperature, threshold=facts.threshold)
