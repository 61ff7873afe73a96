"""The peer of the benchmarks: transformers' Trainer and PEFT, set up like run_mlm.py and run_clm.py.

Written from the documented behaviour of those examples. Documents are tokenised once into a cached Arrow data set: as
rows of a fixed length (`group_texts`) or, for short documents, one document per row, padded to the longest of its batch
(`--line_by_line` without `--pad_to_max_length`). DataCollatorForLanguageModeling draws the masks of every batch. The
model computes full logits; AdamW trains the adapters. "With dropout" means the model's dropout (a Llama has none) and
0.1 on the adapters' input, as in PEFT's quick tour. Nothing slows the peer down artificially: there is no evaluation,
saving or logging inside the timed steps, special tokens are marked in advance for the collator, and rows are padded
only to the longest of their batch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset, load_from_disk
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

COLUMNS = ("input_ids", "special_tokens_mask")


@dataclass(frozen=True)
class Recipe:
    """How the peer trains.

    Attributes:
        model: the folder of the base.
        rows: the folder that `make_rows` wrote.
        objective: `mlm` or `clm`.
        dropout: whether dropout is on, as the module describes.
        by_length: batches of documents of similar length (`train_sampling_strategy="group_by_length"`).
        longest_first: with `by_length`, begin with the batch of the longest document, so that the memory peak is seen.
        tokens_per_step: approximate tokens in a batch, without padding.
        steps, rank, learning_rate, weight_decay, warmup, seed: as named; the schedule is a cosine.
    """

    model: Path
    rows: Path
    objective: str
    dropout: bool
    by_length: bool
    longest_first: bool
    tokens_per_step: int
    steps: int
    rank: int
    learning_rate: float
    weight_decay: float
    warmup: float
    seed: int


@dataclass(frozen=True)
class Steps:
    """Tokens and seconds of the timed steps (all but the first). `all_tokens` are those of all steps.

    `tokens` and `all_tokens` are document tokens, without padding.
    """

    tokens: int
    padded_tokens: int
    seconds: float
    all_tokens: int


class StepTimes(TrainerCallback):
    """Records the end of each optimiser step, and calls `begun`, if set, when one begins."""

    def __init__(self) -> None:
        self.begun: Callable[[], None] | None = None
        self.ends: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self.begun:
            self.begun()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


class CountingCollator:
    """The peer's collator; counts the tokens of each batch without and with padding."""

    def __init__(self, collator: DataCollatorForLanguageModeling) -> None:
        self.collator = collator
        self.tokens: list[int] = []
        self.padded: list[int] = []

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        self.tokens.append(sum(len(feature["input_ids"]) for feature in features))
        batch = self.collator([{name: feature[name] for name in COLUMNS if name in feature} for feature in features])
        self.padded.append(batch["input_ids"].numel())
        return batch


def make_rows(model: Path, texts: list[str], *, length: int, full_rows: bool, folder: Path) -> None:
    """Tokenise `texts` as run_mlm.py and run_clm.py do. The columns COLUMNS and `length` are saved to `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokenise(batch: dict[str, list[str]]) -> dict[str, Any]:
        limits = {} if full_rows else {"truncation": True, "max_length": length}
        encoded = tokenizer(batch["text"], return_special_tokens_mask=True, verbose=False, **limits)
        return {name: encoded[name] for name in COLUMNS}

    def group_texts(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(itertools.chain(*lists)) for name, lists in batch.items()}
        total = len(joined["input_ids"]) // length * length  # the tail is dropped, as in run_mlm.py
        return {name: [ids[at : at + length] for at in range(0, total, length)] for name, ids in joined.items()}

    datasets.disable_progress_bars()
    rows = Dataset.from_dict({"text": texts}).map(tokenise, batched=True, remove_columns=["text"])
    if full_rows:
        rows = rows.map(group_texts, batched=True)
    rows.add_column("length", [len(ids) for ids in rows["input_ids"]]).save_to_disk(folder)


def build(recipe: Recipe, output: Path) -> tuple[Trainer, CountingCollator, StepTimes]:
    """The Trainer before its first step."""
    tokenizer = AutoTokenizer.from_pretrained(recipe.model)
    mlm = recipe.objective == "mlm"
    auto = AutoModelForMaskedLM if mlm else AutoModelForCausalLM
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if mlm and not recipe.dropout else {}
    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        lora_dropout=0.1 if recipe.dropout else 0.0,
        target_modules="all-linear",
    )
    torch.manual_seed(recipe.seed)  # for the initial values of the adapters
    model = get_peft_model(auto.from_pretrained(recipe.model, **off), lora)
    rows = load_from_disk(recipe.rows)
    lengths = rows["length"][:]
    batch = max(1, round(recipe.tokens_per_step * len(lengths) / sum(lengths)))
    if recipe.by_length:
        rows = rows.select(batches_by_length(lengths, batch, recipe.steps, recipe.seed, recipe.longest_first))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    collator = CountingCollator(DataCollatorForLanguageModeling(tokenizer, mlm=mlm, mlm_probability=0.15))
    times = StepTimes()
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=recipe.steps,
        per_device_train_batch_size=batch,
        train_sampling_strategy="sequential" if recipe.by_length else "random",
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,  # so that the collator need not search for special tokens
        seed=recipe.seed,
    )
    return (
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[times]),
        collator,
        times,
    )


def batches_by_length(lengths: list[int], batch: int, steps: int, seed: int, longest_first: bool) -> list[int]:
    """The rows of `steps` batches that represent an epoch of Trainer's length-grouped batches.

    LengthGroupedSampler sorts 50 batches at a time by decreasing length, so the first few steps of a run would see only
    the longest documents. With `longest_first`, the epoch's first batch is the first step: it has the longest document
    and so sets the memory peak, and it is not timed. The other steps are spaced evenly from long to short documents,
    each from a different group of 50 batches if there are enough groups.
    """
    sampler = LengthGroupedSampler(batch, lengths=lengths, generator=torch.Generator().manual_seed(seed))
    order = list(sampler)
    together = max(1, min(len(lengths) // (batch * 4), 50))  # as in the sampler
    groups = max(1, len(lengths) // (batch * together))
    even = steps - longest_first
    places = [0] * longest_first
    places += [number % groups * together + int((number + 0.5) * together / even) for number in range(even)]
    return [row for place in places for row in order[place * batch : (place + 1) * batch]]


def run(recipe: Recipe, output: Path) -> tuple[Steps, Path]:
    """Train. Returns the tokens and seconds of the timed steps, and the folder of the adapter."""
    trainer, collator, times = build(recipe, output)
    trainer.train()
    trainer.model.save_pretrained(output / "adapter")
    timed = slice(1, recipe.steps)
    steps = Steps(
        tokens=sum(collator.tokens[timed]),
        padded_tokens=sum(collator.padded[timed]),
        seconds=times.ends[-1] - times.ends[0],
        all_tokens=sum(collator.tokens[: recipe.steps]),
    )
    return steps, output / "adapter"
