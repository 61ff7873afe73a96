"""Scoring of a model on a task by a linear probe on its features, without training the model further."""

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
"""The maximum number of training examples, and of test examples. From more, a random sample is drawn."""

_TOKENS = 4096  # per micro-batch


@dataclass(frozen=True)
class TaskProbe:
    """The examples that a linear probe is fitted to and tested on.

    Attributes:
        data: the task.
        rows: the task's rows by split.
        chosen: the indices of the chosen examples by split: `train`, `test`.
        balanced: whether the classes are weighted equally.
        seed: seeds the samples and the cross-validation.
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
        """A probe with at most `MOST_EXAMPLES` training examples, and at most `MOST_EXAMPLES` test examples.

        Args:
            untested: the ids of the test examples to leave out, such as those that the model has read.
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
        """Fit a probe to the features of `model`, and predict the test examples."""
        return self.test(self.fit(model, machine, display), model, machine, display)

    def test(self, fitted: FittedProbe, model: TaskModel, machine: Machine, display: ProgressDisplay) -> Predictions:
        """Predict the test examples with a probe that was fitted to the features of `model`."""
        logits = fitted.probe.logits(torch.from_numpy(self._features("test", model, machine, display))).numpy()
        return Predictions.of(self.examples("test"), self.data.labels, logits)

    def fit(self, model: TaskModel, machine: Machine, display: ProgressDisplay) -> FittedProbe:
        """Fit a probe to the features of `model`. No test example is read."""
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
        """(examples, D) the features of the chosen examples of a split."""
        with machine.accelerator.autocast():
            return compute_features(
                model,
                self.rows[split].take(self.chosen[split]),
                tokens_per_micro_batch=_TOKENS,
                accelerator=machine.accelerator,
                progress=display.job,
            )
