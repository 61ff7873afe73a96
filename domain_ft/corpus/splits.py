"""Splits: which documents train and which are held out, so that no held-out text has a near copy in training.

The unit is the group of similar documents, not the document. A group is held out if a hash of its content falls within
the requested share, independently of seeds, the order of reading and other documents. Two rules are added. A group
larger than the whole share goes to training, so that no big family becomes the evaluation. A held-out document half of
which is in a training document moves to training with its group.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.duplicates import CONTAINED, Containment, Shingles

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Overlap = tuple[Integers, npt.NDArray[np.float64]]

SHORTEST_CUT = 2_000  # the fewest characters of a document that is cut into a training and an evaluation part
_SHORTEST_PART = 400  # the fewest characters of the evaluation part
_REACH = 1_000  # characters around a cut that are searched for a better place
# If no group was drawn, one is held out whose size is within this factor of the share.
_FITTING = 5.0
# Where a text may be cut, best first: paragraph, line, sentence, word.
_BOUNDARIES = (re.compile("\n\n"), re.compile("\n"), re.compile(r"[.!?]\s|[。．！？।؟]"), re.compile(r"\s"))


def fitting_groups(groups: Integers, characters: Integers, fraction: float) -> list[int]:
    """Up to ten groups whose size is near the share to hold out, the nearest first."""
    sizes = np.bincount(groups, weights=characters)
    if len(sizes) < 2:
        return []
    distance = np.abs(np.log(np.maximum(sizes, 1) / max(fraction * sizes.sum(), 1)))
    return [int(group) for group in np.argsort(distance, kind="stable")[:10] if distance[group] <= np.log(_FITTING)]


def move_contained(
    held_out: Bools,
    groups: Integers,
    shingles_of: Callable[[Integers], Iterator[Shingles]],
    overlaps: Callable[[Containment, Integers], Iterator[Overlap]],
) -> tuple[Bools, npt.NDArray[np.float64]]:
    """Move groups to training until no held-out document is contained, by half or more, in one training document.

    Args:
        held_out: (documents,) True where the document was drawn for evaluation.
        groups: (documents,) the group of each document.
        shingles_of: gives the shingles of some documents, in their order.
        overlaps: gives `index.of` the shingles of some documents, in their order.

    Returns:
        held_out: (documents,) what is left for evaluation.
        contained: (documents,) the greatest share of each document that is in one training document, estimated; 0 for
            training documents. An upper bound of the Jaccard similarity.
    """
    held_out = held_out.copy()
    owners = np.flatnonzero(held_out)
    index = Containment.of_documents(shingles_of(owners))
    contained = np.zeros(len(owners))
    moved = np.zeros(int(groups.max()) + 1, dtype=bool)  # by group
    joining = np.flatnonzero(~held_out)  # the training documents that were not compared yet
    while len(joining) and held_out.any():
        for found, shares in overlaps(index, joining):
            contained[found] = np.maximum(contained[found], shares)
            moved[groups[owners[found[shares >= CONTAINED]]]] = True
        joining = np.flatnonzero(held_out & moved[groups])
        held_out[joining] = False
    whole = np.zeros(len(held_out))
    whole[owners] = contained
    return held_out, np.where(held_out, whole, 0.0)


def cut(text: str, fraction: float) -> tuple[str, str] | None:
    """Cut a text in two at a paragraph, line, sentence or word; the last `fraction` of it is for evaluation.

    A language without spaces is cut at a sentence, or between two characters. None where the text is too short.
    """
    if len(text) < SHORTEST_CUT:
        return None
    part = max(int(len(text) * fraction), _SHORTEST_PART)
    place = _place(text, len(text) - part, part // 2)
    first, second = text[:place].rstrip(), text[place:].lstrip()
    return (first, second) if first and second else None


def sequences(text: str, length: int = 2_000) -> list[str]:
    """A text in sequences of about `length` characters, cut as `cut` does, so that evaluation has units to count."""
    places = [0]
    while len(text) - places[-1] > 2 * length:
        places.append(_place(text, places[-1] + length, length // 2))
    parts = [text[start:end].strip() for start, end in zip(places, [*places[1:], len(text)], strict=True)]
    return [part for part in parts if part]


def _place(text: str, target: int, reach: int) -> int:
    """Where to cut a text near `target`: at the nearest boundary of the best kind within `reach`."""
    reach = min(reach, target // 2, _REACH)
    for boundary in _BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(text, target - reach, target + reach)]
        if ends:
            return min(ends, key=lambda end: abs(end - target))
    while target < len(text) - 1 and unicodedata.combining(text[target]):
        target += 1
    return target
