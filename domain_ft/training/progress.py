"""Progress on standard error: a live display on a terminal, plain lines elsewhere, nothing if quiet.

Standard output is for results.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from domain_ft.terminal_text import printable

PLAIN_INTERVAL_SECONDS = 10.0
"""The least time between two lines of a job if there is no terminal. Its last line is printed at once."""


class ProgressDisplay:
    """Shows jobs (reading, tokenising, evaluating) and training steps.

    Use it as a context manager. Pass `job` to slow functions as their callback (`domain_ft.progress.Progress`).

    Args:
        console: where to write; the default is standard error.
        quiet: show nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)
        self.quiet = quiet
        self._live: Live | None = None
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._shown: dict[str, float] = {}
        self._finished: set[tuple[str, int | None]] = set()
        self._said: set[str] = set()
        self._repeats = True

    def __enter__(self) -> ProgressDisplay:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(self._bars, console=self.console, transient=True, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, message: str, style: str = "") -> None:
        """Print a line that stays."""
        if not self.quiet and (self._repeats or message not in self._said):
            self._said.add(message)
            self.console.print(Text(printable(message), style=style), soft_wrap=not self.console.is_terminal)

    @contextlib.contextmanager
    def without_repeats(self) -> Iterator[None]:
        """Inside the block, lines that were printed before are not printed again."""
        self._repeats = False
        try:
            yield
        finally:
            self._repeats = True

    def warn(self, message: str) -> None:
        """Print a line that stays, marked as a warning."""
        self.say(f"warning: {message}", style="yellow")

    def job(self, label: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` (None if unknown) parts of the job `label` are done."""
        self._show(label, done, total, "")

    def step(self, metrics: Mapping[str, Any], total_steps: int) -> None:
        """Show a training step, given its line of metrics.jsonl."""
        detail = (
            f"loss {metrics['loss']:.3f}  {metrics['tokens_per_second']:,.0f} tok/s  "
            f"{metrics['memory_bytes'] / 2**30:.1f} GiB"
        )
        if metrics["padding_fraction"] > 0:
            detail += f"  padding {metrics['padding_fraction']:.0%}"
        self._show("training", metrics["step"], total_steps, detail)

    def _show(self, label: str, done: int, total: int | None, detail: str) -> None:
        if self.quiet:
            return
        finished = total is not None and done >= total
        if self._live:
            if label not in self._tasks:
                self._tasks[label] = self._bars.add_task(printable(label), total=total, detail=detail)
            self._bars.update(self._tasks[label], completed=done, total=total, detail=detail)
            if finished:
                self._bars.remove_task(self._tasks.pop(label))
        else:
            self._plain(label, done, total, detail, finished)

    def _plain(self, label: str, done: int, total: int | None, detail: str, finished: bool) -> None:
        now = time.monotonic()
        if finished and (label, total) in self._finished:
            return
        if not finished and now - self._shown.setdefault(label, now) < PLAIN_INTERVAL_SECONDS:
            return
        self._shown[label] = now
        count = f"{done:,}" if total is None else f"{done:,} of {total:,}"
        self.say(f"{label}: {count}  {detail}".rstrip())
        if finished:
            del self._shown[label]
            self._finished.add((label, total))
