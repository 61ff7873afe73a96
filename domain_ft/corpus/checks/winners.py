"""What the better answers of preferences have in common beside their quality: length, and a complete last sentence.

A model learns from pairs whatever tells the better answers from the worse ones. If the better answer is usually the
longer one, the model learns to write long answers; if only worse answers are cut in mid-sentence, it learns to end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from domain_ft.corpus.checks.endings import FEWEST, ends_whole
from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.preferences.examples import Example, PreferenceExample
from domain_ft.evaluation.counts import wilson

FEWEST_PAIRS = 20
"""With fewer pairs whose answers differ, nothing is reported."""
BIASED = 0.55
"""Reported if the whole interval of the share is above this, or below 1 - `BIASED`."""
LEVEL = 0.95


class Winners:
    """Compares the better with the worse answers of all pairs.

    Attributes:
        examples: the number of pairs and rated answers.
    """

    def __init__(self) -> None:
        self.examples = 0
        self._lengths, self._endings = _Share(), _Share()

    def add(self, example: Example) -> None:
        """Add a pair. Of rated answers, only the number is counted."""
        self.examples += 1
        if not isinstance(example, PreferenceExample):
            return
        chosen, rejected = ("\n".join(turn.content for turn in answer) for answer in example.answers)
        prompt = "\n".join(turn.content for turn in example.prompt)
        self._lengths.add(prompt, len(chosen.strip()), len(rejected.strip()))
        if min(len(chosen), len(rejected)) >= FEWEST:
            self._endings.add(prompt, ends_whole(chosen), ends_whole(rejected))

    def statistics(self) -> dict[str, Any]:
        """How often the longer answer wins; empty without pairs of different length."""
        return {"longer_wins": self._lengths.summary()} if self._lengths.pairs else {}

    def findings(self) -> Iterator[Finding]:
        """Findings on the whole file."""
        longer = self._lengths.direction()
        if longer is not None:
            which, learned = ("longer", "long") if longer else ("shorter", "short")
            what = f"the {which} answer wins in {self._lengths.words(longer)}"
            fix = f"the model may learn to write {learned} answers; --length-weight of prefer reduces this"
            yield Finding(None, None, "length-bias", f"{what}: {fix}")
        ended = self._endings.direction()
        if ended is not None:
            one, other = ("rejected", "chosen") if ended else ("chosen", "rejected")
            what = f"where only one answer ends in mid-sentence, it is the {one} one in {self._endings.words(ended)}"
            fix = f"complete the {one} answers, or cut the {other} ones too, for the model to learn what they say"
            yield Finding(None, None, "ending-bias", f"{what}: {fix}")


class _Share:
    """The share of pairs in which the better answer has the larger value, among pairs with different values."""

    def __init__(self) -> None:
        self.pairs = self.wins = 0
        self._prompts: set[bytes] = set()

    def add(self, prompt: str, better: int, worse: int) -> None:
        if better != worse:
            self.pairs += 1
            self.wins += better > worse
            self._prompts.add(hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest())

    @property
    def share(self) -> float:
        return self.wins / self.pairs

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of the share. The pairs of a prompt are not independent, so prompts are counted."""
        return wilson(self.share, len(self._prompts), LEVEL)

    def direction(self) -> bool | None:
        """Whether the larger value wins (True) or the smaller one; None if neither is shown."""
        if self.pairs < FEWEST_PAIRS:
            return None
        low, high = self.interval
        return True if low > BIASED else False if high < 1 - BIASED else None

    def words(self, larger: bool) -> str:
        """The share with its interval."""
        share, (low, high) = self.share, self.interval
        if not larger:
            share, low, high = 1 - share, 1 - high, 1 - low
        return f"{share:.0%} of {self.pairs:,} pairs ({LEVEL:.0%} interval {low:.0%} to {high:.0%})"

    def summary(self) -> dict[str, Any]:
        return {
            "pairs": self.pairs,
            "prompts": len(self._prompts),
            "share": round(self.share, 4),
            "interval": [round(bound, 4) for bound in self.interval],
            "level": LEVEL,
        }
