"""The first line of a table: a record is never taken for the names of columns, and a header never for a record."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from domain_ft.cli import main
from domain_ft.corpus.readers.headers import why_a_record
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.errors import CorpusError, UserError

WORDS = ["court", "clause", "claim", "lease", "fever", "dose", "biopsy", "tenant", "award", "notice"]
CLASSES = ["civil", "penal"]


def text(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % 10] for step in (1, 3, 7, 9)) + f" of case {number}"


def table(path: Path, header: Sequence[str] | None, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter)
    writer.writerows([*([header] if header is not None else []), *rows])
    path.write_text(sink.getvalue(), encoding="utf-8", newline="")
    return path


ROWS = [[text(number), CLASSES[number % 2]] for number in range(40)]
PRIVATE = "The patient, a man of 54 years, was seen for a rash after amoxicillin, and sent home on Friday."


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (ROWS, "column 1 holds a sentence, as in the lines below: 'clause lease tenant notice of case 0'"),
        ([row[::-1] for row in ROWS], "'civil' is in column 1 of other lines too"),
        ([[f"{PRIVATE} {PRIVATE} {number}", "a"] for number in range(9)], "column 1 has 193 characters"),
        ([[number % 2, text(number)] for number in range(9)], "column 1 holds a number, as in the lines below: '0'"),
        ([[f"https://a.org/{n}", "x", f"s{n}"] for n in range(9)], "column 1 holds an address, as in the lines below"),
        ([[f"2020-01-{n + 10}", f"s{n}"] for n in range(9)], "column 1 holds a date, as in the lines below"),
        ([[f"a{n}@b.org", f"s{n}"] for n in range(9)], "column 1 holds an e-mail address, as in the lines below"),
        ([[text(number)] for number in range(9)], "column 1 holds a sentence, as in the lines below"),
        ([[f"患者は{n}日前から発熱と咳が続いていたため来院した。", str(n)] for n in range(9)], "column 1 "),
        ([["question", text(n)] for n in range(9)], "'question' is in column 1 of other lines too"),
    ],
)
def test_a_record_in_the_first_line_is_refused_as_column_names(
    tmp_path: Path, rows: list[list[object]], why: str
) -> None:
    path = table(tmp_path / "a.csv", None, rows)
    with pytest.raises(CorpusError) as raised:
        open_task(TaskSource(train=str(path)))
    message = str(raised.value)
    assert "the first line seems to be a record, not column names" in message
    assert why in message
    assert "put a line with the names of the columns above it" in message
    assert "a.csv, line 1" in message


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_no_verb_prints_a_private_text_of_a_table_without_a_header(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = PRIVATE[:70]  # short enough to be the name of a column
    for number, rows in enumerate(
        ([[PRIVATE, "a"]], [[short, "a"]], [[short, "a"], [short, "b"]], [["a", short], ["b", PRIVATE]])
    ):
        path = table(tmp_path / f"{number}.{ending}", None, rows, "," if ending == "csv" else "\t")
        for verb in (["data", "check"], ["data", "sample"], ["data", "show"]):
            main([*verb, str(path)])
            printed = capsys.readouterr()
            assert short not in " ".join((printed.out + printed.err).split()), (verb, rows)


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (["text", "label"], ROWS),
        (["Text of the decision", "Outcome"], ROWS),
        (["What is your overall opinion of the course?", "Mark"], ROWS),
        (["review", "spam"], [[text(n), "spam" if n % 2 else "ham"] for n in range(9)]),
        (["", "0", "1"], [[n, text(n), n % 2] for n in range(9)]),
        (["0", "1"], [["first text of words", 5], ["second text of words", 6]]),
        (["country", "2019", "2020"], [["Chad", 1, 2], ["Mali", 3, 4]]),
        (["Unnamed: 0", "civil"], [[0, "civil"], [1, "civil"]]),
        (["finding", "civil", "penal"], [[text(n), 0, 1] for n in range(9)]),
    ],
)
def test_a_header_is_no_record(header: list[str], rows: list[list[object]]) -> None:
    assert why_a_record(header, [[str(cell) for cell in row] for row in rows]) is None


def train(path: Path, **options: object) -> list[str]:
    """The texts that `classify` reads, of all splits, sorted."""
    data = open_task(TaskSource(train=str(path), **options))  # type: ignore[arg-type]
    assert data.labels.names == ("civil", "penal")
    return sorted(example.text for split in data.splits.values() for example in split)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: table(path, ["text", "label", "", ""], [[*row, "", ""] for row in ROWS]),
        lambda path: table(path, ["text", "label"], [*ROWS, ["", ""], ["", ""]]),
        lambda path: table(path, ["", "Text", "Label"], [[n, *row] for n, row in enumerate(ROWS)]),
        lambda path: table(path, ["LABEL ", " Text"], [row[::-1] for row in ROWS]),
        lambda path: path.write_text("\ufeffsep=;\r\n" + "\r\n".join(["text;label", *map(";".join, ROWS)])),
        lambda path: path.write_text("\n".join(["text, label", *(f'"{a}", "{b}"' for a, b in ROWS)])),
        lambda path: path.write_text("\n".join(["text^label", *map("^".join, ROWS)])),
    ],
    ids=["empty columns", "blank lines", "capitals", "spaces in names", "sep and BOM", "spaces and quotes", "carets"],
)
def test_tables_as_programs_write_them_are_read(tmp_path: Path, make: object) -> None:
    path = tmp_path / "a.csv"
    make(path)  # type: ignore[operator]
    assert train(path) == sorted(row[0] for row in ROWS)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("# made by us\ntext,label\n" + "a b,c\n" * 5, "but most lines below it have 2"),
        ("text,label\n" + "a, b,c\n" * 5, "the first line has 2 fields (text, label), but most lines below it have 3"),
        ("<html><table><tr><td>text</td></tr></table></html>\n", "this is HTML or XML, not a table"),
        ('{"text": "a", "label": "b"}\n' * 3, "this is JSON, not a table"),
        ("text,label\n", "the file has a header but no records"),
        ("text,label,label\na,b,c\n", "the header names 'label' twice; the columns are: text, label, label"),
        ("text,,label,\na,b,c,d\n", "the record has 4 fields, where the header has 3"),
        ("text,label\na,b\ntext,label\nc,d\n", "the record repeats the header"),
    ],
)
def test_broken_tables_are_refused_with_the_cause(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(UserError) as raised:
        open_task(TaskSource(train=str(path)))
    assert what in str(raised.value)


@pytest.mark.parametrize("begin", [b"PK\x03\x04\x14\x00", b"\xd0\xcf\x11\xe0\xa1\xb1"])
def test_an_office_file_with_the_ending_csv_is_recognised(tmp_path: Path, begin: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(begin + bytes(50))
    with pytest.raises(UserError, match=r"Excel workbook|old Office file") as raised:
        open_task(TaskSource(train=str(path)))
    assert "export its sheet as CSV" in str(raised.value)


def test_the_error_for_an_excel_file_says_to_export_it(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CorpusError, match="export the sheet as CSV"):
        open_task(TaskSource(train=str(path)))


@pytest.mark.parametrize("cell", ["nan", "#REF!", "NULL", "#N/A"])
def test_what_programs_write_for_an_empty_or_wrong_cell_is_no_text(tmp_path: Path, cell: str) -> None:
    path = table(tmp_path / "a.csv", ["text", "label"], [*ROWS, [cell, "civil"]])
    with pytest.raises(UserError, match=r"an empty or wrong cell[^$]*line 42"):
        open_task(TaskSource(train=str(path)))
    assert train(path, on_bad_record="skip") == sorted(row[0] for row in ROWS)


def test_columns_with_commas_or_spaces_are_listed_in_quotation_marks(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["findings, all", "note of the day", "class of it"], [[*row, "x"] for row in ROWS])
    with pytest.raises(CorpusError) as raised:
        open_task(TaskSource(train=str(path)))
    assert 'the fields are: "findings, all", "note of the day", "class of it"' in str(raised.value)
    with pytest.raises(CorpusError) as raised:
        open_task(TaskSource(train=str(path), label_field="note of the day"))
    assert "--text-field '\"findings, all\"'" in str(raised.value)
    assert train(path, label_field="note of the day", text_field='"findings, all"')


def test_a_file_without_records_is_an_error_of_data_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text("[]")
    assert main(["data", "check", str(path)]) == 1
    assert "the file holds no records" in capsys.readouterr().out
