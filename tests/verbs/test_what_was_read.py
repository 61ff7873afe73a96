"""What `adapt`, `evaluate`, `data show` and `data estimate` report of a text: what was read, what was not, and why."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from verb_jobs import MEDICAL, settings, write_corpus

from domain_ft.corpus import overlap
from domain_ft.corpus.corpus import Corpus, open_corpus
from domain_ft.corpus.overlap import shared_text
from domain_ft.corpus.prepared import prepare
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.run import adapt
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.adapt.terminal import print_adapt
from domain_ft.verbs.data import show as data_show
from domain_ft.verbs.data.estimate import estimate
from domain_ft.verbs.data.settings import DataShowSettings, EstimateSettings
from domain_ft.verbs.evaluate import run as evaluate_run
from domain_ft.verbs.evaluate.settings import EvaluateSettings
from domain_ft.verbs.evaluate.terminal import print_evaluation
from domain_ft.verbs.shared import language_model
from domain_ft.verbs.shared.language_model import prepare_corpora


def odd_folder(tmp_path: Path) -> Path:
    """A folder with texts in a field of an unusual name, a broken record, and files that nothing reads."""
    folder = tmp_path / "texts"
    folder.mkdir()
    path = write_corpus(folder / "a.jsonl")
    lines = path.read_text(encoding="utf-8").replace('"text":', '"body":')
    path.write_text(lines + "broken\n", encoding="utf-8")
    (folder / "notes.ann").write_text("x", encoding="utf-8")
    (folder / ".hidden.txt").write_text("x", encoding="utf-8")
    return folder


def shown(console: Console) -> str:
    return " ".join(console.export_text().split())


def test_adapt_reports_it_in_result_page_and_terminal(tmp_path: Path) -> None:
    asked = settings(tmp_path, corpus=str(odd_folder(tmp_path)), on_bad_record="skip", max_steps=2, control="none")
    finished = adapt(asked)
    result = json.loads((finished.folder / "result.json").read_text(encoding="utf-8"))
    assert result["rejected"] == 1
    assert result["unread_fields"] == {"id": 60}
    assert {one["file"] for one in result["unread_files"]["files"]} == {"notes.ann", ".hidden.txt"}
    (field,) = result["text_fields"]
    assert (field["field"], field["found"], field["records"]) == ("body", True, 60)
    assert result["tokenizer"].keys() == {"unknown_tokens", "unknown_bytes", "bytes_per_token", "known_tokens"}
    assert 0 < result["epochs"] < 1
    assert len((finished.folder / "rejects.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    console = Console(record=True, width=200, file=io.StringIO())
    print_adapt(finished.report, console)
    for place in (page, shown(console)):
        for sentence in ("1 record was left out", "id (60)", "notes.ann (the ending .ann is not read)"):
            assert sentence in place
    assert "The text is read from the field &#39;body&#39;, found automatically" in page


@pytest.mark.slow
def test_a_run_that_reads_its_text_many_times_is_warned_of(tmp_path: Path) -> None:
    asked = settings(
        tmp_path, max_steps=None, epochs=6, control="none", tokens_per_step=4000, tokens_per_micro_batch=4000
    )
    finished = adapt(asked)
    assert finished.result["epochs"] == 6
    (warning,) = (one for one in finished.result["warnings"] if "times" in one)
    assert "6 times" in warning and "--epochs 4" in warning
    assert warning in (finished.folder / "report.html").read_text(encoding="utf-8")


def test_evaluate_reports_it_too(tmp_path: Path) -> None:
    folder = odd_folder(tmp_path)
    asked = settings(tmp_path)
    wanted = EvaluateSettings(
        model=(asked.model,),
        corpus=str(folder),
        control="none",
        on_bad_record="skip",
        evaluation_tokens=500,
        output=tmp_path / "out",
        quiet=True,
        json=True,
    )
    result = evaluate_run.run(wanted)
    assert (result["rejected"], result["unread_fields"], result["unread_files"]["count"]) == (1, {"id": 60}, 2)
    assert len((tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "notes.ann (the ending .ann is not read)" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    console = Console(record=True, width=200, file=io.StringIO())
    print_evaluation(evaluate_run.evaluate(wanted), console)
    assert "notes.ann (the ending .ann is not read)" in shown(console)


@pytest.mark.slow
def test_show_and_estimate_report_it_too(tmp_path: Path) -> None:
    folder = odd_folder(tmp_path)
    asked = settings(tmp_path)
    view = data_show.show(DataShowSettings(corpus=str(folder), model=asked.model, on_bad_record="skip", quiet=True))
    assert (view.rejected, view.unread_files["count"]) == (1, 2)
    assert any("the field 'body'" in note for note in view.notes)
    console = Console(record=True, width=200, file=io.StringIO())
    data_show.print_view(view, console)
    assert "notes.ann (the ending .ann is not read)" in shown(console)
    wanted = EstimateSettings(
        corpus=str(folder), model=asked.model, on_bad_record="skip", control="none", quiet=True, epochs=5, max_length=64
    )
    found = estimate(wanted)
    assert found.text is not None
    assert (found.text["rejected"], found.text["unread_files"]["count"]) == (1, 2)
    assert any("5 times" in warning for warning in found.warnings)


def test_a_text_that_the_tokenizer_does_not_know_is_refused_before_training(tmp_path: Path) -> None:
    path = tmp_path / "owls.jsonl"
    owls = [chr(0x1F400 + number) for number in range(60)]
    path.write_text("".join(json.dumps({"text": owl}) + "\n" for owl in owls), encoding="utf-8")
    with pytest.raises(CorpusError, match="does not know this text"):
        adapt(settings(tmp_path, corpus=str(path), control="none"))


# --- The control ------------------------------------------------------------------------------------------------------


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Small files in place of the corpora legal and medical, with recipes of these names."""
    (tmp_path / "corpora").mkdir()
    files = {"legal": write_corpus(tmp_path / "corpora" / "l.jsonl")}
    files["medical"] = write_corpus(tmp_path / "corpora" / "m.jsonl", MEDICAL)
    recipes = {}
    for name, path in files.items():
        recipes[name] = path.with_name(f"{name}.toml")
        text = f'name = "{name}"\n[[sources]]\nkind = "files"\npath = "{path.name}"\n'
        recipes[name].write_text(text, encoding="utf-8")

    def open_here(spec: str, **options: str) -> Corpus:
        return open_corpus(str(recipes.get(spec, Path(spec))), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(language_model, "open_corpus", open_here)
    return recipes


def control_for(spec: str, tmp_path: Path, **changes: str) -> str | None:
    asked = AdaptSettings(corpus=spec, model="any", evaluation_fraction=0.2, **changes)  # type: ignore[arg-type]
    with ProgressDisplay(quiet=True) as display:
        corpora = prepare_corpora(asked, display)
    return corpora["control"].name if "control" in corpora else None


def test_legal_text_is_known_by_what_it_holds_not_by_its_name(tmp_path: Path, embedded: dict[str, Path]) -> None:
    recipe, text = embedded["legal"], embedded["legal"].with_name("l.jsonl")
    copy = recipe.with_name("mine.toml")
    copy.write_text(recipe.read_text(encoding="utf-8").replace('"legal"', '"mine"'), encoding="utf-8")
    link = tmp_path / "link.toml"
    link.symlink_to(recipe)
    link.with_name("l.jsonl").symlink_to(text)
    renamed = tmp_path / "other.json"
    rows = [json.loads(line) for line in text.read_text(encoding="utf-8").splitlines()]
    renamed.write_text(json.dumps([{"body": row["text"].upper()} for row in rows]), encoding="utf-8")
    shutil.copy(text, tmp_path / "again.jsonl")
    for spec in ("legal", recipe, copy, link, text, renamed, tmp_path / "again.jsonl"):
        assert control_for(str(spec), tmp_path) == "medical", spec
    other = write_corpus(tmp_path / "third.jsonl", ("Shares fell as the quarter closed on a weak note.",))
    assert control_for(str(other), tmp_path) == "legal"
    assert control_for("medical", tmp_path) == "legal"


def test_a_corpus_that_holds_both_has_no_control(tmp_path: Path, embedded: dict[str, Path]) -> None:
    both = tmp_path / "both.jsonl"
    parts = [embedded["legal"].with_name(name).read_text(encoding="utf-8") for name in ("l.jsonl", "m.jsonl")]
    both.write_text("".join(parts), encoding="utf-8")
    assert control_for(str(both), tmp_path) is None


def test_a_control_of_the_same_text_is_refused(tmp_path: Path, embedded: dict[str, Path]) -> None:
    text = embedded["legal"].with_name("l.jsonl")
    with pytest.raises(SettingsError, match="shares text with --corpus"):
        control_for(str(text), tmp_path, control="legal")


def test_what_two_corpora_share_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepare(open_corpus(str(write_corpus(tmp_path / "one.jsonl"))), evaluation_fraction=0.2)
    other = prepare(open_corpus(str(write_corpus(tmp_path / "two.jsonl", MEDICAL))), evaluation_fraction=0.2)
    assert shared_text(one, one) == 1
    assert shared_text(one, other) == 0
    monkeypatch.setattr(overlap, "shingles", lambda _: pytest.fail("the texts are read again"))
    assert shared_text(one, other) == 0
