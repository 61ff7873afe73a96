"""A small real training job: tiny models, tokenised text, and the loop around them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny_models import save_tiny

from domain_ft.corpus.documents import Document
from domain_ft.corpus.masking import MaskVocabulary
from domain_ft.corpus.pairs import PairRows, pair_rows
from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.evaluation.language_model import score
from domain_ft.models.base import BaseModel, load
from domain_ft.models.lora import LoraConfig, apply_lora, set_backend
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.contrastive import Contrastive
from domain_ft.objectives.masked_lm import MaskedLM
from domain_ft.randomness import generator
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import LoopSettings, train
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.shared.machine import forget_earlier_accelerators

TEXT = "the court held that a licence may be granted to the patient whose heart shows no lesion"


class Texts:
    """Documents of random words, with the interface of a corpus split."""

    name = "train"
    key = "loop-jobs-1"

    def __len__(self) -> int:
        return 60

    def documents(self) -> Any:
        for index in range(len(self)):
            draw = generator(7, "text", index)
            words = draw.choice(TEXT.split(), size=draw.integers(3, 60))
            yield Document(f"text-{index}", " ".join(words), "made")


class Sections(Texts):
    """Documents whose first line repeats the three words that follow it."""

    key = "loop-jobs-pairs-2"

    def documents(self) -> Any:
        for document in super().documents():
            heading = " ".join(document.text.split()[:3])
            yield Document(document.id, f"{heading}\n{document.text} {TEXT}", "made")


def settings(**changes: Any) -> LoopSettings:
    values: dict[str, Any] = {
        "total_steps": 6,
        "tokens_per_step": 240,
        "tokens_per_micro_batch": 240,
        "activation_checkpointing": False,
        "learning_rate": 5e-3,
        "schedule": "cosine",
        "warmup": 0.2,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "lora_plus_ratio": 1.0,
        "base_dropout": False,
        "seed": 3,
        "checkpoint_every": 2,
        "keep_checkpoints": 2,
        "evaluate_every": 0,
    }
    return LoopSettings(**{**values, **changes})


def job(
    architecture: str, *, dropout: float = 0.0, lora: bool = True, exact: bool = False
) -> tuple[BaseModel, LanguageModelObjective, TokenRows]:
    """A tiny model ready to train, its objective and its rows; `exact` computes in float64."""
    with tempfile.TemporaryDirectory() as folder:
        base = load(str(save_tiny(architecture, Path(folder))), dtype=torch.float64 if exact else torch.float32)
    kernels = "reference" if exact else "auto"
    if lora:
        apply_lora(base.model, LoraConfig(rank=4, alpha=8.0, dropout=dropout), seed=1)
        set_backend(base.model, kernels)
    else:
        base.model.requires_grad_(True)
    rows = tokenize(Texts(), base.tokenizer, max_length=32)
    objective: LanguageModelObjective = (
        MaskedLM(vocabulary=MaskVocabulary.of(base.tokenizer), seed=5, kernels=kernels)
        if base.objective == "mlm"
        else CausalLM(kernels=kernels)
    )
    return base, objective, rows


def pair_job(
    architecture: str, *, dropout: float = 0.0, exact: bool = False, weight: float = 0.3
) -> tuple[BaseModel, Contrastive, PairRows]:
    """A tiny model with LoRA, contrastive training, and pairs."""
    base, objective, _ = job(architecture, dropout=dropout, exact=exact)
    split = Sections()
    rows = pair_rows(split, tokenize(split, base.tokenizer, max_length=32))
    return base, Contrastive(language_model=objective, weight=weight, dimensions=(8, 16)), rows


def cpu_accelerator() -> Accelerator:
    """An accelerator in float32, whatever precision an earlier run in this process had."""
    forget_earlier_accelerators()
    return Accelerator(cpu=True)


def run(
    folder: Path,
    architecture: str = "bert",
    *,
    loop: LoopSettings | None = None,
    dropout: float = 0.0,
    lora: bool = True,
    resume: bool = False,
    sharded: bool = False,
    exact: bool = False,
    pairs: bool = False,
    slow: float = 0.0,
    log: Callable[[Mapping[str, Any]], None] | None = None,
) -> tuple[TrainingState, dict[str, torch.Tensor]]:
    """Train on text or on `pairs`, pausing `slow` seconds after a step; return the last state and trained weights."""
    base: BaseModel
    objective: Any
    rows: Any
    if pairs:
        base, objective, rows = pair_job(architecture, dropout=dropout, exact=exact)
    else:
        base, objective, rows = job(architecture, dropout=dropout, lora=lora, exact=exact)
    lines: Callable[[Mapping[str, Any]], None] = log or (lambda line: None)

    def log_slowly(line: Mapping[str, Any]) -> None:
        time.sleep(slow)
        lines(line)

    accelerator = cpu_accelerator()

    def evaluate() -> dict[str, Any]:
        sequences = np.arange(0, len(rows), 4)
        return score(base, objective, rows, sequences, tokens_per_micro_batch=100, accelerator=accelerator).summary()

    state = train(
        base,
        objective,
        rows,
        loop or settings(),
        accelerator=accelerator,
        checkpoints=folder / "checkpoints",
        display=ProgressDisplay(quiet=True),
        log=log_slowly,
        sharded=sharded,
        resume=resume,
        evaluate=None if pairs else evaluate,
    )
    return state, {n: p.detach().clone() for n, p in base.model.named_parameters() if p.requires_grad}


def train_in_a_process(folder: Path, steps_taken: Connection, asked: Mapping[str, Any]) -> None:
    """Train, send the number of each step, and write the weights: for a process that may be killed."""
    torch.set_num_threads(1)
    rest = {name: value for name, value in asked.items() if name != "steps"}
    loop = settings(total_steps=asked["steps"])
    _, weights = run(folder, loop=loop, log=lambda line: steps_taken.send(line["step"]), **rest)
    save_file(weights, folder / "weights.safetensors")
