"""`domain-ft evaluate`: compare models and runs on the same held-out text, or runs of `classify` on a task.

report = domain_ft.evaluate(EvaluateSettings(model=("minilm", "runs/legal-minilm"), corpus="legal"))
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from domain_ft.embedded.loading import load, objective_of
from domain_ft.errors import CorpusError, ModelError, SettingsError
from domain_ft.evaluation.bootstrap import difference
from domain_ft.evaluation.scores import Scores, shared
from domain_ft.models.base import BaseModel
from domain_ft.report.run_folder import RunFolder, report_folder
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.evaluate.page import render_evaluation
from domain_ft.verbs.evaluate.report import EvaluationReport, ModelScores
from domain_ft.verbs.evaluate.settings import EvaluateSettings, no_list
from domain_ft.verbs.evaluate.terminal import print_evaluation
from domain_ft.verbs.shared.language_model import (
    build_objective,
    hold_out,
    prepare_corpora,
    score_held_out,
    sequence_length,
)
from domain_ft.verbs.shared.machine import choose_machine, is_main_process, provenance
from domain_ft.verbs.shared.retrieval import Retrieval

if TYPE_CHECKING:
    from domain_ft.corpus.prepared import PreparedCorpus


TOKENS_PER_MICRO_BATCH = 4096


def evaluate(settings: EvaluateSettings) -> EvaluationReport:
    """Score every model of `settings.model` on the corpus and its control, and compare the others with the first.

    Raises:
        ModelError: a model cannot be loaded, or encoders and decoders are mixed.
        CorpusError: a corpus cannot be read, or no document was read by all models.
        SettingsError: an option cannot be used with these models or this machine.
    """
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        with machine.main_first():
            # Checked first, because reading text and loading weights can take a long time.
            _refuse_mixture({name: objective_of(name, progress=display.job) for name in settings.model})
            corpora = prepare_corpora(settings, display)
        scores: list[dict[str, Scores]] = []
        bases: list[Mapping[str, Any]] = []
        retrieval = Retrieval()
        for name in settings.model:
            with machine.main_first():
                base = load(name, device=machine.device, dtype=machine.weights_dtype("lora"), progress=display.job)
                length = sequence_length(base, settings.max_length)
                held_out = {
                    role: hold_out(
                        prepared, role, base, max_length=length, max_tokens=settings.evaluation_tokens, display=display
                    )
                    for role, prepared in corpora.items()
                }
            objective = build_objective(base, settings, machine.kernels)
            scores.append(
                {
                    role: score_held_out(
                        base,
                        objective,
                        held_out[role],
                        machine,
                        tokens_per_micro_batch=TOKENS_PER_MICRO_BATCH,
                        progress=display.job,
                        label=f"{name} on {prepared.name}",
                    )
                    for role, prepared in corpora.items()
                }
            )
            if settings.retrieval:
                retrieval.add(base, corpora, held_out, machine, display)
            bases.append(_facts(base))
            del base, objective
            gc.collect()
    _keep_shared(scores, corpora)
    return EvaluationReport(
        models=[
            ModelScores(
                name,
                _summaries(own),
                _differences(scores[0], own, settings.seed) if place else {},
                retrieval.of_model(place, settings.seed),
            )
            for place, (name, own) in enumerate(zip(settings.model, scores, strict=True))
        ],
        corpora={role: prepared.name for role, prepared in corpora.items()},
        text=corpora["domain"].statistics.left_out
        | {"text_fields": corpora["domain"].statistics.text_fields}
        | no_list(settings),
        rejects=corpora["domain"].rejects_path,
        bm25=retrieval.bm25(),
        provenance=provenance(machine) | {"models": bases},
    )


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """The verb: evaluate, print the table, and write the folder of --output.

    Raises:
        SettingsError: not exactly one of --corpus, --task and --test was given, or --retrieval without --corpus.
    """
    given = [f"--{name}" for name in ("corpus", "task", "test") if getattr(settings, name)]
    if len(given) != 1:
        raise SettingsError(
            f"{' and '.join(given)} were given" if given else "none of --corpus, --task and --test was given",
            fix="give --corpus for language models, or --task or --test for runs of `classify`",
        )
    if settings.corpus is None and settings.retrieval:
        raise SettingsError("--retrieval is measured on text, and no --corpus was given", fix="leave --retrieval out")
    if settings.corpus is None:
        from domain_ft.verbs.evaluate import tasks

        return tasks.run(settings)
    with report_folder(settings.output if is_main_process() else None) as folder:
        return _run(settings, folder)


def _run(settings: EvaluateSettings, folder: RunFolder | None) -> dict[str, Any]:
    """The work of `run`; `folder` is that of --output, or None."""
    began = time.perf_counter()
    main = is_main_process()
    report = evaluate(settings)
    result = {
        "command": "evaluate",
        "corpora": dict(report.corpora),
        **report.text,
        "wall_seconds": time.perf_counter() - began,
        "models": [
            {"model": model.name, "scores": dict(model.scores), "differences": dict(model.differences)}
            | ({"retrieval": dict(model.retrieval)} if settings.retrieval else {})
            for model in report.models
        ],
        **({"bm25": dict(report.bm25)} if settings.retrieval else {}),
    }
    print_evaluation(report, Console(quiet=settings.json or not main))
    if folder:
        if report.rejects is not None:
            shutil.copyfile(report.rejects, folder.rejects)
        folder.write_report(render_evaluation(report))
        folder.write_result(result)
    return result


def _facts(base: BaseModel) -> dict[str, Any]:
    return {"name": base.name, "source": base.source, "revision": base.revision}


def _refuse_mixture(objectives: Mapping[str, str]) -> None:
    if len(set(objectives.values())) > 1:
        kinds = ", ".join(
            f"{name} is {'an encoder' if kind == 'mlm' else 'a decoder'}" for name, kind in objectives.items()
        )
        raise ModelError(
            f"encoders and decoders cannot be compared by their losses: {kinds}",
            fix="evaluate encoders with encoders and decoders with decoders",
        )


def _keep_shared(scores: Sequence[dict[str, Scores]], corpora: Mapping[str, PreparedCorpus]) -> None:
    """Reduce all scores to the documents that every model was scored on.

    With different tokenizers, different documents fit into --evaluation-tokens.
    """
    for role, prepared in corpora.items():
        common = shared(*(own[role] for own in scores))
        if not len(common[0]):
            raise CorpusError(
                f"within --evaluation-tokens, no held-out document of '{prepared.name}' was read by all models",
                fix="give a larger --evaluation-tokens",
            )
        for own, kept in zip(scores, common, strict=True):
            own[role] = kept


def _summaries(scores: Mapping[str, Scores]) -> dict[str, dict[str, float | int]]:
    return {role: own.summary() for role, own in scores.items()}


def _differences(first: Mapping[str, Scores], other: Mapping[str, Scores], seed: int) -> dict[str, dict[str, Any]]:
    """How much the other model's losses differ from the first model's, by role."""
    return {role: difference(first[role], other[role], seed=seed) for role in first}
