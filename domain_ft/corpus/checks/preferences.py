"""Reads files of preferences for the checks: the faults of each record, and each text with its path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from domain_ft.corpus.checks.conversations import collect, rewrite_all, rewrite_messages
from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.checks.items import Item, Passage, Visit
from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.preferences.examples import Example, PreferenceExample, RatedExample
from domain_ft.corpus.preferences.fields import (
    TEXTS,
    PreferenceChoice,
    PreferenceFormat,
    comparison_in,
    label_in,
    ranking_in,
)
from domain_ft.corpus.preferences.parsing import ParsedPreferences, parse
from domain_ft.corpus.readers.base import RawRecord
from domain_ft.corpus.verdicts import plain_name


def preference_items(
    records: Iterable[RawRecord], name: str, format: PreferenceFormat, choice: PreferenceChoice
) -> Iterator[Item]:
    """The records of a file as `prefer` reads them.

    Args:
        records: the records of the file.
        name: the name of the file.
        format: the format of all records.
        choice: the fields that the user named.
    """
    contradictions = _Contradictions()
    for record in records:
        parsed = parse(record, name, format, choice)
        noted = parsed.faults if parsed.left_out is None else (*parsed.faults, parsed.left_out)
        findings = [Finding(record.line, f.field, f.kind, f.message, f.error) for f in noted]
        contradicting = [one for example in parsed.examples for one in contradictions.add(record.line, example)]
        passages: list[Passage] = []
        _rewrite(record.fields, parsed, format, choice, collect(passages))
        first = next(iter(parsed.examples), None)
        yield Item(
            record.line,
            tuple(passages),
            prompt=None if first is None else "\n".join(f"{turn.role}: {turn.content}" for turn in first.prompt),
            answer=None if first is None else "\n".join(map(_order, parsed.examples)),
            findings=(*findings, *contradicting),
            roles=("user", "assistant"),
            labels=tuple(_label(one) for one in parsed.examples if isinstance(one, RatedExample)),
            unread=parsed.unread,
            comparable=not contradicting,
            examples=parsed.examples,
            one_answer=False,
        )


def rewrite_preferences(
    fields: Mapping[str, Any], format: PreferenceFormat, choice: PreferenceChoice, visit: Visit
) -> dict[str, Any]:
    """The record with each text of its prompt and its answers replaced by what `visit` returns."""
    return _rewrite(fields, parse(RawRecord(None, fields), "", format, choice), format, choice, visit)


def _rewrite(
    fields: Mapping[str, Any],
    parsed: ParsedPreferences,
    format: PreferenceFormat,
    choice: PreferenceChoice,
    visit: Visit,
) -> dict[str, Any]:
    others = {*parsed.unread, *_without_text(fields, choice)}
    rewritten = dict(fields)
    for name, value in fields.items():
        if str(name) in others:
            continue
        answers = _is_answer(str(name), fields, format, choice)
        if isinstance(value, list) and all(_is_message(one) for one in value):
            rewritten[name] = rewrite_messages(value, name, visit)
        elif isinstance(value, Mapping) and _is_message(value):
            rewritten[name] = rewrite_messages([value], name, visit)[0]
        elif isinstance(value, list):
            rewritten[name] = [_listed(one, f"{name}[{place}]", visit) for place, one in enumerate(value)]
        elif isinstance(value, str):
            rewritten[name] = visit(Passage(str(name), value, "assistant" if answers else "user"))
    return rewritten


def _listed(value: Any, place: str, visit: Visit) -> Any:
    """Visit the text of an answer in a list."""
    if isinstance(value, str):
        return visit(Passage(place, value, "assistant"))
    if not isinstance(value, Mapping):
        return value
    return {
        name: visit(Passage(f"{place}.{name}", part, "assistant"))
        if plain_name(name) in TEXTS and isinstance(part, str)
        else rewrite_all(part, f"{place}.{name}", visit)
        if plain_name(name) in ("function", "parameters")  # a tool
        else part
        for name, part in value.items()
    }


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def _is_answer(name: str, fields: Mapping[str, Any], format: PreferenceFormat, choice: PreferenceChoice) -> bool:
    """Whether a field with a text holds an answer."""
    if format == "rated":
        return plain_name(name) in TEXTS
    comparison = comparison_in(fields)
    return name in choice.answers or (comparison is not None and name in comparison[:2])


def _without_text(fields: Mapping[str, Any], choice: PreferenceChoice) -> Iterator[str]:
    """The fields that are read but hold no text of a prompt or an answer."""
    comparison, ranking, label = comparison_in(fields), ranking_in(fields, choice), label_in(fields)
    names = (
        *(choice.id_field, choice.group_field, label),
        comparison and comparison.winner,
        ranking and ranking.scores,
    )
    yield from (name for name in names if name)


def _order(example: Example) -> str:
    """The answers of an example in order, by which copies are told from pairs with another winner."""
    return "\n".join(turn.content for answer in example.answers for turn in answer)


def _label(example: RatedExample) -> str:
    return "good" if example.desirable else "bad"


class _Contradictions:
    """Finds the same two answers in the opposite order, and an answer that is rated as good and as bad."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int | None] = {}

    def add(self, line: int | None, example: Example) -> Iterator[Finding]:
        """Add an example, and yield a finding if an earlier one contradicts it."""
        prompt = "\n".join(f"{turn.role}: {turn.content}" for turn in example.prompt)
        answers = ["\n".join(turn.content for turn in answer) for answer in example.answers]
        rated = "" if isinstance(example, PreferenceExample) else _label(example)
        opposite = _digest(prompt, *reversed(answers), {"good": "bad", "bad": "good", "": ""}[rated])
        self._seen.setdefault(_digest(prompt, *answers, rated), line)
        if opposite not in self._seen:
            return
        earlier = "an earlier record" if self._seen[opposite] is None else f"line {self._seen[opposite]}"
        if rated:
            yield Finding(line, None, "contradicting-ratings", f"{earlier} rates the same answer as {_other(rated)}")
        else:
            reason = f"{earlier} prefers the other one of the same two answers"
            yield Finding(line, None, "contradicting-pairs", f"{reason}: together they teach nothing")


def _other(label: str) -> str:
    return "bad" if label == "good" else "good"


def _digest(*texts: str) -> bytes:
    parts = "\0".join(map(normalise, texts))
    return hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).digest()
