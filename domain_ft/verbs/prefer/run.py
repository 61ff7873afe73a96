"""`domain-ft prefer`: train a decoder on preferences, and measure whether its answers got better or only longer.

preferences -> rendered -> rows of two answers -> reference -> score before -> train -> score after -> run folder

run = domain_ft.prefer(PreferSettings(data="pairs.jsonl", model="runs/taught"))
run.result["after"]["test"]["accuracy"], run.model
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from domain_ft.corpus.left_out import sentences
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.packing import Rows
from domain_ft.corpus.preferences.examples import PreferenceExample
from domain_ft.corpus.preferences.rows import PreferenceRows
from domain_ft.evaluation.answers import answer_differences
from domain_ft.evaluation.bootstrap import difference
from domain_ft.evaluation.preferences import PreferenceScores, both_fell, preference_differences
from domain_ft.evaluation.scores import Scores
from domain_ft.models.generation import Generated
from domain_ft.objectives.preference.answers import Reference
from domain_ft.progress import Progress
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.prefer import losses
from domain_ft.verbs.prefer.measuring import kl_to_reference, reference_states, scores_of
from domain_ft.verbs.prefer.prepare import PreferJob, set_up
from domain_ft.verbs.prefer.reference import ReferenceValues, cache_file, prove, reference_values, row_values
from domain_ft.verbs.prefer.report import PreferenceFacts, PreferReport
from domain_ft.verbs.prefer.settings import PreferSettings
from domain_ft.verbs.prefer.terminal import print_prefer
from domain_ft.verbs.shared import runs
from domain_ft.verbs.shared.answering import answer, scored, side_by_side
from domain_ft.verbs.shared.facts import CorpusFacts
from domain_ft.verbs.shared.text_runs import CURVE_SHARE, add_trainable, measure, summaries, training_facts
from domain_ft.verbs.shared.training import tracked, train_into
from domain_ft.wording import counted


@dataclass(frozen=True)
class PreferRun(runs.FinishedRun[PreferReport, PreTrainedModel]):
    """A finished run.

    Attributes:
        tokenizer: the model's tokenizer, with the chat template.
    """

    tokenizer: PreTrainedTokenizerBase


def prefer(settings: PreferSettings) -> PreferRun:
    """Train a model on preferences, and measure it before and after; everything is in the run folder when this returns.

    Raises:
        UserError: an error that the user can fix.
        Interrupted: ctrl-C or SIGTERM during training. A checkpoint is written; `resume=True` continues from it.
    """
    began = time.perf_counter()
    with runs.started(settings, output_folder(settings)) as (folder, machine, display):
        job = set_up(runs.as_started(settings, folder), machine, display)
        runs.resolve_config(job.settings, _provenance(job), folder, machine, sources=("model", "data"))
        log_notes(job, display)
        measured = _measure_and_train(job, folder, display)
        report = _report(job, folder, measured, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report)
    return PreferRun(folder.path, report, job.base.model, job.base.tokenizer)


def run(settings: PreferSettings) -> dict[str, Any]:
    """The verb: train and print the table, or with --dry-run print the plan."""
    return runs.run_or_plan(settings, prefer, _plan, print_prefer)


def output_folder(settings: PreferSettings) -> Path:
    """--output, or runs/DATA-MODEL."""
    return runs.output_folder(settings, name_of(settings.data))


def log_notes(job: PreferJob, display: ProgressDisplay) -> None:
    """Print what the user should know before training starts."""
    for note in (*job.base.notes, *job.data.notes):
        display.say(f"note: {note}")
    margins = sum(isinstance(one, PreferenceExample) and one.margin is not None for one in job.data.train)
    if margins:
        display.say(f"note: {counted(margins, 'pair has', 'pairs have')} a margin, which no loss of prefer uses")
    if job.template.is_plain:
        display.say("note: the model has no chat template; a plain one is used and saved with the run")
    if job.dropped:
        display.warn(
            f"{counted(len(job.dropped), 'example is', 'examples are')} left out of training and measurement, such as "
            f"{job.dropped[0].place}: {job.dropped[0].reason}"
        )
    if job.cut:
        display.say(
            f"note: {counted(job.cut, 'training example')} ({job.cut / len(job.train_rows):.0%}) have an answer whose "
            f"end is cut at --max-length {job.settings.max_length}: the model does not see how it ends"
        )
    for sentence in sentences(job.left_out.to_result()):
        display.warn(sentence)
    if job.settings.generate_examples and not job.questions:
        display.say("note: no test prompt leaves room for an answer, so no answers are compared")


@dataclass(frozen=True)
class _Measured:
    """The measurements of a run.

    Attributes:
        before, after: the scores of the test rows.
        control: the losses on the control corpus before and after, by role; empty without a control.
        answers: the answers to the test prompts before and after.
        reference: how the reference's log-probabilities were found, and the largest log-ratio before training.
        kl: KL(π ‖ π_ref) after training, in nats per token.
        state: the final training state.
    """

    before: PreferenceScores
    after: PreferenceScores
    control: tuple[dict[str, Scores], dict[str, Scores]]
    answers: tuple[list[Generated], list[Generated]]
    reference: dict[str, Any]
    kl: float
    state: TrainingState


def _measure_and_train(job: PreferJob, folder: RunFolder, display: ProgressDisplay) -> _Measured:
    """Compute the reference, score the base model, train it, and score it again."""
    machine = job.machine
    test, train = _references(job, display)
    reference = test.values[job.selected]
    before, states = scores_of(job, reference, reference), reference_states(job)
    control_before = measure(job, folder, "before", display)
    answers_before = _answer(job, "before", display)
    add_trainable(job)
    proved = prove(
        test.values,
        job.base,
        job.test_objective,
        job.test_rows,
        job.selected,
        machine,
        tokens_per_micro_batch=job.loop.tokens_per_micro_batch,
        file=test.file,
    )
    state = _train(job, folder, train.values if train else None, test.values, display)
    after = scores_of(job, _test_values(job, display.job), reference)
    return _Measured(
        before,
        after,
        (control_before, measure(job, folder, "after", display)),
        (answers_before, _answer(job, "after", display)),
        {
            "rows": test.rows + (train.rows if train else 0),
            "reused": test.reused + (train.reused if train else 0),
            "largest_log_ratio_before": proved,
        },
        kl_to_reference(job, states),
        state,
    )


def _references(job: PreferJob, display: ProgressDisplay) -> tuple[ReferenceValues, ReferenceValues | None]:
    """The reference's log-probabilities of the selected test rows, and of the training rows if the loss reads them."""
    settings, machine = job.settings, job.machine
    size = job.loop.tokens_per_micro_batch

    def values(objective: losses.PreferenceObjective, rows: PreferenceRows, selected: Rows) -> ReferenceValues:
        return reference_values(
            file, job.base, objective, rows, selected, machine, display, tokens_per_micro_batch=size
        )

    with machine.main_first():
        file = cache_file(settings.model, job.template.text, machine)
        test = values(job.test_objective, job.test_rows, job.selected)
        if not losses.uses_reference(settings.loss):
            return test, None
        return test, values(job.objective, job.train_rows, np.arange(len(job.train_rows)))


def _train(
    job: PreferJob, folder: RunFolder, values: Reference | None, reference: Reference, display: ProgressDisplay
) -> TrainingState:
    """Train the model, and score some of the test rows every --evaluate-every steps.

    Args:
        values: the reference of the training rows, if the loss reads it.
        reference: that of the test rows.
    """
    objective = dataclasses.replace(job.objective, reference=values)
    some = dataclasses.replace(job, selected=job.selected[: max(1, len(job.selected) // CURVE_SHARE)])

    def point() -> dict[str, Any]:
        scores = scores_of(some, _test_values(some), reference[some.selected])
        summary = scores.summary(seed=job.settings.seed, resamples=1)
        return {"test": {name: summary[name] for name in ("accuracy", "margin", "chosen_log_prob")}}

    with tracked(job.settings, job.machine):
        return train_into(
            folder,
            job.base,
            objective,
            job.train_rows,
            job.loop,
            job.machine,
            display,
            resume=job.settings.resume,
            evaluate=point,
        )


def _test_values(job: PreferJob, progress: Progress | None = None) -> Reference:
    """(selected, 2, 2) log-probabilities of the selected test rows under the model as it is."""
    return row_values(
        job.base,
        job.test_objective,
        job.test_rows,
        job.selected,
        job.machine,
        job.loop.tokens_per_micro_batch,
        label=f"after: {job.data.name}",
        progress=progress,
    )


def _answer(job: PreferJob, when: str, display: ProgressDisplay) -> list[Generated]:
    return answer(job.base, job.questions, job.template, job.settings, job.machine, when, display)


def _report(job: PreferJob, folder: RunFolder, measured: _Measured, wall_seconds: float) -> PreferReport:
    """All results, as plain values."""
    settings, base = job.settings, job.base
    differences: dict[str, Any] = {"test": preference_differences(measured.before, measured.after, seed=settings.seed)}
    if job.control:
        differences["control"] = difference(
            measured.control[0]["control"], measured.control[1]["control"], seed=settings.seed
        )
    answers = [scored(job.questions, one) for one in measured.answers] if job.questions else []
    if answers:
        differences["answers"] = answer_differences(answers[0], answers[1], seed=settings.seed)
    before, after = (
        {"test": scores.summary(seed=settings.seed) | {"kl_per_token": kl}}
        | summaries(measured.control[place])
        | {"answers": answers[place].summary(seed=settings.seed) if answers else None}
        for place, (scores, kl) in enumerate(((measured.before, 0.0), (measured.after, measured.kl)))
    )
    result = {
        "command": "prefer",
        "model": base.name,
        "objective": job.objective.name,
        "method": settings.method,
        "device": job.machine.device.type,
        "kernels": job.machine.kernels,
        "data": job.data.name,
        "format": job.data.format,
        "kind": job.data.kind,
        "examples": {
            "train": len(job.train_rows),
            "test": len(job.test_rows),
            "rejected": len(job.rejects),
            "dropped": len(job.dropped),
            "cut": job.cut,
        },
        **job.left_out.to_result(),
        "template": "plain" if job.template.is_plain else "model",
        **training_facts(job, measured.state, wall_seconds),
        "reference": measured.reference,
        "longer_wins": measured.before.longer_wins,
        "both_fell": both_fell(differences["test"]),
        "before": before,
        "after": after,
        "differences": differences,
    }
    return PreferReport(
        result=result,
        base=runs.base_facts(base),
        data=PreferenceFacts.of(job.data),
        control=CorpusFacts.of(job.control) if job.control else None,
        differences=differences,
        settings=settings.to_dict(),
        provenance=_provenance(job),
        metrics=folder.read_metrics(),
        answers=side_by_side(job.questions, *measured.answers) if settings.examples else (),
    )


def _provenance(job: PreferJob) -> dict[str, Any]:
    """The provenance of the run: versions, machine, and the exact model and data."""
    sources: dict[str, Any] = {"data": {"name": job.data.name, "content": job.data.key}}
    if job.control:
        sources["control"] = {"name": job.control.name, "content": job.control.key}
    return runs.origin(job.machine, job.base, **sources)


def _write(job: PreferJob, folder: RunFolder, report: PreferReport) -> None:
    """Write the adapter or model with the template, the answers, the card and the page, and result.json last."""
    from domain_ft.verbs.prefer import card, page  # templates are not needed before training

    base = job.base
    if job.template.is_plain:
        base.tokenizer.chat_template = job.template.text
    with folder.writing():
        if job.settings.method == "full":
            base.model.generation_config.eos_token_id = list(job.template.stop_tokens)
        runs.write_model(base, job.settings.method, folder, "CAUSAL_LM")
        if job.settings.method != "full":
            base.tokenizer.save_pretrained(folder.adapter)
    if job.all_rejects:
        folder.write_lines(folder.rejects, map(dataclasses.asdict, job.all_rejects))
    if report.answers:
        folder.write_lines(folder.path / "answers.jsonl", map(dataclasses.asdict, report.answers))
    folder.write_card(card.render_prefer(report))
    folder.write_report(page.render_prefer(report))
    folder.write_result(report.result)


def _plan(settings: PreferSettings) -> dict[str, Any]:
    """Check and prepare everything that `prefer` needs, and return what it would do."""
    with runs.planning(settings, output_folder(settings)) as (machine, display):
        job = set_up(settings, machine, display)
        log_notes(job, display)
        add_trainable(job)
    return {
        "command": "prefer",
        "dry_run": True,
        "model": job.base.name,
        "objective": job.objective.name,
        "device": machine.device.type,
        "kernels": machine.kernels,
        "format": job.data.format,
        "examples": {"train": len(job.train_rows), "test": len(job.test_rows)},
        **job.left_out.to_result(),
        "steps": job.loop.total_steps,
        "tokens": job.planned_tokens,
        "trainable_parameters": job.trainable_parameters,
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
