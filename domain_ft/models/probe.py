"""A linear probe: a head on features of a frozen model that are computed once. Fitting it takes seconds.

The features of a text are the mean of the last hidden states of its tokens (`TaskModel.features`). A multinomial
logistic regression is fitted to them, or one regression for each class where several may hold.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from domain_ft.corpus.tasks.examples import Labels
from domain_ft.errors import ModelError
from domain_ft.storage import write_atomic, write_json

HEAD_FOLDER = "head"
"""Where a run keeps its probe."""

POOLING = "mean"  # of the last hidden states
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""What C, the inverse strength of the L2 penalty, is chosen from, on standardised features."""

_MOST_ITERATIONS = 500
_WEIGHTS_NAME, _CONFIG_NAME = "head.safetensors", "head.json"


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits = features Wᵀ + b.

    Attributes:
        weight: (L, D) float32, for features as they are: their standardisation is folded in.
        bias: (L,) float32.
        labels: the classes.
        strength: C, the inverse strength of the penalty that was chosen.
    """

    weight: Tensor
    bias: Tensor
    labels: Labels
    strength: float

    def logits(self, features: Tensor) -> Tensor:
        """(examples, L) float32 for features (examples, D)."""
        return F.linear(features.float(), self.weight, self.bias)

    def to(self, device: torch.device | str) -> Probe:
        """The same probe on `device`."""
        return dataclasses.replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    def save(self, folder: Path, *, base: str, revision: str) -> None:
        """Write head.safetensors and head.json, each whole or absent; `base` is what the features come from."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()}
        write_atomic(folder / _WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
        settings = {
            "pooling": POOLING,
            "base": base,
            "revision": revision,
            "labels": list(self.labels.names),
            "several": self.labels.several,
            "strength": self.strength,
        }
        write_json(folder / _CONFIG_NAME, settings)

    @classmethod
    def load(cls, folder: Path) -> tuple[Probe, dict[str, Any]]:
        """The probe in `folder`, and what head.json says of it: `base` and `revision` among others.

        Raises:
            ModelError: a file is missing or damaged.
        """
        try:
            settings = json.loads((folder / _CONFIG_NAME).read_text(encoding="utf-8"))
            tensors = load_file(folder / _WEIGHTS_NAME)
            labels = Labels(tuple(settings["labels"]), settings["several"])
            return cls(tensors["weight"], tensors["bias"], labels, settings["strength"]), settings
        except FileNotFoundError as error:
            raise ModelError(
                f"the probe has no {Path(error.filename or _WEIGHTS_NAME).name}", where=str(folder)
            ) from None
        except (SafetensorError, ValueError, KeyError) as error:
            raise ModelError(f"the probe's files are damaged: {error}", where=str(folder)) from None
