"""The language of each text, and which texts are in another than the rest.

The script is looked at first: many scripts say the language, and kana tells Japanese from Chinese. Only of a script
that languages share does `py3langid` judge. Texts that are too short to be judged are passed over.
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
"""Characters of a text that are looked at."""
FEWEST_LETTERS = 25
"""Letters from which on a text of a script that languages share is judged."""
FEWEST_CHARACTERS = 6
"""Letters from which on a text is judged whose script says the language."""

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
_KANA = 0.02  # of kana and Chinese characters, from which on they are Japanese: a table of contents has few
_NONE = "zxx"  # what is in no language, such as code
_SURE = 0.5  # the probability from which on a language is counted
_POSSIBLE = 0.01  # the probability from which on a text may be in a language
_OWN = 0.2  # the share of the texts from which on a language is one of the file's own
_MOST = 0.8  # the share of the texts that the file's own languages have, else it is a mixture, in which none is wrong


class Judged(NamedTuple):
    """A text whose language is known: all that it may be, the likeliest first."""

    line: int | None
    field: str
    possible: tuple[str, ...]


class Languages:
    """Takes the texts of a file one by one, and then says which of them are in a wrong language.

    Args:
        allowed: the languages that texts may be in (ISO 639-1); none to take those that most texts are in.

    Attributes:
        counts: how many texts are in each language.

    Raises:
        CorpusError: a language that is not known.
    """

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self.allowed = frozenset(map(str.lower, allowed))
        for language in self.allowed - ({*_OF_SCRIPT.values(), *_identifier().labels} if allowed else set()):
            raise CorpusError(
                f"--language {language}: there is no such language, or none that can be told",
                fix="give its two letters of ISO 639-1, such as en, de or ja",
            )
        self.counts: Counter[str] = Counter()
        self._judged: list[Judged] = []
        self._seen: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(self, line: int | None, field: str, text: str) -> None:
        """Judge a text, if it is long enough."""
        possible = languages_of(sample_of(text))
        if possible:
            self.counts[possible[0]] += 1
            # The same few fields and languages come again and again, and are kept once.
            self._judged.append(Judged(line, sys.intern(field), self._seen.setdefault(possible, possible)))

    @property
    def main(self) -> str | None:
        """The language of most texts so far."""
        return self.counts.most_common(1)[0][0] if self.counts else None

    def findings(self) -> Iterator[Finding]:
        """The texts that are in none of the languages that they may be in."""
        total = self.counts.total()
        own = self.allowed or {language for language, count in self.counts.items() if count >= _OWN * total}
        if not self.allowed and sum(self.counts[language] for language in own) < _MOST * total:
            return
        wanted = ", ".join(sorted(own))
        for text in self._judged:
            if own.isdisjoint(text.possible):
                why = f"where {wanted} is wanted" if self.allowed else f"where most of the file is in {wanted}"
                message = f"it is in another language ({text.possible[0]}), {why}"
                yield Finding(text.line, text.field, "wrong-language", message)


def sample_of(text: str) -> str:
    """The beginning, the middle and the end of a long text: the beginning may be a table of contents."""
    if len(text) <= SAMPLE:
        return text
    third, middle = SAMPLE // 3, len(text) // 2
    return " ".join((text[:third], text[middle : middle + third], text[-third:]))


def languages_of(text: str) -> tuple[str, ...]:
    """The languages that a text may be in (ISO 639-1), the likeliest first; none where that cannot be told.

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
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes a while to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.lru_cache(maxsize=65536)
def script_of(letter: str) -> str:
    """The script of a letter, by the first word of its name: LATIN, CJK, HIRAGANA."""
    return unicodedata.name(letter, "NONE").split(" ", 1)[0].removesuffix("-LIKE")
