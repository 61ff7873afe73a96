"""The callback by which long operations report progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called as progress(label, done, total); total is None if unknown."""
