"""Recognises dates and times in common languages."""

from __future__ import annotations

import re
import unicodedata

_WORDS = re.compile(r"[^\W\d_]+")
_ALLOWED = re.compile(r"[\w\s.,:;/+\-'\u2019()\xba\xaa]+")  # the characters that a date may contain
_LONGEST = 80  # the most characters of a date
_MONTHS = (
    "january february march april may june july august september october november december",
    "jan feb mar apr jun jul aug sep sept oct nov dec",
    "januar februar marz mai juni juli oktober dezember mrz okt dez janner",
    "janvier fevrier mars avril mai juin juillet aout septembre octobre novembre decembre janv fevr avr juil",
    "enero febrero marzo abril mayo junio julio agosto septiembre setiembre octubre noviembre diciembre ene abr ago",
    "dic",
    "gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre gen mag giu lug set ott",
    "janeiro fevereiro marco maio junho julho setembro outubro novembro dezembro fev out",
    "januari februari maart mei augustus mrt",
)
_DAYS = (
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri sat sun",
    "montag dienstag mittwoch donnerstag freitag samstag sonnabend sonntag mo di mi do fr sa so",
    "lundi mardi mercredi jeudi vendredi samedi dimanche lun mer jeu ven sam dim",
    "lunes martes miercoles jueves viernes sabado domingo mie jue vie sab dom",
    "lunedi martedi mercoledi giovedi venerdi sabato domenica gio",
    "segunda terca quarta quinta sexta feira maandag dinsdag woensdag donderdag vrijdag zaterdag zondag",
)
_OTHERS = (
    "st nd rd th er o a at on of the and to from until since le la el il os den der am um uhr h m s de del do das dos",
    "pm noon midnight clock t z utc gmt bst ist cet cest est edt cst cdt mst mdt pst pdt jst msk ad bc ce bce",
    "ago hour hours minute minutes min mins day days week weeks month months year years sec second seconds q w kw",
    "spring summer autumn fall winter early mid late quarter",
)
_KNOWN = frozenset(word for group in (*_MONTHS, *_DAYS, *_OTHERS) for word in group.split())
_EAST_ASIAN = re.compile(
    "[\\d\\s.,:;/()\\-\u5e74\u6708\u65e5\u53f7\u6642\u65f6\u70b9\u5206\u79d2\u9031\u5468\u661f\u671f\u66dc\u706b\u6c34\u6728\u91d1\u571f\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b"
    "\u4e5d\u5341\u5143\u5348\u524d\u5f8c\u4e0a\u4e0b\u4ee4\u548c\u5e73\u6210\u662d\u5927\u6b63\u660e\u6cbb\ub144\uc6d4\uc77c\uc2dc\ubd84\ucd08\uc624\uc804\ud6c4]+"
)


def is_date(value: str) -> bool:
    """Whether a text consists only of numbers, signs and words that occur in dates and times, with at least one digit.

    >>> is_date("12 March 2020 at 10:05"), is_date("March 12, 2020"), is_date("On 12 March the court sat.")
    (True, True, False)
    """
    value = unicodedata.normalize("NFKC", value).strip()
    if not 0 < len(value) <= _LONGEST or not any(character.isdigit() for character in value):
        return False
    if _EAST_ASIAN.fullmatch(value):
        return True
    if not _ALLOWED.fullmatch(value):
        return False
    plain = "".join(c for c in unicodedata.normalize("NFKD", value.casefold()) if not unicodedata.combining(c))
    return all(word in _KNOWN for word in _WORDS.findall(plain))
