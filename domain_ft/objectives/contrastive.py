"""Contrastive training of sentence vectors on pairs of texts, added to a language model's loss."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from domain_ft.corpus.batches import IGNORED
from domain_ft.corpus.pairs import PairBatch
from domain_ft.models import head
from domain_ft.models.base import BaseModel
from domain_ft.models.pooling import Pooling
from domain_ft.objectives.base import Inputs, LanguageModelObjective


@dataclass(frozen=True)
class PairInputs(Inputs):
    """One micro-batch of pairs as tensors. The sequences are an anchor, its positive, the next anchor, and so on.

    Attributes:
        keys: (pairs, 2) int64, hashes of the texts of anchor and positive: equal texts have equal keys.
        gradients: (pairs, 2, D), the gradient of the step's loss with respect to `Contrastive.embeddings`; None if it
            is not computed yet, or if the micro-batch is the whole step.
    """

    keys: Tensor
    gradients: Tensor | None = None

    @property
    def items(self) -> int:
        """Number of pairs."""
        return len(self.keys)

    def without_labels(self) -> PairInputs:
        """The same tokens without labels and pairs: what a rank runs when it has no rows left in a step."""
        return dataclasses.replace(
            self,
            labels=torch.full_like(self.labels, IGNORED),
            labelled=self.labelled[:0],
            scored_bytes=np.zeros_like(self.scored_bytes),
            keys=self.keys[:0],
        )

    def with_gradients(self, gradients: Tensor) -> PairInputs:
        """The same with the gradients of the step's loss."""
        return dataclasses.replace(self, gradients=gradients)


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """InfoNCE over all pairs of an optimiser step, in both directions, plus a language model's loss.

    Papers:
        van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", equation 4. In-batch
        negatives: Henderson et al. 2017, "Efficient Natural Language Response Suggestion for Smart Reply". Prefixes:
        Kusupati et al. 2022, "Matryoshka Representation Learning", equation 1.

    Equation, for N pairs in the step, with a_i and p_i the vectors of anchor and positive scaled to length 1:

        s_ij = a_i · p_j / τ
        ℓ_i  = - ½ log( exp s_ii / Σ_{j in B_i} exp s_ij ) - ½ log( exp s_ii / Σ_{j in B_i} exp s_ji )
        loss = (1/N) Σ_i ( ℓ_i + λ · mean over the labelled tokens t of pair i of CE_t )

        B_i contains i and all pairs whose anchor and positive both differ from those of pair i, so that a copy is not a
        negative. With `dimensions`, ℓ_i is computed from the first d dimensions of the vectors for each d, and averaged
        over d.

    Inputs:
        A `BaseModel` and a `PairBatch` (`PairRows`). For a masked LM only the positives are masked, and their vectors
        are computed from the masked text, as in Liu et al. 2021, "Fast, Effective, and Self-Supervised" (Mirror-BERT),
        section 2.1. So a pair needs one forward pass.

    Relations:
        A step's loss depends on all of its pairs, but a micro-batch holds only some. So the loop first computes the
        embeddings of all micro-batches and ranks without a gradient, then the gradient of `step_loss` with respect to
        them, and gives each micro-batch its part: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under
        Memory Limited Setup". The gradient is that of the whole step, since both passes over a micro-batch have the
        same masks and dropout.

    Attributes:
        language_model: the loss of the tokens, and how they are masked.
        weight: λ. If it is 0, there is no loss of the tokens, and nothing is masked.
        temperature: τ.
        pooling: how hidden states become a vector.
        dimensions: lengths of the prefixes of a vector that are trained (Matryoshka); empty for whole vectors only.

    Example::

        objective = Contrastive(language_model=MaskedLM(vocabulary=MaskVocabulary.of(base.tokenizer)))
        inputs = objective.prepare(pairs.pack([0, 1, 2]), epoch=0)
        loss = objective.loss(base, inputs) / inputs.items
    """

    language_model: LanguageModelObjective
    weight: float = 0.3
    temperature: float = 0.05
    pooling: Pooling = field(default_factory=Pooling)
    dimensions: tuple[int, ...] = ()
    name: str = "contrastive"

    def prepare(self, batch: PairBatch, epoch: int) -> PairInputs:
        """The micro-batch, with the masks of `epoch` in the positives."""
        keys = np.array([_key(ids) for ids in np.split(batch.input_ids, batch.cu_seqlens[1:-1])], dtype=np.int64)
        anchors = np.repeat(np.arange(len(batch.lengths)) % 2 == 0, batch.lengths)  # (T,)
        without_anchors = dataclasses.replace(batch, word_ids=np.where(anchors, np.int32(-1), batch.word_ids))
        inputs = self.language_model.prepare(without_anchors, epoch)
        if not self.weight:
            inputs = dataclasses.replace(inputs.without_labels(), input_ids=torch.from_numpy(batch.input_ids))
        values = {one.name: getattr(inputs, one.name) for one in dataclasses.fields(inputs)}
        return PairInputs(**values, keys=torch.from_numpy(keys.reshape(-1, 2)))

    def embeddings(self, base: BaseModel, inputs: PairInputs) -> Tensor:
        """(pairs, 2, D), the vectors of anchors and positives."""
        return self._paired(base.states(inputs), inputs)

    def step_loss(self, embeddings: Tensor, keys: Tensor) -> Tensor:
        """0-d, Σ ℓ_i over the pairs of a step.

        Args:
            embeddings: (N, 2, D) of all pairs of the step, float32 or float64.
            keys: (N, 2) int64.
        """
        copies = (keys[:, None] == keys[None]).any(-1)  # (N, N), i and j share a text
        copies.fill_diagonal_(False)
        target = torch.arange(len(keys), device=keys.device)
        widths = self.dimensions or (embeddings.shape[-1],)
        total = embeddings.new_zeros(())
        with torch.autocast(embeddings.device.type, enabled=False):  # equally precise with and without micro-batches
            for width in widths:
                anchors, positives = F.normalize(embeddings[..., :width], dim=-1).unbind(1)  # (N, width) each
                similarities = anchors @ positives.T / self.temperature  # (N, N)
                similarities = similarities.masked_fill(copies, -torch.inf)
                forth = F.cross_entropy(similarities, target, reduction="sum")
                back = F.cross_entropy(similarities.T, target, reduction="sum")
                total = total + (forth + back) / (2 * len(widths))
        return total

    def loss(self, base: BaseModel, inputs: PairInputs) -> Tensor:
        """0-d float32, the micro-batch's part of N times the step's loss.

        Without `inputs.gradients` the micro-batch is the whole step. With them, the value is that of the tokens' loss
        (times λ) only, but the gradient is that of both losses.
        """
        states, tokens = self._states_and_tokens(base, inputs)
        embeddings = self._paired(states, inputs)  # (pairs, 2, D)
        if inputs.gradients is None:
            pairs = self.step_loss(embeddings, inputs.keys)
        else:
            linear = (embeddings * inputs.gradients).sum()
            pairs = linear - linear.detach()
        return pairs + self.weight * tokens.sum()

    def row_losses(self, base: BaseModel, inputs: PairInputs) -> Tensor:
        """(pairs,) float32, the mean loss of each pair's labelled tokens, or NaN where its vectors are not finite."""
        states, tokens = self._states_and_tokens(base, inputs)
        embeddings = self._paired(states, inputs).flatten(1)  # (pairs, 2 D)
        return tokens + (embeddings * 0).sum(1)

    def _states_and_tokens(self, base: BaseModel, inputs: PairInputs) -> tuple[Tensor, Tensor]:
        """The body's states (T, D), and the mean loss of the labelled tokens of each pair (pairs,), in nats."""
        if not self.weight:
            states = base.states(inputs)
            return states, states.new_zeros(inputs.items)
        with head.captured_states(base.model) as captured:
            losses = self.language_model.losses(base, inputs)  # (T,)
        # One pass computes both, unless batches are padded or the body's forward is not called.
        states = captured[-1].squeeze(0) if base.packed and captured else base.states(inputs)
        owners = torch.repeat_interleave(torch.diff(inputs.cu_seqlens).long().view(-1, 2).sum(1))  # (T,) the pairs
        pairs = len(inputs.cu_seqlens) // 2
        sums = losses.new_zeros(pairs).index_add(0, owners, losses)
        counts = losses.new_zeros(pairs).index_add(0, owners, (inputs.labels != IGNORED).to(losses.dtype))
        return states, (sums / counts.clamp(min=1))[: inputs.items]

    def _paired(self, states: Tensor, inputs: PairInputs) -> Tensor:
        """(pairs, 2, D) from the states (T, D)."""
        vectors = self.pooling.vectors(states, inputs.cu_seqlens)  # (2 pairs, D)
        return vectors.view(-1, 2, vectors.shape[-1])[: inputs.items]


def _key(ids: npt.NDArray[np.int64]) -> int:
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little", signed=True)
