"""The report on a classifier in words. Claims follow from intervals: see `task_words`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domain_ft.report.numbers import level, listed, points, span
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.shared import loading_code as code
from domain_ft.verbs.shared.task_words import FEW, few_units, reading, verdict
from domain_ft.wording import counted

BASELINES = {"majority": "majority class", "tfidf_svm": "TF-IDF + linear SVM"}


def headline(report: ClassifyReport) -> str:
    """The result in one plain sentence."""
    classes = counted(len(report.task.labels), "class")
    return (
        f"{report.base.short_name} reaches a macro F1 of {points(report.test['macro_f1'])} on the {classes} of "
        f"{report.task.name}."
    )


def findings(report: ClassifyReport) -> list[str]:
    """The evidence and the caveats, a sentence or two each."""
    test = report.test
    sources = "" if test["units"] == test["examples"] else f" from {counted(test['units'], 'source')}"
    sentences = [
        f"Macro F1 averages over classes, rare and frequent ones alike. Its {level(test)} is "
        f"{span(test['interval']['macro_f1'])}, over {counted(test['examples'], 'test example')}{sources}. "
        f"The accuracy is {points(test['accuracy'])} ({span(test['interval']['accuracy'])})."
    ]
    sentences += _against_baselines(report)
    sentences += reading(report.result)
    if report.result.get("features"):
        sentences.append(_choice_of_features(report.result["features"]))
    if report.result.get("adaptation"):
        sentences.append(_effect_of_adaptation(report.result["adaptation"]))
    seeds = report.result.get("seeds") or {}
    if seeds.get("n", 1) > 1:
        of_seeds = seeds["macro_f1"]
        sentences.append(
            f"Over {seeds['n']} seeds, macro F1 is {points(of_seeds['mean'])} on average, with a standard deviation of "
            f"{points(of_seeds['sd'])}. The model that is kept was the best on the validation examples."
        )
    else:
        sentences.append("The model was trained with one seed only; --seeds 5 would measure the spread over seeds.")
    return sentences + doubts(report)


def doubts(report: ClassifyReport) -> list[str]:
    """What makes the numbers less reliable than they look."""
    test, classes = report.test, report.test["per_class"]
    sentences = []
    if test.get("few_units"):
        sentences.append(few_units(test["units"], "test examples"))
    absent = [name for name, scores in classes.items() if not scores["support"]]
    if absent:
        sentences.append(f"Classes without test examples, and so not measured: {listed(absent)}.")
    silent = [name for name, scores in classes.items() if scores["support"] and not scores["predicted"]]
    if silent:
        sentences.append(f"Never predicted: {listed(silent)}.")
    few = [name for name, scores in classes.items() if 0 < scores["support"] < FEW]
    if few:
        sentences.append(
            f"Too few test examples (fewer than {FEW}) for reliable scores of {counted(len(few), 'class')}: "
            f"{listed(few)}."
        )
    cut = report.result.get("cut_fraction") or 0
    if cut:
        share = f"{100 * cut:.0f}%" if cut >= 0.005 else "less than 1%"
        sentences.append(
            f"The model did not read the whole text of {share} of the examples; see --max-length and --long-text."
        )
    return sentences


def limits(report: ClassifyReport) -> list[str]:
    """What the run does not show."""
    task = report.task
    return [
        f"The scores hold for texts like those of {task.name}. Expect lower scores on texts from another source or "
        "time.",
        "The model chooses a class for any text: it cannot answer 'none of these'."
        if not task.multi_label
        else "The model knows only these classes: it cannot find anything else in a text.",
        probabilities(report),
        "The test examples were used for measuring only. If you choose among many runs by their test scores, the best "
        "score is too high.",
    ]


def probabilities(report: ClassifyReport) -> str:
    """How the probabilities were calibrated, and whether that helped."""
    calibration, chosen = report.test.get("calibration") or {}, report.result.get("calibration")
    temperature = calibration.get("temperature", 1.0)
    if temperature == 1.0:
        if not chosen:
            return "Probabilities are not calibrated."
        return (
            f"Probabilities are not calibrated: a temperature of {chosen['fitted']:.2f}, fitted to the validation "
            "examples, did not clearly help in cross-validation, so it is not used."
        )
    before, after = (points(calibration[name]) for name in ("ece_before", "ece_after"))
    calibrated = f"Probabilities are calibrated on the validation examples, with a temperature of {temperature:.2f}."
    if calibration["ece_after"] > calibration["ece_before"]:
        return (
            f"{calibrated} On the test examples this did not help: the expected calibration error went from {before} "
            f"to {after} points. Do not rely on the probabilities."
        )
    return f"{calibrated} They do not hold for texts with other class frequencies."


def _against_baselines(report: ClassifyReport) -> list[str]:
    """A sentence for each baseline."""
    sentences = []
    for name, called in (
        ("majority", "Always predicting the majority class"),
        ("tfidf_svm", "TF-IDF with a linear SVM"),
    ):
        scores = (report.result.get("baselines") or {}).get(name) or {}
        if "macro_f1" not in scores:
            continue
        reached = f"{called} reaches a macro F1 of {points(scores['macro_f1'])}"
        if "difference" not in scores:
            sentences.append(f"{reached}.")
            continue
        difference = scores["difference"]["macro_f1"]
        subject = "a difference is" if difference["verdict"] == "not shown" else "the model is"
        sentences.append(f"{reached}; {subject} {verdict(difference, 'macro_f1')}.")
    return sentences


def _choice_of_features(features: Mapping[str, Any]) -> str:
    """Which features the probe reads, and why."""
    base, adapted = (f"{features[f'{kind}_loss']:.3f}" for kind in ("base", "adapted"))
    name = Path(features["base"]).name
    if features["chosen"] == "base":
        return (
            f"The probe reads the features of the base model, {name}, not those of the adapted model: their log-loss "
            f"in cross-validation on the training examples is lower ({base} against {adapted}). --features adapted "
            "keeps the adapted model."
        )
    return (
        f"The probe reads the features of the adapted model, not those of its base model, {name}: their log-loss in "
        f"cross-validation on the training examples is lower ({adapted} against {base})."
    )


def _effect_of_adaptation(effect: Mapping[str, Any]) -> str:
    """Whether adaptation helped, by the linear probe."""
    difference, left_out = effect["difference"], effect["left_out_test_examples"]
    shown = {
        "better": "adaptation helped this task: the adapted model is",
        "worse": "adaptation did not help this task: the adapted model is",
        "not shown": "a difference is",
    }[difference["verdict"]]
    untested = f" Left out of the test: {counted(left_out, 'test example')} that the adapted model has read."
    return (
        f"A linear probe fitted to {counted(effect['examples'], 'example')} reaches a macro F1 of "
        f"{points(effect['adapted_macro_f1'])} with the features of the adapted model, and "
        f"{points(effect['base_macro_f1'])} with those of its base model, {Path(effect['base']).name}; {shown} "
        f"{verdict(difference, 'macro_f1')}." + (untested if left_out else "")
    )


def loading_code(report: ClassifyReport) -> str:
    """Python code that loads the run and classifies a text, from inside the run folder.

    Empty for a probe, which only domain-ft can use.
    """
    method = report.settings.get("method")
    if method in ("head", "contrastive"):
        return ""
    return code.loading_code(
        report.base,
        "AutoModelForSequenceClassification",
        full=method == "full",
        options=f", num_labels={len(report.task.labels)}",
        use=(
            'logits = model(**tokenizer("A text to classify.", return_tensors="pt")).logits',
            f"print(logits.{'sigmoid()' if report.task.multi_label else 'softmax(-1)'})",
        ),
        pipeline=(
            'classify = pipeline("text-classification", model="{folder}", top_k=None)  # in the run folder',
            'print(classify("A text to classify."))',
        ),
    )
