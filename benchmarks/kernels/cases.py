"""The shapes that are counted, compiled and timed here: four models' linear layers and heads."""

from __future__ import annotations

from dataclasses import dataclass

TOKENS = 16_384
LABELLED = 0.15
"""Share of a masked LM's tokens that have a label; in a causal LM all tokens have one."""

RANK = 16
DROPOUT = 0.1


@dataclass(frozen=True)
class Linear:
    """Linear layers that read the same input; they occur `count` times in a model.

    Attributes:
        inputs: K.
        outputs: N of each layer that reads the input.
        count: how often they occur in the model.
        transposed: whether the weight has shape (K, N), as in GPT-2's Conv1D.
        bias: whether the layers have one.
    """

    inputs: int
    outputs: tuple[int, ...]
    count: int
    transposed: bool = False
    bias: bool = True

    def apart(self) -> tuple[Linear, ...]:
        """The same layers one by one."""
        return tuple(Linear(self.inputs, (n,), self.count, self.transposed, self.bias) for n in self.outputs)


@dataclass(frozen=True)
class Head:
    """A language-model head, and the share of its tokens that have a label.

    Attributes:
        vocabulary: V.
        hidden: D.
        labelled: share of the tokens that have a label.
        bias: whether it has one.
    """

    vocabulary: int
    hidden: int
    labelled: float
    bias: bool

    def rows(self, tokens: int = TOKENS) -> int:
        """How many of `tokens` have a label."""
        return round(tokens * self.labelled)


@dataclass(frozen=True)
class Model:
    """The layers of a model that the kernels compute."""

    name: str
    linears: tuple[Linear, ...]
    head: Head


def _encoder(name: str, hidden: int, layers: int) -> Model:
    """A BERT: q, k and v on one input, the output projection, and a feed-forward block of four times the width."""
    return Model(
        name,
        (
            Linear(hidden, (hidden,) * 3, layers),
            Linear(hidden, (hidden,), layers),
            Linear(hidden, (4 * hidden,), layers),
            Linear(4 * hidden, (hidden,), layers),
        ),
        Head(30_522, hidden, LABELLED, bias=True),
    )


MODELS = (
    _encoder("BERT-base", 768, 12),
    _encoder("MiniLM", 384, 6),
    Model(
        "GPT-2",
        (
            Linear(768, (2304,), 12, transposed=True),
            Linear(768, (768,), 12, transposed=True),
            Linear(768, (3072,), 12, transposed=True),
            Linear(3072, (768,), 12, transposed=True),
        ),
        Head(50_257, 768, 1.0, bias=False),
    ),
    Model(
        "SmolLM2",
        (
            Linear(576, (576, 192, 192), 30, bias=False),
            Linear(576, (576,), 30, bias=False),
            Linear(576, (1536, 1536), 30, bias=False),
            Linear(1536, (576,), 30, bias=False),
        ),
        Head(49_152, 576, 1.0, bias=False),
    ),
)


def model(name: str) -> Model:
    """The model called `name`."""
    return next(m for m in MODELS if m.name == name)
