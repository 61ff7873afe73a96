"""A base model ready for an objective: rows of tokens go in, hidden states at the output projection come out.

    base = load("minilm")                        # or a folder, a hub id, a finished run
    hidden = base.hidden(batch)                  # (tokens, D), each piece of the batch alone in its own attention
    weight, bias, softcap = base.projection()    # what linear_cross_entropy takes next to it

Nothing here depends on the architecture: what differs stands in `architectures`. A model of an architecture that is not
in that table is first tried on a tiny input; where packing is not exact for it, its batches are padded inside `hidden`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from domain_ft.errors import ModelError
from domain_ft.models import attention, head
from domain_ft.models.architectures import ARCHITECTURES, Architecture, LogitTail, ObjectiveName, describe, logit_tail
from domain_ft.models.sources import Progress, Source, find, quiet

if TYPE_CHECKING:
    from typing_extensions import Self

_PADDING_STEP = 16
"""On the padded path pieces share a batch where their lengths round up to the same multiple of this."""

_NO_POSITION_LIMIT = 2048  # tokens a piece, where neither the model nor its tokenizer names a limit


class Batch(Protocol):
    """What `BaseModel.hidden` reads: pieces laid end to end in one row, on the model's device."""

    @property
    def input_ids(self) -> Tensor:
        """(tokens,) int64."""

    @property
    def position_ids(self) -> Tensor:
        """(tokens,) int64, counted from 0 within each piece."""

    @property
    def cu_seqlens(self) -> Tensor:
        """(pieces + 1,) int32, where each piece begins, and the end of the last."""

    @property
    def max_seqlen(self) -> int:
        """Length of the longest piece in tokens."""


@dataclass(frozen=True)
class Tokens:
    """A `Batch` made by hand, for samples and tests."""

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int

    @classmethod
    def of(cls, pieces: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Self:
        """Lay `pieces`, lists of token ids, end to end."""
        lengths = [len(piece) for piece in pieces]
        ends = torch.tensor([0, *lengths]).cumsum(0)
        return cls(
            torch.tensor([token for piece in pieces for token in piece], dtype=torch.long, device=device),
            torch.tensor([place for length in lengths for place in range(length)], dtype=torch.long, device=device),
            ends.to(device, torch.int32),
            max(lengths, default=0),
        )


@dataclass
class BaseModel:
    """A model with its LM head, its tokenizer, and what is known of both.

    Attributes:
        model: as transformers has it, in eval mode when loaded. LoRA is put into it in place.
        tokenizer: a fast one.
        objective: `mlm` or `clm`.
        name: as it was asked for.
        source: what an adapter records as its base: the embedded name, the hub id, or an absolute path.
        revision: the hub's commit, or `sha256:` and the hash of the weights.
        max_length: the longest piece in tokens that the model's positions allow.
        packed: attention keeps pieces of one row apart; otherwise `hidden` pads batches.
        head_is_random: weights of the head were not in the checkpoint, so its losses mean nothing before it is trained.
        notes: what a person should know before using it.
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

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def hidden(self, batch: Batch, rows: Tensor | None = None) -> Tensor:
        """Hidden states at the output projection's input: (tokens, D), or (n, D) for the positions `rows` (n,) alone.

        Each piece is as if it were the only one. Differentiable; no logits are made.
        """
        hidden = self._packed_hidden(batch, rows) if self.packed else self._padded_hidden(batch, rows)
        return hidden if self.tail.scale == 1.0 else hidden * self.tail.scale

    def projection(self) -> tuple[Tensor, Tensor | None, float | None]:
        """Weight (V, D), bias (V,) or None, and softcap or None: logits = softcap(hidden Wᵀ + b)."""
        weight, bias = head.projection(self.model)
        if bias is not None and self.tail.scale != 1.0:
            bias = bias * self.tail.scale
        return weight, bias, self.tail.softcap

    def forward_logits(self, batch: Batch, rows: Tensor | None = None) -> Tensor:
        """Float32 logits (tokens, V), or (n, V) for the positions `rows`: for samples and tests, not for training."""
        weight, bias, softcap = self.projection()
        logits = F.linear(self.hidden(batch, rows), weight, bias).float()
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    def padding_fraction(self, batch: Batch) -> float:
        """The share of what `hidden` computes for `batch` that is padding: none where pieces are packed."""
        if self.packed:
            return 0.0
        computed = sum(mask.numel() for _, mask in padded_groups(batch.cu_seqlens))
        return 1.0 - len(batch.input_ids) / computed

    def _packed_hidden(self, batch: Batch, rows: Tensor | None) -> Tensor:
        with head.captured_input(self.model) as captured, head.only_rows(self.model, rows) as taken:
            self.model(
                input_ids=batch.input_ids.unsqueeze(0),
                position_ids=(batch.position_ids + self.position_offset).unsqueeze(0),
                **self._no_cache(),
                **attention.packed_arguments(batch.cu_seqlens, batch.max_seqlen),
            )
            hidden = captured[-1].flatten(0, -2)
            return hidden if rows is None or taken else hidden.index_select(0, rows)

    def _padded_hidden(self, batch: Batch, rows: Tensor | None) -> Tensor:
        """Pieces of about equal length, padded to the longest of them, go through the model together."""
        parts, places = [], []
        with head.captured_input(self.model) as captured:
            for index, mask in padded_groups(batch.cu_seqlens):
                input_ids = batch.input_ids[index].masked_fill(~mask, self.tokenizer.pad_token_id or 0)
                self.model(input_ids=input_ids, attention_mask=mask.long(), **self._no_cache())
                parts.append(captured.pop()[mask])
                places.append(index[mask])
        order = torch.argsort(torch.cat(places))
        return torch.cat(parts).index_select(0, order if rows is None else order[rows])

    def _no_cache(self) -> dict[str, Any]:
        return {"use_cache": False} if self.objective == "clm" else {}


def padded_groups(cu_seqlens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch of pieces: positions in the row, and a bool mask of the real ones, both (pieces, longest)."""
    starts, lengths = cu_seqlens[:-1].long(), torch.diff(cu_seqlens).long()
    buckets = (lengths + _PADDING_STEP - 1) // _PADDING_STEP
    for bucket in buckets.unique().tolist():
        members = (buckets == bucket) & (lengths > 0)
        if not members.any():
            continue
        steps = torch.arange(int(lengths[members].max()), device=cu_seqlens.device)
        mask = steps < lengths[members, None]
        yield (starts[members, None] + steps).masked_fill(~mask, 0), mask


def load(
    name: str,
    *,
    objective: ObjectiveName | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> BaseModel:
    """Load a model by an embedded name, a folder, a hub id, or a finished run (whose adapters are merged).

    Args:
        name: such as `minilm`, `./my-model`, `answerdotai/ModernBERT-base`, `runs/legal`.
        objective: `mlm` or `clm`; None for the one that the architecture is made for.
        device: where to put it.
        dtype: of its weights.
        progress: told what is being fetched.

    Raises:
        ModelError: no such model, or one that cannot be used; the message says why and what to do.
        AssetError: an embedded model could not be fetched.
    """
    source = find(name, progress)
    with quiet(), loading(name):
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
        architecture = describe(config, name)
        check_request(architecture, config, objective, name)
        tokenizer = load_tokenizer(source, name)
        model, missing = load_weights(language_model_class(architecture), source.folder, config, dtype)
        check_missing(model, missing, name)
    check_vocabulary(tokenizer, model, name)
    _check_mask_token(tokenizer, architecture, name)
    merge_adapters(model, source)
    offset = architecture.position_offset(config)
    base = BaseModel(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        objective=architecture.objective,
        name=name,
        source=source.recorded,
        revision=source.revision,
        max_length=longest_piece(config, offset, tokenizer, tested=architecture.tested),
        packed=architecture.tested,
        head_is_random=bool(missing),
        notes=source.notes + _head_notes(missing),
        position_offset=offset,
        tail=logit_tail(config),
    )
    if architecture.tested:
        attention.install(model)
    else:
        prove(base)
    return base


def objective_of(name: str, progress: Progress | None = None) -> ObjectiveName:
    """The objective that a model is made for: its configuration is read and no weights.

    Args:
        name: as `load` takes it.
        progress: told what is being fetched.

    Raises:
        ModelError: no such model, or one that cannot be used.
        AssetError: an embedded model could not be fetched.
    """
    source = find(name, progress)
    with quiet(), loading(name):
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
        return describe(config, name).objective


def prove(base: BaseModel) -> None:
    """Find out on a tiny input how a model that no test of ours covers is to be run, and set `base.packed`.

    Its own logits for single pieces are the truth; packing is tried first, then padding.

    Raises:
        ModelError: neither gives the model's own logits.
    """
    model, before = base.model, base.model.config._attn_implementation
    pieces = trial_pieces(model, base.max_length)
    with quiet(), torch.no_grad():
        truth = torch.cat([model(input_ids=piece[None], **base._no_cache()).logits[0].float() for piece in pieces])
        batch = Tokens.of([piece.tolist() for piece in pieces], base.device)
        attention.install(model)
        if model.config._attn_implementation == attention.NAME:
            base.packed = True
            for offset in (0, (model.config.pad_token_id or 0) + 1):  # as BERT counts positions, and as RoBERTa does
                base.position_offset = offset
                if _agrees(base, batch, truth):
                    base.max_length = longest_piece(model.config, offset, base.tokenizer, tested=False)
                    return
            model.set_attn_implementation(before)
        base.packed = False
        if _agrees(base, batch, truth):
            return
    raise ModelError(
        f"'{base.name}' is of type '{model.config.model_type}', which does not work here: from the input of its output "
        "projection its logits cannot be had.",
        fix=f"take a model of one of these types: {', '.join(ARCHITECTURES)}",
    )


def trial_pieces(model: PreTrainedModel, longest: int) -> list[Tensor]:
    """A few pieces of random tokens, of unequal lengths, without padding tokens (from which some count positions)."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    usable = [token for token in range(vocabulary) if token != model.config.pad_token_id]
    lengths = [min(length, longest) for length in (7, 23, 23, 1, 12)]
    draws = [torch.randint(len(usable), (length,), generator=generator) for length in lengths]
    return [torch.tensor(usable, device=model.device)[draw.to(model.device)] for draw in draws]


def _agrees(base: BaseModel, batch: Batch, truth: Tensor) -> bool:
    """Are our logits the model's own, up to the rounding of its dtype?"""
    try:
        logits = base.forward_logits(batch)
    except Exception:  # whatever a model that nobody has tried here may raise
        return False
    return same_logits(logits, truth, base.model.dtype)


def same_logits(logits: Tensor, truth: Tensor, dtype: torch.dtype) -> bool:
    """Are the two equal, up to the rounding of a model of this dtype?"""
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2
    return logits.shape == truth.shape and bool((logits - truth).abs().max() <= tolerance * truth.abs().max())


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn what transformers raises for a broken or foreign model into one message."""
    try:
        yield
    except SafetensorError as error:
        raise ModelError(
            f"the weights of '{name}' are damaged: {error}.", fix="fetch or copy the model again"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"'{name}' cannot be loaded: {reason}",
            fix="give a model that transformers loads from safetensors, without code of its own",
        ) from error


def check_request(
    architecture: Architecture, config: PretrainedConfig, objective: ObjectiveName | None, name: str
) -> None:
    """Refuse an objective that a model is not made for, and quantised models."""
    if objective and objective != architecture.objective:
        kind = "an encoder" if architecture.objective == "mlm" else "a decoder"
        raise ModelError(
            f"'{name}' is {kind}, which is trained with the objective {architecture.objective}, not {objective}.",
            fix=f"leave the objective out, or take a model that is made for {objective}",
        )
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"'{name}' is quantised, and quantised models cannot be adapted yet.",
            fix="take the model that it was made from, in bfloat16 or float32",
        )


def load_tokenizer(source: Source, name: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer beside the weights, or beside the last adapter that brings its own."""
    folders = [folder for folder in (*reversed(source.adapters), source.folder) if _has_tokenizer(folder)]
    if not folders:
        raise ModelError(
            f"'{name}' comes without a tokenizer (tokenizer.json).",
            where=str(source.folder),
            fix="copy the tokenizer's files into the model's folder",
        )
    tokenizer = AutoTokenizer.from_pretrained(folders[0], trust_remote_code=False, local_files_only=True)
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of '{name}' ({type(tokenizer).__name__}) has no fast version, which is needed here.",
            where=str(folders[0]),
            fix="convert it to a tokenizer.json with transformers, and put that into the folder",
        )
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    """Is there a vocabulary in `folder`? (Where there is none, transformers makes up an empty tokenizer in silence.)"""
    names = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
    return any((folder / name).is_file() for name in names)


def load_weights(
    auto: Any, folder: Path, config: PretrainedConfig, dtype: torch.dtype, *, any_head: bool = False
) -> tuple[PreTrainedModel, set[str]]:
    """The model of an auto class, and the names of the weights that the checkpoint does not hold.

    Args:
        any_head: the checkpoint may have a head of another shape, which then counts as missing.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            "the model has no weights in safetensors format, and no other format is loaded.",
            where=str(folder),
            fix="save it again with transformers' save_pretrained, which writes model.safetensors",
        )
    model, report = auto.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    mismatched = sorted(report["mismatched_keys"])
    misfits = [found for found in mismatched if not any_head or found[0].startswith(f"{model.base_model_prefix}.")]
    if misfits:
        key, stored, expected = misfits[0]
        raise ModelError(
            f"the weights do not fit config.json: {key} is {tuple(stored)}, where the model has {tuple(expected)}.",
            where=str(folder),
            fix="take the config.json and model.safetensors of the same model",
        )
    return model, set(report["missing_keys"]) | {key for key, *_ in mismatched}


def language_model_class(architecture: Architecture) -> Any:
    """The auto class of an architecture with its LM head."""
    return AutoModelForMaskedLM if architecture.objective == "mlm" else AutoModelForCausalLM


def check_missing(model: PreTrainedModel, missing: Iterable[str], name: str) -> None:
    """Weights of the head may be missing; those of the body may not."""
    body = sorted(key for key in missing if key.startswith(f"{model.base_model_prefix}."))
    if body:
        raise ModelError(
            f"{len(body)} weights of '{name}' are not in its files, {body[0]} for one.",
            fix="take a whole checkpoint, whose config.json belongs to its weights",
        )


def _head_notes(missing: set[str]) -> tuple[str, ...]:
    if not missing:
        return ()
    return (f"the head starts at random: {', '.join(sorted(missing))} are not in the checkpoint",)


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, name: str) -> None:
    """The tokenizer and the model must be made for each other."""
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            f"the tokenizer of '{name}' has token ids up to {largest}, but the model has embeddings for {rows} tokens.",
            fix="take the tokenizer that the model was trained with",
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(f"the tokenizer of '{name}' has no vocabulary.", fix="copy its files beside the model again")


def _check_mask_token(tokenizer: PreTrainedTokenizerFast, architecture: Architecture, name: str) -> None:
    if architecture.objective == "mlm" and tokenizer.mask_token_id is None:
        raise ModelError(
            f"the tokenizer of '{name}' has no mask token, without which a masked language model cannot be trained.",
            fix="take the tokenizer that the model was trained with, or a model of another family",
        )


def longest_piece(config: PretrainedConfig, offset: int, tokenizer: PreTrainedTokenizerFast, *, tested: bool) -> int:
    """The model's number of positions. The tokenizer's word counts where there is none, or where nothing is tested."""
    positions = getattr(config, "max_position_embeddings", None) or -1
    limits = [positions - offset] if positions > 0 else []
    if not (limits and tested):
        limits.append(tokenizer.model_max_length)
    return int(min(limits)) if min(limits) < 1e9 else _NO_POSITION_LIMIT


def merge_adapters(model: PreTrainedModel, source: Source) -> None:
    """Put the adapters of runs into the weights of a language model, in their order.

    Raises:
        ModelError: an adapter is of a task, with a head that a language model does not have, or does not fit.
    """
    if not source.adapters:
        return
    from domain_ft.models.lora import merge_and_unload
    from domain_ft.models.peft_format import load_adapter, task_type

    for adapter in source.adapters:
        if task_type(adapter) in ("SEQ_CLS", "TOKEN_CLS"):
            raise ModelError(
                f"'{source.recorded}' was trained to classify, and is no language model any more.",
                where=str(adapter),
                fix="give the model that it was trained from, which its adapter_config.json names as its base",
            )
        load_adapter(model, adapter)
        merge_and_unload(model)
