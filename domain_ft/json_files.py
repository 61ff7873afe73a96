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


class RepeatedKeyError(ValueError):
    """A JSON object gives a key twice; a parser that keeps the last value would lose the other in silence.

    Attributes:
        key: the first such key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"the field {key!r:.100} is given twice in one object")
        self.key = key


class Doubled(dict[str, Any]):
    """A JSON object that gives a key twice, as `loads_marked` leaves it; `key` is that key."""

    key: str = ""


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    doubled = Doubled(value)
    doubled.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return doubled


def _refused(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = _marked(pairs)
    if type(value) is Doubled:
        raise RepeatedKeyError(value.key)
    return value


MARKING = json.JSONDecoder(object_pairs_hook=_marked)
"""Leaves an object that gives a key twice where it is, as `Doubled`: the other records of the file are sound."""

_REFUSING = json.JSONDecoder(object_pairs_hook=_refused)


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        RepeatedKeyError: an object in it gives a key twice.
        ValueError: it is no JSON.
        RecursionError: it is nested too deep.
    """
    return _REFUSING.decode(text)


def find_doubled(value: Any) -> str | None:
    """A key that an object in a value of `MARKING` gives twice; None where none does."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Doubled):
            return one.key
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        waiting.extend(part for part in inner if isinstance(part, dict | list))
    return None


def read_object(
    path: Path,
    error: type[UserError],
    *,
    kinds: Kinds | None = None,
    needed: tuple[str, ...] = (),
    fix: str,
    what: str | None = None,
) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        error: the class of what is raised.
        kinds: the types of the values that the caller counts on. A null counts as absent, unless it is among them.
        needed: keys that must be there.
        fix: what to do about a damaged file.
        what: the file in messages, such as `the config.json of 'minilm'`. By default its name.

    Raises:
        UserError: as `error`: the file cannot be read, is no JSON object, gives a key twice, or a value is absent or of
            another kind.
    """
    named = what or path.name
    try:
        value = loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{named} cannot be read: {problem.strerror or problem}", where=str(path), fix=fix) from None
    except RepeatedKeyError as problem:
        raise error(
            f"{named} gives a key twice", where=f'{path}, field "{problem.key}"', fix=f"keep one of them; or {fix}"
        ) from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{named} is damaged: it is not JSON ({problem})", where=str(path), fix=fix) from None
    if not isinstance(value, dict):
        raise error(f"{named} holds {describe(value)} where a JSON object is wanted", where=str(path), fix=fix)
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
