"""Corpora: recipes, readers, cleaning, duplicates and splits; then tokens, packing and masks.

Text comes in; plain values and numpy arrays of tokens go out. Nothing here depends on a model or on training. Names are
imported when they are first used, which keeps `import domain_ft.corpus` fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domain_ft.corpus.corpus import Corpus as Corpus
    from domain_ft.corpus.corpus import open_corpus as open_corpus
    from domain_ft.corpus.documents import Document as Document
    from domain_ft.corpus.prepared import CorpusStatistics as CorpusStatistics
    from domain_ft.corpus.prepared import PreparedCorpus as PreparedCorpus
    from domain_ft.corpus.prepared import TextSplit as TextSplit
    from domain_ft.corpus.prepared import prepare as prepare
    from domain_ft.corpus.recipes import Recipe as Recipe
    from domain_ft.corpus.recipes import list_recipes as list_recipes

_MODULES = {
    "Corpus": "corpus",
    "open_corpus": "corpus",
    "Document": "documents",
    "CorpusStatistics": "prepared",
    "PreparedCorpus": "prepared",
    "TextSplit": "prepared",
    "prepare": "prepared",
    "Recipe": "recipes",
    "list_recipes": "recipes",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
