"""Lists and numbers that are written as text, for example in a CSV file."""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

_LONGEST_LIST = 100_000  # characters; a longer text is not parsed as a list, unless it is a row of 0 and 1
_NUMPY = re.compile(r"""\[\s*((?:'[^']*'|"[^"]*"|-?\d+\.?\d*)(?:\s+(?:'[^']*'|"[^"]*"|-?\d+\.?\d*))*)\s*\]""")
_NUMPY_ITEM = re.compile(r"""'([^']*)'|"([^"]*)"|(-?\d+\.?\d*)""")
_BITS = re.compile(r"[01](?:\s*[ ,;|]\s*[01])+")
_POSTGRES_ITEM = re.compile(r""""(?:[^"\\]|\\.)*"|[^\s{}"'\\,:][^{}"'\\,:]*""", re.DOTALL)
_POSTGRES = re.compile(rf"\{{\s*(?:{_POSTGRES_ITEM.pattern})\s*(?:,\s*(?:{_POSTGRES_ITEM.pattern})\s*)*\}}", re.DOTALL)


def number_in(value: Any) -> float | None:
    """The value of a numeric label; None for a name. A number with leading zeros is a code, and so a name."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, str) or not re.fullmatch(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", value.strip()):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def listed_in(text: str) -> list[Any] | None:
    """The list that a text spells, in the notation of JSON, Python, numpy or PostgreSQL, or as a row of 0 and 1.

    None for other texts.

    >>> listed_in("['a', 'b']"), listed_in('["a"]'), listed_in("['a' 'b']"), listed_in("0 1 1"), listed_in("[sic]")
    (['a', 'b'], ['a'], ['a', 'b'], [0, 1, 1], None)
    >>> listed_in('{a,"b, c"}')
    ['a', 'b, c']
    """
    text = text.strip()
    if _BITS.fullmatch(text):
        return [int(bit) for bit in re.findall("[01]", text)]
    if len(text) > _LONGEST_LIST or (text[:1], text[-1:]) not in (("[", "]"), ("(", ")"), ("{", "}")):
        return None
    value: Any = None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        numpy = _NUMPY.fullmatch(text)
        if numpy:  # tried before Python's notation, in which adjacent strings are one
            items = _NUMPY_ITEM.findall(numpy[1])
            if len(items) > 1:
                return [_item(*parts) for parts in items]
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return _postgres_array(text)
    if value == {}:
        return []  # PostgreSQL's empty array
    if isinstance(value, set | frozenset) and not any(isinstance(item, str) for item in value):
        return _postgres_array(text)  # a set would lose the order of numbers, and repeated numbers
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if not isinstance(value, list | tuple):
        return None
    return list(value) if all(item is None or isinstance(item, str | int | float) for item in value) else None


def _postgres_array(text: str) -> list[Any] | None:
    """The items of a PostgreSQL array, such as `{a,"b, c",NULL}`; None for another text, such as a nested array."""
    if not _POSTGRES.fullmatch(text):
        return None
    items: list[Any] = []
    for item in _POSTGRES_ITEM.findall(text[1:-1]):
        if item.startswith('"'):
            items.append(re.sub(r"\\(.)", r"\1", item[1:-1], flags=re.DOTALL))
        elif item.upper() == "NULL":
            items.append(None)
        else:
            number = number_in(item)
            whole = number is not None and re.fullmatch(r"-?\d+", item)
            items.append(int(item) if whole else item if number is None else number)
    return items


def _item(single: str, double: str, number: str) -> Any:
    """An item of numpy's notation: a text in single or double quotes, or a number."""
    if not number:
        return single or double
    return float(number) if "." in number else int(number)
