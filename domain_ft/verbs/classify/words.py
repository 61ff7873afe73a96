"""What the report on a classifier says in words. A claim
goes as far as its interval and no further: see `task_words`."""

from __future__ import annotations

from domain_ft.report.numbers import level, listed, points, span
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.shared import loading_code as code
from domain_ft.verbs.shared.task_words import FEW, few_units, verdict
from domain_ft.wording import counted

BASELINES = {"majority": "majority class", "tfidf_svm": "TF-IDF + linear SVM"}


def headline(report: ClassifyReport) -> str:
    """What came out, in one sentence for everybody."""
    classes = counted(len(report.task.labels), "class")
    return (
        f"{report.base.short_name} reaches a macro F1 of {points(report.test['macro_f1'])} on the {classes} of "
        f"{report.task.name}."
    )


def findings(report: ClassifyReport) -> list[str]:
    """The headline's grounds and its doubts, a sentence or two each."""
    test = report.test
    sources = "" if test["units"] == test["examples"] else f" from {counted(test['units'], 'source')}"
    sentences = [
        f"Macro F1 is the mean over classes, the rare ones as much as the frequent. Its {level(test)} is "
        f"{span(test['interval']['macro_f1'])}, over {counted(test['examples'], 'test example')}{sources}. "
        f"The accuracy is {points(test['accuracy'])} ({span(test['interval']['accuracy'])})."
    ]
    sentences += _against_baselines(report)
    seeds = report.result.get("seeds") or {}
    if seeds.get("n", 1) > 1:
        of_seeds = seeds["macro_f1"]
        sentences.append(
            f"Trained from {seeds['n']} seeds the macro F1 is {points(of_seeds['mean'])} on average, with a standard "
            f"deviation of {points(of_seeds['sd'])}. The model that is kept was the best on validation examples."
        )
    else:
        sentences.append("It was trained from one seed: what another would give is not measured (--seeds 5 does).")
    return sentences + doubts(report)


def doubts(report: ClassifyReport) -> list[str]:
    """What makes the numbers rougher than they look, in sentences."""
    test, classes = report.test, report.test["per_class"]
    sentences = []
    if test.get("few_units"):
        sentences.append(few_units(test["units"], "test examples"))
    absent = [name for name, scores in classes.items() if not scores["support"]]
    if absent:
        sentences.append(f"Not in the test examples, so not measured: {listed(absent)}.")
    silent = [name for name, scores in classes.items() if scores["support"] and not scores["predicted"]]
    if silent:
        sentences.append(f"Never predicted: {listed(silent)}.")
    few = [name for name, scores in classes.items() if 0 < scores["support"] < FEW]
    if few:
        sentences.append(
            f"Too few test examples (fewer than {FEW}) to say much of {counted(len(few), 'class')}: {listed(few)}."
        )
    cut = report.result.get("cut_fraction") or 0
    if cut:
        share = f"{100 * cut:.0f}%" if cut >= 0.005 else "less than 1%"
        sentences.append(
            f"Of {share} of the examples not all text was read: --max-length and --long-text decide on that."
        )
    return sentences


def limits(report: ClassifyReport) -> list[str]:
    """What the run does not say."""
    task = report.task
    return [
        f"The scores hold for texts like those of {task.name}. On texts from another source, or of another time, they "
        "will be lower.",
        "It always answers, on any text: none of its answers is 'none of these'."
        if not task.multi_label
        else "Its classes are all it knows: what a text holds besides, it does not say.",
        probabilities(report),
        "The test examples were used for measuring alone. If you choose among many runs by their test scores, the best "
        "one's score is too high.",
    ]


def probabilities(report: ClassifyReport) -> str:
    """What the probabilities are worth, and what was done to them."""
    found, chosen = report.test.get("calibration") or {}, report.result.get("calibration")
    temperature = found.get("temperature", 1.0)
    if temperature == 1.0:
        if not chosen:
            return "Probabilities are not calibrated: they are what the model was trained to say."
        return (
            f"Probabilities are not calibrated: a temperature of {chosen['fitted']:.2f} was fitted to the validation "
            "examples, and was no sure improvement on those that it was not fitted to, so it is not used."
        )
    before, after = (points(found[name]) for name in ("ece_before", "ece_after"))
    said = f"Probabilities are calibrated on validation examples, with a temperature of {temperature:.2f}."
    if found["ece_after"] > found["ece_before"]:
        return (
            f"{said} On the test examples they are no better for it: the expected calibration error went from {before} "
            f"to {after} points. Do not take them at their word."
        )
    return f"{said} Where classes are more or less frequent than in these examples, they are off."


def _against_baselines(report: ClassifyReport) -> list[str]:
    """A sentence for each baseline that was run."""
    sentences = []
    for name, called in (("majority", "Always saying the majority class"), ("tfidf_svm", "TF-IDF with a linear SVM")):
        scores = (report.result.get("baselines") or {}).get(name) or {}
        if "macro_f1" not in scores:
            continue
        reached = f"{called} reaches a macro F1 of {points(scores['macro_f1'])}"
        if "difference" not in scores:
            sentences.append(f"{reached}.")
            continue
        difference = scores["difference"]["macro_f1"]
        subject = "that the model is better or worse is" if difference["verdict"] == "not shown" else "the model is"
        sentences.append(f"{reached}; {subject} {verdict(difference, 'macro_f1')}.")
    return sentences


def loading_code(report: ClassifyReport) -> str:
    """Python that loads the run from within the run folder and classifies a text; empty where only `predict` can."""
    method = report.settings.get("method")
    if method == "head":
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
