"""`domain-ft adapt`: continued pretraining on a field's text, with proof of what it gained and what it forgot.

corpus -> split -> rows of tokens -> score before -> train -> score after -> run folder

run = domain_ft.adapt(AdaptSettings(corpus="legal"))
run.result["after"]["domain"]["loss"], run.model
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from domain_ft.corpus.left_out import fields_read
from domain_ft.corpus.masking import mostly_without_words
from domain_ft.corpus.naming import name_of
from domain_ft.evaluation.bootstrap import beyond_control, difference
from domain_ft.evaluation.samples import SampleSentence, answer, choose_sentences, side_by_side
from domain_ft.evaluation.scores import Scores
from domain_ft.models.catalogue import EMBEDDED
from domain_ft.report.run_folder import RunFolder
from domain_ft.storage import cache_folder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.adapt.terminal import print_adapt
from domain_ft.verbs.shared.facts import CorpusFacts
from domain_ft.verbs.shared.language_model import (
    HeldOut,
)
from domain_ft.verbs.shared.machine import choose_machine, provenance
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
from domain_ft.verbs.shared.text_runs import (
    add_trainable,
    measure,
    summaries,
    train_with_curve,
    training_facts,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

from domain_ft.verbs.adapt.prepare import AdaptJob, set_up, text_facts


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


def adapt(settings: AdaptSettings) -> AdaptRun:
    """Adapt a model to a corpus and measure it before and after; everything is in the run folder when this returns.

    Raises:
        UserError: something that the user can mend; nothing is lost.
        Interrupted: ctrl-C or SIGTERM; a checkpoint is written, and `resume=True` goes on from it.
    """
    began = time.perf_counter()
    with started(settings, output_folder(settings)) as (folder, machine, display):
        job = set_up(as_started(settings, folder), machine, display)
        resolve_config(job.settings, _provenance(job), folder, machine, sources=("model", "corpora"))
        _keep_rejects(job, folder)
        log_notes(job, display)
        probes = _choose_probes(job)
        before = measure(job, folder, "before", display, known=lambda held_out: _base_scores(job, held_out))
        said_before = answer(job.base, probes)
        add_trainable(job)
        state = train_with_curve(job, folder, display)
        after = measure(job, folder, "after", display)
        said_after = answer(job.base, probes)
        samples = side_by_side(probes, said_before, said_after)
        report = _report(job, folder, before, after, samples, state, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report)
    return AdaptRun(folder.path, report, job.base.model, job.base.tokenizer)


def run(settings: AdaptSettings) -> dict[str, Any]:
    """The verb: adapt, or say what would be done; print the table."""
    if settings.dry_run:
        return _dry_run(settings)
    finished = adapt(settings)
    console = console_of(settings)
    print_adapt(finished.report, console)
    print_paths(finished.folder, console)
    return dict(finished.result)


def output_folder(settings: AdaptSettings) -> Path:
    """--output, or runs/CORPUS-MODEL by the last parts of their names."""
    if settings.output:
        return settings.output
    return default_folder(name_of(settings.corpus), name_of(settings.model))


def _keep_rejects(job: AdaptJob, folder: RunFolder) -> None:
    """Put the list of records that were left out beside the run."""
    rejected = job.corpora["domain"].rejects_path
    if rejected and job.machine.is_main and not job.settings.resume:
        shutil.copyfile(rejected, folder.rejects)


def log_notes(job: AdaptJob, display: ProgressDisplay) -> None:
    """What a person should know before the numbers come."""
    text = job.corpora["domain"].statistics
    for note in (*job.base.notes, *text.notes, *fields_read(text.text_fields)):
        display.say(f"note: {note}")
    for warning in job.warnings:
        display.say(f"warning: {warning}")
    if job.base.objective == "mlm" and job.settings.whole_word and mostly_without_words(job.train_rows):
        display.say("note: this tokenizer shows few word borders in this text (no spaces?): masks are by token there")


def _base_scores(job: AdaptJob, held_out: HeldOut) -> Path | None:
    """Where the cache keeps an embedded base's scores on `held_out`, named by all that they are computed from.

    Each run of `adapt` begins with them, and they are the same each time: some ten seconds that the first step need not
    wait for. None for any other base, which may be adapted already, and with several processes, of which all have to
    score, or none.
    """
    if job.base.source not in EMBEDDED or job.machine.processes > 1:
        return None
    settings, machine = job.settings, job.machine
    masks = [settings.mask_rate, settings.whole_word, settings.seed] if job.base.objective == "mlm" else []
    computed = [
        machine.device.type,
        machine.dtype,
        machine.kernels,
        settings.tokens_per_micro_batch,
        torch.get_num_threads(),
    ]
    text = [held_out.rows.key, hashlib.sha256(held_out.selected.tobytes()).hexdigest()]
    content = [job.base.revision, *text, *masks, *computed, provenance(machine)["versions"]]
    name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    return cache_folder("scores") / f"{name}.json"


def _choose_probes(job: AdaptJob) -> list[SampleSentence]:
    """The sentences that the report shows; none where the user keeps texts out of it."""
    if not job.settings.examples:
        return []
    split = job.corpora["domain"].split("evaluation")
    return choose_sentences(split, job.base.tokenizer, job.base.objective, seed=job.settings.seed)


def _report(
    job: AdaptJob,
    folder: RunFolder,
    before: Mapping[str, Scores],
    after: Mapping[str, Scores],
    samples: Sequence[Mapping[str, Any]],
    state: TrainingState,
    wall_seconds: float,
) -> AdaptReport:
    """All that the run has found out, as plain values."""
    settings, base = job.settings, job.base
    result = {
        "command": "adapt",
        "model": base.name,
        "objective": base.objective,
        "device": job.machine.device.type,
        "kernels": job.machine.kernels,
        **training_facts(job, state, wall_seconds),
        **text_facts(job),
        "before": summaries(before),
        "after": summaries(after),
    }
    differences = {role: difference(before[role], after[role], seed=settings.seed) for role in before}
    if "control" in before:
        differences["beyond_control"] = beyond_control(
            (before["domain"], after["domain"]), (before["control"], after["control"]), seed=settings.seed
        )
    return AdaptReport(
        result=result | {"differences": differences},
        base=base_facts(base),
        corpus=CorpusFacts.of(job.corpora["domain"], job.train_rows.document_tokens().tolist()),
        control=CorpusFacts.of(job.corpora["control"]) if "control" in job.corpora else None,
        differences=differences,
        settings=settings.to_dict(),
        provenance=_provenance(job),
        metrics=folder.read_metrics(),
        samples=samples,
    )


def _provenance(job: AdaptJob) -> dict[str, Any]:
    """Where the numbers come from: versions, machine, and what exactly was read and adapted."""
    corpora = {
        role: {"name": prepared.name, "recipe": prepared.recipe.hash, "content": prepared.key}
        for role, prepared in job.corpora.items()
    }
    return origin(job.machine, job.base, corpora=corpora)


def _write(job: AdaptJob, folder: RunFolder, report: AdaptReport) -> None:
    """The adapter, the page and the card, and last of all result.json."""
    from domain_ft.verbs.adapt import card, page  # they import matplotlib: not before the first step

    with folder.writing():
        task_type = "CAUSAL_LM" if job.base.objective == "clm" else None
        write_model(job.base, job.settings.method, folder, task_type)
    folder.write_card(card.render(report))
    folder.write_report(page.render_adapt(report))
    folder.write_result(report.result)


def _dry_run(settings: AdaptSettings) -> dict[str, Any]:
    """Check and prepare everything that `adapt` would, and say what it would do."""
    RunFolder(output_folder(settings)).check(resume=settings.resume)
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
        "tokens": job.planned_tokens,
        **text_facts(job),
        "trainable_parameters": job.trainable_parameters,
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
    print_plan(planned, settings, machine)
    return planned
