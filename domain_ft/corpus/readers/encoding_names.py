"""What encodings are called: by Python, by people, and which of them have lines that are no lines of bytes."""

from __future__ import annotations

import codecs

from domain_ft.errors import SettingsError, nearest

UTF8 = "utf-8"


WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


# What Python calls an encoding -> what iconv calls it.
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
    """What Python calls an encoding of text.

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
    # UTF-8 files may begin with a byte order mark, which is taken off in any case.
    return UTF8 if info.name in (UTF8, "utf-8-sig", "ascii") else info.name


def label(encoding: str) -> str:
    """What an encoding is called in messages, which is also what `iconv` and --encoding take."""
    return _ICONV.get(encoding, encoding.upper())


def is_wide(encoding: str) -> bool:
    """Whether a line's end is more than one byte in it, so that a file has to be decoded before it is cut in lines."""
    return encoding.replace("_", "-").startswith(("utf-16", "utf-32", "utf-7"))
