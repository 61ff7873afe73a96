"""Scores of generated answers against references, with intervals.

Exact match and token F1 are SQuAD's (Rajpurkar et al. 2016), for short answers. As in MLQA (Lewis et al. 2020) they are
extended to Unicode: all punctuation is removed, not only ASCII punctuation, and in scripts without spaces between words
(Japanese, Chinese, Thai) each character is a token. On ASCII text they equal SQuAD's, except where `squad_tokens` says
otherwise. ROUGE-L (Lin 2004) and chrF (Popović 2015) are for long answers, and are computed by torchmetrics.

Each of these four scores is the mean of one value per example, from 0 to 1, and so is the share of answers that the
model ended. So intervals come from a bootstrap over examples, and two models that answered the same prompts are
compared on the same resamples (`counts`). If all examples have the same value below 1, the interval has no width; if
all have the value 1, it is Wilson's.
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

ANSWER_METRICS = ("exact_match", "token_f1", "rouge_l", "chrf", "end_of_turn_rate")
"""The metrics with a value per example; higher is better."""

CHRF_ORDER = 6
"""Characters in the longest n-grams of chrF."""

REPEATED = 4
"""Words in the n-grams that `repetition` counts."""

_ARTICLES = frozenset(("a", "an", "the"))

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """The scores of one model's answers to n prompts, made by `of`.

    Attributes:
        values: (n,) values from 0 to 1 for each of `ANSWER_METRICS`.
        sizes: (n,) each: `answer_tokens` (with the end-of-turn token), `answer_characters`, `reference_characters`,
            `reference_words` (tokens of token F1), `answer_repetition` and `reference_repetition`.
        distinct: `distinct_1` and `distinct_2` over all answers; see `distinct`.
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
            answers: (n,) the model's answers.
            references: (n,) the correct answers.
            tokens: (n,) the number of generated tokens of each answer, with the end-of-turn token.
            stopped: (n,) whether the model ended the answer; otherwise the answer was cut off.

        Raises:
            ValueError: there is nothing to score, or the lengths differ.
        """
        if not answers or len({len(answers), len(references), len(tokens), len(stopped)}) != 1:
            raise ValueError(
                f"{len(answers)} answers, {len(references)} references, {len(tokens)} numbers of tokens and "
                f"{len(stopped)} values of `stopped`: there must be the same number of each, and at least one"
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
        """The scores of the answers for result.json.

        Returns:
            `examples`; the mean of each of `ANSWER_METRICS`, and under `interval` its interval (None for fewer than
            `FEWEST_UNITS` examples); `level` and `resamples`; the `mean` and median (`p50`) of each size; `distinct_1`
            and `distinct_2`, without intervals, since an answer that is drawn twice would repeat its n-grams.
        """
        summaries = scores([self._counts()], _means, seed=seed, resamples=resamples, level=level)
        return {
            "examples": len(self),
            **{name: summaries[name]["mean"] for name in ANSWER_METRICS},
            "interval": {name: summaries[name]["interval"] for name in ANSWER_METRICS},
            "level": level,
            "resamples": resamples,
            **{
                name: {"mean": float(column.mean()), "p50": float(np.median(column))}
                for name, column in self.sizes.items()
            },
            **self.distinct,
        }

    def _counts(self) -> Array:
        """(n, k + 1): the values of each example, and a column of ones."""
        columns = [self.values[name] for name in ANSWER_METRICS]
        return np.stack([*columns, np.ones(len(self))], axis=1)


def answer_differences(
    before: AnswerScores, after: AnswerScores, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, dict[str, Any]]:
    """How much higher each of `ANSWER_METRICS` is for `after` than for `before`: see `counts.counts_difference`.

    Both must be answers to the same prompts in the same order.
    """
    return counts_difference([before._counts()], [after._counts()], _means, seed=seed, resamples=resamples, level=level)


def _means(sums: Array) -> dict[str, Array]:
    """The means by metric, (draws,) each, from sums (draws, k + 1)."""
    return {name: sums[:, place] / sums[:, -1] for place, name in enumerate(ANSWER_METRICS)}


# ----------------------------------------------------------------------------------------------------- short answers


def squad_tokens(text: str) -> list[str]:
    """The tokens for exact match and token F1: without case, punctuation, and the articles a, an, the.

    Text is normalised to NFKC. A symbol that is not punctuation is a token, as is each character of a script without
    spaces between words. Unlike in SQuAD, a text of only articles ("A") or only punctuation ("+") keeps them.

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
    """1 if both have the same `squad_tokens` in the same order, else 0."""
    return float(squad_tokens(answer) == squad_tokens(reference))


def token_f1(answer: str, reference: str) -> float:
    """F1 of the `squad_tokens` of the answer against those of the reference, in any order."""
    predicted, correct = Counter(squad_tokens(answer)), Counter(squad_tokens(reference))
    total = predicted.total() + correct.total()
    return 2 * (predicted & correct).total() / total if total else 1.0


def _is_punctuation(character: str) -> bool:
    return character in punctuation or unicodedata.category(character).startswith("P")


def _words(text: str) -> list[str]:
    return [text[start:end] for start, end in find_words(text)]


# ------------------------------------------------------------------------------------------------------ long answers


def rouge_words(text: str) -> list[str]:
    """The words for ROUGE: runs of letters and digits, without case; single characters in scripts without spaces.

    On ASCII text they are the words of Google's implementation without stemming.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    return [word for word in _words(folded) if any(character.isalnum() for character in word)]


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: F1 from the longest common subsequence of the `rouge_words` of both texts (Lin 2004, equation 4)."""
    from torchmetrics.functional.text.rouge import rouge_score

    score = rouge_score(answer, reference, rouge_keys="rougeL", normalizer=str, tokenizer=rouge_words)
    return float(score["rougeL_fmeasure"])


def chrf(answer: str, reference: str) -> float:
    """chrF: F2 of character n-grams, averaged over n from 1 to 6 (Popović 2015), without white space.

    For a reference of fewer than six characters, n is at most its length, so that an equal answer scores 1.
    """
    from torchmetrics.functional.text import chrf_score

    predicted, correct = ("".join(unicodedata.normalize("NFC", text).split()) for text in (answer, reference))
    if not predicted or not correct:
        return float(predicted == correct)
    score: Any = chrf_score([predicted], [[correct]], n_char_order=min(CHRF_ORDER, len(correct)), n_word_order=0)
    return float(score)


# ----------------------------------------------------------------------------------------------------------- variety


def repetition(answer: str) -> float:
    """The share of an answer's 4-grams of `rouge_words` that repeat an earlier one; 0 for fewer than four words.

    seq-rep-4 of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training". It detects loops, which are
    frequent in greedy decoding of small models.

    >>> repetition("the heart and the lungs and the heart and the lungs")
    0.25
    """
    words = rouge_words(answer)
    grams = [tuple(words[place : place + REPEATED]) for place in range(len(words) - REPEATED + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(answers: Sequence[str], n: int) -> float | None:
    """The number of distinct n-grams of `rouge_words` over the number of all n-grams (Li et al. 2016, distinct-n).

    It is low for a model that repeats itself, within an answer or across answers. It also falls with the length of the
    answers. None if every answer has fewer than n words.

    >>> distinct(["yes yes yes", "yes"], 1)
    0.25
    """
    of_answers = [rouge_words(answer) for answer in answers]
    grams = [tuple(words[place : place + n]) for words in of_answers for place in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
