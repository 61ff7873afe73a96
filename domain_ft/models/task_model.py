"""A model with a head for a downstream task: from packed examples to logits.

    task = load_task_model("minilm", labels, kind="sequence")     # or a folder, a hub id, a finished run of adapt
    reset_head(task, seed=0)
    logits = task.logits(inputs)                                  # (examples, L), float32

The classes are transformers' AutoModelForSequenceClassification and AutoModelForTokenClassification, so that
transformers and PEFT load the saved models. Their heads for texts do not support packed rows. So the body runs on the
row, and the head gets one hidden state per sequence: that of the first token in an encoder, that of the last token in a
decoder, and the mean over the sequence in models that pool by the mean. A scalar head (a reward, a score) is a
multi-label task with one class: logits (examples, 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from domain_ft.corpus.examples import Labels
from domain_ft.errors import ModelError
from domain_ft.models import attention
from domain_ft.models.architectures import ARCHITECTURES, Architecture, describe
from domain_ft.models.base import (
    check_vocabulary,
    failed_with,
    language_model_class,
    longest_sequence,
    merge_adapters,
    model_code,
    padded_groups,
    padded_share,
    same_logits,
    trial_sequences,
)
from domain_ft.models.lora import merge_and_unload
from domain_ft.models.model_files import check_missing, is_our_bug, load_tokenizer, load_weights, read_config
from domain_ft.models.peft_format import load_adapter, read_settings
from domain_ft.models.pooling import Pooling
from domain_ft.models.probe import HEAD_FOLDER, Probe, on_frozen_model
from domain_ft.models.sources import ModelSource, base_in_run, find, quiet
from domain_ft.models.task_facts import TASK_NAME, TO_LOAD, read_facts
from domain_ft.models.task_micro_batches import TaskTokens, last_tokens, one_token_per_sequence
from domain_ft.progress import Progress
from domain_ft.randomness import derive

Kind = Literal["sequence", "token"]

PEFT_TASK_TYPES: dict[Kind, str] = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS"}
"""PEFT's names of the kinds."""

_CLASSES: dict[Kind, tuple[Any, Any]] = {
    "sequence": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    "token": (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
}
_WORDS = {"sequence": "texts", "token": "tokens"}
_OUTPUT_LAYERS = ("classifier", "score")  # names of the layer that computes the logits; PEFT knows the same ones


@dataclass
class TaskModel:
    """A model with a task's head and its tokenizer.

    Attributes:
        model: a transformers model, in eval mode when loaded. LoRA is put into it in place.
        tokenizer: a fast tokenizer.
        kind: `sequence` if whole texts are classified, `token` if each token is.
        labels: the classes; also in `model.config.id2label`.
        name: the name that it was loaded by.
        source: what an adapter records as its base: the embedded name, the hub id, or an absolute path.
        revision: the hub's commit, or `sha256:` and the hash of the weights.
        max_length: the most tokens in a sequence, see `base.longest_sequence`.
        packed: whether the model runs packed rows; otherwise batches are padded.
        decoder: whether the model is a decoder, whose head reads the last token, not the first.
        position_offset: the position id of a sequence's first token.
        new_modules: paths of the modules with new weights, which are trained in full and saved with an adapter.
        notes: what the user should know before using the model.
        probe: a linear probe that computes the logits from `features` and replaces the model's head; or None.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    kind: Kind
    labels: Labels
    name: str
    source: str
    revision: str
    max_length: int
    packed: bool
    decoder: bool
    position_offset: int = 0
    new_modules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    probe: Probe | None = None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    @property
    def task_type(self) -> str:
        """PEFT's name of the kind."""
        return PEFT_TASK_TYPES[self.kind]

    def logits(self, inputs: TaskTokens) -> Tensor:
        """Logits (examples, L), averaged over the windows of each example; for the kind `token` (tokens, L).

        Logits are float32, or float64 if the model is and there is no probe.
        """
        if self.probe is not None:
            return self.probe.logits(self.features(inputs))
        if self.kind == "sequence" and self.decoder:
            last = last_tokens(inputs, self.model.config.pad_token_id)  # (S,)
            logits = self.model.score(self._hidden(inputs).index_select(0, last))  # (S, L)
        else:
            logits = self._packed_logits(inputs) if self.packed else self._padded_logits(inputs)  # (S, L) or (T, L)
        logits = logits.float() if logits.dtype != torch.float64 else logits
        if self.kind == "token" or len(inputs.cu_seqlens) - 1 == inputs.examples:
            return logits
        windows = torch.zeros(inputs.examples, dtype=torch.long, device=logits.device)
        windows = windows.index_add(0, inputs.owners, torch.ones_like(inputs.owners))  # (examples,)
        sums = logits.new_zeros(inputs.examples, logits.shape[1]).index_add(0, inputs.owners, logits)  # (examples, L)
        return sums / windows.unsqueeze(1)

    def features(self, inputs: TaskTokens) -> Tensor:
        """(examples, D), the mean of the last hidden states of all tokens of an example, special ones too.

        Features are float32, or float64 if the model is.
        """
        lengths = torch.diff(inputs.cu_seqlens).long()  # (S,)
        ends = torch.zeros(inputs.examples + 1, dtype=torch.long, device=lengths.device)
        ends = ends.index_add(0, inputs.owners + 1, lengths).cumsum(0)  # (examples + 1,)
        return Pooling("mean").vectors(self._hidden(inputs), ends)

    @property
    def beside_features(self) -> tuple[str, ...]:
        """Paths of the modules that `features` does not read: the head, and a pooler of the body."""
        head = [name for name, child in self.model.named_children() if child is not self.model.base_model]
        body = self.model.base_model
        pooler = [] if getattr(body, "pooler", None) is None else [f"{self.model.base_model_prefix}.pooler"]
        return (*head, *pooler)

    def padding_fraction(self, inputs: TaskTokens) -> float:
        """The share of padding in the tokens that are computed for a micro-batch; 0 if sequences are packed."""
        return 0.0 if self.packed else padded_share(inputs)

    def _packed_logits(self, inputs: TaskTokens) -> Tensor:
        """(sequences, L), or (tokens, L)."""
        pooling = one_token_per_sequence(self.model, inputs.cu_seqlens) if self.kind == "sequence" else nullcontext()
        with pooling:
            return self.model(**self._packed_arguments(inputs)).logits.flatten(0, -2)

    def _hidden(self, inputs: TaskTokens) -> Tensor:
        """(tokens, D), the last hidden states of the body."""
        body = self.model.base_model
        if self.packed:
            return body(**self._packed_arguments(inputs)).last_hidden_state.squeeze(0)
        parts, places = [], []
        for index, mask, arguments in self._padded(inputs):
            parts.append(body(**arguments).last_hidden_state[mask])  # (tokens of the batch, D)
            places.append(index[mask])
        return torch.cat(parts).index_select(0, torch.argsort(torch.cat(places)))

    def _padded_logits(self, inputs: TaskTokens) -> Tensor:
        """(sequences, L), or (tokens, L), from batches of sequences of about equal length."""
        parts, places = [], []
        for index, mask, arguments in self._padded(inputs):
            logits = self.model(**arguments).logits  # (B, longest, L), or (B, L)
            parts.append(logits[mask] if self.kind == "token" else logits)
            places.append(index[mask] if self.kind == "token" else index[:, 0])
        return torch.cat(parts).index_select(0, torch.argsort(torch.cat(places)))

    def _padded(self, inputs: TaskTokens) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """For each padded batch: positions in the row and a mask that is False for padding, (B, longest) each, and the
        arguments of the model's forward.
        """
        for index, mask in padded_groups(inputs.cu_seqlens):
            input_ids = inputs.input_ids[index].masked_fill(~mask, self.tokenizer.pad_token_id or 0)
            arguments = {"input_ids": input_ids, "attention_mask": mask.long(), **self._no_cache()}
            if self._reads_types:
                arguments["token_type_ids"] = inputs.type_ids[index].masked_fill(~mask, 0)
            yield index, mask, arguments

    def _packed_arguments(self, inputs: TaskTokens) -> dict[str, Any]:
        """The arguments of the model's forward for the packed row; ids and positions are (1, T)."""
        types = {"token_type_ids": inputs.type_ids.unsqueeze(0)} if self._reads_types else {}
        return {
            "input_ids": inputs.input_ids.unsqueeze(0),
            "position_ids": (inputs.position_ids + self.position_offset).unsqueeze(0),
            **types,
            **self._no_cache(),
            **attention.packed_arguments(inputs.cu_seqlens, inputs.max_seqlen),
        }

    @property
    def _reads_types(self) -> bool:
        """Whether the model has segment embeddings. (Decoders that accept token_type_ids embed them as tokens.)"""
        return not self.decoder and (getattr(self.model.config, "type_vocab_size", None) or 0) > 1

    def _no_cache(self) -> dict[str, Any]:
        return {"use_cache": False} if self.decoder else {}


# -------------------------------------------------------------------------------------------------------------- loading


def load_task_model(
    name: str,
    labels: Labels,
    *,
    kind: Kind = "sequence",
    adapter: Literal["merge", "continue"] = "merge",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> TaskModel:
    """Load a model by an embedded name, a folder, a hub id or a run of adapt, with a new head for `labels`.

    The head is initialised by `reset_head(model, 0)`.

    Args:
        name: such as `minilm`, `./my-model`, `answerdotai/ModernBERT-base`, `runs/legal`.
        labels: the classes.
        kind: `sequence` to classify texts, `token` to classify their tokens.
        adapter: how a run's adapters are used: `merge` merges them; `continue` keeps the last one as LoRA layers to
            train further, without its tensors of the LM head.
        device: of the weights.
        dtype: of the weights.
        progress: called while files are fetched.

    Raises:
        ModelError: the model does not exist, is a run of classify or tag, or is of a type for which transformers has no
            such head; the message says what to do.
        NotMadeError: an embedded model is not in the cache (`embedded.loading` makes it, or raises AssetError).
    """
    if (Path(name) / TASK_NAME).is_file():
        raise ModelError(
            f"'{name}' is a run of classify or tag, whose head is for another task.",
            fix="give the model that it was trained from (base in its task.json), or evaluate or predict with the run",
        )
    source = find(name, progress)
    kept = source.adapters
    if adapter == "continue" and kept:
        source = dataclasses.replace(source, adapters=kept[:-1])
    task, missing = _load(source, labels, kind, name, dtype)
    new = _new_modules(task.model, missing)
    task.new_modules = tuple(new)
    _keep_precise(task.model, new)
    if adapter == "continue" and kept:
        load_adapter(task.model, kept[-1], body_only=True, train_modules=new)
        settings = read_settings(kept[-1])
        task.source, task.revision = settings["base_model_name_or_path"], settings.get("revision") or task.revision
    replaced = [path for path in new if not any(key.startswith(f"{path}.") for key in missing)]
    if replaced:
        task.notes += (f"the checkpoint's head, {' and '.join(replaced)}, is replaced by a new one",)
    reset_head(task, 0)
    return _ready(task, device)


def load_task_run(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> TaskModel:
    """Load the model of a finished run of classify or tag, with its adapter merged.

    Raises:
        ModelError: there is no such run, or its files are damaged or do not fit each other.
        NotMadeError: the run's base is an embedded model that is not in the cache (`embedded.loading` makes it).
    """
    folder = Path(folder)
    facts = read_task(folder)
    labels, kind = Labels(tuple(facts["labels"]), facts["multi_label"]), facts["kind"]
    if on_frozen_model(folder):
        probe, head = Probe.load(folder / HEAD_FOLDER)
        base = find(base_in_run(folder, head["base"]), progress)
        task, _ = _load(base, labels, kind, str(folder), dtype)
        if base.revision != head["revision"]:
            task.notes += (
                f"the model '{head['base']}' is {base.revision}, but the probe was fitted on {head['revision']}",
            )
        task.probe = probe.to(device)
        return _ready(task, device)
    source = find(str(folder), progress)
    body = dataclasses.replace(source, adapters=source.adapters[:-1])
    task, missing = _load(body, labels, kind, str(folder), dtype, tokenizer_source=source)
    _keep_precise(task.model, _new_modules(task.model, missing))
    if source.adapters:
        load_adapter(task.model, source.adapters[-1])
        merge_and_unload(task.model)
    else:
        check_missing(task.model, missing, str(folder))
    if (folder / HEAD_FOLDER).is_dir():
        task.probe = Probe.load(folder / HEAD_FOLDER)[0].to(device)
    return _ready(task, device)


def read_task(folder: Path) -> dict[str, Any]:
    """The task.json of a run of classify or tag.

    Raises:
        ModelError: it is missing or damaged.
    """
    if not (folder / TASK_NAME).is_file():
        raise ModelError(
            f"'{folder}' is not a finished run of classify or tag: it has no {TASK_NAME}.",
            fix="give the folder of such a run",
        )
    return read_facts(folder, TO_LOAD)


def reset_head(task: TaskModel, seed: int, shares: npt.NDArray[np.float64] | None = None) -> None:
    """Initialise the new modules as the model's class does, as a function of `seed`.

    Args:
        shares: (L,) for a multi-label task: the share of the training examples that have each class, above 0 and below
            1. The head then starts at that probability instead of 1/2, which saves the hundreds of steps in which it
            would learn that classes are rare (Lin et al. 2017, "Focal Loss for Dense Object Detection", section 3.3).
    """
    model = task.model
    fresh = {id(module) for path in task.new_modules for module in model.get_submodule(path).modules()}
    above = {id(module) for module in model.modules() if any(id(child) in fresh for child in module.children())}
    for module in model.modules():  # transformers initialises only where the flag is False
        module._is_hf_initialized = id(module) not in fresh | above
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = id(module) not in fresh
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, "head"))
        model.initialize_weights()
    if shares is None:
        return
    new = [module for path in task.new_modules for module in model.get_submodule(path).modules()]
    for module in new:
        if isinstance(module, nn.Linear) and module.out_features == len(shares) and module.bias is not None:
            with torch.no_grad():
                module.bias.copy_(torch.from_numpy(np.log(shares) - np.log1p(-shares)))


def _keep_precise(model: PreTrainedModel, modules: Sequence[str]) -> None:
    """Convert modules that are trained in full from half precision to float32, the dtype of LoRA's factors.

    In bfloat16 small updates would be rounded away. Autocast handles the mixed precision.
    """
    for path in modules:
        module = model.get_submodule(path)
        if any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in module.parameters()):
            module.float()


def _load(
    source: ModelSource,
    labels: Labels,
    kind: Kind,
    name: str,
    dtype: torch.dtype,
    tokenizer_source: ModelSource | None = None,
) -> tuple[TaskModel, set[str]]:
    """The model with the adapters of `source` merged, on the CPU, and the names of the weights that were not loaded."""
    auto, known = _CLASSES[kind]
    with quiet():
        config = read_config(source.folder, name)
        architecture = describe(config, name)
        if config.model_type not in known:
            raise ModelError(
                f"'{name}' is a model of type '{config.model_type}', for which transformers has no class to classify "
                f"{_WORDS[kind]}.",
                fix=f"use a model of one of these types: {', '.join(sorted(ARCHITECTURES.keys() & known.keys()))}",
            )
        tokenizer = load_tokenizer(tokenizer_source or source, name)
        _set_labels(config, labels, kind)
        model, missing, notes = load_weights(auto, source.folder, config, dtype, name, any_head=True)
    check_missing(model, [key for key in missing if ".pooler." not in key], name)
    check_vocabulary(tokenizer, model, name)
    _merge(model, source, architecture, name, dtype)
    offset = architecture.position_offset(config)
    task = TaskModel(
        model=model.eval(),
        tokenizer=tokenizer,
        kind=kind,
        labels=labels,
        name=name,
        source=source.recorded,
        revision=source.revision,
        max_length=longest_sequence(config, offset, tokenizer, tested=architecture.tested),
        packed=architecture.tested,
        decoder=architecture.objective == "clm",
        position_offset=offset,
        notes=source.notes + notes,
    )
    return task, missing


def _set_labels(config: PretrainedConfig, labels: Labels, kind: Kind) -> None:
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: index for index, name in enumerate(labels.names)}
    if kind == "sequence":
        config.problem_type = "multi_label_classification" if labels.multi_label else "single_label_classification"


def _merge(
    model: PreTrainedModel, source: ModelSource, architecture: Architecture, name: str, dtype: torch.dtype
) -> None:
    """Merge a run's adapters into a task's model.

    They are merged into the language model that they were trained on, and the weights that both models have are copied.
    """
    if not source.adapters:
        return
    with quiet():
        config = read_config(source.folder, name)
        adapted, *_ = load_weights(language_model_class(architecture), source.folder, config, dtype, name)
    merge_adapters(adapted, source)
    common = model.state_dict().keys() & adapted.state_dict().keys()
    model.load_state_dict({key: value for key, value in adapted.state_dict().items() if key in common}, strict=False)


def _new_modules(model: PreTrainedModel, missing: set[str]) -> list[str]:
    """The paths of the modules with new weights: children of the model outside its body, and modules inside its body.

    The layer that computes the logits is always new, since the checkpoint's layer is for other classes.
    """
    children = {name: child for name, child in model.named_children() if child is not model.base_model}
    head = [name for name in children if name in _OUTPUT_LAYERS or any(key.startswith(f"{name}.") for key in missing)]
    inside = {key.rpartition(".")[0] for key in missing if key.partition(".")[0] not in children}
    whole = {path: module for path, module in model.base_model.named_modules(prefix=model.base_model_prefix) if path}
    new: list[str] = []
    for path, module in whole.items():  # outer modules come first
        names = {f"{path}.{name}" for name, _ in module.named_parameters()}
        if names and names <= missing and not any(path.startswith(f"{outer}.") for outer in new):
            new.append(path)
    assert all(any(f"{path}.".startswith(f"{outer}.") for outer in new) for path in inside)
    return new + head


def _ready(task: TaskModel, device: torch.device | str) -> TaskModel:
    """Move `task` to its device, and install our attention or choose a layout."""
    task.model.to(device).eval()
    if task.packed:
        attention.install(task.model)
    else:
        _choose_layout(task)
    return task


def _choose_layout(task: TaskModel) -> None:
    """Choose packing or padding for an architecture that is not in the table, as `base.choose_layout` does.

    Raises:
        ModelError: the model's code fails, or neither layout gives its logits.
    """
    model, before = task.model, task.model.config._attn_implementation
    sequences = trial_sequences(model, task.max_length)
    inputs = TaskTokens.of([sequence.tolist() for sequence in sequences], task.device)
    failures: list[Exception] = []
    with quiet(), torch.no_grad():
        with model_code(model, task.name):
            alone: Sequence[Tensor] = [
                model(input_ids=sequence[None], **task._no_cache()).logits for sequence in sequences
            ]
        truth = torch.cat([logits.float().flatten(0, -2) for logits in alone])  # (S, L) or (T, L)
        attention.install(model)
        if model.config._attn_implementation == attention.NAME:
            task.packed = True
            for offset in (0, (model.config.pad_token_id or 0) + 1):  # the first position in BERT, and in RoBERTa
                task.position_offset = offset
                if _agrees(task, inputs, truth, failures):
                    task.max_length = longest_sequence(model.config, offset, task.tokenizer, tested=False)
                    return
            model.set_attn_implementation(before)
        task.packed = False
        if _agrees(task, inputs, truth, failures):
            return
    raise ModelError(
        f"'{task.name}' is of type '{model.config.model_type}', whose logits for a batch of texts differ from those "
        f"for single texts{failed_with(failures)}.",
        fix=f"use a model of one of these types: {', '.join(ARCHITECTURES)}",
    ) from (failures[-1] if failures else None)


def _agrees(task: TaskModel, inputs: TaskTokens, truth: Tensor, failures: list[Exception]) -> bool:
    """Whether our logits equal the model's, `truth`, up to rounding. An exception is appended to `failures`."""
    try:
        logits = task.logits(inputs)
    except Exception as error:  # an untested model may raise anything
        if is_our_bug(error):
            raise
        failures.append(error)
        return False
    return same_logits(logits, truth, task.model.dtype)
