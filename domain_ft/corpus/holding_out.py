"""Holds out a part of some examples, and finds copies of test examples in the training examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from domain_ft.corpus.duplicates import NEAR
from domain_ft.corpus.near_copies import Bools, all_similar_pairs, text_fingerprints
from domain_ft.corpus.splitting import draw, groupings, why_none_held_out
from domain_ft.errors import CorpusError
from domain_ft.wording import counted

_LISTED = 100  # the most copies that are listed


def hold_out(
    texts: Sequence[str], sources: Sequence[str], alike: Sequence[str], fraction: float, *, where: str
) -> tuple[Bools, str]:
    """(examples,) True for those that are held out, and a description of the split.

    Uses the first of the `groupings` by which at least one example, and half of `fraction`, is held out.

    Args:
        texts: (examples,) by which copies and near copies are found.
        sources, alike: (examples,) see `groupings`.
        fraction: the share to hold out.
        where: the source of the examples, for messages.

    Raises:
        CorpusError: too few examples can be held out.
    """
    prints = text_fingerprints(texts)
    target = fraction * len(texts)
    for copies, groups in groupings(prints, sources, alike):
        held = draw(groups, prints.hashes, [()] * len(texts), fraction)
        if held.sum() >= max(target / 2, 1):
            return held, f"{fraction:.0%} of the examples are held out, whole groups of {copies} at a time"
    if held.any():
        share = f"only {held.sum():,} of the {counted(len(texts), 'example')} can be held out"
        why = f"{fraction:.0%} is asked for, and the other groups of copies are too large"
    else:
        share = f"none of the {counted(len(texts), 'example')} can be held out"
        why = why_none_held_out(groups, [()] * len(texts), fraction)
    raise CorpusError(
        f"{share}: {why}",
        where=where,
        fix="give more examples, a larger --test-fraction, or a file of test examples: --test FILE",
    )


def find_copies(train: Iterable[tuple[str, str]], test: Iterable[tuple[str, str]]) -> tuple[int, list[dict[str, Any]]]:
    """The number of test examples with a copy or near copy in training, and a list of the first ones.

    Args:
        train, test: the id and the compared text of each example.
    """
    train_ids, train_texts = zip(*train, strict=True)
    test_ids, test_texts = zip(*test, strict=True)
    prints = text_fingerprints([*train_texts, *test_texts])
    nearest: dict[int, tuple[float, int]] = {}
    in_train = {
        digest.tobytes(): place for place, digest in reversed(list(enumerate(prints.digests[: len(train_ids)])))
    }
    for place, digest in enumerate(prints.digests[len(train_ids) :]):
        if digest.tobytes() in in_train:
            nearest[place] = (1.0, in_train[digest.tobytes()])
    if prints.signatures is not None:
        pairs, similarity = all_similar_pairs(np.asarray(prints.signatures), NEAR)
        for (one, other), share in zip(pairs.tolist(), similarity.tolist(), strict=True):
            if one < len(train_ids) <= other:
                place = other - len(train_ids)
                nearest[place] = max(nearest.get(place, (0.0, 0)), (share, one))
    listed = [
        {"test": test_ids[place], "train": train_ids[copy], "similarity": round(similarity, 3)}
        for place, (similarity, copy) in sorted(nearest.items())[:_LISTED]
    ]
    return len(nearest), listed
