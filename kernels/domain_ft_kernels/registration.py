"""How an op is known to torch: as a torch.library op in traces, and as a plain autograd.Function when called eagerly.

A torch.library op can be traced, compiled and seen by modes (FakeTensor, selective checkpointing, FLOP counters), but
its Python machinery costs a call some 0.15 ms, and 0.36 ms with its backward: for the 48 to 72 linears of a small model
longer than a GPU computes. So a call that nobody watches goes past it, to the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.flop_counter import register_flop_formula


class Op:
    """An op of this package, to be called with the arguments of its schema.

    Args:
        name: without the namespace, `domain_ft_kernels::`.
        schema: arguments and results; a result of several tensors is a tuple, or `Tensor[]`, a list.
        function: what computes it.
        fake: from the same arguments to empty tensors such as the results.
        mutates: the arguments that it writes to.
        flops: from the arguments' shapes, as torch.utils.flop_counter gives them, to the number of operations.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        function: Callable[..., Any],
        fake: Callable[..., Any],
        *,
        mutates: Iterable[str] = (),
        flops: Callable[..., int] | None = None,
    ) -> None:
        self.function, self.mutates = function, tuple(mutates)
        self.registered = torch.library.custom_op(
            f"domain_ft_kernels::{name}", function, mutates_args=self.mutates, schema=schema
        )
        self.registered.register_fake(fake)
        if flops is not None:
            count = flops

            def formula(*shapes: Any, **_: Any) -> int:  # the counter hands on the result's shape as a keyword
                return count(*shapes)

            register_flop_formula(getattr(torch.ops.domain_ft_kernels, name))(formula)
        self.returns_list = schema.endswith("Tensor[]")
        self.setup_context: Callable[..., None] | None = None
        self.differentiate: Callable[..., tuple[Any, ...]] | None = None

    def differentiable(self, differentiate: Callable[..., tuple[Any, ...]], setup_context: Callable[..., None]) -> Op:
        """Give it a backward, as `torch.library.register_autograd` takes it; returns the op.

        It is differentiable once: a second derivative raises.
        """
        self.differentiate, self.setup_context = _once(differentiate), setup_context
        self.registered.register_autograd(self.differentiate, setup_context=setup_context)
        return self

    def __call__(self, *inputs: Any) -> Any:
        tensors = list(_tensors(inputs))
        _refuse_forward_mode(tensors)
        if self.mutates or _watched(tensors):  # autograd has to count the writes
            return self.registered(*inputs)
        if self.differentiate is None or not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
            return self.function(*inputs)
        lengths = [len(argument) if _holds_tensors(argument) else None for argument in inputs]
        results = _Eager.apply(self, lengths, *_flat(inputs, lengths))
        return list(results) if self.returns_list else results


class _Eager(torch.autograd.Function):
    """The op's functions, its lists of tensors laid flat: autograd looks for tensors among the arguments alone."""

    @staticmethod
    def forward(ctx: Any, op: Op, lengths: list[int | None], *flat: Any) -> Any:
        ctx.op, ctx.lengths = op, lengths
        inputs = tuple(_nested(flat, lengths))
        results = op.function(*inputs)
        assert op.setup_context is not None
        op.setup_context(ctx, inputs, results)
        return tuple(results) if op.returns_list else results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        watched = _Context(ctx, tuple(_nested(ctx.needs_input_grad[2:], ctx.lengths)))
        gradients = ctx.op.differentiate(watched, *([list(grads)] if ctx.op.returns_list else grads))
        return None, None, *_flat(gradients, ctx.lengths)


class _Context:
    """autograd's context with needs_input_grad by argument, a list of them for a list, as torch.library gives it."""

    def __init__(self, context: Any, needs_input_grad: tuple[Any, ...]) -> None:
        self._context, self.needs_input_grad = context, needs_input_grad

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _watched(tensors: list[Tensor]) -> bool:
    """Whether something has to see the op as torch.library knows it."""
    return (
        torch.compiler.is_compiling()
        or _get_current_dispatch_mode() is not None
        or peek_interpreter_stack() is not None
        or any(type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_meta for tensor in tensors)
    )


def _once(differentiate: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """`differentiate`, whose gradients raise where they are differentiated again.

    Left alone, autograd would differentiate what backward happens to compute by ordinary operations, and take the rest
    for constants: a wrong number without a word. `once_differentiable` does not help where the incoming gradient is a
    constant, as that of a sum is: it attaches its error to gradients that depend on one that asks for a gradient.
    """

    def once(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return differentiate(ctx, *grads)
        roots = [t for t in (*_tensors(grads), *ctx.saved_tensors) if isinstance(t, Tensor) and t.is_floating_point()]
        with torch.no_grad():
            gradients = differentiate(ctx, *grads)
        return tuple(
            [_refused(entry, roots) for entry in gradient] if isinstance(gradient, list) else _refused(gradient, roots)
            for gradient in gradients
        )

    return once


def _refused(gradient: Tensor | None, roots: list[Tensor]) -> Tensor | None:
    """The gradient, as a tensor that depends on `roots` and on a leaf, and raises in its backward."""
    return None if gradient is None else _Refuse.apply(gradient.detach().requires_grad_(), *roots)


class _Refuse(torch.autograd.Function):
    """The first tensor as it is; a backward that raises."""

    @staticmethod
    def forward(gradient: Tensor, *_roots: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(_ctx: Any, _inputs: tuple[Any, ...], _output: Any) -> None: ...

    @staticmethod
    def backward(_ctx: Any, *_grads: Any) -> Any:
        raise RuntimeError(
            "the ops of domain_ft_kernels are differentiable once; for a second derivative use backend='reference'"
        )


def _refuse_forward_mode(tensors: list[Tensor]) -> None:
    """Raise for tensors with tangents: the ops have no formula for them, and would give zeros."""
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors if tensor.is_floating_point()):
        raise NotImplementedError(
            "the ops of domain_ft_kernels have no forward-mode derivative (torch.func.jvp); use backend='reference'"
        )


def _holds_tensors(argument: Any) -> bool:
    """Whether an argument is a list of tensors."""
    return isinstance(argument, list) and all(isinstance(entry, Tensor) for entry in argument)


def _tensors(inputs: Iterable[Any]) -> Iterator[Tensor]:
    for argument in inputs:
        yield from (e for e in (argument if isinstance(argument, list) else (argument,)) if isinstance(e, Tensor))


def _flat(arguments: Iterable[Any], lengths: list[int | None]) -> Iterator[Any]:
    """The arguments, those that have a length entry by entry."""
    for argument, length in zip(arguments, lengths, strict=True):
        yield from (argument,) if length is None else argument


def _nested(flat: Iterable[Any], lengths: list[int | None]) -> Iterator[Any]:
    """The arguments that `_flat` laid flat."""
    entries = iter(flat)
    for length in lengths:
        yield next(entries) if length is None else [next(entries) for _ in range(length)]
