"""JSON files of a run or model, which may have been cut, edited or mixed up: read as what they must be, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from domain_ft.errors import CheckpointError, UserError

Kinds: TypeAlias = Mapping[str, type | tuple[type, ...]]
"""The types that the value of a key may have; float takes whole numbers too."""

_RESULT_KINDS: Kinds = {
    "command": str,
    "model": str,
    "task": str,
    "data": str,
    "objective": str,
    "seeds": dict,
    "learning_curve": list,
}
"""What other verbs count on in a result.json."""

_WORDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def read_object(
    path: Path, error: type[UserError], *, kinds: Kinds | None = None, needed: tuple[str, ...] = (), fix: str
) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        error: the class of what is raised.
        kinds: the types of the values that the caller counts on. A null counts as absent, unless it is among them.
        needed: keys that must be there.
        fix: what to do about a damaged file.

    Raises:
        UserError: as `error`: the file cannot be read, is no JSON object, or a value is absent or of another kind.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path.name} cannot be read: {problem.strerror or problem}", where=str(path), fix=fix) from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path.name} is damaged: it is not JSON ({problem})", where=str(path), fix=fix) from None
    if not isinstance(value, dict):
        raise error(f"{path.name} holds {describe(value)} where an object is wanted", where=str(path), fix=fix)
    check_kinds(value, kinds or {}, error, path, needed=needed, fix=fix)
    return value


def read_result(run: Path, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The result.json of a run folder.

    Raises:
        CheckpointError: it is damaged, or lacks one of the keys that are `needed`.
    """
    fix = "take another run, or run it again"
    return read_object(run / "result.json", CheckpointError, kinds=_RESULT_KINDS, needed=needed, fix=fix)


def check_kinds(
    value: Mapping[str, Any],
    kinds: Kinds,
    error: type[UserError],
    path: Path,
    *,
    needed: tuple[str, ...] = (),
    fix: str,
) -> None:
    """Refuse an object of a file at `path` that lacks a key, or holds another kind of value under one.

    Raises:
        UserError: as `error`, with the field.
    """
    for key in needed:
        if value.get(key) is None:
            raise error(f"{path.name} has no {key!r}", where=str(path), fix=fix)
    for key, kind in kinds.items():
        found, allowed = value.get(key), kind if isinstance(kind, tuple) else (kind,)
        if found is not None and not any(_is(found, one) for one in allowed):
            wanted = " or ".join(_WORDS[one] for one in allowed)
            raise error(
                f"{path.name} holds {describe(found)} where {wanted} is wanted",
                where=f'{path}, field "{key}"',
                fix=fix,
            )


def describe(value: Any) -> str:
    """What a JSON value is, in words."""
    return _WORDS.get(type(value), type(value).__name__)


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)
