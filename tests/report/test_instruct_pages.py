"""The page, the card and the table of instruct: they claim what the numbers show, and can leave out all texts."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_instruct import LONG, SHORT, facts, instruct_report, unanswered
from fake_run import difference
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from rich.console import Console
from test_pages import EVIL, Elements
from tiny_models import save_tiny, tiny_model

from domain_ft.verbs.instruct import card as instruct_card
from domain_ft.verbs.instruct import page as instruct_page
from domain_ft.verbs.instruct import plots as instruct_plots
from domain_ft.verbs.instruct import terminal as instruct_terminal
from domain_ft.verbs.instruct import words as instruct_words
from domain_ft.verbs.instruct.report import ConversationFacts, InstructReport
from domain_ft.verbs.shared import loss_plots
from domain_ft.verbs.shared.facts import AnswerPair, BaseFacts, CorpusFacts


def evil_report() -> InstructReport:
    pairs = tuple(dataclasses.replace(pair, prompt=EVIL, reference=EVIL, before=EVIL, after=EVIL) for pair in LONG)
    known = {"split": EVIL, "licence": EVIL, "language": EVIL, "citation": EVIL}
    return instruct_report(
        pairs,
        base=BaseFacts(EVIL, EVIL, EVIL, licence=EVIL),
        data=ConversationFacts(EVIL, EVIL, known, [EVIL]),
        control=CorpusFacts(EVIL + "2", EVIL, EVIL, EVIL),
        settings={"method": "lora", "rank": 8, EVIL: EVIL},
        provenance={EVIL: EVIL},
    )


def printed(report: InstructReport, width: int = 80) -> str:
    file = io.StringIO()
    instruct_terminal.print_instruct(report, Console(file=file, width=width))
    return file.getvalue()


REPORTS = {
    "long": instruct_report(),
    "short": instruct_report(SHORT),
    "unanswered": unanswered(),
    "evil": evil_report(),
    "full": instruct_report(settings={"method": "full"}),
}
PAGES = {name: instruct_page.render_instruct(report) for name, report in REPORTS.items()}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_whole_and_loads_nothing(name: str) -> None:
    page = PAGES[name]
    elements = Elements(page)
    assert elements.open == []
    assert not {tag for tag, _ in elements.found} & {"script", "link", "iframe", "img", "object", "form", "a"}
    for _, attributes in elements.found:
        for key, value in attributes.items():
            assert not key.startswith("on")
            assert key not in ("src", "href", "xlink:href") or (value or "").startswith("#")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert not re.search(r"url\((?!#)", page)


def test_foreign_text_is_shown_as_it_is() -> None:
    elements = Elements(PAGES["evil"])
    assert "<script" not in PAGES["evil"]
    assert sum(text.strip() == EVIL for text in elements.text) >= 4 * len(LONG)
    text = ModelCard(instruct_card.render_instruct(evil_report())).text
    assert "<script" not in re.sub(r"```python.*?\n```", "", text, flags=re.DOTALL)


def test_a_prompt_is_shown_with_its_reference_and_both_answers() -> None:
    page = PAGES["long"]
    articles = re.findall(r"<article.*?</article>", page, flags=re.DOTALL)
    assert len(articles) == len(LONG)
    for pair, article in zip(LONG, articles, strict=True):
        elements = Elements(article)
        assert [text for text in elements.text if text in ("reference", "before", "after")] == [
            "reference", "before", "after"
        ]  # fmt: skip
        said = [pair.prompt, pair.reference, pair.before or "(nothing)", pair.after]
        assert [text for text in elements.text if text in said] == said  # in this order, with their line breaks
    assert page.count("Cut here: the model did not end its turn.") == 2


def test_long_texts_are_clipped_and_only_the_first_prompts_are_shown() -> None:
    long = AnswerPair("x", "start " + "prompt " * 1000 + "end", "r " * 5000, "b", "a")
    page = instruct_page.render_instruct(instruct_report(answers=(long,) * 60))
    assert page.count("<article") == instruct_words.MOST_SHOWN
    assert "These are the first 50 of 60 prompts." in page
    (asked, *_) = re.findall(r"<blockquote[^>]*>(.*?)</blockquote>", page, flags=re.DOTALL)
    assert len(asked) < 1600
    assert asked.startswith("start")
    assert asked.endswith("end")


def test_no_text_of_the_data_is_shown_with_no_examples() -> None:
    """With --no-examples the page, the card, the table and result.json hold only scores, sizes and names."""
    pairs = tuple(
        AnswerPair(f"id-{place}-SECRET", "ASKED-4711", "REFERENCE-4712", "BEFORE-4713", "AFTER-4714")
        for place in range(5)
    )
    texts = ("ASKED-4711", "REFERENCE-4712", "BEFORE-4713", "AFTER-4714", "SECRET")
    open_report = instruct_report(pairs)
    assert all(text in instruct_page.render_instruct(open_report) for text in texts[:-1])
    silent = dataclasses.replace(open_report, answers=())
    shown = (
        instruct_page.render_instruct(silent)
        + instruct_card.render_instruct(silent)
        + printed(silent)
        + json.dumps(silent.result)
    )
    assert "Prompts, with both" not in shown
    assert not [text for text in texts if text in shown]


def test_the_page_says_the_numbers() -> None:
    text = " ".join("".join(Elements(PAGES["long"]).text).split())
    answers = REPORTS["long"].result["after"]["answers"]
    said = (
        "smollm2 predicts the answers of medquad better", "1.91 → 1.49", "−0.424", "−0.534 to −0.314", "× 0.65",
        "121,004", "ROUGE-L", f"{100 * answers['rouge_l']:.1f}", "ended its turn", "distinct-2", "CC-BY-4.0", "41",
        "nexB Inc.", "that of the model", "by content: whole groups of near copies", "The model forgot something",
    )  # fmt: skip
    for one in said:
        assert one in text


def test_scores_fit_the_length_of_the_references() -> None:
    """Exact match is useless for paragraphs, and ROUGE-L for short answers such as yes."""
    assert instruct_words.similarity_metrics(REPORTS["short"]) == ("exact_match", "token_f1")
    assert instruct_words.similarity_metrics(REPORTS["long"]) == ("rouge_l", "chrf")
    for shown in (PAGES["short"], instruct_card.render_instruct(REPORTS["short"]), printed(REPORTS["short"])):
        assert "exact match" in shown
        assert "ROUGE" not in shown
    for shown in (PAGES["long"], instruct_card.render_instruct(REPORTS["long"]), printed(REPORTS["long"])):
        assert "ROUGE-L" in shown
        assert "exact match" not in shown


@pytest.mark.parametrize(
    ("test", "control", "said"),
    [
        ((-1.0, 0.1), (0.5, 0.1), ["predicts the answers of medquad better", "The model forgot something"]),
        ((-0.1, 0.2), (0.0, 0.1), ["neither clearly better nor clearly worse", "No forgetting is shown"]),
        ((0.4, 0.1), (-0.2, 0.1), ["predicts the answers of medquad worse", "The model shows no forgetting"]),
    ],
)
def test_words_claim_only_what_the_interval_allows(
    test: tuple[float, float], control: tuple[float, float], said: list[str]
) -> None:
    report = instruct_report()
    report = dataclasses.replace(
        report, differences={**report.differences, "test": difference(*test), "control": difference(*control)}
    )
    text = " ".join([instruct_words.headline(report), *instruct_words.findings(report)])
    for sentence in said:
        assert sentence in text


def test_what_was_not_measured_is_said() -> None:
    said = " ".join(printed(REPORTS["unanswered"]).split())
    assert "no prompts were answered" in said
    assert "there was no control corpus" in said
    assert "What it answers" not in PAGES["unanswered"]


def test_few_examples_are_flagged_and_counted_in_the_singular() -> None:
    one = {**difference(-1.0, 0.1, 1), "interval": None, "bits_per_byte_interval": None}
    report = unanswered()
    report = dataclasses.replace(report, differences={"test": one})
    text = " ".join([instruct_words.headline(report), *instruct_words.findings(report)])
    for said in (
        "Too few examples",
        "too few for an interval, 1 example)",
        "Only 1 example of",
        "too few to show anything",
    ):
        assert said in text
    assert "There are only 4 independent test prompts: too few" in " ".join(instruct_words.findings(REPORTS["long"]))
    rendered = instruct_page.render_instruct(report) + instruct_card.render_instruct(report)
    assert "no interval" in rendered
    assert "interval no interval" not in rendered


def test_how_many_answers_ended_is_counted() -> None:
    said = " ".join(instruct_words.findings(REPORTS["long"]))
    ended = "2 of 4 answers ended their turn before training, and 4 after training"
    assert f"{ended}; the rest were cut at 128 tokens (3 of the references fit)." in said
    short = " ".join(instruct_words.findings(REPORTS["short"]))
    assert "ended their turn before training, and 12 after training." in short


def test_answers_that_repeat_themselves_are_reported() -> None:
    report = instruct_report()
    after = {**report.result["after"]["answers"], "end_of_turn_rate": 0.5}
    for repeated, reported in ((0.4, True), (0.05, False)):
        answers = {**after, "answer_repetition": {"mean": repeated, "p50": repeated}}
        result = {**report.result, "after": {**report.result["after"], "answers": answers}}
        said = " ".join(instruct_words.findings(dataclasses.replace(report, result=result)))
        assert ("40.0% of the sequences of four words repeat earlier ones of the same answer" in said) is reported


@pytest.mark.parametrize(
    ("verdict", "value", "interval", "said"),
    [
        ("better", 0.068, [0.021, 0.11], "better by 6.8 points (95% interval 2.1 to 11.0)"),
        ("worse", -0.068, [-0.11, -0.021], "worse by 6.8 points (95% interval 2.1 to 11.0)"),
        ("not shown", 0.01, [-0.02, 0.04], "no change is shown (95% interval −2.0 to +4.0)"),
        ("better", 1.0, [1.0, 1.0], "better by 100.0 points, the same for each prompt"),
        ("not shown", 0.01, None, "no change is shown (too few prompts for an interval)"),
    ],
)
def test_a_change_claims_only_what_its_interval_allows(
    verdict: str, value: float, interval: list[float] | None, said: str
) -> None:
    found = {"verdict": verdict, "difference": value, "interval": interval, "level": 0.95}
    assert instruct_words.changed(found) == said


@pytest.mark.parametrize("name", REPORTS)
def test_the_card_is_what_hugging_face_reads(name: str) -> None:
    report = REPORTS[name]
    data: Any = ModelCard(instruct_card.render_instruct(report)).data
    assert data.pipeline_tag == "text-generation"
    assert data.library_name == ("transformers" if name == "full" else "peft")
    assert "instruction-tuning" in data.tags
    measured = {result.metric_type: result.metric_value for result in data.eval_results}
    assert measured["loss"] in (pytest.approx(3.431), pytest.approx(1.488))
    if report.answered:
        kind, metric = ("rouge", "rouge_l") if "rouge" in measured else ("f1", "token_f1")
        assert measured[kind] == pytest.approx(report.result["after"]["answers"][metric], abs=1e-6)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", REPORTS)
def test_the_table_fits_the_terminal(name: str, width: int) -> None:
    said = printed(REPORTS[name], width)
    assert max(len(line) for line in said.splitlines()) <= width
    assert "−0.534 to −0.314" in said
    assert "…" not in said.split("After training")[0]


@pytest.mark.slow
def test_figures_are_svg_with_text_and_the_same_each_time() -> None:
    report = instruct_report(data=dataclasses.replace(facts(), name="医療相談 <&> $a$"))
    for draw in (instruct_plots.answer_changes, loss_plots.before_after, loss_plots.loss_curve):
        root = ElementTree.fromstring(draw(report))
        assert root.get("aria-label")
        assert draw(report) == draw(report)
    assert "医療相談" in loss_plots.before_after(report)
    assert "ROUGE-L" in instruct_plots.answer_changes(report)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 uses it
def test_the_shown_code_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, run = save_tiny("llama", tmp_path / "base"), tmp_path / "run"
    adapted = get_peft_model(
        tiny_model("llama"), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    adapted.save_pretrained(run / "adapter")
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(run / "adapter")
    monkeypatch.chdir(run)
    names: dict[str, Any] = {}
    exec(instruct_words.loading_code(instruct_report(base=BaseFacts(str(source), str(source)))), names)
    assert names["answer"].shape[1] > names["prompt"]["input_ids"].shape[1]
    with torch.no_grad():
        ids = names["prompt"]["input_ids"]
        torch.testing.assert_close(names["model"].eval()(input_ids=ids).logits, adapted(input_ids=ids).logits)
    assert capsys.readouterr().out


def test_the_code_in_the_report_is_python() -> None:
    for report in REPORTS.values():
        compile(instruct_words.loading_code(report), "loading", "exec")
    assert "domain_ft.resolve('smollm2')" in instruct_words.loading_code(REPORTS["long"])
    assert "peft" not in instruct_words.loading_code(REPORTS["full"])
