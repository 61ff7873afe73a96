"""The text that a model was adapted to, from the config.toml files of the runs that it was trained from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.prepared import PreparedCorpus, prepare
from domain_ft.errors import UserError
from domain_ft.json_files import read_result
from domain_ft.storage import user_path
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.prefer.settings import PreferSettings

READ_FIRST_TEXTS = "read-first-texts.jsonl"
"""In the folder of a run of `classify` or `tag`, the file of the texts that --read-first read."""

_LATER: Mapping[str, type[InstructSettings] | type[PreferSettings]] = {
    "instruct": InstructSettings,
    "prefer": PreferSettings,
}
"""The settings of verbs that train a model further, after `adapt`."""


def adapted_runs(model: str) -> Iterator[AdaptSettings]:
    """The settings of the `adapt` runs that `model` comes from, newest first.

    A run of `adapt` comes first itself. A run of `instruct` or `prefer` comes from the runs behind the model that it
    was trained from. Any other model comes from none.
    """
    folder = user_path(model)
    if not (folder / "result.json").is_file():
        return
    command = read_result(folder).get("command")
    if command == "adapt":
        settings = AdaptSettings.from_toml(folder / "config.toml")
        beside = folder.resolve().with_name(READ_FIRST_TEXTS)
        if Path(settings.corpus).name == READ_FIRST_TEXTS and beside.is_file():  # the run may have moved
            settings = dataclasses.replace(settings, corpus=str(beside))
        yield settings
        yield from adapted_runs(settings.model)
    elif isinstance(command, str) and command in _LATER:
        yield from adapted_runs(_LATER[command].from_toml(folder / "config.toml").model)


def training_corpora(model: str, display: ProgressDisplay) -> tuple[list[PreparedCorpus], list[str]]:
    """The corpora that `model` was adapted to and that can still be read, and the names of the others."""
    runs = list(adapted_runs(model))
    read = [_training_corpus(settings, display) for settings in runs]
    lost = [settings.corpus for settings, corpus in zip(runs, read, strict=True) if corpus is None]
    return [corpus for corpus in read if corpus is not None], lost


def _training_corpus(settings: AdaptSettings, display: ProgressDisplay) -> PreparedCorpus | None:
    try:
        corpus = open_corpus(
            settings.corpus,
            text_field=settings.text_field,
            on_bad_record=settings.on_bad_record,
            encoding=settings.encoding,
        )
        return prepare(corpus, evaluation_fraction=settings.evaluation_fraction, progress=display.job)
    except UserError:  # moved, changed, or on a Hub that cannot be reached
        return None
