"""The settings of `classify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from domain_ft.checking import Settings
from domain_ft.verbs.groups import (
    MachineOptions,
    ModelOptions,
    ReadFirstOptions,
    ReadingOptions,
    RunOptions,
    ScreenOptions,
    TaskMethodOptions,
    TaskOptions,
    TaskTrainingOptions,
)


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(Settings, group="Model"):
    """Which features a linear probe reads."""

    features: Literal["auto", "adapted"] = "auto"
    """The features of --method head, if --model is a run of `adapt`: those of the adapted model or those of its base
    model, whichever have the lower log-loss in cross-validation on the training examples (auto); or those of the
    adapted model in any case (adapted)."""


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(
    TaskOptions,
    ReadingOptions,
    ModelOptions,
    TaskMethodOptions,
    FeatureOptions,
    ReadFirstOptions,
    TaskTrainingOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Measuring",
):
    """Fine-tune a classifier, and measure how well it does.

    Examples have one label or several, and are single texts or pairs. The best model is chosen by macro F1 on
    validation examples and scored on test examples, together with two baselines: the majority class, and TF-IDF with a
    linear SVM.
    """

    calibrate: bool = True
    """Calibrate probabilities with a temperature fitted to the validation examples, if it helps in cross-validation."""

    baselines: bool = True
    """Score two baselines on the same test examples: the majority class, and TF-IDF with a linear SVM. If --model is
    a run of `adapt`, also compare linear probes on its features and on those of its base model, which shows whether
    adaptation helped."""
