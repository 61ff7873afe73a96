"""What other implementations launch, derived from their published sources and counted as `traffic` counts ours.

Matrices are bfloat16 and the loss is float32, the default of each peer. A row of logits (60 to 100 KB) does not fit in
a program's registers, so a softmax reads it twice; the second read counts as requested, not as compulsory.
"""

from __future__ import annotations

from collections.abc import Iterable

from cases import RANK, TOKENS, Head, Linear
from traffic import Moved, Step, once

BF16, F32, INT64, BOOL = 2, 4, 8, 1


def _next_power_of_2(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def matmul(name: str, m: float, n: float, k: float, times: float = 1, out: int = BF16, left: int = BF16) -> Step:
    """(m, k) times (k, n): each operand is read once."""
    reads = {"left": once(m * k * left), "right": once(k * n * BF16)}
    return Step(name, reads, {"out": once(m * n * out)}, flops=2 * m * n * k, times=times)


def elementwise(name: str, *, read: float = 0, write: float = 0, times: float = 1) -> Step:
    """An operation that reads `read` bytes and writes `write`."""
    return Step(name, {"in": once(read)} if read else {}, {"out": once(write)} if write else {}, times=times)


def _read_twice(count: float) -> Moved:
    return Moved(2 * count, count)


# The head, frozen: loss and the hidden states' gradient


def eager_head(head: Head, tokens: int = TOKENS) -> list[Step]:
    """nn.Linear, then F.cross_entropy of the logits in float32: what transformers does."""
    logits, n, v, d = tokens * head.vocabulary, tokens, head.vocabulary, head.hidden
    return [
        matmul("linear", n, v, d),
        elementwise("float()", read=logits * BF16, write=logits * F32),
        Step("log_softmax", {"logits": _read_twice(logits * F32)}, {"out": once(logits * F32)}),
        elementwise("nll_loss", read=n * (INT64 + F32), write=n * F32),
        elementwise("nll_loss backward", read=n * INT64, write=logits * F32),
        elementwise("log_softmax backward", read=2 * logits * F32, write=logits * F32),
        elementwise("float() backward", read=logits * F32, write=logits * BF16),
        matmul("dX", n, d, v),
    ]


def chunked_head(head: Head, tokens: int = TOKENS) -> list[Step]:
    """F.linear_cross_entropy of torch 2.13 with its options for bfloat16 on CUDA: `compact`, `aspect_ratio:2`.

    It processes the rows in chunks. A chunk's logits are float32; amax, subtraction, exp, sum and scaling are separate
    passes over them.
    """
    v, d = head.vocabulary, head.hidden
    rows = min(_next_power_of_2(_cdiv(tokens, _cdiv(v, d))) // 2, tokens)
    chunks = tokens / rows
    logits = rows * v * F32
    bias = [elementwise("add bias", read=logits + v * F32, write=logits, times=chunks)] if head.bias else []
    return [
        matmul("logits", rows, v, d, times=chunks, out=F32),
        *bias,
        elementwise("amax", read=logits, write=rows * F32, times=chunks),
        elementwise("subtract", read=logits + rows * F32, write=logits, times=chunks),
        elementwise("gather", read=rows * (INT64 + F32), write=rows * F32, times=chunks),
        elementwise("exp", read=logits, write=logits, times=chunks),
        elementwise("sum", read=logits, write=rows * F32, times=chunks),
        elementwise("multiply", read=logits + rows * F32, write=logits, times=chunks),
        elementwise("to bfloat16", read=logits, write=logits / 2, times=chunks),
        elementwise("rows of W", read=rows * (d * BF16 + INT64), write=rows * d * BF16, times=chunks),
        elementwise("weigh rows", read=rows * (d * BF16 + F32), write=rows * d * BF16, times=chunks),
        elementwise("dX so far", read=rows * d * BF16, times=chunks),
        matmul("dX", rows, d, v, times=chunks),
    ]


def liger_head(head: Head, tokens: int = TOKENS) -> list[Step]:
    """Liger-Kernel 0.8's fused linear cross-entropy: chunks of rows, the gradient written over the logits."""
    v, d = head.vocabulary, head.hidden
    rows = min(_next_power_of_2(_cdiv(tokens, _cdiv(v, d))), tokens)
    chunks = tokens / rows
    logits, labelled = rows * v * BF16, rows * head.labelled
    add_bias = elementwise("add bias", read=logits + v * BF16, write=logits, times=chunks)
    bias_gradient = elementwise("db", read=logits, write=v * BF16, times=chunks)  # computed for a frozen bias too
    return [
        elementwise("zeros for dX", write=tokens * d * BF16),
        elementwise("count labels", read=tokens * INT64),
        matmul("logits", rows, v, d, times=chunks),
        *([add_bias] if head.bias else []),
        Step(
            "liger_cross_entropy_kernel",
            {"logits": _read_twice(labelled * v * BF16), "target": once(rows * INT64)},
            {"logits": once(logits), "loss": once(labelled * F32)},
            times=chunks,
        ),
        matmul("dX", rows, d, v, times=chunks),
        *([bias_gradient] if head.bias else []),
    ]


def cce_head(head: Head, tokens: int = TOKENS) -> list[Step]:
    """Apple's cut cross-entropy 25.1: logits are computed in both passes and never stored. It has no bias.

    Its tile sizes are fixed. It skips no tile (`filter_eps=None`), as our kernels by default. Backward adds each tile's
    part of dE to memory under a lock.
    """
    v, d, n = head.vocabulary, head.hidden, head.rows(tokens)
    e, c, product = n * d * BF16, v * d * BF16, 2 * n * v * d

    def tiled(block_b: int, block_v: int) -> dict[str, Moved]:
        return {"E": Moved(e * _cdiv(v, block_v), e), "C": Moved(c * _cdiv(n, block_b), c)}

    forward, backward = tiled(256, 128), tiled(128, 128)
    tiles_v = _cdiv(v, 128)
    states = Moved(n * F32 * tiles_v, n * F32)
    return [
        elementwise("valid rows", read=tokens * INT64, write=n * INT64),
        Step("lse forward", {**forward, "LSE": states}, {"LSE": states}, flops=product),
        elementwise("indexed dot", read=2 * e + n * INT64, write=n * F32),
        elementwise("add lse", read=2 * n * F32, write=n * F32),
        elementwise("zeros for dE", write=tokens * d * BF16),
        Step(
            "backward",
            {
                "E": backward["E"],
                "C": backward["C"] * 2,
                "LSE": states,
                "target": Moved(n * INT64 * tiles_v, n * INT64),
                "dE": Moved(e * tiles_v, e),
            },
            {"dE": Moved(e * tiles_v, e)},
            flops=2 * product,
        ),
    ]


HEADS = {
    "eager": eager_head,
    "torch chunked": chunked_head,
    "Liger": liger_head,
    "CCE": cce_head,
}


# LoRA linears: output, and the gradients of the input, A and B


def base_linears(linears: Iterable[Linear], tokens: int = TOKENS) -> list[Step]:
    """The frozen layers' products, y = x Wᵀ and dx = g W, which also run without LoRA."""
    steps = []
    for linear in linears:
        for n in linear.outputs:
            steps += [
                matmul("y", tokens, n, linear.inputs, times=linear.count),
                matmul("dx", tokens, linear.inputs, n, times=linear.count),
            ]
    return steps


def peft_linears(linears: Iterable[Linear], tokens: int = TOKENS, rank: int = RANK) -> list[Step]:
    """PEFT: `result + lora_B(lora_A(dropout(x))) * scaling` and its backward, all in bfloat16, without the base."""
    steps = []
    for linear in linears:
        k, times = linear.inputs, linear.count
        x = tokens * k * BF16
        for n in linear.outputs:
            y = tokens * n * BF16
            steps += [
                elementwise("dropout", read=x, write=x + tokens * k * BOOL, times=times),
                matmul("A", tokens, rank, k, times=times),
                matmul("B", tokens, n, rank, times=times),
                elementwise("scale", read=y, write=y, times=times),
                elementwise("add", read=2 * y, write=y, times=times),
                elementwise("scale backward", read=y, write=y, times=times),
                matmul("dB", n, rank, tokens, times=times),
                matmul("dt", tokens, rank, n, times=times),
                matmul("dA", rank, k, tokens, times=times),
                matmul("d drop(x)", tokens, k, rank, times=times),
                elementwise("dropout backward", read=x + tokens * k * BOOL, write=x, times=times),
                elementwise("add to dx", read=2 * x, write=x, times=times),
            ]
    return steps


def lorafusion_linears(linears: Iterable[Linear], tokens: int = TOKENS, rank: int = RANK) -> list[Step]:
    """LoRAFusion (Zhu et al. 2025), as published: what it adds to the base's products, which it is fused into."""
    steps = []
    for linear in linears:
        k, times = linear.inputs, linear.count
        x, mask, t = tokens * k * BF16, tokens * k * BOOL, tokens * rank
        for n in linear.outputs:
            y, b = tokens * n * BF16, n * rank
            steps += [
                elementwise("seeded dropout", read=x, write=x + mask, times=times),
                matmul("t", tokens, rank, k, times=times),
                Step("y += t B", {"t": once(t * BF16), "B": once(b * BF16)}, flops=2 * t * n, times=times),
                elementwise("zeros for dt, dB", write=(t + b) * F32, times=times),
                Step(
                    "dt and dB, added atomically",
                    {"g": once(y), "t": once(t * BF16), "B": once(b * BF16)},
                    {"dt": once(t * F32), "dB": once(b * F32)},
                    flops=4 * t * n,
                    times=times,
                ),
                elementwise("dt, dB to bfloat16", read=(t + b) * F32, write=(t + b) * BF16, times=times),
                matmul("dA", rank, k, tokens, times=times),
                Step(
                    "dx += (dt A) * mask",
                    {"dt": once(t * BF16), "A": once(rank * k * BF16), "mask": once(mask)},
                    flops=2 * t * k,
                    times=times,
                ),
            ]
    return steps


LINEARS = {"PEFT": peft_linears, "LoRAFusion": lorafusion_linears}


def peft_saved(linears: Iterable[Linear], tokens: int = TOKENS, rank: int = RANK) -> float:
    """Bytes that PEFT saves for backward besides x: drop(x), its mask, and t."""
    return sum(
        linear.count * len(linear.outputs) * tokens * (linear.inputs * (BF16 + BOOL) + rank * BF16)
        for linear in linears
    )
