"""Encodings: files that are not UTF-8 are refused with suggestions, and --encoding reads them strictly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from domain_ft.corpus.checks.items import Rejections, text_items
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.readers.encoding_names import canonical, label
from domain_ft.corpus.readers.encodings import candidates
from domain_ft.errors import RecordError, SettingsError

JAPANESE = "第一条　この法律は、公布の日から施行する。ただし、次の各号に掲げる規定は、この限りでない。\n" * 3
CHINESE = "第一条　为了保护公民的合法权益，根据宪法，制定本法。本法自公布之日起施行，适用于全国。\n" * 3
KOREAN = "제1조 이 법은 공포한 날부터 시행한다. 다만, 다음 각 호에 해당하는 규정은 그러하지 아니하다.\n" * 3
GERMAN = "Die Bürgschaft erlischt, wenn der Gläubiger die Forderung aufgibt; § 776 gilt für Mitbürgen.\n" * 3
RUSSIAN = "Настоящий закон вступает в силу со дня его официального опубликования.\n" * 3


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (JAPANESE, "cp932", "CP932"),
        (JAPANESE, "euc_jp", "EUC-JP"),
        (JAPANESE, "iso2022_jp", "ISO-2022-JP"),
        (JAPANESE, "utf-16", "UTF-16"),
        (JAPANESE, "utf-16-le", "UTF-16-LE"),
        (JAPANESE, "utf-16-be", "UTF-16-BE"),
        (GERMAN, "utf-16-le", "UTF-16-LE"),
        (GERMAN, "utf-32", "UTF-32"),
        (GERMAN, "utf-32-le", "UTF-32-LE"),
        (CHINESE, "gb18030", "GB18030"),
        (KOREAN, "cp949", "CP949"),
        (GERMAN, "cp1252", "WINDOWS-1252"),
        (RUSSIAN, "cp1251", "WINDOWS-1251"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_the_encoding_is_suggested_and_can_be_given(
    tmp_path: Path, text: str, encoding: str, named: str, name: str
) -> None:
    content = {"a.jsonl": json.dumps({"text": text}, ensure_ascii=False), "a.csv": f'text\n"{text}"\n'}.get(name, text)
    data = content.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(RecordError) as caught:
        list(open_corpus(str(path)).documents())
    message = str(caught.value)
    assert f"--encoding {named}" in message and f"iconv -f {named} -t UTF-8" in message, message
    (document,) = open_corpus(str(path), encoding=named).documents()
    assert document.text == text


def test_the_likeliest_of_several_candidates_is_first() -> None:
    found = candidates(JAPANESE.encode("euc_jp"))
    assert found[0] == "euc_jp"
    assert "gb18030" in found


def test_a_byte_that_is_not_in_the_given_encoding_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "条"}\n'.encode("cp932") + b'{"text": "\xff"}\n{"text": "ok"}\n')
    rejects: list[Reject] = []
    corpus = open_corpus(str(path), encoding="shift_jis", on_bad_record="skip")
    assert [document.text for document in corpus.documents(rejects.append)] == ["条", "ok"]
    assert [(reject.line, reject.reason) for reject in rejects] == [(2, "byte 0xFF at offset 25 is not SHIFT_JIS")]


def test_a_truncated_utf16_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("text".encode("utf-16")[:-1])
    with pytest.raises(RecordError, match="the bytes are not UTF-16"):
        list(open_corpus(str(path), encoding="utf-16").documents())


def test_the_byte_order_mark_of_utf8_is_not_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufefftext".encode())
    for encoding in (None, "utf-8", "UTF8", "utf-8-sig"):
        assert [document.text for document in open_corpus(str(path), encoding=encoding).documents()] == ["text"]


def test_an_unknown_encoding_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="did you mean 'CP932'"):
        canonical("cp923")
    with pytest.raises(SettingsError, match="no such encoding"):
        canonical("base64")
    assert label(canonical("shift-jis")) == "SHIFT_JIS"


def test_a_check_says_once_which_encodings_decode_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(JAPANESE.encode("cp932"))
    rejections = Rejections()
    assert list(text_items(path, "a.txt", None, rejections.bad)) == []
    first, *others = [finding.message for finding in rejections.found]
    assert "--encoding CP932" in first
    assert len(others) == 2 and not any("encoding" in message for message in others)
    rejections = Rejections(encoding="cp932")
    assert len(list(text_items(path, "a.txt", None, rejections.bad))) == 3 and not rejections.found


def test_two_encodings_are_two_corpora(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"text")
    one, other = (open_corpus(str(path), encoding=encoding).identity() for encoding in (None, "cp932"))
    assert one != other
