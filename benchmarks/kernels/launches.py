"""What our ops launch on a chip that need not be present: the Triton backend's functions on tensors without memory.

Each function `call_...` is one call of an op, forward and backward (`call_losses`: forward only), as autograd runs it.
"""

from __future__ import annotations

import torch
from cases import DROPOUT, RANK, TOKENS, Linear, Model
from torch import Tensor

from domain_ft_kernels.triton_backend import cross_entropy, launch, linear_cross_entropy, lora_linear
from domain_ft_kernels.triton_backend.launch import Launch

OPS = ("lora_linear", "linear_cross_entropy", "cross_entropy")
IGNORED = -100
NO_TERMS = (0.0, 0.0, None)
ALL_TERMS = (0.1, 1e-4, 30.0)
"""Label smoothing, z-loss, softcap."""


def _tensor(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def call_lora_linear(
    linear: Linear,
    tokens: int,
    dtype: torch.dtype,
    *,
    rank: int = RANK,
    dropout: float = DROPOUT,
    trained: bool = False,
    lora_dtype: torch.dtype = torch.float32,
) -> None:
    """The layers of `linear` as one group; gradients of x, A and B, and of W and b if the base is `trained`."""
    k, parts = linear.inputs, len(linear.outputs)
    x = _tensor(tokens, k, dtype=dtype)
    weights = [
        _tensor(k, n, dtype=dtype).t() if linear.transposed else _tensor(n, k, dtype=dtype) for n in linear.outputs
    ]
    biases = [_tensor(n, dtype=dtype) for n in linear.outputs] if linear.bias else []
    lora_as = [_tensor(rank, k, dtype=lora_dtype)] * parts
    lora_bs = [_tensor(n, rank, dtype=lora_dtype) for n in linear.outputs]
    seed = torch.tensor(1) if dropout else None
    layers = (weights, biases, lora_as, lora_bs, [1.0] * parts, dropout, seed)
    *ys, down = lora_linear.forward(x, *layers)
    needs = [True, *([trained] * (parts + len(biases))), *([True] * (2 * parts))]
    lora_linear.backward(ys, x, down, *layers, needs)


def call_linear_cross_entropy(
    vocabulary: int,
    hidden: int,
    tokens: int,
    dtype: torch.dtype,
    *,
    bias: bool,
    trained: bool = False,
    terms: tuple[float, float, float | None] = NO_TERMS,
    filter_eps: float | None = None,
    weighted: bool = False,
) -> None:
    """The mean loss; gradient of the hidden states, and of W and b if the head is `trained`.

    `weighted`: with class weights.
    """
    operands = (_tensor(tokens, hidden, dtype=dtype), _tensor(vocabulary, hidden, dtype=dtype))
    target = _tensor(tokens, dtype=torch.int64)
    biases = _tensor(vocabulary, dtype=dtype) if bias else None
    needs = [True, trained, trained and bias]
    options = (_class_weight(vocabulary, weighted), IGNORED, *terms, dtype, filter_eps)
    _, *gradients = linear_cross_entropy.forward_with_gradients(*operands, target, biases, *options, True, needs)
    linear_cross_entropy.finish(_tensor(dtype=torch.float32), *gradients, dtype, dtype, dtype, needs)


def call_losses(vocabulary: int, hidden: int, tokens: int, dtype: torch.dtype, *, bias: bool) -> None:
    """Only the head's losses, as in evaluation."""
    operands = (_tensor(tokens, hidden, dtype=dtype), _tensor(vocabulary, hidden, dtype=dtype))
    biases = _tensor(vocabulary, dtype=dtype) if bias else None
    options = (None, IGNORED, *NO_TERMS, dtype, None, False, False)
    linear_cross_entropy.forward(*operands, _tensor(tokens, dtype=torch.int64), biases, *options)


def call_unsummed(
    vocabulary: int,
    hidden: int,
    tokens: int,
    dtype: torch.dtype,
    *,
    bias: bool,
    terms: tuple[float, float, float | None] = NO_TERMS,
    weighted: bool = False,
    with_lse: bool = False,
) -> None:
    """A loss per token and all gradients, from a stash that forward keeps.

    `weighted`: with class weights; `with_lse`: with log-sum-exps and their gradient.
    """
    operands = (_tensor(tokens, hidden, dtype=dtype), _tensor(vocabulary, hidden, dtype=dtype))
    target, biases = _tensor(tokens, dtype=torch.int64), _tensor(vocabulary, dtype=dtype) if bias else None
    options = (_class_weight(vocabulary, weighted), IGNORED, *terms, dtype, None, with_lse, True)
    losses, lse, *saved = linear_cross_entropy.forward(*operands, target, biases, *options)
    linear_cross_entropy.backward(
        losses, lse if with_lse else None, *saved, *operands, target, biases, *options, [True, True, bias]
    )


def call_cross_entropy(
    classes: int,
    tokens: int,
    dtype: torch.dtype,
    *,
    terms: tuple[float, float, float | None] = NO_TERMS,
    weighted: bool = False,
    with_lse: bool = False,
) -> None:
    """Losses of logits, and their gradient; `weighted` and `with_lse` as in `call_unsummed`."""
    logits, target = _tensor(tokens, classes, dtype=dtype), _tensor(tokens, dtype=torch.int64)
    weights = _class_weight(classes, weighted)
    losses, row_maxes, sum_exps = cross_entropy.forward(logits, target, weights, IGNORED, *terms)
    lse_grad, gradient = _tensor(tokens, dtype=torch.float32) if with_lse else None, torch.empty_like(logits)
    saved = logits, target, weights, row_maxes, sum_exps
    cross_entropy.fill_gradient(gradient, losses, lse_grad, *saved, IGNORED, *terms)


def _class_weight(classes: int, weighted: bool) -> Tensor | None:
    return _tensor(classes, dtype=torch.float32) if weighted else None


def variants(op: str, model: Model, dtype: torch.dtype, target: str, *, options: bool) -> list[Launch]:
    """The launches of `op` in a training step at the sizes of `model`; with `options`, also those of other options."""
    head = model.head
    shape = (head.vocabulary, head.hidden)
    with launch.recording(target) as recorded:
        if op == "lora_linear":
            for linear in model.linears:
                call_lora_linear(linear, TOKENS, dtype)
                if options:
                    call_lora_linear(linear, TOKENS, dtype, dropout=0.0, trained=True)
                    call_lora_linear(linear, TOKENS, dtype, rank=128)
        elif op == "linear_cross_entropy":
            call_linear_cross_entropy(*shape, TOKENS, dtype, bias=head.bias)
            if options:
                every = {"trained": True, "terms": ALL_TERMS, "filter_eps": 1e-6}
                call_linear_cross_entropy(*shape, TOKENS, dtype, bias=head.bias, **every)
                call_losses(*shape, TOKENS, dtype, bias=head.bias)
                call_unsummed(*shape, 1024, dtype, bias=head.bias)
                for terms in (NO_TERMS, ALL_TERMS):
                    call_unsummed(*shape, 1024, dtype, bias=head.bias, terms=terms, weighted=True, with_lse=True)
        else:
            call_cross_entropy(head.vocabulary, TOKENS, dtype)
            if options:
                call_cross_entropy(head.vocabulary, TOKENS, dtype, terms=ALL_TERMS)
                for terms in (NO_TERMS, ALL_TERMS):
                    call_cross_entropy(head.vocabulary, TOKENS, dtype, terms=terms, weighted=True, with_lse=True)
    return recorded
