"""How long work tells of itself: one type of callback, from which the progress bars are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called as progress(label, done, total, or None where that is not known)."""
