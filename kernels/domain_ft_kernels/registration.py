"""Registration of ops with torch: torch.library ops in traces, plain autograd.Functions in eager calls.

A torch.library op can be traced, compiled and seen by modes (FakeTensor, selective checkpointing, FLOP counters), but
its Python overhead is about 0.15 ms per call, and 0.36 ms with backward. For the 48 to 72 linear layers of a small
model, that is more than a GPU needs to compute them. So a call that no trace or mode observes runs the same functions
directly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    is_batchedtensor,
    is_legacy_batchedtensor,
    peek_interpreter_stack,
)
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode


class Op:
    """An op of this package, to be called with the arguments of its schema.

    Args:
        name: the op's name without the namespace, `domain_ft_kernels::`.
        schema: arguments and results; several result tensors are a tuple, or with `Tensor[]` a list.
        function: computes the results.
        fake: returns, for the same arguments, empty tensors with the shapes and types of the results.
        mutates: the arguments that the op writes to.

    Attributes:
        public_name: the name of the public function that calls the op, for messages.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        function: Callable[..., Any],
        fake: Callable[..., Any],
        *,
        mutates: Iterable[str] = (),
    ) -> None:
        self.name, self.function, self.mutates = name, function, tuple(mutates)
        self.public_name = re.sub("(_with_gradients|_backward_?|_finish|_triton)+$", "", name)
        self.registered = torch.library.custom_op(
            f"domain_ft_kernels::{name}", function, mutates_args=self.mutates, schema=schema
        )
        self.registered.register_fake(fake)
        self.returns_list = schema.endswith("Tensor[]")
        self.setup_context: Callable[..., None] | None = None
        self.differentiate: Callable[..., tuple[Any, ...]] | None = None

    def differentiable(self, differentiate: Callable[..., tuple[Any, ...]], setup_context: Callable[..., None]) -> Op:
        """Register a backward as with `torch.library.register_autograd`; returns the op.

        The gradients cannot be differentiated again: `_final` attaches a node that raises.
        """

        def differentiate_any(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            try:
                return differentiate(ctx, *grads)
            except RuntimeError as error:
                if any(is_batchedtensor(grad) or is_legacy_batchedtensor(grad) for grad in _tensors(grads)):
                    raise self._no_rule("with batched gradients (is_grads_batched=True)") from error
                raise

        def differentiate_once(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            if not torch.is_grad_enabled():
                return differentiate_any(ctx, *grads)
            origins = [t for t in (*ctx.saved_tensors, *_tensors(grads)) if t is not None and t.requires_grad]
            with torch.no_grad():
                gradients = differentiate_any(ctx, *grads)
            return self._final(gradients, origins)

        self.differentiate, self.setup_context = differentiate_once, setup_context
        self.registered.register_autograd(differentiate_once, setup_context=setup_context)
        return self

    def _final(self, gradients: tuple[Any, ...], origins: list[Tensor]) -> tuple[Any, ...]:
        """The same gradients, tied to their `origins` by a node that raises if they are differentiated again.

        `once_differentiable` raises only if the incoming gradient requires a gradient. With a constant incoming
        gradient, like that of a sum, a second derivative would be silently wrong, or disconnected from the inputs.
        """
        lengths = [len(entry) if isinstance(entry, list) else None for entry in gradients]
        flat = list(_flat(gradients, lengths))
        places = [place for place, entry in enumerate(flat) if entry is not None]
        marked = _Final.apply(self.public_name, len(places), *(flat[place] for place in places), *origins)
        for place, entry in zip(places, marked, strict=True):
            flat[place] = entry
        return tuple(_nested(flat, lengths))

    def __call__(self, *inputs: Any) -> Any:
        tensors = list(_tensors(inputs))
        if not torch.compiler.is_compiling():
            self._check_transforms(tensors)
        if self.mutates or _watched(tensors):  # autograd has to see the writes
            return self.registered(*inputs)
        if self.differentiate is None or not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
            return self.function(*inputs)
        lengths = [len(argument) if _holds_tensors(argument) else None for argument in inputs]
        results = _Eager.apply(self, lengths, *_flat(inputs, lengths))
        return list(results) if self.returns_list else results

    def _check_transforms(self, tensors: list[Tensor]) -> None:
        """Raise under forward-mode differentiation and torch.func transforms, for which the op has no rules."""
        what = None
        if peek_interpreter_stack() is not None:
            keys = [entry.key() for entry in get_interpreter_stack() or []]
            what = "under torch.func transforms" if any(key != TransformType.Functionalize for key in keys) else None
        elif forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
            what = "with forward-mode derivatives (torch.autograd.forward_ad)"
        if what is not None:
            raise self._no_rule(what)

    def _no_rule(self, what: str) -> NotImplementedError:
        return NotImplementedError(
            f"{self.public_name} does not work {what} on this backend; pass backend='reference', which is plain PyTorch"
        )


class _Eager(torch.autograd.Function):
    """The op as an autograd.Function. Lists of tensors are flattened, since autograd does not look inside them."""

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


class _Final(torch.autograd.Function):
    """The identity on gradients, with a backward that raises. The tensors after the first `count` are their origins."""

    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Any, ...]:
        raise RuntimeError(
            f"{ctx.name} has no second derivative on this backend: its gradient cannot be differentiated again"
            " (create_graph=True); pass backend='reference', which is plain PyTorch"
        )


class _Context:
    """autograd's context, with needs_input_grad nested like the arguments, as in torch.library."""

    def __init__(self, context: Any, needs_input_grad: tuple[Any, ...]) -> None:
        self._context, self.needs_input_grad = context, needs_input_grad

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def has_values(tensor: Tensor) -> bool:
    """Whether the tensor's values can be read: not in a trace or torch.func, nor if it is a subclass or on `meta`."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not tensor.is_meta
        and peek_interpreter_stack() is None
    )


def _watched(tensors: list[Tensor]) -> bool:
    """Whether a trace, a mode or a tensor subclass has to see the torch.library op."""
    return (
        torch.compiler.is_compiling()
        or _get_current_dispatch_mode() is not None
        or peek_interpreter_stack() is not None
        or any(type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_meta for tensor in tensors)
    )


def _holds_tensors(argument: Any) -> bool:
    """Whether an argument is a list of tensors, or an empty list."""
    return isinstance(argument, list) and all(isinstance(entry, Tensor) for entry in argument)


def _tensors(inputs: Iterable[Any]) -> Iterator[Tensor]:
    for argument in inputs:
        yield from (e for e in (argument if isinstance(argument, list) else (argument,)) if isinstance(e, Tensor))


def _flat(arguments: Iterable[Any], lengths: list[int | None]) -> Iterator[Any]:
    """The arguments with lists flattened; `lengths` is None for arguments that are no lists."""
    for argument, length in zip(arguments, lengths, strict=True):
        yield from (argument,) if length is None else argument


def _nested(flat: Iterable[Any], lengths: list[int | None]) -> Iterator[Any]:
    """The arguments that `_flat` flattened."""
    entries = iter(flat)
    for length in lengths:
        yield next(entries) if length is None else [next(entries) for _ in range(length)]
