"""The records of a source that the user names: a file, or a data set on a hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from domain_ft.corpus.corpus import hub_revision
from domain_ft.corpus.hub_splits import SPLIT_NAMES, flat, hub_splits
from domain_ft.corpus.inputs import RECORD_ENDINGS, input_records
from domain_ft.corpus.readers.base import BadRecords, RawRecord
from domain_ft.corpus.readers.files import ending, stem
from domain_ft.corpus.readers.packing import PACKED
from domain_ft.corpus.recipes import Source
from domain_ft.errors import CorpusError
from domain_ft.storage import user_path


def source_records(
    spec: str, part: str, bad: BadRecords, what: str = "conversations"
) -> Iterator[tuple[RawRecord, str]]:
    """The records of a source, each with the name of its file for messages.

    Args:
        spec: a file of records, or `hf:ID[:config]`.
        part: `train` or `test`, for a data set with splits.
        bad: receives records that cannot be read.
        what: what the records are, for messages.

    Raises:
        CorpusError: there is no such file or data set, or it has no records.
    """
    if spec.startswith("hf:"):
        yield from _hub_records(spec, part)
        return
    path = user_path(spec)
    check_ending(path, what)
    yield from input_records(path, bad)


def _hub_records(spec: str, part: str) -> Iterator[tuple[RawRecord, str]]:
    """The records of a data set's split for `part` ("train" or "test"), or of its only split, whatever its name."""
    from domain_ft.corpus.readers.hub import open_splits  # imports datasets

    identifier, _, config = spec.removeprefix("hf:").partition(":")
    if not identifier:
        raise CorpusError("'hf:' names no data set", where=spec, fix="write hf:ID or hf:ID:config")
    commit = hub_revision(Source(kind="hub", id=identifier, config=config or None))
    splits = list(open_splits(identifier, config or None, commit)) if commit is None else []
    splits = splits or hub_splits(identifier, config or None, commit, [identifier, config, commit])
    split = next((name for name in SPLIT_NAMES[part] if name in splits), splits[0] if len(splits) == 1 else None)
    if split is None:
        reason = f"the data set has no split '{part}', only {', '.join(splits)}"
        raise CorpusError(reason, where=spec, fix="download the split that you mean, and name the file")
    for number, row in enumerate(open_splits(identifier, config or None, commit)[split], 1):
        yield RawRecord(number, flat(row)), f"{spec} {split}"


def source_name(spec: str) -> str:
    """The name shown in reports: the name of the file or data set, without endings."""
    path = Path(spec.removeprefix("hf:"))
    return stem(path) or str(path)


def check_ending(path: Path, what: str = "conversations") -> None:
    """Refuse a folder, or a file whose ending is not that of a record format."""
    if path.is_file() and ending(path) not in RECORD_ENDINGS:
        kind = f"a file ending in '{ending(path)}'" if ending(path) else "a file with no ending"
        fix = f"supported endings: {', '.join(RECORD_ENDINGS)}, each also with {', '.join(PACKED)}"
        raise CorpusError(f"{what} cannot be read from {kind}", where=str(path), fix=fix)
    if path.is_dir():
        raise CorpusError("this is a folder, not a file", where=str(path), fix="name a file in it")
