"""`domain-ft instruct`: train a decoder to answer, and measure what it gained and forgot.

conversations -> rendered -> rows of tokens -> score and answer before -> train -> score and answer after -> run folder

run = domain_ft.instruct(InstructSettings(data="questions.jsonl"))
run.result["after"]["test"]["loss"], run.model
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from domain_ft.corpus.left_out import sentences
from domain_ft.corpus.naming import name_of
from domain_ft.evaluation.answers import AnswerScores, answer_differences
from domain_ft.evaluation.bootstrap import difference
from domain_ft.models.generation import Generated
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.instruct.prepare import InstructJob, set_up
from domain_ft.verbs.instruct.report import ConversationFacts, InstructReport
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.instruct.terminal import print_instruct
from domain_ft.verbs.shared import runs
from domain_ft.verbs.shared.answering import answer, scored, side_by_side
from domain_ft.verbs.shared.facts import CorpusFacts
from domain_ft.verbs.shared.text_runs import Measured, add_trainable, measure_and_train, summaries, training_facts
from domain_ft.wording import counted


@dataclass(frozen=True)
class InstructRun(runs.FinishedRun[InstructReport, PreTrainedModel]):
    """A finished run.

    Attributes:
        tokenizer: the model's tokenizer, with the chat template.
    """

    tokenizer: PreTrainedTokenizerBase


def instruct(settings: InstructSettings) -> InstructRun:
    """Train a model to answer, and measure it before and after; everything is in the run folder when this returns.

    Raises:
        UserError: an error that the user can fix.
        Interrupted: ctrl-C or SIGTERM during training. A checkpoint is written; `resume=True` continues from it.
    """
    began = time.perf_counter()
    with runs.started(settings, output_folder(settings)) as (folder, machine, display):
        job = set_up(runs.as_started(settings, folder), machine, display)
        runs.resolve_config(job.settings, _provenance(job), folder, machine, sources=("model", "data"))
        log_notes(job, display)
        measured = measure_and_train(
            job,
            folder,
            display,
            lambda when: answer(job.base, job.questions, job.template, job.settings, machine, when, display),
        )
        report = _report(job, folder, measured, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report)
    return InstructRun(folder.path, report, job.base.model, job.base.tokenizer)


def run(settings: InstructSettings) -> dict[str, Any]:
    """The verb: train and print the table, or with --dry-run print the plan."""
    return runs.run_or_plan(settings, instruct, _plan, print_instruct)


def output_folder(settings: InstructSettings) -> Path:
    """--output, or runs/DATA-MODEL."""
    return runs.output_folder(settings, name_of(settings.data))


def log_notes(job: InstructJob, display: ProgressDisplay) -> None:
    """Print what the user should know before training starts."""
    for note in (*job.base.notes, *job.data.notes):
        display.say(f"note: {note}")
    if job.template.is_plain:
        display.say("note: the model has no chat template; a plain one is used and saved with the run")
    dropped, cut = job.dropped, int(job.train_rows.cut.sum())
    if dropped:
        display.warn(
            f"{counted(len(dropped), 'conversation is', 'conversations are')} left out of training and measurement, "
            f"such as {dropped[0].place}: {dropped[0].reason}"
        )
    if cut:
        share = cut / len(job.train_rows)
        display.say(
            f"note: the end of {counted(cut, 'conversation')} ({share:.0%}) is cut at --max-length "
            f"{job.settings.max_length}"
        )
    for sentence in sentences(job.left_out.to_result()):
        display.warn(sentence)
    if job.settings.generate_examples and not job.questions:
        display.say("note: no test prompt leaves room for an answer, so no answers are compared")
    longer = len(job.questions) - job.references_within_limit
    if longer:
        display.say(
            f"note: {longer:,} of the {len(job.questions):,} reference answers are longer than --max-new-tokens "
            f"{job.settings.max_new_tokens}, where the models' answers are cut"
        )


def _report(
    job: InstructJob,
    folder: RunFolder,
    measured: Measured[list[Generated]],
    wall_seconds: float,
) -> InstructReport:
    """All results, as plain values."""
    settings, base = job.settings, job.base
    differences = {
        role: difference(measured.before[role], measured.after[role], seed=settings.seed) for role in measured.before
    }
    answers: list[AnswerScores] = []
    if job.questions:
        answers = [scored(job.questions, one) for one in (measured.samples_before, measured.samples_after)]
        differences["answers"] = answer_differences(answers[0], answers[1], seed=settings.seed)
    before, after = (
        summaries(scores) | {"answers": answers[place].summary(seed=settings.seed) if answers else None}
        for place, scores in enumerate((measured.before, measured.after))
    )
    result = {
        "command": "instruct",
        "model": base.name,
        "objective": job.objective.name,
        "method": settings.method,
        "device": job.machine.device.type,
        "kernels": job.machine.kernels,
        "data": job.data.name,
        "format": job.data.format,
        "examples": {
            "train": len(job.train_rows),
            "test": len(job.held_out["test"].rows.lengths),
            "rejected": len(job.rejects),
            "dropped": len(job.dropped),
            "cut": int(job.train_rows.cut.sum()),
        },
        **job.left_out.to_result(),
        "template": "plain" if job.template.is_plain else "model",
        **training_facts(job, measured.state, wall_seconds),
        "tokens_trained": job.learned_tokens(measured.state.step),
        "before": before,
        "after": after,
        "references_within_limit": job.references_within_limit,
        "differences": differences,
    }
    return InstructReport(
        result=result,
        base=runs.base_facts(base),
        data=ConversationFacts.of(job.data),
        control=CorpusFacts.of(job.control) if job.control else None,
        differences=differences,
        settings=settings.to_dict(),
        provenance=_provenance(job),
        metrics=folder.read_metrics(),
        answers=(
            side_by_side(job.questions, measured.samples_before, measured.samples_after) if settings.examples else ()
        ),
    )


def _provenance(job: InstructJob) -> dict[str, Any]:
    """The provenance of the run: versions, machine, and the exact model and data."""
    sources: dict[str, Any] = {"data": {"name": job.data.name, "content": job.data.key}}
    if job.control:
        sources["control"] = {"name": job.control.name, "content": job.control.key}
    return runs.origin(job.machine, job.base, **sources)


def _write(job: InstructJob, folder: RunFolder, report: InstructReport) -> None:
    """Write the adapter or model with the template, the answers, the card and the page, and result.json last."""
    from domain_ft.verbs.instruct import card, page  # matplotlib is slow to import, so not before training

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
    folder.write_card(card.render_instruct(report))
    folder.write_report(page.render_instruct(report))
    folder.write_result(report.result)


def _plan(settings: InstructSettings) -> dict[str, Any]:
    """Check and prepare everything that `instruct` needs, and return what it would do."""
    with runs.planning(settings, output_folder(settings)) as (machine, display):
        job = set_up(settings, machine, display)
        log_notes(job, display)
        add_trainable(job)
    return {
        "command": "instruct",
        "dry_run": True,
        "model": job.base.name,
        "objective": job.objective.name,
        "device": machine.device.type,
        "kernels": machine.kernels,
        "format": job.data.format,
        "examples": {"train": len(job.train_rows), "test": len(job.held_out["test"].rows.lengths)},
        **job.left_out.to_result(),
        "steps": job.loop.total_steps,
        "tokens": job.planned_tokens,
        "tokens_trained": job.learned_tokens(job.loop.total_steps),
        "trainable_parameters": job.trainable_parameters,
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
