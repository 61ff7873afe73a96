"""Predictions of a tagging model: for labelled rows, and for a stream of texts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from domain_ft.corpus.packing import micro_batches
from domain_ft.corpus.tagging.entities import TaggedText
from domain_ft.corpus.tagging.rows import TaggingRows, TextEncoder
from domain_ft.models.modes import evaluating
from domain_ft.objectives.tagging import TaggingObjective
from domain_ft.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

    from domain_ft.models.task_model import TaskModel


# A batch of texts ends at either limit. It is large enough to pack well, and small enough for memory.
_TEXTS = 512
_CHARACTERS = 1_000_000


class Text(Protocol):
    """An `Example`, or anything else with an id and a text."""

    @property
    def id(self) -> str:
        """Its id in the output."""

    @property
    def text(self) -> str:
        """The text."""


def predict_tags(
    model: TaskModel,
    rows: TaggingRows,
    *,
    tokens_per_micro_batch: int,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], float]:
    """The likeliest class of each token (T,), its probability (T,), and the mean loss of the labelled tokens.

    Processes share the micro-batches, and all of them return the same result. The caller sets autocast.

    Args:
        tokens_per_micro_batch: the most tokens in one forward pass, unless a single row is longer.
        accelerator: None for a single process. With several, all must call this function.
        progress: called with ("predict", rows done, rows in total).

    Returns:
        The classes and probabilities, in the order that `rows.spans` and `rows.entities` expect, and the loss in nats,
        0 if there are no labelled tokens.
    """
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    objective = TaggingObjective()
    predicted = np.zeros((2, rows.tokens))  # classes and probabilities
    loss, items, done = 0.0, 0, 0
    cut = micro_batches(np.arange(len(rows)), rows.lengths, tokens_per_micro_batch)
    with evaluating(model.model):
        for first in range(0, len(cut), ranks):
            # A rank without a micro-batch in the last round repeats another rank's: a sharded model needs all ranks.
            place = first + rank
            members = cut[place if place < len(cut) else first]
            inputs = objective.prepare(rows.pack(members), epoch=0).to(model.device)
            log_probabilities = model.logits(inputs).float().log_softmax(dim=-1)  # (T, L)
            if place < len(cut):
                best = log_probabilities.max(dim=-1)  # (T,) each
                predicted[:, rows.places(members)] = np.stack(
                    [best.indices.cpu().numpy(), best.values.exp().cpu().numpy()], dtype=np.float64
                )
                labelled = inputs.weights > 0  # (T,)
                loss -= float(log_probabilities[labelled].gather(1, inputs.targets[labelled, None]).double().sum())
                items += inputs.items
            done += sum(len(each) for each in cut[first : first + ranks])
            if progress:
                progress("predict", done, len(rows))
    if accelerator and ranks > 1:  # a token's values are zero on all ranks but one, so their sums are exact
        sums = torch.from_numpy(np.append(predicted.ravel(), [loss, items])).to(accelerator.device)
        total = accelerator.reduce(sums, "sum").cpu().numpy()
        predicted, (loss, items) = total[:-2].reshape(predicted.shape), total[-2:]
    return predicted[0].astype(np.int64), predicted[1].astype(np.float32), loss / max(items, 1)


def tag_texts(
    model: TaskModel, texts: Iterable[Text], *, tokens_per_micro_batch: int = 4096, max_length: int | None = None
) -> Iterator[dict[str, Any]]:
    """The entities of each text as {"id", "entities": [{"start", "end", "label", "text", "score"}]}, in order.

    Offsets count Unicode code points of the text. `score` is the mean probability of the tags of the entity's words.
    Texts are read in batches, so that memory does not depend on their number. Long texts are read in windows.

    Args:
        tokens_per_micro_batch: the most tokens in one forward pass, unless a single window is longer.
        max_length: the most tokens of a window; by default, and at most, the model's limit.
    """
    encoder = TextEncoder(model.tokenizer, min(max_length or model.max_length, model.max_length))
    for batch in _batches(texts):
        plain = [TaggedText(text.id, text.text, None, ()) for text in batch]
        rows = TaggingRows(plain, model.labels.names, encoder)
        classes, chances, _ = predict_tags(model, rows, tokens_per_micro_batch=tokens_per_micro_batch)
        for text, entities in zip(batch, rows.entities(classes, chances), strict=True):
            yield {
                "id": text.id,
                "entities": [
                    {
                        "start": span.start,
                        "end": span.end,
                        "label": span.label,
                        "text": text.text[span.start : span.end],
                        "score": score,
                    }
                    for span, score in entities
                ],
            }


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    texts = iter(texts)
    for first in texts:
        batch, characters = [first], len(first.text)
        while len(batch) < _TEXTS and characters < _CHARACTERS and (more := list(itertools.islice(texts, 1))):
            batch += more
            characters += len(more[0].text)
        yield batch
