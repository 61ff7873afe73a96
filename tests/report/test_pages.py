"""The page, the figures, the card and the tables: they claim what the numbers show, and foreign text stays text."""

from __future__ import annotations

import dataclasses
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_run import adapt_report, continued_samples, difference, evaluation_report, losses
from huggingface_hub import ModelCard
from rich.console import Console

from domain_ft.report import numbers
from domain_ft.verbs.adapt import card as adapt_card
from domain_ft.verbs.adapt import page as adapt_page
from domain_ft.verbs.adapt import plots as adapt_plots
from domain_ft.verbs.adapt import terminal as adapt_terminal
from domain_ft.verbs.adapt import words as adapt_words
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.evaluate import page as evaluate_page
from domain_ft.verbs.evaluate import terminal as evaluate_terminal
from domain_ft.verbs.shared import loss_plots
from domain_ft.verbs.shared.facts import BaseFacts, CorpusFacts

EVIL = """<script>alert("x")</script> --> ]]> &amp; ' $x_1$ | `code` [a](javascript:b)"""


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its texts; each end tag must close the element opened last."""

    VOID = frozenset(("meta", "br", "hr", "img", "input", "link"))

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def evil_report() -> AdaptReport:
    report = adapt_report()
    corpus = CorpusFacts(EVIL, EVIL, EVIL, EVIL, "en", {"read": 3, "samples": [EVIL]}, [EVIL], [3, 4, 5])
    samples = [{**sample, "left": EVIL, "answer": EVIL, "document": EVIL} for sample in report.samples]
    for sample in samples:
        sample["after"] = {**sample["after"], "guesses": [{"text": EVIL, "probability": 0.5}]}
    return dataclasses.replace(
        report,
        base=BaseFacts(EVIL, EVIL, EVIL, licence=EVIL),
        corpus=corpus,
        control=dataclasses.replace(corpus, name=EVIL + "2"),
        samples=samples,
        settings={**report.settings, "corpus": EVIL},
        provenance={**report.provenance, EVIL: EVIL},
    )


def decoder_report() -> AdaptReport:
    report = adapt_report(samples=continued_samples(), control=None)
    result = {
        **report.result,
        "objective": "clm",
        "before": {"domain": losses(3.5)},
        "after": {"domain": losses(3.1)},
    }
    return dataclasses.replace(report, result=result, differences={"domain": difference(-0.4, 0.05)})


REPORTS = {
    "encoder": adapt_report(),
    "decoder": decoder_report(),
    "evil": evil_report(),
    "bare": adapt_report(samples=[], metrics=[], corpus=CorpusFacts("notes"), control=None, provenance={}),
    "full": adapt_report(settings={"method": "full"}),
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_whole_and_loads_nothing(name: str) -> None:
    page = adapt_page.render_adapt(REPORTS[name])
    elements = Elements(page)
    assert elements.open == []
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe", "img", "object", "embed", "form", "a"}
    for _, attributes in elements.found:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("#")
    assert not re.search(r"url\((?!#)", page)
    policies = [a for tag, a in elements.found if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize("name", REPORTS)
def test_ids_are_unique_and_references_are_to_ids_of_the_page(name: str) -> None:
    page = adapt_page.render_adapt(REPORTS[name])
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_foreign_text_is_shown_as_it_is() -> None:
    page = adapt_page.render_adapt(evil_report())
    assert "<script" not in page
    assert any(EVIL in text for text in Elements(page).text)
    assert adapt_page.render_adapt(evil_report()) == page


def test_the_page_says_the_numbers() -> None:
    text = " ".join("".join(Elements(adapt_page.render_adapt(adapt_report())).text).split())
    for said in ("minilm reads legal text better", "6.10 → 4.80", "−1.301", "−1.421 to −1.181", "2,313", "CC-BY-4.0"):
        assert said in text


def test_the_continuations_of_a_decoder_are_shown() -> None:
    text = " ".join(Elements(adapt_page.render_adapt(decoder_report())).text)
    assert "to any party for direct, indirect or special damages" in text
    assert "was not measured" in text


def test_models_side_by_side() -> None:
    report = evaluation_report()
    page = evaluate_page.render_evaluation(report)
    elements = Elements(page)
    assert elements.open == []
    text = " ".join(elements.text)
    for model in report.models:
        assert model.name in text
    assert "−1.412" in text


@pytest.mark.parametrize(
    "draw", [loss_plots.loss_curve, loss_plots.before_after, lambda r: adapt_plots.length_histogram(r.corpus.lengths)]
)
def test_figures_are_svg_with_text_and_the_same_each_time(draw: Any) -> None:
    report = adapt_report(corpus=dataclasses.replace(adapt_report().corpus, name="日本の法令 <&> $a$"))
    svg = draw(report)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("viewBox")
    assert root.get("width") is None
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert svg.count("<text") > 3
    assert draw(report) == svg


def test_the_figure_settings_stay_in_the_figure() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    loss_plots.before_after(adapt_report())
    assert dict(mpl.rcParams) == before


def test_one_length_and_one_step_are_enough_for_a_figure() -> None:
    assert adapt_plots.length_histogram([7]).startswith("<svg")
    assert adapt_plots.length_histogram([1, 1, 1]).startswith("<svg")
    assert loss_plots.loss_curve(adapt_report(metrics=adapt_report().metrics[:1])).startswith("<svg")


@pytest.mark.parametrize(
    ("domain", "control", "said"),
    [
        ((-1.0, 0.1), (0.5, 0.1), ["reads legal text better", "The model forgot something"]),
        ((-0.1, 0.2), (0.0, 0.1), ["neither clearly better nor clearly worse", "No forgetting is shown"]),
        ((0.4, 0.1), (-0.2, 0.1), ["reads legal text worse", "The model shows no forgetting"]),
    ],
)
def test_words_claim_only_what_the_interval_allows(
    domain: tuple[float, float], control: tuple[float, float], said: list[str]
) -> None:
    report = adapt_report(differences={"domain": difference(*domain), "control": difference(*control)})
    text = " ".join([adapt_words.headline(report), *adapt_words.findings(report)])
    for sentence in said:
        assert sentence in text


def test_too_few_documents_are_reported() -> None:
    one = {**difference(-1.0, 0.1, 1), "interval": None, "bits_per_byte_interval": None}
    report = adapt_report(differences={"domain": one}, control=None)
    text = " ".join([adapt_words.headline(report), *adapt_words.findings(report)])
    assert "Too few documents were held out to show whether" in text
    assert "too few for an interval" in text
    assert "1 document)" in text
    assert "Only 1 document of" in text
    assert "too few to show anything" in text
    for rendered in (adapt_page.render_adapt(report), adapt_card.render(report)):
        assert "no interval" in rendered
        assert "interval no interval" not in rendered


def test_a_gain_that_the_control_has_too_is_not_called_the_fields_own() -> None:
    report = adapt_report()
    report = dataclasses.replace(report, differences={**report.differences, "beyond_control": difference(-0.05, 0.1)})
    assert "no gain that is specific to the field is shown" in " ".join(adapt_words.findings(report))


def test_a_gain_beyond_the_control_without_an_interval_is_not_shown() -> None:
    report = adapt_report()
    beyond = {**difference(-0.5, 0.1, 4), "interval": None}
    report = dataclasses.replace(report, differences={**report.differences, "beyond_control": beyond})
    text = " ".join(adapt_words.findings(report))
    assert "(too few documents for an interval): no gain that is specific to the field is shown" in text


@pytest.mark.parametrize(
    ("value", "digits", "written"), [(-1234.5, 1, "−1,234.5"), (-0.001, 2, "0.00"), (0.0, 2, "0.00"), (2, 3, "2.000")]
)
def test_numbers(value: float, digits: int, written: str) -> None:
    assert numbers.number(value, digits) == written


@pytest.mark.parametrize("name", REPORTS)
def test_the_card_is_what_hugging_face_reads(name: str, tmp_path: Path) -> None:
    report = REPORTS[name]
    path = tmp_path / "README.md"
    path.write_text(adapt_card.render(report), encoding="utf-8")
    loaded = ModelCard.load(path)
    assert loaded.data.library_name == ("transformers" if name == "full" else "peft")
    assert loaded.data.pipeline_tag == ("text-generation" if name == "decoder" else "fill-mask")
    assert report.corpus.name in loaded.data.tags
    measured = {(r.dataset_name, r.metric_type): r.metric_value for r in loaded.data.eval_results}
    expected = report.result["after"]["domain"]["bits_per_byte"]
    assert measured[(f"{report.corpus.name}, held out (domain)", "bits_per_byte")] == pytest.approx(expected, abs=1e-6)
    assert "<script" not in re.sub(r"```python.*?\n```", "", loaded.text, flags=re.DOTALL)
    for heading in ("## Numbers", "## How to load it", "## Data", "## Licence", "## Method", "## Limits"):
        assert heading in loaded.text


def test_a_hub_model_is_named_as_the_base() -> None:
    hub = BaseFacts("bert-base-uncased", "google-bert/bert-base-uncased", "abc", licence="apache-2.0")
    assert adapt_card.card_data(adapt_report(base=hub)).base_model == "google-bert/bert-base-uncased"
    assert adapt_card.card_data(adapt_report(base=BaseFacts("./m", "/home/me/m"))).base_model is None


def test_tables_fit_eighty_columns_without_colour() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80)
    adapt_terminal.print_adapt(adapt_report(), console)
    evaluate_terminal.print_evaluation(evaluation_report(), console)
    printed = file.getvalue()
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    for said in ("6.104", "4.803", "−1.421 to −1.181", "medical (control)", "runs/legal-minilm"):
        assert said in printed


def test_another_tokenizer_is_marked_on_screen_and_page() -> None:
    report = evaluation_report()
    other = {**difference(-0.4, 0.1), "loss": None, "interval": None}
    models = [report.models[0], dataclasses.replace(report.models[1], differences={"domain": other, "control": other})]
    report = dataclasses.replace(report, models=models)
    file = io.StringIO()
    evaluate_terminal.print_evaluation(report, Console(file=file, width=80))
    assert "losses of different tokenizers cannot be compared" in " ".join(file.getvalue().split())
    assert "another tokenizer" in evaluate_page.render_evaluation(report)
