"""The settings of `classify`."""

from __future__ import annotations

from dataclasses import dataclass

from domain_ft.verbs.groups import (
    MachineOptions,
    ModelOptions,
    ReadingOptions,
    RunOptions,
    ScreenOptions,
    TaskMethodOptions,
    TaskOptions,
    TaskTrainingOptions,
)


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(
    TaskOptions,
    ReadingOptions,
    ModelOptions,
    TaskMethodOptions,
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
    """Calibrate probabilities with a temperature that is fitted on the validation examples."""

    baselines: bool = True
    """Score two baselines on the same test examples: the majority class, and TF-IDF with a linear SVM."""
