"""Detects the language of each text, and finds texts that are not in a main language of the file.

Some scripts identify the language, and kana distinguishes Japanese from Chinese. `py3langid` is used only for scripts
that several languages share. Texts that are too short are skipped.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from domain_ft.corpus.checks.findings import Finding
from domain_ft.errors import CorpusError

SAMPLE = 600
"""The most characters of a text that are examined."""
FEWEST_LETTERS = 25
"""A text in a script that several languages share is skipped if it has fewer letters."""
FEWEST_CHARACTERS = 6
"""A text in a script that identifies the language is skipped if it has fewer letters."""

_OF_SCRIPT = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "THAI": "th",
    "LAO": "lo",
    "KHMER": "km",
    "GREEK": "el",
    "HEBREW": "he",
    "ARMENIAN": "hy",
    "GEORGIAN": "ka",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "SINHALA": "si",
    "BENGALI": "bn",
    "ORIYA": "or",
    "ETHIOPIC": "am",
    "CJK": "zh",
}
_KANA = 0.02  # minimum share of kana among kana and CJK characters in Japanese; tables of contents have few kana
_NONE = "zxx"  # the code for texts in no language, such as program code
_SURE = 0.5  # minimum probability of the most likely language; otherwise the text is skipped
_POSSIBLE = 0.01  # minimum probability of a possible language
_MAIN = 0.2  # a main language of the file has at least this share of its texts
_MOST = 0.8  # minimum share of the main languages together; otherwise the file is a mixture, and nothing is reported


class TextLanguage(NamedTuple):
    """The possible languages of a text, the most likely first."""

    line: int | None
    field: str
    possible: tuple[str, ...]


class Languages:
    """Collects the languages of a file's texts, then reports the texts in a wrong language.

    Args:
        allowed: the allowed languages (ISO 639-1); empty to allow the main languages of the file.

    Attributes:
        counts: the number of texts by language.

    Raises:
        CorpusError: a language is unknown.
    """

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self.allowed = frozenset(map(str.lower, allowed))
        for language in self.allowed - ({*_OF_SCRIPT.values(), *_identifier().labels} if allowed else set()):
            raise CorpusError(
                f"--language {language}: the language is unknown, or cannot be detected",
                fix="give a two-letter code of ISO 639-1, such as en, de or ja",
            )
        self.counts: Counter[str] = Counter()
        self._texts: list[TextLanguage] = []
        self._seen: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(self, line: int | None, field: str, text: str) -> None:
        """Add a text, if it is long enough."""
        possible = languages_of(sample_of(text))
        if possible:
            self.counts[possible[0]] += 1
            # The same few fields and languages recur: they are stored once.
            self._texts.append(TextLanguage(line, sys.intern(field), self._seen.setdefault(possible, possible)))

    @property
    def main(self) -> str | None:
        """The most frequent language so far; None if no language has been counted."""
        return self.counts.most_common(1)[0][0] if self.counts else None

    def findings(self) -> Iterator[Finding]:
        """The texts none of whose possible languages is allowed."""
        total = self.counts.total()
        allowed = self.allowed or {language for language, count in self.counts.items() if count >= _MAIN * total}
        if not self.allowed and sum(self.counts[language] for language in allowed) < _MOST * total:
            return
        names = ", ".join(sorted(allowed))
        for text in self._texts:
            if allowed.isdisjoint(text.possible):
                others = "but the allowed languages are" if self.allowed else "while most of the file is in"
                message = f"its language is {text.possible[0]}, {others} {names}"
                yield Finding(text.line, text.field or None, "wrong-language", message)


def sample_of(text: str) -> str:
    """A short text, or the beginning, middle and end of a long one, whose beginning may be a table of contents."""
    if len(text) <= SAMPLE:
        return text
    third, middle = SAMPLE // 3, len(text) // 2
    return " ".join((text[:third], text[middle : middle + third], text[-third:]))


def languages_of(text: str) -> tuple[str, ...]:
    """The possible languages of a text (ISO 639-1), the most likely first; empty if none can be determined.

    >>> languages_of("この法律は、平成二十年四月一日から施行する。")
    ('ja',)
    """
    scripts = Counter(map(script_of, filter(str.isalpha, text)))
    if not scripts:
        return ()
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    if kana and kana >= _KANA * (kana + scripts["CJK"]):
        scripts["HIRAGANA"] = kana + scripts.pop("CJK", 0)
        del scripts["KATAKANA"]
    script, letters = scripts.most_common(1)[0]
    language = _OF_SCRIPT.get(script)
    if language is not None:
        return (language,) if letters >= FEWEST_CHARACTERS else ()
    return _ranked(text) if letters >= FEWEST_LETTERS else ()


def _ranked(text: str) -> tuple[str, ...]:
    ranked = _identifier().rank(text)
    if ranked[0][1] < _SURE or ranked[0][0] == _NONE:
        return ()
    return tuple(language for language, probability in ranked if probability >= _POSSIBLE)


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # slow to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.lru_cache(maxsize=65536)
def script_of(letter: str) -> str:
    """The script of a letter, from the first word of its Unicode name: LATIN, CJK, HIRAGANA."""
    return unicodedata.name(letter, "NONE").split(" ", 1)[0].removesuffix("-LIKE")
