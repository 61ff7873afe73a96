"""Fields that exclude a record or a turn from training.

There are two kinds. A *mark* says what to train on (`train: false`, `weight: 0`, `masked: true`). A *verdict* is a
person's rating of the answer (`status: rejected`, `accepted: false`, thumbs down). Only unambiguous values are used. An
ambiguous mark of a turn is an error, and so is an ambiguous weight of a record, because a wrong guess would train on
what was meant to be excluded. Other ambiguous fields have no effect, because many files have such fields for other
purposes (`corpus.verdicts`); a note may mention them. Names of fields are compared without case, spaces, `-` and `_`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from domain_ft.corpus.conversations.faults import Fault, Faults
from domain_ft.corpus.left_out import VERDICT, rejected_by_annotator
from domain_ft.corpus.verdicts import PREFERENCES, is_bool, plain_name, shown_verdict, truth, verdicts_in

_WEIGHTS = ("weight", "lossweight")
_LEARNED = (
    *("train", "training", "loss", "learn", "trainable", "trainonturn", "computeloss"),
    *("istrain", "dotrain", "istraining", "trained", "istrained", "istrainable"),
)
_NOT_LEARNED = ("mask", "masked", "ismasked", "ignore", "ignored", "notrain", "noloss", "donottrain", "skiptrain")
_MARKS = (*_WEIGHTS, *_LEARNED, *_NOT_LEARNED)
"""Plain names of fields that say whether to train on a turn or a record: 0 or 1 for weights, true or false for the
others."""

_OF_PARTS = ("traindetail", "trainingdetail", "lossmask", "lossscale")
"""Plain names of fields that mark parts of a turn."""

_OF_TURNS = ("turnweights", "messageweights", "lossweights", "weights", "completionmask", "assistantmask", "trainmask")
"""Plain names of fields with a list of 0 and 1, which mark parts of a record."""


def is_mark(name: str) -> bool:
    """Whether a field says whether to train on a turn or a record."""
    return plain_name(name) in _MARKS


def is_weight(name: str) -> bool:
    """Whether a field is a weight, which is 0 or 1."""
    return plain_name(name) in _WEIGHTS


def is_blank(value: Any) -> bool:
    """Whether a value is empty: null, blank text, an empty list or object."""
    return value is None or (isinstance(value, str) and not value.strip()) or (value in ([], {}, ()))


# --- One turn ---------------------------------------------------------------------------------------------------------


def turn_mark(
    message: Mapping[str, Any], place: str, *, of_answer: bool, faults: Faults
) -> tuple[bool | None, set[str]]:
    """Whether a turn is marked for training (None without a mark), and the fields that were read.

    Args:
        message: of the turn.
        place: its name in faults.
        of_answer: whether it is an answer, so that verdicts apply.
        faults: receives ambiguous values, contradicting marks and marks of parts of the turn.
    """
    marks: dict[str, bool] = {}
    read: set[str] = set()
    for name, value in message.items():
        if not is_mark(name):
            continue
        read.add(name)
        marked = _marked(name, value)
        if marked is None:
            faults.error("bad-weight", f"{place}.{name}", _unclear(name, value))
        else:
            marks[name] = marked
    verdicts = verdicts_in(message) if of_answer else {}
    marks |= {name: False for name, good in verdicts.items() if not good}
    if len(set(marks.values())) > 1:
        faults.error("bad-weight", place, f"{' and '.join(marks)} disagree on whether the turn is learned")
    for name, value in message.items():
        if plain_name(name) in _OF_PARTS and not is_blank(value):
            reason = "parts of a turn cannot be excluded from training: split the turn, or mark all of it (weight 0)"
            faults.error("unsupported-field", f"{place}.{name}", reason)
    return next(iter(marks.values()), None), {*read, *verdicts}


def rejected_in(messages: Any) -> tuple[str, str] | None:
    """The first verdict that rejects a message of a list: (field, value). None if there is none."""
    for message in messages if isinstance(messages, list) else ():
        verdicts = verdicts_in(message) if isinstance(message, Mapping) else {}
        for name, good in verdicts.items():
            if not good:
                return name, str(message[name]).strip()[:40]
    return None


def _marked(name: str, value: Any) -> bool | None:
    """Whether a mark says to train on the turn or record; None if its value is ambiguous."""
    true = truth(value, words=True)
    if is_weight(name):
        return None if isinstance(value, bool) else truth(value)
    if plain_name(name) == "mask" and not is_bool(value):  # 1 means "trained on" in some files, "masked out" in others
        return None
    return true if true is None or plain_name(name) in _LEARNED else not true


def _unclear(name: str, value: Any) -> str:
    shown = str(value)[:40]
    if plain_name(name) == "mask" and truth(value, words=True) is not None:
        return f"the mask is {shown}, which may mean trained on or masked out: write train: true or train: false"
    expected = "0 or 1" if is_weight(name) else "true or false"
    return f"the {name} is {shown}, where {expected} is expected"


# --- One record -------------------------------------------------------------------------------------------------------


def find_exclusion(
    fields: Mapping[str, Any],
    *,
    of_prompts: bool,
    answer_is_text: bool,
    answers: Iterable[str] = (),
    read: set[str],
    faults: Faults,
) -> Fault | None:
    """Why a record is marked as excluded from training; None if it is not.

    Args:
        fields: of the record, without those that the user named.
        of_prompts: whether the format is prompt and completion, in which `label` is KTO's, also as 0 or 1.
        answer_is_text: whether the field `answer` is the answer to a question, not an annotator's verdict.
        answers: texts of the record's answers. A field with the same text is not a verdict.
        read: receives the names of the fields that were used.
        faults: receives ambiguous weights, and lists of marks whose turns are not clear.
    """
    rejected = None if answer_is_text else rejected_by_annotator(fields)
    if rejected is not None:
        read.add(VERDICT)
        return Fault("not-learned", VERDICT, rejected, error=False)
    for name, value in fields.items():
        # A number under `loss` or `train` is a measurement.
        if not is_mark(name) or not (is_weight(name) or _is_bool_or_word(value)):
            continue
        learned = _marked(name, value)
        if plain_name(name) == "mask" and learned is None:
            continue
        read.add(name)
        if learned is None and not is_blank(value):
            reason = f"the {name} is {str(value)[:40]}, where 0 or 1 is expected: weighting is not supported"
            faults.error("bad-weight", name, reason)
        elif learned is False:
            return Fault("not-learned", name, f"the record is marked as excluded ({name}: {value})", error=False)
    _check_marks_of_turns(fields, read, faults)
    verdicts = verdicts_in(fields, answers, numbers=of_prompts)
    read.update(verdicts)
    for name, good in verdicts.items():
        if not good and plain_name(name) in PREFERENCES:
            reason = (
                f"{name} marks the completion as bad (KTO), and instruct learns only good ones; "
                "`domain-ft prefer --loss kto` learns from both"
            )
            return Fault("bad-completion", name, reason, error=False)
        if not good:
            reason = f"the record is marked as bad ({shown_verdict(name, fields[name])})"
            return Fault("not-learned", name, reason, error=False)
    return None


def _is_bool_or_word(value: Any) -> bool:
    return is_bool(value) or (isinstance(value, str) and value.strip().casefold() in ("yes", "no"))


def _check_marks_of_turns(fields: Mapping[str, Any], read: set[str], faults: Faults) -> None:
    """Report marks of turns that are given outside the turns. NeMo's `mask: User` is accepted."""
    for name, value in fields.items():
        plain = plain_name(name)
        if not isinstance(value, list | tuple) or not value:
            continue
        # `loss` may hold a curve, and `training` a description. A list of ones excludes nothing.
        listed = plain in (*_LEARNED, *_NOT_LEARNED, *_OF_PARTS) and plain not in ("loss", "training")
        if plain in _OF_TURNS:
            listed = False in (marks := {truth(one) for one in value}) and None not in marks
        if listed:
            reason = "it is not clear which turns a list outside the turns excludes: mark the turns themselves"
            faults.error("unsupported-field", name, f"{reason} with train: true or train: false")
    mask = next((name for name in fields if plain_name(name) == "mask"), "mask")
    if isinstance(fields.get(mask), str) and not _is_bool_or_word(fields[mask]):
        masked = fields[mask].strip().casefold()
        if masked in ("user", "human"):
            read.add(mask)  # the user's turns are never trained on
        elif masked in ("assistant", "gpt"):
            reason = f"the {fields[mask].strip()}'s turns are masked, and only the assistant's are learned"
            faults.error("unsupported-field", mask, f"{reason}: remove the field, or mark single turns")
