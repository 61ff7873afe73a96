"""What the templates of README.md share. This file of a run is its model card, for users and Hugging Face's tools.

Each verb's template is `verbs/VERB/card.md.j2`.
"""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, StrictUndefined

from domain_ft.report import numbers
from domain_ft.report.page import LOADER
from domain_ft.wording import counted

_MARKS = str.maketrans({mark: "\\" + mark for mark in "\\`*_[]|#"} | {"<": "&lt;", ">": "&gt;", "\n": " "})


@functools.cache
def template(name: str) -> Any:
    """A model card template, with `numbers` and `counted` as globals."""
    environment = Environment(
        loader=LOADER,
        autoescape=False,  # Markdown, not HTML: the filter `plain` escapes untrusted text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    environment.globals |= {"numbers": numbers, "counted": counted}
    return environment.get_template(name)


def licence_of(base: str, text: str | None) -> str:
    """The licence in a card's front matter: the base model's, or `other` if it or the text's licence is not known.

    Tools read only the front matter, not what the card says about the licences of model and text.
    """
    return base.lower() if base and text else "other"


def _plain(text: Any) -> str:
    """Untrusted text on one line, with Markdown and HTML escaped."""
    return str(text).translate(_MARKS)
