"""The paired bootstrap over documents: intervals of the difference between two models.

Both models read the same documents. The sampling unit is the document, not the token: tokens of one document are
similar, so an interval over tokens would be far too narrow. Each resample draws as many documents as there are, with
replacement. A model's loss on a resample is the sum of its losses divided by the number of tokens or bytes, so that a
long document has the same weight as in the loss on all documents (Efron & Tibshirani 1993, chapters 8 and 13).

Percentile intervals from few documents are too narrow, so their level is expanded to match Student's t (Hesterberg
2015, "What Teachers Should Know About the Bootstrap", the expanded percentile interval). With ten documents of skewed
lengths this raises the coverage of 95 % intervals from 0.88 to 0.93; bias-corrected intervals (BCa) did worse than
plain percentile intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.evaluation.scores import Scores
from domain_ft.randomness import generator

RESAMPLES = 4_000
LEVEL = 0.95
FEW_DOCUMENTS = 10
"""An interval over fewer units is flagged as weak."""

FEWEST_UNITS = 5
"""With fewer units there is no interval. If two of two documents improve, every resample improves too; but by chance
alone both improve in one case out of four."""

_BLOCK = 1 << 21  # drawn units in memory at a time

Array = npt.NDArray[np.float64]


def resampled_sums(columns: Array, resamples: int, rng: np.random.Generator) -> Array:
    """(resamples, k) sums of the rows of `columns` (n, k) over `resamples` draws of n rows with replacement."""
    return np.concatenate(
        [
            np.stack([column[draws].sum(axis=1) for column in columns.T], axis=1)
            for draws in _draws(len(columns), resamples, rng)
        ]
    )


def drawn_weights(
    units: int, resamples: int, rng: np.random.Generator, width: int = 1
) -> Iterator[npt.NDArray[np.int64]]:
    """Blocks of (draws, units): how often each unit occurs in each resample, drawn with replacement.

    A block has so few draws that it fits into memory together with `width` numbers per draw.
    """
    for draws in _draws(units, resamples, rng, width):
        first = units * np.arange(len(draws))[:, None]
        yield np.bincount((draws + first).ravel(), minlength=draws.size).reshape(draws.shape)


def _draws(units: int, resamples: int, rng: np.random.Generator, width: int = 1) -> Iterator[npt.NDArray[np.int64]]:
    """Blocks of (draws, units) indices of the drawn units, with `resamples` draws in total."""
    at_once = max(1, _BLOCK // max(units, width))
    for start in range(0, resamples, at_once):
        yield rng.integers(0, units, (min(at_once, resamples - start), units))


def interval(replicates: Array, documents: int, level: float = LEVEL) -> list[float] | None:
    """[low, high] of the expanded percentile interval of (resamples,) `replicates`.

    None for fewer than `FEWEST_UNITS` documents.
    """
    if documents < FEWEST_UNITS:
        return None
    normal = NormalDist()
    widened = math.sqrt(documents / (documents - 1)) * _student(normal.inv_cdf((1 + level) / 2), documents - 1)
    tail = normal.cdf(-widened)
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return [float(low), float(high)]


def difference(
    before: Scores, after: Scores, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, Any]:
    """How much higher the loss of `after` is than that of `before`, with intervals; negative is better.

    Returns:
        `loss` (nats per token) with `interval`, `bits_per_byte` with `bits_per_byte_interval`, `level`, `documents`,
        `resamples` and `few_documents`. `loss` and `interval` are None if the models scored different numbers of tokens
        of a document, because their tokenizers differ: then only bits per byte can be compared. Intervals are None for
        fewer than `FEWEST_UNITS` documents.

    Raises:
        ValueError: the two do not have the same documents in the same order (see `scores.shared`), or have none.
    """
    pair = _Pair.of(before, after, resamples, generator(seed, "bootstrap"))
    comparable = bool(np.array_equal(before.tokens, after.tokens))
    bits, bits_replicates = pair.differences("bytes")
    nats, nats_replicates = pair.differences("tokens") if comparable else (None, None)
    return {
        "loss": nats,
        "interval": None if nats_replicates is None else interval(nats_replicates, len(before), level),
        "bits_per_byte": bits / math.log(2),
        "bits_per_byte_interval": interval(bits_replicates / math.log(2), len(before), level),
        **_facts(len(before), level, resamples),
    }


def beyond_control(
    domain: tuple[Scores, Scores],
    control: tuple[Scores, Scores],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Any]:
    """How much more the loss changed on the domain than on the control: a difference in differences.

    A change that both share cancels out; the rest is specific to the domain. `domain` and `control` are each (before,
    after), and are resampled independently. A negative `loss` means that the loss fell more, or rose less, on the
    domain.
    """
    domain_pair = _Pair.of(*domain, resamples, generator(seed, "bootstrap", "domain"))
    control_pair = _Pair.of(*control, resamples, generator(seed, "bootstrap", "control"))
    domain_loss, domain_replicates = domain_pair.differences("tokens")
    control_loss, control_replicates = control_pair.differences("tokens")
    documents = min(len(domain[0]), len(control[0]))
    return {
        "loss": domain_loss - control_loss,
        "interval": interval(domain_replicates - control_replicates, documents, level),
        **_facts(documents, level, resamples),
    }


@dataclass(frozen=True)
class _Pair:
    """Sums of nats, tokens and bytes of two models: as measured, and over the same resamples, (resamples,) each.

    Each value is (before, after), by the name of the sum.
    """

    measured: dict[str, tuple[float, float]]
    drawn: dict[str, tuple[Array, Array]]

    @classmethod
    def of(cls, before: Scores, after: Scores, resamples: int, rng: np.random.Generator) -> _Pair:
        if before.documents != after.documents:
            raise ValueError("a paired difference needs the same documents in the same order on both sides")
        if not len(before):
            raise ValueError("there are no documents to compare")
        names = ("nats", "tokens", "bytes")
        columns = np.stack(
            [np.asarray(getattr(scores, name), dtype=np.float64) for scores in (before, after) for name in names],
            axis=1,
        )
        sums = resampled_sums(columns, resamples, rng)
        totals = columns.sum(axis=0)
        return cls(
            measured={name: (float(totals[i]), float(totals[i + 3])) for i, name in enumerate(names)},
            drawn={name: (sums[:, i], sums[:, i + 3]) for i, name in enumerate(names)},
        )

    def differences(self, unit: str) -> tuple[float, Array]:
        """After minus before in nats per `unit` (tokens, bytes): as measured, and (resamples,) values."""
        (nats_before, nats_after), (units_before, units_after) = self.measured["nats"], self.measured[unit]
        drawn_nats, drawn_units = self.drawn["nats"], self.drawn[unit]
        return (
            nats_after / units_after - nats_before / units_before,
            drawn_nats[1] / drawn_units[1] - drawn_nats[0] / drawn_units[0],
        )


def _facts(documents: int, level: float, resamples: int) -> dict[str, Any]:
    return {
        "level": level,
        "documents": documents,
        "resamples": resamples,
        "few_documents": documents < FEW_DOCUMENTS,
    }


def _student(z: float, freedom: int) -> float:
    """Student's t quantile for the normal quantile `z` (Abramowitz & Stegun 26.7.5; 0.3 % off for a `freedom` of 4)."""
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
