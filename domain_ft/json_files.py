"""Read and check the JSON files of runs and models, which may be truncated or edited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from domain_ft.errors import CheckpointError, UserError

Kinds: TypeAlias = Mapping[str, type | tuple[type, ...]]
"""The types that the value of each key may have. float includes whole numbers; int and float exclude true and false."""

_RESULT_KINDS: Kinds = {
    "command": str,
    "model": str,
    "task": str,
    "data": str,
    "objective": str,
    "seeds": dict,
    "learning_curve": list,
}
"""The keys of result.json that other verbs rely on, with their types."""

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
    """A JSON object has a key twice; most parsers would silently keep the last value.

    Attributes:
        key: the first such key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"the field {key!r:.100} is given twice in one object")
        self.key = key


class Doubled(dict[str, Any]):
    """A JSON object, decoded by `MARKING`, that has a key twice. `key` is the first such key."""

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


class _Decoder(json.JSONDecoder):
    """A decoder that reports deep nesting as a ValueError, like any other text that it cannot read."""

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        try:
            return super().raw_decode(s, idx)
        except RecursionError:
            raise ValueError("it is nested too deep") from None


MARKING = _Decoder(object_pairs_hook=_marked)
"""Returns an object with a repeated key as `Doubled`, so that the caller can reject only its record."""

_REFUSING = _Decoder(object_pairs_hook=_refused)


def loads(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        RepeatedKeyError: an object in it has a key twice.
        ValueError: it is not JSON, or is nested too deep.
    """
    return _REFUSING.decode(text)


def find_doubled(value: Any) -> str | None:
    """A key that some object in `value` has twice; None if there is none. `value` was decoded by `MARKING`."""
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
    former: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        error: the class of exceptions to raise.
        kinds: the types of the values that the caller relies on. null counts as missing.
        needed: required keys.
        fix: what to do about a damaged file.
        what: the file in messages, such as `the config.json of 'minilm'`; by default its name.
        former: the current names of renamed keys, by their names in the previous version.

    Raises:
        UserError: of the class `error`. The file cannot be read, is not a JSON object, gives a key twice, or lacks a
            `needed` key, or a value has the wrong type.
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
    except ValueError as problem:
        raise error(f"{named} is damaged: it is not JSON ({problem})", where=str(path), fix=fix) from None
    if not isinstance(value, dict):
        raise error(f"{named} holds {describe(value)} where a JSON object is expected", where=str(path), fix=fix)
    value = {former.get(key, key): one for key, one in value.items()}
    check_kinds(value, kinds or {}, error, path, needed=needed, fix=fix)
    return value


def read_result(run: Path, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The result.json of a run folder.

    Raises:
        CheckpointError: it is missing or damaged, or lacks one of the `needed` keys.
    """
    fix = "use another run, or run it again"
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
    """Refuse an object from the file `path` that lacks a `needed` key, or has a value of the wrong type.

    Raises:
        UserError: of the class `error`, naming the key.
    """
    for key in needed:
        if value.get(key) is None:
            raise error(f"{path.name} has no {key!r}", where=str(path), fix=fix)
    for key, kind in kinds.items():
        found, allowed = value.get(key), kind if isinstance(kind, tuple) else (kind,)
        if found is not None and not any(_is(found, one) for one in allowed):
            expected = " or ".join(_WORDS[one] for one in allowed)
            raise error(
                f"{path.name} holds {describe(found)} where {expected} is expected",
                where=f'{path}, field "{key}"',
                fix=fix,
            )


def describe(value: Any) -> str:
    """The type of a JSON value, in words."""
    return _WORDS.get(type(value), type(value).__name__)


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)
