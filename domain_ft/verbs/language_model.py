"""What `adapt`, `evaluate` and `data estimate` share: from settings to a machine, a model and its text."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, LoggerType, gather_object

from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.masking import MaskVocabulary
from domain_ft.corpus.prepared import PreparedCorpus, TextSplit, prepare
from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.errors import SettingsError, nearest
from domain_ft.evaluation.language_model import score
from domain_ft.evaluation.scores import Scores
from domain_ft.models.base import BaseModel
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.masked_lm import MaskedLM
from domain_ft.settings import AdaptSettings, EvaluateSettings, MachineOptions, TokenOptions
from domain_ft.training.progress import ProgressDisplay
from domain_ft_kernels import resolve_backend
from domain_ft_kernels.products import has_fast_bfloat16

NO_CONTROL = "none"
"""`--control none`: measure no forgetting."""


ReadsText: TypeAlias = AdaptSettings | EvaluateSettings
"""The settings of a verb that works on a language model's loss on text."""


PATIENCE = timedelta(days=30)
"""How long processes wait for the one that reads and tokenises a corpus for them."""


EVALUATION_TOKENS = {"mlm": 40_000, "clm": 10_000}
"""Held-out tokens that are read by default. A masked LM scores the masked ones alone, a causal LM scores each."""


@dataclass(frozen=True)
class Machine:
    """Where and how it is computed, with nothing left on `auto`.

    Attributes:
        accelerator: device, precision and processes, as accelerate has them.
        dtype: of the arithmetic: `float32` or `bfloat16`.
        kernels: the backend of the ops: `reference`, `torch` or `triton`.
        sharded: whether the processes each keep a shard of what trains, and not all of it.
    """

    accelerator: Accelerator
    dtype: str
    kernels: str
    sharded: bool = False

    @property
    def device(self) -> torch.device:
        """The device that this process computes on."""
        return self.accelerator.device

    def weights_dtype(self, method: str, train_modules: Sequence[str] = ()) -> torch.dtype:
        """The type that the base model is kept in: bfloat16 where all of it is frozen; what trains is float32."""
        frozen = method != "full" and not train_modules
        return torch.bfloat16 if self.dtype == "bfloat16" and frozen else torch.float32

    @property
    def processes(self) -> int:
        """How many processes compute together."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return bool(self.accelerator.is_main_process)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process of each node runs the block first and fills the caches that the others then find filled.

        The others wait however long it takes: training's own limit, after which a process counts as lost, is minutes.
        Where nodes share a cache, its locks see to it that only one of them fills it. If the block fails, the others
        are let in as well, to fail of the same.
        """
        if self.processes == 1:
            yield
            return
        patient = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        first = self.accelerator.is_local_main_process
        if not first:
            torch.distributed.barrier(patient)
        try:
            yield
        finally:
            if first:
                torch.distributed.barrier(patient)

    def agree(self, facts: Mapping[str, Any], model: torch.nn.Module) -> None:
        """Make sure that all processes are about to do the same, and give them all the main one's weights.

        A head that each node fits for itself differs from another node's in the last bits.

        Raises:
            SettingsError: they have other `facts`; these are named.
        """
        if self.processes == 1:
            return
        everyone: list[Mapping[str, Any]] = gather_object([dict(facts)])
        if differing := [name for name in facts if any(other.get(name) != facts[name] for other in everyone)]:
            raise SettingsError(
                f"the processes of this run do not have the same {', '.join(differing)}",
                fix="start all of them with the same options, the same files and the same version of domain-ft",
            )
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


@dataclass(frozen=True)
class HeldOut:
    """Held-out text that a model is scored on.

    Attributes:
        name: of the corpus.
        role: `domain` or `control`.
        rows: the pieces of its evaluation split.
        selected: which of them are scored, by whole documents.
        split: the texts, for the samples.
    """

    name: str
    role: str
    rows: TokenRows
    selected: npt.NDArray[np.int64]
    split: TextSplit


def choose_machine(
    settings: MachineOptions, *, sharding: str = "none", track: tuple[str, ...] = (), project: Path | None = None
) -> Machine:
    """Resolve `auto` and set accelerate up for this process.

    Args:
        settings: device, precision and kernels.
        sharding: `none` or `full`, as --sharding; `accelerate launch --use_fsdp` means `full` too.
        track: names of trackers.
        project: the folder that they may write to.

    Raises:
        SettingsError: a GPU was asked for and there is none, or a backend that cannot run here.
    """
    sharding = "full" if _launched_for_fsdp() else sharding
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "--device cuda was given, and torch sees no GPU",
            fix="use --device cpu, or install the CUDA build of torch and check with torch.cuda.is_available()",
        )
    _check_trackers(track)
    use_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if use_cpu and not has_fast_bfloat16() else "bfloat16"
    if PartialState._shared_state and PartialState().num_processes == 1:
        # accelerate keeps the first call's device and precision; a second call from Python may ask for others.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision="bf16" if dtype == "bfloat16" else "no",
        log_with=list(track) or None,
        # The models' buffers (positions, rotary tables) never change: there is nothing to broadcast.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        project_dir=str(project) if project else None,
    )
    try:
        kernels = resolve_backend(settings.kernels, accelerator.device)
    except ValueError as error:
        raise SettingsError(f"--kernels {settings.kernels}: {error}", fix="use --kernels auto") from error
    return Machine(accelerator, dtype, kernels, sharded=sharding == "full" and accelerator.num_processes > 1)


def _launched_for_fsdp() -> bool:
    """Whether `accelerate launch` was told to use FSDP. It is asked once: what it says goes to our own sharding.

    Left as they are, its variables would make transformers load empty weights, and accelerate shard in a way that
    rounds the loss.
    """
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() not in ("1", "true"):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise SettingsError(
            "accelerate was launched for the first version of FSDP, which is not supported",
            fix="accelerate launch --use_fsdp --fsdp_version 2, or torchrun with --sharding full",
        )
    return True


def _check_trackers(names: tuple[str, ...]) -> None:
    """accelerate raises for a tracker it does not know, and passes in silence over one that is not installed."""
    known = {str(kind.value) for kind in LoggerType} - {"all"}
    for name in names:
        if name not in known:
            raise SettingsError(f"--track {name}: there is no such tracker", fix=nearest(name, known))
        if LoggerType(name) not in get_available_trackers():
            raise SettingsError(f"--track {name}: the package is not installed", fix=f"pip install {name}")


def is_main_process() -> bool:
    """Whether this is the only process, or of several the one that writes and speaks (by torchrun's variables)."""
    return os.environ.get("RANK", "0") == "0"


def control_of(settings: ReadsText) -> str | None:
    """The corpus that shows what is forgotten: --control, or an embedded one of another field; None for `none`."""
    control = settings.control or ("medical" if settings.corpus == "legal" else "legal")
    return None if control == NO_CONTROL else control


def prepare_corpora(settings: ReadsText, display: ProgressDisplay) -> dict[str, PreparedCorpus]:
    """Read, clean, deduplicate and split the corpus and its control, by role: `domain`, `control`.

    --text-field and --on-bad-record are about the corpus itself; the control's fields are found by themselves.
    """
    corpora = {
        "domain": open_corpus(settings.corpus, text_field=settings.text_field, on_bad_record=settings.on_bad_record)
    }
    if control := control_of(settings):
        corpora["control"] = open_corpus(control)
    return {
        role: prepare(corpus, evaluation_fraction=settings.evaluation_fraction, progress=display.job)
        for role, corpus in corpora.items()
    }


def hold_out(
    prepared: PreparedCorpus, role: str, base: BaseModel, settings: ReadsText, display: ProgressDisplay
) -> HeldOut:
    """The held-out text of `prepared`, up to --evaluation-tokens of it."""
    budget = settings.evaluation_tokens or EVALUATION_TOKENS[base.objective]
    split = prepared.split("evaluation")
    rows = tokenize(split, base.tokenizer, max_length=piece_length(base, settings), progress=display.job)
    return HeldOut(prepared.name, role, rows, rows.select_documents(budget), split)


def piece_length(base: BaseModel, settings: TokenOptions) -> int:
    """--max-length, or what the model's positions allow where that is less."""
    return min(settings.max_length, base.max_length)


def build_objective(base: BaseModel, settings: ReadsText, kernels: str) -> LanguageModelObjective:
    """The objective that the model's architecture asks for."""
    if base.objective == "clm":
        return CausalLM(kernels=kernels)
    return MaskedLM(
        kernels=kernels,
        vocabulary=MaskVocabulary.of(base.tokenizer),
        rate=settings.mask_rate,
        whole_word=settings.whole_word,
        seed=settings.seed,
    )


def score_held_out(
    base: BaseModel,
    objective: LanguageModelObjective,
    held_out: HeldOut,
    machine: Machine,
    *,
    tokens_per_pass: int,
    progress: Callable[[str, int, int | None], None] | None = None,
    label: str = "evaluate",
) -> Scores:
    """The losses of `base` on held-out text, under the precision of the machine."""
    with machine.accelerator.autocast():
        return score(
            base,
            objective,
            held_out.rows,
            held_out.selected,
            tokens_per_pass=tokens_per_pass,
            accelerator=machine.accelerator,
            progress=progress,
            label=label,
        )


def provenance(machine: Machine) -> dict[str, Any]:
    """What a number depends on besides the settings: versions, machine, kernels."""
    packages = ("domain-ft", "torch", "transformers", "accelerate", "tokenizers", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
        if machine.device.type == "cpu"
        else torch.cuda.get_device_name(machine.device),
        "device": machine.device.type,
        "dtype": machine.dtype,
        "kernels": machine.kernels,
        "processes": machine.processes,
        "sharding": "full" if machine.sharded else "none",
    }
