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
    """Fine-tune a model to tell classes of texts apart, and measure how well it does.

    Examples have one label each, or several; a text each, or a pair of texts. The model is chosen by macro F1 on
    validation examples alone, and reported on test examples, beside a majority class and TF-IDF with a linear SVM.
    """

    calibrate: bool = True
    """Fit a temperature on the validation examples, so that a probability says how often the answer is right."""

    baselines: bool = True
    """Score a majority class and TF-IDF with a linear SVM on the same test examples."""
