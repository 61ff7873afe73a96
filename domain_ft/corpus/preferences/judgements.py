"""The judgement in a record: its answers, and which of them is better than which other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from domain_ft.corpus.conversations.faults import Fault, Faults
from domain_ft.corpus.conversations.training_marks import is_blank
from domain_ft.corpus.preferences.fields import (
    RANKS,
    TEXTS,
    PreferenceChoice,
    PreferenceFormat,
    as_list,
    comparison_in,
    number,
    number_list,
    ranking_in,
    score_name,
    score_of,
)
from domain_ft.corpus.readers.base import kind_of
from domain_ft.corpus.verdicts import plain_name
from domain_ft.errors import nearest
from domain_ft.quoting import shown

_TIES = ("tie", "both", "bothbad", "tie(bothbad)", "neither", "equal", "same", "draw", "none")


class Placed(NamedTuple):
    """An answer as it is in the record, with its path for messages, such as `completions[2].response`."""

    place: str
    value: Any


class Order(NamedTuple):
    """Answer number `better` is better than answer number `worse`, by `margin` if the record says so."""

    better: int
    worse: int
    margin: float | None


@dataclass(frozen=True)
class Judgement:
    """The answers of a record, and their order.

    Attributes:
        answers: as they are in the record.
        orders: the pairs of different rank.
        ties: the number of pairs of equal rank, which are left out.
        read: the fields that were read.
        tie: why there is no pair, if that is a tie.
    """

    answers: Sequence[Placed] = ()
    orders: Sequence[Order] = ()
    ties: int = 0
    read: frozenset[str] = frozenset()
    tie: Fault | None = None


def read_judgement(
    fields: Mapping[str, Any], format: PreferenceFormat, choice: PreferenceChoice, faults: Faults
) -> Judgement:
    """The judgement in a record in any format but `rated`. Adds to `faults`."""
    if format == "compared":
        return _compared(fields, faults)
    if format == "ranking":
        return _ranking(fields, choice, faults)
    return _chosen_and_rejected(fields, choice, faults)


def _chosen_and_rejected(fields: Mapping[str, Any], choice: PreferenceChoice, faults: Faults) -> Judgement:
    for name in choice.answers:
        if name not in fields:
            faults.error("missing-field", name, f"the field is missing; {nearest(name, map(str, fields))}")
    answers = [Placed(name, fields.get(name)) for name in choice.answers]
    scored = [score_of(fields, of) for of in ("chosen", "rejected")]
    read = {*choice.answers, *(name for name in ("margin", *scored) if name in fields)}
    scores = [None if name is None else number(fields[name]) for name in scored]
    margin: float | None = None
    tie = None
    if scores[0] is not None and scores[1] is not None:
        margin = scores[0] - scores[1]
        if margin == 0:
            tie = Fault("tie", scored[1], f"both answers have the same score ({scores[0]:g})", error=False)
        elif margin < 0:
            reason = f"the rejected answer has the higher score: {scores[1]:g}, and the chosen one {scores[0]:g}"
            faults.error("contradicting-scores", scored[1], f"{reason}: swap the answers, or remove the scores")
    if not is_blank(fields.get("margin")):
        margin, tie = _margin(fields["margin"], faults), None
    orders = () if tie else (Order(0, 1, margin),)
    return Judgement(answers, orders, 1 if tie else 0, frozenset(map(str, read)), tie)


def _margin(value: Any, faults: Faults) -> float | None:
    found = number(value)
    if found is None:
        given = f"'{shown(value)}'" if isinstance(value, str) else kind_of(value)
        faults.error("bad-margin", "margin", f"the margin is {given}, where a number is expected")
    elif found < 0:
        reason = f"the margin is {found:g}, so the rejected answer would be the better one: swap the answers"
        faults.error("bad-margin", "margin", reason)
    return found


def _compared(fields: Mapping[str, Any], faults: Faults) -> Judgement:
    found = comparison_in(fields)
    if found is None:
        expected = "two answers such as response_a and response_b, and a winner, are expected"
        faults.error("missing-field", None, f"fields are missing: {expected}")
        return Judgement()
    answers = [Placed(found.one, fields[found.one]), Placed(found.other, fields[found.other])]
    read = frozenset(found[:3])
    winner = plain_name(_text(fields[found.winner]))
    if winner in _TIES:
        tie = Fault("tie", found.winner, f"neither answer won ({shown(str(fields[found.winner]))})", error=False)
        return Judgement(answers, (), 1, read, tie)
    for number_, (name, side) in enumerate(zip(found[:2], found.sides, strict=True)):
        if winner in (side, plain_name(name), f"model{side}"):
            return Judgement(answers, (Order(number_, 1 - number_, None),), 0, read)
    reason = f"the winner is '{shown(str(fields[found.winner]))}', where {', '.join(found.sides)} or tie is expected"
    faults.error("bad-winner", found.winner, reason)
    return Judgement(answers, (), 0, read)


def _text(value: Any) -> str:
    """A winner as text: 1.0, as in a table, is 1."""
    as_number = number(value)
    return f"{as_number:g}" if as_number is not None else str(value)


def _ranking(fields: Mapping[str, Any], choice: PreferenceChoice, faults: Faults) -> Judgement:
    found = ranking_in(fields, choice)
    if found is None:
        faults.error("missing-field", None, "there is no list of two or more answers, such as completions")
        return Judgement()
    values = as_list(fields[found.answers]) or []
    answers = [_listed_answer(value, f"{found.answers}[{place}]", faults) for place, value in enumerate(values)]
    read = frozenset(name for name in found if name is not None)
    scores = _scores(fields, values, found.answers, found.scores, choice, faults)
    if scores is None:
        return Judgement(answers, (), 0, read)
    orders, ties = _orders(scores)
    if choice.format == "ranking" and found.scores is None and score_name(values, choice) is None:
        orders = [order._replace(margin=None) for order in orders]  # places in a list are no measure
    tie = None
    if ties and not orders:
        tie = Fault("tie", found.scores or found.answers, "all answers have the same score or rank", error=False)
    elif not orders:
        faults.error("no-score", found.scores or found.answers, "fewer than two answers have a number as score or rank")
    return Judgement(answers, orders, ties, read, tie)


def _listed_answer(value: Any, place: str, faults: Faults) -> Placed:
    if isinstance(value, str):
        return Placed(place, value)
    name = next((str(name) for usual in TEXTS for name in value if plain_name(name) == usual), None)
    if name is None:
        faults.error("missing-field", place, f"the answer has no text; {nearest(TEXTS[0], map(str, value))}")
        return Placed(place, None)
    return Placed(f"{place}.{name}", value[name])


def _scores(
    fields: Mapping[str, Any],
    answers: Sequence[Any],
    place: str,
    listed: str | None,
    choice: PreferenceChoice,
    faults: Faults,
) -> list[float | None] | None:
    """The score of each answer, higher for better ones; None, with a fault added, if there are no scores.

    Args:
        place: the field of the answers.
        listed: the field with a list of scores; None if each answer has its own.
    """
    name = listed or score_name(answers, choice)
    if name is None:
        if choice.format == "ranking" and all(isinstance(answer, str) for answer in answers):
            return [-float(number) for number in range(len(answers))]
        faults.error("no-score", place, "the answers have neither scores nor ranks")
        return None
    values: Sequence[float | None] | None
    if listed:
        values = number_list(fields[listed], len(answers))
        if values is None:
            faults.error("no-score", listed, f"it does not have {len(answers)} values, one for each answer")
            return None
    else:
        values = [number(answer.get(name)) if isinstance(answer, Mapping) else None for answer in answers]
    for number_, value in enumerate(values):
        if value is None:
            faults.warn("no-score", f"{place}[{number_}]", f"an answer without a number in '{name}' is in no pair")
    sign = -1 if plain_name(name).startswith(RANKS[0]) else 1
    return [None if value is None else sign * value for value in values]


def _orders(scores: Sequence[float | None]) -> tuple[list[Order], int]:
    """All pairs of answers with different scores, and the number of pairs with equal scores."""
    orders, ties = [], 0
    for one, other in itertools.combinations(range(len(scores)), 2):
        first, second = scores[one], scores[other]
        if first is None or second is None:
            continue
        if first == second:
            ties += 1
        else:
            better, worse = (one, other) if first > second else (other, one)
            orders.append(Order(better, worse, abs(first - second)))
    return orders, ties
