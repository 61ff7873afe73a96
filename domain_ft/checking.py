"""Declare, check and read settings. This module does not depend on any particular option.

The command line (cli.py), TOML files, `--set KEY=VALUE`, a run's config.toml and calls from Python all pass raw values
with their origin. `validate` converts them to typed values or lists *all* problems; after that, a setting is a plain
typed attribute.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from domain_ft.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROVENANCE = "provenance"
"""The table of a run's config.toml with its provenance. It is not a setting and is ignored when reading."""


class _Required:
    """Marks a setting without a default."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()


S = TypeVar("S", bound="Settings")


# --- Marks in a field's annotation: `Annotated[int, Range(at_least=1)]` -----------------------------------------------
# A limit is a callable that returns what is wrong with a value, or None.


class _Passing:
    """Marks a setting that affects a single call, not the run: it is not written to config.toml."""


PASSING = _Passing()


@dataclass(frozen=True)
class Formerly:
    """The name of a setting in the previous version, which is still accepted with a warning."""

    name: str


@dataclass(frozen=True)
class Range:
    """The allowed values of a number."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def __call__(self, value: float) -> str | None:
        fits = (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return None if fits else f"must be {self}"

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)


# --- The base of all settings -----------------------------------------------------------------------------------------


class _TakesFormerNames(type):
    """Lets a settings class be called with the former names of its settings."""

    def __call__(cls, *arguments: Any, **given: Any) -> Any:
        former = former_names(cls)
        for name in former.keys() & given.keys():
            warnings.warn(f"{cls.__name__}({name}=...) is now {former[name]}=", FutureWarning, stacklevel=2)
            given[former[name]] = given.pop(name)
        return super().__call__(*arguments, **given)


@dataclass(frozen=True, kw_only=True)
class Settings(metaclass=_TakesFormerNames):
    """The base of all settings. Every instance is checked when it is created.

    Attributes:
        group: the heading in --help of the settings that the class declares.
        positional: the settings that may be given without the name of an option.
        exclusive: tuples of settings of which only one may be given.

    Raises:
        SettingsError: all problems, each with where the value was given.
    """

    group: ClassVar[str] = "Options"
    positional: ClassVar[tuple[str, ...]] = ()
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()

    def __init_subclass__(cls, group: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.group = group or "Options"

    def __post_init__(self) -> None:
        cls = type(self)
        given = {
            name: Given(value, f"{cls.__name__}({name}={value!r})")
            for name, value in vars(self).items()
            if value is not REQUIRED
        }
        values, problems = validate(cls, given, missing=lambda option: f"{cls.__name__}: {option.name} is required")
        refuse(problems)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_toml(cls: type[S], path: str | os.PathLike[str], **changes: Any) -> S:
        """The settings in a TOML file, such as a run's config.toml, with `changes` applied."""
        given, problems = read_toml(cls, Path(path))
        known = {option.name for option in options(cls)}
        problems += [f"{cls.__name__}.from_toml({name}=...): {unknown(name, known)}" for name in set(changes) - known]
        changed = {name: Given(changes[name], f"{name}={changes[name]!r}") for name in known & set(changes)}
        return build(cls, merge(cls, [given, changed]), problems, missing=lambda option: f"{path}: no {option.name}")

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values (None if unset), in the order of `options`."""
        return {option.name: _plain(getattr(self, option.name)) for option in options(type(self))}

    def to_toml(self, provenance: Mapping[str, Any] | None = None) -> str:
        """A config.toml that repeats the run. It has no unset values and no settings that affect a single call."""
        import tomli_w

        values = self.to_dict()
        kept = {o.name: values[o.name] for o in options(type(self)) if not o.passing and values[o.name] is not None}
        return tomli_w.dumps({**kept, PROVENANCE: dict(provenance)} if provenance else kept)


# --- The options of a settings class ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One setting, as the command line and the checks see it.

    `kind` is the type of a value (bool, int, float, str or Path); with `many` the setting is a tuple of values.
    `passing` means that it affects a single call, not the run.
    """

    name: str
    kind: type
    many: bool
    optional: bool
    choices: tuple[str, ...]
    limits: tuple[Callable[[Any], str | None], ...]
    default: Any
    help: str
    group: str
    passing: bool
    former: str | None = None

    @property
    def flag(self) -> str:
        """The option as typed on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is REQUIRED


def options(cls: type[Settings]) -> tuple[Option, ...]:
    """The settings of a class: first those that it declares, then those of its bases, in their order."""
    known = _OPTIONS.get(cls)
    if known is None:
        known = _OPTIONS[cls] = _find_options(cls)
    return known


_OPTIONS: dict[type, tuple[Option, ...]] = {}


def _find_options(cls: type[Settings]) -> tuple[Option, ...]:
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    known: dict[str, Option] = {}
    for owner in cls.__mro__[:-1]:
        documentation = _attribute_docstrings(owner)
        group = getattr(owner, "group", "")
        for name in inspect.get_annotations(owner):
            if name in known:  # redefined by a verb: it stays in the group of the class that first declared it
                known[name] = dataclasses.replace(known[name], group=group)
            elif name in fields:
                known[name] = _option(name, hints[name], fields[name].default, documentation.get(name, ""), group)
    return tuple(known.values())


def _option(name: str, hint: Any, default: Any, help_text: str, group: str) -> Option:
    inner, marks = _unwrap(hint)
    optional = many = False
    if get_origin(inner) in (Union, types.UnionType):
        optional = True
        (inner,) = (part for part in get_args(inner) if part is not type(None))
        inner, more = _unwrap(inner)
        marks += more
    if get_origin(inner) is tuple:
        many = True
        inner, more = _unwrap(get_args(inner)[0])
        marks += more
    choices = get_args(inner) if get_origin(inner) is Literal else ()
    limits = tuple(mark for mark in marks if mark is not PASSING and not isinstance(mark, Formerly))
    former = next((mark.name for mark in marks if isinstance(mark, Formerly)), None)
    kind = str if choices else inner
    return Option(name, kind, many, optional, choices, limits, default, help_text, group, PASSING in marks, former)


def former_names(cls: Any) -> dict[str, str]:
    """The current names of a class's settings by their names in the previous version."""
    return {option.former: option.name for option in options(cls) if option.former}


def _unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """An annotation without `Annotated`, and its marks."""
    return (hint.__origin__, list(hint.__metadata__)) if hasattr(hint, "__metadata__") else (hint, [])


@functools.cache
def _attribute_docstrings(cls: type) -> dict[str, str]:
    """The docstring under each attribute of a class, on one line."""
    module = sys.modules.get(cls.__module__)
    definition = _class_definitions(module).get(cls.__name__) if module else None
    if definition is None:
        return {}
    found = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


@functools.cache
def _class_definitions(module: types.ModuleType) -> dict[str, ast.ClassDef]:
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # a class defined at a prompt has no source, so no help
        return {}
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


# --- From raw values to settings --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """A raw value and where it was given, in the user's spelling: `--rank x`.

    `text` means that it was typed as text, so "8" may be a number; in TOML and Python "8" is text.
    """

    value: Any
    where: str
    text: bool = False


def merge(cls: type[Settings], layers: Iterable[Mapping[str, Given]]) -> dict[str, Given]:
    """Merge layers of settings. Later layers override earlier ones, and remove from them the settings they exclude."""
    merged: dict[str, Given] = {}
    for layer in layers:
        for names in cls.exclusive:
            if any(name in layer for name in names):
                merged = {name: given for name, given in merged.items() if name not in names}
        merged.update(layer)
    return merged


def build(
    cls: type[S],
    given: Mapping[str, Given],
    problems: Sequence[str] = (),
    *,
    missing: Callable[[Option], str | None],
) -> S:
    """Settings from raw values, or one SettingsError with `problems` and everything that is wrong with the values."""
    values, found = validate(cls, given, missing=missing)
    refuse([*problems, *found])
    return cls(**values)


def validate(
    cls: type[Settings], given: Mapping[str, Given], *, missing: Callable[[Option], str | None]
) -> tuple[dict[str, Any], list[str]]:
    """The typed values, and a line for each value that is wrong, missing or excluded by another.

    `missing` returns the message for a required setting that was not given, or None to report nothing.
    """
    values: dict[str, Any] = {}
    problems = []
    for option in options(cls):
        if option.name not in given:
            if option.required and (problem := missing(option)):
                problems.append(problem)
            continue
        raw = given[option.name]
        try:
            values[option.name] = _convert(option, raw)
        except ValueError as error:
            problems.append(f"{raw.where}: {error}")
    for names in cls.exclusive:
        both = [given[name].where for name in names if name in given and given[name].value is not None]
        if len(both) > 1:
            problems.append(f"{' and '.join(both)}: only one of these can be given")
    return values, problems


def refuse(problems: Sequence[str]) -> None:
    """Raise one SettingsError that lists all problems, if any."""
    if len(problems) == 1:
        raise SettingsError(problems[0])
    if problems:
        listed = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, 1))
        raise SettingsError(f"{len(problems)} settings are wrong\n{listed}")


def read_toml(cls: type[Settings], path: Path) -> tuple[dict[str, Given], list[str]]:
    """The raw settings in a TOML file, and what is wrong with the file and its keys.

    As on the command line, relative paths are relative to the working directory.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [f"{path}: cannot be read: {error.strerror or error}"]
    except (ValueError, RecursionError) as error:  # ValueError covers TOML, Unicode and date errors
        return {}, [f"{path}: is not valid TOML: {error}"]
    table.pop(PROVENANCE, None)
    known = {option.name for option in options(cls)}
    former = former_names(cls)
    given, problems = {}, []
    for key, value in table.items():
        name = key.replace("-", "_")
        name = former.get(name, name)
        if name in known:
            given[name] = Given(value, f"{path}, {key} = {_spelled(value)}")
        else:
            problems.append(f"{path}, {f'[{key}]' if isinstance(value, dict) else key}: {unknown(name, known)}")
    return given, problems


def read_assignments(cls: type[Settings], assignments: Iterable[str]) -> tuple[dict[str, Given], list[str]]:
    """The raw settings in `--set KEY=VALUE` options, and what is wrong with them. Lists are written as in TOML."""
    by_name = {option.name: option for option in options(cls)}
    former = former_names(cls)
    given, problems = {}, []
    for assignment in assignments:
        where = f"--set {assignment}"
        key, equals, value = assignment.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        name = former.get(name, name)
        if not equals:
            problems.append(f"{where}: must have the form KEY=VALUE")
        elif name not in by_name:
            problems.append(f"{where}: {unknown(name, by_name)}")
        elif by_name[name].many and value.lstrip().startswith("["):
            try:
                given[name] = Given(tomllib.loads(f"list = {value}")["list"], where)
            except (ValueError, RecursionError):
                problems.append(f"{where}: is not a TOML list such as {key}=['one', 'two']")
        else:
            given[name] = Given(value, where, text=True)
    return given, problems


def unknown(name: str, known: Iterable[str]) -> str:
    """The message for an unknown name, with the closest known one if there is one."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"there is no such setting; did you mean {close[0]}?" if close else "there is no such setting"


def _convert(option: Option, raw: Given) -> Any:
    """The typed value of a raw one.

    Raises:
        ValueError: the value is wrong; the message says what it must be.
    """
    if raw.value is None and option.optional:
        return None
    if not option.many:
        return _convert_one(option, raw.value, text=raw.text)
    items = [raw.value] if isinstance(raw.value, str | os.PathLike) else raw.value
    if not isinstance(items, list | tuple):
        raise ValueError("must be a list")
    if option.required and not items:
        raise ValueError("must have at least one value")
    return tuple(_convert_one(option, item, text=raw.text) for item in items)


def _convert_one(option: Option, value: Any, *, text: bool) -> Any:
    converted = _CONVERTERS[option.kind](value, text)
    if option.choices and converted not in option.choices:
        close = difflib.get_close_matches(converted, option.choices, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"must be one of {', '.join(option.choices)}{hint}")
    for limit in option.limits:
        if problem := limit(converted):
            raise ValueError(problem)
    return converted


def _to_bool(value: Any, text: bool) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text and value.lower() in words:
        return words[value.lower()]
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def _to_int(value: Any, text: bool) -> int:
    number = _to_number(value, text)
    if number is None or (isinstance(number, float) and not number.is_integer()):
        raise ValueError("must be a whole number")
    return int(number)


def _to_float(value: Any, text: bool) -> float:
    number = _to_number(value, text)
    with contextlib.suppress(OverflowError):
        if number is not None and math.isfinite(number):
            return float(number)
    raise ValueError("must be a number" if number is None else "must be a finite number")


def _to_number(value: Any, text: bool) -> int | float | None:
    """A number (numpy's too) or None. Text may have underscores (250_000) and an exponent (2e5)."""
    if text:
        with contextlib.suppress(ValueError):
            return int(value)
        with contextlib.suppress(ValueError):
            return float(value)
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _to_str(value: Any, text: bool) -> str:
    del text
    if not isinstance(value, str | os.PathLike):
        raise ValueError("must be text")
    given = os.fspath(value)
    if not given:
        raise ValueError("must not be empty")
    if "\0" in given:
        raise ValueError("must not contain a null character")
    return str(given)


def _to_path(value: Any, text: bool) -> Path:
    return Path(_to_str(value, text))


_CONVERTERS: dict[type, Callable[[Any, bool], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    Path: _to_path,
}


def _spelled(value: Any) -> str:
    """A value roughly as in TOML, for messages."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
