"""domain-ft: adapt a small language model to a field, and measure what it gained and forgot.

    import domain_ft

    run = domain_ft.adapt(domain_ft.AdaptSettings(corpus="legal"))
    run.result["before"]["domain"]["loss"], run.result["after"]["domain"]["loss"]

Names are imported on first use, so `import domain_ft` is fast and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.embedded.loading import load
    from domain_ft.embedded.making import resolve
    from domain_ft.errors import SettingsError, UserError
    from domain_ft.verbs.adapt.run import adapt
    from domain_ft.verbs.adapt.settings import AdaptSettings
    from domain_ft.verbs.classify.run import classify
    from domain_ft.verbs.classify.settings import ClassifySettings
    from domain_ft.verbs.compare.run import compare
    from domain_ft.verbs.compare.settings import CompareSettings
    from domain_ft.verbs.data.settings import EstimateSettings
    from domain_ft.verbs.embed.run import embed
    from domain_ft.verbs.embed.settings import EmbedSettings
    from domain_ft.verbs.evaluate.run import evaluate
    from domain_ft.verbs.evaluate.settings import EvaluateSettings
    from domain_ft.verbs.export.run import export
    from domain_ft.verbs.export.settings import ExportSettings
    from domain_ft.verbs.generate.run import generate
    from domain_ft.verbs.generate.settings import GenerateSettings
    from domain_ft.verbs.instruct.run import instruct
    from domain_ft.verbs.instruct.settings import InstructSettings
    from domain_ft.verbs.predict.run import predict
    from domain_ft.verbs.predict.settings import PredictSettings
    from domain_ft.verbs.prefer.run import prefer
    from domain_ft.verbs.prefer.settings import PreferSettings
    from domain_ft.verbs.tag.run import tag
    from domain_ft.verbs.tag.settings import TagSettings

__version__ = "0.1.0"
__all__ = [
    "AdaptSettings",
    "ClassifySettings",
    "CompareSettings",
    "EmbedSettings",
    "EstimateSettings",
    "EvaluateSettings",
    "ExportSettings",
    "GenerateSettings",
    "InstructSettings",
    "PredictSettings",
    "PreferSettings",
    "SettingsError",
    "TagSettings",
    "UserError",
    "adapt",
    "classify",
    "compare",
    "embed",
    "evaluate",
    "export",
    "generate",
    "instruct",
    "load",
    "open_corpus",
    "predict",
    "prefer",
    "resolve",
    "tag",
]

_MODULES = {
    "AdaptSettings": "verbs.adapt.settings",
    "ClassifySettings": "verbs.classify.settings",
    "CompareSettings": "verbs.compare.settings",
    "EmbedSettings": "verbs.embed.settings",
    "EstimateSettings": "verbs.data.settings",
    "EvaluateSettings": "verbs.evaluate.settings",
    "ExportSettings": "verbs.export.settings",
    "GenerateSettings": "verbs.generate.settings",
    "InstructSettings": "verbs.instruct.settings",
    "PredictSettings": "verbs.predict.settings",
    "PreferSettings": "verbs.prefer.settings",
    "SettingsError": "errors",
    "TagSettings": "verbs.tag.settings",
    "UserError": "errors",
    "adapt": "verbs.adapt.run",
    "classify": "verbs.classify.run",
    "compare": "verbs.compare.run",
    "embed": "verbs.embed.run",
    "evaluate": "verbs.evaluate.run",
    "export": "verbs.export.run",
    "generate": "verbs.generate.run",
    "instruct": "verbs.instruct.run",
    "load": "embedded.loading",
    "open_corpus": "corpus.corpus",
    "predict": "verbs.predict.run",
    "prefer": "verbs.prefer.run",
    "resolve": "embedded.making",
    "tag": "verbs.tag.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
