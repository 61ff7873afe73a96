"""Finds a corpus by name (a recipe, a TOML file, a file, a folder or a data set of the hub) and streams its documents.

`open_corpus` reads no text. `Corpus.documents` reads the unchanged text, source by source, in a fixed order. `prepared`
cleans the text, removes duplicates and splits the documents.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from domain_ft.corpus import assets
from domain_ft.corpus.assets import ASSETS
from domain_ft.corpus.left_out import UnreadFile
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.readers import reader
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, Reject, Seen, SourceDocument
from domain_ft.corpus.readers.encoding_names import canonical
from domain_ft.corpus.readers.files import KNOWN_ENDINGS, Listing, list_files
from domain_ft.corpus.readers.gated import gated_error
from domain_ft.corpus.readers.hub_copies import COPY, copy_revision, no_copy_error
from domain_ft.corpus.recipes import Recipe, Source, load_recipe, recipe_names, recipes_folder
from domain_ft.errors import AssetError, CorpusError, nearest
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, sha256, user_path, write_json


@dataclass(frozen=True)
class Corpus:
    """A corpus that has been found but not read.

    Attributes:
        name: what it is called in reports.
        recipe: what it is and where its text comes from.
        on_bad_record: what to do with unreadable records: see `open_corpus`.
        encoding: of the files; None for UTF-8.
    """

    name: str
    recipe: Recipe
    on_bad_record: OnBadRecord = "stop"
    encoding: str | None = None

    def documents(
        self,
        rejects: Callable[[Reject], None] | None = None,
        progress: Progress | None = None,
        seen: Seen | None = None,
    ) -> Iterator[SourceDocument]:
        """The unchanged documents of all sources, one at a time.

        Args:
            rejects: called with each record that is left out, if `on_bad_record` is "skip".
            progress: called while assets are fetched.
            seen: collects which fields are read, how long their texts are, and what is not read.

        Raises:
            CorpusError: a source cannot be found or read. With "stop", a RecordError names the first unreadable record.
            AssetError: an asset cannot be fetched.
        """
        bad = BadRecords(self.on_bad_record, rejects or (lambda _: None), self.encoding)
        bad.seen = seen or bad.seen
        for source in self.recipe.sources:
            if source.kind == "hub":
                from domain_ft.corpus.readers.hub import read_hub  # imports datasets

                yield from read_hub(source, hub_revision(source), bad)
                continue
            for path, name in self._listing(source, progress).files:
                yield from reader(source.reader)(path, name, source.text_field, bad)

    def unread_files(self) -> list[UnreadFile]:
        """The files in the corpus's folders that are not read, each with the reason."""
        sources = [source for source in self.recipe.sources if source.kind == "files"]
        return [one for source in sources for one in self._listing(source, None).unread]

    def identity(self) -> list[dict[str, Any]]:
        """Hashes of the content: corpora with equal identities have the same text.

        Downloads no text, but asks the hub for the newest commit of a data set whose revision is not given.
        """
        return [
            {
                "kind": source.kind,
                "reader": source.reader,
                "text_field": source.text_field,
                "content": self._content(source),
                **({"encoding": self.encoding} if self.encoding and source.kind == "files" else {}),
            }
            for source in self.recipe.sources
        ]

    def _content(self, source: Source) -> list[Any]:
        if source.kind == "asset":
            return [ASSETS[str(source.asset)].sha256, source.path]
        if source.kind == "hub" and not Path(str(source.id)).is_dir():
            return [source.id, source.config, source.split, source.documents, hub_revision(source)]
        files = [[name, digest] for (_, name), digest in hash_files(self._listing(source, None))]
        return [source.config, source.split, source.documents, files]

    def _listing(self, source: Source, progress: Progress | None) -> Listing:
        if source.kind == "hub":  # a local folder in place of an id
            return list_files(Path(str(source.id)), "any")
        if source.kind == "files":
            return list_files(self.recipe.folder / user_path(str(source.path)), source.reader)
        folder = assets.ensure(str(source.asset), progress)
        found = sorted(folder.glob(str(source.path)))
        if not found:
            raise AssetError(f"asset {source.asset} holds no '{source.path}'", where=self.recipe.name)
        parts = [list_files(path, source.reader) for path in found]
        return Listing(tuple(file for part in parts for file in part.files))


def open_corpus(
    spec: str, *, text_field: str | None = None, on_bad_record: OnBadRecord = "stop", encoding: str | None = None
) -> Corpus:
    """Open a corpus without reading its text.

    Args:
        spec: the name of a recipe of this package, a TOML file, a file, a folder, or `hf:ID[:config]`. For example,
            `legal` is the recipe even if there is a folder of that name; `./legal` is the folder.
        text_field: the field with the text, if records have fields. Several fields, separated by commas, are joined.
        on_bad_record: "stop" raises at the first unreadable record; "skip" leaves such records out and lists them.
        encoding: of the files; None for UTF-8.

    Raises:
        CorpusError: there is no such corpus (the message suggests similar names), its TOML file has errors, it has no
            file that can be read, or `text_field` has no effect.
        SettingsError: there is no such encoding.
    """
    recipe = _find(spec)
    if text_field is not None:
        if all(source.kind == "asset" for source in recipe.sources):
            raise CorpusError(
                f"--text-field {text_field} has no effect: the texts of corpus '{recipe.name}' have no fields",
                fix="leave it out",
            )
        sources = tuple(s if s.kind == "asset" else replace(s, text_field=text_field) for s in recipe.sources)
        recipe = replace(recipe, sources=sources)
    return Corpus(recipe.name, recipe, on_bad_record, encoding and canonical(encoding))


def hub_revision(source: Source) -> str | None:
    """The commit of a data set on the hub; None if the source is a local folder.

    It is the revision that the source names, or else the newest commit. If the hub cannot be reached, it is the last
    commit that was seen. If the data set has a loading script, the hub's Parquet copy is read, and the newest commit is
    that of the copy.

    Raises:
        CorpusError: the data set does not exist, is gated, or has a loading script but no copy; or the hub cannot be
            reached, and no commit was seen before.
    """
    if Path(str(source.id)).is_dir():
        return None
    if source.revision:
        return source.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    memory = cache_folder("corpora") / "hub-revisions.json"
    known: dict[str, str] = _read_json(memory)
    try:
        newest = HfApi().dataset_info(str(source.id))
        revision = newest.sha
        script = f"{str(source.id).rpartition('/')[-1]}.py"
        if any(file.rfilename == script for file in newest.siblings or ()):
            revision = copy_revision(str(HfApi().dataset_info(str(source.id), revision=COPY).sha))
    except GatedRepoError as error:
        raise gated_error(str(source.id), f"hf:{source.id}") from error
    except RevisionNotFoundError as error:
        raise no_copy_error(f"hf:{source.id}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        fix = "check the id; a private data set needs a token: hf auth login"
        raise CorpusError(f"there is no data set '{source.id}' on the hub", where=f"hf:{source.id}", fix=fix) from error
    except Exception as error:  # the client raises errors of its HTTP library, which depends on its version
        if str(source.id) in known:
            return known[str(source.id)]
        fix = "check the network and HF_HUB_OFFLINE, or give a file or folder instead"
        raise CorpusError(f"the hub cannot be reached: {error}", where=f"hf:{source.id}", fix=fix) from error
    if revision and known.get(str(source.id)) != revision:
        write_json(memory, {**known, str(source.id): revision})
    return revision


def _find(spec: str) -> Recipe:
    names = recipe_names()
    if spec in names:
        return load_recipe(recipes_folder() / f"{spec}.toml")
    if spec.startswith("hf:"):
        return _hub_recipe(spec)
    path = user_path(spec)
    if path.suffix.lower() == ".toml" and path.is_file():
        return load_recipe(path)
    if path.exists() or path.is_symlink():
        return _path_recipe(path)
    if len(path.parts) > 1 or path.suffix:
        raise CorpusError("there is no such file or folder", where=spec, fix="check the path")
    raise CorpusError(
        f"there is no corpus '{spec}'",
        fix=f"{nearest(spec, names)}; or give a TOML file, a folder, hf:ID, or a file ending in {KNOWN_ENDINGS}",
    )


def _path_recipe(path: Path) -> Recipe:
    list_files(path)  # fails early if there is nothing to read
    source = Source(kind="files", path=str(path.resolve()))
    return Recipe(name_of(str(path)), f"Text of {path.name}.", "unknown", "", "und", (source,))


def _hub_recipe(spec: str) -> Recipe:
    _, _, rest = spec.partition(":")
    identifier, _, config = rest.partition(":")
    if not identifier:
        raise CorpusError("'hf:' names no data set", where=spec, fix="write hf:ID or hf:ID:config")
    source = Source(kind="hub", id=identifier, config=config or None)
    return Recipe(name_of(spec), f"The data set {identifier} on the hub.", "unknown", "", "und", (source,))


def hash_files(listing: Listing) -> Iterator[tuple[tuple[Path, str], str]]:
    """Each file with its SHA-256, which is cached until the file's size, modification time or inode changes.

    Raises:
        CorpusError: a file cannot be read.
    """
    memory = cache_folder("corpora") / "file-hashes.json"
    known: dict[str, list[Any]] = _read_json(memory)
    news: dict[str, list[Any]] = {}
    for path, name in listing.files:
        try:
            state = path.stat()
            stamp = [state.st_size, state.st_mtime_ns, state.st_ino]
            before = known.get(os.fspath(path.absolute()))
            digest = before[3] if before and before[:3] == stamp else sha256(path)
        except OSError as error:
            raise CorpusError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
        if not before or before[:3] != stamp:
            news[os.fspath(path.absolute())] = [*stamp, digest]
        yield (path, name), digest
    if news:
        write_json(memory, {**known, **news})


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the cache; empty if the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
    return {}


def content_key(*parts: Any) -> str:
    """A hexadecimal hash of plain values, the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
