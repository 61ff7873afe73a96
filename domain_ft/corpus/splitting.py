"""Which texts are held out: whole groups of copies, near copies and texts of one source, by a hash of their content.

No seed and no order of reading has a part in it. There are two rules, both on the smallest hash of a group:

- `draw_parts`: a group goes where its hash falls. More documents leave those there were where they are, and shares are
  met on average (`adapt`, `data split`).
- `draw`: groups are taken in the order of their hashes until the share of each class is reached (`classify`,
  `instruct`, `tag`).

Near copies are found by `near_copies`. Where most texts are alike, `groupings` joins fewer of them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.duplicates import FAMILY, NEAR
from domain_ft.corpus.near_copies import Bools, Fingerprints, Integers, duplicate_groups
from domain_ft.quoting import shown

JOINED = {"near copies": FAMILY, "nearest copies": NEAR, "copies": None}
"""What makes a group that is not parted, by the similarity from which on texts are joined: the first that leaves enough
to hold out."""


def lowest_hashes(groups: Integers, hashes: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """(groups,) the smallest hash of each group's members. `groups` is (texts,), numbered from 0."""
    lowest = np.full(int(groups.max()) + 1 if len(groups) else 0, 2**64 - 1, dtype=np.uint64)
    np.minimum.at(lowest, groups, np.asarray(hashes, dtype=np.uint64))
    return lowest


def draw_parts(keys: npt.NDArray[np.uint64], sizes: npt.ArrayLike, shares: Sequence[float]) -> Integers:
    """(groups,) the part of each: 0 for training, 1 for the first share, 2 for the second.

    A group that is larger than the share of its part trains.

    Args:
        keys: (groups,) a hash of each, evenly spread over 64 bits.
        sizes: (groups,) how much of the whole each is.
        shares: of the parts that are split off.
    """
    sizes = np.asarray(sizes)
    parts = np.zeros(len(keys), dtype=np.int64)
    end = 0.0
    for part, share in enumerate(shares, 1):
        begin, end = end, end + share
        falls = (keys >= np.uint64(math.ceil(begin * 2**64))) & (keys < np.uint64(math.ceil(end * 2**64)))
        parts[falls & (sizes <= max(share * sizes.sum(), 1))] = part
    return parts


def groupings(
    prints: Fingerprints, sources: Sequence[str] = (), alike: Sequence[str] = ()
) -> Iterator[tuple[str, Integers]]:
    """What is joined, as in `JOINED`, and the (texts,) group of each: the widest groups first.

    Where most texts are much alike, such as those of one template, the widest would be one group, and nothing could be
    held out: the caller goes on to the next.

    Args:
        prints: of the texts.
        sources: (texts,) texts of one source are always joined; empty where a text has none, or all of it.
        alike: (texts,) texts of one such name are joined too, but where copies alone are.
    """
    for words, similarity in JOINED.items():
        yield words, duplicate_groups(prints, sources, alike if similarity else (), similarity=similarity)


def nearest_group(groups: Integers, hashes: npt.ArrayLike, wanted: float, among: Bools) -> int | None:
    """The group whose size is nearest to what is to be held out, of those with a text `among`; then the lowest hash.

    None where fewer than two groups have one, so that none would be left to train on.
    """
    candidates = np.unique(groups[among])
    if len(candidates) < 2:
        return None
    sizes, keys = np.bincount(groups), lowest_hashes(groups, hashes)
    return min(map(int, candidates), key=lambda group: (abs(math.log(sizes[group] / max(wanted, 1))), int(keys[group])))


def why_none_held_out(groups: Integers, labels: Sequence[tuple[str, ...]], fraction: float) -> str:
    """Why `draw` of the same values held out nothing, in a sentence.

    >>> why_none_held_out(np.zeros(29, np.int64), [("a",)] * 29, 0.1)
    'all 29 are copies or near copies of each other, or share a source: one group, which is not parted'
    """
    sizes = np.bincount(np.unique(groups, return_inverse=True)[1]) if len(groups) else np.zeros(0, np.int64)
    if len(sizes) == 1:
        alike = "there is one alone" if len(groups) == 1 else f"all {len(groups):,} are copies or near copies of each "
        return alike if len(groups) == 1 else f"{alike}other, or share a source: one group, which is not parted"
    limit = max(fraction * len(groups), 1)
    parted = f"they are {len(sizes):,} groups of copies, near copies and texts of one source, which are not parted"
    if sizes.min() > limit:
        return f"{parted}, and each is larger than the share of {fraction:.0%}: the smallest has {sizes.min():,}"
    holders: dict[str, set[int]] = defaultdict(set)
    for group, own in zip(groups.tolist(), labels, strict=True):
        for label in own:
            holders[label].add(group)
    single = sorted(label for label, its_groups in holders.items() if len(its_groups) == 1)
    if single:
        few = f"{len(single):,} of the {len(holders):,} classes have one group alone"
        return f"{parted}; {few}, such as '{shown(single[0])}', and every class keeps one to learn from"
    return f"{parted}, and every class would lose its last group"


def draw(groups: Integers, hashes: npt.ArrayLike, labels: Sequence[tuple[str, ...]], fraction: float) -> Bools:
    """(examples,) True for those that are held out: whole groups, the same share of every class.

    A class of which all examples are in one group is not held out; nor is a group larger than the share asked for of
    all examples, nor the last group of any label.

    Args:
        groups: (examples,) the number of the group of each.
        hashes: (examples,) a 64-bit hash of each one's content.
        labels: (examples,) of each.
        fraction: the share to hold out.
    """
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    count = int(groups.max()) + 1 if len(groups) else 0
    sizes = np.bincount(groups, minlength=count)
    keys = lowest_hashes(groups, hashes)
    frequency = Counter(itertools.chain.from_iterable(labels))
    holders: dict[str, set[int]] = defaultdict(set)  # the groups in which a label occurs
    stratum_of: list[Counter[str]] = [Counter() for _ in range(count)]
    for group, own in zip(groups.tolist(), labels, strict=True):
        for label in own:
            holders[label].add(group)
        # Of several labels the rarest, since the common ones are in every part anyway.
        stratum_of[group][min(own, key=lambda label: (frequency[label], label)) if own else ""] += 1
    strata: dict[str, list[int]] = defaultdict(list)
    for group, counter in enumerate(stratum_of):
        strata[min(counter, key=lambda label: (-counter[label], label))].append(group)
    left = {label: len(its_groups) for label, its_groups in holders.items()}
    of_group: list[set[str]] = [set() for _ in range(count)]
    for label, its_groups in holders.items():
        for group in its_groups:
            of_group[group].add(label)
    limit = max(fraction * len(labels), 1)
    held = np.zeros(count, dtype=bool)
    owed = 0.0
    for stratum in sorted(strata, key=lambda name: (len(strata[name]), name)):
        members = sorted(strata[stratum], key=lambda group: (int(keys[group]), group))
        # What a class is short of, or has too many, the next one makes up for: by one group's worth at most, so that
        # many tiny classes together get their share and none is taken from much more than its own.
        owed = min(max(owed, -1.0), 1.0) + fraction * int(sizes[members].sum())
        for group in members:
            size = int(sizes[group])
            if owed - size / 2 < 0 or size > limit or any(left[label] < 2 for label in of_group[group]):
                continue
            held[group] = True
            owed -= size
            for label in of_group[group]:
                left[label] -= 1
    return held[groups]
