"""`adapt --task`: the score of a linear probe on a task, before and after training, and after training elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain_ft.corpus.naming import name_of
from domain_ft.corpus.prepared import PreparedCorpus
from domain_ft.corpus.tasks.leaks import find_leaks
from domain_ft.corpus.tasks.opening import open_task
from domain_ft.corpus.tasks.rows import encode
from domain_ft.corpus.tasks.sources import TaskSource
from domain_ft.embedded.loading import load_task_model
from domain_ft.errors import SettingsError
from domain_ft.evaluation.baselines import baseline_facts, tfidf_svm
from domain_ft.evaluation.classification import classification_metrics, paired_difference
from domain_ft.evaluation.predictions import Predictions
from domain_ft.json_files import read_result
from domain_ft.models.base import BaseModel
from domain_ft.models.task_model import TaskModel
from domain_ft.storage import user_path
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.shared.lineage import adapted_runs, training_corpora
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.task_probe import TaskProbe


@dataclass(frozen=True)
class ProbedTask:
    """A task whose score is measured before and after training.

    Attributes:
        probe: the task's examples.
        left_out: the number of test examples that are left out because they are in the training text, or in that of
            the run of --wrong-field.
        wrong_field: the run of --wrong-field; None without it.
    """

    probe: TaskProbe
    left_out: int
    wrong_field: str | None = None

    def predictions(self, base: BaseModel, machine: Machine, display: ProgressDisplay) -> Predictions:
        """The predictions for the test examples, with the current features of `base`."""
        model = TaskModel(
            model=base.model,
            tokenizer=base.tokenizer,
            kind="sequence",
            labels=self.probe.data.labels,
            name=base.name,
            source=base.source,
            revision=base.revision,
            max_length=base.max_length,
            packed=base.packed,
            decoder=base.objective == "clm",
            position_offset=base.position_offset,
        )
        return self.probe.predictions(model, machine, display)

    def wrong_field_predictions(self, machine: Machine, display: ProgressDisplay) -> Predictions | None:
        """The predictions for the test examples, with the features of the model of --wrong-field; None without it."""
        if self.wrong_field is None:
            return None
        labels = self.probe.data.labels
        model = load_task_model(self.wrong_field, labels, device=machine.device, progress=display.job)
        return self.probe.predictions(model, machine, display)

    def facts(
        self, before: Predictions, after: Predictions, wrong_field: Predictions | None, *, seed: int
    ) -> dict[str, Any]:
        """For result.json: the task, the differences, and a TF-IDF baseline with a linear SVM.

        The baseline is fitted to the same training examples.
        """
        train, test = self.probe.examples("train"), self.probe.examples("test")
        labels, validation = self.probe.data.labels, self.probe.data.splits["validation"]
        svm = tfidf_svm(train, validation, test, labels, seed=seed)
        return {
            "task": self.probe.data.name,
            "train_examples": len(train),
            "left_out_test_examples": self.left_out,
            "difference": paired_difference([before], [after], seed=seed),
            "tfidf_svm": baseline_facts(svm, after, seed=seed),
            "wrong_field": self._wrong_field_facts(after, wrong_field, seed) if wrong_field else None,
        }

    def _wrong_field_facts(self, after: Predictions, wrong_field: Predictions, seed: int) -> dict[str, Any]:
        """The scores of the model of --wrong-field, and how much better the adapted model is (`difference`)."""
        assert self.wrong_field is not None
        run = next(adapted_runs(self.wrong_field))
        return {
            "run": self.wrong_field,
            "corpus": name_of(run.corpus),
            "tokens_seen": read_result(user_path(self.wrong_field))["tokens_seen"],
            **probe_scores(wrong_field, seed),
            "difference": paired_difference([wrong_field], [after], seed=seed),
        }


def probe_scores(predictions: Predictions, seed: int) -> dict[str, Any]:
    """A probe's scores for result.json, without those per class."""
    metrics = classification_metrics(predictions, seed=seed)
    del metrics["per_class"]
    return metrics


def probed_task(
    settings: AdaptSettings,
    corpora: Mapping[str, PreparedCorpus],
    base: BaseModel,
    length: int,
    display: ProgressDisplay,
) -> ProbedTask | None:
    """The task of --task; None without it.

    Raises:
        SettingsError: all test examples are in the training text, or --wrong-field has no task or cannot be compared.
    """
    if settings.task is None:
        if settings.wrong_field is not None:
            raise SettingsError("--wrong-field compares scores on a task, but there is no --task", fix="give --task T")
        return None
    if settings.wrong_field is not None:
        _check_wrong_field(settings, settings.wrong_field)
    is_file = user_path(settings.task).exists() or settings.task.startswith("hf:")
    source = TaskSource(train=settings.task) if is_file else TaskSource(task=settings.task)
    data = open_task(source, progress=display.job)
    others = training_corpora(settings.wrong_field, display)[0] if settings.wrong_field else []
    read = find_leaks(data, [corpora["domain"], *others], display.job).test_examples_read
    tested = len(data.splits["test"])
    if len(read) == tested:
        raise SettingsError(
            f"--task {settings.task}: all {tested:,} test examples are in the training text of "
            f"{corpora['domain'].name}, so their score would not show what adaptation is worth",
            fix="give another task, or leave the task's test texts out of the corpus",
        )
    if read:
        display.say(
            f"note: {len(read):,} of {tested:,} test examples of {data.name} are in the training text"
            f"{' or in that of --wrong-field' if others else ''}; they are left out of the test"
        )
    read_as: dict[str, Any] = {"max_length": length, "long_text": "truncate", "progress": display.job}
    rows = {split: encode(data.splits[split], data.labels, base.tokenizer, **read_as) for split in ("train", "test")}
    return ProbedTask(TaskProbe.of(data, rows, seed=settings.seed, untested=read), len(read), settings.wrong_field)


def _check_wrong_field(settings: AdaptSettings, run: str) -> None:
    """Refuse a run that is no run of `adapt`, or was adapted from another base model."""
    runs = list(adapted_runs(run))
    if not runs:
        raise SettingsError(
            f"--wrong-field {run}: not the folder of a finished run of adapt",
            fix="adapt the same base model to another field, with the same budget, and give its run folder",
        )
    base = [settings.model, *(one.model for one in adapted_runs(settings.model))][-1]
    if runs[-1].model != base:
        raise SettingsError(
            f"--wrong-field {run}: it was adapted from {runs[-1].model}, and this run starts from {base}",
            fix="give a run from the same base model; otherwise the difference would be that of the base models",
        )
