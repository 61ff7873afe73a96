"""Verdicts: a person's rating of a record, such as `status: rejected`, `accepted: false` or thumbs down.

`instruct`, `classify` and `tag` leave out records with a clear negative verdict. Names of fields are compared without
case, spaces, `-` and `_`. Only unambiguous values count: many files have such fields for other purposes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from domain_ft.corpus.left_out import VERDICT, rejected_by_annotator

PREFERENCES = ("label", "ktotag")
"""Fields of KTO data that say whether a completion is good."""

_ACCEPTED = ("accepted", "isaccepted", "approved", "isapproved")
_REJECTED = ("isrejected", "discarded", "isdiscarded", "excluded", "isexcluded", "wascancelled")
_REJECTED_IF_BOOLEAN = ("rejected", "exclude", "skip")
_STATUS_OF_ANNOTATION = ("status", "reviewstatus", "reviewstate", "reviewresult", "annotationstatus", "annotationstate")
_STATUS = (*_STATUS_OF_ANNOTATION, "state", "verdict", "decision", "review", "approval", "approvalstatus")
_OF_ANNOTATION = frozenset((*_ACCEPTED, *_REJECTED, *_REJECTED_IF_BOOLEAN, *_STATUS_OF_ANNOTATION))
"""Fields about the annotation of a record. `classify` and `tag` look for verdicts only in these: in their records, a
`decision` or `verdict` may be a court's."""

_GOOD = (*_ACCEPTED, "iscorrect", "desirable", "isdesirable", "isgood")
_GOOD_IF_BOOLEAN = (  # a number may be the index of an option, and a word the answer
    *("correct", "valid", "isvalid", "chosen", "ischosen"),
    *("good", "keep", "use", "include"),
)
_BAD = (*_REJECTED, "deleted", "isdeleted", "isbad", "thumbsdown")
_BAD_IF_BOOLEAN = (*_REJECTED_IF_BOOLEAN, "undesirable")

_THUMBS = ("rating", "feedback", "userfeedback", "userrating", "thumb", "thumbs", "vote", "reaction")
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
"""For each verdict field, the words that reject and those that accept."""

NEGATIVE_WORDS = frozenset((*_REJECTING, *_DOWN, *_UNDESIRED))
"""Words that reject in some verdict field."""

_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def plain_name(name: Any) -> str:
    """The name of a field without case, spaces, `-` and `_`.

    >>> plain_name("Is-Train_")
    'istrain'
    """
    return re.sub(r"[\s_-]+", "", str(name)).casefold()


def is_bool(value: Any) -> bool:
    """Whether a value is true or false, also as text."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().casefold() in ("true", "false"))


def truth(value: Any, *, words: bool = False) -> bool | None:
    """A truth value from JSON or a table; None for anything else. `words` says whether yes and no are truth values."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().casefold()
        known = _TRUTH | {"yes": True, "no": False} if words else _TRUTH
        return known.get(word)
    return None


def shown_verdict(name: str, value: Any) -> str:
    """A verdict in a message: `status: rejected`."""
    return f"{name}: {str(value).strip()[:40]}"


def names_verdict(name: Any) -> bool:
    """Whether a field with this name may hold a verdict on the annotation of a record."""
    return name == VERDICT or plain_name(name) in _OF_ANNOTATION


def annotation_rejected(record: Mapping[str, Any], read: Collection[str] = ()) -> tuple[str, str] | None:
    """(field, reason) of the verdict that rejects the annotation of a record; None if there is none.

    Args:
        record: of `classify` or `tag`.
        read: the names of the fields with the text and the label, which are not verdicts.

    >>> annotation_rejected({"text": "x", "label": "a", "Accepted": "no"})
    ('Accepted', 'the record is marked as bad (Accepted: no)')
    """
    rejected = None if VERDICT in read else rejected_by_annotator(record)
    if rejected is not None:
        return VERDICT, rejected
    others = {name: value for name, value in record.items() if plain_name(name) in _OF_ANNOTATION and name not in read}
    for name, good in verdicts_in(others).items():
        if not good:
            return name, f"the record is marked as bad ({shown_verdict(name, others[name])})"
    return None


def accepting_fields(record: Mapping[str, Any]) -> set[str]:
    """The fields with a verdict that accepts the annotation of a record. They are checked, so they count as read."""
    of_annotation = {name: value for name, value in record.items() if plain_name(name) in _OF_ANNOTATION}
    accepting = {name for name, good in verdicts_in(of_annotation).items() if good}
    return accepting | ({VERDICT} if str(record.get(VERDICT)).strip().casefold() == "accept" else set())


def verdicts_in(fields: Mapping[str, Any], answers: Iterable[str] = (), *, numbers: bool = False) -> dict[str, bool]:
    """For each field with a verdict, whether the verdict accepts.

    Args:
        fields: of a record, message or span.
        answers: texts that are not verdicts, because they are answers.
        numbers: whether 0 and 1 are verdicts in KTO's fields.
    """
    answer_texts = {text.strip() for text in answers}
    verdicts: dict[str, bool] = {}
    for name, value in fields.items():
        good = _verdict(plain_name(name), value, numbers=numbers)
        if good is not None and not (isinstance(value, str) and value.strip() in answer_texts):
            verdicts[str(name)] = good
    return verdicts


def _verdict(name: str, value: Any, *, numbers: bool) -> bool | None:
    """Whether the value of a field with this plain name accepts; None if it is no verdict."""
    if name in _GOOD:
        return truth(value, words=True)
    if name in _BAD:
        bad = truth(value, words=True)
        return None if bad is None else not bad
    if name in _GOOD_IF_BOOLEAN and is_bool(value):
        return truth(value)
    if name in _BAD_IF_BOOLEAN and is_bool(value):
        return not truth(value)
    if name in PREFERENCES and truth(value) is not None and (is_bool(value) or numbers):
        return truth(value)
    if name == "reviewresult" and is_bool(value):
        return truth(value)
    return _word_verdict(name, value)


def _word_verdict(name: str, value: Any) -> bool | None:
    """Whether a word such as `rejected` in a field of `_WORDS` accepts; None if it neither accepts nor rejects."""
    if not isinstance(value, str) or name not in _WORDS or len(value) > 40:
        return None
    rejecting, accepting = _WORDS[name]
    word = re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFKC", value).strip(" \t:").casefold())
    if name in _THUMBS and word[:1] in ("👎", "👍"):
        return word[:1] == "👍"
    return False if word in rejecting else True if word in accepting else None
