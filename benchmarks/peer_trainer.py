"""The peer of benchmarks/training.py: transformers' Trainer and PEFT, doing what run_mlm.py and run_clm.py do.

Written from the documented behaviour of those examples: `group_texts` into rows of a fixed length (or, for short
documents, one document a row, padded to the longest of its batch, as `--line_by_line` does), the random masks of
DataCollatorForLanguageModeling drawn for every batch, full logits, AdamW. With dropout means the model's own, and 0.1
on the adapter's input as in PEFT's quick tour. Nothing is switched on to make it slower: no evaluation, no saving and
no logging stand inside the timed steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
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


class StepTimes(TrainerCallback):
    """Seconds of each optimiser step, data loading included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


class CountingCollator:
    """The peer's collator, counting the tokens that are no padding in each batch."""

    def __init__(self, collator: DataCollatorForLanguageModeling) -> None:
        self.collator = collator
        self.tokens: list[int] = []

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        self.tokens.append(sum(len(feature["input_ids"]) for feature in features))
        return self.collator(features)


def group_texts(token_lists: list[list[int]], length: int) -> Iterator[dict[str, list[int]]]:
    """Rows of exactly `length` tokens out of all texts laid end to end; the tail is dropped, as the examples do."""
    joined = [token for tokens in token_lists for token in tokens]
    for start in range(0, len(joined) - length + 1, length):
        yield {"input_ids": joined[start : start + length]}


def run(
    model_folder: Path,
    texts: list[str],
    *,
    objective: str,
    grouped: bool,
    length: int,
    tokens_per_step: int,
    steps: int,
    rank: int,
    learning_rate: float,
    dropout: bool,
    seed: int,
    output: Path,
) -> tuple[list[float], Path]:
    """Train for `steps`; the tokens per second of each step after the first, and the folder of the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    auto = AutoModelForMaskedLM if objective == "mlm" else AutoModelForCausalLM
    rates = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = auto.from_pretrained(model_folder, **(rates if objective == "mlm" else {}))
    lora = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.1 if dropout else 0.0,
        target_modules="all-linear",
    )
    model = get_peft_model(model, lora)
    encoded = tokenizer(texts, truncation=not grouped, max_length=None if grouped else length, verbose=False)
    token_lists: list[list[int]] = encoded["input_ids"]
    rows = list(group_texts(token_lists, length)) if grouped else [{"input_ids": tokens} for tokens in token_lists]
    mean_length = sum(len(row["input_ids"]) for row in rows) / len(rows)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    collator = CountingCollator(
        DataCollatorForLanguageModeling(tokenizer, mlm=objective == "mlm", mlm_probability=0.15)
    )
    times = StepTimes()
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=max(1, round(tokens_per_step / mean_length)),
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        seed=seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=collator,
        callbacks=[times],
    )
    trainer.train()
    model.save_pretrained(output / "adapter")
    seconds = [end - start for start, end in itertools.pairwise(times.ends)]
    return [tokens / taken for tokens, taken in zip(collator.tokens[1:], seconds, strict=False)], output / "adapter"
