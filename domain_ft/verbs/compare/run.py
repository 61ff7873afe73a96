"""`domain-ft compare`: compare finished runs with the first. Is each better or worse, or is no difference shown?

report = domain_ft.compare(CompareSettings(runs=("runs/base", "runs/adapted")))

No model is run: each run has saved its predictions for the test examples, or its losses on the held-out documents.
Predictions must be for the same test examples; losses are compared on the documents that the runs share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from domain_ft.checking import tomllib
from domain_ft.errors import CheckpointError, SettingsError
from domain_ft.evaluation import classification
from domain_ft.evaluation.bootstrap import difference
from domain_ft.evaluation.counts import holm
from domain_ft.evaluation.predictions import Predictions
from domain_ft.evaluation.scores import Scores, shared
from domain_ft.report.run_folder import RunFolder, report_folder
from domain_ft.verbs.compare.settings import CompareSettings
from domain_ft.verbs.shared.comparison import ComparedRun, CompareReport, Disagreement
from domain_ft.verbs.shared.comparison_terminal import print_compare
from domain_ft.verbs.shared.task_words import few_units

_MOST_DISAGREEMENTS = 20


Saved = TypeVar("Saved")


@dataclass(frozen=True)
class _Run:
    """A finished run: its name as the user gave it, its folder, and its result.json."""

    name: str
    folder: RunFolder
    result: Mapping[str, Any]


def compare(settings: CompareSettings) -> CompareReport:
    """Compare the runs with the first.

    Raises:
        SettingsError: fewer than two runs, a folder without a finished run, runs of different kinds, or runs that were
            measured on different texts.
        CheckpointError: the saved result, predictions or losses of a run are missing or cannot be read.
    """
    if len(settings.runs) < 2:
        raise SettingsError(
            "compare needs two runs or more",
            fix="domain-ft compare FIRST OTHER: the others are compared with the first",
        )
    runs = []
    for name in settings.runs:
        folder = RunFolder.open(Path(name))
        runs.append(_Run(name, folder, folder.read_result()))
    return _KINDS[_kind(runs)](runs, settings)


def run(settings: CompareSettings) -> dict[str, Any]:
    """The verb: compare, print the table, and write the folder of --output."""
    with report_folder(settings.output) as folder:
        return _run(settings, folder)


def _run(settings: CompareSettings, folder: RunFolder | None) -> dict[str, Any]:
    """The work of `run`; `folder` is that of --output, or None."""
    report = compare(settings)
    result = {
        "command": "compare",
        "kind": report.kind,
        "subject": report.subject,
        "metrics": list(report.metrics),
        "runs": [
            {
                "run": one.name,
                "model": one.model,
                "seeds": one.seeds,
                "scores": dict(one.scores),
                "differences": dict(one.differences),
            }
            | ({"answers": dict(one.answers)} if one.answers else {})
            for one in report.runs
        ],
        "notes": list(report.notes),
    }
    print_compare(report, Console(quiet=settings.json))
    if folder:
        from domain_ft.verbs.shared.comparison_page import render_compare  # matplotlib is slow to import

        folder.write_report(render_compare(report))
        folder.write_result(result)
    return result


def _kind(runs: Sequence[_Run]) -> str:
    """The verb that made all of the runs.

    Raises:
        SettingsError: the runs are of different verbs, or of one whose runs cannot be compared.
    """
    kinds = {run.name: str(run.result.get("command")) for run in runs}
    for name, kind in kinds.items():
        if kind not in _KINDS:
            raise SettingsError(
                f"'{name}' is a run of `{kind}`, which cannot be compared", fix=f"compare runs of {', '.join(_KINDS)}"
            )
    if len(set(kinds.values())) > 1:
        made = ", ".join(f"'{name}' by `{kind}`" for name, kind in kinds.items())
        raise SettingsError(f"the runs were made by different verbs: {made}", fix="compare runs of the same verb")
    return next(iter(kinds.values()))


def _compare_classify(runs: Sequence[_Run], settings: CompareSettings) -> CompareReport:
    predictions = [_of_seeds(run, Predictions.load) for run in runs]
    first = list(predictions[0].values())
    compared = []
    for run, numbered in zip(runs, predictions, strict=True):
        seeds = list(numbered.values())
        other = run is not runs[0]
        try:
            differences = classification.paired_difference(first, seeds, seed=settings.seed) if other else {}
        except SettingsError as error:
            raise SettingsError(error.what, where=f"{runs[0].name}, {run.name}", fix=error.fix) from error
        scores = classification.seed_metrics(seeds, seed=settings.seed)
        answers: dict[str, int] = {}
        disagreements: list[Disagreement] = []
        if other:
            answers, disagreements = _answers(_kept(runs[0], predictions[0]), _kept(run, numbered))
        compared.append(
            ComparedRun(
                name=run.name,
                model=str(run.result.get("model", "")),
                seeds=scores.pop("n"),
                scores=scores,
                differences=differences,
                learning_curve=run.result.get("learning_curve") or (),
                answers=answers,
                disagreements=disagreements[:_MOST_DISAGREEMENTS] if settings.examples else (),
            )
        )
    return CompareReport(
        kind="classify",
        subject=str(runs[0].result.get("task", "")),
        runs=_adjusted(compared),
        # For single-label tasks, micro F1 equals accuracy.
        metrics=[name for name in classification.METRICS if name != "micro_f1" or first[0].labels.multi_label],
        notes=_notes(compared),
    )


def _kept(run: _Run, seeds: Mapping[int, Predictions]) -> Predictions:
    """The predictions of the kept model; those of the lowest seed if result.json does not name the kept one."""
    kept: Any = (run.result.get("seeds") or {}).get("kept")
    return seeds[kept] if kept in seeds else next(iter(seeds.values()))


def _answers(first: Predictions, other: Predictions) -> tuple[dict[str, int], list[Disagreement]]:
    """How many examples both models, one or neither got right; and the examples that only one got right."""
    predicted = [_names(one, one.predicted()) for one in (first, other)]
    truth = _names(first, first.targets)
    right = [[answer == true for answer, true in zip(one, truth, strict=True)] for one in predicted]
    cases = list(zip(*right, strict=True))
    counts = {
        "both_right": cases.count((True, True)),
        "first_only": cases.count((True, False)),
        "other_only": cases.count((False, True)),
        "both_wrong": cases.count((False, False)),
    }
    apart = [
        Disagreement(first.ids[place], truth[place], predicted[0][place], predicted[1][place])
        for place, (one, another) in enumerate(cases)
        if one != another
    ]
    return counts, apart


def _names(predictions: Predictions, answers: Any) -> list[tuple[str, ...]]:
    """The class names of each example, from answers of shape (n,), or (n, L) if multi-label."""
    names = predictions.labels.names
    if not predictions.labels.multi_label:
        return [(names[answer],) for answer in answers]
    return [tuple(sorted(names[place] for place in answer.nonzero()[0])) for answer in answers]


_ENTITY_METRICS = ("f1", "macro_f1", "precision", "recall")  # F1 over all entities first, as usual in the literature


def _compare_tag(runs: Sequence[_Run], settings: CompareSettings) -> CompareReport:
    from domain_ft.evaluation.entities import EntityCounts, entity_difference, entity_metrics

    counts = [list(_of_seeds(run, EntityCounts.load).values()) for run in runs]
    compared = []
    for run, seeds in zip(runs, counts, strict=True):
        try:
            differences = entity_difference(counts[0], seeds, seed=settings.seed) if run is not runs[0] else {}
        except ValueError as error:
            raise SettingsError(
                "the runs were tested on different texts, or on the same texts with other entities",
                where=f"{runs[0].name}, {run.name}",
                fix="train both with the same --test, or with the same --train and --test-fraction",
            ) from error
        found = entity_metrics(seeds, seed=settings.seed)
        compared.append(
            ComparedRun(
                name=run.name,
                model=str(run.result.get("model", "")),
                seeds=len(seeds),
                scores={
                    name: {**found["seeds"][name], "interval": found["interval"][name]} for name in _ENTITY_METRICS
                },
                differences=differences,
                learning_curve=run.result.get("learning_curve") or (),
            )
        )
    return CompareReport(
        kind="tag",
        subject=str(runs[0].result.get("task", "")),
        runs=_adjusted(compared),
        metrics=_ENTITY_METRICS,
        notes=_notes(compared),
    )


def _compare_adapt(runs: Sequence[_Run], settings: CompareSettings) -> CompareReport:
    fix = (
        "compare runs with the same --corpus and --evaluation-fraction, or score them together: domain-ft "
        "evaluate --model RUN --model RUN --corpus C"
    )
    return _compare_losses(runs, settings, "domain", "held-out text", fix)


def _compare_instruct(runs: Sequence[_Run], settings: CompareSettings) -> CompareReport:
    subject = f"held-out conversations of {runs[0].result.get('data', 'the data')}"
    return _compare_losses(runs, settings, "test", subject, "train both with the same --data, or the same --test")


def _compare_losses(
    runs: Sequence[_Run], settings: CompareSettings, main: str, subject: str, fix: str
) -> CompareReport:
    """Compare held-out losses after training, on the documents that all runs were scored on.

    Args:
        main: the role that is compared first; the other is `control`.
        subject: the text of the main role, for the report.
        fix: what to do if the runs share no documents.
    """
    objectives = {run.name: run.result.get("language_model", run.result.get("objective")) for run in runs}
    if len(set(objectives.values())) > 1:
        made = ", ".join(f"'{name}' has {objective}" for name, objective in objectives.items())
        raise SettingsError(
            f"encoders and decoders cannot be compared by their losses: {made}",
            fix="compare encoders with encoders and decoders with decoders",
        )
    roles = [role for role in (main, "control") if all(run.folder.scores("after", role).is_file() for run in runs)]
    if main not in roles:
        raise CheckpointError(
            "a run has no saved scores of its held-out documents", where=f"scores/after-{main}.json", fix="run it again"
        )
    scores = {role: shared(*(Scores.load(run.folder.scores("after", role)) for run in runs)) for role in roles}
    if not len(scores[main][0]):
        raise SettingsError("the runs share no held-out document: they were measured on different texts", fix=fix)
    roles = [role for role in roles if len(scores[role][0])]
    compared = [
        ComparedRun(
            name=run.name,
            model=str(run.result.get("model", "")),
            seeds=1,
            scores={role: scores[role][place].summary() for role in roles},
            differences={role: difference(scores[role][0], scores[role][place], seed=settings.seed) for role in roles}
            if place
            else {},
        )
        for place, run in enumerate(runs)
    ]
    notes = []
    if (
        runs[0].result.get("language_model", runs[0].result["objective"]) == "mlm"
        and len({_seed(run) for run in runs}) > 1
    ):
        notes.append("The runs have different seeds and masked different words, so the differences are less precise.")
    whole = [len(Scores.load(run.folder.scores("after", main))) for run in runs]
    if len(scores[main][0]) < max(whole):
        notes.append(
            f"The losses are compared on the {len(scores[main][0]):,} held-out documents that all runs were scored on."
        )
    return CompareReport(str(runs[0].result["command"]), subject, compared, roles, notes)


def _seed(run: _Run) -> int | None:
    """The --seed of a run; None if its config.toml is missing, damaged or without one."""
    try:
        return tomllib.loads(run.folder.config.read_text(encoding="utf-8")).get("seed")
    except (OSError, ValueError):
        return None


def _of_seeds(run: _Run, load: Callable[[Path], Saved]) -> dict[int, Saved]:
    """By seed, in rising order, what `load` reads from a run's saved predictions for the test examples.

    Raises:
        CheckpointError: there are none.
    """
    folder = run.folder.path / "predictions"
    numbered = {}
    for path in folder.glob("test-seed-*.npz"):
        found = re.fullmatch(r"test-seed-(\d+)\.npz", path.name)
        if found:
            numbered[int(found[1])] = path
    if not numbered:
        raise CheckpointError(
            "the run has no saved predictions of its test examples", where=str(folder), fix="run it again"
        )
    return {seed: load(numbered[seed]) for seed in sorted(numbered)}


def _adjusted(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The runs with `p_holm` beside `p_value` if several are compared with the first."""
    others = [run for run in runs if run.differences]
    if len(others) < 2:
        return list(runs)
    adjusted = []
    for run in runs:
        differences = {}
        for metric, found in run.differences.items():
            corrected = holm([other.differences[metric]["p_value"] for other in others])
            differences[metric] = {**found, "p_holm": corrected[others.index(run)]}
        adjusted.append(replace(run, differences=differences))
    return adjusted


def _notes(runs: Sequence[ComparedRun]) -> list[str]:
    notes = []
    if any(run.seeds == 1 for run in runs):
        single = ", ".join(run.name for run in runs if run.seeds == 1)
        notes.append(
            f"One seed only: {single}. "
            + (
                "The intervals do not cover other seeds."
                if all(run.seeds == 1 for run in runs)
                else "The spread over seeds is taken from the runs with several seeds."
            )
        )
    few = [found["units"] for run in runs for found in run.differences.values() if found.get("few_units")]
    if few:
        notes.append(few_units(min(few), "test examples or texts"))
    if len(runs) > 2:
        notes.append(
            f"{len(runs) - 1} runs are compared with the first, so the p-values are adjusted (Holm); the intervals "
            "are not."
        )
    return notes


_KINDS: Mapping[str, Callable[[Sequence[_Run], CompareSettings], CompareReport]] = {
    "classify": _compare_classify,
    "tag": _compare_tag,
    "adapt": _compare_adapt,
    "instruct": _compare_instruct,
}
