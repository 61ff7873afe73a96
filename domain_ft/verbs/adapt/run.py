"""`domain-ft adapt`: continue pretraining on a field's text, and measure what the model gained and forgot.

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
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from domain_ft.corpus.left_out import fields_read
from domain_ft.corpus.masking import mostly_without_words
from domain_ft.corpus.naming import name_of
from domain_ft.evaluation import retrieval
from domain_ft.evaluation.bootstrap import beyond_control, difference
from domain_ft.evaluation.pair_retrieval import PairTask
from domain_ft.evaluation.predictions import Predictions
from domain_ft.evaluation.retrieval import Ranking
from domain_ft.evaluation.samples import SampleSentence, answer, choose_sentences, side_by_side
from domain_ft.models.catalogue import EMBEDDED
from domain_ft.objectives.contrastive import Contrastive
from domain_ft.report.run_folder import RunFolder
from domain_ft.storage import cache_folder
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.prepare import AdaptJob, set_up, text_facts
from domain_ft.verbs.adapt.probing import probe_scores
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.adapt.terminal import print_adapt
from domain_ft.verbs.shared import runs
from domain_ft.verbs.shared.facts import CorpusFacts
from domain_ft.verbs.shared.language_model import HeldOut
from domain_ft.verbs.shared.machine import Machine, provenance
from domain_ft.verbs.shared.text_runs import Measured, add_trainable, measure_and_train, summaries, training_facts


@dataclass(frozen=True)
class AdaptRun(runs.FinishedRun[AdaptReport, PreTrainedModel]):
    """A finished run.

    Attributes:
        tokenizer: the model's tokenizer.
    """

    tokenizer: PreTrainedTokenizerBase


def adapt(settings: AdaptSettings) -> AdaptRun:
    """Adapt a model to a corpus and measure it before and after; everything is in the run folder when this returns.

    Raises:
        UserError: an error that the user can fix.
        Interrupted: ctrl-C or SIGTERM during training. A checkpoint is written; `resume=True` continues from it.
    """
    with runs.started(settings, output_folder(settings)) as (folder, machine, display):
        return adapt_into(folder, settings, machine, display)


def adapt_into(
    folder: RunFolder,
    settings: AdaptSettings,
    machine: Machine,
    display: ProgressDisplay,
    *,
    most_epochs: float | None = None,
) -> AdaptRun:
    """`adapt` in a run folder that is claimed already.

    Args:
        most_epochs: see `set_up`.
    """
    began = time.perf_counter()
    job = set_up(runs.as_started(settings, folder), machine, display, most_epochs=most_epochs)
    runs.resolve_config(job.settings, _provenance(job), folder, machine, sources=("model", "corpora"))
    _copy_rejects(job, folder)
    log_notes(job, display)
    sentences = _choose_sentences(job)
    pairs = PairTask.of(job.held_out_pairs) if job.held_out_pairs else None

    def measure_extras(when: str) -> _Extras:
        return _Extras(
            answer(job.base, sentences),
            _rank(job, pairs, when, display) if pairs else None,
            job.task.predictions(job.base, machine, display) if job.task else None,
        )

    measured = measure_and_train(
        job, folder, display, measure_extras, cache_file=lambda held_out: _base_scores_file(job, held_out)
    )
    samples = side_by_side(sentences, measured.samples_before.answers, measured.samples_after.answers)
    wrong_field = job.task.wrong_field_predictions(machine, display) if job.task else None
    report = _report(job, folder, measured, pairs, samples, wrong_field, time.perf_counter() - began)
    if machine.is_main:
        _write(job, folder, report)
    return AdaptRun(folder.path, report, job.base.model, job.base.tokenizer)


def run(settings: AdaptSettings) -> dict[str, Any]:
    """The verb: adapt and print the table, or with --dry-run print the plan."""
    return runs.run_or_plan(settings, adapt, _plan, print_adapt)


def output_folder(settings: AdaptSettings) -> Path:
    """--output, or runs/CORPUS-MODEL."""
    return runs.output_folder(settings, name_of(settings.corpus))


class _Extras(NamedTuple):
    """What is measured besides the losses: completed sentences for the report, retrieval, and the task of --task."""

    answers: list[Any]
    ranking: Ranking | None
    predictions: Predictions | None


def _rank(job: AdaptJob, pairs: PairTask, when: str, display: ProgressDisplay) -> Ranking:
    """The ranking of held-out pairs by the model's vectors, computed in the machine's precision."""
    assert isinstance(job.objective, Contrastive)
    with job.machine.accelerator.autocast():
        return pairs.rank(job.base, job.objective.pooling, display.job, f"{when}: retrieval")


def _copy_rejects(job: AdaptJob, folder: RunFolder) -> None:
    """Copy the list of skipped records into the run folder."""
    rejected = job.corpora["domain"].rejects_path
    if rejected and job.machine.is_main:
        shutil.copyfile(rejected, folder.rejects)


def log_notes(job: AdaptJob, display: ProgressDisplay) -> None:
    """Print what the user should know before training starts."""
    text = job.corpora["domain"].statistics
    for note in (*job.base.notes, *text.notes, *fields_read(text.text_fields)):
        display.say(f"note: {note}")
    for warning in job.warnings:
        display.say(f"warning: {warning}")
    if job.base.objective == "mlm" and job.settings.whole_word and mostly_without_words(job.text_rows):
        display.say(
            "note: this tokenizer marks few word boundaries in this text (no spaces?), so single tokens are masked"
        )


def _base_scores_file(job: AdaptJob, held_out: HeldOut) -> Path | None:
    """The cache file of an embedded base model's scores on `held_out`, named by a hash of all that they depend on.

    Runs of `adapt` on the same corpus start with the same scores, which take some ten seconds to compute. None for any
    other base model, whose weights may change, and for several processes, which must all score or all read the file.
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


def _choose_sentences(job: AdaptJob) -> list[SampleSentence]:
    """The sentences that the report shows; none with --no-examples."""
    if not job.settings.examples:
        return []
    split = job.corpora["domain"].split("evaluation")
    return choose_sentences(split, job.base.tokenizer, job.base.objective, seed=job.settings.seed)


def _report(
    job: AdaptJob,
    folder: RunFolder,
    measured: Measured[_Extras],
    pairs: PairTask | None,
    samples: Sequence[Mapping[str, Any]],
    wrong_field: Predictions | None,
    wall_seconds: float,
) -> AdaptReport:
    """All results, as plain values."""
    settings, base = job.settings, job.base
    before, after = measured.before, measured.after
    extras = (measured.samples_before, measured.samples_after)
    scores: dict[str, dict[str, Any]] = {"before": summaries(before), "after": summaries(after)}
    differences: dict[str, Mapping[str, Any]] = {
        role: difference(before[role], after[role], seed=settings.seed) for role in before
    }
    if "control" in before:
        differences["beyond_control"] = beyond_control(
            (before["domain"], after["domain"]), (before["control"], after["control"]), seed=settings.seed
        )
    others: dict[str, Any] = {}
    if pairs:
        rankings = [cast("Ranking", extra.ranking) for extra in extras]
        for values, ranking in zip(scores.values(), rankings, strict=True):
            values["retrieval"] = ranking.summary()
        differences["retrieval"] = retrieval.difference(*rankings, seed=settings.seed)
        others["bm25"] = pairs.rank_by_bm25().summary()
    if job.task:
        predictions = [cast("Predictions", extra.predictions) for extra in extras]
        for values, predicted in zip(scores.values(), predictions, strict=True):
            values["probe"] = probe_scores(predicted, settings.seed)
        others["probe"] = job.task.facts(predictions[0], predictions[1], wrong_field, seed=settings.seed)
    result = {
        "command": "adapt",
        "model": base.name,
        "objective": job.objective.name,
        "language_model": base.objective,
        "device": job.machine.device.type,
        "kernels": job.machine.kernels,
        **training_facts(job, measured.state, wall_seconds),
        **text_facts(job),
        **scores,
        **others,
        "differences": differences,
    }
    return AdaptReport(
        result=result,
        base=runs.base_facts(base),
        corpus=CorpusFacts.of(job.corpora["domain"], job.text_rows.document_tokens().tolist()),
        control=CorpusFacts.of(job.corpora["control"]) if "control" in job.corpora else None,
        differences=differences,
        settings=settings.to_dict(),
        provenance=_provenance(job),
        metrics=folder.read_metrics(),
        samples=samples,
    )


def _provenance(job: AdaptJob) -> dict[str, Any]:
    """The provenance of the run: versions, machine, and the exact model and corpora."""
    corpora = {
        role: {"name": prepared.name, "recipe": prepared.recipe.hash, "content": prepared.key}
        for role, prepared in job.corpora.items()
    }
    return runs.origin(job.machine, job.base, corpora=corpora)


def _write(job: AdaptJob, folder: RunFolder, report: AdaptReport) -> None:
    """Write the adapter or model, the card and the page, and result.json last."""
    from domain_ft.verbs.adapt import card, page  # matplotlib is slow to import, so not before training

    with folder.writing():
        task_type = "CAUSAL_LM" if job.base.objective == "clm" else None
        runs.write_model(job.base, job.settings.method, folder, task_type)
    folder.write_card(card.render(report))
    folder.write_report(page.render_adapt(report))
    folder.write_result(report.result)


def _plan(settings: AdaptSettings) -> dict[str, Any]:
    """Check and prepare everything that `adapt` needs, and return what it would do."""
    with runs.planning(settings, output_folder(settings)) as (machine, display):
        job = set_up(settings, machine, display)
        add_trainable(job)
    return {
        "command": "adapt",
        "dry_run": True,
        "model": job.base.name,
        "objective": job.objective.name,
        "language_model": job.base.objective,
        "device": machine.device.type,
        "kernels": machine.kernels,
        "corpus_tokens": job.text_rows.tokens,
        "steps": job.loop.total_steps,
        "tokens": job.planned_tokens,
        **text_facts(job),
        "trainable_parameters": job.trainable_parameters,
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
