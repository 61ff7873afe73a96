"""Linear probes of `classify`: on a frozen model (--method head), or on one that was first trained contrastively
(--method contrastive).

features of all examples, once -> a probe for each trial -> predictions
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.tasks.rows import ExampleRows
from domain_ft.corpus.tasks.sampling import source_numbers, strata
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.evaluation.logits import compute_features
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.probe import fit_probe
from domain_ft.report.numbers import listed
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.job import ClassifyJob, ClassifyOutcome, outcome_of
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.shared.trials import Trial
from domain_ft.wording import counted

SEED_SHARE = 0.9
"""With several seeds, the share of the training and validation examples that each probe on a frozen model is fitted to.
Otherwise only the folds of the cross-validation would depend on the seed."""

FEWEST_COMPARED = 4
"""The fewest examples in a step of contrastive training: two of each of two classes."""


def check_contrastive(settings: ClassifySettings) -> None:
    """Refuse steps that are too small to compare examples, or that are measured in tokens.

    Raises:
        SettingsError: --tokens-per-step, or a --batch-size below FEWEST_COMPARED.
    """
    if settings.tokens_per_step:
        raise SettingsError(
            "--tokens-per-step: a step of --method contrastive is measured in examples, about as many of each class",
            fix="use --batch-size",
        )
    if settings.batch_size and settings.batch_size < FEWEST_COMPARED:
        raise SettingsError(
            f"--batch-size {settings.batch_size}: --method contrastive compares the examples of a step, so it needs at "
            "least two of each of two classes",
            fix=f"give {FEWEST_COMPARED} or more; 32 is the default",
        )


def check_class_sizes(
    targets: npt.NDArray[Any], labels: Labels, trials: Sequence[Trial], display: ProgressDisplay
) -> None:
    """Check that contrastive training has pairs of the same class and of different classes.

    A warning names the classes with a single training example.

    Args:
        targets: (examples, ...) of all training examples.

    Raises:
        CorpusError: a trial lacks one of the two kinds of pairs.
    """
    for trial in trials:
        drawn = targets[trial.indices(targets, "none")]
        counts = drawn.sum(0).astype(int) if labels.multi_label else np.bincount(drawn, minlength=len(labels))  # (L,)
        which = f" ({trial.describe()})" if trial.size else ""
        groups = len(np.unique(strata(drawn)))
        if groups < 2 or counts.max() < 2:
            found = "all have the same class" if groups < 2 else "each have a class of their own"
            raise CorpusError(
                "--method contrastive compares training examples of the same class and of different classes, but the "
                f"{len(drawn):,} training examples{which} {found}",
                fix="add labelled examples, about eight of each class",
            )
        alone = [name for name, count in zip(labels.names, counts, strict=True) if count == 1]
        if alone:
            display.warn(
                f"{counted(len(alone), 'class has', 'classes have')} only one training example{which}, which cannot "
                f"be compared with another of its class: {listed(alone)}"
            )


def predict_with_new_probe(job: ClassifyJob, trial: Trial) -> Predictions:
    """Predictions for the validation examples by a probe that is fitted to a trial's training examples."""
    drawn = trial.indices(job.rows["train"].targets, "none")
    train = job.rows["train"].take(drawn)
    fitted = fit_probe(
        _features(job, train),
        train.targets,
        job.data.labels,
        groups=source_numbers(job.data.splits["train"].take(drawn)),
        balanced=job.settings.balance == "weights",
        seed=trial.seed,
    )
    logits = fitted.probe.logits(torch.from_numpy(_features(job, job.rows["validation"]))).numpy()
    return Predictions.of(job.data.splits["validation"], job.data.labels, logits)


def _features(job: ClassifyJob, rows: ExampleRows, display: ProgressDisplay | None = None) -> npt.NDArray[np.float32]:
    """(examples, D) the features that probes are fitted to."""
    with job.machine.accelerator.autocast():
        return compute_features(
            job.model,
            rows,
            tokens_per_micro_batch=job.settings.tokens_per_micro_batch or 4096,
            accelerator=job.machine.accelerator,
            progress=display.job if display else None,
        )


def probe_outcomes(
    job: ClassifyJob, trials: Sequence[Trial], display: ProgressDisplay, state: TrainingState | None = None
) -> list[ClassifyOutcome]:
    """Fit a linear probe for each trial. The features of an example are computed only once for all trials.

    A probe needs no validation examples, because its penalty is chosen by cross-validation. So with all training
    examples a probe is also fitted to validation examples; its predictions for these are from the cross-validation.
    With fewer training examples it is fitted to those alone, so that a learning curve shows the right numbers.

    Args:
        state: the final state of the contrastive training of the only trial in `trials`; None for a frozen model.
    """
    train = len(job.rows["train"])
    targets = np.concatenate([job.rows["train"].targets, job.rows["validation"].targets])
    drawn = [(trial, _probe_examples(job, trial, targets)) for trial in trials]
    used = np.unique(np.concatenate([*(chosen for _, chosen in drawn), np.arange(train, len(targets))]))
    used_train = used[used < train]
    features = {
        split: _features(job, rows.take(used_train) if split == "train" else rows, display)
        for split, rows in job.rows.items()
    }
    both = np.concatenate([features["train"], features["validation"]])  # (used, D)
    groups = source_numbers(job.data.splits["train"].take(used_train), job.data.splits["validation"])
    outcomes = []
    for trial, chosen in drawn:
        rows = np.searchsorted(used, chosen)
        fitted = fit_probe(
            both[rows],
            targets[chosen],
            job.data.labels,
            groups=groups[rows],
            balanced=job.settings.balance == "weights",
            seed=trial.seed,
        )
        logits = {
            split: fitted.probe.logits(torch.from_numpy(features[split])).numpy() for split in ("validation", "test")
        }
        seen = chosen >= train
        logits["validation"][chosen[seen] - train] = fitted.held_out[seen]
        validation, test = (
            Predictions.of(job.data.splits[split], job.data.labels, values) for split, values in logits.items()
        )
        outcomes.append(outcome_of(job, trial, validation, test, probe=fitted.probe, state=state))
    return outcomes


def _probe_examples(job: ClassifyJob, trial: Trial, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(n,) the indices, in `targets`, of the examples that a trial's probe is fitted to.

    Args:
        targets: (examples, ...), first of the training examples, then of the validation examples.
    """
    if trial.size is not None:
        return trial.indices(job.rows["train"].targets, job.settings.balance)
    share = SEED_SHARE if job.trials is None and job.settings.seeds > 1 else 1.0
    return dataclasses.replace(trial, size=round(share * len(targets))).indices(targets, job.settings.balance)
