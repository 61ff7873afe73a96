"""Peak memory of a training step by its number of tokens: LoRA linears and a language-model head, ours and PEFT's.

    domain-ft bench memory [-- --tokens 2048,4096,8192 --layers 2 --model BERT-base|MiniLM --json]

The step is `layers` feed-forward blocks of the model's sizes (hidden, four times hidden, GELU, and back) and its head,
with 15 % of the tokens labelled, forward and backward. Ours uses `lora_linear` and `linear_cross_entropy`. The peer
computes the layers as PEFT does, and full logits and the loss in float32 as transformers does. On a GPU the peak comes
from the allocator's statistics; on a CPU from the profiler's record of every allocation and release.

Three peaks are measured: the whole step, beyond weights and inputs; the forward pass of the linears, with what it
saves for backward; and the head with its gradient. The memory of our head must not grow with vocabulary x tokens,
except for its bounded workspace. `loss_slope` shows this: the bytes that the head takes for one more token, between the
last two numbers of tokens.

If triton is installed, a fourth peak is that of the Triton head, from the sizes of all tensors that it allocates. This
needs neither a GPU nor memory, so it works at any size.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # before torch: silences the profiler's start and stop messages

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from domain_ft.training.memory import LiveBytes
from domain_ft_kernels import linear_cross_entropy, lora_linear

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" if (HERE.parent / "pyproject.toml").is_file() else Path("benchmark-results")
MODELS = {"BERT-base": (768, 30_522), "MiniLM": (384, 30_522)}
"""Hidden size and vocabulary."""

RANK = 16
DROPOUT = 0.1
LABELLED = 0.15
IGNORED = -100
TRITON_TOKENS = [4_096, 16_384, 65_536, 262_144]


@dataclass(frozen=True)
class Peak:
    """Peak bytes.

    Attributes:
        step: of the whole step.
        linears: of the linear layers' forward pass, with what it saves for backward.
        loss: of the head, its loss and its gradient, beyond its input.
    """

    step: int
    linears: int
    loss: int


class Layer(nn.Module):
    """A linear layer, frozen, and its LoRA matrices."""

    def __init__(self, inputs: int, outputs: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        make: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.randn(outputs, inputs, **make) * inputs**-0.5, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs, **make), requires_grad=False)
        self.lora_a = nn.Parameter(torch.randn(RANK, inputs, **make) * inputs**-0.5)
        self.lora_b = nn.Parameter(torch.zeros(outputs, RANK, **make))

    def ours(self, x: Tensor) -> Tensor:
        """With our op."""
        return lora_linear(x, self.weight, self.bias, self.lora_a, self.lora_b, 1.0, dropout_p=DROPOUT)

    def peers(self, x: Tensor) -> Tensor:
        """As PEFT computes it."""
        update = F.linear(F.linear(F.dropout(x, DROPOUT), self.lora_a), self.lora_b) * 1.0
        return F.linear(x, self.weight, self.bias) + update


class Step:
    """Layers, head, inputs and targets of a training step."""

    def __init__(self, model: str, layers: int, tokens: int, device: torch.device) -> None:
        torch.manual_seed(0)
        hidden, vocabulary = MODELS[model]
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.device = device
        self.layers = [
            Layer(k, n, device, dtype) for _ in range(layers) for k, n in ((hidden, 4 * hidden), (4 * hidden, hidden))
        ]
        self.head = torch.randn(vocabulary, hidden, device=device, dtype=dtype) * hidden**-0.5
        self.x = torch.randn(tokens, hidden, device=device, dtype=dtype, requires_grad=True)
        self.target = torch.randint(vocabulary, (tokens,), device=device)
        self.target[round(tokens * LABELLED) :] = IGNORED

    def linears(self, side: str) -> Tensor:
        """The hidden states for the head."""
        x: Tensor = self.x
        for number, layer in enumerate(self.layers):
            y: Tensor = getattr(layer, side)(x)
            x = F.gelu(y) if number % 2 == 0 else y
        return x

    def loss(self, side: str, hidden: Tensor) -> Tensor:
        """The mean loss of the labelled tokens."""
        if side == "ours":
            return linear_cross_entropy(hidden, self.head, self.target, reduction="mean")
        return F.cross_entropy(F.linear(hidden, self.head).float(), self.target, ignore_index=IGNORED)

    def peak(self, side: str) -> Peak:
        """The peaks of `side`."""
        hidden = self.linears(side).detach().requires_grad_()
        inputs = [self.x, *(p for layer in self.layers for p in (layer.lora_a, layer.lora_b))]

        def full_step() -> None:
            torch.autograd.grad(self.loss(side, self.linears(side)), inputs)

        return Peak(
            step=peak_bytes(full_step, self.device),
            linears=peak_bytes(lambda: self.linears(side), self.device),
            loss=peak_bytes(lambda: torch.autograd.grad(self.loss(side, hidden), hidden), self.device),
        )


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Peak bytes of `call`, beyond what was allocated before it."""
    if device.type == "cuda":
        call()  # compiles and tunes, which takes memory too
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard standard error, to which torch's profiler reports its start and stop."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def triton_head(model: str, tokens: list[int]) -> list[dict[str, int]]:
    """Peaks of the Triton head beyond its operands in bfloat16, as on an H100, allocated as if all rows had labels."""
    sys.path.append(str(HERE / "kernels"))
    from launches import call_linear_cross_entropy

    from domain_ft_kernels.triton_backend.launch import recording

    hidden, vocabulary = MODELS[model]
    rows = []
    for count in tokens:
        with recording("sm_90"), LiveBytes() as sizes:
            call_linear_cross_entropy(vocabulary, hidden, count, torch.bfloat16, bias=False)
        operands = 2 * hidden * (count + vocabulary) + 8 * count
        rows.append({"tokens": count, "loss": max(sizes.history) - operands})
    return rows


def compare(model: str, layers: int, tokens: list[int], device: torch.device) -> dict[str, Any]:
    """Peaks of both sides at each number of tokens."""
    rows: list[dict[str, Any]] = []
    for count in tokens:
        print(f"{model}: {count} tokens", file=sys.stderr, flush=True)
        step = Step(model, layers, count, device)
        rows.append({"tokens": count, **{side: vars(step.peak(side)) for side in ("ours", "peers")}})
    hidden, vocabulary = MODELS[model]
    itemsize = 2 if device.type == "cuda" else 4
    found: dict[str, Any] = {
        "model": model,
        "layers": layers,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "logits_bytes_per_token": vocabulary * itemsize,
        "hidden_bytes_per_token": hidden * itemsize,
        "rows": rows,
    }
    if len(rows) > 1:
        first, last = rows[-2:]
        found["loss_slope"] = {
            side: (last[side]["loss"] - first[side]["loss"]) / (last["tokens"] - first["tokens"])
            for side in ("ours", "peers")
        }
    if importlib.util.find_spec("triton") is not None:
        found["triton_head"] = triton_head(model, TRITON_TOKENS)
    return found


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    title = f"peak MiB of a step: {found['layers']} blocks and head of {found['model']}, {found['device']}"
    table = Table(title=title, title_justify="left")
    for heading in ("tokens", "side", "step", "linears", "head", "ratio"):
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for row in found["rows"]:
        for side in ("ours", "peers"):
            peaks = row[side]
            table.add_row(
                f"{row['tokens']:,}" if side == "ours" else "",
                side,
                *(f"{peaks[part] / 2**20:,.0f}" for part in ("step", "linears", "loss")),
                f"{peaks['step'] / row['peers']['step']:.2f}",
                end_section=side == "peers",
            )
    Console().print(table)
    if "loss_slope" in found:
        slope = found["loss_slope"]
        print(
            f"One more token costs the head {slope['ours']:,.0f} bytes (ours) and {slope['peers']:,.0f} (the peer's); "
            f"a token's hidden state has {found['hidden_bytes_per_token']:,}, its logits "
            f"{found['logits_bytes_per_token']:,}."
        )

    if "triton_head" in found:
        sizes = ", ".join(f"{row['tokens']:,}: {row['loss'] / 2**20:,.0f}" for row in found["triton_head"])
        print(f"Peak MiB of the Triton head in bfloat16, by tokens, from the sizes of its tensors: {sizes}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--tokens", default="4096,8192,16384,32768" if on_gpu else "2048,4096,8192")
    parser.add_argument("--layers", type=int, default=12 if on_gpu else 2)
    parser.add_argument("--model", choices=MODELS, default="BERT-base" if on_gpu else "MiniLM")
    parser.add_argument("--output", type=Path, help="where to write the JSON; default: results/memory-DEVICE.json")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")
    args = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    found = compare(args.model, args.layers, [int(n) for n in args.tokens.split(",")], device)
    output = args.output or RESULTS / f"memory-{found['device'].lower().replace(' ', '-')}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
        print(f"written to {output}")


if __name__ == "__main__":
    main()
