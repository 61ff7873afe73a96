"""What a tagging model says: the entities of labelled rows, and of texts that come one after another."""

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


_TEXTS = 512  # taken in at once: enough that some have about equal lengths, few enough to be no weight
_CHARACTERS = 1_000_000


class Text(Protocol):
    """What is tagged: an `Example`, or anything with an id and a text."""

    @property
    def id(self) -> str:
        """What a person knows it by."""

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
    """The likeliest class of each token of all rows (tokens,), its probability (tokens,), and the rows' loss.

    Several processes take turns at the micro-batches, and get the same. Autocast is the caller's.

    Args:
        tokens_per_micro_batch: how many tokens one forward pass may hold.
        accelerator: of the processes, which all call this; None for one alone.
        progress: called with ("predict", rows done, rows in all).

    Returns:
        classes and probabilities in the order of `rows.places`, which `rows.spans` and `rows.entities` read; and the
        mean loss of a labelled token in nats, 0 where none is.
    """
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    objective = TaggingObjective()
    found = np.zeros((2, rows.tokens))  # classes and probabilities
    loss, items, done = 0.0, 0, 0
    cut = micro_batches(np.arange(len(rows)), rows.lengths, tokens_per_micro_batch)
    with evaluating(model.model):
        for first in range(0, len(cut), ranks):
            # A rank without a micro-batch in the last turn does another's, for nothing: a sharded model needs all of
            # them.
            place = first + rank
            members = cut[place if place < len(cut) else first]
            inputs = objective.prepare(rows.pack(members), epoch=0).to(model.device)
            chances = model.logits(inputs).float().log_softmax(dim=-1)
            if place < len(cut):
                best = chances.max(dim=-1)
                found[:, rows.places(members)] = np.stack(
                    [best.indices.cpu().numpy(), best.values.exp().cpu().numpy()], dtype=np.float64
                )
                asked = inputs.weights > 0
                loss -= float(chances[asked].gather(1, inputs.targets[asked, None]).double().sum())
                items += inputs.items
            done += sum(len(each) for each in cut[first : first + ranks])
            if progress:
                progress("predict", done, len(rows))
    if accelerator and ranks > 1:  # each token is one rank's, and zero on the others: so the sum rounds nothing
        sums = torch.from_numpy(np.append(found.ravel(), [loss, items])).to(accelerator.device)
        whole = accelerator.reduce(sums, "sum").cpu().numpy()
        found, (loss, items) = whole[:-2].reshape(found.shape), whole[-2:]
    return found[0].astype(np.int64), found[1].astype(np.float32), loss / max(items, 1)


def tag_texts(
    model: TaskModel, texts: Iterable[Text], *, tokens_per_micro_batch: int = 4096, max_length: int | None = None
) -> Iterator[dict[str, Any]]:
    """The entities of each text as {"id", "entities": [{"start", "end", "label", "text", "score"}]}, in their order.

    Offsets count Unicode characters of the text as it was given; `score` is the mean probability of the tags of the
    entity's words. Texts are taken in a few at a time, so that memory does not depend on how many there are, and long
    ones are read in windows.

    Args:
        tokens_per_micro_batch: how many tokens one forward pass may hold.
        max_length: tokens of a window at most; as many as the model takes where none is given.
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
