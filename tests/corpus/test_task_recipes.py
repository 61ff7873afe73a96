"""The tasks of recipes: their readers on small made-up files, their cards, and how they are named and found."""

from __future__ import annotations

import dataclasses
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from tiny_tasks import sentence, write

from domain_ft.corpus import assets
from domain_ft.corpus.examples import TaskData
from domain_ft.corpus.readers import raw_records
from domain_ft.corpus.readers.base import BadRecords, RawRecord
from domain_ft.corpus.recipes import list_recipes, load_recipe
from domain_ft.corpus.tasks.leaks import BETWEEN, find_leaks
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.corpus.tasks.sources import find_task
from domain_ft.errors import CorpusError, RecordError
from domain_ft.storage import sha256

STOP = BadRecords("stop", print)


def read(path: Path, kind: str) -> list[RawRecord]:
    return list(raw_records(path, path.name, kind, STOP))


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


# --- readers ---


def test_a_licence_is_labelled_with_its_category(tmp_path: Path) -> None:
    path = put(tmp_path, "x-1.0.LICENSE", "---\nkey: x-1.0\ncategory: Copyleft Limited\n---\n\nThe text.\n")
    assert read(path, "license-categories") == [
        RawRecord(None, {"text": "\n\nThe text.\n", "label": "Copyleft Limited"}, "x-1.0")
    ]
    for text in ("---\nkey: x\ncategory: Permissive\n---\n \n", "---\nkey: x\n---\nText"):
        assert read(put(tmp_path, "x.LICENSE", text), "license-categories") == []
    with pytest.raises(RecordError, match="front matter"):
        read(put(tmp_path, "x.LICENSE", "Text"), "license-categories")


@pytest.mark.parametrize(
    ("flags", "length", "label"),
    [
        (["license_text"], 500, "license text"),
        (["license_notice"], 80, "notice"),
        (["license_reference", "continuous"], 1_000, "reference"),
        (["license_tag"], 100, "tag"),
        (["license_tag"], 79, None),
        (["license_text"], 1_001, None),
        (["license_notice", "deprecated"], 500, None),
        (["license_intro"], 500, None),
        (["false_positive"], 500, None),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_rule_is_labelled_with_its_kind(
    tmp_path: Path, flags: list[str], length: int, label: str | None, newline: str
) -> None:
    lines = [
        "---",
        "license_expression: x",
        *(f"is_{flag}: yes" for flag in flags),
        "relevance: 100",
        "---",
        "a" * length,
    ]
    found = read(put(tmp_path, "x_1.RULE", newline.join(lines)), "license-rules")
    assert [(record.fields["label"], record.key) for record in found] == ([(label, "x_1")] if label else [])


OBO = """format-version: 1.2

[Term]
id: HP:0000118
name: Phenotypic abnormality
def: "An abnormality." []
is_a: HP:0000001 ! All

[Term]
id: HP:0000119
name: Abnormality of the kidney
def: "A system itself." []
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000120
name: Abnormality of the ear
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000200
name: Branchio-oto-renal anomaly
def: "Of \\"both\\" organs." [x:1]
is_a: HP:0000201 ! Renal anomaly
is_a: HP:0000120 ! Abnormality of the ear

[Term]
id: HP:0000201
name: Renal anomaly
is_a: HP:0000119 ! Abnormality of the kidney

[Term]
id: HP:0000300
name: Mode of inheritance
def: "No phenotype." []
is_a: HP:0000001 ! All

[Term]
id: HP:0000400
name: obsolete anomaly
def: "Gone." []
is_a: HP:0000120 ! Abnormality of the ear
is_obsolete: true

[Term]
name: No id
def: "It cannot be named." []
is_a: HP:0000120 ! Abnormality of the ear
"""


def test_phenotypes_are_labelled_with_the_systems_above_them(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.obo", OBO), "phenotype-systems") == [
        RawRecord(
            4,
            {"text": 'Of "both" organs.', "label": ["Abnormality of the ear", "Abnormality of the kidney"]},
            "HP:0000200",
        )
    ]


ICD = """<?xml version="1.0"?><ICD10CM.tabular><chapter><name>1</name><desc>Infections of many kinds (A00-B99)</desc>
<section id="A00-A09"><desc>Intestinal (A00-A09)</desc>
<diag><name>A00</name><desc>Cholera</desc>
<diag><name>A00.0</name><desc>Cholera, biovar cholerae</desc></diag></diag></section></chapter>
<chapter><name>2</name><desc>Neoplasms (C00-D49)</desc><section id="C00-C14"><desc>Lip</desc>
<diag><name>C4A</name><desc>Merkel cell carcinoma</desc></diag></section></chapter>
</ICD10CM.tabular>"""


def test_diagnoses_are_labelled_with_chapters_and_grouped_by_categories(tmp_path: Path) -> None:
    assert [(r.key, *r.fields.values()) for r in read(put(tmp_path, "a.xml", ICD), "icd-chapters")] == [
        ("A00", "Cholera", "Infections of many kinds", "A00"),
        ("A00.0", "Cholera, biovar cholerae", "Infections of many kinds", "A00"),
        ("C4A", "Merkel cell carcinoma", "Neoplasms", "C4A"),
    ]
    with pytest.raises(RecordError, match="broken XML"):
        read(put(tmp_path, "b.xml", "<a><b>"), "icd-chapters")


# --- naming a task ---


def recipe(folder: Path, task: str) -> Path:
    return put(folder, "mine.toml", f'licence = "MIT"\n[[sources]]\nkind = "files"\npath = "x"\n[[tasks]]\n{task}')


def test_files_in_a_users_recipe_are_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    for place, name in enumerate(("train", "dev", "test")):
        rows = [{"q": sentence(100 * place + i), "a": "x y", "kind": "ab"[i % 2], "no": i} for i in range(6)]
        write(tmp_path / f"{name}.csv", rows)
    task = """
    name = "kind"
    description = "Which kind it is."
    kind = "files"
    train = "train.csv"
    validation = "dev.csv"
    test = "test.csv"
    text_field = "q"
    pair_field = "a"
    label_field = "kind"
    id_field = "no"
    weaknesses = "Made up."
    """
    data = open_task(TaskSource(task=f"{recipe(tmp_path, task)}/kind"))
    assert [len(split) for split in data.splits.values()] == [6, 6, 6]
    assert data.splits["test"][2].text == sentence(202) and data.splits["test"][2].pair == "x y"
    assert data.splits["test"][2].id == "2"
    assert (data.facts["licence"], data.facts["description"], data.facts["weaknesses"], data.facts["split"]) == (
        "MIT",
        "Which kind it is.",
        "Made up.",
        "as given",
    )
    with pytest.raises(CorpusError, match=r"--text-field has no effect: the task .* defines its fields"):
        open_task(TaskSource(task=f"{tmp_path}/mine.toml/kind", text_field="a"))
    with pytest.raises(CorpusError, match="not both"):
        open_task(TaskSource(task=f"{tmp_path}/mine.toml/kind", train="train.csv"))
    with pytest.raises(CorpusError, match=r"no task 'kidn'[^$]*did you mean 'kind'"):
        open_task(TaskSource(task=f"{tmp_path}/mine.toml/kidn"))


def test_an_unknown_task_is_refused_with_a_suggestion() -> None:
    with pytest.raises(CorpusError, match="did you mean 'legal/license-category'"):
        find_task("legl/license-category")
    with pytest.raises(CorpusError, match="did you mean 'license-category'"):
        find_task("legal/licence-category")
    with pytest.raises(CorpusError, match="there is no task 'license-category'"):
        find_task("license-category")


def test_every_mistake_in_a_task_is_reported_at_once(tmp_path: Path) -> None:
    path = recipe(
        tmp_path,
        """
        kind = "asset"
        description = "x"
        asset = "licensedcode-dat"
        path = "../x"
        reader = "license-rule"
        lable_field = "y"
        classes = "3"
        [[tasks]]
        kind = "hub"
        name = "t"
        description = "x"
        train = "a.csv"
        [[tasks]]
        kind = "file"
        name = "t"
        """,
    )
    with pytest.raises(CorpusError) as caught:
        load_recipe(path)
    for part in (
        "11 problems",
        "task 1 has no 'name'",
        "task 1 has an unknown key 'lable_field': did you mean 'label_field'?",
        "no such asset 'licensedcode-dat': did you mean 'licensedcode-data'?",
        "leaves the asset",
        "task 1 has no such reader 'license-rule': did you mean 'license-rules'?",
        "task 1: classes = '3', where a whole number is expected",
        "task 2 has an unknown key 'train'",
        "task 2 has no 'id'",
        "task 3 is of kind 'file': did you mean 'files'?",
        "task 3 has no 'description'",
        "2 tasks are named 't'",
    ):
        assert part in str(caught.value), (part, str(caught.value))


def test_every_task_of_the_package_has_a_card() -> None:
    tasks = [task for own in list_recipes() for task in own.tasks]
    assert {"license-category", "clause-or-notice", "phenotype-system", "icd-chapter"} <= {task.name for task in tasks}
    for task in tasks:
        assert task.description and task.classes and task.weaknesses
        assert task.split or task.kind == "hub"


def test_test_ids_are_refused_if_the_task_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"id": "1", "text": "a", "label": "x"}\n', encoding="utf-8")
    recipe = (
        '[[sources]]\nkind = "files"\npath = "train.jsonl"\n'
        '[[tasks]]\nname = "t"\ndescription = "x"\nkind = "files"\ntrain = "train.jsonl"\ntest_ids = "ids.txt"\n'
        'text_field = "text"\nlabel_field = "label"\nclasses = 2\n'
    )
    (tmp_path / "mine.toml").write_text(recipe, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"--test-ids has no effect: the task .* has its own test ids"):
        open_task(TaskSource(task=f"{tmp_path / 'mine.toml'}/t", test_ids=tmp_path / "other.txt"))


# --- tasks from assets and from the hub ---


def test_a_task_is_read_from_an_asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel of made-up licences replaces the real one."""
    asset = assets.ASSETS["licensedcode-data"]
    wheel = tmp_path / asset.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        for i in range(30):
            text = f"---\nkey: x-{i}\ncategory: {['Permissive', 'Copyleft'][i % 2]}\n---\n\n{sentence(i)}\n"
            archive.writestr(f"licensedcode/data/licenses/x-{i}.LICENSE", text)
    made = dataclasses.replace(asset, sha256=sha256(wheel), bytes=wheel.stat().st_size)
    monkeypatch.setitem(assets.ASSETS, asset.name, made)
    monkeypatch.setenv(assets.WHEELS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
    data = open_task(TaskSource(task="legal/license-category"))
    assert data.name == "legal/license-category" and data.labels.names == ("Copyleft", "Permissive")
    assert sum(len(split) for split in data.splits.values()) == 30
    assert data.facts["licence"] == "CC-BY-4.0" and "ScanCode" in data.facts["citation"]
    example = data.splits["test"][0]
    assert example.id.startswith("x-") and example.file == f"{example.id}.LICENSE"


CLASSES = datasets.ClassLabel(names=["6", "7", "8"])
SEVERAL = datasets.Sequence(CLASSES)
TEXTS = datasets.Sequence(datasets.Value("string"))
TEXT = datasets.Value("string")
# Task on the hub -> (the features of its data set, a function that makes a row from a text and a number).
ON_THE_HUB: dict[str, tuple[dict[str, Any], Any]] = {
    "legal/scotus": ({"text": TEXT, "label": CLASSES}, lambda text, i: {"text": text, "label": i % 3}),
    "legal/ledgar": ({"text": TEXT, "label": CLASSES}, lambda text, i: {"text": text, "label": i % 3}),
    "legal/unfair-tos": (
        {"text": TEXT, "labels": SEVERAL},
        lambda text, i: {"text": text, "labels": [0, 1, 2][: i % 4]},
    ),
    "legal/eurlex": ({"text": TEXT, "labels": SEVERAL}, lambda text, i: {"text": text, "labels": [0, 1, 2][: i % 4]}),
    "legal/ecthr-a": (
        {"text": TEXTS, "labels": SEVERAL},
        lambda text, i: {"text": [text, "b"], "labels": [0, 1, 2][: i % 4]},
    ),
    "legal/ecthr-b": (
        {"text": TEXTS, "labels": SEVERAL},
        lambda text, i: {"text": [text, "b"], "labels": [0, 1, 2][: i % 4]},
    ),
}


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_tasks_of_a_hub_have_their_fields_mapped(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the features of the data set is given instead of its id."""
    features, row = ON_THE_HUB[name]
    for place, split in enumerate(("train", "validation", "test")):
        rows = [row(sentence(100 * place + i), i) for i in range(8)]
        datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(tmp_path / f"{split}.parquet")
    own, task = find_task(name)
    local = dataclasses.replace(task, id=str(tmp_path), config=None)
    monkeypatch.setattr("domain_ft.corpus.tasks.sources.find_task", lambda _: (own, local))
    data = open_task(TaskSource(task=name))
    assert [len(split) for split in data.splits.values()] == [8, 8, 8]
    assert data.labels.names == ("6", "7", "8") and data.labels.multi_label == ("labels" in features)
    first = data.splits["test"][3]
    assert first.text.startswith(sentence(203)) and first.labels == (
        ("6", "7", "8") if data.labels.multi_label else ("6",)
    )


def test_pubmedqa_of_the_hub_has_pairs_and_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {
            "pubid": 900 + i,
            "question": f"Is {sentence(i)}?",
            "context": {"contexts": [sentence(100 + i), "Results."], "labels": ["A", "B"]},
            "final_decision": ["yes", "no", "maybe"][i % 3],
        }
        for i in range(40)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    own, task = find_task("medical/pubmedqa")
    local = dataclasses.replace(task, id=str(tmp_path), config=None)
    monkeypatch.setattr("domain_ft.corpus.tasks.sources.find_task", lambda _: (own, local))
    data = open_task(TaskSource(task="medical/pubmedqa"))
    assert data.labels.names == ("maybe", "no", "yes")
    assert sum(len(split) for split in data.splits.values()) == 40
    example = data.splits["test"][0]
    assert example.pair == f"{sentence(100 + int(example.id) - 900)}\nResults."


# --- the real tasks ---


def opened_and_checked(name: str) -> TaskData:
    data = open_task(TaskSource(task=name))
    assert len(data.labels) == find_task(name)[1].classes
    leaks = find_leaks(data)
    assert not any(leaks.counts[f"{kind}_{one}_{other}"] for kind in ("exact", "near") for one, other in BETWEEN)
    return data


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "examples"),
    [
        ("legal/license-category", 2_289),
        ("legal/clause-or-notice", 11_360),
        ("medical/phenotype-system", 15_800),
        ("medical/icd-chapter", 46_881),
    ],
)
def test_the_real_tasks_have_the_stated_number_of_classes_and_no_leaks(name: str, examples: int) -> None:
    data = opened_and_checked(name)
    assert sum(len(split) for split in data.splits.values()) == examples
    assert 0.15 < len(data.splits["test"]) / examples < 0.25
    counts = Counter(label for example in data.splits["train"] for label in example.labels)
    assert set(counts) == set(data.labels.names)
    groups = [{example.group for example in split} for split in data.splits.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
