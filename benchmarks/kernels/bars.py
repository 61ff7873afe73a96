"""The traffic of our ops and the peers' at full size, and the bars (limits) that ours must meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ours
import peers
from cases import MODELS, TOKENS, Linear, Model, model
from roofline import CHIPS, predict
from traffic import Step, Total, total

OURS = "ours"
GROUPED = "ours (groups)"
BASE = "base alone"
GB = 1e9


@dataclass(frozen=True)
class Entry:
    """One implementation of an op at one size, forward and backward.

    Attributes:
        op, case: the op, and the model whose sizes it has or, for `cross_entropy`, the number of classes.
        whose: the implementation.
        amount: bytes and FLOPs.
    """

    op: str
    case: str
    whose: str
    amount: Total


@dataclass(frozen=True)
class Bar:
    """A limit of one of our values.

    Attributes:
        name: in words, with the unit.
        value, limit: the value, and its maximum.
        peers: the values of the peers, counted the same way.
    """

    name: str
    value: float
    limit: float
    peers: dict[str, float]

    @property
    def met(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit


def apart(linears: Iterable[Linear]) -> tuple[Linear, ...]:
    """The layers one by one, not in groups."""
    return tuple(one for linear in linears for one in linear.apart())


def entries(ops: tuple[str, ...], target: str) -> list[Entry]:
    """`ops` at all models' sizes in bfloat16: ours, with the tile sizes for the family `target`, and the peers'."""
    found = []
    for chosen in MODELS:
        if "linear_cross_entropy" in ops:
            our_steps = ours.head_steps(chosen.head, target)
            implementations = {OURS: our_steps} | {name: steps(chosen.head) for name, steps in peers.HEADS.items()}
            found += [_entry("linear_cross_entropy", chosen, whose, steps) for whose, steps in implementations.items()]
        if "lora_linear" in ops:
            found += [_entry("lora_linear", chosen, *pair) for pair in _linears(chosen, target).items()]
    if "cross_entropy" in ops:
        for classes in sorted({chosen.head.vocabulary for chosen in MODELS}):
            amount = total(ours.cross_entropy_steps(classes, target))
            found.append(Entry("cross_entropy", f"V {classes}", OURS, amount))
    return found


def _linears(chosen: Model, target: str) -> dict[str, list[Step]]:
    base = peers.base_linears(chosen.linears)
    implementations = {
        BASE: base,
        GROUPED: ours.linear_steps(chosen.linears, target),
        OURS: ours.linear_steps(apart(chosen.linears), target),
    }
    return implementations | {name: base + steps(chosen.linears) for name, steps in peers.LINEARS.items()}


def _entry(op: str, chosen: Model, whose: str, steps: list[Step]) -> Entry:
    return Entry(op, chosen.name, whose, total(steps))


def bars(found: Iterable[Entry]) -> list[Bar]:
    """The bars for which `found` has the entries."""
    amounts = {(entry.op, entry.case, entry.whose): entry.amount for entry in found}

    def compulsory(op: str, case: str) -> dict[str, float]:
        return {whose: a.compulsory / GB for (o, c, whose), a in amounts.items() if (o, c) == (op, case)}

    checks = []
    for case, limit, what in (("BERT-base", 0.8, "15 % labelled"), ("GPT-2", 7.5, "all labelled")):
        values = compulsory("linear_cross_entropy", case)
        if values:
            checks.append(_bar(f"{case} head, {TOKENS:,} tokens, {what}: GB", values, limit))
    if ("linear_cross_entropy", "GPT-2", OURS) in amounts:
        flops = {w: a.flops / 1e12 for (o, c, w), a in amounts.items() if (o, c) == ("linear_cross_entropy", "GPT-2")}
        head = model("GPT-2").head
        two_products = 2 * 2 * TOKENS * head.vocabulary * head.hidden / 1e12
        checks.append(_bar("GPT-2 head: TFLOP, at most two products", flops, two_products))
    values = compulsory("lora_linear", "BERT-base")
    if values:
        base = values.pop(BASE)
        beyond = {whose: value - base for whose, value in values.items()}
        checks.append(_bar("BERT-base's 72 LoRA linears, beyond the base's products: GB", beyond, 8.5))
        linears = model("BERT-base").linears
        saved = {OURS: ours.linears_saved(linears) / GB, "PEFT": peers.peft_saved(linears) / GB}
        checks.append(_bar("saved by them for backward, beside x: GB", saved, 0.05))
    return checks


def _bar(name: str, values: dict[str, float], limit: float) -> Bar:
    return Bar(name, values[OURS], limit, {whose: value for whose, value in values.items() if whose != OURS})


def rooflines(found: Iterable[Entry]) -> list[dict[str, Any]]:
    """The least milliseconds of each entry on each chip, and its bound."""
    listed = []
    for entry in found:
        times = {chip.name: predict(chip, entry.amount) for chip in CHIPS}
        listed.append(
            {
                "op": entry.op,
                "case": entry.case,
                "whose": entry.whose,
                "milliseconds": {name: p.seconds * 1e3 for name, p in times.items()},
                "bound": {name: p.bound for name, p in times.items()},
            }
        )
    return listed
