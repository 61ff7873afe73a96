"""Packed attention: a sequence in a packed row has the logits and gradients that it has alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MAX_LENGTH, SUPPORTED, VOCABULARY, tiny_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionMaskInterface, PreTrainedModel

from domain_ft.models import attention
from domain_ft.models.architectures import ARCHITECTURES
from domain_ft.models.attention import EqualLengths, PackedLayout, packed_arguments, packed_attention

LENGTHS = (5, 5, 40, 17, 1, 17)  # 40 is longer than the window of the tiny ModernBERT


def sequences_of(lengths: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(6, VOCABULARY, (length,), generator=generator) for length in lengths]


def packed_inputs(model: PreTrainedModel, sequences: list[Tensor]) -> dict[str, Tensor]:
    offset = ARCHITECTURES[model.config.model_type].position_offset(model.config)
    positions = torch.cat([torch.arange(len(sequence)) for sequence in sequences]) + offset
    return {"input_ids": torch.cat(sequences)[None], "position_ids": positions[None]}


def packed_logits(model: PreTrainedModel, sequences: list[Tensor]) -> Tensor:
    lengths = [len(sequence) for sequence in sequences]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    arguments = packed_arguments(cu_seqlens, max(lengths))
    return model(**packed_inputs(model, sequences), **arguments, use_cache=False).logits[0]


def separate_logits(model: PreTrainedModel, sequences: list[Tensor]) -> Tensor:
    return torch.cat([model(input_ids=sequence[None]).logits[0] for sequence in sequences])


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_packed_logits_are_those_of_separate_documents(architecture: str) -> None:
    model, sequences = tiny_model(architecture), sequences_of(LENGTHS)
    with torch.no_grad():
        expected = separate_logits(model, sequences)
        attention.install(model)
        packed = packed_logits(model, sequences)
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_the_comparison_would_see_a_leak(architecture: str) -> None:
    model, sequences = tiny_model(architecture), sequences_of(LENGTHS)
    with torch.no_grad():
        expected = separate_logits(model, sequences)
        attention.install(model)
        whole = [torch.cat(sequences)]
        leaking = packed_logits(model, whole)
    assert (leaking - expected).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_packed_gradients_are_those_of_separate_documents(architecture: str) -> None:
    model, sequences = tiny_model(architecture).double(), sequences_of(LENGTHS)
    goal = torch.randn(sum(LENGTHS), VOCABULARY, generator=torch.Generator().manual_seed(1)).double()
    gradients = []
    for packed in (False, True):
        model.zero_grad()
        if packed:
            attention.install(model)
        logits = packed_logits(model, sequences) if packed else separate_logits(model, sequences)
        (logits * goal).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_an_installed_model_still_accepts_ordinary_padded_batches(architecture: str) -> None:
    model, sequences = tiny_model(architecture), sequences_of((12, 30))
    input_ids = torch.full((2, 30), model.config.pad_token_id or 0)
    mask = torch.zeros(2, 30, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    with torch.no_grad():
        before = model(input_ids=input_ids, attention_mask=mask).logits
        attention.install(model)
        after = model(input_ids=input_ids, attention_mask=mask).logits
    torch.testing.assert_close(after[mask.bool()], before[mask.bool()], rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_installed_decoder_generates_as_before(architecture: str) -> None:
    model, (prompt,) = tiny_model(architecture), sequences_of((9,))
    arguments = {"attention_mask": torch.ones(1, 9), "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    before = model.generate(prompt[None], **arguments)
    attention.install(model)
    assert torch.equal(model.generate(prompt[None], **arguments), before)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_a_packed_micro_batch_makes_no_mask_and_reads_no_value(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a value in Python waits for the GPU. Only `PackedLayout.groups` reads one."""
    model = tiny_model(architecture)
    attention.install(model)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, attention.NAME, lambda *_, **__: pytest.fail("a mask"))
    monkeypatch.setattr(
        PackedLayout, "groups", (EqualLengths(len(LENGTHS), 1), EqualLengths(1, sum(LENGTHS) - len(LENGTHS)))
    )
    with NoValuesRead(), torch.no_grad():
        packed_logits(model, sequences_of(LENGTHS))


class NoValuesRead(TorchDispatchMode):
    """Fails when a tensor's value becomes a Python number or decides the shape of another tensor."""

    READING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in self.READING:
            pytest.fail(f"{func} was called")
        return func(*args, **(kwargs or {}))


def test_without_a_layout_the_lengths_are_enough() -> None:
    """A model with our attention installed accepts the arguments of transformers' own kernels."""
    model, sequences = tiny_model("bert"), sequences_of(LENGTHS)
    expected = separate_logits(model, sequences)
    attention.install(model)
    cu_seqlens = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    got = model(**packed_inputs(model, sequences), cu_seq_lens_q=cu_seqlens, cu_seq_lens_k=cu_seqlens).logits[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_gradient_checkpointing_recomputes_the_same() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model("llama").train()
        attention.install(model)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        packed_logits(model, sequences_of(LENGTHS)).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


class Attending(nn.Module):
    """A stand-in for a transformers attention module."""

    def __init__(self, causal: bool, groups: int) -> None:
        super().__init__()
        self.is_causal, self.num_key_value_groups = causal, groups


def naive_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], causal: bool, reach: int | None) -> Tensor:
    """The definition, sequence by sequence: (heads, tokens, d) -> (tokens, heads, d)."""
    outputs, groups = [], q.shape[0] // k.shape[0]
    for q_, k_, v_ in zip(*(tensor.split(lengths, dim=1) for tensor in (q, k, v)), strict=True):
        distance = torch.arange(q_.shape[1])[:, None] - torch.arange(q_.shape[1])[None, :]
        seen = torch.ones_like(distance, dtype=torch.bool)
        if causal:
            seen &= distance >= 0
        if reach is not None:
            seen &= distance.abs() <= reach
        scores = q_ @ k_.repeat_interleave(groups, 0).transpose(1, 2) / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        outputs.append((weights @ v_.repeat_interleave(groups, 0)).transpose(0, 1))
    return torch.cat(outputs)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=8),
    causal=st.booleans(),
    groups=st.sampled_from([1, 2]),
    window=st.one_of(st.none(), st.integers(1, 30)),
)
def test_packed_attention_equals_the_definition(
    lengths: list[int], causal: bool, groups: int, window: int | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(heads, sum(lengths), 8, dtype=torch.float64, generator=generator).requires_grad_()
        for heads in (4, 4 // groups, 4 // groups)
    )
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    got, _ = packed_attention(
        Attending(causal, groups),
        *(tensor[None] for tensor in (q, k, v)),
        None,
        sliding_window=window,
        cu_seq_lens_q=cu_seqlens,
    )
    expected = naive_attention(q, k, v, lengths, causal, None if window is None else window - 1)
    torch.testing.assert_close(got[0], expected)
    goal = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad((got[0] * goal).sum(), (q, k, v)),
        torch.autograd.grad((expected * goal).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_layout_joins_neighbours_of_one_length_and_skips_empty_sequences() -> None:
    layout = PackedLayout(torch.tensor([0, 3, 6, 6, 9, 13, 16], dtype=torch.int32))
    assert layout.groups == (EqualLengths(3, 3), EqualLengths(1, 4), EqualLengths(1, 3))
    assert sum(group.tokens for group in layout.groups) == 16


def test_dropout_drops_weights_and_keeps_their_mean() -> None:
    lengths = torch.tensor([0, 32, 64], dtype=torch.int32)
    q = k = torch.zeros(1, 1, 64, 4)
    v = torch.ones(1, 1, 64, 4)
    torch.manual_seed(0)
    outputs = [
        packed_attention(Attending(False, 1), q, k, v, None, dropout=0.5, cu_seq_lens_q=lengths)[0] for _ in range(64)
    ]
    mixed = torch.stack(outputs)
    assert mixed.std() > 0.05
    assert abs(mixed.mean() - 1) < 0.02


def test_a_softcap_of_the_scores_is_refused() -> None:
    q = torch.zeros(1, 1, 4, 4)
    with pytest.raises(NotImplementedError, match="softcap"):
        packed_attention(Attending(True, 1), q, q, q, None, softcap=50.0, cu_seq_lens_q=torch.tensor([0, 4]))


def test_the_longest_sequence_of_each_tiny_model_runs() -> None:
    for architecture in SUPPORTED:
        model = tiny_model(architecture)
        attention.install(model)
        with torch.no_grad():
            assert packed_logits(model, sequences_of((MAX_LENGTH,))).isfinite().all()
