"""Notes on fields that are not read although they seem to hold verdicts, or hold longer text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from domain_ft.corpus.readers.choosing import Holds, texts_inside, what_fields_hold
from domain_ft.corpus.verdicts import NEGATIVE_WORDS, plain_name
from domain_ft.quoting import quoted

_LISTED = 5  # the most fields in a note on verdicts, and the most notes on texts
_LONGEST_WORD = 40  # characters of a verdict
_MOST_WORDS = 8  # a field with more different values does not hold verdicts
_LONG = 40  # mean UTF-8 bytes of a text that may belong to the prompt: 40 Latin letters, 13 kanji
_COMMON = 0.05  # the smallest share of the records in which such a field has text
_SAMPLE = 1_000  # texts are examined in this many records, the first ones
_SET_NAMES = ("split", "set", "subset", "partition", "fold", "datasplit")
_HELD_OUT = frozenset({"test", "testing", "validation", "valid", "val", "dev", "eval", "heldout", "held_out"})
_NEGATIVE = NEGATIVE_WORDS | {"fail", "failed", "wrong", "incorrect", "invalid"}
_TRUTH_WORDS = frozenset({"true", "false", "yes", "no", "0", "1"})


class UnreadValues:
    """Collects the values of the fields that are not read, from all records of a source.

    Args:
        texts: whether to examine the texts of the first records too, for `text_notes` and `long_texts`.
    """

    def __init__(self, *, texts: bool = False) -> None:
        self._examines_texts = texts
        self._records = 0
        self._words: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._other: set[str] = set()  # fields with a value that cannot be a verdict, or with too many values
        self._texts: Counter[str] = Counter()  # by field, the number of records with text
        self._characters: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._samples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, record: Mapping[str, Any], unread: Iterable[str], known: Collection[str] = ()) -> None:
        """Add a record.

        Args:
            record: all its fields.
            unread: the fields that are not read; those of messages as `messages[].tag`.
            known: the texts that are read. A text that contains one of them, or is part of one, is not examined.
        """
        self._records += 1
        for field in unread:
            for value in _values(record, field):
                if value is not None and value != "":
                    self._add(field, value, known)

    def _add(self, field: str, value: Any, known: Collection[str]) -> None:
        word = _word(value)
        if word is None or len(self._words[field]) > _MOST_WORDS:
            self._other.add(field)
        else:
            self._words[field][word] += 1
        if not self._examines_texts or self._records > _SAMPLE:
            return
        parts = [part.strip() for _, part in texts_inside(value) if part.strip()]
        text = "\n".join(parts)
        if text and not any(text in one or (one.strip() and one.strip() in text) for one in known):
            self._texts[field] += 1
            self._characters[field] += len(text)
            self._bytes[field] += len(text.encode("utf-8", "surrogatepass"))
            self._samples[field] += [part[:300] for part in parts[:10]]

    def verdict_notes(self) -> list[str]:
        """A note on fields whose values look like verdicts or marks; an empty list if there are no such fields."""
        found = [
            f"{quoted(field)} ({', '.join(f'{word}: {count:,}' for word, count in counts.most_common())})"
            for field, counts in self._words.items()
            if field not in self._other and self._are_verdicts(field, counts)
        ]
        if not found:
            return []
        more = f" and {len(found) - _LISTED:,} more" if len(found) > _LISTED else ""
        return [
            "Fields whose values look like verdicts or marks have no effect; values and their counts: "
            f"{', '.join(found[:_LISTED])}{more}. If they mark records that should not be learned, remove the records."
        ]

    def _are_verdicts(self, field: str, counts: Counter[str]) -> bool:
        words = set(counts)
        if words <= _TRUTH_WORDS:
            # A 0 or 1 that all records have in common is no verdict.
            return len(words) > 1 or counts.total() < self._records or not words <= {"0", "1"}
        last = plain_name(field.rpartition(".")[2])
        return bool(words & (_NEGATIVE | (_HELD_OUT if last in _SET_NAMES else frozenset())))

    def text_notes(self, is_reasoning: Callable[[str], bool]) -> list[str]:
        """A note on each field that holds longer text, the longest first, for up to `_LISTED` fields.

        Args:
            is_reasoning: whether a field is named like the reasoning before an answer. Then shorter text counts too.
        """
        long = self.long_texts()
        notes = []
        means = {field: self._characters[field] / count for field, count in self._texts.items()}
        for field, characters in sorted(means.items(), key=lambda item: -item[1]):
            reasoning = is_reasoning(field) and self._is_text(field)
            if reasoning or field in long:
                size = f"{characters:,.0f} characters on average"
                fix = " To learn it as the answer's reasoning, name it reasoning_content." if reasoning else ""
                notes.append(f"{quoted(field)} holds text ({size}) and is not part of the prompt or the answer.{fix}")
        return notes[:_LISTED]

    def long_texts(self, least_share: float = _COMMON) -> list[str]:
        """The fields that hold longer text in at least this share of the examined records."""
        least = least_share * min(self._records, _SAMPLE)
        return [
            field
            for field, count in self._texts.items()
            if self._bytes[field] >= _LONG * count and count >= least and self._is_text(field)
        ]

    def _is_text(self, field: str) -> bool:
        """Whether a field holds text, rather than identifiers or similar values."""
        name = field.rpartition(".")[2]
        return what_fields_hold([{name: self._samples[field]}])[name] is Holds.TEXT


def _word(value: Any) -> str | None:
    """A truth value, or a short text of up to two words, in lower case; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return str(value).casefold().removesuffix(".0")
    if isinstance(value, str) and len(value) <= _LONGEST_WORD and len(value.split()) <= 2:
        return value.strip().casefold()
    return None


def _values(record: Mapping[str, Any], field: str) -> Iterator[Any]:
    """The values of a field, or of a field of messages such as `messages[].tag`."""
    outer, inside, inner = field.partition("[].")
    if field in record or not inside:
        yield record.get(field)
        return
    messages = record.get(outer)
    for message in messages if isinstance(messages, list | tuple) else ():
        if isinstance(message, Mapping):
            yield message.get(inner)
