"""Makes the embedded models: turns each asset, once, into a folder in the user's cache that transformers can load.

`minilm` has no masked-LM head; one is fitted to its frozen body (`mlm_head`). The text for this is training text of
HEAD_CORPORA, an equal share of each, so that runs on any of these corpora start from the same base. `smollm2` is a GGUF
file, and is converted (`models.gguf`). `models.base.load` does not import this package, so it never prepares a corpus.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domain_ft.corpus import assets
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.masking import MaskVocabulary, mask_tokens
from domain_ft.corpus.packing import micro_batches
from domain_ft.corpus.prepared import prepare
from domain_ft.corpus.shuffling import beginning
from domain_ft.corpus.tokens import tokenize
from domain_ft.embedded.mlm_head import HeadReport, fit_mlm_head
from domain_ft.errors import ModelError
from domain_ft.models import catalogue, gguf
from domain_ft.models.base import BaseModel, Tokens, load
from domain_ft.models.catalogue import HEAD_CORPORA, Making
from domain_ft.models.sentence_model import SentenceModel
from domain_ft.models.sources import quiet
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, new_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from domain_ft.corpus.tokens import TokenRows


HEAD_TOKENS = 200_000  # tokens of text that the head is fitted on, an equal share of each corpus
HEAD_MASK_RATE = 0.3  # twice the usual rate: more masked positions from a single forward pass of the body
_MAX_LENGTH = 256  # as for `adapt`, so that both use the same cached tokens
_TOKENS_PER_MICRO_BATCH = 4096
_COUNTED = 1 << 22  # the most tokens per corpus for counting frequencies
_TOKENS_AT_ONCE = 1 << 20  # tokens counted in memory at a time
_SAMPLED = 1 << 18  # the most sequences in a sample of a corpus


def resolve(name: str, progress: Progress | None = None) -> Path:
    """The folder of the embedded model `name`, which transformers can load; made first if it is not in the cache.

    Raises:
        ModelError: there is no such model.
        AssetError: its asset cannot be fetched.
    """
    model = catalogue.known(name)
    folder = catalogue.folder_of(name)
    if folder.is_dir():
        return folder
    source = assets.ensure(model.asset, progress) / model.path
    with new_folder(folder) as unfinished:
        facts = MAKERS[model.making](source, unfinished, progress)
        write_json(unfinished / catalogue.PROVENANCE, {**catalogue.origin(name), **facts})
    return folder


def _convert(source: Path, folder: Path, progress: Progress | None) -> dict[str, Any]:
    gguf.convert(source, folder, progress)
    return {}


def _with_head(source: Path, folder: Path, progress: Progress | None) -> dict[str, Any]:
    """Write the encoder at `source`, with a head that is fitted to it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the random head is replaced, but its loss is reported too
        base = load(str(source), progress=progress)
    rows = [_training_rows(name, base.tokenizer, progress) for name in HEAD_CORPORA]
    report = _fit_head(base, rows, folder, progress)
    facts = {"split": "train", "tokens": HEAD_TOKENS, "mask_rate": HEAD_MASK_RATE, **dataclasses.asdict(report)}
    return {"head": {"corpora": list(HEAD_CORPORA), **facts}}


def _fit_head(base: BaseModel, rows: list[TokenRows], folder: Path, progress: Progress | None) -> HeadReport:
    """Fit the head of `base` to its frozen body, and write the model to `folder`. `base` must be on the CPU."""
    frequencies = _frequencies(rows, base.model.get_output_embeddings().weight.shape[0])
    report = fit_mlm_head(base, _masked_micro_batches(rows, base.tokenizer), frequencies, progress=progress)
    # transformers writes only in the process of rank 0, but this may be the first process of another node.
    base.model.should_save_on_this_rank = lambda _main: True
    with quiet():
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
    return report


def with_fitted_head(base: BaseModel, rows: list[TokenRows], progress: Progress | None = None) -> BaseModel:
    """Fit a masked-LM head to the frozen body of a user's encoder that has none.

    The model with the head is made once and kept in the cache. Adapters trained on it record its folder as their base.

    Args:
        base: a model with `head_is_random`.
        rows: the training text of each corpus, used in equal shares. To compare adaptation to two corpora, give both.

    Raises:
        ModelError: the model is a decoder, or the head cannot be fitted (see `fit_mlm_head`).
    """
    if base.objective != "mlm":
        raise ModelError(
            f"'{base.name}' has no output projection, so it cannot predict tokens.",
            fix="use a complete causal language model",
        )
    content = [base.revision, [one.key for one in rows], HEAD_TOKENS, HEAD_MASK_RATE]
    if base.sentence:  # kept with the model, so that the vectors of a run are made like those of its base
        content.append(dataclasses.asdict(base.sentence))
    folder = cache_folder("models") / f"fitted-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        with new_folder(folder) as unfinished:
            _fit_head(load(base.name), rows, unfinished, progress)
            if base.sentence:
                SentenceModel.of(base).save(unfinished)
    fitted = load(str(folder), device=base.device, dtype=base.model.dtype)
    note = (
        f"'{base.name}' has no masked-LM head: one was fitted to its frozen body, and {folder} is the base from here on"
    )
    return dataclasses.replace(fitted, name=base.name, notes=(note,))


def _training_rows(name: str, tokenizer: PreTrainedTokenizerFast, progress: Progress | None) -> TokenRows:
    split = prepare(open_corpus(name), progress=progress).split("train")
    return tokenize(split, tokenizer, max_length=_MAX_LENGTH, progress=progress)


def _masked_micro_batches(corpora: list[TokenRows], tokenizer: PreTrainedTokenizerFast) -> list[tuple[Tokens, Tensor]]:
    """Masked micro-batches with labels (T,), one of each corpus in turn; from each at most its share of HEAD_TOKENS.

    They end when one of the corpora has no more.
    """
    vocabulary = MaskVocabulary.of(tokenizer)
    plans = []
    for number, rows in enumerate(corpora):
        chosen = _sample(rows, number, HEAD_TOKENS // len(corpora))
        plans.append([(rows, members) for members in micro_batches(chosen, rows.lengths, _TOKENS_PER_MICRO_BATCH)])
    masked: list[tuple[Tokens, Tensor]] = []
    for rows, members in (plan for turn in zip(*plans, strict=False) for plan in turn):
        batch = rows.pack(members)
        input_ids, labels = mask_tokens(
            batch, epoch=0, seed=0, rate=HEAD_MASK_RATE, whole_word=True, vocabulary=vocabulary
        )
        masked.append((Tokens.from_batch(batch, input_ids), torch.from_numpy(labels)))
    return masked


def _sample(rows: TokenRows, number: int, tokens: int) -> npt.NDArray[np.int64]:
    """(sequences,) a random sample of the sequences of corpus `number`, with at most `tokens` tokens."""
    order = beginning(_SAMPLED, len(rows), 0, "warming text", number)
    return order[rows.lengths[order].cumsum() <= tokens]


def _frequencies(corpora: list[TokenRows], vocabulary: int) -> Tensor:
    """(V,) the relative frequencies of tokens, summed over the corpora; large corpora are sampled."""
    shares = torch.zeros(vocabulary, dtype=torch.float64)
    for number, rows in enumerate(corpora):
        counts = torch.zeros_like(shares)
        chosen = _sample(rows, number, _COUNTED)
        for some in np.array_split(chosen, 1 + int(rows.lengths[chosen].sum()) // _TOKENS_AT_ONCE):
            batch = rows.pack(some)
            counts += torch.from_numpy(np.bincount(batch.input_ids[batch.word_ids >= 0], minlength=vocabulary))
        shares += counts / counts.sum()
    return shares


MAKERS: dict[Making, Callable[[Path, Path, Progress | None], dict[str, Any]]] = {
    "head": _with_head,
    "gguf": _convert,
}
"""How a model is made: maker(the asset's folder or file, folder to write, progress) -> further provenance."""
