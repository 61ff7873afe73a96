"""The model that is kept: the best by a score on held-out rows, the first of equals; and stopping early."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_jobs import cpu_accelerator, job, settings

from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import LoopSettings, train
from domain_ft.training.progress import ProgressDisplay

SCORES = [0.2, 0.5, 0.4, 0.5, 0.1, 0.3]
Weights = dict[str, torch.Tensor]


def run(
    folder: Path,
    loop: LoopSettings,
    scores: Sequence[float | tuple[float, ...]],
    *,
    resume: bool = False,
    fail_at: int | None = None,
) -> tuple[TrainingState, Weights, list[Weights]]:
    """Train with the given scores of the points; return the last state, the final weights and those at each point."""
    base, objective, rows = job("bert")
    trained = {name: p for name, p in base.model.named_parameters() if p.requires_grad}
    points: list[Weights] = []

    def evaluate() -> dict[str, Any]:
        step = first + len(points)
        if step + 1 == fail_at:
            raise RuntimeError("the machine went away")
        points.append({name: p.detach().clone() for name, p in trained.items()})
        return {"good": scores[step]}

    first = 0

    def on_resume(step: int) -> None:
        nonlocal first
        first = step

    state = train(
        base,
        objective,
        rows,
        loop,
        accelerator=cpu_accelerator(),
        checkpoints=folder,
        display=ProgressDisplay(quiet=True),
        log=lambda line: None,
        resume=resume,
        on_resume=on_resume,
        evaluate=evaluate,
        score=lambda point: point["good"] if isinstance(point["good"], tuple) else (point["good"],),
    )
    return state, {name: p.detach().clone() for name, p in trained.items()}, points


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_of_the_best_points_is_kept(tmp_path: Path) -> None:
    state, left, points = run(tmp_path, settings(evaluate_every=1), SCORES)
    assert (state.step, state.best_step, state.best_score) == (6, 2, [0.5])
    assert equal(left, points[1])
    assert not equal(left, points[5])


def test_later_numbers_of_a_score_decide_between_equals(tmp_path: Path) -> None:
    state, _, _ = run(
        tmp_path, settings(evaluate_every=1), [(0.5, -3), (0.5, -2), (0.5, -2), (0.4, 9), (0.5, -4), (0, 0)]
    )
    assert (state.best_step, state.best_score) == (2, [0.5, -2])


def test_the_last_step_is_a_point_too(tmp_path: Path) -> None:
    state, left, points = run(tmp_path, settings(evaluate_every=4), [0.1, 0.2])
    assert len(points) == 2  # after steps 4 and 6
    assert state.best_step == 6
    assert equal(left, points[1])


@pytest.mark.parametrize(("patience", "stops_after"), [(1, 3), (2, 4), (3, 5), (0, 6)])
def test_it_stops_after_so_many_points_without_a_better_one(tmp_path: Path, patience: int, stops_after: int) -> None:
    state, left, points = run(tmp_path, settings(evaluate_every=1, patience=patience), SCORES)
    assert state.step == stops_after
    assert equal(left, points[1])


def test_a_resumed_run_keeps_the_same_model(tmp_path: Path) -> None:
    loop = settings(evaluate_every=1, patience=2, checkpoint_every=1)
    whole, expected, _ = run(tmp_path / "whole", loop, SCORES)
    with pytest.raises(RuntimeError, match="went away"):
        run(tmp_path / "cut", loop, SCORES, fail_at=4)
    resumed, left, _ = run(tmp_path / "cut", loop, SCORES, resume=True)
    assert (resumed.step, resumed.best_step) == (whole.step, whole.best_step)
    assert equal(left, expected)


def test_a_run_that_stopped_early_does_not_continue(tmp_path: Path) -> None:
    loop = settings(evaluate_every=1, patience=2, checkpoint_every=1)
    whole, expected, _ = run(tmp_path, loop, SCORES)
    resumed, left, points = run(tmp_path, loop, SCORES, resume=True)
    assert resumed.step == whole.step == 4
    assert points == []
    assert equal(left, expected)
