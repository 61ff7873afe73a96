"""Entity scores compared with seqeval, their intervals and differences, the gazetteer, and entities of a model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from tiny_models import save_tiny

from domain_ft.corpus.examples import Example, Labels
from domain_ft.corpus.tagging.entities import Span, TaggedText, chunks, lenient_chunks
from domain_ft.corpus.tagging.rows import encode_tags
from domain_ft.corpus.words import find_words, join_words
from domain_ft.errors import CheckpointError
from domain_ft.evaluation.entities import EntityCounts, Gazetteer, entity_difference, entity_metrics
from domain_ft.evaluation.tagging import predict_tags, tag_texts
from domain_ft.models.task_model import TaskModel, load_task_model

TAGS = ("O", "B-A", "I-A", "B-B", "I-B")

sentence_tags = st.lists(st.sampled_from(TAGS), min_size=1, max_size=6)
pairs = st.lists(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(*[st.lists(st.sampled_from(TAGS), min_size=n, max_size=n) for _ in range(2)])
    ),
    min_size=1,
    max_size=5,
)


def counted(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], group: str = "") -> EntityCounts:
    """The counts for tagged sentences, with spans of words instead of characters."""
    texts = [TaggedText(f"t{number}", "", None, tuple(lenient_chunks(tags)), group) for number, tags in enumerate(true)]
    return EntityCounts.of(texts, [list(lenient_chunks(tags)) for tags in predicted])


@given(pairs)
def test_scores_are_seqevals(sentences: list[tuple[list[str], list[str]]]) -> None:
    """Also for sequences of tags that no scheme allows, which a model may predict."""
    true, predicted = ([list(pair[side]) for pair in sentences] for side in (0, 1))
    counts = counted(true, predicted)
    if not counts.types:
        return
    found = entity_metrics([counts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about types without entities
        theirs = classification_report(true, predicted, output_dict=True, zero_division=0)
    assert found["precision"] == pytest.approx(theirs["micro avg"]["precision"])
    assert found["recall"] == pytest.approx(theirs["micro avg"]["recall"])
    assert found["f1"] == pytest.approx(theirs["micro avg"]["f1-score"])
    assert found["macro_f1"] == pytest.approx(theirs["macro avg"]["f1-score"])
    assert set(found["per_type"]) == set(theirs) - {"micro avg", "macro avg", "weighted avg"}
    for name, own in found["per_type"].items():
        assert own["precision"] == pytest.approx(theirs[name]["precision"])
        assert own["recall"] == pytest.approx(theirs[name]["recall"])
        assert own["f1"] == pytest.approx(theirs[name]["f1-score"])
        assert own["support"] == theirs[name]["support"]


def sample(rng: np.random.Generator, share_right: float, texts: int = 60) -> list[list[str]]:
    return [["B-A" if rng.random() < share_right else "O", "O"] for _ in range(texts)]


def test_an_interval_contains_the_score_and_is_wider_over_documents() -> None:
    rng = np.random.default_rng(0)
    true = [["B-A", "O"]] * 60
    predicted = [
        ["B-A" if number // 10 % 3 != 1 else "O", "O"] for number in range(60)
    ]  # two documents of six are missed
    alone = entity_metrics([counted(true, predicted)])
    texts = [TaggedText(f"t{n}", "", None, (Span(0, 1, "A"),), group=f"d{n // 10}") for n in range(60)]
    grouped = entity_metrics([EntityCounts.of(texts, [list(lenient_chunks(tags)) for tags in predicted])])
    low, high = alone["interval"]["recall"]
    assert low < alone["recall"] == 40 / 60 < high
    wide_low, wide_high = grouped["interval"]["recall"]
    assert wide_high - wide_low > 2 * (high - low)
    better = entity_difference([counted(true, sample(rng, 0.4))], [counted(true, sample(rng, 0.9))])["f1"]
    assert better["verdict"] == "better"
    assert better["p_value"] < 0.01
    same = entity_difference([counted(true, predicted)], [counted(true, predicted)])["f1"]
    assert same["difference"] == 0
    assert same["verdict"] == "not shown"


def test_seeds_are_averaged_and_a_type_that_one_of_them_predicts_counts_for_all() -> None:
    true = [["B-A"], ["B-A"]]
    found = entity_metrics([counted(true, [["B-A"], ["O"]]), counted(true, [["B-A"], ["B-B"]])])
    assert found["recall"] == 0.5
    assert found["per_type"]["B"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0, "interval": None}
    assert found["per_type"]["A"]["support"] == 2
    assert found["seeds"]["precision"]["values"] == [1.0, 0.5]


def test_runs_on_texts_with_other_entities_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same texts"):
        entity_difference([counted([["B-A"]], [["B-A"]])], [counted([["B-B"]], [["B-A"]])])


def test_saved_counts_are_loaded_unchanged(tmp_path: Path) -> None:
    counts = counted([["B-A", "I-A"], ["O", "B-B"]], [["B-A", "O"], ["B-A", "B-B"]], group="病院")
    counts.save(tmp_path / "predictions" / "test-seed-0.npz")
    loaded = EntityCounts.load(tmp_path / "predictions" / "test-seed-0.npz")
    assert (loaded.types, loaded.ids, loaded.groups, loaded.key) == (
        counts.types,
        counts.ids,
        counts.groups,
        counts.key,
    )
    assert np.array_equal(loaded.counts, counts.counts)
    (tmp_path / "bad.npz").write_bytes(b"PK")
    for name, words in (("bad.npz", "damaged"), ("no.npz", "missing")):
        with pytest.raises(CheckpointError, match=words):
            EntityCounts.load(tmp_path / name)


def tagged(sentence: str) -> TaggedText:
    """A sentence such as "the breast/B-D cancer/I-D"."""
    words, tags = zip(
        *((word.partition("/")[0], word.partition("/")[2] or "O") for word in sentence.split()), strict=True
    )
    text, bounds = join_words(words)
    spans = tuple(Span(bounds[s.start][0], bounds[s.end - 1][1], s.label) for s in chunks(tags))
    return TaggedText("t", text, bounds, spans)


def test_the_gazetteer_finds_the_longest_entities_of_training() -> None:
    train = ["the breast/B-D cancer/I-D", "cancer/B-D", "BRCA1/B-G", "BRCA1/B-D", "BRCA1/B-G", "flu/B-D"]
    gazetteer = Gazetteer(tagged(sentence) for sentence in train)
    assert len(gazetteer) == 4
    text = tagged("breast cancer of BRCA1 and lung cancer , Flu , flu")
    found = [(text.text[span.start : span.end], span.label) for span in gazetteer.spans(text)]
    assert found == [("breast cancer", "D"), ("BRCA1", "G"), ("cancer", "D"), ("flu", "D")]
    assert list(gazetteer.spans(tagged("breast"))) == []


def test_the_gazetteer_reads_texts_without_words() -> None:
    train = TaggedText("t", "乳がんの検査。", None, (Span(0, 3, "D"),))
    assert list(Gazetteer([train]).spans(TaggedText("u", "乳がん、肺がん", None, ()))) == [Span(0, 3, "D")]


# ------------------------------------------------------------------------------------------------ entities of a model


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TaskModel:
    folder = save_tiny(request.param, tmp_path_factory.mktemp("models") / request.param)
    return load_task_model(str(folder), Labels(TAGS), kind="token")


TEXTS = [
    "The licensee shall not sublicense the work, nor remove any notice of copyright from it.",
    "骨の異常 🤒 with short stature",
    " ",
    "Nothing in this agreement limits the liability of the licensor to the licensee. " * 12,
    "bones",
]


def test_entities_are_in_order_and_do_not_depend_on_micro_batches(model: TaskModel) -> None:
    examples = [Example(f"r{number}", text, ()) for number, text in enumerate(TEXTS)]
    found = list(tag_texts(model, examples, max_length=64))
    assert [line["id"] for line in found] == ["r0", "r1", "r2", "r3", "r4"]
    assert sum(len(line["entities"]) for line in found) > 10  # a random head predicts entities everywhere
    for text, line in zip(TEXTS, found, strict=True):
        places = [(entity["start"], entity["end"]) for entity in line["entities"]]
        assert places == sorted(places)
        for entity in line["entities"]:
            assert entity["text"] == text[entity["start"] : entity["end"]]
            assert entity["text"].strip() == entity["text"] != ""
            assert entity["label"] in ("A", "B")
            assert 1 / len(TAGS) <= entity["score"] <= 1
    assert found[2]["entities"] == []
    assert found[3]["entities"][-1]["end"] > 500  # the whole long text is read
    small = list(tag_texts(model, examples, max_length=64, tokens_per_micro_batch=8))
    assert [[(e["start"], e["end"], e["label"]) for e in line["entities"]] for line in small] == [
        [(e["start"], e["end"], e["label"]) for e in line["entities"]] for line in found
    ]
    json.dumps(found, allow_nan=False)


def test_texts_are_read_only_as_needed(model: TaskModel) -> None:
    read = 0

    def endless() -> object:
        nonlocal read
        while True:
            read += 1
            yield SimpleNamespace(id=str(read), text="the work")

    stream = tag_texts(model, endless())
    assert [next(stream)["id"] for _ in range(3)] == ["1", "2", "3"]
    assert read < 2_000


def test_the_classes_are_those_of_transformers_own_forward(model: TaskModel) -> None:
    text = TaggedText("a", TEXTS[0], None, (Span(4, 12, "A"),))
    rows = encode_tags([text, text], TAGS, model.tokenizer, max_length=64)
    classes, chances, loss = predict_tags(model, rows, tokens_per_micro_batch=4096)
    batch = rows.pack([0])
    with torch.no_grad():
        from transformers import AutoModelForTokenClassification

        plain = AutoModelForTokenClassification.from_pretrained(model.name, num_labels=len(TAGS)).eval()
        plain.load_state_dict(model.model.state_dict())
        output = plain(input_ids=torch.from_numpy(batch.input_ids)[None], labels=torch.from_numpy(batch.targets)[None])
    theirs = output.logits[0].softmax(-1).max(-1)
    assert classes[: batch.tokens].tolist() == theirs.indices.tolist()
    assert chances[: batch.tokens] == pytest.approx(theirs.values.numpy(), abs=1e-5)
    assert loss == pytest.approx(float(output.loss), rel=1e-5)
    assert rows.spans(predict_tags(model, rows, tokens_per_micro_batch=16)[0]) == rows.spans(classes)
    units = [text.text[slice(*bounds)] for bounds in find_words(text.text)]
    assert len(rows.token_targets) == 2 * len(units)
