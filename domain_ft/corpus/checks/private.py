"""Finds personal data and secrets in texts. Messages never show a whole value.

Telephone numbers are validated by `phonenumbers`, identity and account numbers by `python-stdnum`. `secrets` finds keys
and passwords, and a spaCy pipeline finds names of persons, if one is given.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from domain_ft.corpus.checks.secrets import find_secrets
from domain_ft.errors import CorpusError


@dataclass(frozen=True)
class Hit:
    """A piece of private data in a text.

    Attributes:
        start, end: offsets in the text, in characters.
        kind: the kind of the finding, such as `personal-email`.
        what: what it is, in words.
    """

    start: int
    end: int
    kind: str
    what: str

    @property
    def mark(self) -> str:
        """Its replacement when it is masked, such as `[EMAIL]`."""
        return f"[{_MARKS[self.kind]}]"


_MARKS = {
    "secret": "SECRET",
    "personal-email": "EMAIL",
    "personal-account": "ACCOUNT",
    "personal-id": "ID",
    "personal-phone": "PHONE",
    "personal-name": "NAME",
}

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_][A-Za-z0-9._%+'-]{0,63}[@＠](?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}"
)


@dataclass(frozen=True)
class _Number:
    """A kind of number with a fixed notation.

    Attributes:
        form: matches the notation where it is not part of a longer number or word.
        modules: modules of stdnum. A number is valid if one of them accepts it.
        what: what it is, in words.
        kind: the kind of the finding.
    """

    form: re.Pattern[str]
    modules: tuple[str, ...]
    what: str
    kind: str = "personal-id"


def _form(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![0-9A-Za-z])(?<![0-9][-./ ])(?:{pattern})(?![0-9A-Za-z])(?![-./ ][0-9])")


# Each kind has separators, letters, check digits or a date, so that few other numbers are mistaken for it.
_NUMBERS = (
    _Number(
        _form(r"[2-6][0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}|3[47][0-9]{2}([ -]?)[0-9]{6}\2[0-9]{5}"),
        ("luhn",),
        "a payment card number",
        "personal-account",
    ),
    _Number(
        _form(r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"), ("iban",), "an IBAN", "personal-account"
    ),
    _Number(_form(r"[0-9]{3}-[0-9]{2}-[0-9]{4}"), ("us.ssn", "us.itin"), "a social security number (US)"),
    _Number(_form(r"[0-9]{3} [0-9]{3} [0-9]{4}"), ("gb.nhs",), "an NHS number (GB)"),
    _Number(_form(r"[0-9]{3}-[0-9]{3}-[0-9]{3}"), ("ca.sin",), "a social insurance number (CA)"),
    _Number(_form(r"[0-9]{17}[0-9Xx]"), ("cn.ric",), "a resident identity number (CN)"),
    _Number(_form(r"[0-9]{6}-[0-9]{7}"), ("kr.rrn",), "a resident registration number (KR)"),
    _Number(_form(r"[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}"), ("in_.aadhaar", "jp.in_"), "an identity number (IN or JP)"),
    _Number(_form(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"), ("br.cpf",), "a CPF (BR)"),
    _Number(_form(r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9AB]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"), ("fr.nir",), "a NIR (FR)"),
    _Number(_form(r"[0-9]{8}-?[A-Z]"), ("es.dni",), "a DNI (ES)"),
    _Number(_form(r"[XYZ]-?[0-9]{7}-?[A-Z]"), ("es.nie",), "a NIE (ES)"),
    _Number(_form(r"[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}[A-Z]"), ("it.codicefiscale",), "a codice fiscale (IT)"),
    _Number(_form(r"[0-9]{2} [0-9]{3} [0-9]{3} [0-9]{3}"), ("de.idnr",), "a tax identification number (DE)"),
    _Number(_form(r"[0-9]{6}[-+][0-9]{4}"), ("se.personnummer",), "a personnummer (SE)"),
    _Number(_form(r"[0-9]{6}[-+A][0-9]{3}[0-9A-Z]"), ("fi.hetu",), "a personal identity code (FI)"),
    _Number(_form(r"[0-9]{6} ?[0-9]{5}"), ("no.fodselsnummer",), "a national identity number (NO)"),
    _Number(_form(r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}"), ("be.nn",), "a national number (BE)"),
    _Number(_form(r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}"), ("ch.ssn",), "an AHV number (CH)"),
    _Number(_form(r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]"), ("mx.curp",), "a CURP (MX)"),
    _Number(_form(r"[0-9]-[0-9]{4}-[0-9]{5}-[0-9]{2}-[0-9]"), ("th.pin",), "a personal identity number (TH)"),
    _Number(_form(r"[1-9][0-9]{12}"), ("ro.cnp", "za.idnr"), "an identity number (RO or ZA)"),
)
_DIGITS = re.compile(r"[0-9][0-9 .A-Z+-]{6}")  # part of every number in the list: a text without it has none of them

# Language -> the likely countries of telephone numbers without a country code.
_REGIONS = {
    "en": ("US", "GB"),
    "ja": ("JP",),
    "de": ("DE",),
    "fr": ("FR",),
    "es": ("ES", "MX"),
    "it": ("IT",),
    "pt": ("BR", "PT"),
    "nl": ("NL",),
    "pl": ("PL",),
    "ru": ("RU",),
    "zh": ("CN",),
    "ko": ("KR",),
}
_GLOBAL = re.compile(r"[+＋]\s?[(\d]")
_NATIONAL = re.compile(
    r"(?<![0-9A-Za-z.,/+-])(?:[18][-. ])?\(?\d{2,5}\)?[-./ ‐–]{1,2}\d{2,5}(?:[-./ ‐–]\d{2,5}){0,3}"
    r"(?![0-9A-Za-z/]|[-.,]\d)"
)
_GROUPS = re.compile(r"\d+")
_AT_ONCE = 100_000  # characters per call of spaCy, which needs about a gigabyte of memory for a million
_SHARED = 1_000  # characters that two successive calls share


class PrivateData:
    """Finds private data in texts.

    Args:
        region: the country (ISO 3166) of telephone numbers without a country code; None for the countries of the
            text's language in `_REGIONS`.
        names: a spaCy pipeline that finds names of persons, as a package or folder; None to find no names.

    Raises:
        CorpusError: the country or pipeline does not exist, or spaCy is not installed.
    """

    def __init__(self, region: str | None = None, names: str | None = None) -> None:
        if region is not None:
            _check_region(region)
        self.region = region
        self._pipeline = _load_pipeline(names) if names else None

    def find(self, text: str, language: str | None = None) -> list[Hit]:
        """The private data in a text, in order. If hits overlap, only the first one found is kept.

        Args:
            text: any text.
            language: the language of the text or the file (ISO 639-1); None if it is not known.
        """
        hits: list[Hit] = []
        for finder in (self._secrets, _emails, _numbers, self._phones(language), self._names):
            for hit in finder(text):
                if not any(hit.start < other.end and other.start < hit.end for other in hits):
                    hits.append(hit)
        return sorted(hits, key=lambda hit: hit.start)

    def _secrets(self, text: str) -> Iterator[Hit]:
        for start, end, what in find_secrets(text):
            yield Hit(start, end, "secret", what)

    def _phones(self, language: str | None) -> Callable[[str], Iterable[Hit]]:
        regions = (self.region.upper(),) if self.region else _REGIONS.get(language or "", ())

        def find(text: str) -> Iterator[Hit]:
            if _GLOBAL.search(text):
                yield from _global_phones(text)
            if regions and _NATIONAL.search(text):
                yield from _national_phones(text, regions)

        return find

    def _names(self, text: str) -> Iterator[Hit]:
        if self._pipeline is not None:
            for start, first, end in _parts(len(text)):
                for entity in self._pipeline(text[start : start + _AT_ONCE]).ents:
                    place = start + entity.start_char, start + entity.end_char
                    if entity.label_ in ("PERSON", "PER") and first <= place[0] < end:
                        yield Hit(*place, "personal-name", "a person's name")


def _parts(length: int) -> Iterator[tuple[int, int, int]]:
    """(start, first, end) of each part of a text that is passed to spaCy.

    A part begins at `start`. Only names that begin at `first` or later, and before `end`, are taken from it. Successive
    parts overlap, and these limits are in the middle of the overlap, so a name cut by one part is whole in the other.
    """
    for start in range(0, max(length - _SHARED, 1), _AT_ONCE - _SHARED):
        end = start + _AT_ONCE
        yield start, start + _SHARED // 2 if start else 0, end - _SHARED // 2 if end < length else length


def masked(value: str) -> str:
    """A private value for messages: its first characters and its length.

    >>> masked("jane.doe@example.org")
    'ja… (20 characters)'
    """
    return f"{value[: min(2, len(value) // 4)]}… ({len(value)} characters)"


def redact(text: str, hits: Sequence[Hit]) -> str:
    """The text with a mark in place of each hit.

    >>> redact("write to a@b.org", [Hit(9, 16, "personal-email", "an e-mail address")])
    'write to [EMAIL]'
    """
    for hit in sorted(hits, key=lambda hit: -hit.start):
        text = text[: hit.start] + hit.mark + text[hit.end :]
    return text


def _emails(text: str) -> Iterator[Hit]:
    if "@" in text or "＠" in text:
        for match in _EMAIL.finditer(text):
            yield Hit(*match.span(), "personal-email", "an e-mail address")


def _numbers(text: str) -> Iterator[Hit]:
    if not _DIGITS.search(text):
        return
    for number in _NUMBERS:
        for match in number.form.finditer(text):
            if _distinct(match[0]) and any(_is_valid(module, match[0]) for module in number.modules):
                yield Hit(*match.span(), number.kind, number.what)


def _distinct(value: str) -> bool:
    """Whether a number has at least two different digits. Repeated digits pass many checks."""
    return len(set(filter(str.isdigit, value))) > 1


def _is_valid(module: str, value: str) -> bool:
    checks = importlib.import_module(f"stdnum.{module}")
    # stdnum.luhn is generic and does not remove separators.
    return bool(checks.is_valid(re.sub("[ -]", "", value) if module == "luhn" else value))


def _global_phones(text: str) -> Iterator[Hit]:
    """Telephone numbers with a country code."""
    from phonenumbers import PhoneNumberMatcher  # slow to import

    for match in PhoneNumberMatcher(text, None):
        if not _is_public(match.number):
            start = match.start + _open_bracket(match.raw_string)
            yield Hit(start, match.end, "personal-phone", "a telephone number")


def _national_phones(text: str, regions: Sequence[str]) -> Iterator[Hit]:
    """Telephone numbers without a country code, in the notation of one of the countries."""
    for match in _NATIONAL.finditer(text):
        for start, end in _spans_to_try(match[0]):
            candidate = match[0][start:end]
            if any(_is_national(candidate, region) for region in regions):
                place = match.start() + start + _open_bracket(candidate), match.start() + end
                yield Hit(*place, "personal-phone", "a telephone number")
                break


def _spans_to_try(candidate: str) -> Iterator[tuple[int, int]]:
    """(start, end) of what may be a telephone number: the whole candidate, what follows a space, what precedes a space.

    Another number, such as a postal code, may be next to a telephone number.
    """
    yield 0, len(candidate)
    spaces = [place for place, character in enumerate(candidate) if character == " "]
    for place in spaces:
        yield place + 1, len(candidate)
    for place in reversed(spaces):
        yield 0, place


def _open_bracket(candidate: str) -> int:
    """1 if the candidate begins with an unclosed bracket, which is not part of the number; otherwise 0."""
    return int(candidate[0] == "(" and ")" not in candidate)


def _is_public(number: Any) -> bool:
    """Whether a number is of a kind that only organisations have, such as toll-free numbers."""
    from phonenumbers import PhoneNumberType, number_type

    return number_type(number) in (PhoneNumberType.TOLL_FREE, PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST)


def _is_national(candidate: str, region: str) -> bool:
    """Whether a candidate is a telephone number of the region and is written like one.

    With its digits in the usual groups, it needs a leading 0, a bracket, or a separator other than a space. In other
    groups, it needs a leading 0 or bracket. Dates, scores and page ranges seldom have these.
    """
    import phonenumbers  # slow to import

    try:
        number = phonenumbers.parse(candidate, region)
    except phonenumbers.NumberParseException:
        return False
    if _is_public(number):
        return False
    groups = _GROUPS.findall(candidate)
    groups = groups[1:] if groups[0] in ("1", "8") else groups  # a trunk prefix that is not always written
    usual = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    if groups == _GROUPS.findall(usual):
        signs = set(candidate) & set("()-./‐–")
        # An unassigned number such as 555-0123 counts too if it has three or more groups.
        return bool(signs or groups[0][0] == "0") and (
            phonenumbers.is_valid_number(number) or (len(groups) > 2 and phonenumbers.is_possible_number(number))
        )
    return candidate[0] in "0(" and phonenumbers.is_valid_number(number)


def _check_region(region: str) -> None:
    from phonenumbers import SUPPORTED_REGIONS  # slow to import

    if region.upper() not in SUPPORTED_REGIONS:
        raise CorpusError(
            f"--region {region}: there is no such country",
            fix="give a two-letter code of ISO 3166, such as US, GB, DE or JP",
        )


def _load_pipeline(name: str) -> Any:
    try:
        import spacy  # an extra, and slow to import
    except ImportError as error:
        raise CorpusError("--names needs spaCy", fix="pip install 'domain-ft[names]'") from error
    try:
        return spacy.load(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CorpusError(
            f"--names {name}: spaCy has no such pipeline ({reason})",
            fix=f"install it: python -m spacy download {name}; or give the folder of a pipeline",
        ) from error
