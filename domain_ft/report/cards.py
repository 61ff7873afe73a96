"""The frame of a run's README.md: a model card that Hugging Face's tools parse and a person can read.

A verb's own template is in its folder, `verbs/VERB/card.md.j2`.
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
    """A template of a card; `numbers` and `counted` are known in each."""
    environment = Environment(
        loader=LOADER,
        autoescape=False,  # it is Markdown: `plain` takes the marks out of foreign text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    environment.globals |= {"numbers": numbers, "counted": counted}
    return environment.get_template(name)


def _plain(text: Any) -> str:
    """Foreign text that Markdown must show as it is, on one line and in a table's cell."""
    return str(text).translate(_MARKS)
