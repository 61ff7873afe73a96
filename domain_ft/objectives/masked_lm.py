"""Masked language modelling (Devlin et al. 2018), for encoders."""

from __future__ import annotations

from dataclasses import dataclass

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.masking import MaskVocabulary, mask_tokens
from domain_ft.objectives.base import Inputs, LanguageModelHead


@dataclass(frozen=True, kw_only=True)
class MaskedLM(LanguageModelHead):
    """Guess the tokens that were masked.

    Attributes:
        vocabulary: what the masks are made of.
        rate: share of the tokens that are asked for.
        whole_word: mask all pieces of a word together.
        seed: the masks are a function of it, the epoch, the document and the sequence.
    """

    vocabulary: MaskVocabulary
    rate: float = 0.15
    whole_word: bool = True
    seed: int = 0
    name: str = "mlm"

    def prepare(self, batch: PackedBatch, epoch: int) -> Inputs:
        """The micro-batch with its masks for `epoch`."""
        input_ids, labels = mask_tokens(
            batch,
            epoch=epoch,
            seed=self.seed,
            rate=self.rate,
            whole_word=self.whole_word,
            vocabulary=self.vocabulary,
        )
        return Inputs.with_labels(batch, input_ids, labels, batch.token_bytes)
