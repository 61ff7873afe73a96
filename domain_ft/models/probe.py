"""A linear probe: a linear classifier on the features of a model. It is fitted in seconds.

The features of a text are the mean of the last hidden states of its tokens (`TaskModel.features`). The model is frozen
(`--method head`), or was trained contrastively first (`--method contrastive`). The probe is a multinomial logistic
regression; for multi-label tasks, one regression per class.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from threadpoolctl import threadpool_limits
from torch import Tensor

from domain_ft.corpus.examples import Labels
from domain_ft.errors import ModelError
from domain_ft.files import require_file
from domain_ft.json_files import read_object
from domain_ft.storage import write_atomic, write_json

HEAD_FOLDER = "head"
"""The folder of the probe in a run."""

POOLING = "mean"  # of the last hidden states
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Candidates for C in rising order: the inverse of the L2 penalty's strength, for standardised features."""

FOLDS = 5
"""The most folds of the cross-validation that chooses C."""

_MOST_ITERATIONS = 500
_SMALL = 5_000_000  # numbers in the features; with fewer, one thread is faster
_WEIGHTS_NAME, _CONFIG_NAME = "head.safetensors", "head.json"


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits = features Wᵀ + b.

    Attributes:
        weight: (L, D) float32, for raw features: the standardisation is folded in.
        bias: (L,) float32.
        labels: the classes.
        strength: the C that was chosen; the larger it is, the weaker the penalty.
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
        """Write head.safetensors and head.json, each complete or absent.

        `base` is the model that computes the features; if the run has an adapter, `base` with it computes them.
        """
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
                fix="use another run, or run the task again",
            )
            require_file(folder / _WEIGHTS_NAME)
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
                fix="make the file readable, or take it from a copy of the run",
            ) from error
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the probe's files are damaged: {error}",
                where=str(folder),
                fix="take them from a copy of the run, or run classify again",
            ) from None


def on_frozen_model(run: Path) -> bool:
    """Whether a run has a probe on a frozen model (`--method head`), not on a model with the run's adapter."""
    return (run / HEAD_FOLDER).is_dir() and not (run / "adapter").is_dir()


class Fit(NamedTuple):
    """Logits = features weightᵀ + bias: weight (L, D), bias (L,), both float64."""

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]


@dataclass(frozen=True)
class FittedProbe:
    """A probe, and held-out logits for the examples that it was fitted to.

    Attributes:
        probe: fitted to all examples.
        held_out: (examples, L) float32, the logits of each example from a probe of the same strength that was fitted
            without the example's fold. The probe's own logits for these examples would be overconfident.
        loss: the mean log-loss of `held_out`, in nats.
    """

    probe: Probe
    held_out: npt.NDArray[np.float32]
    loss: float


def fit_probe(
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[Any],
    labels: Labels,
    *,
    groups: npt.NDArray[np.int64] | None = None,
    balanced: bool = False,
    seed: int = 0,
) -> FittedProbe:
    """Fit a probe, with a penalty that is chosen by cross-validation.

    The penalty is chosen by log-loss. Macro F1 would depend too much on single predictions if examples are few. All
    examples of a group are in one fold, so that copies do not make weak penalties look good.

    Args:
        features: (examples, D).
        targets: as `Labels.targets` returns them.
        labels: the classes.
        groups: (examples,) equal numbers for examples that must be in one fold; None if each is its own group. A single
            group is divided.
        balanced: weight the classes equally (scikit-learn's `balanced`), in the fits and in the log-loss.
        seed: of the folds.

    Raises:
        ModelError: features are not finite, or all examples of a single-label task are of one class.
    """
    if not np.isfinite(features).all():
        raise ModelError(
            "the model's features of some training texts are not finite numbers",
            fix="check that its weights are finite; with a low-precision --dtype, try --dtype float32",
        )
    if not labels.multi_label and len(np.unique(targets)) < 2:
        raise ModelError("all training examples are of one class, so there is nothing to tell apart")
    with threadpool_limits(1 if features.size < _SMALL else None):
        return _cross_validated(features, targets, labels, _folds(targets, labels, groups, seed), balanced)


def _cross_validated(
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[Any],
    labels: Labels,
    folds: Sequence[npt.NDArray[np.int64]],
    balanced: bool,
) -> FittedProbe:
    """The probe of the best C. Values are tried in rising order, until the log-loss over `folds` stops falling."""
    best: tuple[float, float, npt.NDArray[np.float64]] | None = None
    for strength in STRENGTHS:
        held_out = np.zeros((len(targets), len(labels)))
        for fold in folds:
            rest = np.setdiff1d(np.arange(len(targets)), fold)
            weight, bias = _fit(features[rest], targets[rest], labels, strength, balanced)
            held_out[fold] = features[fold] @ weight.T + bias
        loss = _log_loss(held_out, targets, labels, balanced)
        if best is not None and loss >= best[0]:
            break  # weaker penalties overfit more, and are slow to fit
        best = loss, strength, held_out
    assert best is not None
    loss, strength, held_out = best
    weight, bias = _fit(features, targets, labels, strength, balanced)
    probe = Probe(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), labels, strength)
    return FittedProbe(probe, held_out.astype(np.float32), loss)


def _folds(
    targets: npt.NDArray[Any], labels: Labels, groups: npt.NDArray[np.int64] | None, seed: int
) -> list[npt.NDArray[np.int64]]:
    """The indices of each fold.

    Groups stay whole, unless there is only one. In a single-label task the folds have about equal shares of each class.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    together = np.arange(len(targets)) if groups is None else groups
    if len(np.unique(together)) < 2:  # all examples are of one group, which has to be cut
        together = np.arange(len(targets))
    units = len(np.unique(together))
    count = min(FOLDS, units)
    kind = GroupKFold
    if not labels.multi_label and np.bincount(targets).max() >= count:  # otherwise no class can be in every fold
        kind = StratifiedKFold if units == len(targets) else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer examples than folds
        cut = kind(count, shuffle=True, random_state=seed).split(np.zeros(len(targets)), targets, together)
        return [fold for _, fold in cut]


def _fit(
    features: npt.NDArray[np.float32], targets: npt.NDArray[Any], labels: Labels, strength: float, balanced: bool
) -> Fit:
    """A regression on standardised features. Its weights are converted for raw features."""
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    spread[spread == 0] = 1.0
    fit = _fit_multi_label if labels.multi_label else _fit_single
    weight, bias = fit((features - mean) / spread, targets, len(labels), strength, balanced)
    weight = weight / spread  # (L, D)
    return Fit(weight, bias - weight @ mean)


def _fit_single(
    features: npt.NDArray[np.float64], targets: npt.NDArray[Any], classes: int, strength: float, balanced: bool
) -> Fit:
    """A multinomial regression. A class without examples gets a constant logit, as if it had half an example."""
    present = np.unique(targets)
    if len(present) == 1:  # possible in a fold; each other class gets the odds of half an example
        whole = Fit(np.zeros((classes, features.shape[1])), np.full(classes, -np.log(2.0 * len(targets))))
        whole.bias[present] = 0.0
        return whole
    weight, bias = _regression(features, targets, strength, balanced)
    if len(present) == 2:  # one logit z for two classes: here -z/2 and z/2
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    whole = Fit(np.zeros((classes, features.shape[1])), np.full(classes, bias.min() - np.log(2.0 * len(targets))))
    whole.weight[present], whole.bias[present] = weight, bias
    return whole


def _fit_multi_label(
    features: npt.NDArray[np.float64], targets: npt.NDArray[Any], classes: int, strength: float, balanced: bool
) -> Fit:
    """A regression per class.

    A class that all examples have, or none, gets a constant logit, with half an example added to each side.
    """
    whole = Fit(np.zeros((classes, features.shape[1])), np.zeros(classes))
    for index, column in enumerate(targets.T):
        present = float(column.sum())
        if 0 < present < len(column):
            weight, bias = _regression(features, column, strength, balanced)
            whole.weight[index], whole.bias[index] = weight[0], bias[0]
        else:
            whole.bias[index] = np.log((present + 0.5) / (len(column) - present + 0.5))
    return whole


def _regression(
    features: npt.NDArray[np.float64], targets: npt.NDArray[Any], strength: float, balanced: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """scikit-learn's weights (classes that occur, D) and biases; for two classes, weights (1, D)."""
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and only needed here
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced" if balanced else None, max_iter=_MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # only the loss on other examples matters
        model.fit(features, targets)
    return model.coef_, model.intercept_


def _log_loss(logits: npt.NDArray[np.float64], targets: npt.NDArray[Any], labels: Labels, balanced: bool) -> float:
    """The mean log-loss in nats; if `balanced`, all classes weigh the same."""
    from sklearn.utils.class_weight import compute_sample_weight

    if labels.multi_label:  # losses and weights (examples, L); each column is balanced separately
        losses = np.logaddexp(0.0, np.where(targets > 0, -logits, logits))
        weights = np.stack([compute_sample_weight("balanced", column) for column in targets.T], axis=1)
    else:
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(targets)), targets]
        weights = compute_sample_weight("balanced", targets)
    return float(np.average(losses, weights=weights if balanced else None))
