"""The kernels' benchmark: the peers' traffic, our bars, the compiler's report, and what the program prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import bars
import compiling
import machine_code
import peers
import timing
from cases import model
from machine_code import Instruction, narrow_in_inner_loops
from problems import Implementation, Tensors, problems
from roofline import CHIPS, predict
from traffic import Total, total

from domain_ft.verbs.bench.run import program_of

KERNELS = Path(__file__).parents[1] / "benchmarks" / "kernels"
BERT, GPT2 = model("BERT-base"), model("GPT-2")


# The closed forms


@pytest.mark.parametrize(
    ("whose", "bert", "gpt2"), [("eager", 22, 36), ("torch chunked", 32, 56), ("Liger", 9.3, 18.1)]
)
def test_the_traffic_of_the_peers_heads(whose: str, bert: float, gpt2: float) -> None:
    steps = peers.HEADS[whose]
    assert total(steps(BERT.head)).requested / 1e9 == pytest.approx(bert, rel=0.015)
    assert total(steps(GPT2.head)).requested / 1e9 == pytest.approx(gpt2, rel=0.015)


def test_the_traffic_of_the_peers_linears() -> None:
    assert total(peers.base_linears(BERT.linears)).compulsory / 1e9 == pytest.approx(11.2, rel=0.01)
    assert total(peers.peft_linears(BERT.linears)).compulsory / 1e9 == pytest.approx(57.3, rel=0.01)
    assert total(peers.lorafusion_linears(BERT.linears)).compulsory / 1e9 == pytest.approx(16.7, rel=0.01)
    assert peers.peft_saved(BERT.linears) / 1e9 == pytest.approx(4.1, rel=0.01)


def test_cut_cross_entropy_needs_three_products() -> None:
    assert total(peers.cce_head(GPT2.head)).flops / 1e12 == pytest.approx(3.79, rel=0.01)


@pytest.mark.parametrize("target", machine_code.LIMITS)
def test_every_bar_is_met(target: str) -> None:
    found = bars.bars(bars.entries(("linear_cross_entropy", "lora_linear"), target))
    assert len(found) == 5
    assert [f"{bar.name} {bar.value} > {bar.limit}" for bar in found if not bar.met] == []


def test_the_predicted_time_is_the_largest_bound() -> None:
    chip = CHIPS[0]
    prediction = predict(chip, Total(requested=chip.l2 * 2, compulsory=chip.memory * 3, flops=chip.flops))
    assert prediction.seconds == pytest.approx(3)
    assert prediction.bound == "memory"


# The machine code


def code(*lines: tuple[int | None, bool, bool | None]) -> list[Instruction]:
    """Instructions from tuples: the jump's target, whether the next one may follow, whether an access is narrow."""
    return [
        Instruction(place, "", jumps_to, goes_on, narrow) for place, (jumps_to, goes_on, narrow) in enumerate(lines)
    ]


PLAIN, NARROW, WIDE = (None, True, None), (None, True, True), (None, True, False)


def test_only_innermost_loops_are_searched_for_narrow_accesses() -> None:
    waits = (4, True, None)  # a loop without memory accesses does not count
    inner = [NARROW, WIDE, waits, (2, True, None)]  # at places 2 to 5
    outer = [NARROW, NARROW, *inner, NARROW, (1, True, None), NARROW]
    assert narrow_in_inner_loops(code(*outer)) == 1
    assert narrow_in_inner_loops(code(NARROW, WIDE, NARROW)) == 2  # without a loop, the whole program counts


def test_code_placed_out_of_line_is_no_loop() -> None:
    """Code for a rare wait is placed after the end of the program, and jumps back from there."""
    once = [PLAIN, (5, True, None), NARROW, PLAIN, (None, False, None), (5, True, None), (2, False, None)]
    assert narrow_in_inner_loops(code(*once, WIDE, (7, True, None))) == 0


@pytest.mark.parametrize(
    ("change", "breach"),
    [
        ({}, None),
        ({"spills": 3}, "3 spills"),
        ({"shared_bytes": 164 * 1024}, "shared memory"),
        ({"tensor_core": {}}, "without the tensor cores"),
        ({"tensor_core": {"HGMMA": 4}}, "without the tensor cores"),  # of another chip
        ({"narrow_accesses": 2}, "narrow"),
    ],
)
def test_what_counts_as_a_breach(change: dict[str, object], breach: str | None) -> None:
    good = {"registers": 128, "spills": 0, "shared_bytes": 48 * 1024, "multiplies": True, "narrow_accesses": 0}
    made = machine_code.MachineCode(**{**good, "tensor_core": {"HMMA": 64}, "occupancy": 0.5, **change})
    found = made.breaches("sm_80")
    assert found == [] if breach is None else breach in found[0]


def test_a_kernel_that_does_not_compile_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(source: object) -> None:
        raise RuntimeError("the compiler fell over\nand said more")

    monkeypatch.setattr(machine_code, "compiled", fails)
    monkeypatch.setattr(machine_code, "specialise", lambda kernel, *how: Key(kernel))
    rows = compiling.run(compiling.Task("cross_entropy", "sm_80", "bfloat16", ("GPT-2",), options=False))
    assert {row.kernel for row in rows} == {"cross_entropy.forward", "cross_entropy.backward"}
    assert all(row.failed for row in rows)
    assert rows[0].breaches == ["does not compile: RuntimeError: the compiler fell over"]


class Key:
    """Stands in for a specialised kernel."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def key(self) -> str:
        return str(self.kernel.fn)


def run_program(*arguments: str) -> tuple[int, Any]:
    """The program's exit status and JSON, from a process without Triton's interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(KERNELS), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_the_compile_table_has_the_documented_fields(tmp_path: Path) -> None:
    chosen = ("--ops", "cross_entropy", "--targets", "sm_90,gfx942", "--dtypes", "bfloat16", "--models", "GPT-2")
    output = tmp_path / "out.json"
    status, found = run_program("--compile", *chosen, "--processes", "1", "--output", str(output))
    assert status == 0
    assert json.loads(output.read_text(encoding="utf-8")) == found
    assert {row["target"] for row in found["rows"]} == {"sm_90", "gfx942"}
    for row in found["rows"]:
        assert row.keys() >= {"kernel", "target", "dtype", "config", "registers", "spills", "shared_bytes"}
        assert row["registers"] > 8
        assert (row["tensor_core_ops"], row["narrow_accesses"], row["breaches"]) == (0, 0, [])


@pytest.mark.slow
@pytest.mark.parametrize(("op", "target"), [("cross_entropy", "sm_80"), ("linear_cross_entropy", "sm_90")])
def test_class_weights_and_log_sum_exps_compile_without_a_spill(op: str, target: str, tmp_path: Path) -> None:
    """Ahead of time, with all other options, as `--all` does."""
    chosen = ("--ops", op, "--targets", target, "--dtypes", "bfloat16", "--models", "MiniLM", "--all")
    status, found = run_program("--compile", *chosen, "--processes", "1", "--output", str(tmp_path / "out.json"))
    own = [row for row in found["rows"] if row["package"] == compiling.OWN]
    assert status == 0
    assert [row["spills"] for row in own] == [0] * len(own)


def test_the_traffic_table_has_the_documented_fields(tmp_path: Path) -> None:
    status, found = run_program("--traffic", "--ops", "lora_linear", "--output", str(tmp_path / "out.json"))
    assert status == 0
    assert all(row["bytes"] >= row["minimum_bytes"] > 0 for row in found["traffic"])
    assert {row["op"] for row in found["traffic"]} == {"lora_linear"}
    assert all(bar["met"] for bar in found["bars"])


# The times


def test_implementations_are_checked_before_they_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(("cross_entropy",), torch.device("cpu"), full=False)
    own = problem.implementations["torch"]
    wrong = {"torch": lambda given: [1.01 * own(given)[0]], "reference": problem.implementations["reference"]}
    monkeypatch.setitem(timing.ROUNDS, "cpu", 2)
    for implementations, correct in ((wrong, False), ({**wrong, "torch": own}, True)):
        problem.implementations.clear()
        problem.implementations.update(implementations)
        rows = list(timing._times(problem, timing.Ceilings(1e9, {"float32": 1e9}), torch.device("cpu")))
        assert {row.implementation: row.correct for row in rows} == {"torch": correct, "reference": True}


def test_implementations_take_turns_after_all_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(("cross_entropy",), torch.device("cpu"), full=False)
    own = {name: problem.implementations[name] for name in ("torch", "reference")}
    order: list[str] = []

    def noting(name: str) -> Implementation:
        def run(given: Tensors) -> list[torch.Tensor]:
            order.append(name)
            return own[name](given)

        return run

    def fails(given: Tensors) -> list[torch.Tensor]:
        raise NotImplementedError("not this case")

    problem.implementations.clear()
    problem.implementations.update({name: noting(name) for name in own} | {"a peer": fails})
    monkeypatch.setitem(timing.ROUNDS, "cpu", 2)
    rows = list(timing._times(problem, timing.Ceilings(1e9, {"float32": 1e9}), torch.device("cpu")))
    assert [row.implementation for row in rows] == ["torch", "reference"]
    assert {row.implementation: row.ratio for row in rows}["torch"] == 1
    turns = order[-3 * 4 :]  # a warm-up and two rounds; forward, then forward and backward
    assert turns == ["torch", "torch", "reference", "reference"] * 3
    assert {"torch", "reference"} <= set(order[: -3 * 4])


# The verb


def test_a_benchmark_is_a_file_or_a_folder() -> None:
    assert program_of("kernels") == KERNELS
    assert program_of("training") == KERNELS.parent / "training.py"
    assert program_of("nothing") is None
