"""Masks for the masked LM: which tokens are hidden, and what replaces them.

Follows BERT (Devlin et al. 2018, arXiv:1810.04805): 80 % of the chosen tokens become the mask token, 10 % become a
random token, and 10 % stay. Whole words are chosen, as in the authors' later release, because a part of a word is too
easy to predict from the rest of the word.

Every random number is a hash of (seed, epoch, document, sequence, position, purpose). So the mask of a sequence depends
neither on the other sequences of its micro-batch nor on earlier draws. The masks of an evaluation are the same before
and after training, and a micro-batch is masked by a few array operations.

The words of a sequence are chosen in random order until `rate` times its tokens are reached. The last word is chosen
with the probability that makes the expected number of tokens exact. At least one word of each sequence is chosen, even
if it has more tokens than that.

In text without spaces the tokenizer's "word" may be a whole sentence. So a word of more than `LONGEST_WORD` tokens is
masked token by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from domain_ft.corpus.batches import IGNORED, PackedBatch
from domain_ft.corpus.shuffling import GAMMA, scramble
from domain_ft.errors import ModelError
from domain_ft.randomness import derive

LONGEST_WORD = 8  # tokens; longer words are masked token by token


@dataclass(frozen=True, eq=False)
class MaskVocabulary:
    """The ids of a tokenizer that masking needs.

    Attributes:
        mask_token_id: the id of the mask token.
        replacement_ids: (replacements,) int64, the ids that may replace a masked token: all but the special ones.
    """

    mask_token_id: int
    replacement_ids: npt.NDArray[np.int64]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> MaskVocabulary:
        """The vocabulary of `tokenizer`. Raises ModelError if it has no mask token."""
        if tokenizer.mask_token_id is None:
            raise ModelError(
                "the model's tokenizer has no mask token, so the model cannot be trained as a masked LM",
                fix="use an encoder, or the causal objective",
            )
        special = set(tokenizer.all_special_ids)
        special |= {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids = sorted(set(tokenizer.get_vocab().values()) - special)
        return cls(int(tokenizer.mask_token_id), np.array(ids, dtype=np.int64))


def mask_tokens(
    batch: PackedBatch,
    *,
    epoch: int,
    seed: int,
    rate: float,
    whole_word: bool,
    vocabulary: MaskVocabulary,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Mask the text of `batch`; special tokens stay.

    Args:
        batch: sequences packed end to end.
        epoch: the number of the epoch, from 0; -1 for an evaluation.
        seed: of the run.
        rate: the share of the text tokens of a sequence to choose, in (0, 1]. At least one token of each sequence is
            chosen.
        whole_word: whether the tokens of a word are masked together.
        vocabulary: of the batch's tokenizer.

    Returns:
        input_ids: (tokens,) int64, after masking.
        labels: (tokens,) int64, the original id of each chosen token, -100 elsewhere.

    Raises:
        ValueError: `rate` is not in (0, 1].
    """
    if not 0 < rate <= 1:
        raise ValueError(f"a mask rate must be above 0 and at most 1, not {rate}")
    noise = _TokenNoise(batch, derive(seed, "mask", epoch))
    text = np.flatnonzero(batch.word_ids >= 0)
    masked = text[_chosen(batch, text, noise, rate, whole_word)]

    labels = np.full(batch.tokens, IGNORED, dtype=np.int64)
    labels[masked] = batch.input_ids[masked]
    input_ids = batch.input_ids.copy()
    fate = noise.uniform(masked, _FATE)
    input_ids[masked[fate < 0.8]] = vocabulary.mask_token_id
    replaced = masked[(fate >= 0.8) & (fate < 0.9)]
    draw = noise.uniform(replaced, _REPLACEMENT) * len(vocabulary.replacement_ids)
    input_ids[replaced] = vocabulary.replacement_ids[draw.astype(np.int64)]
    return input_ids, labels


class _Sampled(Protocol):
    """Rows of tokens from which a sample can be packed."""

    def __len__(self) -> int: ...

    def pack(self, rows: npt.ArrayLike) -> PackedBatch: ...


def mostly_without_words(rows: _Sampled, sample: int = 256) -> bool:
    """Whether most tokens are in words too long to be masked whole, as in a language written without spaces.

    Estimated from `sample` evenly spaced rows. If so, whole-word masking mostly masks single tokens, and the user
    should be warned.
    """
    places = np.unique(np.linspace(0, len(rows) - 1, num=min(sample, len(rows)), dtype=np.int64))
    batch = rows.pack(places)
    words = batch.word_ids[batch.word_ids >= 0]
    sizes = np.unique(words, return_counts=True)[1]
    return bool(sizes[sizes > LONGEST_WORD].sum() * 2 > len(words))


def _chosen(
    batch: PackedBatch, text: npt.NDArray[np.int64], noise: _TokenNoise, rate: float, whole_word: bool
) -> npt.NDArray[np.bool_]:
    """(text,) bool, whether each text token is chosen. `text` has the positions of the text tokens in the batch."""
    sequence = noise.sequence[text]
    begins = _unit_begins(batch.word_ids[text], sequence, whole_word)
    first = np.flatnonzero(begins)  # the units: words, or tokens
    sizes = np.diff(np.append(first, len(text)))
    unit_sequence = sequence[first]

    order = np.argsort(noise.uniform(text[first], _ORDER))
    small = unit_sequence[order].astype(np.min_scalar_type(len(batch.rows)))  # few bits: numpy then uses a radix sort
    order = order[np.argsort(small, kind="stable")]
    ends = np.cumsum(sizes[order])
    opens = np.append(True, unit_sequence[order][1:] != unit_sequence[order][:-1])  # the first unit of each sequence
    before = ends - sizes[order]
    before -= np.repeat(before[opens], np.diff(np.append(np.flatnonzero(opens), len(order))))
    wanted = rate * np.bincount(sequence, minlength=len(batch.rows))[unit_sequence[order]]
    taken = np.empty(len(order), dtype=bool)
    taken[order] = opens | (before + noise.uniform(text[first[order]], _CROSSING) * sizes[order] < wanted)
    return np.repeat(taken, sizes)


def _unit_begins(
    words: npt.NDArray[np.int32], sequence: npt.NDArray[np.int64], whole_word: bool
) -> npt.NDArray[np.bool_]:
    """(tokens,) bool, whether each token begins a unit, whose tokens are chosen together.

    A unit is a word, or a single token: of a long word, or of any word if `whole_word` is False.
    """
    begins = np.ones(len(words), dtype=bool)
    if not whole_word:
        return begins
    begins[1:] = (words[1:] != words[:-1]) | (sequence[1:] != sequence[:-1])
    sizes = np.diff(np.append(np.flatnonzero(begins), len(words)))
    return begins | np.repeat(sizes > LONGEST_WORD, sizes)


# ---------------------------------------------------------------------------------------------------- random numbers

_ORDER, _CROSSING, _FATE, _REPLACEMENT = range(4)  # the purposes of random numbers

_STRIDE = np.uint64(GAMMA)


class _TokenNoise:
    """Uniform random numbers for the tokens of a batch, each a hash of (key, document, sequence, position, purpose).

    Attributes:
        sequence: (tokens,) int64, the index in the batch of each token's sequence.
    """

    def __init__(self, batch: PackedBatch, key: int) -> None:
        self.sequence = np.repeat(np.arange(len(batch.rows)), batch.lengths)
        documents = scramble(np.uint64(key) + _STRIDE * batch.documents.astype(np.uint64))
        sequences = scramble(documents + _STRIDE * batch.sequences.astype(np.uint64))
        self._tokens = scramble(sequences[self.sequence] + _STRIDE * batch.position_ids.astype(np.uint64))

    def uniform(self, tokens: npt.NDArray[np.int64], purpose: int) -> npt.NDArray[np.float64]:
        """(tokens,) numbers in [0, 1) for the tokens at the given positions of the batch."""
        bits = scramble(self._tokens[tokens] + np.uint64(GAMMA * (purpose + 1) % 2**64))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
