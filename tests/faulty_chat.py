"""A chat file of 200 rows with many kinds of faults, each in a separate row."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = 200

_SUBJECTS = [
    "the tenant of a furnished flat",
    "a patient with a recent fracture",
    "the buyer of a used car",
    "an employee on probation",
    "a child with a mild fever",
    "the owner of a small bakery",
    "a student who rents a room",
    "the heir of a farmhouse",
    "a driver without insurance",
    "a nurse on the night shift",
    "the seller of a vineyard",
    "a traveller with a delayed flight",
    "a person with high blood pressure",
    "the board of a sports club",
    "a freelancer with foreign clients",
]
_ACTIONS = [
    "give notice before the contract ends",
    "ask for a second opinion",
    "return the goods within two weeks",
    "refuse overtime",
    "take two medicines at once",
    "change the name on the lease",
    "claim the deposit back",
    "object to the tax assessment",
    "appeal against the fine",
    "share the records with a relative",
    "pay in monthly instalments",
    "cancel the appointment late",
    "store food at room temperature",
    "sign a contract by e-mail",
    "demand a written explanation",
]
_REASONS = [
    "the law protects whoever depends on the other side",
    "the dose was set for an adult of average weight",
    "both parties have agreed to it in writing",
    "courts have decided it that way since the reform",
    "the risk of an infection grows with every hour",
    "nobody may profit from a mistake of this kind",
    "the insurer only pays for damage that is reported",
    "a written form prevents most of the disputes",
    "the deadline starts on the day after delivery",
    "the body needs several weeks to recover",
]
_ADVICE = [
    "Keep a copy of every letter and note the date of each call.",
    "Speak to a pharmacist before you change anything.",
    "A short message with the facts is enough at this stage.",
    "Wait for the answer before you take the next step.",
    "If nothing happens within a month, write again and set a deadline.",
    "A doctor should look at it if the pain returns.",
    "The form is free and can be filled in at the counter.",
    "Ask two neighbours to confirm what they have seen.",
    "Photographs taken on the same day are the best evidence.",
    "Drink enough water and rest for the whole weekend.",
]

_FRENCH = (
    "Le locataire doit prévenir le propriétaire par lettre recommandée trois mois avant son départ, sauf si le contrat "
    "prévoit un délai plus court, et il doit rendre les clés le jour de l'état des lieux."
)
_JAPANESE = (
    "賃借人は、契約が終わる三か月前までに、書面で解約を申し入れなければなりません。鍵は最後の日に返してください。"
)
_PRIVATE_KEY = (
    "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEpAIBAAKCAQEA7bq0x9\nc3ViamVjdA0K\n-----END RSA PRIVATE " + "KEY-----"
)

Row = dict[str, Any]


def sound_row(number: int) -> Row:
    """A conversation without faults; those of different numbers are not near copies of each other."""
    draw = random.Random(f"sound {number}")
    asked, answered = _exchange(draw, number)
    messages: list[Row] = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    if number % 3 == 0:
        messages.insert(0, {"role": "system", "content": "You answer questions about law and health, briefly."})
    if number % 5 == 0:
        more, answer = _exchange(draw, number + 1_000)
        messages += [{"role": "user", "content": more}, {"role": "assistant", "content": answer, "weight": number % 2}]
        messages[-3]["weight"] = 1
    if number % 7 == 0:
        messages[-1]["content"] += draw.choice(
            (" 🙂", " (See the annex.)", ' He said "no."', "\n\n- by post\n- in person")
        )
    if number % 40 == 4:
        call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"paragraph": 12}'}}
        messages[-1:] = [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": f"Paragraph 12 covers case {number}."},
            messages[-1],
        ]
    return {"messages": messages}


def _exchange(draw: random.Random, number: int) -> tuple[str, str]:
    subject, action, reason = draw.choice(_SUBJECTS), draw.choice(_ACTIONS), draw.choice(_REASONS)
    asked = draw.choice(
        (
            f"May {subject} {action} in case {number}?",
            f"What happens if {subject} wants to {action}? It is about file {number}.",
            f"Please explain when {subject} can {action}, with regard to entry {number}.",
        )
    )
    first = draw.choice(
        (
            f"Yes, {subject} may {action}, because {reason}.",
            f"As a rule it is allowed to {action}, since {reason}.",
            f"That depends: {subject} can {action} only where {reason}.",
        )
    )
    return asked, " ".join([first, *draw.sample(_ADVICE, draw.randint(1, 3))])


def _answer(row: Row) -> Row:
    return next(message for message in reversed(row["messages"]) if message["role"] == "assistant")


def _say(text: str) -> Callable[[Row], None]:
    """Put a sentence before the last answer of a row."""

    def spoil(row: Row) -> None:
        _answer(row)["content"] = f"{text} {_answer(row)['content']}"

    return spoil


def _replace(text: str) -> Callable[[Row], None]:
    def spoil(row: Row) -> None:
        _answer(row)["content"] = text

    return spoil


def _message(number: int, **changes: Any) -> Callable[[Row], None]:
    """Change a message of a row; None removes a field."""

    def spoil(row: Row) -> None:
        row["messages"][number].update(changes)
        row["messages"][number] = {name: value for name, value in row["messages"][number].items() if value is not None}

    return spoil


def _messages(*messages: Row) -> Callable[[Row], None]:
    def spoil(row: Row) -> None:
        row["messages"] = list(messages)

    return spoil


def _cut(row: Row) -> None:
    text = _answer(row)["content"]
    _answer(row)["content"] = text[: text.index(" ", len(text) // 2) + 4].rstrip(" .,")


_ASKED = {"role": "user", "content": "Which court decides on the appeal in the second instance?"}
_CALL = {"id": "c9", "type": "function", "function": {"name": "look_up", "arguments": "{no JSON"}}

# By line: the kind of fault, and the function that makes it.
FAULTS: dict[int, tuple[str, Callable[[Row], None]]] = {
    11: ("unknown-role", _message(-1, role="bot")),
    16: ("missing-content", _message(-1, content=None)),
    22: ("no-assistant-turn", _messages(_ASKED)),
    28: ("empty-answer", _message(-1, content="  ")),
    32: ("first-turn-of-assistant", _messages({"role": "assistant", "content": "The regional court does it."})),
    37: ("empty-prompt", _message(-2, content="")),
    41: ("wrong-type", _message(-1, content=5)),
    46: ("bad-weight", _message(-1, weight=2)),
    52: ("bad-tool-call", _message(-1, tool_calls=[_CALL])),
    56: (
        "tool-without-call",
        _messages(
            _ASKED, {"role": "tool", "content": "court: 2"}, {"role": "assistant", "content": "The regional court."}
        ),
    ),
    61: (
        "no-trained-turn",
        _messages(_ASKED, {"role": "assistant", "content": "The regional court does.", "weight": 0}),
    ),
    67: ("mojibake", _say("The clientâ€™s cafÃ© is closed.")),
    68: ("mojibake", _say("The letter was lost: r\ufffdsum\ufffd.")),
    71: ("wrong-language", _replace(_FRENCH)),
    73: ("wrong-language", _replace(_JAPANESE)),
    76: ("truncated-answer", _cut),
    79: ("truncated-answer", _cut),
    91: ("personal-email", _say("Write to jane.doe@example.org first.")),
    92: ("personal-phone", _say("Call +44 20 7946 0018 in the morning.")),
    93: ("personal-phone", _say("Call (415) 555-2671 in the morning.")),
    94: ("personal-id", _say("The social security number is 536-90-4399.")),
    96: ("personal-account", _say("The card is 4111 1111 1111 1111.")),
    97: ("personal-account", _say("Pay to GB82 WEST 1234 5698 7654 32 today.")),
    101: ("secret", _say("The key is AKIAIOSFODNN7EXAMPLE for now.")),
    102: ("secret", _say(_PRIVATE_KEY)),
    103: ("secret", _say("The password is tr0ub4dor&3, do not lose it.")),
    106: ("half-character", _say("A heart \ud83d is cut.")),
}
BROKEN_LINES = {6: "not-utf8", 8: "broken-record"}
DUPLICATES = {113: 12}
"""Lines that repeat another line."""
NEAR_DUPLICATES = {118: 24}
CONTRADICTIONS = {122: 26}
"""Lines with the prompt of another line but a different answer."""
LEAKS = {131: "leaked-test-row", 136: "leaked-test-row", 139: "leaked-test-prompt"}
"""Lines that are also in the test file: exactly, nearly, and with a different answer."""
LONG = 141
"""The line of an answer that is longer than all others."""


def planted(*, test: bool = False) -> set[tuple[int, str]]:
    """All (line, kind) that a check has to find; with `test`, also those found with the test file."""
    found = {(line, kind) for line, (kind, _) in FAULTS.items()} | set(BROKEN_LINES.items())
    found |= {(line, "duplicate") for line in DUPLICATES} | {(line, "near-duplicate") for line in NEAR_DUPLICATES}
    found |= {(line, "contradicting-answers") for line in CONTRADICTIONS}
    return found | set(LEAKS.items()) if test else found


def write_faulty_chat(path: Path) -> set[tuple[int, str]]:
    """Write the file. Returns `planted()`."""
    lines = []
    for line in range(1, ROWS + 1):
        row = sound_row(_source(line))
        if line in FAULTS:
            FAULTS[line][1](row)
        if line in NEAR_DUPLICATES:
            _answer(row)["content"] += " Good luck."
        if line in CONTRADICTIONS:
            _answer(row)["content"] = "No, that has never been possible, and the reform has changed nothing about it."
        if line == LONG:
            _answer(row)["content"] = " ".join(_exchange(random.Random(i), i)[1] for i in range(40))
        lines.append(json.dumps(row, ensure_ascii=line in FAULTS and FAULTS[line][0] == "half-character").encode())
    lines[5] = lines[5].replace(b". ", b". Caf\xe9 owners know it. ", 1)
    lines[7] = lines[7][:-20]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return planted()


def _source(line: int) -> int:
    """The number of the sound row that a line is made from."""
    return {**DUPLICATES, **NEAR_DUPLICATES, **CONTRADICTIONS}.get(line, line)


def write_test_rows(path: Path) -> None:
    """Write a test file that has three rows in common with the faulty one."""
    rows = [sound_row(number) for number in (501, 131, 502, 136, 139, 503)]
    _answer(rows[3])["content"] += " Good luck."
    _answer(rows[4])["content"] = "Nobody knows, and the authorities have never said anything about this question."
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
