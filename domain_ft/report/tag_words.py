"""What the report on a tagger says in words. A claim goes as far as its interval and no further: see `task_words`."""

from __future__ import annotations

from domain_ft.report.tag_data import TagReport
from domain_ft.report.task_words import FEW, few_units, level, listed, points, span, verdict
from domain_ft.wording import counted


def headline(report: TagReport) -> str:
    """What came out, in one sentence for everybody."""
    types = report.task.labels
    of = types[0] if len(types) == 1 else counted(len(types), "type")
    score = points(report.test[score_of(report)])
    return (
        f"{report.base.short_name} finds the entities of {report.task.name} ({of}) with an {named(report)} of {score}."
    )


def score_of(report: TagReport) -> str:
    """The score to look at first."""
    return "f1" if len(report.task.labels) == 1 else "macro_f1"


def named(report: TagReport) -> str:
    """What that score is called."""
    return "F1" if len(report.task.labels) == 1 else "F1, averaged over types,"


def findings(report: TagReport) -> list[str]:
    """The headline's grounds and its doubts, a sentence or two each."""
    test, metric = report.test, score_of(report)
    sources = "" if test["units"] == test["examples"] else f" from {counted(test['units'], 'document')}"
    sentences = [
        "An entity counts where its beginning, its end and its type are right. "
        f"The {level(test)} is {span(test['interval'][metric])}, "
        f"over {counted(test['entities'], 'entity', 'entities')} in {counted(test['examples'], 'test text')}{sources}. "
        "Of 100 entities that it gives "
        f"{points(test['precision'])} are right, and of 100 that are there it finds {points(test['recall'])}."
    ]
    gazetteer = (report.result.get("baselines") or {}).get("gazetteer")
    if gazetteer:
        said = verdict(gazetteer["difference"][metric], metric)
        said = f"the model is {said}" if not said.startswith("not shown") else f"no difference is {said[4:]}"
        sentences.append(
            f"Looking up the entities of training ({gazetteer['entries']:,}) gives {points(gazetteer[metric])}; "
            f"against it {said}."
        )
    seeds = report.result["seeds"]
    if seeds["n"] > 1:
        sentences.append(
            f"Trained from {seeds['n']} seeds it is {points(seeds[metric]['mean'])} on average, with a standard "
            f"deviation of {points(seeds[metric]['sd'])}. The model that is kept was the best on validation texts."
        )
    else:
        sentences.append("It was trained from one seed: what another would give is not measured (--seeds 5 does).")
    return sentences + doubts(report)


def doubts(report: TagReport) -> list[str]:
    """What makes the numbers rougher than they look, in sentences."""
    test, types = report.test, report.test["per_type"]
    sentences = []
    if test["few_units"]:
        sentences.append(few_units(test["units"], "test texts"))
    few = [name for name, scores in types.items() if 0 < scores["support"] < FEW]
    if few:
        sentences.append(f"Too few in the test texts (fewer than {FEW}) to say much of: {listed(few)}.")
    absent = [name for name in report.task.labels if name not in types or not types[name]["support"]]
    if absent:
        sentences.append(f"Not in the test texts, so not measured: {listed(absent)}.")
    unseen = [name for name, scores in types.items() if scores["support"] and name not in report.task.labels]
    if unseen:
        sentences.append(f"In the test texts but never in training, so that all are missed: {listed(unseen)}.")
    inexact = report.result["inexact_entities"]
    if inexact:
        sentences.append(
            f"{counted(inexact, 'entity begins or ends', 'entities begin or end')} within a token "
            "of this model: it cannot find them exactly."
        )
    return sentences


def limits(report: TagReport) -> list[str]:
    """What the run does not say."""
    return [
        f"The scores hold for texts like those of {report.task.name}. On texts from another source, or of another "
        "time, they will be lower.",
        "Its types are all it knows, and an entity has one of them: entities within entities are not found.",
        "The score of an entity is the mean probability of the tags of its words. It is not calibrated.",
        "The test texts were used for measuring alone. If you choose among many runs by their test scores, the best "
        "one's score is too high.",
    ]


def loading_code(report: TagReport) -> str:
    """Python that loads the run from within the run folder and tags a text."""
    base = report.base
    whole = "model" if report.settings["method"] == "full" else "merged" if base.is_run else None
    if whole:
        return "\n".join(
            [
                *(["# first: domain-ft export --model . --output merged"] if whole == "merged" else []),
                "from transformers import pipeline",
                "",
                "# in the run folder",
                f'tag = pipeline("token-classification", model="{whole}", aggregation_strategy="first")',
                'print(tag("A text with entities."))',
            ]
        )
    source = f"embedded.resolve({base.name!r})  # fetched once" if base.embedded else repr(base.source)
    return "\n".join(
        [
            *(["from domain_ft.models import embedded"] if base.embedded else []),
            "from peft import PeftModel",
            "from transformers import AutoModelForTokenClassification, AutoTokenizer",
            "",
            f"source = {source}",
            "base = AutoModelForTokenClassification.from_pretrained(",
            f"    source, num_labels={1 + 2 * len(report.task.labels)}  # O, then B- and I- of each type",
            ")",
            'model = PeftModel.from_pretrained(base, "adapter")  # the run folder\'s',
            "tokenizer = AutoTokenizer.from_pretrained(source)",
            'print(model(**tokenizer("A text with entities.", return_tensors="pt")).logits.argmax(-1))',
        ]
    )
