"""domain-ft: adapt a small language model to a field, and measure what it gained and what it forgot.

    import domain_ft

    run = domain_ft.adapt(domain_ft.AdaptSettings(corpus="legal"))
    run.result["before"]["domain"]["loss"], run.result["after"]["domain"]["loss"]

Each name is loaded when it is first used, so that `import domain_ft` is instant and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.errors import SettingsError, UserError
    from domain_ft.models.base import load
    from domain_ft.settings import (
        AdaptSettings,
        ClassifySettings,
        CompareSettings,
        EstimateSettings,
        EvaluateSettings,
        ExportSettings,
        GenerateSettings,
        InstructSettings,
        PredictSettings,
        TagSettings,
    )
    from domain_ft.verbs.adapt import adapt
    from domain_ft.verbs.classify import classify
    from domain_ft.verbs.compare import compare
    from domain_ft.verbs.evaluate import evaluate
    from domain_ft.verbs.export import export
    from domain_ft.verbs.generate import generate
    from domain_ft.verbs.instruct import instruct
    from domain_ft.verbs.predict import predict
    from domain_ft.verbs.tag import tag

__version__ = "0.1.0"
__all__ = [
    "AdaptSettings",
    "ClassifySettings",
    "CompareSettings",
    "EstimateSettings",
    "EvaluateSettings",
    "ExportSettings",
    "GenerateSettings",
    "InstructSettings",
    "PredictSettings",
    "SettingsError",
    "TagSettings",
    "UserError",
    "adapt",
    "classify",
    "compare",
    "evaluate",
    "export",
    "generate",
    "instruct",
    "load",
    "open_corpus",
    "predict",
    "tag",
]

_MODULES = {
    "AdaptSettings": "settings",
    "ClassifySettings": "settings",
    "CompareSettings": "settings",
    "EstimateSettings": "settings",
    "EvaluateSettings": "settings",
    "ExportSettings": "settings",
    "GenerateSettings": "settings",
    "InstructSettings": "settings",
    "PredictSettings": "settings",
    "SettingsError": "errors",
    "TagSettings": "settings",
    "UserError": "errors",
    "adapt": "verbs.adapt",
    "classify": "verbs.classify",
    "compare": "verbs.compare",
    "evaluate": "verbs.evaluate",
    "export": "verbs.export",
    "generate": "verbs.generate",
    "instruct": "verbs.instruct",
    "load": "models.base",
    "open_corpus": "corpus.corpus",
    "predict": "verbs.predict",
    "tag": "verbs.tag",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
