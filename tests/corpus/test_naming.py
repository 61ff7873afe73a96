"""Names of corpora, tasks and runs: they follow from what was typed, and are never empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.naming import name_of
from domain_ft.verbs.classify import run as classify_run
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.instruct import run as instruct_run
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.tag import run as tag_run
from domain_ft.verbs.tag.settings import TagSettings


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("legal", "legal"),
        ("corpora/legal.toml", "legal"),
        ("mails.csv", "mails"),
        ("data/mails.csv.gz", "mails"),
        ("v1.2", "v1.2"),
        ("train.csv", "train"),
        ("mails/train.csv", "mails-train"),
        ("/data/conll03/train.conll", "conll03-train"),
        ("hub/train-00000-of-00001.parquet", "hub-train-00000-of-00001"),
        ("letters/a.jsonl", "letters-a"),
        ("letters/2024.jsonl", "letters-2024"),
        ("runs/legal-minilm/adapter", "legal-minilm-adapter"),
        (".hidden.jsonl", "hidden"),
        (".jsonl", "jsonl"),
        ("hf:org/ag_news", "ag_news"),
        ("hf:org/glue:mrpc", "glue-mrpc"),
        ("hf:org/x.v1", "x.v1"),
        ("法律.jsonl", "法律"),
    ],
)
def test_a_name_follows_from_what_was_given(given: str, name: str) -> None:
    assert name_of(given) == name


def test_a_dot_is_replaced_by_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letters" / "more").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "letters")
    assert name_of(".") == name_of("./") == "letters"
    assert name_of("..") == tmp_path.name
    assert name_of("more/..") == "letters"


@given(st.text(min_size=1))
def test_there_is_always_a_name(given: str) -> None:
    if "\0" not in given:
        assert name_of(given)


def test_classify_tag_and_instruct_name_their_run_folders_after_data_and_model() -> None:
    assert classify_run.output_folder(ClassifySettings(train="mails/train.csv")) == Path("runs/mails-train-minilm")
    assert tag_run.output_folder(TagSettings(train="notes/train.conll")) == Path("runs/notes-train-minilm")
    assert tag_run.output_folder(TagSettings(train="train.conll")) == Path("runs/train-minilm")
    assert instruct_run.output_folder(InstructSettings(data="v1.2/chat.v2.jsonl")) == Path("runs/chat.v2-smollm2")
    assert instruct_run.output_folder(InstructSettings(data="chat.jsonl", model="a/m")) == Path("runs/chat-a-m")


def test_an_unknown_language_is_empty(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("A text.")
    recipe = open_corpus(str(tmp_path / "notes.txt")).recipe
    assert (recipe.language, recipe.known_language) == ("und", "")
    assert open_corpus("legal").recipe.known_language == "en"
