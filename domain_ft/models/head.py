"""The output projection, without logits: what goes into it, and what it multiplies with.

Every masked and causal LM of transformers ends in `get_output_embeddings()`. Its input is taken there, so that the
fused linear cross-entropy can take the projection's place; nothing is known of any model here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def captured_input(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Inside the block the output projection multiplies nothing: it puts its input on the list and hands it on.

    May be nested; the projection is as before when the block ends, by an error too.

    >>> with captured_input(model) as captured:  # doctest: +SKIP
    ...     model(input_ids)
    >>> hidden = captured[-1]
    """
    # An instance's own `forward` goes before its class's; accelerate's hooks sit in the same place, and are put back.
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
def only_rows(model: PreTrainedModel, rows: Tensor | None) -> Iterator[list[bool]]:
    """Inside the block the model's body hands only the tokens `rows` (n,) of its one row on to the head.

    Spares a masked LM's head its transform of the tokens that ask for nothing. The list is empty where the body was not
    called as a whole (OPT calls its decoder): the rows are then still to be taken.
    """
    taken: list[bool] = []

    if rows is None or model.base_model is model:
        yield taken
        return

    def take(_module: nn.Module, _args: Any, output: Any) -> None:
        output.last_hidden_state = output.last_hidden_state.index_select(1, rows)
        taken.append(True)

    handle = model.base_model.register_forward_hook(take)
    try:
        yield taken
    finally:
        handle.remove()


def projection(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """Weight (V, D) and bias (V,), or None, of the output projection."""
    module = model.get_output_embeddings()
    return module.weight, getattr(module, "bias", None)
