"""The input and the weights of the output projection. The fused linear cross-entropy needs both, and replaces it.

transformers returns the projection of any masked or causal LM (`get_output_embeddings()`), so nothing here depends on
the architecture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def captured_input(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Inside the block, the output projection is the identity, and appends its input to the list.

    The input is (1, T, D) for a packed row, (B, longest, D) for a padded batch. Blocks can be nested. The projection is
    restored when the block ends, also after an error.

    >>> with captured_input(model) as captured:  # doctest: +SKIP
    ...     model(input_ids)
    >>> hidden = captured[-1]
    """
    # An instance attribute `forward` shadows the class's method. If accelerate has set one, it is restored.
    attributes = vars(model.get_output_embeddings())
    captured: list[Tensor] = []

    def forward(hidden: Tensor) -> Tensor:
        captured.append(hidden)
        return hidden

    before = attributes.get("forward")
    attributes["forward"] = forward
    try:
        yield captured
    finally:
        if before is None:
            del attributes["forward"]
        else:
            attributes["forward"] = before


@contextlib.contextmanager
def captured_states(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Inside the block, the list gets the last hidden states of each forward pass of the body.

    They are (1, T, D) for a packed row, before `only_rows` selects positions. The list stays empty if the body's
    forward is not called: see `only_rows`.
    """
    captured: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        captured.append(output.last_hidden_state)

    handle = model.base_model.register_forward_hook(keep, prepend=True)
    try:
        yield captured
    finally:
        handle.remove()


@contextlib.contextmanager
def only_rows(model: PreTrainedModel, rows: Tensor | None) -> Iterator[list[bool]]:
    """Inside the block, the model's body passes only the positions `rows` (n,) of a packed row to the head.

    A masked LM's head then transforms only these positions. The list gets True when they were selected. If `rows` is
    given and the list is empty, the body's forward was not called (OPT calls a part of its body instead), and the
    caller has to select them.
    """
    taken: list[bool] = []

    if rows is None or model.base_model is model:
        yield taken
        return

    def take(_module: nn.Module, _args: Any, output: Any) -> None:
        output.last_hidden_state = output.last_hidden_state.index_select(1, rows)  # (1, T, D) -> (1, n, D)
        taken.append(True)

    handle = model.base_model.register_forward_hook(take)
    try:
        yield taken
    finally:
        handle.remove()


def projection(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """The output projection's weight (V, D), and its bias (V,) or None."""
    module = model.get_output_embeddings()
    return module.weight, getattr(module, "bias", None)
