"""A model's losses on held-out text, by document.

`language_model` computes them, and a run stores them as a small JSON file. The paired bootstrap (`bootstrap`) and the
report read them without torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from domain_ft.errors import CheckpointError
from domain_ft.json_files import loads
from domain_ft.storage import write_atomic

LARGEST_EXPONENT = 700.0  # exp() overflows a float64 from about 710 on


@dataclass(frozen=True, eq=False)
class Scores:
    """Sums of losses by document, from which means are computed.

    Attributes:
        documents: (n,) the documents' ids, each once.
        nats: (n,) float64, the sum of the losses of a document's scored tokens, in nats.
        tokens: (n,) int64, the number of scored tokens.
        bytes: (n,) int64, the UTF-8 bytes of the text of the scored tokens.
    """

    documents: tuple[str, ...]
    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        sizes = {len(self.documents), len(self.nats), len(self.tokens), len(self.bytes)}
        if len(sizes) != 1:
            raise ValueError(f"scores of unequal lengths: {sorted(sizes)}")
        if len(set(self.documents)) != len(self.documents):
            raise ValueError("scores with a document twice")

    def __len__(self) -> int:
        return len(self.documents)

    def summary(self) -> dict[str, float | int]:
        """Loss per token (nats), perplexity (at most e⁷⁰⁰), bits per byte, and the numbers of tokens and bytes.

        Raises:
            ValueError: no token or no byte was scored.
        """
        nats, tokens, size = float(self.nats.sum()), int(self.tokens.sum()), int(self.bytes.sum())
        if not tokens or not size:
            raise ValueError(f"nothing was scored: {tokens} tokens, {size} bytes in {len(self)} documents")
        loss = nats / tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, LARGEST_EXPONENT)),
            "bits_per_byte": nats / math.log(2) / size,
            "tokens": tokens,
            "bytes": size,
        }

    def only(self, documents: set[str]) -> Scores:
        """The scores of these `documents` only, in the existing order."""
        kept = np.array([document in documents for document in self.documents], dtype=bool)
        return Scores(
            documents=tuple(document for document in self.documents if document in documents),
            nats=self.nats[kept],
            tokens=self.tokens[kept],
            bytes=self.bytes[kept],
        )

    def save(self, path: Path) -> None:
        """Write the scores as a JSON object of four lists, without loss of precision."""
        columns = {
            "documents": list(self.documents),
            "nats": self.nats.tolist(),
            "tokens": self.tokens.tolist(),
            "bytes": self.bytes.tolist(),
        }
        write_atomic(path, json.dumps(columns, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            columns = loads(path.read_text(encoding="utf-8"))
            return cls(
                documents=tuple(columns["documents"]),
                nats=np.asarray(columns["nats"], dtype=np.float64),
                tokens=np.asarray(columns["tokens"], dtype=np.int64),
                bytes=np.asarray(columns["bytes"], dtype=np.int64),
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise CheckpointError(
                "the scores of a run cannot be read", where=str(path), fix="evaluate the run again"
            ) from error


def shared(*scores: Scores) -> list[Scores]:
    """Each of `scores`, with only the documents that all of them have, in the order of the first.

    With different tokenizers a budget of tokens covers different documents, but models can only be compared on the
    same documents.
    """
    common = set.intersection(*(set(one.documents) for one in scores))
    order = [document for document in scores[0].documents if document in common]
    return [_ordered(one, order) for one in scores]


def _ordered(scores: Scores, documents: list[str]) -> Scores:
    place = {document: index for index, document in enumerate(scores.documents)}
    index = np.array([place[document] for document in documents], dtype=np.int64)
    return Scores(tuple(documents), scores.nats[index], scores.tokens[index], scores.bytes[index])
