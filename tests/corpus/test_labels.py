"""Notations of labels: clear ones are read as meant, those that would be learned wrongly are refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.checks.checking import Checker
from domain_ft.corpus.checks.items import Rejections
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.examples import TaskData
from domain_ft.corpus.listed_text import listed_in
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.labels import LabelRules, LabelSurvey, variants
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.errors import CorpusError, RecordError, UserError

WORDS = ["court", "clause", "claim", "lease", "fever", "dose", "biopsy", "tenant", "award", "notice"]


def text(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % 10] for step in (1, 3, 7, 9)) + f" of case {number}"


def write(path: Path, labels: list[Any], field: str = "label") -> Path:
    rows = [{"text": text(number), field: label} for number, label in enumerate(labels)]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", field])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(path: Path, **options: Any) -> TaskData:
    return open_task(TaskSource(train=str(path), **options))


def labels_of(data: TaskData) -> list[tuple[str, ...]]:
    """The labels of all examples, in the order of the file."""
    found = {example.line: example.labels for table in data.splits.values() for example in table}
    return [tuple(sorted(found[line])) for line in sorted(found)]  # type: ignore[type-var]


def errors_of(path: Path, **fields: Any) -> list[tuple[str, int | None]]:
    rejections = Rejections()
    file = CheckedFile.open(str(path), "auto", Fields(**fields))
    assert file.kind == "examples"
    result = Checker().check(file.items(rejections.bad), rejections)
    return [(finding.kind, finding.line) for finding in result.errors]


# --- lists ---


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("['a', 'b']", ["a", "b"]),
        ('["a","b"]', ["a", "b"]),
        ("('a',)", ["a"]),
        ("{'b', 'a'}", ["a", "b"]),
        ("['a' 'b']", ["a", "b"]),
        ("[0 1 1]", [0, 1, 1]),
        ("[]", []),
        ("0,1,0", [0, 1, 0]),
        ("[sic]", None),
        ("[not known]", None),
        ("(a)", None),
        ("[[1]]", None),
        ("{'a': 1}", None),
        ("{a,b}", ["a", "b"]),  # PostgreSQL's arrays
        ('{civil law,"tax, customs","a \\"b\\""}', ["civil law", "tax, customs", 'a "b"']),
        ("{1,0,0}", [1, 0, 0]),
        ("{0.0,0.5}", [0.0, 0.5]),
        ("{a,NULL}", ["a", None]),
        ("{}", []),
        ("{{a},{b}}", None),
        ("{a: 1}", None),
        ("{a,}", None),
        ("['a", None),
        ("__import__('os')", None),
        ("[" * 5000 + "]" * 5000, None),
    ],
)
def test_lists_written_as_text_are_recognised(written: str, meant: list[Any] | None) -> None:
    assert listed_in(written) == meant


@given(st.lists(st.text(max_size=8) | st.integers(), max_size=5))
def test_every_json_list_and_python_list_of_numbers_is_read_back(items: list[Any]) -> None:
    assert listed_in(json.dumps(items)) == items
    if not any(isinstance(item, str) for item in items):
        assert listed_in(repr(items)) == items


@given(st.text(max_size=30))
def test_any_text_is_a_list_or_none(given: str) -> None:
    found = listed_in(given)
    assert found is None or isinstance(found, list)


@pytest.mark.parametrize("spelled", [repr, json.dumps])
def test_lists_written_as_text_are_lists(tmp_path: Path, spelled: Any) -> None:
    meant = [["penal", "civil"], ["tax"], ["civil", "tax"], ["penal"], []] * 8
    path = write(tmp_path / "x.csv", [spelled(one) for one in meant])
    data = opened(path)
    assert data.labels.names == ("civil", "penal", "tax")
    assert data.labels.multi_label
    assert labels_of(data) == [tuple(sorted(one)) for one in meant]
    assert any("lists written as text" in note for note in data.notes)
    assert errors_of(path) == []


def test_a_text_among_lists_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ["['a']", "['b']", "other", *["['a', 'b']"] * 10])
    with pytest.raises(RecordError, match=r"'other', where the other records hold lists[^$]*line 4"):
        opened(path)


# --- 0 and 1 by position ---


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("bits", [[0, 1], [False, True], [0.0, 1.0]])
def test_lists_of_0_and_1_need_names(tmp_path: Path, ending: str, bits: list[Any]) -> None:
    no, yes = bits
    rows = [[no, yes, no], [yes, no, no], [yes, no, yes], [no, no, no]]
    path = write(tmp_path / f"x.{ending}", rows * 10)
    line = 2 if ending == "csv" else 1
    with pytest.raises(CorpusError, match=rf"3 zeros and ones, one for each class[^$]*line {line}[^$]*--label-names"):
        opened(path)
    assert errors_of(path) == [("multi-hot", line)]
    with pytest.raises(CorpusError, match="2 names are given"):
        opened(path, label_names="a,b")
    data = opened(path, label_names='a,"b, c",d')
    assert data.labels.names == ("a", "b, c", "d")
    assert labels_of(data)[:4] == [("b, c",), ("a",), ("a", "d"), ()]
    assert errors_of(path, rules=LabelRules(label_names=("a", "b", "d"))) == []


def test_lists_of_class_numbers_are_no_lists_of_0_and_1(tmp_path: Path) -> None:
    data = opened(write(tmp_path / "x.jsonl", [[0], [1], [0, 1], [1]] * 10))
    assert data.labels.names == ("0", "1")


def test_a_list_of_another_length_is_a_bad_record(tmp_path: Path) -> None:
    train = write(tmp_path / "x.jsonl", [[0, 1, 0], [1, 0, 0]] * 10)
    test = write(tmp_path / "y.jsonl", [[0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0]])
    with pytest.raises(RecordError, match=r"zeros and ones is expected[^$]*y.jsonl, line 4"):
        opened(train, test=str(test), label_names="a,b,c")


def test_probabilities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="class probabilities are not supported yet"):
        opened(write(tmp_path / "x.jsonl", [[0.1, 0.9], [0.5, 0.5]] * 10))


# --- separators ---


@pytest.mark.parametrize("separator", ["|", ";", "#", ",", "+", "/"])
def test_joined_names_are_refused_without_a_separator(tmp_path: Path, separator: str) -> None:
    meant = [("civil", "penal"), ("penal", "tax"), ("civil", "tax"), ("tax",)] * 10
    path = write(tmp_path / "x.csv", [separator.join(one) for one in meant])
    with pytest.raises(CorpusError) as raised:
        opened(path)
    assert f"--label-separator '{separator}'" in str(raised.value)
    assert errors_of(path) == [("joined-labels", 2)]
    data = opened(path, label_separator=separator)
    assert data.labels.names == ("civil", "penal", "tax")
    assert labels_of(data) == meant
    assert len(opened(path, label_kind="names").labels) == 4


def test_names_that_happen_to_contain_a_separator_are_names(tmp_path: Path) -> None:
    names = ["Trusts, estates", "Contracts; sale", "C++", "C#", "Penal"]
    assert set(opened(write(tmp_path / "x.csv", names * 8)).labels.names) == set(names)


@pytest.mark.parametrize("separator", ["|", ";", "#", ",", "+", "/", "&", " and ", " ", "-", "_", ":", "\n", "\t"])
def test_one_label_made_of_others_is_refused_without_a_separator(tmp_path: Path, separator: str) -> None:
    labels = ["civil", "penal", "tax"] * 10
    labels[7] = f"civil{separator}tax"
    path = write(tmp_path / "x.csv", labels)
    with pytest.raises(CorpusError, match="each of which is a label of other records") as raised:
        opened(path)
    written = {"\n": r"\n", "\t": r"\t"}.get(separator, separator)
    assert f"--label-separator '{written}'" in str(raised.value)
    assert [kind for kind, _ in errors_of(path)] == ["joined-labels"]
    data = opened(path, label_separator=written)
    assert data.labels.names == ("civil", "penal", "tax")
    assert [labels for labels in labels_of(data) if len(labels) > 1] == [("civil", "tax")]
    assert len(opened(path, label_kind="names").labels) == 4


@pytest.mark.parametrize(
    ("labels", "noted"),
    [
        (["a", "a|b"], "'a|b' is read as one class name, but 'a' is in other labels too"),
        (["a|c", "a|b", "d"], "'a|c' is read as one class name"),
        (["law", "law/civil", "law/penal"], None),
        (["Trusts, estates", "Contracts; sale", "C++", "C#", "Penal"], None),
    ],
)
def test_a_shared_part_of_a_label_is_noted(tmp_path: Path, labels: list[str], noted: str | None) -> None:
    path = write(tmp_path / "x.csv", labels * 20)
    data = opened(path)
    assert set(data.labels.names) == set(labels)
    found = [note for note in data.notes if "is read as one class name" in note]
    assert len(found) == (noted is not None)
    if noted:
        assert noted in found[0]
        assert "--label-separator '|'" in found[0]
        assert not any("one class name" in note for note in opened(path, label_kind="names").notes)


def test_a_joined_label_in_the_test_file_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ["civil", "penal"] * 20)
    test = write(tmp_path / "test.csv", ["civil", "civil/penal"])
    with pytest.raises(CorpusError, match=r"separated by '/'[^$]*test.csv, line 3"):
        opened(train, test=str(test))


def test_the_levels_of_a_tree_are_one_name(tmp_path: Path) -> None:
    names = ["law/civil", "law/penal", "health/skin", "health/heart"]
    assert set(opened(write(tmp_path / "x.csv", names * 8)).labels.names) == set(names)


def test_a_list_as_text_among_names_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ["a", "b", "a", "b", "['a', 'b']"] * 6)
    with pytest.raises(CorpusError, match="some are lists of names written as text"):
        opened(path)
    assert errors_of(path) == [("lists-as-text", 6)]


def test_numbers_with_a_decimal_comma_are_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ["1,5", "2,0", "3,5"] * 10)
    with pytest.raises(CorpusError, match=r"scores: 3 different numbers from 1.5 to 3.5[^$]*--label-separator ','"):
        opened(path)


def test_entities_are_no_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [[{"start": 0, "end": 4, "label": "A"}], []] * 10)
    with pytest.raises(CorpusError, match=r"the field lists entities[^$]*`domain-ft tag`"):
        opened(path)


# --- no label ---


@pytest.mark.parametrize(
    "name",
    ["None", "none", "unknown", "-1", ".", "Missing", "\u2014", "\u2013", "UNK", "<unk>", "999", "-99", "unassigned"],
)
def test_names_that_may_mean_no_label_are_noted(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "x.csv", [name if number % 7 == 0 else "ab"[number % 2] for number in range(40)])
    data = opened(path)
    assert name in data.labels.names
    assert any(f"'{name}' is read as a class name (6 records)" in note for note in data.notes)
    file, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    result = Checker().check(file.items(rejections.bad), rejections)
    assert any(f"'{name}'" in finding.message for finding in result.warnings)
    assert not any("is read as a class name" in note for note in opened(path, label_kind="names").notes)


@pytest.mark.parametrize(
    ("numbers", "noted"), [([1, 2, 3, 999], True), ([0, 1, 99], True), ([200, 404, 999], False), ([7, 8, 9], False)]
)
def test_a_number_is_noted_as_a_missing_value_only_if_far_from_the_others(
    tmp_path: Path, numbers: list[int], noted: bool
) -> None:
    notes = opened(write(tmp_path / "x.jsonl", numbers * 10)).notes
    assert any(f"'{numbers[-1]}' is read as a class name" in note for note in notes) is noted


@pytest.mark.parametrize("spelled", [["a"], '["a"]'])
def test_lists_of_one_label_are_noted(tmp_path: Path, spelled: Any) -> None:
    other = ["b"] if isinstance(spelled, list) else '["b"]'
    data = opened(write(tmp_path / "x.jsonl", [spelled, other] * 10))
    assert data.labels.multi_label
    assert any("Each record has a list of one label" in note for note in data.notes)
    multi_label = opened(write(tmp_path / "y.jsonl", [["a"], ["b"], ["a", "b"]] * 10))
    assert not any("list of one label" in note for note in multi_label.notes)


@pytest.mark.parametrize("missing", ["-", "", " ", "nan", "NaN", "NA", "#N/A", "null", r"\N", None, float("nan")])
def test_records_whose_value_means_no_label_are_left_out_and_listed(tmp_path: Path, missing: Any) -> None:
    path = write(tmp_path / "x.jsonl", ["a", "b", missing] * 10)
    with pytest.raises(RecordError, match=r"no label[^$]*line 3"):
        opened(path)
    rejects: list[Reject] = []
    data = open_task(TaskSource(train=str(path), on_bad_record="skip"), rejects=rejects.append)
    assert data.labels.names == ("a", "b")
    assert [reject.line for reject in rejects] == list(range(3, 31, 3))
    assert data.left_out.records == 10
    assert errors_of(path) == [("no-label", line) for line in range(3, 31, 3)]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_minus_one_among_numbers_from_0_on_is_no_label(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"x.{ending}", [0, 1, 2, -1] * 10)
    with pytest.raises(RecordError, match=r"-1.*no label[^$]*--label-kind names"):
        opened(path)
    assert opened(path, on_bad_record="skip").labels.names == ("0", "1", "2")
    assert opened(path, label_kind="names").labels.names == ("-1", "0", "1", "2")


@pytest.mark.parametrize("values", [[-1, 1], [-2, -1, 0, 1, 2], ["-1", "1"]])
def test_minus_one_among_others_is_a_class(tmp_path: Path, values: list[Any]) -> None:
    found = opened(write(tmp_path / "x.jsonl", values * 10)).labels.names
    assert found == tuple(str(value) for value in sorted(values, key=int))


# --- spellings ---


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["Civil", "civil ", "CIVIL"], "'CIVIL', 'Civil', 'civil'"),
        (["ﬁne", "fine"], "'fine', 'ﬁne'"),
        (["two words", "two\u3000words"], "two"),
        (["1", "1.0"], "'1', '1.0'"),
        (["law", "law\u200b"], r"'law', 'law\u200b'"),
        (["la\u00adw", "law"], r"'law', 'la\u00adw'"),
        (["\u2764", "\u2764\ufe0f"], "\u2764\\ufe0f"),
    ],
)
def test_spellings_of_one_name_are_refused(tmp_path: Path, names: list[str], group: str) -> None:
    path = write(tmp_path / "x.jsonl", [*names, "penal"] * 20)
    with pytest.raises(CorpusError, match="differ only in case, spaces, Unicode form or the notation of") as raised:
        opened(path)
    assert group in str(raised.value)
    assert [kind for kind, _ in errors_of(path)] == ["label-variants"]
    assert "penal" in opened(path, label_kind="names").labels.names


def test_another_spelling_in_the_test_file_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "x.jsonl", ["Civil", "penal"] * 10)
    test = write(tmp_path / "y.jsonl", ["civil", "penal"])
    with pytest.raises(CorpusError, match=r"'Civil', 'civil'[^$]*y.jsonl, line 1"):
        opened(train, test=str(test))


def test_spaces_around_a_name_and_composed_accents_make_no_class(tmp_path: Path) -> None:
    names = ["dolé", "dole\u0301", " dolé ", "x"]
    assert opened(write(tmp_path / "x.jsonl", names * 10)).labels.names == ("dolé", "x")
    assert variants(["a", "b", "A"]) == [["A", "a"]]


# --- scores ---


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "scores", [[number / 10 for number in range(51)], [number * number for number in range(40)], list(range(100))]
)
def test_scores_are_refused(tmp_path: Path, ending: str, scores: list[float]) -> None:
    path = write(tmp_path / f"x.{ending}", scores)
    with pytest.raises(CorpusError, match=r"regression on scores is not supported yet[^$]*--label-kind names"):
        opened(path)
    assert [kind for kind, _ in errors_of(path)] == ["scores"]


def test_class_numbers_are_classes(tmp_path: Path) -> None:
    assert len(opened(write(tmp_path / "x.jsonl", list(range(30)) * 6)).labels) == 30
    assert len(opened(write(tmp_path / "y.csv", [1.0, 2.0, 3.0] * 10)).labels) == 3
    assert len(opened(write(tmp_path / "z.csv", [0.5, 1.5] * 10), label_kind="names").labels) == 2


def test_a_field_of_labels_that_are_all_different_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not seem to be a label"):
        opened(write(tmp_path / "x.jsonl", [f"case-{number}" for number in range(30)]))


# --- names of numbers ---


def test_names_in_the_schema_of_a_parquet_file_replace_numbers(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["civil", "penal"])}
    )
    rows = [{"text": text(number), "label": number % 2} for number in range(40)]
    path = tmp_path / "x.parquet"
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    data = opened(path)
    assert labels_of(data)[:2] == [("civil",), ("penal",)]
    assert errors_of(path) == []


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_names_that_the_user_gives_replace_numbers(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"x.{ending}", [0, 1] * 20)
    assert labels_of(opened(path, label_names="civil,penal"))[:2] == [("civil",), ("penal",)]
    with pytest.raises(UserError, match="no class"):
        opened(write(tmp_path / f"y.{ending}", [0, 1, 2] * 20), label_names="civil,penal")
    with pytest.raises(CorpusError, match="labels are names already"):
        opened(write(tmp_path / f"z.{ending}", ["a", "b"] * 20), label_names="civil,penal")


# --- fields ---


def test_fields_with_commas_and_spaces_in_their_names_can_be_given(tmp_path: Path) -> None:
    rows = [{"text, full": text(number), " the label, main ": "ab"[number % 2]} for number in range(40)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for text_field, label_field in (("text, full", " the label, main "), ('"text, full"', '" the label, main "')):
        data = opened(path, text_field=text_field, label_field=label_field)
        assert data.labels.names == ("a", "b")
        assert data.splits["train"][0].text in {text(number) for number in range(40)}
    rows = [{"text": text(number), "civil, all": number % 2, "penal": 1 - number % 2} for number in range(40)]  # type: ignore[dict-item]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert opened(path, label_field='"civil, all",penal').labels.names == ("civil, all", "penal")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "case-{}"),
        ("link", "https://example.org/{}"),
        ("sum", "{:032x}"),
        ("when", "2024-05-{:02d}"),
    ],
)
def test_ids_addresses_hashes_and_dates_are_not_taken_for_the_text(tmp_path: Path, name: str, value: str) -> None:
    rows = [{name: value.format(number + 1), "label": "ab"[number % 2]} for number in range(20)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CorpusError, match="not clear which field holds the text"):
        opened(path)
    rows = [row | {"story": text(number)} for number, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert opened(path).facts["fields"]["text"] == "story"
    assert opened(path, text_field=name, label_field="label").facts["fields"]["text"] == name


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_unread_fields_are_counted(tmp_path: Path, ending: str) -> None:
    rows = [
        {"text": text(number), "label": "ab"[number % 2], "n": number + 1, "note": "seen" if number < 30 else None}
        for number in range(40)
    ]
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif ending == "csv":
        datasets.Dataset.from_list(rows).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    noted = 40 if ending == "parquet" else 30  # the values of unread columns are not looked at, so nulls count
    for _ in range(2):  # the second time from the cache
        data = opened(path)
        assert data.left_out.fields == {"n": 40, "note": noted}
    assert opened(path, id_field="n").left_out.fields == {"note": noted}


def test_unread_files_of_class_folders_are_named(tmp_path: Path) -> None:
    for label in ("civil", "penal"):
        (tmp_path / label).mkdir()
        for number in range(10):
            (tmp_path / label / f"{number}.txt").write_text(text(number + (20 if label == "civil" else 0)))
    (tmp_path / "civil" / "scan.xyz").write_text("x")
    (tmp_path / "civil" / ".hidden").write_text("x")
    (tmp_path / "README.md").write_text("x")
    data = opened(tmp_path)
    assert sorted(one.file for one in data.left_out.files) == ["README.md", "civil/.hidden", "civil/scan.xyz"]
    assert all(one.reason for one in data.left_out.files)


# --- any labels ---

LABELS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 60),
    st.floats(allow_nan=True),
    st.text(max_size=6),
    st.lists(st.integers(0, 2) | st.text(max_size=2), max_size=4),
    st.just({"a": 1}),
)


@given(st.lists(LABELS, max_size=30), st.sampled_from([None, "|"]), st.sampled_from(["auto", "names"]))
def test_any_labels_can_be_surveyed(values: list[Any], separator: str | None, kind: Any) -> None:
    survey = LabelSurvey(LabelRules(separator, (), kind))
    for line, value in enumerate(values, 1):
        survey.add(value, "x", line)
    form, _, problems = survey.decide()
    assert all(problem.line is not None and problem.fix for problem in problems)
    for value in values:
        form.no_label(value) or form.parts(value)


ODD_LISTS: list[Any] = [[1, 0], [], [1, 0, None], [1, 0, 2]]


@pytest.mark.parametrize("odd", ODD_LISTS)
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_one_odd_list_does_not_make_classes_of_zeros_and_ones(odd: list[Any], policy: Any, tmp_path: Path) -> None:
    labels = [[number % 2, 1 - number % 2, (number % 3 == 0 and 1) or 0] for number in range(60)]
    path = write(tmp_path / "train.jsonl", [*labels[:30], odd, *labels[30:]])
    with pytest.raises(UserError, match=r"lists of 3 zeros and ones"):
        open_task(TaskSource(train=str(path), on_bad_record=policy))


@pytest.mark.parametrize("verdict", ["reject", "ignore", "Reject"])
def test_what_an_annotator_rejected_or_ignored_is_left_out_and_listed(verdict: str, tmp_path: Path) -> None:
    rows = [{"text": text(n), "label": "ab"[n % 2], "answer": verdict if n < 3 else "accept"} for n in range(40)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rejects: list[Reject] = []
    data = open_task(TaskSource(train=str(path)), rejects=rejects.append)
    assert [(one.line, one.field, one.reason) for one in rejects] == [
        (line, "answer", f"the annotator's answer is {verdict}") for line in (1, 2, 3)
    ]
    assert sum(len(split) for split in data.splits.values()) == 37
    assert "answer" not in data.left_out.fields
