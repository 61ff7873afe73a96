"""The frame of report.html: one self-contained page, for a person with a phone and no network.

Nothing in it is fetched, no script runs, and its own policy forbids both. Every text that comes from a corpus, a model
or a user is escaped by the template; the only markup that passes is the figures', which matplotlib has escaped. The
template of a verb is in its folder, `verbs/VERB/page.html.j2`, and extends `page.html.j2`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from domain_ft import __version__
from domain_ft.report import numbers
from domain_ft.wording import counted

LOADER = ChoiceLoader([PackageLoader("domain_ft.report"), PackageLoader("domain_ft", "verbs")])
"""Finds the frames by their names, and a verb's templates as `VERB/page.html.j2`."""


def markup(svg: str) -> Markup:
    """A figure that goes into the page as it is: matplotlib has escaped the names in it."""
    return Markup(svg)


def page(template: str, **values: Any) -> str:
    """The page that a template gives; `numbers` and `counted` are known in each."""
    return _environment().get_template(template).render({"version": __version__} | values) + "\n"


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=LOADER,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    environment.globals |= {"numbers": numbers, "counted": counted}
    return environment


def _setting(value: Any) -> str:
    """A setting's value for people: lists and tables by their items, nothing as a dash."""
    if value is None or value == [] or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    return str(value)
