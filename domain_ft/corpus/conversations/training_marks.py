"""Fields that exclude a record or a turn from training.

There are two kinds. A *mark* says what to train on (`train: false`, `weight: 0`, `masked: true`). A *verdict* is
somebody's rating of the answer (`status: rejected`, `accepted: false`, thumbs down). Only unambiguous values are used.
An ambiguous mark is an error, because a wrong guess would train on what was meant to be excluded. An ambiguous verdict
is listed as not read, because many files have such fields for other purposes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from domain_ft.corpus.conversations.faults import Fault, Faults
from domain_ft.corpus.left_out import VERDICT, rejected_by_annotator

WEIGHTS = ("weight", "loss_weight")
_LEARNED = ("train", "training", "loss", "learn", "trainable", "train_on_turn", "compute_loss")
_NOT_LEARNED = ("mask", "masked", "is_masked", "ignore", "ignored")
MARKS = (*WEIGHTS, *_LEARNED, *_NOT_LEARNED)
"""Fields that say whether to train on a turn or a record: 0 or 1 for weights, true or false for the others."""

PREFERENCES = ("label", "kto_tag")
"""Fields of KTO data that say whether a completion is good."""

_OF_PARTS = ("train_detail", "training_detail", "loss_mask", "loss_scale")
"""Fields that mark parts of a turn."""

_GOOD = ("is_correct", "accepted", "is_accepted", "approved", "is_approved", "desirable", "is_desirable")
_GOOD_IF_BOOLEAN = ("correct", "valid", "is_valid", "chosen", "is_chosen")  # a number may be the index of an option
_BAD = ("is_rejected", "discarded", "deleted", "is_deleted", "excluded", "is_bad", "thumbs_down", "was_cancelled")
_BAD_IF_BOOLEAN = ("rejected", "exclude", "skip", "undesirable")

_STATUS = ("status", "verdict", "decision", "review", "review_status", "review_result", "annotation_status")
_THUMBS = ("rating", "feedback", "user_feedback", "user_rating", "thumb", "thumbs", "vote", "reaction")
_REJECTING = ("reject", "rejected", "discard", "discarded", "disapproved", "declined", "ignore", "ignored", "deleted")
_ACCEPTING = ("accept", "accepted", "approve", "approved")
_DOWN = ("down", "thumbs_down", "thumb_down", "thumbsdown", "downvote", "downvoted", "dislike", "disliked", "bad")
_UP = ("up", "thumbs_up", "thumb_up", "thumbsup", "upvote", "upvoted", "like", "liked", "good")
_UNDESIRED = ("bad", "rejected", "reject", "undesirable")
_DESIRED = ("good", "chosen", "accepted", "accept", "desirable")
_WORDS: Mapping[str, tuple[Collection[str], Collection[str]]] = {
    **dict.fromkeys(_STATUS, (_REJECTING, _ACCEPTING)),
    **dict.fromkeys(_THUMBS, (_DOWN, _UP)),
    **dict.fromkeys(PREFERENCES, (_UNDESIRED, _DESIRED)),
}
"""For each verdict field, the words that reject an answer and those that accept it."""

_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")


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
        faults: receives ambiguous values and contradicting marks.
    """
    marks: dict[str, bool] = {}
    for name in MARKS:
        if name not in message:
            continue
        marked = _marked(name, message[name])
        if marked is None:
            faults.error("bad-weight", f"{place}.{name}", _unclear(name, message[name]))
        else:
            marks[name] = marked
    verdicts = _verdicts(message, (), numbers=False) if of_answer else {}
    marks |= {name: False for name, good in verdicts.items() if not good}
    if len(set(marks.values())) > 1:
        faults.error("bad-weight", place, f"{' and '.join(marks)} disagree on whether the turn is learned")
    for name in _OF_PARTS:
        if not is_blank(message.get(name)):
            reason = "parts of a turn cannot be excluded from training: split the turn, or mark all of it (weight 0)"
            faults.error("unsupported-field", f"{place}.{name}", reason)
    return next(iter(marks.values()), None), {*MARKS, *verdicts}


def rejected_in(messages: Any) -> tuple[str, str] | None:
    """The first verdict in a list of messages that rejects one: (field, value)."""
    for message in messages if isinstance(messages, list) else ():
        verdicts = _verdicts(message, (), numbers=False) if isinstance(message, Mapping) else {}
        for name, good in verdicts.items():
            if not good:
                return name, str(message[name]).strip()[:40]
    return None


def _marked(name: str, value: Any) -> bool | None:
    """Whether a mark says to train on the turn; None if its value is ambiguous."""
    truth = _truth(value)
    if name in WEIGHTS:
        return None if isinstance(value, bool) else truth
    if name == "mask" and not _is_bool(value):  # 1 means "trained on" in some files, "masked out" in others
        return None
    return truth if truth is None or name in _LEARNED else not truth


def _unclear(name: str, value: Any) -> str:
    shown = str(value)[:40]
    if name == "mask" and _truth(value) is not None:
        return f"the mask is {shown}, which may mean trained on or masked out: write train: true or train: false"
    expected = "0 or 1" if name in WEIGHTS else "true or false"
    return f"the {name} is {shown}, where {expected} is expected"


# --- One record -------------------------------------------------------------------------------------------------------


def find_exclusion(
    fields: Mapping[str, Any],
    *,
    of_prompts: bool,
    of_pairs: bool,
    answers: Iterable[str] = (),
    read: set[str],
    faults: Faults,
) -> Fault | None:
    """Why a record is marked as excluded from training; None if it is not.

    Args:
        fields: of the record, without those that the user named.
        of_prompts: whether the format is prompt and completion, in which `label` is KTO's, also as 0 or 1.
        of_pairs: whether the field `answer` is the answer to a question, not an annotator's verdict.
        answers: texts of the record's answers. A field with the same text is not a verdict.
        read: receives the names of the fields that were used.
        faults: receives marks with an ambiguous value.
    """
    rejected = None if of_pairs else rejected_by_annotator(fields)
    if rejected is not None:
        read.add(VERDICT)
        return Fault("not-learned", VERDICT, rejected, error=False)
    for name in MARKS:
        if name not in fields or (name not in WEIGHTS and not _is_bool(fields[name])):
            continue  # a number under `loss` or `train` is a measurement
        read.add(name)
        learned = _marked(name, fields[name])
        if learned is None and not is_blank(fields[name]):
            reason = f"the {name} is {str(fields[name])[:40]}, where 0 or 1 is expected: weighting is not supported"
            faults.error("bad-weight", name, reason)
        elif learned is False:
            return Fault("not-learned", name, f"the record is marked as excluded ({name}: {fields[name]})", error=False)
    _check_marks_of_turns(fields, read, faults)
    verdicts = _verdicts(fields, answers, numbers=of_prompts)
    read.update(verdicts)
    for name, good in verdicts.items():
        if not good and name in PREFERENCES:
            reason = (
                f"{name} marks the completion as bad (KTO), and instruct learns only good ones; "
                "a verb for preference tuning is planned"
            )
            return Fault("bad-completion", name, reason, error=False)
        if not good:
            reason = f"the record is marked as bad ({name}: {str(fields[name]).strip()[:40]})"
            return Fault("not-learned", name, reason, error=False)
    return None


def _check_marks_of_turns(fields: Mapping[str, Any], read: set[str], faults: Faults) -> None:
    """Report marks of turns that are given outside the turns. NeMo's `mask: User` is accepted."""
    for name in (*_LEARNED, *_NOT_LEARNED, *_OF_PARTS):
        value = fields.get(name)
        # `loss` may hold a curve, and `training` a description.
        if isinstance(value, list | tuple) and value and name not in ("loss", "training"):
            reason = "it is not clear which turns a list outside the turns excludes: mark the turns themselves"
            faults.error("unsupported-field", name, f"{reason}, train: true or train: false")
    if isinstance(fields.get("mask"), str) and not _is_bool(fields["mask"]):
        masked = fields["mask"].strip().casefold()
        if masked in ("user", "human"):
            read.add("mask")  # the user's turns are never trained on
        elif masked in ("assistant", "gpt"):
            reason = f"the {fields['mask'].strip()}'s turns are masked, and only the assistant's are learned"
            faults.error("unsupported-field", "mask", f"{reason}: remove the field, or mark single turns")


def _verdicts(fields: Mapping[str, Any], answers: Iterable[str], *, numbers: bool) -> dict[str, bool]:
    """By field name, whether a verdict accepts the answer.

    Args:
        fields: of a record or message.
        answers: texts that are not verdicts, because they are answers.
        numbers: whether 0 and 1 are verdicts in `label` and `kto_tag`.
    """
    answer_texts = {text.strip() for text in answers}
    verdicts: dict[str, bool] = {}
    for name, value in fields.items():
        boolean, truth = _is_bool(value), _truth(value)
        if name in _GOOD or name in _GOOD_IF_BOOLEAN:
            good = truth if boolean or name in _GOOD else None
        elif name in _BAD or name in _BAD_IF_BOOLEAN:
            bad = truth if boolean or name in _BAD else None
            good = None if bad is None else not bad
        elif (name in PREFERENCES and truth is not None and (boolean or numbers)) or (
            name == "review_result" and boolean
        ):
            good = truth
        else:
            good = _word_verdict(name, value)
        if good is not None and not (isinstance(value, str) and value.strip() in answer_texts):
            verdicts[name] = good
    return verdicts


def _word_verdict(name: str, value: Any) -> bool | None:
    """Whether a word such as `rejected` in a usual verdict field accepts the answer; None if it says neither."""
    if not isinstance(value, str) or name not in _WORDS or len(value) > 40:
        return None
    rejecting, accepting = _WORDS[name]
    word = re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFKC", value).strip(" \t:").casefold())
    if name in _THUMBS and word[:1] in ("👎", "👍"):
        return word[:1] == "👍"
    return False if word in rejecting else True if word in accepting else None


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().casefold() in ("true", "false"))


def _truth(value: Any) -> bool | None:
    """A truth value from JSON or a table; None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().casefold()
        return True if word in _TRUE else False if word in _FALSE else None
    return None
