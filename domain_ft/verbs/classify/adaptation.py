"""Linear probes on the features of an adapted model and of its base model: which to use, and did adaptation help?"""

from __future__ import annotations

import dataclasses
from typing import Any

from accelerate.utils import broadcast_object_list

from domain_ft.embedded.loading import load_task_model
from domain_ft.errors import UserError
from domain_ft.evaluation.classification import paired_difference, point_scores
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.job import ClassifyJob, FeatureChoice
from domain_ft.verbs.shared.lineage import adapted_runs
from domain_ft.verbs.shared.task_probe import TaskProbe
from domain_ft.verbs.shared.task_runs import load_model


def choose_features(job: ClassifyJob, display: ProgressDisplay) -> ClassifyJob:
    """The job with the model whose features serve a probe better: the adapted model or its base model.

    Adaptation can help one task and harm another. The lower log-loss in cross-validation on training examples decides,
    so the choice does not bias the test score. The job is unchanged if --method is not head, with --features adapted,
    if the model does not come from a run of `adapt`, or if its base model cannot be loaded.
    """
    runs = list(adapted_runs(job.trained_from))
    if job.settings.method != "head" or job.settings.features != "auto" or not runs:
        return job
    name = runs[-1].model
    settings = dataclasses.replace(job.settings, model=name)
    try:
        base = load_model(settings, job.machine, job.data.labels, "sequence", display)
    except UserError as error:
        display.warn(f"the features are those of the adapted model, since its base model cannot be loaded: {error}")
        return job
    probe = _probe(job)
    models = {"base": base, "adapted": job.model}
    fitted = {}
    for kind, model in models.items():
        display.say(f"fitting a linear probe to the features of {model.name}, to choose the features")
        fitted[kind] = probe.fit(model, job.machine, display)
    better = fitted["base"].loss < fitted["adapted"].loss
    (chosen,) = broadcast_object_list(["base" if better else "adapted"])  # processes may differ by rounding
    return dataclasses.replace(job, model=models[chosen], features=FeatureChoice(chosen, name, fitted))


def effect_of_adaptation(job: ClassifyJob, display: ProgressDisplay) -> dict[str, Any] | None:
    """The macro F1, on the test examples, of probes on the features of the adapted model and of its base model.

    Test examples that the adapted model has read are left out. Both models read the same rows, because they have the
    same tokenizer.

    Returns:
        `base` (the base model's name), `base_macro_f1`, `adapted_macro_f1`, `difference` (see `paired_difference`),
        `examples` (the number of training examples that each probe is fitted to), and `left_out_test_examples`. None if
        the model does not come from a run of `adapt` or has read all test examples, or if one of the two cannot be
        loaded.
    """
    runs = list(adapted_runs(job.trained_from))
    read = job.leaks.test_examples_read
    if not runs or len(read) == len(job.data.splits["test"]):
        return None
    probe = _probe(job)
    names = {"base": runs[-1].model, "adapted": job.trained_from}
    found = {}
    for kind, name in names.items():
        display.say(f"testing a linear probe on the features of {name}, to see whether adaptation helped")
        try:
            model = load_task_model(name, job.data.labels, device=job.machine.device, progress=display.job)
        except UserError as error:
            display.warn(f"whether adaptation helped is not measured, since {name} cannot be loaded: {error}")
            return None
        fitted = job.features.fitted[kind] if job.features else probe.fit(model, job.machine, display)
        found[kind] = probe.test(fitted, model, job.machine, display)
    return {
        "base": names["base"],
        **{f"{kind}_macro_f1": point_scores(predictions)["macro_f1"] for kind, predictions in found.items()},
        "difference": paired_difference([found["base"]], [found["adapted"]], seed=job.settings.seed)["macro_f1"],
        "examples": len(probe.chosen["train"]),
        "left_out_test_examples": len(read),
    }


def _probe(job: ClassifyJob) -> TaskProbe:
    """The probe of the task, without the test examples that the adapted model has read."""
    settings = job.settings
    return TaskProbe.of(
        job.data,
        job.rows,
        balanced=settings.balance != "none",
        seed=settings.seed,
        untested=job.leaks.test_examples_read,
    )
