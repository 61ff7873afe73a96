"""`domain-ft instruct`: learn to answer from examples, with proof of what it gained and what it forgot.

conversations -> rendered -> rows of tokens -> score and answer before -> train -> score and answer after -> run folder

run = domain_ft.instruct(InstructSettings(data="questions.jsonl"))
run.result["after"]["test"]["loss"], run.model
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from domain_ft.evaluation.answers import AnswerScores, answer_differences
from domain_ft.evaluation.bootstrap import difference
from domain_ft.evaluation.scores import Scores
from domain_ft.models import embedded
from domain_ft.models.export import export_merged
from domain_ft.models.generation import Generated, Sampling, generate
from domain_ft.models.peft_format import save_adapter
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.report.data import BaseFacts, CorpusFacts
from domain_ft.report.instruct_data import AnswerPair, ConversationFacts, InstructReport
from domain_ft.report.run_folder import RunFolder
from domain_ft.report.terminal import print_instruct
from domain_ft.settings import InstructSettings
from domain_ft.storage import write_atomic
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import over_ranks, peak_memory_bytes
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.instruct_job import ANSWERED_AT_ONCE, Job, Question, add_trainable, curve_tokens, set_up
from domain_ft.verbs.language_model import score_held_out
from domain_ft.verbs.machine import choose_machine, is_main_process, provenance
from domain_ft.verbs.training import (
    as_started,
    settle_config,
    tracked,
    train_into,
)

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


# --- The run ----------------------------------------------------------------------------------------------------------


def instruct(settings: InstructSettings) -> InstructRun:
    """Teach a model and measure it before and after; everything is in the run folder when this returns.

    Raises:
        UserError: something that the user can mend; nothing is lost.
        Interrupted: ctrl-C or SIGTERM; a checkpoint is written, and `resume=True` goes on from it.
    """
    began = time.perf_counter()
    folder = RunFolder(output_folder(settings))
    machine = choose_machine(settings, sharding=settings.sharding, track=settings.track, project=folder.path)
    with machine.main_first():
        if machine.is_main:
            folder = RunFolder.create(folder.path, resume=settings.resume)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        job = set_up(as_started(settings, folder), machine, display)
        settle_config(job.settings, _provenance(job), folder, machine, sources=("model", "data"))
        _say_what_is_odd(job, display)
        before = _measure(job, folder, "before", display)
        said_before = _answer(job, "before", display)
        add_trainable(job)
        state = _train(job, folder, display)
        after = _measure(job, folder, "after", display)
        said_after = _answer(job, "after", display)
        report = _report(job, folder, (before, after), (said_before, said_after), state, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report)
        machine.accelerator.wait_for_everyone()
    return InstructRun(folder.path, report, job.base.model, job.base.tokenizer)


def run(settings: InstructSettings) -> dict[str, Any]:
    """The verb: teach, or say what would be done; print the table."""
    if settings.dry_run:
        return _dry_run(settings)
    finished = instruct(settings)
    console = Console(quiet=settings.json or not is_main_process())
    print_instruct(finished.report, console)
    console.print(f"\nrun folder: {finished.folder}", highlight=False, soft_wrap=True)
    console.print(f"report:     {finished.folder / 'report.html'}", highlight=False, soft_wrap=True)
    return dict(finished.result)


def output_folder(settings: InstructSettings) -> Path:
    """--output, or runs/DATA-MODEL by the last parts of their names."""
    if settings.output:
        return settings.output
    data, model = (re.sub(r"[^\w.-]+", "-", Path(name).name) for name in (settings.data, settings.model))
    return Path("runs") / f"{data.split('.')[0]}-{model}"


def _say_what_is_odd(job: Job, display: ProgressDisplay) -> None:
    """What a person should know before the numbers come."""
    for note in (*job.base.notes, *job.data.notes):
        display.say(f"note: {note}")
    if job.template.is_plain:
        display.say("note: the model has no chat template; a plain one is used, and kept with the run")
    dropped, cut = len(job.train_rows.dropped), int(job.train_rows.cut.sum())
    if dropped:
        first = job.train_rows.dropped[0]
        display.warn(f"{dropped:,} conversations are not trained on, such as {first.place}: {first.reason}")
    if cut:
        share = cut / len(job.train_rows)
        display.say(
            f"note: {cut:,} conversations ({share:.0%}) are longer than --max-length {job.settings.max_length}: their "
            "end is cut"
        )
    if job.rejects:
        display.warn(f"{len(job.rejects):,} records could not be read; rejects.jsonl lists them")
    unasked = job.settings.generate_examples and not job.questions
    if unasked:
        display.say("note: no test prompt leaves room for an answer, so none is written")


def _measure(job: Job, folder: RunFolder, when: str, display: ProgressDisplay) -> dict[str, Scores]:
    """The scores of the model as it is now, by role; those of a resumed run's base are read, not made again."""
    scores = {}
    for role, held_out in job.held_out.items():
        path = folder.scores(when, role)
        if when == "before" and job.settings.resume and path.is_file():
            scores[role] = Scores.load(path)
            continue
        scores[role] = score_held_out(
            job.base,
            job.objective if role == "test" else CausalLM(kernels=job.machine.kernels),
            held_out,
            job.machine,
            tokens_per_pass=job.loop.tokens_per_pass,
            progress=display.job,
            label=f"{when}: {held_out.name}",
        )
        if job.machine.is_main:
            folder.write_scores(path, scores[role])
    return scores


def _answer(job: Job, when: str, display: ProgressDisplay) -> list[Generated]:
    """What the model as it is now says to the questions: the likeliest, so that it says the same each time."""
    if not job.questions:
        return []
    with job.machine.accelerator.autocast():
        return generate(
            job.base,
            [question.prompt for question in job.questions],
            Sampling(max_new_tokens=job.settings.max_new_tokens),
            stop_tokens=job.template.stop_tokens,
            batch_size=ANSWERED_AT_ONCE,
            progress=lambda _, done, total: display.job(f"{when}: answering", done, total),
        )


def _train(job: Job, folder: RunFolder, display: ProgressDisplay) -> TrainingState:
    test = job.held_out["test"]
    curve = dataclasses.replace(test, selected=test.rows.select_documents(curve_tokens(job.settings)))

    def point() -> dict[str, Any]:
        scores = score_held_out(job.base, job.objective, curve, job.machine, tokens_per_pass=job.loop.tokens_per_pass)
        return {"test": scores.summary()}

    with tracked(job.settings, job.machine):
        return train_into(
            folder,
            job.base,
            job.objective,
            job.train_rows,
            job.loop,
            job.machine,
            display,
            resume=job.settings.resume,
            evaluate=point,
        )


# --- Afterwards -------------------------------------------------------------------------------------------------------


def _report(
    job: Job,
    folder: RunFolder,
    measured: tuple[Mapping[str, Scores], Mapping[str, Scores]],
    said: tuple[Sequence[Generated], Sequence[Generated]],
    state: TrainingState,
    wall_seconds: float,
) -> InstructReport:
    """All that the run has found out, as plain values; `measured` and `said` are before and after."""
    settings, base = job.settings, job.base
    parameters = list(base.model.parameters())
    answers = [_scored(job.questions, one) for one in said] if job.questions else [None, None]
    differences = {role: difference(*(one[role] for one in measured), seed=settings.seed) for role in measured[0]}
    if answers[0] and answers[1]:
        differences["answers"] = answer_differences(answers[0], answers[1], seed=settings.seed)
    before, after = (
        {role: scores.summary() for role, scores in own.items()}
        | ({} if "control" in own else {"control": None})
        | {"answers": scored.summary(seed=settings.seed) if scored else None}
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
            "dropped": len(job.train_rows.dropped),
            "cut": int(job.train_rows.cut.sum()),
        },
        "template": "plain" if job.template.is_plain else "model",
        "tokens_seen": state.tokens,
        "tokens_trained": job.learned_tokens(state.step),
        "steps": state.step,
        "wall_seconds": wall_seconds,
        "training_seconds": state.seconds,
        "tokens_per_second": state.tokens / state.seconds,
        "peak_memory_bytes": max(over_ranks(job.machine.accelerator, peak_memory_bytes()))[0],
        "tokens_per_pass": state.tokens_per_pass,
        "activation_checkpointing": state.activation_checkpointing,
        "processes": job.machine.processes,
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "total_parameters": sum(p.numel() for p in parameters),
        "before": before,
        "after": after,
        "differences": differences,
    }
    return InstructReport(
        result=result,
        base=BaseFacts(
            name=base.name,
            source=base.source,
            revision=base.revision,
            embedded=base.name in embedded.EMBEDDED,
            licence=embedded.provenance(base.name)["licence"] if base.name in embedded.EMBEDDED else "",
        ),
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


def _provenance(job: Job) -> dict[str, Any]:
    """Where the numbers come from: versions, machine, and what exactly was read and trained."""
    return provenance(job.machine) | {
        "model": {"source": job.base.source, "revision": job.base.revision},
        "data": {"name": job.data.name, "content": job.data.key},
        **({"control": {"name": job.control.name, "content": job.control.key}} if job.control else {}),
    }


def _write(job: Job, folder: RunFolder, report: InstructReport) -> None:
    """The adapter with the template, the page, the card and the answers, and last of all result.json."""
    from domain_ft.report import card, html  # they bring matplotlib, for which the first step need not wait

    base = job.base
    if job.template.is_plain:
        base.tokenizer.chat_template = job.template.text
    with folder.writing():
        if job.settings.method == "full":
            base.model.generation_config.eos_token_id = list(job.template.stop_tokens)
            export_merged(base, folder.path / "model")
        else:
            save_adapter(
                base.model, folder.adapter, base_name=base.source, revision=base.revision, task_type="CAUSAL_LM"
            )
            base.tokenizer.save_pretrained(folder.adapter)
        if job.rejects:
            _write_lines(folder.rejects, [dataclasses.asdict(reject) for reject in job.rejects])
        if report.answers:
            _write_lines(folder.path / "answers.jsonl", [dataclasses.asdict(pair) for pair in report.answers])
    folder.write_card(card.render_instruct(report))
    folder.write_report(html.render_instruct(report))
    folder.write_result(report.result)


def _write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _dry_run(settings: InstructSettings) -> dict[str, Any]:
    """Check and prepare everything that `instruct` would, and say what it would do."""
    machine = choose_machine(settings, sharding=settings.sharding)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        job = set_up(settings, machine, display)
        _say_what_is_odd(job, display)
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
        "steps": job.loop.total_steps,
        "tokens": round(job.loop.total_steps * job.train_rows.tokens / job.steps_per_epoch),
        "tokens_trained": job.learned_tokens(job.loop.total_steps),
        "trainable_parameters": sum(p.numel() for p in job.base.model.parameters() if p.requires_grad),
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
    if not settings.json and machine.is_main:
        Console().print_json(data=planned)
    return planned
