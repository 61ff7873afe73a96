"""Drawn splits, unusual classes, and leaks between splits and from adaptation corpora."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tasks import ROWS, sentence, task, write

from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.examples import Labels, TaskData
from domain_ft.corpus.prepared import prepare
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.splitting import draw
from domain_ft.corpus.tasks import fingerprints
from domain_ft.corpus.tasks.leaks import KINDS, find_leaks, remove_leaks
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.corpus.tasks.table import ExampleTable
from domain_ft.errors import CorpusError


def rows(count: int, classes: int = 2, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": sentence(start + i), "label": f"c{i % classes}"} for i in range(count)]


def more() -> list[dict[str, Any]]:
    """Other texts, with the labels of `ROWS`."""
    return [{"text": sentence(500 + i), "label": ["no", "yes"][i % 2]} for i in range(4)]


def contents(data: TaskData) -> dict[str, set[str]]:
    return {name: {example.text for example in split} for name, split in data.splits.items()}


# --- drawn splits ---


def test_shares_are_kept_class_by_class(tmp_path: Path) -> None:
    records = [{"text": sentence(i), "label": "rare" if i % 10 == 0 else "often"} for i in range(400)]
    data = task(write(tmp_path / "x.jsonl", records))
    counts = {name: Counter(e.labels[0] for e in split) for name, split in data.splits.items()}
    assert counts["test"] == {"often": 72, "rare": 8}
    assert counts["validation"] == {"often": 29, "rare": 3}
    assert sum(len(split) for split in data.splits.values()) == 400
    data = task(tmp_path / "x.jsonl", test_fraction=0.5, validation_fraction=0.25)
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [150, 50, 200]


@settings(max_examples=8)
@given(st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_the_order_of_the_file(tmp_path_factory: pytest.TempPathFactory, random: Any) -> None:
    folder = tmp_path_factory.mktemp("order")
    records = [*rows(40, 3), *({"text": f"{sentence(i)} again", "label": f"c{i % 3}"} for i in range(5))]
    expected = contents(task(write(folder / "x.jsonl", records)))
    random.shuffle(records)
    assert contents(task(write(folder / "x.jsonl", records))) == expected


def test_copies_near_copies_and_groups_go_to_one_split(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    for i in range(60):
        text = " ".join(sentence(100 * i + j) for j in range(6))
        records += [
            {"text": text, "label": f"c{i % 2}", "case": f"s{i // 2}"},
            {"text": text.upper() + "  ", "label": f"c{i % 2}", "case": "a" * (i + 1)},
            {"text": text + " and one more word", "label": f"c{i % 2}", "case": "b" * (i + 1)},
        ]
    path = write(tmp_path / "x.jsonl", records)
    data = task(path)
    family = {record["text"].strip(): i // 3 for i, record in enumerate(records)}
    where = [{family[text] for text in texts} for texts in contents(data).values()]
    assert all(where) and not (where[0] & where[1] or where[0] & where[2] or where[1] & where[2])
    groups = [{example.group for example in split} for split in data.splits.values()]
    assert sum(map(len, groups)) == 60
    assert find_leaks(data).counts == dict.fromkeys(KINDS, 0)
    data = task(path, group_field="case")
    where = [{family[text] // 2 for text in texts} for texts in contents(data).values()]
    assert all(where) and not (where[0] & where[1] or where[0] & where[2] or where[1] & where[2])


def test_no_label_is_lost_to_training() -> None:
    """The only group with a label stays in training, and so does a group larger than the share."""
    labels = [("a",)] * 10 + [("a", "b")] + [("c",)] * 20
    groups = np.array([*range(11), *[11] * 20])
    held = draw(groups, np.arange(31) * 2**58, labels, 0.4)
    assert 0 < held.sum() <= 12
    assert not held[10] and not held[11:].any()


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sets(st.sampled_from("abcd"), max_size=3), st.integers(0, 2**64 - 1)),
        min_size=1,
    ),
    st.floats(0.01, 0.9),
)
def test_the_draw_takes_whole_groups_and_leaves_every_label(rows: list[Any], fraction: float) -> None:
    groups = np.array([group for group, _, _ in rows])
    labels = [tuple(sorted(own)) for _, own, _ in rows]
    held = draw(groups, np.array([key for _, _, key in rows], np.uint64), labels, fraction)
    for group in set(groups.tolist()):
        assert held[groups == group].all() or not held[groups == group].any()
    for label in set().union(*labels):
        assert any(label in own and not taken for own, taken in zip(labels, held, strict=True))


def test_among_very_many_examples_only_exact_copies_are_searched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "MOST_COMPARED", 30)
    monkeypatch.setattr("domain_ft.corpus.tasks.opening.MOST_COMPARED", 30)
    data = task(write(tmp_path / "x.jsonl", [*rows(40), *rows(10)]))
    assert any("near copies are not searched for" in note for note in data.notes)
    texts = contents(data)
    assert not texts["train"] & texts["test"]
    leaks = find_leaks(data)
    assert leaks.notes == ["There are too many examples to search for near copies: only exact copies were found."]


def test_too_few_examples_are_not_split(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no test examples can be taken from 2"):
        task(write(tmp_path / "x.jsonl", rows(2)))


# --- unusual classes ---


def test_a_class_that_appears_once_stays_in_training_and_is_named(tmp_path: Path) -> None:
    records = [*rows(40), {"text": "one of its kind", "label": "hapax"}]
    data = task(write(tmp_path / "x.jsonl", records))
    assert "one of its kind" in contents(data)["train"]
    assert any(note.startswith("A class appears only once in the training examples: 'hapax'.") for note in data.notes)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"all training examples have the label 'c0': there is nothing to learn"):
        task(write(tmp_path / "x.jsonl", rows(40, 1)))


def test_a_test_label_that_training_does_not_have_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", rows(40))
    test = write(tmp_path / "test.csv", [*rows(3, start=90), {"text": sentence(99), "label": "c7"}])
    with pytest.raises(CorpusError) as caught:
        task(train, test=str(test))
    for part in (
        "the test examples have a label that no training example has: 'c7'",
        'test.csv, line 5, field "label"',
        "skip",
    ):
        assert part in str(caught.value), str(caught.value)
    left_out: list[Reject] = []
    data = task(train, left_out, test=str(test), on_bad_record="skip")
    assert len(data.splits["test"]) == 3
    assert left_out == [Reject("test.csv", 5, "label", "no training example has the label 'c7'")]
    assert any("1 test examples" in note for note in data.notes)


@pytest.mark.slow
def test_ten_thousand_classes_are_read_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        "".join(
            json.dumps({"text": f"code {i:05d} of a very long list of codes", "label": f"{i % 10_000:05d}"}) + "\n"
            for i in range(10_200)
        )
    )
    data = open_task(TaskSource(train=str(path), validation=str(path), test=str(path)))
    assert len(data.labels) == 10_000 and data.labels.names[:2] == ("00000", "00001")
    assert any("There are 10,000 classes, with 1.0 training examples each" in note for note in data.notes)
    assert any("9,800 classes appear only once" in note and "9,792 more" in note for note in data.notes)


def test_a_majority_class_is_noted(tmp_path: Path) -> None:
    records = [{"text": sentence(i), "label": "rare" if i % 10 == 0 else "often"} for i in range(100)]
    assert any(
        "90% of the training examples are 'often'" in note for note in task(write(tmp_path / "x.jsonl", records)).notes
    )


def test_targets_follow_the_classes() -> None:
    assert Labels(("a", "b")).targets([("b",), ("a",)]).tolist() == [1, 0]
    assert Labels(("a", "b"), multi_label=True).targets([("b", "a"), ()]).tolist() == [[1, 1], [0, 0]]


# --- the table ---


def test_examples_of_many_batches_come_in_the_given_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domain_ft.corpus.tasks.table._BATCH", 1_000)
    records = [{"text": sentence(i), "label": f"c{i % 2}"} for i in range(1_000, 1_100)]
    path = str(write(tmp_path / "many.jsonl", records))
    train = task(path, test=path, validation=path).splits["train"]
    assert [example.text for example in train] == [record["text"] for record in records]
    order = np.random.default_rng(0).integers(0, 100, 700)
    assert [example.text for example in train.take(order)] == [records[i]["text"] for i in order]
    assert [train[i].line for i in (0, 50, -1)] == [1, 51, 100]


def test_a_view_has_the_examples_of_its_indices(tmp_path: Path) -> None:
    train = task(
        write(tmp_path / "x.jsonl", ROWS), test=str(tmp_path / "x.jsonl"), validation=str(tmp_path / "x.jsonl")
    ).splits["train"]
    assert isinstance(train, ExampleTable)
    view = train.take([3, 1, 3, -1])
    assert [example.text for example in view] == [ROWS[i]["text"] for i in (3, 1, 3, 19)]
    assert view[0] == view[2] == train[3] and len(view) == 4
    assert list(view.labels()) == [("yes",), ("yes",), ("yes",), ("yes",)]
    assert view.take([1]).take([0])[0] == train[1]
    assert view.key != train.key and view.key == train.take([3, 1, 3, 19]).key
    assert [example.text for example in pickle.loads(pickle.dumps(view))] == [example.text for example in view]
    with pytest.raises(IndexError):
        train.take([20])
    with pytest.raises(IndexError):
        train[20]
    assert list(train.take([])) == []


# --- leaks ---


def leaky(tmp_path: Path, **options: Any) -> TaskData:
    """Long texts: 0 to 9 in training, 20 to 24 in validation, 30 to 39 in the test, and some copies across splits."""

    def long(i: int) -> str:
        return " ".join(sentence(50 * i + j) for j in range(8))

    train = [{"text": long(i), "label": f"c{i % 2}"} for i in range(10)]
    validation = [{"text": long(i), "label": f"c{i % 2}"} for i in range(20, 25)]
    test = [{"text": long(i), "label": f"c{i % 2}"} for i in range(30, 40)]
    train += [
        {"text": long(30).upper(), "label": "c0"},
        {"text": long(30), "label": "c0"},
        {"text": long(21), "label": "c0"},
    ]
    train += [{"text": long(31) + " and a word", "label": "c1"}]
    validation += [{"text": long(32), "label": "c1"}]
    files = {
        name: str(write(tmp_path / f"{name}.jsonl", records))
        for name, records in (("train", train), ("validation", validation), ("test", test))
    }
    return open_task(TaskSource(**files, **options))


def test_every_kind_of_leak_is_counted_listed_and_removed(tmp_path: Path) -> None:
    data = leaky(tmp_path)
    leaks = find_leaks(data)
    assert leaks.counts == {
        **dict.fromkeys(KINDS, 0),
        "exact_train_test": 1,
        "near_train_test": 1,
        "exact_train_validation": 1,
        "exact_validation_test": 1,
        "exact_label_conflicts": 2,
    }
    assert {split: indices.tolist() for split, indices in leaks.removals.items()} == {
        "train": [10, 11, 12, 13],
        "validation": [5],
    }
    leaks.write(tmp_path / "leaks.jsonl")
    text = (tmp_path / "leaks.jsonl").read_text()
    listed = [json.loads(line) for line in text.splitlines()]
    assert listed[0] == {
        "kind": "exact_train_test",
        "ids": ["train.jsonl:11", "test.jsonl:1"],
        "files": ["train.jsonl", "test.jsonl"],
        "lines": [11, 1],
        "similarity": 1.0,
    }
    assert {leak["lines"][0] for leak in listed if "train_" in leak["kind"]} == {11, 12, 13, 14}
    assert sentence(0)[:20] not in text
    near = next(leak for leak in leaks.found if leak.kind == "near_train_test")
    assert (near.lines, near.labels) == ((14, 2), None) and 0.85 <= near.similarity < 1
    clean = remove_leaks(data, leaks)
    assert [len(clean.splits[name]) for name in ("train", "validation", "test")] == [10, 5, 10]
    assert clean.key != data.key and "4 train, 1 validation" in clean.notes[-1]
    assert clean.facts["examples"] == {"train": 10, "validation": 5, "test": 10}
    assert clean.facts["counts"]["train"] == {"c0": 5, "c1": 5}
    assert not any(len(indices) for indices in find_leaks(clean).removals.values())
    assert remove_leaks(clean, find_leaks(clean)) is clean


def test_a_removal_that_leaves_nothing_is_refused_and_a_lost_class_is_noted(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", ROWS))
    data = task(path, test=path, validation=str(write(tmp_path / "v.jsonl", more())))
    with pytest.raises(CorpusError, match="all 20 train examples are also in another split"):
        remove_leaks(data, find_leaks(data))
    records = [*ROWS, {"text": "the only one of its class", "label": "lone"}]
    other = str(write(tmp_path / "b.jsonl", [records[-1]]))
    data = task(write(tmp_path / "c.jsonl", records), test=other, validation=str(write(tmp_path / "d.jsonl", more())))
    clean = remove_leaks(data, find_leaks(data))
    assert "the last training examples of 1 class, such as 'lone'" in clean.notes[-1]


def test_a_family_of_near_copies_is_compared_whole(tmp_path: Path) -> None:
    """The family is larger than the number of neighbours that locality-sensitive hashing compares with a text."""
    base = " ".join(sentence(j) for j in range(20))
    train = [{"text": f"{base} train variant {i}", "label": f"c{i % 2}"} for i in range(30)]
    test = [{"text": f"{base} test variant {i}", "label": f"c{i % 2}"} for i in range(30)]
    train_file, test_file = write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)
    leaks = find_leaks(
        open_task(
            TaskSource(train=str(train_file), validation=str(write(tmp_path / "v.jsonl", rows(2))), test=str(test_file))
        )
    )
    assert leaks.counts["near_train_test"] == 30
    assert len(leaks.removals["train"]) == 30
    assert leaks.counts["near_label_conflicts"] > 100


def test_test_texts_in_an_adaptation_corpus_are_found(tmp_path: Path) -> None:
    data = leaky(tmp_path)
    whole = " ".join(example.text for example in data.splits["test"].take([4, 5, 6]))
    quoted = data.splits["test"][7].text
    documents = [
        whole,
        quoted[: int(len(quoted) * 0.7)],
        quoted[:60],
        *(sentence(10_000 + 7 * i) * 3 for i in range(30)),
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    prepared = prepare(open_corpus(str(path)), evaluation_fraction=0.01)
    leaks = find_leaks(data, [prepared])
    found = [leak for leak in leaks.found if leak.kind == "corpus_test"]
    assert {leak.lines[1] for leak in found} == {5, 6, 7, 8}
    assert leaks.counts["corpus_test"] == 4
    assert {leak.ids[0] for leak in found} == {"corpus.jsonl:1", "corpus.jsonl:2"}
    assert {leak.files[0] for leak in found} == {f"{tmp_path.name}-corpus"}
    assert all(leak.similarity > 0.95 for leak in found if leak.lines[1] != 8)
    assert 0.55 < next(leak.similarity for leak in found if leak.lines[1] == 8) < 0.85
