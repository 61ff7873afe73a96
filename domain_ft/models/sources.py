"""Finds a model: resolves an embedded name, a folder, a hub id or a finished run to a local folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub import utils as hub_utils
from transformers.utils import logging as transformers_logging

from domain_ft.errors import ModelError, nearest
from domain_ft.files import require_file
from domain_ft.json_files import read_object
from domain_ft.models import catalogue
from domain_ft.models.sentence_facts import SentenceFacts, facts_in, transformer_folder
from domain_ft.progress import Progress
from domain_ft.storage import sha256, storage_error, user_path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_TIMEOUT = 10.0  # seconds to wait for the hub's first answer
READ_FILES = (".json", ".txt", ".model", ".jinja")
"""Endings of the files that are read besides the weights: configuration and tokenizer."""

OWN_BASE = "read-first"
"""With --read-first, `classify` and `tag` first run `adapt` in this folder of their run, and train from its model."""


@dataclass(frozen=True)
class ModelSource:
    """A model in a local folder.

    Attributes:
        folder: a folder that transformers loads, with safetensors.
        recorded: what an adapter records as its base: the embedded name, the hub id, or an absolute path.
        revision: the hub's commit, or `sha256:` and the hash of the weights.
        adapters: folders of adapters to merge, in this order.
        notes: what the user should know about the model.
        sentence: the facts of an embedded sentence model, which has no files that state them.
    """

    folder: Path
    recorded: str
    revision: str
    adapters: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    sentence: SentenceFacts | None = None

    def sentence_facts(self) -> SentenceFacts | None:
        """How the model makes sentence vectors; None if nothing says that it is a sentence model.

        The facts are those of the last adapter that has such files, else those of the base.

        Raises:
            ModelError: a file is damaged, or the model computes its vectors in a way that is not supported.
        """
        for folder in (*reversed(self.adapters), self.folder):
            facts = facts_in(folder)
            if facts is not None:
                return facts
        return self.sentence


class NotMadeError(ModelError):
    """An embedded model is not in the cache; `embedded.making.resolve` makes it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the embedded model '{name}' has not been made on this machine yet.",
            fix=f"domain_ft.load({name!r}) makes it and loads it",
        )
        self.name = name


def find(name: str, progress: Progress | None = None, revision: str | None = None) -> ModelSource:
    """Find the model `name`, or fetch it.

    Args:
        name: an embedded name, a folder, a run or a hub id.
        progress: called while files are fetched.
        revision: a full commit hash on the hub; anything else means the newest commit. If the hub cannot be reached,
            the cached copy is used.

    Raises:
        ModelError: the model does not exist or cannot be fetched; the message says what to do.
        NotMadeError: an embedded model has to be made first; `embedded.loading` does that.
    """
    if name in catalogue.EMBEDDED:
        folder = catalogue.folder_of(name)
        if not folder.is_dir():
            raise NotMadeError(name)
        return ModelSource(folder, name, weights_hash(folder), sentence=catalogue.EMBEDDED[name].sentence)
    path = user_path(name)
    if path.is_dir():
        return _folder(path, progress)
    if path.exists() or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"'{name}' is {'a file, not a model folder' if path.exists() else 'not a folder'}.",
            fix=f"give a folder with config.json and model.safetensors, a hub id, or a name; {_names(name)}",
        )
    return _hub(name, progress, revision)


def weights_hash(folder: Path) -> str:
    """`sha256:` and a hash of the weights in `folder`: of a single file, or of the names and hashes of several."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return f"sha256:{hash_of_file(files[0])}"
    listing = "\n".join(f"{file.name} {hash_of_file(file)}" for file in files)
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


def hash_of_file(path: Path) -> str:
    """The SHA-256 of a file. Cached while the file does not change, since weights may be gigabytes.

    Raises:
        ModelError: it is a folder or a pipe, or it cannot be read.
    """
    try:
        require_file(path)
        status = path.stat()
        return _hash_of(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise ModelError(
            f"{path.name} cannot be read: {error.strerror or error}",
            where=str(path),
            fix="make the file readable, or fetch or copy it again",
        ) from error


@functools.lru_cache(maxsize=256)
def _hash_of(path: Path, size: int, changed: int, inode: int) -> str:
    del size, changed, inode  # keys of the cache
    return sha256(path)


def _names(name: str) -> str:
    return nearest(name, catalogue.EMBEDDED)


def _folder(path: Path, progress: Progress | None) -> ModelSource:
    """The model in the folder of a model, a run or an adapter."""
    if (path / "config.json").is_file():
        return ModelSource(path, str(path.resolve()), weights_hash(path))
    if (path / "adapter_config.json").is_file():
        return _adapted(path, progress)
    if inside := transformer_folder(path):
        return ModelSource(inside, str(inside.resolve()), weights_hash(inside))
    if not (path / "config.toml").is_file() and not (path / "result.json").is_file():
        raise ModelError(
            f"'{path}' is neither a model's folder (it has no config.json) nor a run's (it has no result.json).",
            fix="give a folder written by transformers' save_pretrained or by a finished domain-ft run",
        )
    if not (path / "result.json").is_file():
        raise ModelError(
            f"the run in '{path}' is not finished: it has no result.json.",
            fix="finish it with the same command and --resume, or use another run",
        )
    if (path / "adapter" / "adapter_config.json").is_file():
        return _adapted(path / "adapter", progress)
    if (path / "model" / "config.json").is_file():
        return dataclasses.replace(_folder(path / "model", progress), recorded=str(path.resolve()))
    raise ModelError(f"the run in '{path}' has neither an adapter nor a model.", fix="use another run, or run it again")


def _adapted(adapter: Path, progress: Progress | None) -> ModelSource:
    """An adapter on its base. If the base is another run, its adapters come first."""
    where = adapter / "adapter_config.json"
    settings = read_object(
        where,
        ModelError,
        kinds={"base_model_name_or_path": str, "revision": str},
        fix="copy the adapter again, or train it again",
    )
    base_name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    base_name = base_name and base_in_run(adapter.parent, base_name)
    if not base_name:
        raise ModelError(
            "the adapter does not name the model that it was trained on.",
            where=f'{where}, field "base_model_name_or_path"',
            fix="add the model's folder, hub id or embedded name",
        )
    try:
        base = find(base_name, progress, revision)
    except NotMadeError:
        raise
    except ModelError as error:
        raise ModelError(
            f"the adapter's base model cannot be loaded: {error.what}", where=str(where), fix=error.fix
        ) from error
    notes = base.notes
    if revision and revision != base.revision:
        notes += (f"the base model '{base_name}' is {base.revision}, but the adapter was trained on {revision}",)
    return dataclasses.replace(base, recorded=_run_of(adapter), adapters=(*base.adapters, adapter), notes=notes)


def base_in_run(run: Path, recorded: str) -> str:
    """The base model that a run's file records. A base in the run's own folder is found even if the run was moved."""
    own = run / OWN_BASE
    return str(own) if Path(recorded).name == OWN_BASE and (own / "result.json").is_file() else recorded


def _run_of(adapter: Path) -> str:
    """The run folder that an adapter is in, or the adapter's folder if it is not in a run."""
    run = adapter.resolve()
    return str(run.parent if (run.parent / "result.json").is_file() else run)


def _hub(name: str, progress: Progress | None, revision: str | None) -> ModelSource:
    """A model on the Hugging Face hub at one commit; from the local cache if the hub cannot be reached."""
    commit = revision if revision and re.fullmatch(r"[0-9a-f]{40}", revision) else None
    with _hub_errors(name):
        try:
            info = huggingface_hub.HfApi().model_info(name, revision=commit, timeout=_HUB_TIMEOUT)
        except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError, hub_errors.HFValidationError):
            raise
        except Exception:  # no network, a proxy, offline mode or a server error: use the cache
            folder = Path(huggingface_hub.snapshot_download(name, revision=commit, local_files_only=True))
            return ModelSource(_with_config(folder), name, folder.name)
        files = _files_to_fetch([sibling.rfilename for sibling in info.siblings or []])
        if not any(file.endswith(".safetensors") for file in files):
            raise ModelError(
                f"'{name}' has no weights in safetensors format on the hub, and no other format is loaded.",
                fix="use a model with safetensors, or convert this one: "
                "https://huggingface.co/spaces/safetensors/convert",
            )
        if progress:
            progress(f"fetching {name}", 0, None)
        with quiet():
            folder = Path(huggingface_hub.snapshot_download(name, revision=info.sha, allow_patterns=files))
    return ModelSource(_with_config(folder), name, str(info.sha))


def _with_config(folder: Path) -> Path:
    """The folder with config.json in a copy of a repository: a subfolder in an old sentence model."""
    return folder if (folder / "config.json").is_file() else transformer_folder(folder) or folder


def _files_to_fetch(files: list[str]) -> list[str]:
    """The files of a repository that loading a model needs, with one set of weights.

    From subfolders these are only the configurations of a sentence model's modules, such as 1_Pooling/config.json, and
    for an old sentence model the files in 0_Transformer.
    """
    top = [file for file in files if "/" not in file]
    modules = [file for file in files if re.fullmatch(r"\d+_\w+/config\.json", file)]
    model, inside = top, ""
    if "config.json" not in top and "0_Transformer/config.json" in files:
        inside = "0_Transformer/"
        model = [file for file in files if file.rpartition("/")[0] == "0_Transformer"]
    whole = [file for file in model if file == f"{inside}model.safetensors"]
    shards = [file for file in model if re.fullmatch(rf"{inside}model-\d+-of-\d+\.safetensors", file)]
    read = [file for file in dict.fromkeys([*top, *modules, *model]) if file.endswith(READ_FILES)]
    return read + (whole or shards)


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn the hub's errors into `ModelError`s that say what to do."""
    try:
        yield
    except ModelError:
        raise
    except hub_errors.GatedRepoError as error:
        raise ModelError(
            f"'{name}' is gated: its authors ask you to accept their terms first.",
            fix=f"accept them at https://huggingface.co/{name}, then run `hf auth login`",
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
        raise ModelError(
            f"there is no model '{name}': neither embedded, nor a folder, nor on the hub (or it is private).",
            fix=f"{_names(name)}; for a private model run `hf auth login`",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ModelError(f"the hub does not have the requested revision of '{name}'.", fix=str(error)) from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"there is no embedded model and no folder '{name}', and the hub cannot be reached.",
            fix=f"{_names(name)}; or give a model's folder, or connect to https://huggingface.co",
        ) from error
    except Exception as error:
        if explained := storage_error(error, f"the model '{name}' from the hub", kind=ModelError):
            raise explained from error
        raise ModelError(f"'{name}' could not be fetched from the hub: {error}", fix="try again later") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, transformers and the hub show no progress bars, and no Python warnings are shown."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_bars = not hub_utils.are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # the hub's too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        (hub_utils.enable_progress_bars if hub_bars else hub_utils.disable_progress_bars)()
