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

from domain_ft.corpus.conversations.reading import ConversationData, ConversationSource, open_conversations
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import ConversationRows, encode_conversations
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.packing import StepPlan
from domain_ft.corpus.prepared import PreparedCorpus, prepare
from domain_ft.corpus.readers.base import Reject
from domain_ft.errors import ModelError
from domain_ft.evaluation.answers import AnswerScores, answer_differences
from domain_ft.evaluation.bootstrap import difference
from domain_ft.evaluation.scores import Scores
from domain_ft.models import embedded
from domain_ft.models.base import BaseModel, load
from domain_ft.models.export import export_merged
from domain_ft.models.generation import Generated, Sampling, generate
from domain_ft.models.peft_format import save_adapter
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.instructions import Instructions
from domain_ft.randomness import derive
from domain_ft.report.data import BaseFacts, CorpusFacts
from domain_ft.report.instruct_data import AnswerPair, ConversationFacts, InstructReport
from domain_ft.report.run_folder import RunFolder
from domain_ft.report.terminal import print_instruct
from domain_ft.settings import InstructSettings
from domain_ft.storage import write_atomic
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import LoopSettings, count_steps, over_ranks, peak_memory_bytes
from domain_ft.training.memory import PassPlan
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.language_model import NO_CONTROL, HeldOut, hold_out, piece_length, score_held_out
from domain_ft.verbs.lineage import adapted_runs
from domain_ft.verbs.machine import Machine, choose_machine, is_main_process, provenance
from domain_ft.verbs.training import (
    alpha_of,
    as_started,
    choose_passes,
    loop_settings,
    make_trainable,
    settle_config,
    tracked,
    train_into,
    trainable_for_now,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EPOCHS = 3.0
LEARNING_RATES = {"lora": 1e-3, "dora": 1e-3, "full": 5e-5}
CURVE_POINTS = 8
CURVE_SHARE = 4  # a point of the curve is measured on so small a part of --evaluation-tokens
CONTROL_FRACTION = 0.05  # of the control corpus, held out as `adapt` does by default
ANSWERED_AT_ONCE = 8


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


@dataclass(frozen=True)
class Question:
    """A test prompt that both models answer.

    Attributes:
        id: of its conversation.
        asked: what the last turn before the answer says.
        prompt: all that the model reads.
        reference: the answer that the data has.
    """

    id: str
    asked: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Job:
    """Everything that a run needs before its first step.

    Attributes:
        settings: with nothing left to a default that depends on the machine, the model or the data.
        machine: where it is computed.
        base: the model; LoRA is not in it yet.
        objective: what is asked of it.
        data: the conversations.
        template: how they are rendered.
        rejects: records that could not be read.
        control: the corpus that forgetting is measured on, if any.
        train_rows: the conversations that are learned from.
        held_out: by role (`test`, `control`), what is scored before and after.
        questions: what both models answer.
        loop: the loop's settings.
        passes: how large a pass is, and why.
    """

    settings: InstructSettings
    machine: Machine
    base: BaseModel
    objective: Instructions
    data: ConversationData
    template: ChatTemplate
    rejects: Sequence[Reject]
    control: PreparedCorpus | None
    train_rows: ConversationRows
    held_out: Mapping[str, HeldOut]
    questions: Sequence[Question]
    loop: LoopSettings
    passes: PassPlan

    @property
    def plan(self) -> StepPlan:
        """Which conversations go into which step."""
        return StepPlan(self.train_rows.lengths, self.settings.tokens_per_step, self.settings.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in which all conversations are read once."""
        return self.plan.steps_per_epoch

    def learned_tokens(self, steps: int) -> int:
        """Tokens that the first `steps` steps ask for."""
        plan, learned = self.plan, self.train_rows.trained_lengths
        epochs, rest = divmod(steps, plan.steps_per_epoch)
        whole = epochs * int(learned.sum(dtype="int64"))
        return whole + sum(
            int(learned[plan.step(epochs * plan.steps_per_epoch + step).rows].sum()) for step in range(rest)
        )


# --- Before the first step --------------------------------------------------------------------------------------------


def set_up(settings: InstructSettings, machine: Machine, display: ProgressDisplay) -> Job:
    """Read the conversations, load the model, and settle every setting that depends on them.

    Raises:
        ModelError: the model is no decoder.
        CorpusError: the data cannot be read, or nothing of it can be learned.
        SettingsError: the processes do not have the same settings, data and model.
    """
    rejects: list[Reject] = []
    with machine.main_first():
        data = open_conversations(ConversationSource.of(settings), rejects=rejects.append, progress=display.job)
        base = load_decoder(settings, machine, display)
        template = ChatTemplate.of(base.tokenizer)
        length = piece_length(base, settings.max_length)
        rows = {
            split: encode_conversations(
                conversations,
                base.tokenizer,
                template,
                max_length=length,
                rejects=rejects.append if settings.on_bad_record == "skip" else None,
                progress=display.job,
            )
            for split, conversations in (("train", data.train), ("test", data.test))
        }
        control = control_of(settings)
        prepared = (
            prepare(open_corpus(control), evaluation_fraction=CONTROL_FRACTION, progress=display.job)
            if control
            else None
        )
        budget = settings.evaluation_tokens
        held_out = {"test": HeldOut(data.name, "test", rows["test"], rows["test"].select_documents(budget))}
        if prepared:
            held_out["control"] = hold_out(
                prepared, "control", base, max_length=length, max_tokens=budget, display=display
            )
    machine.agree(
        settings.to_dict() | {"conversations": data.key, "tokens": rows["train"].key, "base model": base.revision},
        base.model,
    )
    objective = Instructions(kernels=machine.kernels)
    with trainable_for_now(base.model, settings, machine.kernels):
        passes = choose_passes(
            base, objective, rows["train"], settings, machine, display, step_tokens=settings.tokens_per_step
        )
    budgeted = settings.max_steps is not None or settings.max_tokens is not None
    total_steps = count_steps(
        StepPlan(rows["train"].lengths, settings.tokens_per_step, settings.seed),
        rows["train"].tokens,
        max_tokens=settings.max_tokens,
        max_steps=settings.max_steps,
        epochs=None if budgeted else settings.epochs or EPOCHS,
    )
    evaluate_every = settings.evaluate_every or max(1, total_steps // CURVE_POINTS)
    rate = settings.learning_rate or LEARNING_RATES[settings.method]
    loop = loop_settings(settings, passes, total_steps=total_steps, evaluate_every=evaluate_every, learning_rate=rate)
    settled: dict[str, Any] = {
        "format": data.format,
        "control": control or NO_CONTROL,
        "max_length": length,
        "alpha": alpha_of(settings),
        "learning_rate": rate,
        "max_tokens": None,
        "epochs": None,
        "max_steps": total_steps,
        "tokens_per_pass": loop.tokens_per_pass,
        "activation_checkpointing": "on" if loop.activation_checkpointing else "off",
        "evaluate_every": evaluate_every,
        "device": machine.device.type,
        "dtype": machine.dtype,
        "kernels": machine.kernels,
        "sharding": "full" if machine.sharded else "none",
    }
    return Job(
        settings=dataclasses.replace(settings, **settled),
        machine=machine,
        base=base,
        objective=objective,
        data=data,
        template=template,
        rejects=rejects,
        control=prepared,
        train_rows=rows["train"],
        held_out=held_out,
        questions=questions_of(data, template, base, settings),
        loop=loop,
        passes=passes,
    )


def load_decoder(settings: InstructSettings, machine: Machine, display: ProgressDisplay) -> BaseModel:
    """The model, which has to write.

    Raises:
        ModelError: it is an encoder.
    """
    base = load(
        settings.model,
        device=machine.device,
        dtype=machine.weights_dtype(settings.method, settings.train_modules),
        progress=display.job,
    )
    if base.objective != "clm":
        raise ModelError(
            f"'{settings.model}' is an encoder, which cannot write answers",
            fix="give a decoder, such as --model smollm2; for labels, train the encoder with `classify` or `tag`",
        )
    return base


def control_of(settings: InstructSettings) -> str | None:
    """The corpus that shows what is forgotten: --control, or an embedded one of another field; None for `none`."""
    if settings.control:
        return None if settings.control == NO_CONTROL else settings.control
    return "medical" if any(run.corpus == "legal" for run in adapted_runs(settings.model)) else "legal"


def questions_of(
    data: ConversationData, template: ChatTemplate, base: BaseModel, settings: InstructSettings
) -> list[Question]:
    """What asks for the last answer in words of some test conversations, drawn by the seed and their ids.

    Those whose prompts leave no room for an answer are left out.
    """
    found: list[Question] = []
    room = base.max_length - settings.max_new_tokens
    for conversation in sorted(data.test, key=lambda one: derive(settings.seed, "question", one.id)):
        if len(found) == settings.generate_examples:
            break
        answers = [place for place, turn in enumerate(conversation.turns) if turn.trained and turn.content.strip()]
        if not answers or answers[-1] == 0:
            continue
        before, answer = conversation.turns[: answers[-1]], conversation.turns[answers[-1]]
        prompt = template.prompt(before, conversation.tools)
        if len(base.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]) <= room:
            found.append(Question(conversation.id, before[-1].content, prompt, answer.content))
    return found


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


def add_trainable(job: Job) -> None:
    """Make of the base model one that trains: LoRA goes into it, or every weight is opened."""
    make_trainable(job.base.model, job.settings, job.machine.kernels, seed=job.settings.seed)


def curve_tokens(settings: InstructSettings) -> int:
    """Test tokens of a point of the curve."""
    return settings.evaluation_tokens // CURVE_SHARE


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
