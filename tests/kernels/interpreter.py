"""Triton's interpreter with exact bfloat16 arithmetic and memory checks: how kernels are tested without a GPU.

exact_bfloat16()    bfloat16 arithmetic as on a GPU; without it, the interpreter computes with the raw 16 bits
checked_memory()    an error for every misuse of memory
counted_bytes()     the bytes that each launch moves
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import TensorHandle

Array = np.ndarray[Any, np.dtype[Any]]

ADDRESS_BITS = 48
"""Bits of a pointer that are its address; those above hold the number of its argument."""


# Arithmetic


def bits_from_float32(values: Array) -> Array:
    """bfloat16's bits (uint16), rounded to nearest even; a NaN stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype(np.uint16)


def float32_from_bits(bits: Array) -> Array:
    """The values of bfloat16's bits."""
    return (np.ascontiguousarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _is_bfloat16(argument: Any) -> bool:
    return isinstance(argument, TensorHandle) and argument.dtype.scalar == tl.bfloat16


def _widened(argument: Any) -> Any:
    """A bfloat16 handle converted to float32; anything else unchanged."""
    return TensorHandle(float32_from_bits(argument.data), tl.float32) if _is_bfloat16(argument) else argument


def _rounded(handle: TensorHandle) -> TensorHandle:
    """A float32 handle rounded to bfloat16; truth values of comparisons are not rounded."""
    if handle.data.dtype == bool:
        return TensorHandle(handle.data, tl.int1)
    return TensorHandle(bits_from_float32(handle.data), tl.bfloat16)


def _in_float32(name: str) -> Callable[..., TensorHandle]:
    """The builder's method `name`, with bfloat16 operands widened before it and the result rounded after it."""

    def method(self: Any, *arguments: Any) -> TensorHandle:
        result = getattr(super(_ExactBfloat16, self), name)(*map(_widened, arguments))
        operands = [argument for argument in arguments if isinstance(argument, TensorHandle)]
        return _rounded(result) if _is_bfloat16(operands[-1]) else result

    return method


class _ExactBfloat16:
    """A mixin for the interpreter's builder, which computes every operation of a kernel."""

    binary_op = _in_float32("binary_op")
    unary_op = _in_float32("unary_op")
    ternary_op = _in_float32("ternary_op")
    create_fma = _in_float32("create_fma")
    create_rsqrt = _in_float32("create_rsqrt")
    create_erf = _in_float32("create_erf")
    create_dot = _in_float32("create_dot")  # the last operand that is a handle is the accumulator

    def cast_impl(self, src: TensorHandle, dst_type: Any) -> TensorHandle:
        if dst_type.scalar == tl.bfloat16:
            return _rounded(TensorHandle(_widened(src).data.astype(np.float32), tl.float32))
        return super().cast_impl(_widened(src), dst_type)  # type: ignore[misc]

    def create_fp_to_fp(self, src: TensorHandle, dst_type: Any, rounding_mode: Any) -> TensorHandle:
        return self.cast_impl(src, dst_type)

    def get_bf16(self, value: float) -> TensorHandle:
        return _rounded(TensorHandle(np.array([value], np.float32), tl.float32))

    def create_atomic_rmw(self, *arguments: Any) -> TensorHandle:
        if any(map(_is_bfloat16, arguments)):
            raise NotImplementedError("the interpreter adds the bits of bfloat16 atomics, and no kernel here has any")
        return super().create_atomic_rmw(*arguments)  # type: ignore[misc]


@contextlib.contextmanager
def exact_bfloat16() -> Iterator[None]:
    """Inside the block, kernels compute in bfloat16 as a GPU does, without warnings about infinities.

    Operands are widened to float32, and results rounded to nearest even. A float argument of a kernel is float32, as on
    a GPU, not a Python number, which would take the other operand's type.

    Reductions of bfloat16 raise: a GPU rounds after each step, in another order.
    """

    def converted(argument: Any) -> Any:
        if isinstance(argument, float):
            return tl.tensor(TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)
        return convert(argument)

    def quietly(self: Any, *arguments: Any, **keywords: Any) -> None:
        with np.errstate(all="ignore"):
            call(self, *arguments, **keywords)

    def wide(self: Any, tensors: tuple[Any, ...]) -> None:
        if any(_is_bfloat16(tensor.handle) for tensor in tensors):
            raise NotImplementedError("a reduction of bfloat16: widen to float32 before it")
        check(self, tensors)

    convert, call = interpreter._implicit_cvt, interpreter.GridExecutor.__call__
    check = interpreter.ReduceScanOpInterface.check_tensor
    with (
        _mixed_in(_ExactBfloat16),
        mock.patch.object(interpreter, "_implicit_cvt", converted),
        mock.patch.object(interpreter.GridExecutor, "__call__", quietly),
        mock.patch.object(interpreter.ReduceScanOpInterface, "check_tensor", wide),
    ):
        yield


@contextlib.contextmanager
def _mixed_in(mixin: type) -> Iterator[None]:
    """Inside the block, the methods of `mixin` come before those of the interpreter's only builder."""
    builder = interpreter.interpreter_builder
    before = type(builder)
    if not issubclass(before, mixin):
        builder.__class__ = type(f"{mixin.__name__}{before.__name__}", (mixin, before), {})
    try:
        yield
    finally:
        builder.__class__ = before


# Watching the memory


@dataclass(frozen=True)
class Argument:
    """A tensor argument of a kernel."""

    name: str
    tensor: Tensor

    @cached_property
    def first(self) -> int:
        """The offset of its first byte in its storage."""
        return self.tensor.data_ptr() - self.storage

    @cached_property
    def storage(self) -> int:
        """The address of its storage, the same for tensors that share one."""
        return self.tensor.untyped_storage().data_ptr()

    @cached_property
    def own(self) -> Array:
        """Which of its bytes, from first to last, belong to an element: (bytes,) bool."""
        size = self.tensor.element_size()
        span = 1 + sum((n - 1) * stride for n, stride in zip(self.tensor.shape, self.tensor.stride(), strict=True))
        own = torch.zeros(span * size if self.tensor.numel() else 0, dtype=torch.bool)
        if len(own):
            strides = [stride * size for stride in self.tensor.stride()]
            own.as_strided((*self.tensor.shape, size), (*strides, 1)).fill_(True)
        return own.numpy()

    def __str__(self) -> str:
        return f"`{self.name}` {tuple(self.tensor.shape)} with strides {self.tensor.stride()}"


@dataclass
class Launch:
    """A running kernel: its name, its tensor arguments, its grid, and the number of the program that runs now."""

    kernel: str
    arguments: list[Argument] = field(default_factory=list)
    grid: tuple[int, ...] = ()
    program: int = 0

    def place(self) -> str:
        """Where the kernel is, for messages."""
        _, ny, nz = self.grid
        return f"{self.kernel}, program {(self.program // nz // ny, self.program // nz % ny, self.program % nz)}"


class Watcher(Protocol):
    """Receives every access of kernels. `offsets` (elements,) count bytes from the first byte of an argument."""

    def begins(self, launch: Launch) -> None: ...

    def touches(self, launch: Launch, argument: Argument, how: str, offsets: Array, width: int) -> None:
        """A load, a store or an integer atomic of elements of `width` bytes, in lanes that are not masked."""

    def ends(self, launch: Launch) -> None: ...


class MemoryFaultError(AssertionError):
    """A kernel misused memory."""


_watchers: list[Watcher] = []
_launch: Launch | None = None


class _Watched:
    """A mixin for the interpreter's builder: tells the watchers of each access, by tensor."""

    def set_grid_dim(self, *grid: int) -> None:
        """Called by the interpreter after a launch's arguments are converted."""
        super().set_grid_dim(*grid)  # type: ignore[misc]
        assert _launch is not None
        _launch.grid = grid
        for watcher in _watchers:
            watcher.begins(_launch)

    def create_masked_load(self, pointers: TensorHandle, mask: Any, *rest: Any) -> TensorHandle:
        return super().create_masked_load(self._touch("load", pointers, mask), mask, *rest)  # type: ignore[misc]

    def create_masked_store(self, pointers: TensorHandle, value: TensorHandle, mask: Any, *rest: Any) -> None:
        super().create_masked_store(self._touch("store", pointers, mask), value, mask, *rest)  # type: ignore[misc]

    def create_atomic_rmw(self, how: Any, pointers: TensorHandle, value: Any, mask: Any, *rest: Any) -> TensorHandle:
        addresses = self._touch("atomic", pointers, mask)
        return super().create_atomic_rmw(how, addresses, value, mask, *rest)  # type: ignore[misc]

    def create_atomic_cas(self, pointers: TensorHandle, *rest: Any) -> TensorHandle:
        addresses = self._touch("atomic", pointers, np.ones(pointers.data.shape, bool))
        return super().create_atomic_cas(addresses, *rest)  # type: ignore[misc]

    def _touch(self, how: str, pointers: TensorHandle, mask: Any) -> TensorHandle:
        """Tell the watchers of an access. Returns the pointers without their arguments' numbers."""
        assert _launch is not None
        _launch.program = int(np.ravel_multi_index(self.grid_idx, _launch.grid))  # type: ignore[attr-defined]
        element = pointers.get_element_ty()
        if how == "atomic" and element.is_floating():
            raise MemoryFaultError(f"{_launch.place()}: an atomic on floats, so that results vary from run to run")
        active = np.broadcast_to(
            np.asarray(mask.data if isinstance(mask, TensorHandle) else mask, bool), pointers.data.shape
        )
        tagged = pointers.data[active]
        numbers = tagged >> np.uint64(ADDRESS_BITS)
        addresses = tagged & np.uint64(2**ADDRESS_BITS - 1)
        for number in _distinct(numbers):
            if not 1 <= number <= len(_launch.arguments):
                raise MemoryFaultError(f"{_launch.place()}: a {how} through a pointer that came from no tensor")
            argument = _launch.arguments[number - 1]
            offsets = addresses[numbers == number].astype(np.int64) - argument.tensor.data_ptr()
            for watcher in _watchers:
                watcher.touches(_launch, argument, how, offsets, max(1, element.primitive_bitwidth // 8))
        return TensorHandle(pointers.data & np.uint64(2**ADDRESS_BITS - 1), pointers.dtype)


def _distinct(numbers: Array) -> list[int]:
    """The distinct values, quickly if there is one."""
    if numbers.size == 0:
        return []
    return [int(numbers[0])] if (numbers == numbers[0]).all() else np.unique(numbers).tolist()


def _names_of_tensors(name: str, value: Any) -> Iterator[str]:
    """The names of the tensors in an argument: one, or one for each in a tuple."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _names_of_tensors(f"{name}[{index}]", item)
    elif hasattr(value, "data_ptr") or hasattr(value, "base"):  # a tensor, or a descriptor of one
        yield name


def _fault_behind(error: BaseException) -> MemoryFaultError | None:
    """The MemoryFaultError that an InterpreterError was raised from, if any."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MemoryFaultError):
        cause = cause.__cause__
    return cause


@contextlib.contextmanager
def _watching(watcher: Watcher) -> Iterator[None]:
    """Inside the block, `watcher` receives every launch and every access."""
    convert, call = interpreter._implicit_cvt, interpreter.GridExecutor.__call__
    names: Iterator[str] = iter(())

    def numbered(argument: Any) -> Any:
        converted = convert(argument)
        if hasattr(argument, "data_ptr"):
            assert _launch is not None
            _launch.arguments.append(Argument(next(names), interpreter._unwrap_tensor(argument)))
            converted.handle.data |= np.uint64(len(_launch.arguments) << ADDRESS_BITS)
        return converted

    def watched(self: Any, *arguments: Any, **keywords: Any) -> None:
        global _launch
        nonlocal names
        given = [*zip(self.arg_names, arguments, strict=False), *keywords.items()]  # in the order of their conversion
        names = (n for name, value in given if name not in self.constexprs for n in _names_of_tensors(name, value))
        _launch = Launch(self.fn.__name__)
        try:
            call(self, *arguments, **keywords)
        except InterpreterError as error:
            if fault := _fault_behind(error):
                raise fault from None
            raise
        for watching in _watchers:
            watching.ends(_launch)

    with contextlib.ExitStack() as stack:
        if not _watchers:
            stack.enter_context(_mixed_in(_Watched))
            stack.enter_context(mock.patch.object(interpreter, "_implicit_cvt", numbered))
            stack.enter_context(mock.patch.object(interpreter.GridExecutor, "__call__", watched))
        _watchers.append(watcher)
        stack.callback(_watchers.remove, watcher)
        yield


# Checking the memory


@dataclass
class _Allocation:
    """Uninitialised memory, and which of its bytes have been written since.

    The reference to the tensor keeps its address from being reused.
    """

    tensor: Tensor
    written: Array
    version: int

    def count_torch_writes(self) -> None:
        """Count everything as written if torch wrote in place: unlike kernels, it increments the version counter."""
        if self.tensor._version != self.version:
            self.version = self.tensor._version
            self.written[:] = True


_MAKERS = [
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (Tensor, "new_empty"),
    (Tensor, "new_empty_strided"),
]
"""The functions that return uninitialised memory. (A TorchFunctionMode would not see calls inside ops.)"""


@contextlib.contextmanager
def _allocations() -> Iterator[dict[int, _Allocation]]:
    """Inside the block, fill what `_MAKERS` return with NaN (-1 in integers), and record it by its address."""
    made: dict[int, _Allocation] = {}

    def recording(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def empty(*arguments: Any, **keywords: Any) -> Tensor:
            tensor = make(*arguments, **keywords)
            if type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.numel():
                storage = tensor.untyped_storage()
                storage.copy_(torch.full((storage.nbytes(),), 0xFF, dtype=torch.uint8).untyped_storage())
                written = np.zeros(storage.nbytes(), bool)
                made[storage.data_ptr()] = _Allocation(tensor.detach(), written, tensor._version)
            return tensor

        return empty

    with contextlib.ExitStack() as stack:
        for owner, name in _MAKERS:
            stack.enter_context(mock.patch.object(owner, name, recording(getattr(owner, name))))
        yield made


@dataclass
class _Meetings:
    """Which program has read, and which has written, each byte of a storage during a launch."""

    NOBODY = -1
    SEVERAL = -2

    readers: Array
    writers: Array

    @classmethod
    def of(cls, argument: Argument) -> _Meetings:
        size = argument.tensor.untyped_storage().nbytes()
        return cls(np.full(size, cls.NOBODY, np.int32), np.full(size, cls.NOBODY, np.int32))

    def read(self, places: Array, program: int) -> bool:
        """Record a read. Returns whether no other program has written there."""
        alone = self._nobody_but(program, self.readers[places])
        self.readers[places] = np.where(alone, program, self.SEVERAL)
        return bool(self._nobody_but(program, self.writers[places]).all())

    def write(self, places: Array, program: int) -> bool:
        """Record a write. Returns whether no other program has read or written there."""
        alone = self._nobody_but(program, self.writers[places]) & self._nobody_but(program, self.readers[places])
        self.writers[places] = program
        return bool(alone.all())

    def _nobody_but(self, program: int, seen: Array) -> Array:
        return (seen == self.NOBODY) | (seen == program)


class CheckedMemory:
    """The watcher behind `checked_memory`."""

    def __init__(self, frozen: Iterable[Tensor]) -> None:
        self.frozen = {tensor.untyped_storage().data_ptr() for tensor in frozen}
        self.allocations: dict[int, _Allocation] = {}
        self.meetings: dict[int, _Meetings] = {}

    def begins(self, launch: Launch) -> None:
        self.meetings = {}
        for allocation in self.allocations.values():
            allocation.count_torch_writes()

    def ends(self, launch: Launch) -> None:
        pass

    def touches(self, launch: Launch, argument: Argument, how: str, offsets: Array, width: int) -> None:
        places = (offsets[:, None] + np.arange(width)).reshape(-1)
        self._refuse(launch, argument, how, "outside of", offsets, width, ~_inside(argument, places))
        places += argument.first
        allocation = self.allocations.get(argument.storage)
        if allocation is not None:
            if how != "store":
                self._refuse(launch, argument, how, "of unwritten", offsets, width, ~allocation.written[places])
            allocation.written[places] = True
        if how == "load":
            alone = self._met(argument).read(places, launch.program)
        else:
            if argument.storage in self.frozen:
                raise MemoryFaultError(f"{launch.place()}: a {how} to the caller's {argument}")
            alone = how == "atomic" or self._met(argument).write(places, launch.program)
        if not alone:
            raise MemoryFaultError(
                f"{launch.place()}: a {how} where another program of the launch stores or loads, {argument}"
            )

    def assert_written(self, *tensors: Tensor) -> None:
        """Raise MemoryFaultError unless every element of the tensors has been written, by a kernel or by torch."""
        for number, tensor in enumerate(tensors):
            argument = Argument(f"output {number}", tensor)
            allocation = self.allocations.get(argument.storage)
            if allocation is None or not tensor.numel():
                continue
            allocation.count_torch_writes()
            missing = argument.own & ~allocation.written[argument.first : argument.first + len(argument.own)]
            if missing.any():
                element = int(missing.argmax()) // tensor.element_size()
                raise MemoryFaultError(f"never written: the element {element} places after the first of {argument}")

    def _met(self, argument: Argument) -> _Meetings:
        if argument.storage not in self.meetings:
            self.meetings[argument.storage] = _Meetings.of(argument)
        return self.meetings[argument.storage]

    @staticmethod
    def _refuse(
        launch: Launch, argument: Argument, how: str, what: str, offsets: Array, width: int, wrong: Array
    ) -> None:
        """Raise if any of the bytes, `width` for each offset, is marked as wrong."""
        if wrong.any():
            offset = int(offsets[int(wrong.argmax()) // width])
            raise MemoryFaultError(f"{launch.place()}: a {how} {what} {argument}, {offset} bytes after its first")


def _inside(argument: Argument, places: Array) -> Array:
    """Whether each of the places, in bytes from an argument's first, belongs to one of its elements."""
    near = (places >= 0) & (places < len(argument.own))
    return near & argument.own[np.where(near, places, 0)] if len(argument.own) else near


@contextlib.contextmanager
def checked_memory(*frozen: Tensor) -> Iterator[CheckedMemory]:
    """Inside the block, a kernel that misuses memory raises MemoryFaultError:

    - a load or store outside of the elements of the tensor that its pointer came from, gaps between rows included;
    - a load of a byte that was never written: torch.empty and the like return memory full of NaN (-1 in integers);
    - a store to `frozen`, the caller's tensors;
    - a byte that one program of a launch stores and another loads or stores: their order on a GPU is undefined, though
      the interpreter runs them one after the other;
    - a float atomic.

        with checked_memory(x, weight) as memory:
            y = op(x, weight)
            memory.assert_written(y)

    Tensors made before the block, or by other functions of torch, count as written. This does not work under
    torch.compile.
    """
    watcher = CheckedMemory(frozen)
    with _watching(watcher), _allocations() as watcher.allocations:
        yield watcher


# Counting the bytes that kernels move


@dataclass(frozen=True)
class TensorBytes:
    """Bytes of one tensor that a launch moved: those requested by all loads and stores, and the distinct ones."""

    requested_reads: int
    requested_writes: int
    reads: int
    writes: int


@dataclass(frozen=True)
class LaunchBytes:
    """What a launch moved.

    Attributes:
        kernel, grid: the launch.
        tensors: by the names of the kernel's parameters.
        requested: bytes of all loads and stores: what the caches must serve.
        compulsory: distinct bytes loaded plus distinct bytes stored: what memory must serve if caches are perfect
            within the launch. Bytes that two parameters share count once.
    """

    kernel: str
    grid: tuple[int, ...]
    tensors: dict[str, TensorBytes]
    requested: int
    compulsory: int


class _Counter:
    """The watcher behind `counted_bytes`: marks the bytes of each storage, by argument and direction."""

    def __init__(self) -> None:
        self.launches: list[LaunchBytes] = []
        self.requested: dict[tuple[str, str], int] = {}
        self.marks: dict[tuple[str, str], Array] = {}

    def begins(self, launch: Launch) -> None:
        self.requested, self.marks = {}, {}
        for argument in launch.arguments:
            for way in ("read", "write"):
                self.requested[argument.name, way] = 0
                self.marks[argument.name, way] = np.zeros(argument.tensor.untyped_storage().nbytes(), bool)

    def touches(self, launch: Launch, argument: Argument, how: str, offsets: Array, width: int) -> None:
        places = (argument.first + offsets[:, None] + np.arange(width)).reshape(-1)
        for way in {"load": ("read",), "store": ("write",), "atomic": ("read", "write")}[how]:
            self.requested[argument.name, way] += len(places)
            self.marks[argument.name, way][places] = True

    def ends(self, launch: Launch) -> None:
        marks, requested = self.marks, self.requested
        tensors = {
            a.name: TensorBytes(
                *(requested[a.name, way] for way in ("read", "write")),
                *(int(marks[a.name, way].sum()) for way in ("read", "write")),
            )
            for a in launch.arguments
        }
        together: dict[tuple[int, str], list[Array]] = defaultdict(list)
        for a in launch.arguments:
            for way in ("read", "write"):
                together[a.storage, way].append(marks[a.name, way])
        compulsory = sum(int(np.logical_or.reduce(shared).sum()) for shared in together.values())
        self.launches.append(LaunchBytes(launch.kernel, launch.grid, tensors, sum(requested.values()), compulsory))


@contextlib.contextmanager
def counted_bytes() -> Iterator[list[LaunchBytes]]:
    """Yield a list that gets an entry for each launch inside the block."""
    counter = _Counter()
    with _watching(counter):
        yield counter.launches
