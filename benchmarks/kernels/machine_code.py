"""Compile a Triton kernel for a chip that is not there, and read from its machine code what the compiler made of it.

NVIDIA's code is read with the cuobjdump that comes with Triton, AMD's is text. Nothing here needs a GPU.
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
    """What a processor of a target has to share out.

    Attributes:
        target: as Triton wants it.
        shared: bytes of shared memory that one program may have.
        shared_of_processor: bytes for all programs on a processor; each NVIDIA program costs one more KiB.
        warps: how many fit a processor at most.
        tensor_core: the instructions of its matrix products.
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
    """What the compiler made of a kernel.

    Attributes:
        registers: of a thread.
        spills: loads and stores of registers that had no room (NVIDIA), or such registers (AMD).
        shared_bytes: of a program.
        multiplies: whether the source has a matrix product.
        tensor_core: how many instructions of each kind the tensor cores get.
        narrow_accesses: loads and stores of one or two bytes to global memory in the innermost loops (in all of a
            kernel that has no loop around its memory accesses).
        occupancy: warps that fit a processor at a time, as a share of the most that it takes.
    """

    registers: int
    spills: int
    shared_bytes: int
    multiplies: bool
    tensor_core: dict[str, int]
    narrow_accesses: int
    occupancy: float

    def breaches(self, target: str) -> list[str]:
        """What is wrong with it, in words; nothing where all is well."""
        limits, found = LIMITS[target], []
        if self.spills:
            found.append(f"{self.spills} spills")
        if self.shared_bytes > limits.shared:
            found.append(f"{self.shared_bytes} bytes of shared memory, where {limits.shared} is the most")
        if self.multiplies and not any(limits.tensor_core.search(name) for name in self.tensor_core):
            found.append("a matrix product without the tensor cores")
        if self.narrow_accesses:
            found.append(f"{self.narrow_accesses} narrow loads or stores in a loop")
        return found


@dataclass(frozen=True)
class Specialised:
    """A kernel with all that the compiler is told of a launch: types, constants, which numbers 16 divides."""

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

    Tensors may be on the device "meta": they count as aligned, as new tensors are on a GPU.
    """
    backend = make_backend(LIMITS[target].target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, given = bind(*arguments, **keywords, **options)
    resolved, signature, constants, attributes = kernel._pack_args(
        backend, {**keywords, **given}, bound, specialisation, given
    )
    return Specialised(kernel, target, signature, constants, attributes, resolved)


def compiled(source: Specialised) -> MachineCode:
    """Compile, and read the result."""
    limits = LIMITS[source.target]
    tree = ASTSource(source.kernel, source.signature, source.constants, source.attributes)
    result = triton.compile(tree, target=limits.target, options=source.options.__dict__)
    multiplies = "tt.dot" in result.asm["ttir"]
    if limits.target.backend == "hip":
        return _amd(result, multiplies, limits)
    return _nvidia(result, multiplies, limits)


# Reading NVIDIA's code


@dataclass(frozen=True)
class _Instruction:
    address: int
    name: str
    """With its suffixes, such as LDG.E.128."""
    jumps_to: int | None


_SASS = re.compile(
    r"^\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\d+\s+)?(?P<name>[A-Z][A-Z0-9_.]*)(?P<rest>[^;]*);?"
)
_GLOBAL = re.compile(r"(LDG|STG|LDGSTS|RED|ATOMG)\b")
_NARROW = re.compile(r"(LDG|STG)\b.*\.[US](8|16)\b")


def _nvidia(result: Any, multiplies: bool, limits: Limits) -> MachineCode:
    code = list(_disassembled(result.asm["cubin"]))
    registers = int(_one(r"REG:(\d+)", _cuobjdump("--dump-resource-usage", result.asm["cubin"])))
    names = Counter(instruction.name for instruction in code)
    loops = [(i.jumps_to, i.address) for i in code if i.jumps_to is not None and i.jumps_to < i.address]
    accesses = [(i.address, bool(_NARROW.match(i.name))) for i in code if _GLOBAL.match(i.name)]
    warps, shared = result.metadata.num_warps, result.metadata.shared
    per_warp = -(-registers * 32 // 256) * 256
    programs = min(
        65_536 // 4 // per_warp * 4 // warps,  # each quarter of a processor has its own registers
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
        narrow_accesses=_narrow_in_inner_loops(loops, accesses),
        occupancy=programs * warps / limits.warps,
    )


def _disassembled(cubin: bytes) -> Iterator[_Instruction]:
    for line in _cuobjdump("--dump-sass", cubin).splitlines():
        match = _SASS.match(line)
        if match is None:
            continue
        jump = re.search(r"\b0x([0-9a-f]+)", match["rest"]) if match["name"].startswith("BRA") else None
        yield _Instruction(int(match["address"], 16), match["name"], int(jump[1], 16) if jump else None)


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
    labels: dict[str, int] = {}
    loops, accesses, names = [], [], Counter[str]()
    for number, line in enumerate(text.splitlines()):
        if label := re.match(r"(\.LBB\w+):", line):
            labels[label[1]] = number
        elif jump := re.match(r"\s+s_c?branch\w*\s+(\.LBB\w+)", line):
            if jump[1] in labels:
                loops.append((labels[jump[1]], number))
        elif access := _AMD_GLOBAL.match(line):
            accesses.append((number, bool(_AMD_NARROW.match(access["width"]))))
        elif product := re.match(r"\s+(v_mfma\w+)", line):
            names[product[1]] += 1
    warps, shared = result.metadata.num_warps, result.metadata.shared
    per_quarter = min(8, 512 // max(8, -(-registers // 8) * 8))
    programs = min(4 * per_quarter // warps, limits.shared_of_processor // max(1, shared), limits.warps // warps)
    return MachineCode(
        registers=registers,
        spills=int(_one(r"\.vgpr_spill_count:\s+(\d+)", text)) + int(_one(r"\.sgpr_spill_count:\s+(\d+)", text)),
        shared_bytes=shared,
        multiplies=multiplies,
        tensor_core=_families(names, re.compile(r"(v_mfma)")),
        narrow_accesses=_narrow_in_inner_loops(loops, accesses),
        occupancy=programs * warps / limits.warps,
    )


# Both


def _families(names: Counter[str], family: re.Pattern[str]) -> dict[str, int]:
    """Instructions counted by what `family` takes of their names."""
    found: Counter[str] = Counter()
    for name, count in names.items():
        if match := family.match(name):
            found[match[1]] += count
    return dict(found)


def _narrow_in_inner_loops(loops: Sequence[tuple[int, int]], accesses: Sequence[tuple[int, bool]]) -> int:
    """How many of `accesses` (place, whether narrow) are narrow and in an innermost of `loops` (first and last place).

    A loop without an access, such as one that waits for a barrier, is none.
    """
    with_accesses = {loop for loop in loops if any(loop[0] <= place <= loop[1] for place, _ in accesses)}
    inner = [
        loop
        for loop in with_accesses
        if not any(other != loop and loop[0] <= other[0] and other[1] <= loop[1] for other in with_accesses)
    ]
    return sum(
        narrow and (not inner or any(first <= place <= last for first, last in inner)) for place, narrow in accesses
    )


def _one(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern} in what the disassembler said")
    return match[1]
