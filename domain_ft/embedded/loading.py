"""The loading functions of `models`, as verbs use them: an embedded model that is not in the cache is made first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from domain_ft.embedded.making import resolve
from domain_ft.models import base, identity, sentence_model, sources, task_model

P = ParamSpec("P")
T = TypeVar("T")


def made_first(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap `function` so that it makes a missing embedded model and tries again.

    That model may be the one that was named, or the base of a run. Progress is reported to the keyword argument
    `progress`, if it is given.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return function(*arguments, **named)
        except sources.NotMadeError as missing:
            resolve(missing.name, named.get("progress"))  # type: ignore[arg-type]
        return call(*arguments, **named)

    return call


find = made_first(sources.find)
load = made_first(base.load)
objective_of = made_first(base.objective_of)
load_sentence_model = made_first(sentence_model.load_sentence_model)
load_task_model = made_first(task_model.load_task_model)
load_task_run = made_first(task_model.load_task_run)
model_digest = made_first(identity.model_digest)
