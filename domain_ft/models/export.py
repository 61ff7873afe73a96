"""Export of a trained model for serving: one function per target, in the table `TARGETS`.

`merged` is a folder that transformers loads without PEFT. LoRA's updates are merged into the base weights. The model is
saved under a temporary name and loaded again with transformers, and its weights and logits are compared with those of
the trained model. The folder appears only after that. The model in memory does not change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from domain_ft.errors import ModelError
from domain_ft.models.base import BaseModel
from domain_ft.models.lora import has_lora, lora_of
from domain_ft.models.model_files import not_finite
from domain_ft.models.modes import evaluating
from domain_ft.models.sentence_model import SentenceModel
from domain_ft.models.sources import quiet
from domain_ft.randomness import generator
from domain_ft.storage import new_folder

_LENGTHS = (16, 512)  # tokens of the sequences that are compared; cut to the model's limit
# How far the logits may differ, relative to the largest: a merge rounds each weight once more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class Exportable(Protocol):
    """A `BaseModel`, a `TaskModel`, or anything else with a transformers model and its tokenizer."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def max_length(self) -> int: ...


def export_model(base: Exportable, folder: Path, target: str = "merged") -> None:
    """Write `base` to `folder` for a target of `TARGETS`; the folder appears when it is complete and checked.

    For a sentence model the folder also gets the files of sentence-transformers. So the run folder of a full fine-tune
    has the pooling and the prompts of its base, which may be deleted later.

    Raises:
        ModelError: the folder exists and is not empty, a weight is not finite, or the model that was written is not the
            one in memory.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} exists already and is not an empty folder", fix="name a new folder")
    model = base.model
    if bad := not_finite(dict(model.named_parameters())):
        raise ModelError(
            f"the weights are not all finite: NaN or infinity in {bad}; nothing was written",
            fix="use a checkpoint from before the training diverged, or train again with a lower --learning-rate",
        )
    with quiet(), evaluating(model), new_folder(folder) as temporary:
        TARGETS[target](base, temporary)
        if isinstance(base, BaseModel) and base.sentence:
            SentenceModel.of(base).save(temporary)


def write_merged(base: Exportable, folder: Path) -> None:
    """Write `base` as a model that transformers loads; an adapter in it is merged.

    Raises:
        ModelError: the model that was written is not the one in memory.
    """
    model = base.model
    expected = _sample_logits(model, base.max_length)
    with _merged(model):
        model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        reloaded = type(model).from_pretrained(folder).to(model.device).eval()
        _refuse_other_weights(model, reloaded)
    for before, after in zip(expected, _sample_logits(reloaded, base.max_length), strict=True):
        _refuse_other_logits(before, after, model.dtype)


TARGETS: dict[str, Callable[[Exportable, Path], None]] = {"merged": write_merged}
"""The export targets. Each function gets a model in evaluation mode, writes it into a folder and checks it."""


@contextlib.contextmanager
def _merged(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, `model` is a plain model with the updates in its weights; afterwards it is as before."""
    if not has_lora(model):
        yield
        return
    lora = lora_of(model)
    merged_before = lora.merged
    lora.merge()
    lora.detach()
    try:
        yield
    finally:
        lora.attach()
        if not merged_before:
            lora.unmerge()


def _sample_logits(model: PreTrainedModel, longest: int) -> list[Tensor]:
    """Logits of fixed random ids: for each sequence (1, T, V), (1, T, L) of a tagger, or (1, L) of a text classifier.

    One sequence at a time, since a decoder without a padding token cannot classify a batch.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    draw = generator(0, "export probe")
    logits = []
    for length in _LENGTHS:
        ids = torch.from_numpy(draw.integers(vocabulary, size=(1, min(length, longest)))).to(model.device)  # (1, T)
        logits.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
    return logits


def _refuse_other_weights(model: PreTrainedModel, reloaded: PreTrainedModel) -> None:
    written, read = model.state_dict(), reloaded.state_dict()
    lost = [name for name, tensor in written.items() if name not in read or not torch.equal(tensor, read[name])]
    if lost:
        raise ModelError(
            f"the merged {type(model).__name__} cannot be saved and loaded again: {len(lost)} weights are lost or "
            f"changed, such as {', '.join(lost[:5])}; nothing was written",
            fix="keep the adapter and load it with PEFT; the usual cause is a weight that is tied in only one of "
            "the two models (saved and loaded)",
        )


def _refuse_other_logits(expected: Tensor, reloaded: Tensor, dtype: torch.dtype) -> None:
    difference = (expected - reloaded).abs().max().item()
    allowed = _TOLERANCE[dtype] * expected.abs().max().item()
    if not difference <= allowed:  # written so that NaN is refused too
        raise ModelError(
            f"the merged model's logits differ from the trained model's by {difference:.2e}, but rounding explains "
            f"at most {allowed:.2e}; nothing was written",
            fix="keep the adapter and load it with PEFT",
        )
