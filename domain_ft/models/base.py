"""A base model: packed tokens go in, hidden states at the input of the output projection come out.

    base = load("minilm")                        # or a folder, a hub id, a finished run
    hidden = base.hidden(batch)                  # (T, D), attention inside each sequence of the batch
    weight, bias, softcap = base.projection()    # the other arguments of linear_cross_entropy

Nothing here depends on the architecture: the differences are in the table of `architectures`. A model whose
architecture is not in that table is first tried on a short input; if packing is not exact for it, `hidden` pads
batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from domain_ft.corpus.batches import PackedBatch
from domain_ft.errors import ModelError
from domain_ft.models import attention, head
from domain_ft.models.architectures import ARCHITECTURES, Architecture, LogitTail, ObjectiveName, describe, logit_tail
from domain_ft.models.model_files import (
    check_missing,
    guarded,
    is_our_bug,
    load_tokenizer,
    load_weights,
    read_config,
    reason,
)
from domain_ft.models.pooling import Pooling
from domain_ft.models.sentence_facts import SentenceFacts
from domain_ft.models.sources import ModelSource, find, quiet
from domain_ft.progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Self

_PADDING_STEP = 16
"""Sequences are padded together if their lengths round up to the same multiple of this."""

_NO_POSITION_LIMIT = 2048  # tokens per sequence, if neither the model nor its tokenizer has a limit


@dataclass(frozen=True)
class Tokens:
    """Sequences laid end to end in one row, as `BaseModel.hidden` reads them: `PackedBatch` as tensors.

    Attributes:
        input_ids: (tokens,) int64.
        position_ids: (tokens,) int64, counted from 0 within each sequence.
        cu_seqlens: (sequences + 1,) int32, where each sequence begins, and the end of the last.
        max_seqlen: length of the longest sequence in tokens.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Self:
        """Pack `sequences`, lists of token ids, end to end."""
        lengths = [len(sequence) for sequence in sequences]
        ends = torch.tensor([0, *lengths]).cumsum(0)  # (S + 1,)
        return cls(
            torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.long, device=device),
            torch.tensor([place for length in lengths for place in range(length)], dtype=torch.long, device=device),
            ends.to(device, torch.int32),
            max(lengths, default=0),
        )

    @classmethod
    def from_batch(cls, batch: PackedBatch, input_ids: npt.NDArray[np.int64] | None = None, **fields: Any) -> Self:
        """The tensors of `batch`, on the CPU.

        Args:
            input_ids: (tokens,) ids that replace the batch's, such as masked ids.
            fields: the other fields of a subclass.
        """
        return cls(
            input_ids=torch.from_numpy(batch.input_ids if input_ids is None else input_ids),
            position_ids=torch.from_numpy(batch.position_ids),
            cu_seqlens=torch.from_numpy(batch.cu_seqlens),
            max_seqlen=int(batch.lengths.max(initial=0)),
            **fields,
        )

    def to(self, device: torch.device | str) -> Self:
        """A copy with its tensors on `device`; this object if they are there already."""
        if torch.device(device) == self.input_ids.device:
            return self
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclass
class BaseModel:
    """A model with its LM head and its tokenizer.

    Attributes:
        model: a transformers model, in eval mode when loaded. LoRA is put into it in place.
        tokenizer: a fast tokenizer.
        objective: `mlm` or `clm`.
        name: the name that it was loaded by.
        source: what an adapter records as its base: the embedded name, the hub id, or an absolute path.
        revision: the hub's commit, or `sha256:` and the hash of the weights.
        max_length: the most tokens in a sequence, see `longest_sequence`.
        packed: whether `hidden` runs packed rows; otherwise it pads batches.
        head_is_random: whether the checkpoint lacks weights of the head, so that losses mean nothing before training.
        notes: what the user should know before using the model.
        position_offset: the position id of a sequence's first token.
        tail: the scale and softcap of the logits.
        sentence: how the model makes sentence vectors; None if nothing says that it is a sentence model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    objective: ObjectiveName
    name: str
    source: str
    revision: str
    max_length: int
    packed: bool
    head_is_random: bool = False
    notes: tuple[str, ...] = ()
    position_offset: int = 0
    tail: LogitTail = dataclasses.field(default_factory=LogitTail)
    sentence: SentenceFacts | None = None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    def hidden(self, batch: Tokens, rows: Tensor | None = None) -> Tensor:
        """Hidden states at the output projection's input: (tokens, D), or (n, D) for the positions `rows` (n,) only.

        Each sequence is computed as if it were alone. Differentiable; no logits are computed. The logit scale of the
        model is included.
        """
        hidden = self._packed_hidden(batch, rows) if self.packed else self._padded_hidden(batch, rows)
        return hidden if self.tail.scale == 1.0 else hidden * self.tail.scale

    @property
    def pooling(self) -> Pooling:
        """How hidden states become sentence vectors: as the model's files say, else the mean, not normalised."""
        facts = self.sentence or SentenceFacts()
        return Pooling(facts.pooling, facts.normalise)

    def states(self, batch: Tokens) -> Tensor:
        """(tokens, D), the last hidden states of the body, from which sentence vectors are pooled."""
        body = self.model.base_model
        if self.packed:
            return body(**self._packed_arguments(batch)).last_hidden_state.squeeze(0)
        parts, places = [], []
        for index, mask, arguments in self._padded(batch):
            parts.append(body(**arguments).last_hidden_state[mask])  # (tokens of the group, D)
            places.append(index[mask])
        return torch.cat(parts).index_select(0, torch.argsort(torch.cat(places)))

    def projection(self) -> tuple[Tensor, Tensor | None, float | None]:
        """Weight (V, D), bias (V,) or None, and softcap or None: logits = softcap(hidden Wᵀ + b)."""
        weight, bias = head.projection(self.model)
        if bias is not None and self.tail.scale != 1.0:
            bias = bias * self.tail.scale
        return weight, bias, self.tail.softcap

    def forward_logits(self, batch: Tokens, rows: Tensor | None = None) -> Tensor:
        """Float32 logits (tokens, V), or (n, V) for the positions `rows`: for checks and tests, not for training."""
        weight, bias, softcap = self.projection()
        logits = F.linear(self.hidden(batch, rows), weight, bias).float()  # (n, V)
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    def padding_fraction(self, batch: Tokens) -> float:
        """The share of padding in the tokens that `hidden` computes for `batch`; 0 if sequences are packed."""
        return 0.0 if self.packed else padded_share(batch)

    def _packed_hidden(self, batch: Tokens, rows: Tensor | None) -> Tensor:
        with head.captured_input(self.model) as captured, head.only_rows(self.model, rows) as taken:
            self.model(**self._packed_arguments(batch))
            hidden = captured[-1].flatten(0, -2)  # (T, D), or (n, D)
            return hidden if rows is None or taken else hidden.index_select(0, rows)

    def _padded_hidden(self, batch: Tokens, rows: Tensor | None) -> Tensor:
        """`hidden` from padded batches of sequences of about equal length."""
        parts, places = [], []
        with head.captured_input(self.model) as captured:
            for index, mask, arguments in self._padded(batch):
                self.model(**arguments)
                parts.append(captured.pop()[mask])  # (tokens of the group, D)
                places.append(index[mask])
        order = torch.argsort(torch.cat(places))  # (T,)
        return torch.cat(parts).index_select(0, order if rows is None else order[rows])

    def _packed_arguments(self, batch: Tokens) -> dict[str, Any]:
        """The arguments of the model's forward for the packed row; ids and positions are (1, T)."""
        return {
            "input_ids": batch.input_ids.unsqueeze(0),
            "position_ids": (batch.position_ids + self.position_offset).unsqueeze(0),
            **self._no_cache(),
            **attention.packed_arguments(batch.cu_seqlens, batch.max_seqlen),
        }

    def _padded(self, batch: Tokens) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """For each padded batch: positions in the row and a mask that is False for padding, (B, longest) each, and the
        arguments of the model's forward.
        """
        for index, mask in padded_groups(batch.cu_seqlens):
            input_ids = batch.input_ids[index].masked_fill(~mask, self.tokenizer.pad_token_id or 0)
            yield index, mask, {"input_ids": input_ids, "attention_mask": mask.long(), **self._no_cache()}

    def _no_cache(self) -> dict[str, Any]:
        return {"use_cache": False} if self.objective == "clm" else {}


def padded_groups(cu_seqlens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each padded batch: positions in the row, and a bool mask that is False for padding, (B, longest) each."""
    starts, lengths = cu_seqlens[:-1].long(), torch.diff(cu_seqlens).long()  # (S,) each
    buckets = (lengths + _PADDING_STEP - 1) // _PADDING_STEP  # (S,)
    for bucket in buckets.unique().tolist():
        members = (buckets == bucket) & (lengths > 0)  # (S,) bool
        if not members.any():
            continue
        steps = torch.arange(int(lengths[members].max()), device=cu_seqlens.device)  # (longest,)
        mask = steps < lengths[members, None]  # (B, longest)
        yield (starts[members, None] + steps).masked_fill(~mask, 0), mask


def padded_share(batch: Tokens) -> float:
    """The share of padding in the tokens of `padded_groups`."""
    computed = sum(mask.numel() for _, mask in padded_groups(batch.cu_seqlens))
    return 1.0 - len(batch.input_ids) / computed


def load(
    name: str,
    *,
    objective: ObjectiveName | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> BaseModel:
    """Load a model by an embedded name, a folder, a hub id, or a finished run; adapters are merged.

    Args:
        name: such as `minilm`, `./my-model`, `answerdotai/ModernBERT-base`, `runs/legal`.
        objective: `mlm` or `clm`; None for the architecture's.
        device: of the weights.
        dtype: of the weights.
        progress: called while files are fetched.

    Raises:
        ModelError: the model does not exist or cannot be used; the message says why and what to do.
        NotMadeError: an embedded model is not in the cache (`embedded.loading` makes it, or raises AssetError).
    """
    source = find(name, progress)
    with quiet():
        config = read_config(source.folder, name)
        architecture = describe(config, name)
        check_objective(architecture, objective, name)
        tokenizer = load_tokenizer(source, name)
        auto = language_model_class(architecture)
        model, missing, notes = load_weights(auto, source.folder, config, dtype, name)
    check_missing(model, missing, name)
    check_vocabulary(tokenizer, model, name)
    _check_mask_token(tokenizer, architecture, name)
    merge_adapters(model, source)
    offset = architecture.position_offset(config)
    sentence, sentence_notes = _sentence_facts(source)
    base = BaseModel(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        objective=architecture.objective,
        name=name,
        source=source.recorded,
        revision=source.revision,
        max_length=longest_sequence(config, offset, tokenizer, tested=architecture.tested),
        packed=architecture.tested,
        head_is_random=bool(missing),
        notes=source.notes + notes + sentence_notes + _head_notes(missing),
        position_offset=offset,
        tail=logit_tail(config),
        sentence=sentence,
    )
    if architecture.tested:
        attention.install(model)
    else:
        choose_layout(base)
    check_visibility(base, tested=architecture.tested)
    return base


def objective_of(name: str, progress: Progress | None = None) -> ObjectiveName:
    """The objective of a model, from its configuration; no weights are read.

    Args:
        name: as for `load`.
        progress: called while files are fetched.

    Raises:
        ModelError: the model does not exist or cannot be used.
        NotMadeError: an embedded model is not in the cache (`embedded.loading` makes it, or raises AssetError).
    """
    source = find(name, progress)
    with quiet():
        return describe(read_config(source.folder, name), name).objective


def choose_layout(base: BaseModel) -> None:
    """Choose packing or padding for an architecture that is not in the table, and set the fields of `base` to match.

    A layout is right if a batch gives the logits that the model gives for each sequence alone. Packing is tried first.

    Raises:
        ModelError: the model's code fails, or neither layout gives its logits.
    """
    model, before = base.model, base.model.config._attn_implementation
    sequences = trial_sequences(model, base.max_length)
    failures: list[Exception] = []
    with quiet(), torch.no_grad():
        with model_code(model, base.name):
            truth = torch.cat(
                [model(input_ids=sequence[None], **base._no_cache()).logits[0].float() for sequence in sequences]
            )  # (T, V)
        batch = Tokens.of([sequence.tolist() for sequence in sequences], base.device)
        attention.install(model)
        if model.config._attn_implementation == attention.NAME:
            base.packed = True
            for offset in (0, (model.config.pad_token_id or 0) + 1):  # the first position in BERT, and in RoBERTa
                base.position_offset = offset
                if _agrees(base, batch, truth, failures):
                    base.max_length = longest_sequence(model.config, offset, base.tokenizer, tested=False)
                    return
            model.set_attn_implementation(before)
        base.packed = False
        if _agrees(base, batch, truth, failures):
            return
    raise ModelError(
        f"'{base.name}' is of type '{model.config.model_type}', which is not supported: its logits are not a linear "
        f"projection of its last hidden states{failed_with(failures)}.",
        fix=f"use a model of one of these types: {', '.join(ARCHITECTURES)}",
    ) from (failures[-1] if failures else None)


def check_visibility(base: BaseModel, *, tested: bool) -> None:
    """Check on a few random tokens that a model sees what its objective requires, and nothing that it forbids.

    A decoder must not see later tokens: changing them must not change earlier hidden states. An encoder must see both
    sides of a masked token.

    Args:
        tested: the architecture is in the table. Then it is enough, for a decoder, to change the last token.

    Raises:
        ModelError: the model sees too much or too little, its code fails, or its hidden states are not finite.
    """
    length = min(12, base.max_length)
    if length < 3:
        return
    original, other = differing_sequences(base.model, length)
    if base.objective == "mlm":
        middle = length // 2
        original[middle] = other[middle] = base.tokenizer.mask_token_id
        left = torch.cat([other[:middle], original[middle:]])
        right = torch.cat([original[: middle + 1], other[middle + 1 :]])
        changed = [left, right]
    else:
        places = [length - 1] if tested else range(1, length)
        changed = [torch.cat([original[:place], other[place:]]) for place in places]
    with quiet(), torch.no_grad(), model_code(base.model, base.name):
        # Two calls with equal shapes, so that what does not depend on the changed tokens is equal to the last bit.
        hidden, after = (
            base.hidden(Tokens.of([sequence.tolist() for sequence in sequences], base.device))
            .float()
            .unflatten(0, (-1, length))
            for sequences in ([original] * len(changed), changed)
        )  # (changed sequences, length, D) each
    if not bool(hidden.isfinite().all()):
        raise ModelError(
            f"'{base.name}' computes NaN or infinity on a short input, though all its weights are finite.",
            fix="load it with --dtype float32, or use another checkpoint",
        )
    moved = (after - hidden).abs().amax(-1)  # (changed sequences, length)
    scale = float(hidden.abs().max())
    if base.objective == "mlm":
        unread = [
            side for side, change in zip(("before", "after"), moved[:, middle], strict=True) if change <= 1e-6 * scale
        ]
        if unread:
            raise ModelError(
                f"'{base.name}' (type '{base.model.config.model_type}') is used as an encoder, but for a masked token "
                f"the model does not read the tokens {' and '.join(unread)} it.",
                fix="use an encoder, whose attention sees both sides",
            )
        return
    limit = rounding(base.model.dtype) / 10 * scale
    if any(float(change[:place].max()) > limit for place, change in zip(places, moved, strict=True)):
        raise ModelError(
            f"'{base.name}' is of type '{base.model.config.model_type}', and its {type(base.model).__name__} sees the "
            "tokens that it has to predict: its hidden state of a token depends on later ones. The losses would "
            "mean nothing.",
            fix=f"use a causal decoder or an encoder, of one of these types: {', '.join(ARCHITECTURES)}",
        )


def differing_sequences(model: PreTrainedModel, length: int) -> tuple[Tensor, Tensor]:
    """Two sequences of random tokens (length,) that differ at every position."""
    generator = torch.Generator().manual_seed(1)
    usable = _usable_tokens(model)
    first = torch.randint(len(usable), (length,), generator=generator)
    step = torch.randint(1, len(usable), (length,), generator=generator)
    return usable[first].clone(), usable[(first + step) % len(usable)].clone()


def model_code(model: PreTrainedModel, name: str) -> AbstractContextManager[None]:
    """Inside the block, an exception of transformers' model code becomes a `ModelError` that names the class."""
    return guarded(
        f"the code of '{name}' ({type(model).__module__}.{type(model).__name__}) failed on a short input",
        fix="check its config.json; if transformers alone fails too, the fault is in the model or in transformers",
    )


def failed_with(failures: Sequence[Exception]) -> str:
    """What the last attempt raised, for a message; empty if nothing was raised."""
    return f" (the last attempt failed: {reason(failures[-1])})" if failures else ""


def trial_sequences(model: PreTrainedModel, longest: int) -> list[Tensor]:
    """A few sequences of random tokens, of several lengths. No padding tokens: some models give them no position."""
    generator = torch.Generator().manual_seed(0)
    usable = _usable_tokens(model)
    lengths = [min(length, longest) for length in (7, 23, 23, 1, 12)]
    return [usable[torch.randint(len(usable), (length,), generator=generator)].to(model.device) for length in lengths]


def _usable_tokens(model: PreTrainedModel) -> Tensor:
    """The token ids that the model has embeddings for, except the padding token's, on the CPU."""
    ids = torch.arange(model.get_input_embeddings().weight.shape[0])
    return ids[ids != model.config.pad_token_id] if model.config.pad_token_id is not None else ids


def _agrees(base: BaseModel, batch: Tokens, truth: Tensor, failures: list[Exception]) -> bool:
    """Whether our logits equal the model's, `truth` (T, V), up to rounding. An exception is appended to `failures`."""
    try:
        logits = base.forward_logits(batch)
    except Exception as error:  # an untested model may raise anything
        if is_our_bug(error):
            raise
        failures.append(error)
        return False
    return same_logits(logits, truth, base.model.dtype)


def same_logits(logits: Tensor, truth: Tensor, dtype: torch.dtype) -> bool:
    """Whether both logits are equal, up to the rounding of a model of this dtype."""
    return logits.shape == truth.shape and bool((logits - truth).abs().max() <= rounding(dtype) * truth.abs().max())


def rounding(dtype: torch.dtype) -> float:
    """The largest difference that rounding explains in a model of this dtype, relative to the largest value."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2


def check_objective(architecture: Architecture, objective: ObjectiveName | None, name: str) -> None:
    """Raise a ModelError for an objective that is not the architecture's."""
    if objective and objective != architecture.objective:
        kind = "an encoder" if architecture.objective == "mlm" else "a decoder"
        raise ModelError(
            f"'{name}' is {kind}, which is trained with the objective {architecture.objective}, not {objective}.",
            fix=f"leave the objective out, or use a model that is made for {objective}",
        )


def language_model_class(architecture: Architecture) -> Any:
    """transformers' auto class for an architecture with its LM head."""
    return AutoModelForMaskedLM if architecture.objective == "mlm" else AutoModelForCausalLM


def _sentence_facts(source: ModelSource) -> tuple[SentenceFacts | None, tuple[str, ...]]:
    """The facts of a sentence model, and a note if they cannot be used: only sentence vectors need them."""
    try:
        return source.sentence_facts(), ()
    except ModelError as error:
        return None, (f"its sentence vectors cannot be computed here: {error.what}",)


def _head_notes(missing: set[str]) -> tuple[str, ...]:
    if not missing:
        return ()
    return (f"the head starts at random: {', '.join(sorted(missing))} are not in the checkpoint",)


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, name: str) -> None:
    """Raise a ModelError if the tokenizer is empty or has ids that the model has no embeddings for."""
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            f"the tokenizer of '{name}' has token ids up to {largest}, but the model has embeddings for {rows} tokens.",
            fix="use the tokenizer that the model was trained with",
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            f"the tokenizer of '{name}' has no vocabulary.", fix="copy its files into the model's folder again"
        )


def _check_mask_token(tokenizer: PreTrainedTokenizerFast, architecture: Architecture, name: str) -> None:
    if architecture.objective == "mlm" and tokenizer.mask_token_id is None:
        raise ModelError(
            f"the tokenizer of '{name}' has no mask token, which masked language modelling needs.",
            fix="use the tokenizer that the model was trained with, or a model of another family",
        )


def longest_sequence(config: PretrainedConfig, offset: int, tokenizer: PreTrainedTokenizerFast, *, tested: bool) -> int:
    """The most tokens in a sequence, as the model's positions allow.

    The tokenizer's limit counts too, if the model has no limit or its architecture is not tested. If neither has a
    limit, the result is 2048.
    """
    positions = getattr(config, "max_position_embeddings", None) or -1
    limits = [positions - offset] if positions > 0 else []
    if not (limits and tested):
        limits.append(tokenizer.model_max_length)
    return int(min(limits)) if min(limits) < 1e9 else _NO_POSITION_LIMIT


def merge_adapters(model: PreTrainedModel, source: ModelSource) -> None:
    """Merge the adapters of `source` into the weights of a language model, in their order.

    Raises:
        ModelError: an adapter was trained to classify, or does not fit.
    """
    if not source.adapters:
        return
    from domain_ft.models.lora import merge_and_unload
    from domain_ft.models.peft_format import load_adapter, task_type

    for adapter in source.adapters:
        if task_type(adapter) in ("SEQ_CLS", "TOKEN_CLS"):
            raise ModelError(
                f"'{source.recorded}' was trained to classify, so it is not a language model.",
                where=str(adapter),
                fix="give the model that it was trained from (base_model_name_or_path in its adapter_config.json)",
            )
        load_adapter(model, adapter)
        merge_and_unload(model)
