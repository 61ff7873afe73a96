"""`domain-ft adapt`: continued pretraining on a field's text, with proof of what it gained and what it forgot.

corpus -> split -> rows of tokens -> score before -> train -> score after -> run folder

run = domain_ft.adapt(AdaptSettings(corpus="legal"))
run.result["after"]["domain"]["loss"], run.model
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from domain_ft.corpus.masking import mostly_without_words
from domain_ft.corpus.packing import StepPlan
from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.evaluation.bootstrap import beyond_control, difference
from domain_ft.evaluation.samples import Probe, answer, choose_probes, side_by_side
from domain_ft.evaluation.scores import Scores
from domain_ft.models import embedded
from domain_ft.models.base import BaseModel, load
from domain_ft.models.export import export_merged
from domain_ft.models.peft_format import save_adapter
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.report.data import AdaptReport, BaseFacts, CorpusFacts
from domain_ft.report.run_folder import RunFolder
from domain_ft.report.terminal import print_adapt
from domain_ft.settings import AdaptSettings
from domain_ft.storage import cache_folder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import LoopSettings, count_steps, over_ranks, peak_memory_bytes
from domain_ft.training.memory import PassPlan
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.language_model import (
    EVALUATION_TOKENS,
    NO_CONTROL,
    HeldOut,
    build_objective,
    control_of,
    hold_out,
    piece_length,
    prepare_corpora,
    score_held_out,
)
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

    from domain_ft.corpus.prepared import PreparedCorpus

DEFAULT_TOKENS = 250_000
CURVE_POINTS = 8


@dataclass(frozen=True)
class AdaptRun:
    """A finished run.

    Attributes:
        folder: the run folder.
        report: all that was found out; `result` is what result.json holds of it.
        model: the adapted model, ready to use.
        tokenizer: its tokenizer.
    """

    folder: Path
    report: AdaptReport
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's result.json."""
        return self.report.result


@dataclass(frozen=True)
class Job:
    """Everything that a run needs before its first step.

    Attributes:
        settings: with nothing left to a default that depends on the machine, the model or the corpus.
        machine: where it is computed.
        base: the model; LoRA is not in it yet.
        objective: what is asked of it.
        corpora: by role (`domain`, `control`), prepared.
        train_rows: the pieces of the domain's training split.
        held_out: by role, what is scored before and after.
        loop: the loop's settings.
        passes: how large a pass is, and why.
    """

    settings: AdaptSettings
    machine: Machine
    base: BaseModel
    objective: LanguageModelObjective
    corpora: Mapping[str, PreparedCorpus]
    train_rows: TokenRows
    held_out: Mapping[str, HeldOut]
    loop: LoopSettings
    passes: PassPlan

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in which the training text is read once."""
        plan = StepPlan(self.train_rows.lengths, self.settings.tokens_per_step, self.settings.seed)
        return plan.steps_per_epoch


def set_up(settings: AdaptSettings, machine: Machine, display: ProgressDisplay) -> Job:
    """Prepare text, model and rows, and settle every setting that depends on them.

    With several processes the main one of each node goes first and fills the caches that the others then read.

    Raises:
        SettingsError: the processes do not have the same settings, text and model.
    """
    with machine.main_first():
        corpora = prepare_corpora(settings, display)
        base = load(
            settings.model,
            device=machine.device,
            dtype=machine.weights_dtype(settings.method, settings.train_modules),
            progress=display.job,
        )
        length = piece_length(base, settings.max_length)
        train_rows = {
            role: tokenize(prepared.split("train"), base.tokenizer, max_length=length, progress=display.job)
            for role, prepared in corpora.items()
            if role == "domain" or base.head_is_random
        }
        if base.head_is_random:  # fitted on both, to be fair to both
            base = embedded.with_fitted_head(base, list(train_rows.values()), display.job)
        held_out = {
            role: hold_out(
                prepared, role, base, max_length=length, max_tokens=settings.evaluation_tokens, display=display
            )
            for role, prepared in corpora.items()
        }
    read = {f"text of the {role}": prepared.key for role, prepared in corpora.items()}
    machine.agree(
        settings.to_dict() | read | {"tokens": train_rows["domain"].key, "base model": base.revision}, base.model
    )
    objective = build_objective(base, settings, machine.kernels)
    rows = train_rows["domain"]
    with trainable_for_now(base.model, settings, machine.kernels):
        step_tokens = settings.tokens_per_step
        passes = choose_passes(base, objective, rows, settings, machine, display, step_tokens=step_tokens)
    budgeted = settings.max_steps is not None or settings.epochs is not None
    total_steps = count_steps(
        StepPlan(rows.lengths, settings.tokens_per_step, settings.seed),
        rows.tokens,
        max_tokens=None if budgeted else settings.max_tokens or DEFAULT_TOKENS,
        max_steps=settings.max_steps,
        epochs=settings.epochs,
    )
    evaluate_every = settings.evaluate_every or max(1, total_steps // CURVE_POINTS)
    loop = loop_settings(settings, passes, total_steps=total_steps, evaluate_every=evaluate_every)
    settled: dict[str, Any] = {
        "control": control_of(settings) or NO_CONTROL,
        "max_length": length,
        "alpha": alpha_of(settings),
        "learning_rate": loop.learning_rate,
        "evaluation_tokens": settings.evaluation_tokens or EVALUATION_TOKENS[base.objective],
        "max_tokens": None,
        "epochs": None,
        "max_steps": loop.total_steps,
        "tokens_per_pass": loop.tokens_per_pass,
        "activation_checkpointing": "on" if loop.activation_checkpointing else "off",
        "evaluate_every": loop.evaluate_every,
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
        corpora=corpora,
        train_rows=rows,
        held_out=held_out,
        loop=loop,
        passes=passes,
    )


def adapt(settings: AdaptSettings) -> AdaptRun:
    """Adapt a model to a corpus and measure it before and after; everything is in the run folder when this returns.

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
        settle_config(job.settings, _provenance(job), folder, machine, sources=("model", "corpora"))
        _keep_rejects(job, folder)
        _say_what_is_odd(job, display)
        probes = _choose_probes(job)
        before = _measure(job, folder, "before", display)
        said_before = answer(job.base, probes)
        add_trainable(job)
        state = _train(job, folder, display)
        after = _measure(job, folder, "after", display)
        said_after = answer(job.base, probes)
        samples = side_by_side(probes, said_before, said_after)
        report = _report(job, folder, before, after, samples, state, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report)
        machine.accelerator.wait_for_everyone()
    return AdaptRun(folder.path, report, job.base.model, job.base.tokenizer)


def run(settings: AdaptSettings) -> dict[str, Any]:
    """The verb: adapt, or say what would be done; print the table."""
    if settings.dry_run:
        return _dry_run(settings)
    finished = adapt(settings)
    console = Console(quiet=settings.json or not is_main_process())
    print_adapt(finished.report, console)
    console.print(f"\nrun folder: {finished.folder}", highlight=False, soft_wrap=True)
    console.print(f"report:     {finished.folder / 'report.html'}", highlight=False, soft_wrap=True)
    return dict(finished.result)


def output_folder(settings: AdaptSettings) -> Path:
    """--output, or runs/CORPUS-MODEL by the last parts of their names."""
    if settings.output:
        return settings.output
    corpus, model = (re.sub(r"[^\w.-]+", "-", Path(name).name) for name in (settings.corpus, settings.model))
    return Path("runs") / f"{corpus}-{model}"


def curve_tokens(settings: AdaptSettings) -> int:
    """Held-out tokens of a point of the curve: a quarter of what before and after are measured on."""
    assert settings.evaluation_tokens is not None
    return settings.evaluation_tokens // 4


def add_trainable(job: Job) -> None:
    """Make of the base model one that trains: LoRA goes into it, or every weight is opened."""
    make_trainable(job.base.model, job.settings, job.machine.kernels, seed=job.settings.seed)


def _keep_rejects(job: Job, folder: RunFolder) -> None:
    """Put the list of records that were left out beside the run."""
    rejected = job.corpora["domain"].rejects_path
    if rejected and job.machine.is_main and not job.settings.resume:
        shutil.copyfile(rejected, folder.rejects)


def _say_what_is_odd(job: Job, display: ProgressDisplay) -> None:
    """What a person should know before the numbers come."""
    for note in (*job.base.notes, *job.corpora["domain"].statistics.notes):
        display.say(f"note: {note}")
    if job.base.objective == "mlm" and job.settings.whole_word and mostly_without_words(job.train_rows):
        display.say("note: this tokenizer shows few word borders in this text (no spaces?): masks are by token there")


def _measure(job: Job, folder: RunFolder, when: str, display: ProgressDisplay) -> dict[str, Scores]:
    """The scores of the model as it is now, by role; those of a resumed run's base are read, not made again."""
    scores = {}
    for role, held_out in job.held_out.items():
        path = folder.scores(when, role)
        if when == "before" and job.settings.resume and path.is_file():
            scores[role] = Scores.load(path)
            continue
        known = (
            _base_scores(job, held_out) if when == "before" and job.machine.processes == 1 else None
        )  # all score, or none
        if known and known.is_file():
            scores[role] = Scores.load(known)
        else:
            scores[role] = score_held_out(
                job.base,
                job.objective,
                held_out,
                job.machine,
                tokens_per_pass=job.loop.tokens_per_pass,
                progress=display.job,
                label=f"{when}: {held_out.name}",
            )
        if job.machine.is_main:
            folder.write_scores(path, scores[role])
            if known and not known.is_file():
                scores[role].save(known)
    return scores


def _base_scores(job: Job, held_out: HeldOut) -> Path | None:
    """Where the cache keeps an embedded base's scores on `held_out`, named by all that they are computed from.

    Each run of `adapt` begins with them, and they are the same each time: some ten seconds that the first step need not
    wait for. None for any other base, which may be adapted already.
    """
    if job.base.source not in embedded.EMBEDDED:
        return None
    settings, machine = job.settings, job.machine
    masks = [settings.mask_rate, settings.whole_word, settings.seed] if job.base.objective == "mlm" else []
    computed = [machine.device.type, machine.dtype, machine.kernels, settings.tokens_per_pass, torch.get_num_threads()]
    text = [held_out.rows.key, hashlib.sha256(held_out.selected.tobytes()).hexdigest()]
    content = [job.base.revision, *text, *masks, *computed, provenance(machine)["versions"]]
    name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    return cache_folder("scores") / f"{name}.json"


def _train(job: Job, folder: RunFolder, display: ProgressDisplay) -> TrainingState:
    domain = job.held_out["domain"]
    curve = dataclasses.replace(domain, selected=domain.rows.select_documents(curve_tokens(job.settings)))

    def point() -> dict[str, Any]:
        tokens_per_pass = job.loop.tokens_per_pass
        return {
            "domain": score_held_out(
                job.base, job.objective, curve, job.machine, tokens_per_pass=tokens_per_pass
            ).summary()
        }

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


def _choose_probes(job: Job) -> list[Probe]:
    """The sentences that the report shows; none where the user keeps texts out of it."""
    if not job.settings.examples:
        return []
    split = job.corpora["domain"].split("evaluation")
    return choose_probes(split, job.base.tokenizer, job.base.objective, seed=job.settings.seed)


def _report(
    job: Job,
    folder: RunFolder,
    before: Mapping[str, Scores],
    after: Mapping[str, Scores],
    samples: Sequence[Mapping[str, Any]],
    state: TrainingState,
    wall_seconds: float,
) -> AdaptReport:
    """All that the run has found out, as plain values."""
    settings, base = job.settings, job.base
    parameters = list(base.model.parameters())
    result = {
        "command": "adapt",
        "model": base.name,
        "objective": base.objective,
        "device": job.machine.device.type,
        "kernels": job.machine.kernels,
        "tokens_seen": state.tokens,
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
        "before": {role: scores.summary() for role, scores in before.items()} | _unmeasured(before),
        "after": {role: scores.summary() for role, scores in after.items()} | _unmeasured(after),
    }
    differences = {role: difference(before[role], after[role], seed=settings.seed) for role in before}
    if "control" in before:
        differences["beyond_control"] = beyond_control(
            (before["domain"], after["domain"]), (before["control"], after["control"]), seed=settings.seed
        )
    return AdaptReport(
        result=result | {"differences": differences},
        base=BaseFacts(
            name=base.name,
            source=base.source,
            revision=base.revision,
            embedded=base.name in embedded.EMBEDDED,
            licence=embedded.provenance(base.name)["licence"] if base.name in embedded.EMBEDDED else "",
        ),
        corpus=CorpusFacts.of(job.corpora["domain"], job.train_rows.document_tokens().tolist()),
        control=CorpusFacts.of(job.corpora["control"]) if "control" in job.corpora else None,
        differences=differences,
        settings=settings.to_dict(),
        provenance=_provenance(job),
        metrics=folder.read_metrics(),
        samples=samples,
    )


def _unmeasured(scores: Mapping[str, Scores]) -> dict[str, None]:
    """A null for the control where there is none, so that the key is always there."""
    return {} if "control" in scores else {"control": None}


def _provenance(job: Job) -> dict[str, Any]:
    """Where the numbers come from: versions, machine, and what exactly was read and adapted."""
    return provenance(job.machine) | {
        "model": {"source": job.base.source, "revision": job.base.revision},
        "corpora": {
            role: {"name": prepared.name, "recipe": prepared.recipe.hash, "content": prepared.key}
            for role, prepared in job.corpora.items()
        },
    }


def _write(job: Job, folder: RunFolder, report: AdaptReport) -> None:
    """The adapter, the page and the card, and last of all result.json."""
    from domain_ft.report import card, html  # they bring matplotlib, for which the first step need not wait

    with folder.writing():
        if job.settings.method == "full":
            export_merged(job.base, folder.path / "model")
        else:
            save_adapter(
                job.base.model,
                folder.adapter,
                base_name=job.base.source,
                revision=job.base.revision,
                task_type="CAUSAL_LM" if job.base.objective == "clm" else None,
            )
    folder.write_card(card.render(report))
    folder.write_report(html.render_adapt(report))
    folder.write_result(report.result)


def _dry_run(settings: AdaptSettings) -> dict[str, Any]:
    """Check and prepare everything that `adapt` would, and say what it would do."""
    machine = choose_machine(settings, sharding=settings.sharding)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        job = set_up(settings, machine, display)
        add_trainable(job)
    planned = {
        "command": "adapt",
        "dry_run": True,
        "model": job.base.name,
        "objective": job.base.objective,
        "device": machine.device.type,
        "kernels": machine.kernels,
        "corpus_tokens": job.train_rows.tokens,
        "steps": job.loop.total_steps,
        "tokens": round(job.loop.total_steps * job.train_rows.tokens / job.steps_per_epoch),
        "trainable_parameters": sum(p.numel() for p in job.base.model.parameters() if p.requires_grad),
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
    if not settings.json and machine.is_main:
        Console().print_json(data=planned)
    return planned
