"""Finds truncated answers: they end in mid-sentence, while most others end with a complete sentence.

Sentence ends are the characters in `SENTENCE_ENDS`. An answer is compared only with the answers in the same script. So
languages that are written without sentence ends, such as Thai, normally yield no findings.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator

from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.checks.languages import script_of
from domain_ft.corpus.sentences import SENTENCE_ENDS

FEWEST = 20
"""The minimum length of an answer to check, in characters: a word or a name needs no full stop."""
WIDE_FEWEST = 10
"""The same for scripts whose characters are syllables or words."""
USUAL = 0.8
"""At least this share of a script's answers must end with a complete sentence; else no answer in it is reported."""
FEWEST_ANSWERS = 10
"""A script is only checked if it has at least this many answers."""

_AFTER = frozenset("\"'*_`~")  # may follow the end of a sentence, as closing brackets and quotes may
_GOES_ON = frozenset(",;:-–—([{、，；：・「（")
_WIDE = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL"})
_LISTED = ("-", "*", "•", "・", "#", "|", ">", "    ", "\t")  # beginnings of lines that are not running text
_ITEM = 80  # maximum characters of the last item of a list in one line
_LONGEST = 600  # maximum characters of a sentence


class Endings:
    """Collects answers, then reports those that seem to be truncated."""

    def __init__(self) -> None:
        self._whole: Counter[str] = Counter()  # answers that end with a complete sentence, by script
        self._broken: list[tuple[int | None, str, str]] = []  # line, field, script of truncated answers

    def add(self, line: int | None, field: str, answer: str) -> None:
        """Add an answer, unless it is too short, has no letter near its end, or ends otherwise, as with a digit."""
        text = answer.rstrip()
        letter = next((character for character in reversed(text[-FEWEST:]) if character.isalpha()), None)
        if letter is None:
            return
        script = script_of(letter)
        if len(text) < (WIDE_FEWEST if script in _WIDE else FEWEST):
            return
        if ends_whole(text):
            self._whole[script] += 1
        elif (
            text[-1].isalpha() or unicodedata.category(text[-1])[0] == "M" or text[-1] in _GOES_ON
        ) and not _is_no_sentence(text):
            self._broken.append((line, field, script))

    def findings(self) -> Iterator[Finding]:
        """The answers that end in mid-sentence, in scripts where most (`USUAL`) end with a complete sentence."""
        broken = Counter(script for _, _, script in self._broken)
        for line, field, script in self._broken:
            answers = self._whole[script] + broken[script]
            share = self._whole[script] / answers
            if answers >= FEWEST_ANSWERS and share >= USUAL:
                message = f"it ends in mid-sentence, while {share:.0%} of the answers end with a complete sentence"
                yield Finding(line, field, "truncated-answer", message)


def ends_whole(text: str) -> bool:
    """Whether a text ends with a sentence end or a symbol such as an emoji, apart from brackets and quotes."""
    for character in reversed(text.rstrip()):
        if character in SENTENCE_ENDS:
            return True
        category = unicodedata.category(character)
        if category == "So":  # an emoji may replace the full stop
            return True
        if character not in _AFTER and category not in ("Pe", "Pf", "Pi", "Mn", "Cf"):
            return False
    return False


def _is_no_sentence(text: str) -> bool:
    """Whether a text ends with a list item, a heading, a name, code or an address, which need no full stop."""
    *before, last = [line for line in text.rsplit("\n", 4) if line.strip()]
    first, _, rest = last.strip().partition(" ")
    numbered = bool(rest) and len(first) <= 4 and first.rstrip(".):、．").isalnum() and not first.isalpha()
    rows = bool(before) and not ends_whole(before[-1])  # the line before the last has no full stop either
    in_line = text.count(" - ") > 1 and len(text.rpartition(" - ")[2]) <= _ITEM
    address = any(sign in last.rsplit(" ", 1)[-1] for sign in ("://", "@", "www."))
    code = "```" in text[-200:]
    return last.startswith(_LISTED) or numbered or rows or in_line or address or code or _needs_no_end(_fragment(last))


def _fragment(line: str) -> str:
    """The part of a line after its last whole sentence."""
    return line[max((line.rfind(end) for end in SENTENCE_ENDS), default=-1) + 1 :]


def _needs_no_end(text: str) -> bool:
    """Whether a text is a headline or postal address, or longer than a sentence, as a list may be.

    In a headline or address, all words of four or more characters are capitalised, and there are at least two of them.
    """
    words = [word for word in text.split() if len(word) > 3 and word[0].isalpha()]
    return len(text) > _LONGEST or (len(words) > 1 and all(word[0].isupper() for word in words))
