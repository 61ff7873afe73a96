"""Masked language modelling, for encoders."""

from __future__ import annotations

from dataclasses import dataclass

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.masking import MaskVocabulary, mask_tokens
from domain_ft.objectives.base import Inputs, LanguageModelHead


@dataclass(frozen=True, kw_only=True)
class MaskedLM(LanguageModelHead):
    """Masked language modelling: predict the masked tokens from the tokens on both sides.

    Paper:
        Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1; dynamic masks as in
        Liu et al. 2019, "RoBERTa", section 4.1.

    Equation:
        loss = -(1/n) Σ_{i in M} log p(x_i | x̃)

        with M a random set of n positions, and x̃ the text in which 80 % of the tokens in M are replaced by the mask
        token and 10 % by a random token, while 10 % are unchanged.

    Inputs:
        An encoder (`BaseModel` with objective `mlm`) and a `PackedBatch` of token rows (`TokenRows`).

    Relations:
        `CausalLM` is its counterpart for decoders.

    Attributes:
        vocabulary: the mask token, and the tokens that random ones are drawn from.
        rate: the share of the text tokens of a sequence that are in M.
        whole_word: whether M has all tokens of a word or none, unless the word is too long (see `corpus.masking`).
        seed: the masks are a function of the seed, the epoch, the document and the sequence.

    Example::

        objective = MaskedLM(vocabulary=MaskVocabulary.of(base.tokenizer))
        inputs = objective.prepare(rows.pack([0, 1]), epoch=0)
        loss = objective.loss(base, inputs) / inputs.items
    """

    vocabulary: MaskVocabulary
    rate: float = 0.15
    whole_word: bool = True
    seed: int = 0
    name: str = "mlm"

    def prepare(self, batch: PackedBatch, epoch: int) -> Inputs:
        """The micro-batch with the masks of `epoch`."""
        input_ids, labels = mask_tokens(
            batch,
            epoch=epoch,
            seed=self.seed,
            rate=self.rate,
            whole_word=self.whole_word,
            vocabulary=self.vocabulary,
        )
        return Inputs.with_labels(batch, input_ids, labels, batch.token_bytes)
