"""Text from HTML, XML, e-mail, DOCX and PDF; a damaged or hostile file is one bad record, never a traceback."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import docx
import pypdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain_ft.corpus import readers
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.left_out import UnreadFile
from domain_ft.corpus.readers import base
from domain_ft.corpus.readers.base import Reject, Seen
from domain_ft.errors import CorpusError


def read(path: Path, seen: Seen | None = None) -> tuple[list[str], list[str]]:
    """The texts of a file, and the reasons of its rejects."""
    rejects: list[Reject] = []
    corpus = open_corpus(str(path), on_bad_record="skip")
    texts = [document.text for document in corpus.documents(rejects.append, seen=seen)]
    return texts, [reject.reason for reject in rejects]


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


PAGE = (
    "<html><head><title>Rules</title><style>p {color: red}</style></head><body><!-- no -->"
    "<h1>First</h1><p>A <b>bold</b>\n word.<br>Next &amp; last</p><script>var x = 'no'</script>"
    "<table><tr><td>one</td><td>two</td></tr></table></body></html>"
)


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.xhtml"])
def test_a_page_has_a_line_for_each_block(tmp_path: Path, name: str) -> None:
    texts, rejected = read(put(tmp_path, name, PAGE))
    assert texts == ["Rules\nFirst\nA bold word.\nNext & last\none two"]
    assert not rejected


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("Shift_JIS", "cp932"),
        ("EUC-JP", "euc_jp"),
        ("iso-2022-jp", "iso2022_jp"),
        ("utf-8", "utf-8"),
        ("gbk", "gb18030"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_it_declares(tmp_path: Path, declared: str, encoding: str) -> None:
    page = f'<html><head><meta charset="{declared}"></head><body><p>第一条</p></body></html>'
    assert read(put(tmp_path, "a.html", page.encode(encoding))) == (["第一条"], [])


def test_a_page_that_is_not_in_its_declared_encoding_is_rejected(tmp_path: Path) -> None:
    page = '<html><head><meta charset="euc-jp"></head><body><p>第一条のア</p></body></html>'
    texts, (reason,) = read(put(tmp_path, "a.html", page.encode("cp932")))
    assert not texts
    assert "is not EUC-JP, which the file declares" in reason


def test_a_page_nested_deeper_than_the_stack_is_read_or_rejected(tmp_path: Path) -> None:
    texts, rejected = read(put(tmp_path, "a.html", "<div>" * 3_000 + "deep" + "</div>" * 3_000))
    assert texts == ["deep"] or rejected


def test_xml_keeps_running_text_on_its_line(tmp_path: Path) -> None:
    content = '<?xml version="1.0"?><a><t>Title</t><p>some <b>bold</b> text</p><!-- no --></a>'
    assert read(put(tmp_path, "a.xml", content)) == (["Title\nsome bold text"], [])


ENTITIES = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
BAD = {
    "bomb.xml": f'<!DOCTYPE a [<!ENTITY e0 "ha">{ENTITIES}]><a>&e11;</a>'.encode(),
    "outside.xml": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>',
    "broken.xml": b"<a><b></a>",
    "empty.html": b"",
    "nothing.html": b"<html><script>x</script></html>",
    "broken.docx": b"PK\x03\x04 nonsense",
    "old.docx": b"\xd0\xcf\x11\xe0" + bytes(600),
    "broken.pdf": b"%PDF-1.4 nonsense",
    "empty.eml": b"",
    "charset.eml": b"Content-Type: text/plain; charset=utf-8\n\n\xff\xfe\x81",
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_and_hostile_files_are_rejected(tmp_path: Path, name: str) -> None:
    texts, rejected = read(put(tmp_path, name, BAD[name]))
    assert not texts
    assert len(rejected) == 1


def test_a_docx_gives_paragraphs_and_tables_in_order(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("Before")
    table = document.add_table(2, 2)
    for row, words in zip(table.rows, (("a", "b"), ("c", "d")), strict=True):
        for cell, word in zip(row.cells, words, strict=True):
            cell.text = word
    document.add_paragraph("After")
    document.save(str(tmp_path / "a.docx"))
    assert read(tmp_path / "a.docx") == (["Before\na\tb\nc\td\nAfter"], [])


def test_a_docx_that_unpacks_to_too_much_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * 1_000_000)
    monkeypatch.setattr(base, "LARGEST_WHOLE", 100_000)
    texts, (reason,) = read(tmp_path / "a.docx")
    assert not texts
    assert "unpacks to 1 MB" in reason


def pdf(text: str) -> bytes:
    """A PDF of one page with `text` on it; a blank page if `text` is empty."""
    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(300, 300)
    if text:
        font = pypdf.generic.DictionaryObject(
            {
                pypdf.generic.NameObject("/Type"): pypdf.generic.NameObject("/Font"),
                pypdf.generic.NameObject("/Subtype"): pypdf.generic.NameObject("/Type1"),
                pypdf.generic.NameObject("/BaseFont"): pypdf.generic.NameObject("/Helvetica"),
            }
        )
        fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): font})
        page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject(
            {pypdf.generic.NameObject("/Font"): fonts}
        )
        stream = pypdf.generic.StreamObject()
        stream.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode())
        page[pypdf.generic.NameObject("/Contents")] = stream
    sink = io.BytesIO()
    writer.write(sink)
    return sink.getvalue()


def test_a_pdf_gives_its_text(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.pdf", pdf("The licensee shall pay."))) == (["The licensee shall pay."], [])


def test_scanned_and_encrypted_pdfs_are_rejected_with_the_reason(tmp_path: Path) -> None:
    texts, (reason,) = read(put(tmp_path, "scan.pdf", pdf("")))
    assert not texts
    assert "no text in its 1 page" in reason and "scanned" in reason
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("secret")))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    assert read(tmp_path / "locked.pdf") == ([], ["the PDF is encrypted"])


def test_a_mail_gives_subject_and_text_and_names_its_attachments(tmp_path: Path) -> None:
    mail = (
        b"Subject: =?utf-8?b?55Sz6KuL?=\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n"
        b"--x\nContent-Type: text/html; charset=iso-2022-jp\n\n<p>" + "日本".encode("iso2022_jp") + b"</p>\n"
        b"--x\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=report.pdf\n\nxx\n--x--\n"
    )
    seen = Seen()
    texts, rejected = read(put(tmp_path, "a.eml", mail), seen)
    assert (texts, rejected) == (["申請\n\n日本"], [])
    assert seen.left_out.files == [UnreadFile("a.eml: report.pdf", "an attachment")]


def test_files_that_need_a_missing_extra_are_listed_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.txt", "text")
    page = put(tmp_path, "b.html", PAGE)
    monkeypatch.setitem(readers.NEEDED, "html", "not_installed_here")
    corpus = open_corpus(str(tmp_path))
    assert [document.text for document in corpus.documents()] == ["text"]
    assert corpus.unread_files() == [UnreadFile("b.html", "needs pip install 'domain-ft[documents]'")]
    with pytest.raises(CorpusError, match=r"pip install 'domain-ft\[documents\]'"):
        open_corpus(str(page))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["a.html", "a.xml", "a.eml", "a.docx", "a.pdf"]), content=st.binary(max_size=300))
def test_any_bytes_are_a_text_or_a_reject(tmp_path: Path, name: str, content: bytes) -> None:
    texts, rejected = read(put(tmp_path, name, content))
    assert len(texts) + len(rejected) == 1
