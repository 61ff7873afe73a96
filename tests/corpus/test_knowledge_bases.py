"""Records in BigBIO's knowledge-base schema: as texts with entities, as pairs of entities, and from the hub."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tasks import sentence, write

from domain_ft.corpus.knowledge_bases import (
    MOST_PAIRED,
    Document,
    Entity,
    RelationReader,
    read_document,
)
from domain_ft.corpus.readers.base import BadRecords, RawRecord, Reject
from domain_ft.corpus.recipes import load_recipe
from domain_ft.corpus.tagging.entities import Span
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.opening import TaggingSource, open_tagging
from domain_ft.corpus.tagging.reading import read_tagged
from domain_ft.corpus.tagging.records import flat_spans
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.errors import CorpusError, RecordError

Offsets = list[list[int]]


def passage(text: str, start: int = 0) -> dict[str, Any]:
    return {"id": f"p{start}", "type": "abstract", "text": [text], "offsets": [[start, start + len(text)]]}


def entity(id: str, type: str, text: str | list[str], offsets: Offsets) -> dict[str, Any]:
    return {
        "id": id,
        "type": type,
        "text": [text] if isinstance(text, str) else text,
        "offsets": offsets,
        "normalized": [],
    }


def relation(type: str, one: str, other: str) -> dict[str, Any]:
    return {"id": f"{one}-{other}-{type}", "type": type, "arg1_id": one, "arg2_id": other, "normalized": []}


def record(
    text: str | Sequence[dict[str, Any]],
    entities: Sequence[dict[str, Any]] = (),
    relations: Sequence[dict[str, Any]] = (),
    id: str = "7",
) -> dict[str, Any]:
    return {
        "id": f"row {id}",
        "document_id": id,
        "passages": [passage(text)] if isinstance(text, str) else list(text),
        "entities": list(entities),
        "events": [],
        "coreferences": [],
        "relations": list(relations),
    }


def found(text: str, *names: tuple[str, str]) -> list[dict[str, Any]]:
    """Entities T0, T1, ... for each (text, type), at the first occurrence of the text after the previous entity."""
    entities, place = [], 0
    for number, (name, type) in enumerate(names):
        place = text.index(name, place)
        entities.append(entity(f"T{number}", type, name, [[place, place + len(name)]]))
        place += len(name)
    return entities


# ------------------------------------------------------------------------------------------------------------ entities

TITLE, ABSTRACT = "インフルエンザ🤒の患者 ", "Alpha and beta blockers\nhelp e\u0301lite athletes."
TWO_PASSAGES = record(
    [passage(ABSTRACT, 15), passage(TITLE)],
    [
        entity("a", "Drug", ["Alpha", "blockers"], [[15, 20], [30, 38]]),
        entity("b", "Drug", "beta blockers", [[25, 38]]),
        entity("c", "Disease", "インフルエンザ🤒", [[0, 8]]),
        entity("d", "Disease", "インフルエンザ", [[0, 7]]),
        entity("e", "Disease", "インフルエンザ🤒", [[0, 8]]),
        entity("f", "People", "の患者 ", [[8, 12]]),
        entity("g", "Drug", "blockers help", [[30, 43]]),
    ],
)


def test_a_record_becomes_one_text_with_the_longest_of_overlapping_entities(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet"):
        path = write(tmp_path / name, [TWO_PASSAGES])
        (text,), scheme = read_tagged(path, name, TagFields(group="document_id"), None, BadRecords("stop", print))
        assert scheme is None
        assert text.text == f"{TITLE}\n\n\n{ABSTRACT}"
        assert text.spans == (Span(0, 8, "Disease"), Span(8, 11, "People"), Span(15, 38, "Drug"))
        assert [text.text[span.start : span.end] for span in text.spans][2] == "Alpha and beta blockers"
        assert (text.overlapping, text.joined, text.group, text.line) == (3, 1, "7", 1)


def test_what_reading_changed_about_the_entities_is_noted(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", [TWO_PASSAGES]))
    data = open_tagging(TaggingSource(train=path, validation=path, test=path))
    assert data.notes[:2] == (
        "entities that overlap a longer or equally long one are left out: 9",
        "entities with several parts are read as one span, from the first part to the last: 3",
    )
    plain = str(write(tmp_path / "b.jsonl", [record("The flu.", found("The flu.", ("flu", "D")))]))
    data = open_tagging(TaggingSource(train=plain, validation=plain, test=plain))
    assert not any("left out" in note or "several parts" in note for note in data.notes)


def changed(**fields: Any) -> dict[str, Any]:
    return {**record("The flu.", found("The flu.", ("flu", "D"))), **fields}


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (
            changed(entities=[entity("a", "D", "flu", [[3, 6]])]),
            "entities[0].offsets",
            r"the entity is 'flu', but the text at \[\[3, 6\]\] is ' fl'",
        ),
        (changed(entities=[entity("a", "D", "flu", [[6, 9]])]), "entities[0].offsets", "which has 8 characters"),
        (changed(entities=[entity("a", "D", "flu", [])]), "entities[0].offsets", "the field is empty"),
        (changed(entities=[entity("a", "D", "flu", [[4]])]), "entities[0].offsets", r"\[4\], where a pair"),
        (changed(entities=[entity("a", "D", "flu", [[7, 4]])]), "entities[0].offsets", "ends before it begins"),
        (changed(entities=[entity("a", "D", "", [[3, 4]])]), "entities[0].text", "has no text"),
        (changed(entities=[entity("a", "", "flu", [[4, 7]])]), "entities[0].type", "the field is empty"),
        (changed(entities=[{"text": ["flu"]}]), "entities[0].offsets", "the field is missing"),
        (changed(entities=[{"text": ["flu"], "offsets": [[4, 7]]}]), "entities[0].id", "the field is missing"),
        (changed(entities=[entity("a", "D", "flu", [[4, 7]])] * 2), "entities[1].id", "two entities have the id 'a'"),
        (
            changed(entities=[{**entity("a", "D", "", [[4, 7]]), "text": "flu"}]),
            "entities[0].text",
            "not a list of texts",
        ),
        (changed(entities=["flu"]), "entities[0]", "this is text, where an object"),
        (changed(entities=None), "entities", "the field is null"),
        (changed(passages=[]), "passages", "have no text"),
        (changed(passages=[passage("A", 0), passage("B", 0)]), "passages[1].offsets", "begins before the end"),
        (changed(passages=[passage("A", 10**7)]), "passages[0].offsets", "a gap of more than 1,000,000 characters"),
        (changed(passages=[{**passage("A"), "offsets": [[0, 2]]}]), "passages[0].offsets", "the text has 1 characters"),
        (changed(passages=[{**passage("A"), "text": []}]), "passages[0].offsets", "0 texts and 1 offsets"),
        (changed(relations=[relation("R", "T0", "T9")]), "relations[0].arg2_id", "no entity with the id 'T9'"),
    ],
)
def test_a_bad_record_stops_the_reader_or_is_left_out(
    tmp_path: Path, bad: dict[str, Any], field: str, reason: str
) -> None:
    path = write(tmp_path / "a.jsonl", [changed(), bad])
    with pytest.raises(RecordError, match=reason) as caught:
        read_tagged(path, path.name, TagFields(), None, BadRecords("stop", print))
    assert f'a.jsonl, line 2, field "{field}"' in str(caught.value)
    rejects: list[Reject] = []
    texts, _ = read_tagged(path, path.name, TagFields(), None, BadRecords("skip", rejects.append))
    assert [text.text for text in texts] == ["The flu."]
    assert [(reject.line, reject.field) for reject in rejects] == [(2, field)]
    reader = RelationReader({"D": ["D"]}, ["R"])
    assert list(reader(RawRecord(2, bad), "a.jsonl", BadRecords("skip", rejects.append))) == []
    assert rejects[1] == rejects[0]


def test_white_space_in_an_entity_may_differ_from_the_text() -> None:
    document = read_document(record("Breast\ncancer", [entity("a", "D", "Breast cancer", [[0, 13]])]))
    assert flat_spans(document) == ((Span(0, 13, "D"),), 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.text("aé🤒点 \n", min_size=1, max_size=4)), min_size=1), st.randoms())
def test_every_passage_is_at_its_offsets(parts: list[tuple[int, str]], random: Any) -> None:
    passages, place = [], 0
    for gap, text in parts:
        passages.append(passage(text, place + gap))
        place += gap + len(text)
    random.shuffle(passages)
    if not "".join(text for _, text in parts).strip():
        return
    document = read_document(record(passages))
    assert len(document.text) == place
    for own in passages:
        ((start, end),) = own["offsets"]
        assert document.text[start:end] == own["text"][0]
        assert start in document.breaks


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6), st.sampled_from("AB")), max_size=12))
def test_an_entity_is_left_out_only_for_one_that_is_at_least_as_long(places: list[tuple[int, int, str]]) -> None:
    entities = [Entity(str(i), type, start, start + size, 1) for i, (start, size, type) in enumerate(places)]
    every = {Span(own.start, own.end, own.type) for own in entities}
    spans, left_out = flat_spans(Document("x" * 30, (0,), tuple(entities), ()))
    assert list(spans) == sorted(spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    assert len(spans) + left_out == len(every)
    for gone in every - set(spans):
        over = [own for own in spans if own.start < gone.end and gone.start < own.end]
        assert max(own.end - own.start for own in over) >= gone.end - gone.start


# ----------------------------------------------------------------------------------------------------------- relations

CHEMICALS = RelationReader({"CHEMICAL": ["CHEMICAL"], "GENE": ["GENE-Y", "GENE-N"]}, ["Upregulator", "Substrate"])
DRUGS = RelationReader({"DRUG": ["DRUG", "GROUP"]}, ["MECHANISM", "INT"])


def examples(reader: RelationReader, *given: Mapping[str, Any]) -> list[tuple[str, str]]:
    stop = BadRecords("stop", print)
    made = [own for number, row in enumerate(given, 1) for own in reader(RawRecord(number, row), "a", stop)]
    return [(own.fields["text"], own.fields["label"]) for own in made]


def test_a_chemical_and_a_gene_of_a_sentence_are_an_example() -> None:
    text = "EGFR and TP53 are bound by ATP, not by the ADP of mice. EGFR stays."
    names = ("EGFR", "GENE-Y"), ("TP53", "GENE-N"), ("ATP", "CHEMICAL"), ("ADP", "CHEMICAL"), ("mice", "SPECIES")
    row = record(
        text,
        found(text, *names, ("EGFR", "GENE-Y")),
        [
            relation("Substrate", "T2", "T0"),
            relation("Upregulator", "T0", "T2"),
            relation("Regulator", "T1", "T2"),
            relation("Substrate", "T5", "T3"),
            relation("Substrate", "T4", "T3"),
        ],
    )
    assert examples(CHEMICALS, row) == [
        ("@GENE$ and TP53 are bound by @CHEMICAL$, not by the ADP of mice.", "Upregulator"),
        ("@GENE$ and TP53 are bound by ATP, not by the @CHEMICAL$ of mice.", "false"),
        ("EGFR and @GENE$ are bound by @CHEMICAL$, not by the ADP of mice.", "false"),
        ("EGFR and @GENE$ are bound by ATP, not by the @CHEMICAL$ of mice.", "false"),
    ]
    (first, *_) = CHEMICALS(RawRecord(3, row), "a", BadRecords("stop", print))
    assert (first.key, first.line, first.fields["group"]) == ("7:T0+T2", 3, "7")


def test_drugs_of_all_types_are_paired_with_each_other() -> None:
    text = "アスピリンはNSAIDsとワルファリンを強める。ワルファリン。"
    names = ("アスピリン", "DRUG"), ("NSAIDs", "GROUP"), ("ワルファリン", "DRUG"), ("ワルファリン", "DRUG")
    assert examples(DRUGS, record(text, found(text, *names), [relation("INT", "T2", "T0")])) == [
        ("@DRUG$は@DRUG$とワルファリンを強める。", "false"),
        ("@DRUG$はNSAIDsと@DRUG$を強める。", "INT"),
        ("アスピリンは@DRUG$と@DRUG$を強める。", "false"),
    ]


def test_a_sentence_is_not_cut_within_an_entity_and_ends_with_its_passage() -> None:
    one, other = "A St. Johns wort (GABA", "TP53) title"
    entities = [
        entity("a", "CHEMICAL", "St. Johns wort", [[2, 16]]),
        entity("b", "GENE-Y", "GABA", [[18, 22]]),
        entity("c", "GENE-Y", "TP53", [[22, 26]]),
    ]
    row = record([passage(one), passage(other, len(one))], entities)
    assert examples(CHEMICALS, row) == [("A @CHEMICAL$ (@GENE$", "false")]


def test_overlapping_entities_share_a_mark_and_those_with_the_same_offsets_are_one() -> None:
    text = "The insulin receptor of insulin rose."
    row = record(
        text,
        [
            entity("a", "GENE-Y", "insulin receptor", [[4, 20]]),
            entity("b", "CHEMICAL", "insulin", [[4, 11]]),
            entity("c", "GENE-N", "insulin receptor", [[4, 20]]),
            entity("d", "CHEMICAL", ["insulin", "rose"], [[24, 31], [32, 36]]),
        ],
        [relation("Substrate", "c", "d")],
    )
    assert examples(CHEMICALS, row) == [
        ("The @CHEMICAL-GENE$ of insulin rose.", "false"),
        ("The @GENE$ of @CHEMICAL$.", "Substrate"),
    ]


@pytest.mark.parametrize("more", [0, 1])
def test_a_sentence_with_very_many_entities_has_no_pairs(more: int) -> None:
    listed = ["drug" for _ in range(MOST_PAIRED + more)]
    text = f"{', '.join(listed)}. A drug and a drug."
    row = record(text, found(text, *((name, "DRUG") for name in [*listed, "drug", "drug"])))
    pairs = MOST_PAIRED * (MOST_PAIRED - 1) // 2
    assert len(examples(DRUGS, row)) == 1 + (0 if more else pairs)
    assert examples(DRUGS, row)[-1] == ("A @DRUG$ and a @DRUG$.", "false")


def test_a_record_without_relations_has_examples_too() -> None:
    row = record("ATP binds EGFR", found("ATP binds EGFR", ("ATP", "CHEMICAL"), ("EGFR", "GENE-Y")))
    del row["relations"], row["document_id"]
    assert examples(CHEMICALS, row, {**row, "relations": None}) == [("@CHEMICAL$ binds @GENE$", "false")] * 2
    assert next(CHEMICALS(RawRecord(1, row), "a", BadRecords("stop", print))).fields["group"] == "row 7"


# ------------------------------------------------------------------------------------------------------------- the hub

TEXT = datasets.Value("string")
PLACES = datasets.Sequence([datasets.Value("int32")])
NORMALIZED = [{"db_name": TEXT, "db_id": TEXT}]
KNOWLEDGE_BASE = datasets.Features(
    {
        "id": TEXT,
        "document_id": TEXT,
        "passages": [{"id": TEXT, "type": TEXT, "text": datasets.Sequence(TEXT), "offsets": PLACES}],
        "entities": [
            {"id": TEXT, "type": TEXT, "text": datasets.Sequence(TEXT), "offsets": PLACES, "normalized": NORMALIZED}
        ],
        "events": [{"id": TEXT, "type": TEXT}],
        "coreferences": [{"id": TEXT, "entity_ids": datasets.Sequence(TEXT)}],
        "relations": [{"id": TEXT, "type": TEXT, "arg1_id": TEXT, "arg2_id": TEXT, "normalized": NORMALIZED}],
    }
)
LABELLED = datasets.Features({"id": TEXT, "document_id": TEXT, "text": TEXT, "labels": [TEXT]})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes rows where the hub's Parquet copies are read. `datasets` refuses the original script."""
    real = datasets.load_dataset_builder

    def of_the_hub(identifier: str, config: str | None = None, revision: str | None = None, **given: Any) -> Any:
        if revision not in ("refs/convert/parquet", f"{tmp_path}/{identifier}"):
            raise RuntimeError("Dataset scripts are no longer supported, but found a program")
        return real(str(tmp_path / identifier), **given)

    def put(identifier: str, config: str, split: str, rows: list[dict[str, Any]], features: Any) -> None:
        folder = tmp_path / identifier / config / split
        folder.mkdir(parents=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "0000.parquet")

    monkeypatch.setattr(datasets, "load_dataset_builder", of_the_hub)
    monkeypatch.setattr(
        "domain_ft.corpus.tasks.reading.hub_revision", lambda source: f"refs/convert/parquet@{tmp_path}/{source.id}"
    )
    return put


def test_ebm_pico_is_tagged(hub: Any) -> None:
    for split in ("train", "test"):
        texts = [f"We gave aspirin to {i} {split} patients ." for i in range(20)]
        rows = [
            record(text, found(text, ("aspirin", "Intervention_Pharmacological"), ("patients", "Participant_Sex")))
            for text in texts
        ]
        hub("bigbio/ebm_pico", "ebm_pico_bigbio_kb", split, rows, KNOWLEDGE_BASE)
        hub("bigbio/ebm_pico", "ebm_pico_source", split, [{"text": "x"}], None)
    data = open_tagging(TaggingSource(train="hf:bigbio/ebm_pico:ebm_pico_bigbio_kb"))
    assert data.types == ("Intervention_Pharmacological", "Participant_Sex")
    assert len(data.splits["train"]) + len(data.splits["validation"]) == len(data.splits["test"]) == 20
    first = data.splits["test"][0]
    assert [first.text[span.start : span.end] for span in first.spans] == ["aspirin", "patients"]


def pairs_of(types: tuple[str, str], relations: Sequence[str | None], split: str) -> list[dict[str, Any]]:
    """Documents of two sentences, the first with one of the given relations, or none."""
    rows = []
    for number, name in enumerate(relations):
        text = f"Aspirin {split} {sentence(number)} with TP53. Aspirin alone."
        entities = found(text, ("Aspirin", types[0]), ("TP53", types[1]), ("Aspirin", types[0]))
        own = [relation(name, "T1", "T0")] if name else []
        rows.append(record(text, entities, own, id=f"{split}{number}"))
    return rows


def test_chemprot_of_the_hub_is_pairs_of_chemicals_and_genes(hub: Any) -> None:
    names = ["Upregulator", "Downregulator", "Agonist", "Antagonist", "Substrate", "Not", None]
    for split in ("sample", "train", "validation", "test"):
        rows = pairs_of(("CHEMICAL", "GENE-N"), names, split)
        hub("bigbio/chemprot", "chemprot_bigbio_kb", split, rows, KNOWLEDGE_BASE)
    data = open_task(TaskSource(task="medical/chemprot"))
    assert data.labels.names == ("Agonist", "Antagonist", "Downregulator", "Substrate", "Upregulator", "false")
    assert not data.labels.multi_label
    assert [len(split) for split in data.splits.values()] == [7, 7, 7]
    first = data.splits["test"][0]
    assert first.text == f"@CHEMICAL$ test {sentence(0)} with @GENE$."
    assert (first.id, first.group, first.labels, first.line) == ("test0:T0+T1", "test0", ("Upregulator",), 1)
    assert "not tested on the hub" in data.facts["weaknesses"]


def test_ddi_of_the_hub_is_pairs_of_drugs_whose_documents_are_not_split(hub: Any) -> None:
    names = ["MECHANISM", "EFFECT", "ADVISE", "INT", None] * 8
    for split in ("train", "test"):
        rows = pairs_of(("DRUG", "DRUG_N"), names, split)
        for row in rows:  # a third drug: three examples per document
            text = row["passages"][0]["text"][0]
            place = text.index("with")
            row["entities"].append(entity("T3", "BRAND", "with", [[place, place + 4]]))
        hub("bigbio/ddi_corpus", "ddi_corpus_bigbio_kb", split, rows, KNOWLEDGE_BASE)
    data = open_task(TaskSource(task="medical/ddi"))
    assert data.labels.names == ("ADVISE", "EFFECT", "INT", "MECHANISM", "false")
    assert len(data.splits["test"]) == len(data.splits["train"]) + len(data.splits["validation"]) == 120
    held = Counter(example.id.partition(":")[0] for example in data.splits["validation"])
    assert held and set(held.values()) == {3}
    assert Counter(label for own in data.splits["test"] for label in own.labels)["false"] == 88


def test_gad_of_the_hub_has_one_label_although_it_is_in_a_list(hub: Any) -> None:
    for split in ("train", "validation", "test"):
        rows = [
            {"id": str(i), "document_id": f"d{i}", "text": f"@GENE$ {split} {sentence(i)}", "labels": [str(i % 2)]}
            for i in range(6)
        ]
        hub("bigbio/gad", "gad_blurb_bigbio_text", split, rows, LABELLED)
    data = open_task(TaskSource(task="medical/gad"))
    assert (data.labels.names, data.labels.multi_label) == (("0", "1"), False)
    assert data.splits["test"][3].labels == ("1",)
    assert [len(split) for split in data.splits.values()] == [6, 6, 6]


def test_a_list_of_two_labels_is_refused_if_one_is_expected(hub: Any) -> None:
    for split in ("train", "test"):
        rows = [{"id": str(i), "text": sentence(i), "labels": ["0", "1"][: 1 + (i == 4)]} for i in range(6)]
        features = datasets.Features({name: LABELLED[name] for name in ("id", "text", "labels")})
        hub("bigbio/gad", "gad_blurb_bigbio_text", split, rows, features)
    with pytest.raises(RecordError, match=r'the field holds a list[^$]*line 5, field "labels"'):
        open_task(TaskSource(task="medical/gad"))


# -------------------------------------------------------------------------------------------------------------- recipe


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("reader = 'relation'", "task 1 has no such reader 'relation': did you mean 'relations'?"),
        ("reader = 'jsonl'", "task 1 has no such reader 'jsonl'"),
        ("reader = 'single-label'", "task 1 has no 'label_field', which the reader 'single-label' needs"),
        ("reader = 'relations'\nrelations = 'A'", "task 1 has no 'marks', which the reader 'relations' needs"),
        ("marks = {A = 'A'}", "task 1: 'marks' is only for the reader 'relations'"),
        ("reader = 'relations'\nrelations = 'A'\nmarks = {}", "'marks' has 0 keys, where 1 or 2 are expected"),
        ("reader = 'relations'\nrelations = 'A'\nmarks = {A = ['A']}", "marks.A = ['A'], where types of entities"),
        ("reader = 'relations'\nrelations = 'A'\nmarks = 'A'", "marks = 'A', where a table is expected"),
    ],
)
def test_wrong_or_missing_keys_of_a_task_on_the_hub_are_refused(tmp_path: Path, keys: str, problem: str) -> None:
    path = tmp_path / "mine.toml"
    source = "[[sources]]\nkind = 'files'\npath = 'x.txt'\n"
    path.write_text(f"{source}[[tasks]]\nname = 't'\ndescription = 'd'\nkind = 'hub'\nid = 'a/b'\n{keys}\n")
    with pytest.raises(CorpusError) as caught:
        load_recipe(path)
    assert problem in str(caught.value)
    assert "a problem:" in str(caught.value)
