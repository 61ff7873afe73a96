"""CoNLL columns: word numbers, comments, separators, extra columns, and tags in any column."""

from __future__ import annotations

from pathlib import Path

import pytest

from domain_ft.corpus.checks.checking import Checker
from domain_ft.corpus.checks.items import Rejections
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.checks.private import PrivateData
from domain_ft.corpus.checks.repairs import repair
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import BadRecords
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.opening import TaggingSource, open_tagging
from domain_ft.corpus.tagging.reading import read_tagged
from domain_ft.errors import CorpusError, UserError
from domain_ft.verbs.data.settings import DataSplitSettings
from domain_ft.verbs.data.split import split

FLU = [("Bad flu", ["flu Disease"]), ("No", [])]


def read(path: Path, fields: TagFields | None = None) -> tuple[list[tuple[str, list[str]]], dict[str, int], list[str]]:
    """Each text with its entities, how often each column was not read, and the notes."""
    left, notes = LeftOut(), list[str]()
    bad = BadRecords("stop", lambda _: None)
    texts, _ = read_tagged(path, path.name, fields or TagFields(), None, bad, left=left, notes=notes)
    found = [(text.text, [f"{text.text[s.start : s.end]} {s.label}" for s in text.spans]) for text in texts]
    return found, dict(left.fields), notes


CONLLU = "{n}\t{w}\t_\tNOUN\t_\t_\t0\troot\t_\t{misc}\n"


@pytest.mark.parametrize(
    ("content", "unread"),
    [
        ("1 Bad O\n2 flu B-Disease\n\n1 No O\n", {}),
        ("0\tBad\tO\n1\tflu\tB-Disease\n\n0\tNo\tO\n", {}),
        ("1\tBad\tO\tO\n2\tflu\tB-Disease\tO\n\n1\tNo\tO\tO\n", {"column 4": 2}),
        ("Bad O x\nflu B-Disease y\n\nNo O z\n", {"column 3": 2}),
        ("O Bad\nB-Disease flu\n\nO No\n", {}),
        ("Bad JJ B-NP O\nflu NN I-NP B-Disease\n\nNo RB B-NP O\n", {"column 2": 2, "column 3": 2}),
        ("Bad -X- _ O\nflu -X- _ B-Disease\n\nNo -X- _ O\n", {"column 2": 2, "column 3": 2}),  # Label Studio's
        ("#\thttp://x.org [2009]\n1\tBad\tO\n2\tflu\tB-Disease\n\n#\thttp://y\n1\tNo\tO\n", {}),
        ("# id = 1\nBad O\nflu B-Disease\n\n# id = 2\n# text = No\nNo O\n", {}),
        ("Bad\tO\t\nflu\tB-Disease\t\n\nNo\tO\t\n", {}),
        ("Bad a b c d e O\nflu a b c d e B-Disease\n\nNo a b c d e O\n", {f"column {n}": 2 for n in range(2, 7)}),
        ("-DOCSTART- -X- O\n\nBad x O\nflu x B-Disease\n\nNo x O\n", {"column 2": 2}),
        (
            "# global.columns = ID FORM LEMMA MY:NER\n1\tBad\tbad\tO\n2\tflu\tflu\tB-Disease\n\n1\tNo\tno\tO\n",
            {"column 3": 2},
        ),
    ],
)
def test_the_columns_of_words_and_tags_are_found(tmp_path: Path, content: str, unread: dict[str, int]) -> None:
    path = tmp_path / "a.conll"
    path.write_text(content, encoding="utf-8")
    found, columns, _ = read(path)
    assert found == FLU
    assert columns == unread


@pytest.mark.parametrize(
    ("content", "unread"),
    [
        ("% a comment of several words\nBad O\nflu B-Disease\n\n% id = 2\nNo O\n", {}),
        ("Bad;O\nflu;B-Disease\n\nNo;O\n", {}),
        ("Bad|O\nflu|B-Disease\n\nNo|O\n", {}),
        ("Bad,O\nflu,B-Disease\n\nNo,O\n", {}),
        ("Bad/O\nflu/B-Disease\n\nNo/O\n", {}),
        ("-DOCSTART-;O\n\nBad;JJ;O\nflu;NN;B-Disease\n\nNo;RB;O\n", {"column 2": 2}),
        ("1;Bad;O\n2;flu;B-Disease\n\n1;No;O\n", {}),
        ("Bad      O\nflu      B-Disease\n\nNo       O\n", {}),
        ("Bad\t\tO\nflu\tB-Disease\n\nNo \t O\n", {}),
        ("7\tBad\tO\n8\tflu\tB-Disease\n\n9\tNo\tO\n", {}),  # word numbers that do not restart
        ("1\t-DOCSTART-\tO\n\n1\tBad\tO\n2\tflu\tB-Disease\n\n1\tNo\tO\n", {}),
    ],
)
def test_comments_and_separators_of_other_tools_are_recognised(
    tmp_path: Path, content: str, unread: dict[str, int]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8")
    found, columns, _ = read(path)
    assert found == FLU
    assert columns == unread
    assert CheckedFile.open(str(path), "auto", Fields()).kind == "tags"


def test_a_word_may_contain_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Bad;O\n;;O\nx;y;B-D\n" + "flu;B-D\n" * 30, encoding="utf-8")
    assert read(path)[0][0][0].startswith("Bad ; x;y flu")
    path.write_text("see/O\nhttp://x.org/B-D\n" + "flu/B-D\n" * 3, encoding="utf-8")
    assert read(path)[0][0][0].startswith("see http://x.org flu")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Bad/O flu/B-Disease\nNo/O way/O\n", "each line is a sentence of words with their tags"),
        ('"Bad";O\n"flu";B-Disease\n', "in quotation marks, as in CSV"),
        ('Bad;O\n"a;b";O\n' + "flu;B-Disease\n" * 20, "in quotation marks, as in CSV"),
        ("5 O\n%\nis O\nflu B-D\n", "the line has 1 column"),
        ("5 O\n% X\nis O\nflu B-D\n", "'X' is not a tag"),
        ("New York   B-LOC\nis         O\nbig        O\n", "the line has 3 columns, where other lines have 2"),
    ],
)
def test_unclear_columns_are_refused_with_the_cause(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        read(path)


def test_a_tag_in_a_range_line_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    content = "1-2\tzum\t{}\n1\tzu\t{}\n2\tdem\tO\n3\tArzt\tO\n\n1\tflu\tB-D\n2\tis\tO\n"
    path.write_text(content.format("B-D", "O"), encoding="utf-8")
    with pytest.raises(UserError, match="words 1 to 2 are tagged in a range line"):
        read(path)
    path.write_text(content.format("B-D", "B-D"), encoding="utf-8")
    assert read(path)[0][0] == ("zu dem Arzt", ["zu D"])


@pytest.mark.parametrize("separator", [";", "/", "\t\t"])
def test_a_fixed_copy_keeps_the_separators(tmp_path: Path, separator: str) -> None:
    rows = [("Mail", "O"), ("a.b@example.com", "O"), ("flu", "B-D"), ("", ""), ("No", "O")]
    lines = [separator.join(row) if row[0] else "" for row in rows]
    if separator == "\t\t":
        lines[2] = "flu\tB-D"
    content = "\n".join(lines) + "\n"
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8")
    file, rejections, private = CheckedFile.open(str(path), "auto", Fields()), Rejections(), PrivateData()
    result = Checker(private=private).check(file.items(rejections.bad), rejections)
    repair(file, result, tmp_path / "out.txt", private, "en")
    assert (tmp_path / "out.txt").read_text() == content.replace("a.b@example.com", "[EMAIL]")


def test_conllu_tags_are_read_from_misc_and_files_without_them_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    rows = [("1-2", "Badflu", "_"), ("1", "Bad", "_"), ("2", "flu", "SpaceAfter=No|NER=B-Disease"), ("2.1", "x", "_")]
    lines = [CONLLU.format(n=n, w=w, misc=misc) for n, w, misc in rows]
    content = "# sent_id = 1\n" + "".join(lines) + "\n" + CONLLU.format(n=1, w="No", misc="_")
    path.write_text(content, encoding="utf-8")
    found, _, notes = read(path)
    assert found == FLU
    assert notes == ["the tags are read from NER= in the last column (MISC) of CoNLL-U"]
    path.write_text(content.replace("NER=B-Disease", "NE=B-Disease"), encoding="utf-8")
    assert read(path) == (found, _, ["the tags are read from NE= in the last column (MISC) of CoNLL-U"])
    path.write_text(content.replace("NER=B-Disease", "x=y"), encoding="utf-8")
    with pytest.raises(CorpusError, match="this is CoNLL-U without a column of entity tags"):
        read(path)


@pytest.mark.parametrize(
    "position",
    ["{s}", "doc{s}", "doc{s}.{w}", "{s}-{w}", "T{w}", "train-{s}", "{o}\t{e}", "news/a\t{s}\t{w}", "note"],
)
def test_a_column_of_positions_is_not_taken_for_the_words(tmp_path: Path, position: str) -> None:
    sentences = [["Give", "aspirin", "now"], ["No", "ibuprofen", "here"], ["Some", "codeine"]]
    lines, offset = [], 0
    for number, words in enumerate(sentences):
        for place, word in enumerate(words):
            before = position.format(s=number, w=place, o=offset, e=offset + len(word))
            lines.append(f"{before}\t{word}\t{'B-Drug' if place == 1 else 'O'}")
            offset += len(word) + 1
        lines.append("")
    path = tmp_path / "a.conll"
    path.write_text("\n".join(lines))
    found, unread, notes = read(path)
    assert [text for text, _ in found] == [" ".join(words) for words in sentences]
    assert [entities for _, entities in found] == [["aspirin Drug"], ["ibuprofen Drug"], ["codeine Drug"]]
    skipped = position.count("\t") + 1
    assert unread == {f"column {place + 1}": 3 for place in range(skipped)}
    assert f"the words are read from column {skipped + 1}" in notes[0]
    assert read(path, TagFields(tags=str(skipped + 2)))[0] == found


def test_positions_are_refused_if_the_column_of_words_is_unclear(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("1\tNN\tO\n1\tVB\tB-Drug\n\n2\tNN\tO\n2\tDT\tO\n\n")
    with pytest.raises(CorpusError, match=r"column 1 holds ids of sentences or words.*\n.*\n.*--tokens-field 2"):
        read(path)
    assert [text for text, _ in read(path, TagFields(tokens="2"))[0]] == ["NN VB", "NN DT"]


@pytest.mark.parametrize(
    ("lines", "fix"),
    [
        (["token label", "Bad O", "flu B-Disease"], "line 1 looks like a header"),
        (["Bad O", "flu Disease-B"], "B-Disease instead of Disease-B"),
        (["Bad O", "flu B_Disease"], "B-Disease instead of B_Disease"),
        (["Bad O", "flu Disease"], "write O for a word outside entities"),
        (["Bad * *", "flu (DISEASE) -"], "brackets, as in CoNLL-2012, are not read"),
    ],
)
def test_tags_of_no_scheme_are_explained_without_suggesting_an_option(
    tmp_path: Path, lines: list[str], fix: str
) -> None:
    path = tmp_path / "a.conll"
    path.write_text("\n".join([*lines, "", *(f"Some{' O' * lines[-1].count(' ')}" for _ in range(20))]))
    with pytest.raises(UserError) as error:
        read(path)
    assert fix in str(error.value)
    assert "--scheme" not in str(error.value)


def test_several_columns_of_entities_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("1\tUni\tB-ORG\tO\n2\tBonn\tI-ORG\tB-LOC\n\n1\tNo\tO\tO\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="columns 3 and 4 hold entity tags, as for nested entities") as caught:
        read(path)
    assert "--tags-field 3" in str(caught.value)
    assert read(path, TagFields(tags="3"))[0][0] == ("Uni Bonn", ["Uni Bonn ORG"])
    assert read(path, TagFields(tags="4"))[0][0] == ("Uni Bonn", ["Bonn LOC"])
    with pytest.raises(CorpusError, match="this must be a column number from 1 to 4"):
        read(path, TagFields(tags="ner"))


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (("O", "O", "O"), "holds only O"),
        (("NN", "VB", "NN"), "holds no entity tags"),
        (("B-NP", "I-NP", "O"), "holds no entity tags"),
        (("O", "B-Sign", "NN"), "holds tags in fewer than 90% of its lines"),
    ],
)
def test_a_note_says_why_tags_are_not_read_from_the_last_column(
    tmp_path: Path, last: tuple[str, str, str], why: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Bad O {}\nflu B-Disease {}\n\nNo O {}\n".format(*last), encoding="utf-8")
    found, _, notes = read(path)
    assert found == FLU
    assert notes == [f"the tags are read from column 2: column 3 {why} (--tags-field N names another)"]


def test_a_note_says_that_the_last_column_holds_the_words(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("O JJ Bad\nB-Disease NN flu\n\nO DT No\n", encoding="utf-8")
    found, _, notes = read(path, TagFields(tokens="3"))
    assert found == FLU
    assert notes == ["the tags are read from column 1: column 3 holds the words (--tags-field N names another)"]


def test_numbers_without_words_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1 O\n2 B-D\n\n1 O\n2 O\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="words or tags are missing"):
        read(path)


def test_a_word_may_begin_with_a_hash_or_look_like_a_tag(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("# O\nflu B-D\n\n#flu B-D\nB-12 O\n\nB O\n", encoding="utf-8")
    assert [text for text, _ in read(path)[0]] == ["# flu", "#flu B-12", "B"]


def test_the_error_says_that_a_file_has_no_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Bad O\nflu B-Disease\n" * 20, encoding="utf-8")
    with pytest.raises(
        CorpusError, match="no text can be held out for the test split: there is only one text"
    ) as caught:
        open_tagging(TaggingSource(train=str(path)))
    assert "the file has no blank line between sentences, so its 40 words are one text" in str(caught.value)


def test_texts_that_differ_only_in_case_cannot_be_split(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("flu B-D\n\nFlu B-D\n\n" * 5, encoding="utf-8")
    with pytest.raises(CorpusError, match="all 10 texts are equal except for case and white space"):
        open_tagging(TaggingSource(train=str(path)))


def test_texts_without_entities_cannot_be_split(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"word{n} O\n\n" for n in range(10)), encoding="utf-8")
    with pytest.raises(CorpusError, match="no text has an entity"):
        open_tagging(TaggingSource(train=str(path)))


@pytest.mark.parametrize("count", [3, 4, 10, 29])
def test_every_split_gets_a_text_with_an_entity_if_there_are_three(tmp_path: Path, count: int) -> None:
    """With fractions of 0.1%, a random draw would most likely hold out none of so few texts."""
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"flu{n} B-D\nn{n} O\n" for n in range(count)), encoding="utf-8")
    data = open_tagging(TaggingSource(train=str(path), validation_fraction=0.001, test_fraction=0.001))
    assert [len(data.splits[part]) for part in ("train", "validation", "test")] == [count - 2, 1, 1]


@pytest.mark.parametrize("name", ["a.tsv", "a.txt"])
def test_data_check_reads_the_same_columns_and_its_copy_keeps_all_but_the_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = "# from a.b@example.com = x\n1\tMail\tO\tO\n2\ta.b@example.com\tO\tO\n3\tflu\tB-D\tO\n\n1\tNo\tO\tO\n"
    path.write_text(content, encoding="utf-8")
    file, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    assert file.kind == "tags"
    private = PrivateData()
    result = Checker(private=private).check(file.items(rejections.bad), rejections)
    assert result.errors == []
    assert "columns" in {finding.kind for finding in result.warnings}
    repair(file, result, tmp_path / f"out{path.suffix}", private, "en")
    head, _, rest = content.partition("\n")
    assert (tmp_path / f"out{path.suffix}").read_text() == f"{head}\n{rest.replace('a.b@example.com', '[EMAIL]')}"


def test_data_split_refuses_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("Bad\tO\nflu\tB-D\n\nNo\tO\n" * 5, encoding="utf-8")
    with pytest.raises(CorpusError, match="words and tags in columns"):
        split(DataSplitSettings(data=str(path), output=tmp_path / "parts", test_fraction=0.2))
    assert not (tmp_path / "parts").exists()
