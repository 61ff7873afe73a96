"""A small task that several processes learn together, with the results in files.

It is computed in float64, so a difference from one process is a fault and not rounding.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from loop_jobs import cpu_accelerator, settings
from safetensors.torch import save_file
from tiny_examples import WORDS, toy_examples
from tiny_models import save_tiny

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.tasks.rows import encode
from domain_ft.evaluation.logits import predict_logits
from domain_ft.models.lora import LoraConfig, apply_lora
from domain_ft.models.task_model import load_task_model
from domain_ft.objectives.classification import ClassificationObjective
from domain_ft.training.loop import train
from domain_ft.training.progress import ProgressDisplay

ARCHITECTURES = ("bert", "llama")


def learn(folder: Path, architecture: str, *, sharded: bool) -> None:
    """Train LoRA and a new head on examples, some of them read in windows; write the weights and the logits."""
    labels = Labels(tuple(WORDS))
    with tempfile.TemporaryDirectory() as temporary:
        model = load_task_model(str(save_tiny(architecture, Path(temporary))), labels, dtype=torch.float64)
    apply_lora(model.model, LoraConfig(rank=4, alpha=8.0, train_modules=model.new_modules), seed=1)
    rows = encode(toy_examples(30), labels, model.tokenizer, max_length=32, long_text="windows")
    accelerator = cpu_accelerator()
    train(
        model,
        ClassificationObjective(labels, kernels="reference"),
        rows,
        settings(total_steps=4, rows_per_step=7, tokens_per_micro_batch=150),
        accelerator=accelerator,
        checkpoints=folder / "checkpoints",
        display=ProgressDisplay(quiet=True),
        log=lambda line: None,
        sharded=sharded,
    )
    logits = predict_logits(model, rows, tokens_per_micro_batch=100, accelerator=accelerator)
    if accelerator.is_main_process:
        weights = {name: p.detach().contiguous() for name, p in model.model.named_parameters() if p.requires_grad}
        save_file(weights | {"logits": torch.from_numpy(logits)}, folder / "done.safetensors")


def learn_all(path: Path) -> None:
    """Do every job, each in its own folder in `path`."""
    torch.set_num_threads(1)
    ranks = cpu_accelerator().num_processes
    for architecture in ARCHITECTURES:
        for kind in ("whole", "sharded") if ranks > 1 else ("whole",):
            folder = path / f"{ranks} {kind} {architecture}"
            folder.mkdir(parents=True, exist_ok=True)
            learn(folder, architecture, sharded=kind == "sharded")
