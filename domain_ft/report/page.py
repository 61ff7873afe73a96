"""What the templates of report.html share: one self-contained page that needs no network.

The page loads nothing and runs no script, and its content security policy forbids both. The templates escape all text
from corpora, models and users; only figures are inserted as markup, and matplotlib has escaped the text in them. Each
verb's template is `verbs/VERB/page.html.j2`, and extends `page.html.j2`.
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
"""Finds the shared templates by name, and a verb's as `VERB/page.html.j2`."""


def markup(svg: str) -> Markup:
    """A figure as trusted markup: matplotlib has escaped the names in it."""
    return Markup(svg)


def page(template: str, **values: Any) -> str:
    """Render a page template, with `numbers` and `counted` as globals."""
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
    """A setting's value as shown to the user: lists and tables by their items, a missing value as a dash."""
    if value is None or value == [] or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    return str(value)
