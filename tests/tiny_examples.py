"""A few labelled examples in memory, with the interface of a task's split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.examples import Example
from domain_ft.randomness import generator

WORDS = {
    "law": [
        "licence",
        "licensee",
        "agreement",
        "liability",
        "copyright",
        "notice",
        "sublicense",
        "work",
        "terms",
        "holder",
    ],
    "medicine": [
        "abnormality",
        "skeletal",
        "stature",
        "growth",
        "bones",
        "lesion",
        "heart",
        "delayed",
        "disorder",
        "system",
    ],
    "animals": ["fox", "dog", "quick", "brown", "lazy", "jumps", "bird", "fish", "wolf", "horse"],
}


class ExampleList:
    """A split in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = list(examples)

    @property
    def key(self) -> str:
        """A hash of the content."""
        return hashlib.sha256(repr(self._examples).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def take(self, indices: npt.ArrayLike) -> ExampleList:
        """The examples with these indices."""
        return ExampleList([self._examples[index] for index in np.asarray(indices).tolist()])


def toy_examples(count: int, *, seed: int = 0, pairs: bool = False, longest: int = 20) -> ExampleList:
    """`count` examples of the classes of WORDS in turn, which a model can tell apart by their words."""
    examples = []
    for index in range(count):
        name = list(WORDS)[index % len(WORDS)]
        draw = generator(seed, "toy example", index)
        texts = [" ".join(draw.choice(WORDS[name], size=draw.integers(2, longest))) for _ in range(2)]
        examples.append(Example(f"{seed}-{index}", texts[0], (name,), pair=texts[1] if pairs else None))
    return ExampleList(examples)
