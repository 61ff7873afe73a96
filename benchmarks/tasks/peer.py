"""The peer of the task benchmark: transformers' Trainer, fine-tuning like run_classification.py and run_ner.py.

Written from the documented behaviour of those examples: all weights are trained in float32, with the model's dropout,
AdamW and a linear schedule; texts are truncated, and padded to the longest of their batch. Nothing is evaluated or
saved between steps. This program reads its job from a file and prints its result as JSON.

    python peer.py JOB.json [THREADS]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune and predict. Returns `seconds` of training, and `logits` (or `tags`, for tagging) of the test examples.

    Args:
        job: `model` (a folder), `labels`, `train` and `test` (lists of {"text", "pair", "label"}, or of {"tokens",
            "tags"}), `max_length`, `batch_size`, `steps`, `learning_rate`, `weight_decay`, `warmup`, `seed`.
    """
    transformers.set_seed(job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tagging = "tokens" in job["train"][0]
    kind = AutoModelForTokenClassification if tagging else AutoModelForSequenceClassification
    model = kind.from_pretrained(job["model"], num_labels=len(job["labels"]))
    encode = _tags if tagging else _classes
    train = Dataset.from_list([encode(example, tokenizer, job) for example in job["train"]])
    test = Dataset.from_list([encode(example, tokenizer, job) for example in job["test"]])
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=job["steps"],
                per_device_train_batch_size=job["batch_size"],
                per_device_eval_batch_size=32,
                learning_rate=job["learning_rate"],
                weight_decay=job["weight_decay"],
                lr_scheduler_type="linear",
                warmup_steps=round(job["warmup"] * job["steps"]),
                seed=job["seed"],
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=train,
            data_collator=(DataCollatorForTokenClassification if tagging else DataCollatorWithPadding)(tokenizer),
        )
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        predicted = trainer.predict(test)
    found: dict[str, Any] = {"seconds": seconds}
    if tagging:
        labels = np.asarray(predicted.label_ids)
        best = np.asarray(predicted.predictions).argmax(-1)
        found["tags"] = [
            [job["labels"][tag] for tag, label in zip(row, own, strict=True) if label != -100]
            for row, own in zip(best.tolist(), labels.tolist(), strict=True)
        ]
    else:
        found["logits"] = np.asarray(predicted.predictions, dtype=np.float64).round(6).tolist()
    return found


def _classes(example: dict[str, Any], tokenizer: Any, job: dict[str, Any]) -> dict[str, Any]:
    encoded = tokenizer(example["text"], example.get("pair"), truncation=True, max_length=job["max_length"])
    return {**encoded, "label": job["labels"].index(example["label"])}


def _tags(example: dict[str, Any], tokenizer: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Label the first token of each word, as run_ner.py does."""
    encoded = tokenizer(example["tokens"], truncation=True, max_length=job["max_length"], is_split_into_words=True)
    labels, before = [], None
    for word in encoded.word_ids():
        asked = word is not None and word != before
        labels.append(job["labels"].index(example["tags"][word]) if asked else -100)
        before = word
    return {**encoded, "labels": labels}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else torch.get_num_threads())
    transformers.logging.set_verbosity_error()
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
