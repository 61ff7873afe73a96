"""Scores a model on a task without training it further, by a linear probe on its features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from domain_ft.corpus.examples import Examples, TaskData
from domain_ft.corpus.tasks.rows import ExampleRows
from domain_ft.corpus.tasks.sampling import source_numbers, subset
from domain_ft.evaluation.logits import compute_features
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.probe import FittedProbe, fit_probe
from domain_ft.models.task_model import TaskModel
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.shared.machine import Machine

MOST_EXAMPLES = 2_000
"""The most training examples, and the most test examples. If there are more, a random sample is used."""

_TOKENS = 4096  # per micro-batch


@dataclass(frozen=True)
class TaskProbe:
    """The examples that a linear probe is fitted to and tested on.

    Attributes:
        data: the task.
        rows: its rows by split.
        chosen: the indices of the examples, by split: `train`, `test`.
        balanced: whether the classes are weighted equally.
        seed: of the samples and of the cross-validation.
    """

    data: TaskData
    rows: Mapping[str, ExampleRows]
    chosen: Mapping[str, npt.NDArray[np.int64]]
    balanced: bool
    seed: int

    @classmethod
    def of(
        cls,
        data: TaskData,
        rows: Mapping[str, ExampleRows],
        *,
        balanced: bool = False,
        seed: int = 0,
        untested: Collection[str] = (),
    ) -> TaskProbe:
        """A probe with at most `MOST_EXAMPLES` training examples and as many test examples.

        Args:
            untested: the ids of test examples that are left out, such as those that the model has read.
        """
        train = subset(rows["train"].targets, min(MOST_EXAMPLES, len(rows["train"])), seed)
        usable = np.array(
            [place for place, example in enumerate(data.splits["test"]) if example.id not in untested], dtype=np.int64
        )
        test = np.sort(np.random.default_rng(seed).permutation(usable)[:MOST_EXAMPLES])
        return cls(data, rows, {"train": train, "test": test}, balanced, seed)

    def examples(self, split: str) -> Examples:
        """The chosen examples of a split."""
        return self.data.splits[split].take(self.chosen[split])

    def predictions(self, model: TaskModel, machine: Machine, display: ProgressDisplay) -> Predictions:
        """The predictions for the test examples of a probe on the features of `model`."""
        return self.test(self.fit(model, machine, display), model, machine, display)

    def test(self, fitted: FittedProbe, model: TaskModel, machine: Machine, display: ProgressDisplay) -> Predictions:
        """The predictions for the test examples of a probe that was fitted to the features of `model`."""
        logits = fitted.probe.logits(torch.from_numpy(self._features("test", model, machine, display))).numpy()
        return Predictions.of(self.examples("test"), self.data.labels, logits)

    def fit(self, model: TaskModel, machine: Machine, display: ProgressDisplay) -> FittedProbe:
        """The probe on the features of `model`. No test example is read."""
        return fit_probe(
            self._features("train", model, machine, display),
            self.rows["train"].targets[self.chosen["train"]],
            self.data.labels,
            groups=source_numbers(self.examples("train")),
            balanced=self.balanced,
            seed=self.seed,
        )

    def _features(
        self, split: str, model: TaskModel, machine: Machine, display: ProgressDisplay
    ) -> npt.NDArray[np.float32]:
        """(examples, D) for the chosen examples of a split."""
        with machine.accelerator.autocast():
            return compute_features(
                model,
                self.rows[split].take(self.chosen[split]),
                tokens_per_micro_batch=_TOKENS,
                accelerator=machine.accelerator,
                progress=display.job,
            )
