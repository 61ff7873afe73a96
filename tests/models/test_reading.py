"""What a model sees: a decoder no later token, an encoder both sides of a masked token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_model_files import change_config
from tiny_models import DECODERS, ENCODERS, OTHER_CONFIGS, SEEING_CONFIGS, save_tiny
from torch import Tensor
from transformers import GPT2LMHeadModel
from transformers.models.gpt2 import modeling_gpt2

from domain_ft.corpus.examples import Labels
from domain_ft.errors import ModelError
from domain_ft.models import attention
from domain_ft.models.base import BaseModel, Tokens, check_visibility, load
from domain_ft.models.task_model import load_task_model

OTHER_ENCODERS = ("camembert", "mpnet", "deberta-v2")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseModel]:
    root = tmp_path_factory.mktemp("models")
    return lambda architecture: load(str(save_tiny(architecture, root / architecture)))


def hidden(base: BaseModel, *sequences: Tensor) -> Tensor:
    """The hidden states (sequences, length, D) of sequences of one length."""
    with torch.no_grad():
        found = base.hidden(Tokens.of([sequence.tolist() for sequence in sequences]))
    return found.unflatten(0, (len(sequences), -1))


@pytest.mark.parametrize("architecture", [*DECODERS, *(name for name in OTHER_CONFIGS if name not in OTHER_ENCODERS)])
def test_decoders_do_not_see_what_follows(architecture: str, loaded: Callable[[str], BaseModel]) -> None:
    base = loaded(architecture)
    sequence = torch.arange(10, 40)
    for place in (1, 15, 29):
        other = torch.cat([sequence[:place], sequence[place:] + 100])
        first, second = hidden(base, sequence, other)
        torch.testing.assert_close(first[:place], second[:place], rtol=0, atol=1e-5)
        assert (first[place:] - second[place:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("architecture", [*ENCODERS, *OTHER_ENCODERS])
def test_encoders_read_both_sides_of_a_masked_token(architecture: str, loaded: Callable[[str], BaseModel]) -> None:
    base = loaded(architecture)
    sequence = torch.arange(10, 22)
    sequence[6] = base.tokenizer.mask_token_id
    for place in (5, 7):
        other = sequence.clone()
        other[place] += 100
        first, second = hidden(base, sequence, other)
        assert (first[6] - second[6]).abs().max() > 1e-5


@pytest.mark.parametrize("architecture", SEEING_CONFIGS)
def test_decoders_that_see_what_they_must_predict_are_refused_by_name(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"(?s)of type '{architecture}'.*see") as caught:
        load(str(save_tiny(architecture, tmp_path)))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("xlnet", torch.float32), ("bert-generation", torch.float32), ("bert-generation", torch.bfloat16)],
)
def test_a_decoder_is_refused_for_what_it_computes(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="depends on later ones"):
        load(str(save_tiny(architecture, tmp_path)), dtype=dtype)


@pytest.mark.parametrize(("architecture", "changes"), [("llama", {"is_causal": False}), ("gpt2", {"is_causal": False})])
def test_a_decoder_configured_to_see_both_sides_is_refused(
    architecture: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    change_config(save_tiny(architecture, tmp_path), **changes)
    with pytest.raises(ModelError, match="is_causal = false"):
        load(str(tmp_path))


def test_a_leak_in_a_tested_type_is_found_too(
    loaded: Callable[[str], BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = loaded("llama")
    real = attention.packed_attention
    check_visibility(base, tested=True)

    def leaking(*args: Any, **arguments: Any) -> Any:
        return real(*args, **{**arguments, "is_causal": False})

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, leaking)
    with pytest.raises(ModelError, match="sees the tokens"):
        check_visibility(base, tested=True)


def test_an_encoder_that_reads_one_side_is_refused(
    loaded: Callable[[str], BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = loaded("bert")
    real = attention.packed_attention

    def one_sided(*args: Any, **arguments: Any) -> Any:
        return real(*args, **{**arguments, "is_causal": True})

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, one_sided)
    with pytest.raises(ModelError, match="does not read the tokens after it"):
        check_visibility(base, tested=True)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral"])
def test_a_model_whose_own_code_fails_is_refused(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(architecture, tmp_path)

    def fail(*_args: Any, **_arguments: Any) -> Any:
        raise IndexError("index 7 is out of range")

    if architecture == "gpt2":
        monkeypatch.setattr(modeling_gpt2.GPT2MLP, "forward", fail)
    else:
        from transformers.models.mistral import modeling_mistral

        monkeypatch.setattr(modeling_mistral.MistralMLP, "forward", fail)
    with pytest.raises(ModelError, match=r"the code of .*\(transformers\.models\..*LM.*index 7 is out of range"):
        load(str(folder))
    if architecture == "mistral":
        with pytest.raises(ModelError, match=r"the code of .*index 7 is out of range"):
            load_task_model(str(folder), Labels(("a", "b"), False))


def test_our_own_bugs_are_not_taken_for_a_bad_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny("gpt2", tmp_path)

    def bug(*_args: Any, **_arguments: Any) -> Any:
        raise KeyError("ours")

    for module in ("base", "task_model"):
        monkeypatch.setattr(f"domain_ft.models.{module}.describe", bug)
    with pytest.raises(KeyError, match="ours"):
        load(str(folder))
    with pytest.raises(KeyError, match="ours"):
        load_task_model(str(folder), Labels(("a", "b"), False))


def test_a_model_that_overflows_with_finite_weights_is_refused(tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path)
    model = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(3e38)
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="computes NaN or infinity"):
        load(str(folder))
