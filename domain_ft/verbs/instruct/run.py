"""`domain-ft instruct`: learn to answer from examples, with proof of what it gained and what it forgot.

conversations -> rendered -> rows of tokens -> score and answer before -> train -> score and answer after -> run folder

run = domain_ft.instruct(InstructSettings(data="questions.jsonl"))
run.result["after"]["test"]["loss"], run.model
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.left_out import sentences
from domain_ft.corpus.naming import name_of
from domain_ft.evaluation.answers import AnswerScores, answer_differences
from domain_ft.evaluation.bootstrap import difference
from domain_ft.evaluation.scores import Scores
from domain_ft.models.generation import Generated, Sampling, generate
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.instruct.prepare import ANSWERED_AT_ONCE, InstructJob, Question, set_up
from domain_ft.verbs.instruct.report import AnswerPair, ConversationFacts, InstructReport
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.instruct.terminal import print_instruct
from domain_ft.verbs.shared.facts import CorpusFacts
from domain_ft.verbs.shared.machine import choose_machine
from domain_ft.verbs.shared.runs import (
    as_started,
    base_facts,
    console_of,
    default_folder,
    origin,
    print_paths,
    print_plan,
    resolve_config,
    started,
    write_model,
)
from domain_ft.verbs.shared.text_runs import add_trainable, measure, summaries, train_with_curve, training_facts
from domain_ft.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class InstructRun:
    """A finished run.

    Attributes:
        folder: the run folder.
        report: all that was found out; `result` is what result.json holds of it.
        model: the model that was taught, ready to use.
        tokenizer: its tokenizer, with the chat template.
    """

    folder: Path
    report: InstructReport
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's result.json."""
        return self.report.result


def instruct(settings: InstructSettings) -> InstructRun:
    """Teach a model and measure it before and after; everything is in the run folder when this returns.

    Raises:
        UserError: something that the user can mend; nothing is lost.
        Interrupted: ctrl-C or SIGTERM; a checkpoint is written, and `resume=True` goes on from it.
    """
    began = time.perf_counter()
    with started(settings, output_folder(settings)) as (folder, machine, display):
        job = set_up(as_started(settings, folder), machine, display)
        resolve_config(job.settings, _provenance(job), folder, machine, sources=("model", "data"))
        log_notes(job, display)
        before = measure(job, folder, "before", display)
        said_before = _answer(job, "before", display)
        add_trainable(job)
        state = train_with_curve(job, folder, display)
        after = measure(job, folder, "after", display)
        said_after = _answer(job, "after", display)
        report = _report(job, folder, (before, after), (said_before, said_after), state, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report)
    return InstructRun(folder.path, report, job.base.model, job.base.tokenizer)


def run(settings: InstructSettings) -> dict[str, Any]:
    """The verb: teach, or say what would be done; print the table."""
    if settings.dry_run:
        return _dry_run(settings)
    finished = instruct(settings)
    console = console_of(settings)
    print_instruct(finished.report, console)
    print_paths(finished.folder, console)
    return dict(finished.result)


def output_folder(settings: InstructSettings) -> Path:
    """--output, or runs/DATA-MODEL by the last parts of their names."""
    if settings.output:
        return settings.output
    return default_folder(name_of(settings.data), name_of(settings.model))


def log_notes(job: InstructJob, display: ProgressDisplay) -> None:
    """What a person should know before the numbers come."""
    for note in (*job.base.notes, *job.data.notes):
        display.say(f"note: {note}")
    if job.template.is_plain:
        display.say("note: the model has no chat template; a plain one is used, and kept with the run")
    dropped, cut = job.dropped, int(job.train_rows.cut.sum())
    if dropped:
        display.warn(
            f"{counted(len(dropped), 'conversation is', 'conversations are')} neither trained on nor "
            f"measured, such as {dropped[0].place}: "
            f"{dropped[0].reason}"
        )
    if cut:
        share = cut / len(job.train_rows)
        display.say(
            f"note: {counted(cut, 'conversation is', 'conversations are')} ({share:.0%}) "
            f"longer than --max-length {job.settings.max_length}: the "
            "end is cut"
        )
    for sentence in sentences(job.left_out.to_result()):
        display.warn(sentence)
    unasked = job.settings.generate_examples and not job.questions
    if unasked:
        display.say("note: no test prompt leaves room for an answer, so none is written")
    longer = len(job.questions) - job.references_within_limit
    if longer:
        display.say(
            f"note: {longer:,} of the {len(job.questions):,} reference answers are longer than --max-new-tokens "
            f"{job.settings.max_new_tokens}, at which answers are cut"
        )


def _answer(job: InstructJob, when: str, display: ProgressDisplay) -> list[Generated]:
    """What the model as it is now says to the questions: the likeliest, so that it says the same each time."""
    if not job.questions:
        return []
    with job.machine.accelerator.autocast():
        return generate(
            job.base,
            [question.prompt for question in job.questions],
            Sampling.of(job.settings),
            stop_tokens=job.template.stop_tokens,
            batch_size=ANSWERED_AT_ONCE,
            progress=lambda _, done, total: display.job(f"{when}: answering", done, total),
        )


def _report(
    job: InstructJob,
    folder: RunFolder,
    measured: tuple[Mapping[str, Scores], Mapping[str, Scores]],
    said: tuple[Sequence[Generated], Sequence[Generated]],
    state: TrainingState,
    wall_seconds: float,
) -> InstructReport:
    """All that the run has found out, as plain values; `measured` and `said` are before and after."""
    settings, base = job.settings, job.base
    answers = [_scored(job.questions, one) for one in said] if job.questions else [None, None]
    differences = {role: difference(*(one[role] for one in measured), seed=settings.seed) for role in measured[0]}
    if answers[0] and answers[1]:
        differences["answers"] = answer_differences(answers[0], answers[1], seed=settings.seed)
    before, after = (
        summaries(own) | {"answers": scored.summary(seed=settings.seed) if scored else None}
        for own, scored in zip(measured, answers, strict=True)
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
        **training_facts(job, state, wall_seconds),
        "tokens_trained": job.learned_tokens(state.step),
        "before": before,
        "after": after,
        "references_within_limit": job.references_within_limit,
        "differences": differences,
    }
    return InstructReport(
        result=result,
        base=base_facts(base),
        data=ConversationFacts.of(job.data),
        control=CorpusFacts.of(job.control) if job.control else None,
        differences=differences,
        settings=settings.to_dict(),
        provenance=_provenance(job),
        metrics=folder.read_metrics(),
        answers=_pairs(job.questions, *said) if settings.examples else (),
    )


def _scored(questions: Sequence[Question], said: Sequence[Generated]) -> AnswerScores:
    return AnswerScores.of(
        [one.text for one in said],
        [question.reference for question in questions],
        tokens=[one.tokens for one in said],
        stopped=[one.stopped for one in said],
    )


def _pairs(questions: Sequence[Question], before: Sequence[Generated], after: Sequence[Generated]) -> list[AnswerPair]:
    return [
        AnswerPair(
            question.id,
            question.asked,
            question.reference,
            first.text,
            second.text,
            stopped=(first.stopped, second.stopped),
        )
        for question, first, second in zip(questions, before, after, strict=True)
    ]


def _provenance(job: InstructJob) -> dict[str, Any]:
    """Where the numbers come from: versions, machine, and what exactly was read and trained."""
    read: dict[str, Any] = {"data": {"name": job.data.name, "content": job.data.key}}
    if job.control:
        read["control"] = {"name": job.control.name, "content": job.control.key}
    return origin(job.machine, job.base, **read)


def _write(job: InstructJob, folder: RunFolder, report: InstructReport) -> None:
    """The adapter with the template, the page, the card and the answers, and last of all result.json."""
    from domain_ft.verbs.instruct import card, page  # they import matplotlib: not before the first step

    base = job.base
    if job.template.is_plain:
        base.tokenizer.chat_template = job.template.text
    with folder.writing():
        if job.settings.method == "full":
            base.model.generation_config.eos_token_id = list(job.template.stop_tokens)
        write_model(base, job.settings.method, folder, "CAUSAL_LM")
        if job.settings.method != "full":
            base.tokenizer.save_pretrained(folder.adapter)
    if job.all_rejects:
        folder.write_lines(folder.rejects, map(dataclasses.asdict, job.all_rejects))
    if report.answers:
        folder.write_lines(folder.path / "answers.jsonl", map(dataclasses.asdict, report.answers))
    folder.write_card(card.render_instruct(report))
    folder.write_report(page.render_instruct(report))
    folder.write_result(report.result)


def _dry_run(settings: InstructSettings) -> dict[str, Any]:
    """Check and prepare everything that `instruct` would, and say what it would do."""
    RunFolder(output_folder(settings)).check(resume=settings.resume)
    machine = choose_machine(settings, sharding=settings.sharding)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        job = set_up(settings, machine, display)
        log_notes(job, display)
        add_trainable(job)
    planned = {
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
    print_plan(planned, settings, machine)
    return planned
