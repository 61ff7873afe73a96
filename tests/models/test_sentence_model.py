"""Sentence models: the facts in sentence-transformers' files, the vectors, and what adaptation and export keep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MAX_LENGTH, save_tiny
from transformers import AutoModel, AutoTokenizer

from domain_ft.embedded import making
from domain_ft.errors import ModelError
from domain_ft.models import catalogue
from domain_ft.models.base import load
from domain_ft.models.export import export_model
from domain_ft.models.lora import LoraConfig, apply_lora, lora_of
from domain_ft.models.peft_format import save_adapter
from domain_ft.models.sentence_facts import MODULES_NAME, SentenceFacts
from domain_ft.models.sentence_model import SentenceModel, load_sentence_model
from domain_ft.models.sources import _files_to_fetch, find

TEXTS = [
    "The licensee shall not sublicense the work.",
    "bones",
    "Nothing in this agreement limits the liability of the licensor " * 30,  # longer than any limit
    "an abnormality of the skeletal system (4.2)!",
]


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def sentence_folder(
    folder: Path,
    architecture: str = "bert",
    *,
    pooling: dict[str, Any] | None = None,
    normalise: bool = True,
    length: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    package: str = "sentence_transformers.models",
    inside: str = "",
) -> Path:
    """A tiny model with the files that sentence-transformers 2 to 5 write; `inside` is the Transformer's folder."""
    save_tiny(architecture, folder / inside)
    names = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    paths = [inside, "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": place, "name": str(place), "path": paths[place], "type": f"{package}.{name}"}
        for place, name in enumerate(names)
    ]
    write_json(folder / MODULES_NAME, modules)
    write_json(
        folder / "1_Pooling" / "config.json",
        pooling or {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
    )
    write_json(folder / inside / "sentence_bert_config.json", length or {"max_seq_length": 24, "do_lower_case": False})
    if model is not None:
        write_json(folder / "config_sentence_transformers.json", model)
    return folder


def as_its_files_say(folder: Path, texts: list[str], prompt: str = "") -> npt.NDArray[np.float32]:
    """The vectors that the files of a sentence model define, computed by transformers alone, one text at a time."""
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules][:2] == ["Transformer", "Pooling"]
    inside = folder / modules[0]["path"]
    length = json.loads((inside / "sentence_bert_config.json").read_text())["max_seq_length"]
    pooling = json.loads((folder / modules[1]["path"] / "config.json").read_text())
    model, tokenizer = AutoModel.from_pretrained(inside).eval(), AutoTokenizer.from_pretrained(inside)
    vectors = []
    for text in texts:
        tokens = tokenizer(prompt + text, truncation=True, max_length=length or MAX_LENGTH, return_tensors="pt")
        with torch.no_grad():
            states = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state[0]
        ways = {
            "pooling_mode_mean_tokens": states.mean(0),
            "pooling_mode_cls_token": states[0],
            "pooling_mode_max_tokens": states.amax(0),
            "pooling_mode_lasttoken": states[-1],
        }
        (vector,) = [way for key, way in ways.items() if pooling.get(key)]
        assert pooling["word_embedding_dimension"] == len(vector)
        vectors.append(vector / vector.norm() if len(modules) == 3 else vector)
    return torch.stack(vectors).numpy()


# ---------------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(
    ("architecture", "mode"),
    [
        ("bert", "mean_tokens"),
        ("roberta", "cls_token"),
        ("modernbert", "max_tokens"),
        ("electra", "mean_tokens"),
        ("distilbert", "cls_token"),
        ("mpnet", "mean_tokens"),
        ("qwen3", "lasttoken"),
        ("opt", "mean_tokens"),
    ],
)
def test_vectors_are_those_of_the_files(architecture: str, mode: str, normalise: bool, tmp_path: Path) -> None:
    dimension = 16 if architecture == "opt" else 32
    pooling = {"word_embedding_dimension": dimension, f"pooling_mode_{mode}": True}
    folder = sentence_folder(tmp_path / "model", architecture, pooling=pooling, normalise=normalise)
    model = load_sentence_model(str(folder))
    found = model.encode(TEXTS, tokens_per_micro_batch=30)
    np.testing.assert_allclose(found.vectors, as_its_files_say(folder, TEXTS), atol=2e-6)
    assert model.dimension == dimension
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert found.cut.tolist() == [len(tokenizer(text)["input_ids"]) > 24 for text in TEXTS]
    prompted = model.encode(TEXTS, prompt="query: ")
    np.testing.assert_allclose(prompted.vectors, as_its_files_say(folder, TEXTS, "query: "), atol=2e-6)
    assert prompted.tokens > found.tokens


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> SentenceModel:
    """A tiny sentence model."""
    return load_sentence_model(str(sentence_folder(tmp_path_factory.mktemp("sentence") / "bert")))


@settings(max_examples=15)
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_a_text_has_the_same_vector_in_any_batch(bert: SentenceModel, texts: list[str]) -> None:
    together = bert.encode(texts, tokens_per_micro_batch=40)
    for text, vector in zip(texts, together.vectors, strict=True):
        np.testing.assert_allclose(bert.encode([text]).vectors[0], vector, atol=2e-6)


def test_texts_are_read_as_they_are(tmp_path: Path) -> None:
    """Special tokens in a text are plain text, and lone surrogates do no harm."""
    model = load_sentence_model(str(sentence_folder(tmp_path / "model")))
    (ids, broken), cut = model.tokenize(["[SEP] bones", "bones \ud800"])
    separator = model.base.tokenizer.sep_token_id
    assert ids.count(separator) == 1
    assert broken == model.tokenize(["bones"])[0][0]  # BERT drops the replacement character
    assert not cut.any()


def test_lower_case_follows_the_models_files(tmp_path: Path) -> None:
    length = {"max_seq_length": None, "do_lower_case": True}
    model = load_sentence_model(str(sentence_folder(tmp_path / "model", "roberta", length=length)))
    assert model.tokenize(["The Lease"])[0] == model.tokenize(["the lease"])[0]
    assert model.max_length == MAX_LENGTH
    plain = load_sentence_model(str(sentence_folder(tmp_path / "plain", "roberta")))
    assert plain.tokenize(["The Lease"])[0] != plain.tokenize(["the lease"])[0]


@pytest.mark.parametrize("normalise", [True, False])
def test_shorter_vectors(normalise: bool, tmp_path: Path) -> None:
    model = load_sentence_model(str(sentence_folder(tmp_path / "model", normalise=normalise)))
    whole = model.encode(TEXTS).vectors
    short = model.shortened(whole, 8)
    first = whole[:, :8]
    expected = first / np.linalg.norm(first, axis=1, keepdims=True) if normalise else first
    np.testing.assert_allclose(short, expected, rtol=1e-6)
    assert model.kept_dimensions(None) == 32
    with pytest.raises(ModelError, match="32 dimensions, fewer than 33"):
        model.kept_dimensions(33)


def test_prompts_by_name_or_text(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    folder = sentence_folder(tmp_path / "model", model={"prompts": prompts, "default_prompt_name": "passage"})
    model = load_sentence_model(str(folder))
    assert model.prompt("query") == "query: "
    assert model.prompt(None) == "passage: "
    assert model.prompt("") == ""
    assert model.prompt("検索文: ") == "検索文: "
    with pytest.raises(ModelError, match=r"(?s)no prompt named 'qurey'.*did you mean 'query'.*such as 'qurey: '"):
        model.prompt("qurey")


def test_a_model_that_is_no_sentence_model_is_pooled_by_the_mean_with_a_note(tmp_path: Path) -> None:
    for architecture in ("bert", "llama"):
        model = load_sentence_model(str(save_tiny(architecture, tmp_path / architecture)))
        assert model.facts == SentenceFacts()
        assert any("not a sentence model" in note for note in model.notes)
        assert model.max_length == MAX_LENGTH


# -------------------------------------------------------------------------------------------------------------- facts


def test_facts_survive_writing(tmp_path: Path) -> None:
    for place, facts in enumerate(
        (
            SentenceFacts(),
            SentenceFacts(
                pooling="last",
                normalise=True,
                max_length=64,
                lower_case=True,
                prompts={"query": "検索: ", "document": ""},
                default_prompt="query",
                similarity="dot",
                dimensions=8,
            ),
        )
    ):
        folder = save_tiny("bert", tmp_path / str(place))
        facts.save(folder, 32)
        assert find(str(folder)).sentence_facts() == facts


def test_the_files_of_version_6_are_read(tmp_path: Path) -> None:
    folder = sentence_folder(
        tmp_path / "model",
        pooling={"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True},
        length={
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
        model={"model_type": "SentenceTransformer", "prompts": {"query": None}, "similarity_fn_name": None},
        package="sentence_transformers.sentence_transformer.modules",
    )
    facts = load_sentence_model(str(folder)).facts
    assert facts == SentenceFacts("cls", True, prompts={"query": ""})


def test_the_model_may_be_in_a_subfolder(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model", inside="0_Transformer", pooling={
        "word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False
    })  # fmt: skip
    for name in (folder, folder / "0_Transformer"):  # the second is what an adapter records as its base
        model = load_sentence_model(str(name))
        assert (model.facts.pooling, model.facts.normalise, model.facts.max_length) == ("cls", True, 24)
        np.testing.assert_allclose(model.encode(TEXTS).vectors, as_its_files_say(folder, TEXTS), atol=2e-6)


def test_files_that_are_fetched_from_the_hub() -> None:
    now = ["README.md", "config.json", "model.safetensors", "modules.json", "onnx/model.onnx", "pytorch_model.bin"]
    now += ["1_Pooling/config.json", "2_Normalize/config.json", "onnx/config.json", "tokenizer.json"]
    unread = {"README.md", "onnx/model.onnx", "onnx/config.json", "pytorch_model.bin"}
    assert set(_files_to_fetch(now)) == {*now} - unread
    old = ["modules.json", "0_Transformer/config.json", "0_Transformer/model.safetensors", "1_Pooling/config.json"]
    old += ["0_Transformer/tokenizer.json"]
    assert set(_files_to_fetch([*old, "0_Transformer/pytorch_model.bin"])) == {*old}


@pytest.mark.parametrize(
    ("pooling", "said"),
    [
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            r"concatenates several poolings \(cls, mean\)",
        ),
        ({"pooling_mode": ["mean", "max"]}, r"concatenates several poolings \(mean, max\)"),
        ({"pooling_mode_weightedmean_tokens": True}, "the pooling is weightedmean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "the pooling is mean_sqrt_len_tokens"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": False}, "leaves out the tokens of the prompt"),
        ({"pooling_mode_mean_tokens": "yes"}, "holds a text where true or false is expected"),
    ],
)
def test_other_poolings_are_refused(pooling: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model", pooling={"word_embedding_dimension": 32, **pooling})
    with pytest.raises(ModelError, match=said) as caught:
        load_sentence_model(str(folder))
    assert str(folder / "1_Pooling" / "config.json") in str(caught.value.where)
    base = load(str(folder))  # training needs no vectors
    assert base.sentence is None
    assert any("sentence vectors cannot be computed" in note for note in base.notes)


@pytest.mark.parametrize(
    ("types", "said"),
    [
        (["models.Transformer", "models.Pooling", "models.Dense", "models.Normalize"], "a module Dense"),
        (["base.modules.router.Router"], "a module Router"),
        (["models.Transformer"], "the modules are Transformer, in this order"),
        (["models.Transformer", "models.Normalize", "models.Pooling"], "in this order"),
    ],
)
def test_other_modules_are_refused_by_name(types: list[str], said: str, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model")
    modules = [{"type": f"sentence_transformers.{kind}", "path": f"{n}_X" if n else ""} for n, kind in enumerate(types)]
    write_json(folder / MODULES_NAME, modules)
    with pytest.raises(ModelError, match=said):
        load_sentence_model(str(folder))


@pytest.mark.parametrize(
    ("file", "value", "said"),
    [
        ("modules.json", {"0": "x"}, "holds an object where a list of modules is expected"),
        ("modules.json", [{"type": "custom.Transformer", "path": ""}], "a custom module, custom.Transformer"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": "../x"}], "outside the model's"),
        ("modules.json", [{"type": 3, "path": ""}], "a whole number where a text is expected"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "the model is a SparseEncoder"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "a whole number where a text is expected"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "'q' is not among the prompts"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim is 0"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length is -1"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "the transformer_task 'fill-mask'"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {}}}, "the tokenizer has options"),
    ],
)
def test_damaged_and_foreign_files_are_named(file: str, value: Any, said: str, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model")
    write_json(folder / file, value)
    with pytest.raises(ModelError, match=said) as caught:
        load_sentence_model(str(folder))
    assert str(folder / file) in str(caught.value.where)


def test_a_missing_pooling_is_named(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model")
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(
        ModelError, match=r"the sentence vectors of '.*' cannot be computed here: 1_Pooling/config\.json"
    ):
        load_sentence_model(str(folder))


def test_minilm_is_known_as_a_sentence_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the facts that its authors published; the embedded copy lacks the files that hold them."""
    monkeypatch.setattr(catalogue, "folder_of", lambda _: save_tiny("bert", tmp_path / "minilm"))
    assert load_sentence_model("minilm").facts == SentenceFacts("mean", True, 256)


# ------------------------------------------------------------------------------------------------ adapting, exporting


def adapted(folder: Path, run: Path) -> Path:
    """Write a run of adapt on the model in `folder`, with random updates; return the run's folder."""
    base = load(str(folder))
    lora = apply_lora(base.model, LoraConfig(rank=2))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora.trainable_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    save_adapter(base.model, run / "adapter", base_name=base.source, revision=base.revision)
    write_json(run / "result.json", {"command": "adapt"})
    return run


@pytest.mark.parametrize("inside", ["", "0_Transformer"])
def test_a_run_is_pooled_like_its_base_and_exported_with_its_files(inside: str, tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    folder = sentence_folder(
        tmp_path / "base",
        inside=inside,
        pooling={"word_embedding_dimension": 32, "pooling_mode_cls_token": True},
        model={"prompts": prompts, "default_prompt_name": "query", "similarity_fn_name": "dot"},
    )
    before = load_sentence_model(str(folder))
    model = load_sentence_model(str(adapted(folder, tmp_path / "run")))
    assert model.facts == before.facts
    assert model.facts.similarity == "dot"
    found = model.encode(TEXTS).vectors
    assert np.abs(found - before.encode(TEXTS).vectors).max() > 1e-2

    export_model(model.base, tmp_path / "merged")
    np.testing.assert_allclose(as_its_files_say(tmp_path / "merged", TEXTS), found, atol=1e-5)
    again = load_sentence_model(str(tmp_path / "merged"))
    assert again.facts == before.facts
    np.testing.assert_allclose(again.encode(TEXTS).vectors, found, atol=1e-5)
    written = {path.relative_to(tmp_path / "merged").as_posix() for path in (tmp_path / "merged").rglob("*")}
    assert written >= {"modules.json", "1_Pooling/config.json", "2_Normalize", "sentence_bert_config.json"}
    described = json.loads((tmp_path / "merged" / "config_sentence_transformers.json").read_text())
    assert described == {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
    }


def test_vectors_are_those_of_the_trained_model_in_memory(tmp_path: Path) -> None:
    """A sentence model may have LoRA layers that are not merged."""
    base = load(str(sentence_folder(tmp_path / "base")))
    model = SentenceModel.of(base)
    untrained = model.encode(TEXTS).vectors
    lora = apply_lora(base.model, LoraConfig(rank=2))
    with torch.no_grad():
        for parameter in lora.trainable_parameters().values():
            parameter.add_(0.05)
    trained = model.encode(TEXTS).vectors
    assert np.abs(trained - untrained).max() > 1e-3
    lora_of(base.model).merge()
    np.testing.assert_allclose(model.encode(TEXTS).vectors, trained, atol=1e-5)


def test_an_exported_model_that_is_no_sentence_model_gets_no_such_files(tmp_path: Path) -> None:
    export_model(load(str(save_tiny("bert", tmp_path / "plain"))), tmp_path / "merged")
    assert not (tmp_path / "merged" / MODULES_NAME).exists()


def test_a_fitted_head_keeps_the_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence models come without a masked-LM head; the base of their runs is a copy with a fitted one."""
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
    folder = sentence_folder(tmp_path / "base")
    headless = tmp_path / "headless"
    shutil.copytree(folder, headless)
    AutoModel.from_pretrained(folder).save_pretrained(headless)
    base = load(str(headless))
    assert base.head_is_random

    def fit(base: Any, _rows: Any, folder: Path, _progress: Any) -> None:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)

    monkeypatch.setattr(making, "_fit_head", fit)
    fitted = making.with_fitted_head(base, [])
    assert fitted.sentence == base.sentence
    assert load(fitted.source).sentence == base.sentence
