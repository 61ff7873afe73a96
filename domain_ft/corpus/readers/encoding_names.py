"""Names of encodings in Python and in messages, and which encodings must be decoded before lines are split."""

from __future__ import annotations

import codecs

from domain_ft.errors import SettingsError, nearest

UTF8 = "utf-8"
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")

# Python's name -> iconv's name.
_ICONV = {
    "cp932": "CP932",
    "euc_jp": "EUC-JP",
    "iso2022_jp": "ISO-2022-JP",
    "gb18030": "GB18030",
    "big5hkscs": "BIG5-HKSCS",
    "cp949": "CP949",
    "koi8_r": "KOI8-R",
    "iso8859_15": "ISO-8859-15",
    "utf-16": "UTF-16",
    "utf-32": "UTF-32",
    **{name: name.upper() for name in WIDE},
    **{f"cp125{number}": f"WINDOWS-125{number}" for number in range(9)},
}


def canonical(name: str) -> str:
    """Python's name of a text encoding; `utf-8` also for ASCII.

    Raises:
        SettingsError: there is no such encoding.
    """
    try:
        info = codecs.lookup(name)
        "".encode(info.name)
    except (LookupError, ValueError) as error:
        known = [*_ICONV.values(), "UTF-8", "SHIFT_JIS", "LATIN-1"]
        raise SettingsError(
            f"--encoding {name}: there is no such encoding", fix=nearest(name.upper(), known)
        ) from error
    # ASCII is a subset of UTF-8, and the readers remove a byte order mark.
    return UTF8 if info.name in (UTF8, "utf-8-sig", "ascii") else info.name


def label(encoding: str) -> str:
    """The name of an encoding in messages, which `iconv` and --encoding accept."""
    return _ICONV.get(encoding, encoding.upper())


def is_wide(encoding: str) -> bool:
    """Whether a file in this encoding must be decoded before it is split: its newlines can be several bytes."""
    return encoding.replace("_", "-").startswith(("utf-16", "utf-32", "utf-7"))
