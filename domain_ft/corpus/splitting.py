"""Chooses held-out texts: whole groups of copies, near copies and texts of one source, by a hash of their content.

The choice does not depend on a seed or on the order of reading. There are two rules; both use the smallest hash of a
group:

- `draw_parts`: the hash of a group decides its part. So added documents seldom move others, and shares are met on
  average (`adapt`, `data split`).
- `draw`: groups are taken in the order of their hashes until the share of each class is reached (`classify`,
  `instruct`, `tag`).

Near copies are found by `near_copies`. For texts most of which are alike, `groupings` also forms smaller groups.
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
from domain_ft.errors import CorpusError
from domain_ft.quoting import shown

JOINED = {"near copies": FAMILY, "nearest copies": NEAR, "copies": None}
"""What is grouped -> the similarity from which two texts are joined; None for exact copies only. Callers use the first
entry that leaves enough to hold out."""


def lowest_hashes(groups: Integers, hashes: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """(groups,) the smallest hash of each group's members. `groups` is (texts,), numbered from 0."""
    lowest = np.full(int(groups.max()) + 1 if len(groups) else 0, 2**64 - 1, dtype=np.uint64)
    np.minimum.at(lowest, groups, np.asarray(hashes, dtype=np.uint64))
    return lowest


def draw_parts(keys: npt.NDArray[np.uint64], sizes: npt.ArrayLike, shares: Sequence[float]) -> Integers:
    """(groups,) the part of each group: 0 for training, 1 for the first share, 2 for the second.

    A group that is larger than the share of its part goes to training.

    Args:
        keys: (groups,) uniform 64-bit hashes.
        sizes: (groups,) in any unit.
        shares: of the parts other than training.
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
    """(key of `JOINED`, (texts,) the group of each text) for each way to group texts, from coarse to fine.

    If most texts are alike, such as texts from one template, the first grouping may be a single group. Nothing can be
    held out from it, and the caller takes the next grouping.

    Args:
        prints: of the texts.
        sources: (texts,) names; texts of one source are always grouped. Empty names are ignored.
        alike: (texts,) like `sources`, but ignored if only copies are grouped.
    """
    for words, similarity in JOINED.items():
        yield words, duplicate_groups(prints, sources, alike if similarity else (), similarity=similarity)


def nearest_group(groups: Integers, hashes: npt.ArrayLike, wanted: float, among: Bools) -> int | None:
    """The group whose size is nearest to `wanted`, by ratio, among the groups with a text for which `among` is True.

    Of equally near groups, the one with the lowest hash is chosen. None if fewer than two groups have such a text:
    nothing would be left to train on.
    """
    candidates = np.unique(groups[among])
    if len(candidates) < 2:
        return None
    sizes, keys = np.bincount(groups), lowest_hashes(groups, hashes)
    return min(map(int, candidates), key=lambda group: (abs(math.log(sizes[group] / max(wanted, 1))), int(keys[group])))


def unused_test_ids(test: str | None) -> CorpusError:
    """The error for --test-ids if there is a test split already. `test` is the value of --test."""
    if test is not None:
        return CorpusError("--test and --test-ids are both given", fix="give one of them")
    return CorpusError("--test-ids has no effect: the data already has a test split", fix="leave it out")


def why_none_held_out(groups: Integers, labels: Sequence[tuple[str, ...]], fraction: float) -> str:
    """Why `draw` held out nothing with these arguments, as a clause. `groups` must not be empty.

    >>> why_none_held_out(np.zeros(29, np.int64), [("a",)] * 29, 0.1)
    'all 29 are copies or near copies of each other, or share a source: one group, which is not split'
    """
    sizes = np.bincount(np.unique(groups, return_inverse=True)[1]) if len(groups) else np.zeros(0, np.int64)
    if len(sizes) == 1:
        if len(groups) == 1:
            return "there is only one"
        count = f"all {len(groups):,}"
        return f"{count} are copies or near copies of each other, or share a source: one group, which is not split"
    limit = max(fraction * len(groups), 1)
    reason = f"they are {len(sizes):,} groups of copies, near copies and texts of one source, which are not split"
    if sizes.min() > limit:
        return f"{reason}, and each is larger than the share of {fraction:.0%}: the smallest has {sizes.min():,}"
    holders: dict[str, set[int]] = defaultdict(set)
    for group, names in zip(groups.tolist(), labels, strict=True):
        for label in names:
            holders[label].add(group)
    single = sorted(label for label, its_groups in holders.items() if len(its_groups) == 1)
    if single:
        few = f"{len(single):,} of the {len(holders):,} classes have only one group"
        return f"{reason}; {few}, such as '{shown(single[0])}', and every class keeps one to learn from"
    share = f"the share of {fraction:.0%}" + (" of each class" if holders else "")
    return f"{reason}, and {share} is too small for any of them"


def draw(groups: Integers, hashes: npt.ArrayLike, labels: Sequence[tuple[str, ...]], fraction: float) -> Bools:
    """(examples,) True for held-out examples: whole groups, about the same share of every class.

    A group is not held out if it is larger than `fraction` of all examples, or if a class would have no other group
    left to learn from.

    Args:
        groups: (examples,) group numbers.
        hashes: (examples,) 64-bit hashes of the content.
        labels: (examples,) the names of each example's classes, any number.
        fraction: the share to hold out.
    """
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    count = int(groups.max()) + 1 if len(groups) else 0
    sizes = np.bincount(groups, minlength=count)
    keys = lowest_hashes(groups, hashes)
    frequency = Counter(itertools.chain.from_iterable(labels))
    holders: dict[str, set[int]] = defaultdict(set)  # the groups in which a label occurs
    stratum_of: list[Counter[str]] = [Counter() for _ in range(count)]
    for group, names in zip(groups.tolist(), labels, strict=True):
        for label in names:
            holders[label].add(group)
        # If an example has several labels, the rarest one counts: common labels are in every part anyway.
        stratum_of[group][min(names, key=lambda label: (frequency[label], label)) if names else ""] += 1
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
        # The next class compensates for the surplus or deficit of this class, by at most one example. So many tiny
        # classes together reach their share, and no class loses much more than its share.
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
