"""Recipes: those of the package, and a user's own with every kind of mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.recipes import list_recipes, load_recipe
from domain_ft.errors import CorpusError


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_packages_recipes_are_complete() -> None:
    recipes = list_recipes()
    assert [recipe.name for recipe in recipes] == ["legal", "medical"]
    for recipe in recipes:
        assert recipe.description and recipe.licence != "unknown" and recipe.citation and recipe.language == "en"
        assert recipe.sources and recipe.tasks
        assert len(recipe.hash) == 64


def test_listing_recipes_imports_nothing_heavy() -> None:
    code = (
        "import sys; from domain_ft.corpus import list_recipes, open_corpus; list_recipes(); open_corpus('legal');"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'datasketch'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_paths_in_a_users_recipe_are_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("One text.", encoding="utf-8")
    path = write(tmp_path, '[[sources]]\nkind = "files"\npath = "texts"\n')
    monkeypatch.chdir("/")
    corpus = open_corpus(str(path))
    assert corpus.name == "mine"
    assert corpus.recipe.licence == "unknown"
    assert [document.text for document in corpus.documents()] == ["One text."]


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        licens = "MIT"
        language = 3
        [[sources]]
        kind = "asset"
        asset = "licensedcode-dat"
        path = "../outside"
        reader = "licence"
        [[sources]]
        kind = "file"
        [[sources]]
        kind = "hub"
        id = "a/b"
        documents = 0
        [[tasks]]
        name = "t"
        """,
    )
    with pytest.raises(CorpusError) as caught:
        load_recipe(path)
    message = str(caught.value)
    for part in (
        "9 problems",
        "unknown key 'licens': did you mean 'licence'?",
        "language = 3, where a text is expected",
        "no such asset 'licensedcode-dat': did you mean 'licensedcode-data'?",
        "leaves the asset",
        "no such reader 'licence': did you mean 'licences'?",
        "kind 'file': did you mean 'files'?",
        "documents = 0",
        "task 1 has no 'kind'",
        "task 1 has no 'description'",
        str(path),
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name = ", "not valid TOML"),
        pytest.param("name = " + "[" * 5000, "not valid TOML", id="nested too deep"),
        ('name = "x"', "no 'sources'"),
        ("sources = []", "nothing to read"),
        ("sources = [1]", "begin each table with [[sources]]"),
        ("sources = 3", "a list of tables is expected"),
    ],
)
def test_a_toml_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(CorpusError, match=part.replace("[", r"\[")):
        load_recipe(write(tmp_path, text))


def test_the_hash_depends_on_the_sources_and_not_on_the_folder_or_the_tasks(tmp_path: Path) -> None:
    text = '[[sources]]\nkind = "files"\npath = "texts"\n'
    (tmp_path / "other").mkdir()
    first, second = load_recipe(write(tmp_path, text)), load_recipe(write(tmp_path / "other", text))
    third = load_recipe(write(tmp_path / "other", text + 'text_field = "body"\n'))
    assert first.hash == second.hash != third.hash
    task = '[[tasks]]\nname = "t"\nkind = "files"\ndescription = "x"\ntrain = "x.csv"\n'
    assert load_recipe(write(tmp_path, text + task)).hash == first.hash


def test_an_unknown_corpus_gets_a_suggestion() -> None:
    with pytest.raises(CorpusError, match="did you mean 'legal'"):
        open_corpus("leagl")


@pytest.mark.parametrize("spec", ["no/such/file.txt", "absent.jsonl", "absent.toml"])
def test_a_missing_path_is_refused(spec: str) -> None:
    with pytest.raises(CorpusError, match="no such file or folder"):
        open_corpus(spec)


def test_a_text_field_for_texts_without_fields_is_refused() -> None:
    with pytest.raises(CorpusError, match="--text-field body has no effect"):
        open_corpus("legal", text_field="body")
