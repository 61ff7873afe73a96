"""Rules that split a corpus into training and held-out documents, and keep near copies on one side.

The unit is the group of similar documents. A group is held out if a hash of its content falls within the requested
share (`splitting.draw_parts`), whatever the seed and the order of reading. There are two more rules. A group larger
than the whole share goes to training, so that no big family makes up the evaluation split. If half or more of a
held-out document is in one training document, the group of the held-out document moves to training
(`move_contained`).

These rules may hold out nothing, mostly if the corpus is small. Then `prepared` holds out a group of fitting size
(`fitting_groups`), the end of a long document (`cut`, `sequences`), the smallest group or, as a last resort, documents
that may have near copies in training. A note in the corpus's statistics says which.
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

SHORTEST_CUT = 2_000  # a document with fewer characters is not cut into a training and an evaluation part
_SHORTEST_PART = 400  # the fewest characters to aim at for the evaluation part
_REACH = 1_000  # characters before and after a cut that are searched for a better place
_FITTING = 5.0  # a group fits if its size is within this factor of the share to hold out
# Where a text may be cut, best first: paragraph, line, sentence, word.
_BOUNDARIES = (re.compile("\n\n"), re.compile("\n"), re.compile(r"[.!?]\s|[。．！？।؟]"), re.compile(r"\s"))


def fitting_groups(groups: Integers, characters: Integers, fraction: float) -> list[int]:
    """Up to ten groups whose sizes in characters are near the share to hold out, the nearest first."""
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
        held_out: (documents,) True for documents drawn for evaluation.
        groups: (documents,) the group of each document.
        shingles_of: yields the shingles of the documents with these indices, in order.
        overlaps: yields the result of `Containment.of` for each of the documents with these indices, in order.

    Returns:
        held_out: (documents,) True for documents that are still for evaluation.
        contained: (documents,) for each held-out document, the largest share of it that one training document
            contains, as an estimate; 0 for training documents. The exact share is never below the Jaccard similarity of
            the two documents.
    """
    held_out = held_out.copy()
    owners = np.flatnonzero(held_out)
    index = Containment.of_documents(shingles_of(owners))
    contained = np.zeros(len(owners))
    moved = np.zeros(int(groups.max()) + 1, dtype=bool)  # by group
    joining = np.flatnonzero(~held_out)  # the training documents that are not compared yet
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
    """Cut a text into a training part and an evaluation part, which is about the last `fraction` of it.

    The aim is an evaluation part of at least 400 characters, even if that is more than `fraction`. The cut is then
    moved to a near end of a paragraph, line, sentence or word, if there is one. None if the text is shorter than
    `SHORTEST_CUT`, or if a part would be blank.
    """
    if len(text) < SHORTEST_CUT:
        return None
    part = max(int(len(text) * fraction), _SHORTEST_PART)
    place = _place(text, len(text) - part, part // 2)
    first, second = text[:place].rstrip(), text[place:].lstrip()
    return (first, second) if first and second else None


def sequences(text: str, length: int = 2_000) -> list[str]:
    """Cut a text at the same kinds of places as `cut`, into parts of about half to twice `length` characters.

    A text of at most twice `length` is one part. White space around a part is removed; blank parts are left out.
    """
    places = [0]
    while len(text) - places[-1] > 2 * length:
        places.append(_place(text, places[-1] + length, length // 2))
    parts = [text[start:end].strip() for start, end in zip(places, [*places[1:], len(text)], strict=True)]
    return [part for part in parts if part]


def _place(text: str, target: int, reach: int) -> int:
    """The offset at which to cut a text near `target`: the nearest boundary of the best kind within `reach`.

    The reach is limited to `_REACH` and to half of `target`. Without a boundary, the offset is `target`, or the first
    one after it that does not separate a combining character from its base.
    """
    reach = min(reach, target // 2, _REACH)
    for boundary in _BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(text, target - reach, target + reach)]
        if ends:
            return min(ends, key=lambda end: abs(end - target))
    while target < len(text) - 1 and unicodedata.combining(text[target]):
        target += 1
    return target
