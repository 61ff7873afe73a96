"""The merged export: transformers loads it with the trained model's logits, and a failed export writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ENCODERS, MAX_LENGTH, SUPPORTED, VOCABULARY, tiny_model, tiny_tokenizer, tokenizer_kind
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from domain_ft.errors import ModelError
from domain_ft.models import attention
from domain_ft.models.export import TARGETS, Exportable, export_model
from domain_ft.models.lora import LoraConfig, apply_lora, lora_of
from domain_ft.models.targets import head_modules


@dataclass
class Base:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int = MAX_LENGTH


def trained(architecture: str, **changes: Any) -> Base:
    """A tiny model with random updates of its adapter and of its head."""
    model = tiny_model(architecture)
    lora = apply_lora(model, LoraConfig(rank=2, train_modules=tuple(head_modules(model)), **changes))
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in lora.trainable_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return Base(model, tiny_tokenizer(tokenizer_kind(architecture)))


def logits(model: nn.Module) -> Tensor:
    ids = torch.randint(5, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        result: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return result


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_transformers_loads_equal_logits(architecture: str, use_dora: bool, tmp_path: Path) -> None:
    base = trained(architecture, use_dora=use_dora)
    state = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    expected = logits(base.model)
    base.model.train()
    export_model(base, tmp_path / "merged")

    assert base.model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in base.model.state_dict().items())
    auto = AutoModelForMaskedLM if architecture in ENCODERS else AutoModelForCausalLM
    reloaded = auto.from_pretrained(tmp_path / "merged")
    tied = base.model.config.tie_word_embeddings
    assert (reloaded.get_output_embeddings().weight is reloaded.get_input_embeddings().weight) == tied
    assert (logits(reloaded) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").get_vocab() == base.tokenizer.get_vocab()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_trained_token_rows_are_exported(architecture: str, tmp_path: Path) -> None:
    base = trained(architecture, trainable_tokens=(3, 7))
    expected = logits(base.model)
    export_model(base, tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(reloaded) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("architecture", ["roberta", "llama"])
def test_our_attention_is_left_out_of_the_config(architecture: str, tmp_path: Path) -> None:
    base = trained(architecture)
    expected = logits(base.model)
    attention.install(base.model)
    export_model(base, tmp_path / "merged")
    assert attention.NAME not in (tmp_path / "merged" / "config.json").read_text()
    auto = AutoModelForMaskedLM if architecture in ENCODERS else AutoModelForCausalLM
    reloaded = auto.from_pretrained(tmp_path / "merged")
    assert (logits(reloaded) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_half_precision_and_models_without_an_adapter(tmp_path: Path) -> None:
    half = trained("bert")
    half.model.to(torch.bfloat16)
    export_model(half, tmp_path / "half")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    plain = Base(tiny_model("gpt2"), tiny_tokenizer("gpt2"))
    export_model(plain, tmp_path / "plain")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")), logits(plain.model))


def test_a_merged_model_stays_merged(tmp_path: Path) -> None:
    base = trained("bert")
    lora_of(base.model).merge()
    export_model(base, tmp_path / "merged")
    assert lora_of(base.model).merged


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(ModelError, match="is not an empty folder"):
        export_model(trained("bert"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_that_are_lost_in_saving_are_refused(tmp_path: Path) -> None:
    base = trained("bert")
    base.model._keys_to_ignore_on_save = {"cls.predictions.transform.dense.weight"}
    with pytest.raises(ModelError, match=r"cls\.predictions\.transform\.dense\.weight"):
        export_model(base, tmp_path / "merged")
    assert not list(tmp_path.iterdir())
    assert not lora_of(base.model).merged


def test_broken_adapters_are_refused(tmp_path: Path) -> None:
    base = trained("gpt2")
    next(iter(lora_of(base.model).layers.values())).lora_B.data.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"NaN or infinity in .*lora_B.*; nothing was written"):
        export_model(base, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_target_is_a_function_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = trained("gpt2")

    def write_names(exported: Exportable, folder: Path) -> None:
        assert not exported.model.training
        (folder / "names.txt").write_text("\n".join(exported.model.state_dict()))

    def fail(exported: Exportable, folder: Path) -> None:
        write_names(exported, folder)
        raise ModelError("no such kernel")

    monkeypatch.setitem(TARGETS, "names", write_names)
    monkeypatch.setitem(TARGETS, "broken", fail)
    export_model(base, tmp_path / "names", "names")
    assert "lora_A" in (tmp_path / "names" / "names.txt").read_text()
    with pytest.raises(ModelError, match="no such kernel"):
        export_model(base, tmp_path / "broken", "broken")
    assert [path.name for path in tmp_path.iterdir()] == ["names"]
