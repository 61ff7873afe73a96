"""A linear probe: a linear classifier on the features of a frozen model. Fitting it takes seconds.

The features of a text are the mean of the last hidden states of its tokens (`TaskModel.features`), computed once. The
probe is a multinomial logistic regression; for multi-label tasks, one regression per class.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from domain_ft.corpus.examples import Labels
from domain_ft.errors import ModelError
from domain_ft.files import refuse_no_file
from domain_ft.json_files import read_object
from domain_ft.storage import write_atomic, write_json

HEAD_FOLDER = "head"
"""The folder of the probe in a run."""

POOLING = "mean"  # of the last hidden states
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Candidates for C, the inverse strength of the L2 penalty on standardised features."""

_MOST_ITERATIONS = 500
_WEIGHTS_NAME, _CONFIG_NAME = "head.safetensors", "head.json"


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits = features Wᵀ + b.

    Attributes:
        weight: (L, D) float32, for raw features: the standardisation is folded in.
        bias: (L,) float32.
        labels: the classes.
        strength: the C that was chosen.
    """

    weight: Tensor
    bias: Tensor
    labels: Labels
    strength: float

    def logits(self, features: Tensor) -> Tensor:
        """(examples, L) float32 for features (examples, D)."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float(), self.weight, self.bias)

    def to(self, device: torch.device | str) -> Probe:
        """The same probe on `device`."""
        return dataclasses.replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    def save(self, folder: Path, *, base: str, revision: str) -> None:
        """Write head.safetensors and head.json, each complete or absent; `base` is the model of the features."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()}
        write_atomic(folder / _WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
        settings = {
            "pooling": POOLING,
            "base": base,
            "revision": revision,
            "labels": list(self.labels.names),
            "multi_label": self.labels.multi_label,
            "strength": self.strength,
        }
        write_json(folder / _CONFIG_NAME, settings)

    @classmethod
    def load(cls, folder: Path) -> tuple[Probe, dict[str, Any]]:
        """The probe in `folder`, and the content of head.json, with `base` and `revision`.

        Raises:
            ModelError: a file is missing or damaged.
        """
        try:
            settings = read_object(
                folder / _CONFIG_NAME,
                ModelError,
                kinds={"labels": list, "multi_label": bool, "strength": float, "base": str, "revision": str},
                needed=("labels", "multi_label", "strength", "base", "revision"),
                former={"several": "multi_label"},
                fix="take another run, or run the task again",
            )
            refuse_no_file(folder / _WEIGHTS_NAME)
            tensors = load_file(folder / _WEIGHTS_NAME)
            labels = Labels(tuple(settings["labels"]), settings["multi_label"])
            return cls(tensors["weight"], tensors["bias"], labels, settings["strength"]), settings
        except FileNotFoundError as error:
            raise ModelError(
                f"the probe has no {Path(error.filename or _WEIGHTS_NAME).name}", where=str(folder)
            ) from None
        except OSError as error:
            path = folder / _WEIGHTS_NAME
            raise ModelError(
                f"the probe's {path.name} cannot be read: {error.strerror or error}",
                where=str(path),
                fix="give yourself the right to read it, or take it from a copy of the run",
            ) from error
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the probe's files are damaged: {error}",
                where=str(folder),
                fix="take them from a copy of the run, or run classify again",
            ) from None


class Fit(NamedTuple):
    """Logits = features weightᵀ + bias: weight (L, D), bias (L,), both float64."""

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]


def fit_probe(
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[Any],
    labels: Labels,
    *,
    validation: tuple[npt.NDArray[np.float32], npt.NDArray[Any]],
    balanced: bool = False,
) -> Probe:
    """Fit a probe to training examples, with the penalty that gives the best macro F1 on validation examples.

    Args:
        features: (examples, D).
        targets: as `Labels.targets` returns them.
        labels: the classes.
        validation: features and targets that the penalty is chosen on; the stronger one of equals.
        balanced: weight the classes equally (scikit-learn's `balanced`).

    Raises:
        ModelError: features are not finite, or all training examples are of one class.
    """
    if not np.isfinite(features).all():
        raise ModelError(
            "the model's features of some training texts are not finite numbers",
            fix="check that its weights are finite; with a low-precision --dtype, try --dtype float32",
        )
    if not labels.multi_label and len(np.unique(targets)) < 2:
        raise ModelError("all training examples are of one class, so there is nothing to tell apart")
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    spread[spread == 0] = 1.0
    standardised = (features - mean) / spread
    fit = _fit_multi_label if labels.multi_label else _fit_single
    best: tuple[float, float, Fit] | None = None
    for strength in STRENGTHS:
        weight, bias = fit(standardised, targets, len(labels), strength, balanced)
        weight = weight / spread  # (L, D), for raw features from here on
        bias = bias - weight @ mean  # (L,)
        score = _macro_f1(validation[0] @ weight.T + bias, validation[1], labels)
        if best is None or score > best[0]:
            best = score, strength, Fit(weight, bias)
    assert best is not None
    _, strength, (weight, bias) = best
    return Probe(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), labels, strength)


def _fit_single(
    features: npt.NDArray[np.float64], targets: npt.NDArray[Any], classes: int, strength: float, balanced: bool
) -> Fit:
    """A multinomial regression. A class without examples gets the logit that half an example would give it."""
    weight, bias, present = _regression(features, targets, strength, balanced)
    if len(present) == 2:  # one logit z for two classes: here -z/2 and z/2
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    whole = Fit(np.zeros((classes, features.shape[1])), np.full(classes, bias.min() - np.log(2.0 * len(targets))))
    whole.weight[present], whole.bias[present] = weight, bias
    return whole


def _fit_multi_label(
    features: npt.NDArray[np.float64], targets: npt.NDArray[Any], classes: int, strength: float, balanced: bool
) -> Fit:
    """A regression per class. One that all examples have, or none, gets the odds with half an example on each side."""
    whole = Fit(np.zeros((classes, features.shape[1])), np.zeros(classes))
    for index, column in enumerate(targets.T):
        present = float(column.sum())
        if 0 < present < len(column):
            weight, bias, _ = _regression(features, column, strength, balanced)
            whole.weight[index], whole.bias[index] = weight[0], bias[0]
        else:
            whole.bias[index] = np.log((present + 0.5) / (len(column) - present + 0.5))
    return whole


def _regression(
    features: npt.NDArray[np.float64], targets: npt.NDArray[Any], strength: float, balanced: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """scikit-learn's weights (classes, D) or (1, D), biases, and the classes that occur."""
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and only needed here
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced" if balanced else None, max_iter=_MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # only the score on validation examples matters
        model.fit(features, targets)
    return model.coef_, model.intercept_, model.classes_.astype(np.int64)


def _macro_f1(logits: npt.NDArray[Any], targets: npt.NDArray[Any], labels: Labels) -> float:
    from sklearn.metrics import f1_score

    predicted = logits > 0 if labels.multi_label else logits.argmax(1)
    return float(f1_score(targets, predicted, average="macro", zero_division=0.0))
