"""The report on a tagger in words. Claims follow from intervals: see `task_words`."""

from __future__ import annotations

from domain_ft.report.numbers import level, listed, points, span
from domain_ft.verbs.shared import loading_code as code
from domain_ft.verbs.shared.task_words import FEW, few_units, reading, verdict
from domain_ft.verbs.tag.report import TagReport
from domain_ft.wording import counted


def headline(report: TagReport) -> str:
    """The result in one plain sentence."""
    types = report.task.labels
    found = types[0] if len(types) == 1 else counted(len(types), "type")
    score = points(report.test[score_of(report)])
    model = report.base.short_name
    return f"{model} finds the entities of {report.task.name} ({found}) with an {named(report)} of {score}."


def score_of(report: TagReport) -> str:
    """The main score: F1, or macro F1 for several types."""
    return "f1" if len(report.task.labels) == 1 else "macro_f1"


def named(report: TagReport) -> str:
    """The name of the main score."""
    return "F1" if len(report.task.labels) == 1 else "F1 (averaged over types)"


def findings(report: TagReport) -> list[str]:
    """The evidence and the caveats, a sentence or two each."""
    test, metric = report.test, score_of(report)
    sources = "" if test["units"] == test["examples"] else f" from {counted(test['units'], 'document')}"
    sentences = [
        "A predicted entity is right if its beginning, its end and its type are right. "
        f"The {level(test)} of {named(report)} is {span(test['interval'][metric])}, "
        f"over {counted(test['entities'], 'entity', 'entities')} in {counted(test['examples'], 'test text')}{sources}. "
        f"{points(test['precision'])}% of the predicted entities are right (precision), and the model finds "
        f"{points(test['recall'])}% of the true entities (recall)."
    ]
    gazetteer = (report.result.get("baselines") or {}).get("gazetteer")
    if gazetteer:
        difference = gazetteer["difference"][metric]
        subject = "a difference is" if difference["verdict"] == "not shown" else "the model is"
        sentences.append(
            f"Looking up the {gazetteer['entries']:,} entities of the training texts reaches "
            f"{points(gazetteer[metric])}; {subject} {verdict(difference, metric)}."
        )
    sentences += reading(report.result)
    seeds = report.result["seeds"]
    if seeds["n"] > 1:
        sentences.append(
            f"Over {seeds['n']} seeds, {named(report)} is {points(seeds[metric]['mean'])} on average, with a standard "
            f"deviation of {points(seeds[metric]['sd'])}. The model that is kept was the best on the validation texts."
        )
    else:
        sentences.append("The model was trained with one seed only; --seeds 5 would measure the spread over seeds.")
    return sentences + doubts(report)


def doubts(report: TagReport) -> list[str]:
    """What makes the numbers less reliable than they look."""
    test, types = report.test, report.test["per_type"]
    sentences = []
    if test["few_units"]:
        sentences.append(few_units(test["units"], "test texts"))
    few = [name for name, scores in types.items() if 0 < scores["support"] < FEW]
    if few:
        sentences.append(f"Types with too few test entities (fewer than {FEW}) for a reliable score: {listed(few)}.")
    absent = [name for name in report.task.labels if name not in types or not types[name]["support"]]
    if absent:
        sentences.append(f"Types that are not in the test texts, and so not measured: {listed(absent)}.")
    unseen = [name for name, scores in types.items() if scores["support"] and name not in report.task.labels]
    if unseen:
        sentences.append(
            f"Types that are in the test texts but not in the training texts, and so always missed: {listed(unseen)}."
        )
    inexact = report.result["inexact_entities"]
    if inexact:
        sentences.append(
            f"{counted(inexact, 'entity begins or ends', 'entities begin or end')} inside a token "
            "of this model, which cannot find them exactly."
        )
    return sentences


def limits(report: TagReport) -> list[str]:
    """What the run does not show."""
    return [
        f"The scores hold for texts like those of {report.task.name}. Expect lower scores on texts from another source "
        "or time.",
        "The model knows only these types. It does not find entities that overlap, such as nested ones.",
        "The score of an entity is the mean probability of its words' tags. It is not calibrated.",
        "The test texts were used for measuring only. If you choose among many runs by their test scores, the best "
        "score is too high.",
    ]


def loading_code(report: TagReport) -> str:
    """Python code that loads the run and tags a text, from inside the run folder."""
    return code.loading_code(
        report.base,
        "AutoModelForTokenClassification",
        full=report.settings["method"] == "full",
        options=f", num_labels={1 + 2 * len(report.task.labels)}",  # O, then B- and I- of each type
        use=('print(model(**tokenizer("A text with entities.", return_tensors="pt")).logits.argmax(-1))',),
        pipeline=(
            "# in the run folder",
            'tag = pipeline("token-classification", model="{folder}", aggregation_strategy="first")',
            'print(tag("A text with entities."))',
        ),
    )
