"""Model files that are damaged, foreign or do not belong together are refused by name."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import DECODERS, ENCODERS, save_tiny, tiny_model, tiny_tokenizer, tokenizer_kind

from domain_ft.corpus.examples import Labels
from domain_ft.errors import ModelError
from domain_ft.models.base import load
from domain_ft.models.lora import LoraConfig, apply_lora
from domain_ft.models.peft_format import save_adapter
from domain_ft.models.task_model import load_task_model

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from an architecture to its tiny model's folder, which the tests share and must not change."""
    root = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Path:
        path = root / architecture
        return path if path.exists() else save_tiny(architecture, path)

    return folder


@pytest.fixture
def copy(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies a tiny model, to be damaged."""
    return lambda architecture: Path(shutil.copytree(tiny_folder(architecture), tmp_path / architecture))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(path: Path, *parts: str) -> None:
    """Check that loading `path` is refused with a message that holds it and all `parts`, and with what to do."""
    with pytest.raises(ModelError) as caught:
        load(str(path))
    for part in (*parts, str(path)):
        assert part in str(caught.value)
    assert caught.value.fix


# Weights that do not belong to config.json ----------------------------------------------------------------------------

LAYERS = {"distilbert": "n_layers", "gpt2": "n_layer"}


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("architecture", [name for name in ENCODERS + DECODERS if name != "albert"])
def test_layers_that_the_config_leaves_out_are_refused(architecture: str, bare: bool, tmp_path: Path) -> None:
    """In a whole language model and in its body alone. (ALBERT's layers share their weights, so it is not tested.)"""
    model = tiny_model(architecture)
    (model.base_model if bare else model).save_pretrained(tmp_path)
    tiny_tokenizer(tokenizer_kind(architecture)).save_pretrained(tmp_path)
    changes: dict[str, Any] = {LAYERS.get(architecture, "num_hidden_layers"): 1}
    if "layer_types" in json.loads((tmp_path / "config.json").read_text()):
        changes["layer_types"] = model.config.layer_types[:1]
    change_config(tmp_path, **changes)
    refused(tmp_path, "no place", ".1.", "config.json that belongs to the weights")
    with pytest.raises(ModelError, match="no place"):
        load_task_model(str(tmp_path), Labels(("a", "b"), False))


def add_weights(folder: Path, **tensors: torch.Tensor) -> None:
    weights = {**load_file(folder / WEIGHTS), **{key.replace("__", "."): value for key, value in tensors.items()}}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def test_known_extras_of_checkpoints_are_harmless(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    add_weights(
        folder,
        bert__embeddings__position_ids=torch.arange(128)[None],
        bert__pooler__dense__weight=torch.ones(32, 32),
        cls__seq_relationship__weight=torch.ones(2, 32),
    )
    assert load(str(folder)).notes == ()
    gpt2 = copy("gpt2")
    add_weights(
        gpt2, transformer__h__0__attn__bias=torch.ones(1, 1, 8, 8), transformer__h__1__attn__masked_bias=torch.ones(())
    )
    assert load(str(gpt2)).notes == ()


def test_heads_of_other_tasks_are_left_out_and_named(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    add_weights(folder, classifier__weight=torch.ones(3, 32))
    (note,) = load(str(folder)).notes
    assert "classifier.weight" in note


def test_unknown_weights_of_the_body_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    add_weights(folder, bert__encoder__layer__0__adapter__down__weight=torch.ones(2, 32))
    refused(folder, "bert.encoder.layer.0.adapter.down.weight")


def test_an_untied_projection_in_a_tied_config_is_noted(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    add_weights(folder, lm_head__weight=torch.full((384, 32), 0.5))
    base = load(str(folder))
    assert any("lm_head.weight" in note for note in base.notes)
    assert bool((base.model.lm_head.weight == 0.5).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    weights = load_file(folder / WEIGHTS)
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    refused(folder, "not all finite", "model.layers.1.mlp.up_proj.weight (1 of 1,536 numbers)")
    with pytest.raises(ModelError, match="not all finite"):
        load_task_model(str(folder), Labels(("a", "b"), False))


def test_weights_too_large_for_a_dtype_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    weights = load_file(folder / WEIGHTS)
    weights["model.norm.weight"] *= 1e6
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight") as caught:
        load(str(folder), dtype=torch.float16)
    assert "--dtype float32" in str(caught.value)


# Files ----------------------------------------------------------------------------------------------------------------


def shard(folder: Path, index: str) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(index)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("[]", "holds a list where a JSON object is expected"),
        ("{", "not JSON"),
        ("{}", "weight_map"),
        ('{"weight_map": {"a": "b.safetensors"}}', "metadata"),
        ('{"weight_map": []}', "weight_map"),
        ('{"weight_map": {"a": 3}}', "weight_map"),
        ('{"weight_map": {"a": "b.safetensors"}, "metadata": 3}', "metadata"),
        ('{"weight_map": {"a": "model-00002-of-00002.safetensors"}, "metadata": {}}', "1 of the 1 weight files"),
        ('{"weight_map": {"a": "../model.safetensors"}, "metadata": {}}', "in the same folder"),
        ('{"weight_map": {"a": "pytorch_model.bin"}, "metadata": {}}', "not a safetensors file"),
    ],
)
def test_a_malformed_index_of_weights_is_refused(index: str, said: str, copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    shard(folder, index)
    refused(folder, INDEX, said)


def test_shards_without_an_index_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    refused(folder, INDEX, "model-00001-of-00001.safetensors")


@pytest.mark.parametrize("kept", [0, 7, 1000, -100])
def test_truncated_weights_are_refused(kept: int, copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:kept])
    refused(folder, "damaged", WEIGHTS)


@pytest.mark.parametrize("kind", ["folder", "pipe", "closed"])
def test_weights_that_cannot_be_read_are_refused_with_the_reason(
    kind: str, copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy("bert")
    if kind == "closed":  # simulated, since root can read every file

        def closed(path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr("domain_ft.models.sources.require_file", closed)
    else:
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).mkdir() if kind == "folder" else os.mkfifo(folder / WEIGHTS)
    said = {"folder": "it is a folder", "pipe": "it is a pipe", "closed": "Permission denied"}[kind]
    refused(folder, f"{WEIGHTS} cannot be read: {said}")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_whose_file_is_a_folder_is_named(
    name: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load(str(tiny_folder("bert")))
    apply_lora(base.model, LoraConfig(rank=2))
    adapter = tmp_path / "adapter"
    save_adapter(base.model, adapter, base_name=base.source, revision=base.revision)
    (adapter / name).unlink()
    (adapter / name).mkdir()
    with pytest.raises(ModelError) as caught:
        load(str(adapter))
    assert "be written" not in str(caught.value)
    assert name in str(caught.value) or "config.json" in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_setting_that_is_given_twice_is_refused(file: str, copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    text = (folder / file).read_text().strip()
    key = next(iter(json.loads(text)))
    (folder / file).write_text(f'{text[:-1]}, "{key}": null}}')
    refused(folder, file, "gives a key twice", f'field "{key}"', "keep one of them")


def test_a_pointer_of_git_lfs_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    refused(folder, "Git LFS", "git lfs pull")


@pytest.mark.parametrize("content", ["[]", "{", "null", '"text"', "\ufeff{}"])
@pytest.mark.parametrize(
    "file",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"],
)
def test_files_that_are_no_json_objects_are_named(file: str, content: str, copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    (folder / file).write_text(content)
    refused(folder, file, "JSON")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "t5"}, "an encoder and a decoder"),
        ({"model_type": "bart"}, "an encoder and a decoder"),
        ({"model_type": "nonsense"}, "does not know"),
        ({"model_type": "bertt"}, "did you mean 'bert'?"),
        ({"model_type": ["bert"]}, "not a name"),
        ({"model_type": None}, "no model_type"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": -3}, "negative"),
        ({"num_attention_heads": 0}, "config.json"),
        ({"num_attention_heads": 5}, "attention heads"),
        ({"hidden_act": "nothing"}, "nothing"),
        ({"pad_token_id": 99999}, "Padding_idx"),
        ({"dtype": "float31"}, "float31"),
        ({"quantization_config": [1]}, "quantised"),
        ({"is_encoder_decoder": True}, "an encoder and a decoder"),
    ],
)
def test_values_that_a_config_cannot_have_are_refused(
    changes: dict[str, Any], said: str, copy: Callable[[str], Path]
) -> None:
    folder = copy("bert")
    change_config(folder, **changes)
    refused(folder, said)


def test_roberta_without_a_padding_token_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("roberta")
    change_config(folder, pad_token_id=None)
    with pytest.raises(ModelError, match="pad_token_id"):
        load(str(folder))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 2000) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_model_with_a_random_setting_loads_or_is_refused(
    data: st.DataObject, tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(shutil.copytree(tiny_folder("bert"), tmp_path_factory.mktemp("fuzz") / "model"))
    key = data.draw(st.sampled_from(sorted(json.loads((folder / "config.json").read_text()))))
    file = data.draw(st.sampled_from(["config.json", "tokenizer_config.json"]))
    settings_ = json.loads((folder / file).read_text())
    if file != "config.json":
        key = data.draw(st.sampled_from(sorted(settings_)))
    (folder / file).write_text(json.dumps({**settings_, key: data.draw(JSON)}))
    try:
        load(str(folder))
    except ModelError as error:
        assert error.fix


# Tokenizers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["mecab", "sudachi", "jumanpp", None])
def test_japanese_tokenizers_that_split_words_are_refused_by_name(
    words: str | None, copy: Callable[[str], Path]
) -> None:
    folder = copy("bert")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    settings_ = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": words}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings_.items() if v}))
    program = {"sudachi": "Sudachi", "jumanpp": "Juman++"}.get(str(words), "MeCab")
    refused(folder, "BertJapaneseTokenizer", program, "not supported yet", "modernbert-ja")


def test_a_length_that_is_no_number_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": "long"}))
    refused(folder, "model_max_length")
