"""Compile a Triton kernel for a chip that need not be present, and analyse its machine code.

NVIDIA's code is disassembled with the cuobjdump that comes with Triton; AMD's is text. Nothing here needs a GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

KIB = 1024


@dataclass(frozen=True)
class Limits:
    """The resources of one processor of a target.

    Attributes:
        target: Triton's description of it.
        shared: bytes of shared memory per program, at most.
        shared_of_processor: bytes for all programs on a processor; on NVIDIA, each takes one KiB more than it uses.
        warps: per processor, at most.
        tensor_core: pattern of its tensor-core instructions.
    """

    target: GPUTarget
    shared: int
    shared_of_processor: int
    warps: int
    tensor_core: re.Pattern[str]


LIMITS = {
    "sm_80": Limits(GPUTarget("cuda", 80, 32), 163 * KIB, 164 * KIB, 64, re.compile(r"HMMA")),
    "sm_90": Limits(GPUTarget("cuda", 90, 32), 227 * KIB, 228 * KIB, 64, re.compile(r"HGMMA")),
    "sm_100": Limits(GPUTarget("cuda", 100, 32), 227 * KIB, 228 * KIB, 64, re.compile(r"UTC\w*MMA|HMMA")),
    "gfx942": Limits(GPUTarget("hip", "gfx942", 64), 64 * KIB, 64 * KIB, 32, re.compile(r"v_mfma")),
}


@dataclass(frozen=True)
class MachineCode:
    """Properties of a compiled kernel.

    Attributes:
        registers: per thread.
        spills: loads and stores of spilled registers (NVIDIA), or spilled registers (AMD).
        shared_bytes: per program.
        multiplies: whether the kernel has a matrix product.
        tensor_core: number of tensor-core instructions of each kind.
        narrow_accesses: loads and stores of one or two bytes of global memory in the innermost loops (in the
            whole kernel if no loop has a memory access).
        occupancy: warps that fit on a processor at a time, as a share of its maximum.
    """

    registers: int
    spills: int
    shared_bytes: int
    multiplies: bool
    tensor_core: dict[str, int]
    narrow_accesses: int
    occupancy: float

    def breaches(self, target: str) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        limits, found = LIMITS[target], []
        if self.spills:
            found.append(f"{self.spills} spills")
        if self.shared_bytes > limits.shared:
            found.append(f"{self.shared_bytes} bytes of shared memory, above the limit of {limits.shared}")
        if self.multiplies and not any(limits.tensor_core.search(name) for name in self.tensor_core):
            found.append("a matrix product without the tensor cores")
        if self.narrow_accesses:
            found.append(f"{self.narrow_accesses} narrow loads or stores in a loop")
        return found


@dataclass(frozen=True)
class Specialised:
    """A kernel with the launch properties that the compiler uses: types, constants, divisibility by 16."""

    kernel: Any
    target: str
    signature: dict[str, str]
    constants: dict[Any, Any]
    attributes: dict[Any, Any]
    options: Any

    def key(self) -> str:
        """Equal for launches that compile to the same code."""
        parts = (self.signature, self.constants, self.attributes, self.options)
        return f"{self.kernel.__module__}.{self.kernel.__name__} {self.target} {parts}"


def specialise(
    kernel: Any, arguments: Sequence[Any], keywords: Mapping[str, Any], options: Mapping[str, Any], target: str
) -> Specialised:
    """What a launch `kernel[grid](*arguments, **keywords, **options)` would compile, by Triton's own rules.

    Tensors may be on the device "meta"; they count as aligned, like new tensors on a GPU.
    """
    backend = make_backend(LIMITS[target].target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, given = bind(*arguments, **keywords, **options)
    resolved, signature, constants, attributes = kernel._pack_args(
        backend, {**keywords, **given}, bound, specialisation, given
    )
    return Specialised(kernel, target, signature, constants, attributes, resolved)


def compiled(source: Specialised) -> MachineCode:
    """Compile, and analyse the result."""
    limits = LIMITS[source.target]
    tree = ASTSource(source.kernel, source.signature, source.constants, source.attributes)
    result = triton.compile(tree, target=limits.target, options=source.options.__dict__)
    multiplies = "tt.dot" in result.asm["ttir"]
    if limits.target.backend == "hip":
        return _amd(result, multiplies, limits)
    return _nvidia(result, multiplies, limits)


@dataclass(frozen=True)
class Instruction:
    """The properties of an instruction that matter for loops and memory accesses.

    Attributes:
        place: its address or line.
        name: with suffixes, such as LDG.E.128.
        jumps_to: the place that it may jump to.
        goes_on: whether the next instruction may follow it.
        narrow: for a load or store of global memory, whether it moves only one or two bytes; otherwise None.
    """

    place: int
    name: str
    jumps_to: int | None = None
    goes_on: bool = True
    narrow: bool | None = None


# Reading NVIDIA's code


_SASS = re.compile(
    r"^\s+/\*(?P<place>[0-9a-f]{4,})\*/\s+(?P<condition>@!?U?P\d+\s+)?(?P<name>[A-Z][A-Z0-9_.]*)(?P<operands>[^;]*)"
)
_GLOBAL = re.compile(r"(LDG|STG|LDGSTS|RED|ATOMG)\b")
_NARROW = re.compile(r"(LDG|STG)\b.*\.[US](8|16)\b")


def _nvidia(result: Any, multiplies: bool, limits: Limits) -> MachineCode:
    code = list(_disassembled(result.asm["cubin"]))
    registers = int(_one(r"REG:(\d+)", _cuobjdump("--dump-resource-usage", result.asm["cubin"])))
    names = Counter(instruction.name for instruction in code)
    warps, shared = result.metadata.num_warps, result.metadata.shared
    per_warp = -(-registers * 32 // 256) * 256
    programs = min(
        65_536 // 4 // per_warp * 4 // warps,  # each quarter of a processor has separate registers
        limits.shared_of_processor // (shared + KIB),
        limits.warps // warps,
        512 // max(1, getattr(result.metadata, "tmem_size", None) or 1),
    )
    return MachineCode(
        registers=registers,
        spills=sum(count for name, count in names.items() if name.startswith(("STL", "LDL"))),
        shared_bytes=shared,
        multiplies=multiplies,
        tensor_core=_families(names, re.compile(r"(U?[A-Z]*MMA)\b")),
        narrow_accesses=narrow_in_inner_loops(code),
        occupancy=programs * warps / limits.warps,
    )


def _disassembled(cubin: bytes) -> Iterator[Instruction]:
    for line in _cuobjdump("--dump-sass", cubin).splitlines():
        match = _SASS.match(line)
        if match is None:
            continue
        name, operands = match["name"], match["operands"]
        jump = re.search(r"\b0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        conditional = match["condition"] is not None or re.match(r"\s*!?U?P\d", operands) is not None
        yield Instruction(
            place=int(match["place"], 16),
            name=name,
            jumps_to=int(jump[1], 16) if jump else None,
            goes_on=conditional or not name.startswith(("BRA", "EXIT", "RET")),
            narrow=bool(_NARROW.match(name)) if _GLOBAL.match(name) else None,
        )


def _cuobjdump(what: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([_cuobjdump_program(), what, file.name], capture_output=True, text=True, check=True)
    return done.stdout


@cache
def _cuobjdump_program() -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


# Reading AMD's code

_AMD_GLOBAL = re.compile(r"\s(global|buffer|flat)_(load|store|atomic)_(?P<width>\w+)")
_AMD_NARROW = re.compile(r"[us]?(short|byte)")


def _amd(result: Any, multiplies: bool, limits: Limits) -> MachineCode:
    text = result.asm["amdgcn"]
    registers = int(_one(r"\.vgpr_count:\s+(\d+)", text))
    code = list(_parsed(text))
    names = Counter(instruction.name for instruction in code)
    warps, shared = result.metadata.num_warps, result.metadata.shared
    per_quarter = min(8, 512 // max(8, -(-registers // 8) * 8))
    programs = min(4 * per_quarter // warps, limits.shared_of_processor // max(1, shared), limits.warps // warps)
    return MachineCode(
        registers=registers,
        spills=int(_one(r"\.vgpr_spill_count:\s+(\d+)", text)) + int(_one(r"\.sgpr_spill_count:\s+(\d+)", text)),
        shared_bytes=shared,
        multiplies=multiplies,
        tensor_core=_families(names, re.compile(r"(v_mfma)")),
        narrow_accesses=narrow_in_inner_loops(code),
        occupancy=programs * warps / limits.warps,
    )


def _parsed(text: str) -> Iterator[Instruction]:
    lines = text.splitlines()
    labels = {match[1]: number for number, line in enumerate(lines) if (match := re.match(r"(\.LBB\w+):", line))}
    for number, line in enumerate(lines):
        match = re.match(r"\s+([a-z]\w+)\s*(\.LBB\w+)?|\.LBB", line)
        if match is None:
            continue
        name, access = match[1] or "label", _AMD_GLOBAL.match(line)
        yield Instruction(
            place=number,
            name=name,
            jumps_to=labels.get(match[2]) if name.startswith(("s_branch", "s_cbranch")) else None,
            goes_on=name not in ("s_branch", "s_endpgm"),
            narrow=bool(_AMD_NARROW.match(access["width"])) if access else None,
        )


# For both vendors


def _families(names: Counter[str], family: re.Pattern[str]) -> dict[str, int]:
    """Instruction counts by the part of the name that `family` matches."""
    found: Counter[str] = Counter()
    for name, count in names.items():
        if match := family.match(name):
            found[match[1]] += count
    return dict(found)


def narrow_in_inner_loops(code: Sequence[Instruction]) -> int:
    """Number of narrow accesses in innermost loops, or in all of `code` if no loop has an access to global memory.

    Loops without such an access, for instance one that waits for a barrier, are ignored.
    """
    accesses = {number for number, instruction in enumerate(code) if instruction.narrow is not None}
    found = [loop & accesses for loop in _loops(code)]
    inner = [loop for loop in found if loop and not any(other and other < loop for other in found)]
    searched = set().union(*inner) if inner else accesses
    return sum(bool(code[number].narrow) for number in searched)


def _loops(code: Sequence[Instruction]) -> Iterator[set[int]]:
    """The natural loops: for each jump back to an instruction that dominates it, the instructions from there to it."""
    number_at = {instruction.place: number for number, instruction in enumerate(code)}
    before: list[list[int]] = [[] for _ in code]
    jumps: list[tuple[int, int]] = []
    for number, instruction in enumerate(code):
        if instruction.goes_on and number + 1 < len(code):
            before[number + 1].append(number)
        if instruction.jumps_to in number_at:
            target = number_at[instruction.jumps_to]
            before[target].append(number)
            jumps.append((number, target))
    for jump, target in jumps:
        if target > jump:
            continue
        loop, waiting = {target, jump}, [jump] if jump != target else []
        while waiting:
            for earlier in before[waiting.pop()]:
                if earlier not in loop:
                    loop.add(earlier)
                    waiting.append(earlier)
        if target == 0 or 0 not in loop:
            yield loop


def _one(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern} in the disassembler's output")
    return match[1]
