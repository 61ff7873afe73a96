"""Extracts text from HTML, XML, e-mail, DOCX and PDF. A file is one document.

The libraries for this are in the extra `domain-ft[documents]`. Files are not trusted: entities that an XML file defines
are not expanded, nothing is fetched, zip bombs are refused, and a library's error on a file becomes one bad record.
"""

from __future__ import annotations

import contextlib
import email.policy
import io
import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.left_out import UnreadFile
from domain_ft.corpus.readers import base
from domain_ft.corpus.readers.base import BOM, BadRecords, SourceDocument, decode, is_foreign, read_bytes, report_empty
from domain_ft.corpus.readers.encoding_names import canonical, is_wide, label
from domain_ft.errors import SettingsError
from domain_ft.quoting import shown

if TYPE_CHECKING:
    from docx.table import Table

_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([\w.:-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
# These encodings are read as a superset, as in browsers (https://encoding.spec.whatwg.org).
_SUPERSETS = {"shift_jis": "cp932", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs"}
_HIDDEN = ("script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select", "textarea")
_INLINE = frozenset(  # elements that do not break a line of text
    {"a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins"}
    | {"kbd", "label", "mark", "q", "rp", "rt", "ruby", "s", "samp", "small", "span", "strike", "strong", "sub", "sup"}
    | {"time", "tt", "u", "var", "wbr"}
)
_BLANKS = re.compile(r"[ \t\r\n\f]+")
_OLE = b"\xd0\xcf\x11\xe0"  # the first bytes of old Office files and of encrypted new ones


def read_html(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """The title and text of an HTML page, with a line for each block. Elements such as scripts are left out."""
    del text_field
    data = read_bytes(path, name, bad, "split it into several files")
    if data is None:
        return
    text = _declared_text(data, name, bad, _CHARSET.search(data[:4096]) or _DECLARED.search(data[:200]))
    if text is not None:
        yield from _document(_html_text(text, name, bad), name, bad)


def read_xml(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """The text of an XML file, with a line for each element; elements inside running text do not break the line."""
    del text_field
    data = read_bytes(path, name, bad, "split it into several files")
    if data is None:
        return
    text = _declared_text(data, name, bad, _DECLARED.search(data[:200]))
    if text is None:
        return
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    try:
        root = etree.fromstring(_DECLARATION.sub("", text).encode("utf-8"), parser)
    except etree.XMLSyntaxError as error:
        bad.add(f"broken XML: {shown(error.msg)}", file=name, line=error.lineno or None)
        return
    entity = next(root.iter(etree.Entity), None)
    if entity is not None:
        bad.add(
            f"the XML uses the entity {shown(entity.text)}, and entities are not expanded",
            file=name,
            line=entity.sourceline,
            fix="expand its entities: xmllint --noent",
        )
        return
    yield from _document(_xml_text(root), name, bad)


def read_email(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """An e-mail: its subject and its text. Attachments are listed as unread files."""
    del text_field
    data = read_bytes(path, name, bad, "split it into several files")
    if data is None:
        return
    with _damage("e-mail", name, bad):
        message = email.message_from_bytes(data, _class=EmailMessage, policy=email.policy.default)
        body = message.get_body(preferencelist=("plain", "html"))
        subject = str(message.get("subject", "")).strip()
        for part in message.iter_attachments() if message.is_multipart() else ():
            attachment = part.get_filename() or part.get_content_type()
            bad.seen.left_out.files.append(UnreadFile(f"{name}: {shown(attachment)}", "an attachment"))
        text: str | None = ""
        if body is not None:
            content = body.get_payload(decode=True)
            charset = body.get_content_charset()
            text = _declared_text(content if isinstance(content, bytes) else b"", name, bad, charset)
            if text is not None and body.get_content_type() == "text/html":
                text = _html_text(text, name, bad)
        if text is not None:
            yield from _document(f"{subject}\n\n{text}".strip(), name, bad)


def read_docx(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """A Word document: its paragraphs and tables, in order."""
    del text_field
    data = read_bytes(path, name, bad, "split it into several files")
    if data is None:
        return
    if data.startswith(_OLE):
        fix = "save it as .docx, without a password"
        bad.add("this is an old Word file (.doc) or an encrypted one, not a .docx", file=name, fix=fix)
        return
    with _damage("DOCX", name, bad):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist() if member.filename.endswith((".xml", ".rels")))
        if size > base.LARGEST_WHOLE:
            reason = f"the DOCX unpacks to {size / 1e6:,.0f} MB of XML, more than {base.LARGEST_WHOLE / 1e6:,.0f} MB"
            bad.add(reason, file=name, fix="split it into several files, or leave it out")
            return
        import docx

        content = docx.Document(io.BytesIO(data)).iter_inner_content()
        parts = [part.text if hasattr(part, "text") else _table_text(part) for part in content]
        yield from _document("\n".join(parts), name, bad)


def read_pdf(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """The text of a PDF, page by page. A PDF without any text, such as a scan, is reported."""
    del text_field
    data = read_bytes(path, name, bad, "split it into several files")
    if data is None:
        return
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings do not help the user
    with _damage("PDF", name, bad):
        document = pypdf.PdfReader(io.BytesIO(data))
        if document.is_encrypted and not _opens(document):
            bad.add("the PDF is encrypted", file=name, fix="save it without a password: qpdf --decrypt")
            return
        pages = [page.extract_text() for page in document.pages]
        text = "\n\n".join(page.strip() for page in pages if page.strip())
        if not text and pages:
            many = "1 page" if len(pages) == 1 else f"{len(pages):,} pages"
            fix = "recognise its text (OCR) first: ocrmypdf IN.pdf OUT.pdf"
            bad.add(f"the PDF has no text in its {many}, which are probably scanned images", file=name, fix=fix)
            return
        yield from _document(text, name, bad)


def _document(text: str | None, name: str, bad: BadRecords) -> Iterator[SourceDocument]:
    if text is not None and text.strip():
        # Lone surrogates, which PDFs may contain, cannot be encoded as UTF-8.
        yield SourceDocument(id=name, text=text.encode("utf-8", "replace").decode("utf-8").strip(), source=name)
    elif text is not None:
        bad.add("the file has no text", file=name, fix="remove it")


@contextlib.contextmanager
def _damage(kind: str, name: str, bad: BadRecords) -> Iterator[None]:
    """Report an exception of a library as one bad record: the file is damaged."""
    try:
        yield
    except (GeneratorExit, base.RecordError, MemoryError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {shown(error)}" if str(error) else type(error).__name__
        bad.add(f"the {kind} file is damaged and cannot be read ({why})", file=name, fix="save or fetch it again")


def _opens(document: Any) -> bool:
    """Whether an encrypted PDF can be opened without a password, such as one that only forbids printing."""
    try:
        return bool(document.decrypt(""))
    except Exception:  # the encryption is unsupported or damaged
        return False


def _declared_text(data: bytes, name: str, bad: BadRecords, declared: re.Match[bytes] | str | None) -> str | None:
    """The text of a file that may declare its encoding; None if it is empty or cannot be decoded, which is reported.

    `declared`: the declared encoding, or a match with it as its first group.
    """
    if not data:
        report_empty(name, bad)
        return None
    name_of_encoding = (
        declared if isinstance(declared, str) else declared.group(1).decode("ascii", "replace") if declared else None
    )
    encoding = bad.encoding
    if name_of_encoding is not None:
        with contextlib.suppress(SettingsError):
            encoding = _SUPERSETS.get(canonical(name_of_encoding), canonical(name_of_encoding))
    for mark, wide in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        encoding = wide if data.startswith(mark) else encoding
    if data.startswith(BOM):
        data, encoding = data[len(BOM) :], None
    try:
        if encoding is not None and not (is_wide(encoding) and data.isascii() and b"\0" not in data):
            return data.decode(encoding)
    except UnicodeError as error:
        place = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = data.count(b"\n", 0, place) + 1
        origin, fix = "the file declares", "save it as UTF-8, with a declaration that says so"
        if encoding == bad.encoding:
            origin, fix = "--encoding names", "check --encoding"
        reason = f"the byte at offset {place} is not {label(encoding or '')}, which {origin}"
        bad.add(reason, file=name, line=line, fix=fix)
        return None
    return None if is_foreign(data, name, bad) else decode(data, name, BadRecords(bad.policy, bad.sink))


def _html_text(text: str, name: str, bad: BadRecords) -> str | None:
    from lxml import etree, html

    parser = html.HTMLParser(remove_comments=True, remove_pis=True, no_network=True, encoding="utf-8")
    try:
        root = html.document_fromstring(_DECLARATION.sub("", text).encode("utf-8"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        bad.add(f"the HTML cannot be read: {shown(error)}", file=name)
        return None
    etree.strip_elements(root, *_HIDDEN, with_tail=False)
    return _lines_of(root, lambda element: element.tag not in _INLINE and element.tag not in ("td", "th"))


def _xml_text(root: Any) -> str:
    """All text under an element. An element whose parent directly contains text does not break the line."""

    def breaks(element: Any) -> bool:
        parent = element.getparent()
        return parent is None or not _directly_contains_text(parent)

    return _lines_of(root, breaks)


def _directly_contains_text(element: Any) -> bool:
    texts = [element.text, *(child.tail for child in element)]
    return any(text and text.strip() for text in texts)


def _lines_of(root: Any, breaks: Callable[[Any], bool]) -> str:
    """All text under an element, with a newline before and after each element that `breaks` the line.

    The function is not recursive, because elements may be nested deeper than Python's recursion limit.
    """
    from lxml import etree

    parts: list[str] = []
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if not isinstance(element.tag, str):
            continue
        preformatted = element.tag == "pre" or (element.tag == "code" and breaks(element))
        edge = "\n" if breaks(element) else " " if element.tag in ("td", "th") else ""
        content = element.text if event == "start" else element.tail
        content = content or ""
        if not (preformatted and event == "start"):
            content = _BLANKS.sub(" ", content)
        parts += [edge, content] if event == "end" or edge else [content]
    lines = (_BLANKS.sub(" ", line).strip() for line in "".join(parts).split("\n"))
    return "\n".join(line for line in lines if line)


def _table_text(table: Table) -> str:
    """The text of a table, with a line for each row. A merged cell occurs once in a row."""
    rows = []
    for row in table.rows:
        cells = list({id(cell._tc): cell.text.strip() for cell in row.cells}.values())
        rows.append("\t".join(cell for cell in cells if cell))
    return "\n".join(row for row in rows if row)
