"""Predictions drawn at random, for the tests of metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from domain_ft.corpus.examples import Labels
from domain_ft.evaluation.predictions import Predictions


def drawn(
    examples: int = 200,
    classes: int = 5,
    *,
    skill: float = 1.5,
    seed: int = 0,
    model: int = 0,
    group: int = 1,
    multi_label: bool = False,
) -> Predictions:
    """Predictions of a model with some `skill`. The test set depends on `seed`, and the model on `model`."""
    world, own = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, model])
    sources = -(-examples // group)
    hard = np.repeat(world.normal(size=(sources, classes)), group, axis=0)[:examples]
    share = 1 / np.arange(1, classes + 1)
    targets: Any
    if multi_label:
        targets = np.repeat(world.random((sources, classes)) < 0.3, group, axis=0)[:examples].astype(np.uint8)
        holds = targets - 0.5
    else:
        targets = np.repeat(world.choice(classes, sources, p=share / share.sum()), group)[:examples]
        holds = np.eye(classes)[targets]
    logits = (hard + own.normal(size=hard.shape) + skill * holds).astype(np.float32)
    return Predictions(
        ids=tuple(f"example-{index}" for index in range(examples)),
        groups=np.arange(examples) // group,
        targets=targets,
        logits=logits,
        labels=Labels(tuple(f"class {index}" for index in range(classes)), multi_label),
    )


@st.composite
def any_predictions(draw: st.DrawFn) -> Predictions:
    """A few examples of a few classes, single-label or multi-label, with ties, absent classes and shared sources."""
    examples, classes = draw(st.integers(1, 25)), draw(st.integers(2, 5))
    multi_label = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.integers(1, classes))
    targets = (
        rng.integers(0, 2, (examples, classes)).astype(np.uint8) if multi_label else rng.integers(0, top, examples)
    )
    logits = rng.integers(-2, 3, (examples, classes)).astype(np.float32)
    return Predictions(
        ids=tuple(draw(st.lists(st.text(), min_size=examples, max_size=examples))),
        groups=rng.integers(0, draw(st.integers(1, examples)), examples),
        targets=targets,
        logits=logits,
        labels=Labels(tuple(f"クラス {index}" for index in range(classes)), multi_label),
    )
