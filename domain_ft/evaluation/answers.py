"""Scores of generated answers against references, example by example, and how sure a change of them is.

Exact match and token F1 are SQuAD's (Rajpurkar et al. 2016), which fit short answers. Its rules are for English; made
Unicode as MLQA makes them (Lewis et al. 2020), they take every punctuation sign out, not ASCII's alone, and where a
script has no spaces between words (Japanese, Chinese, Thai) each character is a token. On English text the values are
SQuAD's. ROUGE-L (Lin 2004) and chrF (Popović 2015) fit long answers; torchmetrics computes both.

All four are means of one value in 0 to 1 an example, as is the share of answers that ended by themselves. So their
intervals are bootstraps over examples, and two models that answered the same prompts are compared on the same draws
(`counts`). Where all examples agree, so do all draws, and an interval has no width: read it as "no exception in n".
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import punctuation
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.words import find_words
from domain_ft.evaluation.bootstrap import LEVEL, RESAMPLES
from domain_ft.evaluation.counts import counts_difference, scores

METRICS = ("exact_match", "token_f1", "rouge_l", "chrf", "end_of_turn_rate")
"""What has a value for each example, and of which more is better."""

CHRF_ORDER = 6
"""Characters in the longest n-grams of chrF."""

REPEATED = 4
"""Words in the n-grams that `repetition` counts."""

_ARTICLES = frozenset(("a", "an", "the"))

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """The answers of one model to n prompts, scored. Make one with `of`.

    Attributes:
        values: by name of `METRICS` (n,) values in 0 to 1, a value for each example.
        sizes: by name `answer_tokens` (the end-of-turn token included), `answer_characters`, `reference_characters`,
            `reference_words` (tokens of token F1), `answer_repetition` and `reference_repetition` (n,) sizes.
        distinct: `distinct_1` and `distinct_2` of all answers together; see `distinct`.
    """

    values: Mapping[str, Array]
    sizes: Mapping[str, Array]
    distinct: Mapping[str, float | None]

    def __len__(self) -> int:
        return len(self.sizes["answer_tokens"])

    @classmethod
    def of(
        cls, answers: Sequence[str], references: Sequence[str], *, tokens: Sequence[int], stopped: Sequence[bool]
    ) -> AnswerScores:
        """Score each answer against its reference.

        Args:
            answers: (n,) what the model said.
            references: (n,) what it should have said.
            tokens: (n,) how many tokens it wrote, the end-of-turn token included.
            stopped: (n,) whether it ended its turn by itself, before it was cut.

        Raises:
            ValueError: there is nothing to score, or the four are not of one length.
        """
        if not answers or len({len(answers), len(references), len(tokens), len(stopped)}) != 1:
            raise ValueError(
                f"{len(answers)} answers, {len(references)} references, {len(tokens)} numbers of tokens and "
                f"{len(stopped)} ends: there must be as many of each, and at least one"
            )
        pairs = list(zip(answers, references, strict=True))
        values: dict[str, Sequence[float]] = {
            "exact_match": [exact_match(*pair) for pair in pairs],
            "token_f1": [token_f1(*pair) for pair in pairs],
            "rouge_l": [rouge_l(*pair) for pair in pairs],
            "chrf": [chrf(*pair) for pair in pairs],
            "end_of_turn_rate": stopped,
        }
        sizes: dict[str, Sequence[float]] = {
            "answer_tokens": tokens,
            "answer_characters": [len(answer) for answer in answers],
            "reference_characters": [len(reference) for reference in references],
            "reference_words": [len(squad_tokens(reference)) for reference in references],
            "answer_repetition": [repetition(answer) for answer in answers],
            "reference_repetition": [repetition(reference) for reference in references],
        }
        return cls(
            values={name: np.asarray(column, dtype=np.float64) for name, column in values.items()},
            sizes={name: np.asarray(column, dtype=np.float64) for name, column in sizes.items()},
            distinct={f"distinct_{n}": distinct(answers, n) for n in (1, 2)},
        )

    def summary(self, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> dict[str, Any]:
        """What result.json says of the answers.

        Returns:
            `examples`; the mean of each of `METRICS`, and under `interval` its interval (None of a single example);
            `level` and `resamples`; the `mean` and median (`p50`) of each size; `distinct_1` and `distinct_2`, which
            have no interval: an answer that is drawn twice repeats its own n-grams.
        """
        found = scores([self._counts()], _means, seed=seed, resamples=resamples, level=level)
        return {
            "examples": len(self),
            **{name: found[name]["mean"] for name in METRICS},
            "interval": {name: found[name]["interval"] for name in METRICS},
            "level": level,
            "resamples": resamples,
            **{
                name: {"mean": float(column.mean()), "p50": float(np.median(column))}
                for name, column in self.sizes.items()
            },
            **self.distinct,
        }

    def _counts(self) -> Array:
        """(n, k + 1): the values of each example, and a column of ones that counts them."""
        columns = [self.values[name] for name in METRICS]
        return np.stack([*columns, np.ones(len(self))], axis=1)


def answer_differences(
    before: AnswerScores, after: AnswerScores, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, dict[str, Any]]:
    """For each of `METRICS` how much higher `after` is than `before`: `counts.counts_difference`, paired by example.

    Both must have answered the same prompts in the same order.
    """
    return counts_difference([before._counts()], [after._counts()], _means, seed=seed, resamples=resamples, level=level)


def _means(sums: Array) -> dict[str, Array]:
    """From (draws, k + 1) sums to the means by metric, (draws,) each."""
    return {name: sums[:, place] / sums[:, -1] for place, name in enumerate(METRICS)}


# ----------------------------------------------------------------------------------------------------- short answers


def squad_tokens(text: str) -> list[str]:
    """The words that exact match and token F1 compare: no case, no punctuation, none of a, an, the.

    Compatible forms are made alike (NFKC). A sign that is no punctuation is a token by itself, and so is each character
    of a script that is written without spaces between words. Of an answer that is nothing but punctuation or articles
    ("A", "+") they are what counts, unlike in SQuAD.

    >>> squad_tokens("The Patient's blood-pressure, 120/80!")
    ['patients', 'bloodpressure', '12080']
    >>> squad_tokens("東京都、渋谷区。")
    ['東', '京', '都', '渋', '谷', '区']
    """
    whole = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(character for character in whole if not _is_punctuation(character)).split()
    kept = [word for word in bare if word not in _ARTICLES] or bare or [whole]
    return _words(" ".join(kept))


def exact_match(answer: str, reference: str) -> float:
    """1 where the two have the same `squad_tokens` in the same order, else 0."""
    return float(squad_tokens(answer) == squad_tokens(reference))


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of the shares of the `squad_tokens` of either that the other has too, in any order."""
    said, right = Counter(squad_tokens(answer)), Counter(squad_tokens(reference))
    whole = said.total() + right.total()
    return 2 * (said & right).total() / whole if whole else 1.0


def _is_punctuation(character: str) -> bool:
    return character in punctuation or unicodedata.category(character).startswith("P")


def _words(text: str) -> list[str]:
    return [text[start:end] for start, end in find_words(text)]


# ------------------------------------------------------------------------------------------------------ long answers


def rouge_words(text: str) -> list[str]:
    """The words of ROUGE: letters and digits alone, without case, and each character where no spaces part the words.

    On English text they are those of Google's implementation without stemming.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    return [word for word in _words(folded) if any(character.isalnum() for character in word)]


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of the `rouge_words` of the two (Lin 2004, equation 3)."""
    from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(answer, reference, rouge_keys="rougeL", normalizer=str, tokenizer=rouge_words)
    return float(found["rougeL_fmeasure"])


def chrf(answer: str, reference: str) -> float:
    """chrF: F2 of character n-grams of 1 to 6, averaged over the orders (Popović 2015), without white space.

    Of a reference with fewer than six characters the orders that it has count, so that the very same answer has 1.
    """
    from torchmetrics.functional.text import chrf_score

    said, right = ("".join(unicodedata.normalize("NFC", text).split()) for text in (answer, reference))
    if not said or not right:
        return float(said == right)
    score: Any = chrf_score([said], [[right]], n_char_order=min(CHRF_ORDER, len(right)), n_word_order=0)
    return float(score)


# ----------------------------------------------------------------------------------------------------------- variety


def repetition(answer: str) -> float:
    """The share of the 4-grams of `rouge_words` that stood in the answer before; 0 where it has fewer than four words.

    seq-rep-4 of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training". It shows a model
    that goes round in circles, as small ones do where the likeliest token is taken each time.

    >>> repetition("the heart and the lungs and the heart and the lungs")
    0.25
    """
    words = rouge_words(answer)
    grams = [tuple(words[place : place + REPEATED]) for place in range(len(words) - REPEATED + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(answers: Sequence[str], n: int) -> float | None:
    """Different n-grams of `rouge_words` over all n-grams of the answers (Li et al. 2016, distinct-n).

    Low where a model repeats itself, within an answer or from answer to answer. It falls with the length of the
    answers too. None where no answer has n words.

    >>> distinct(["yes yes yes", "yes"], 1)
    0.25
    """
    of_answers = [rouge_words(answer) for answer in answers]
    grams = [tuple(words[place : place + n]) for words in of_answers for place in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
