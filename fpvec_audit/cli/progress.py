"""Progress on stderr: bars in a terminal, one line a step elsewhere, so that logs stay readable.

What draws bars is loaded when there are some to draw.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from fpvec_audit.progress import Progress, Step

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

WORTH_A_LINE = 0.5
"""Seconds below which a finished step leaves no line, unless it had something to remark."""


DEEPEST_LINE = 2
"""Steps that lie deeper within others leave no line: their bars say enough."""


class BarProgress:
    """Draws one bar per step that is under way; a finished step leaves a line with its time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._open = 0

    def step(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Step]:
        """Open a step with a bar."""
        return self._step(label, total, unit)

    @contextmanager
    def _step(self, label: str, total: float | None, unit: str) -> Iterator[Step]:
        if self._bars is None:
            self._bars = _bars(self._console)
            self._bars.start()
        bars = self._bars
        task = bars.add_task(label, total=total, unit=unit, note="")
        self._open += 1
        started = time.monotonic()
        bar = _Bar(bars, task)
        try:
            yield bar
            ending = _ending(time.monotonic() - started, bar.remark)
            if ending and self._open <= DEEPEST_LINE:
                line = Text.assemble(("✓", "green"), f" {label} ", (ending, "dim"))
                self._console.print(line, soft_wrap=True)
        finally:
            bars.remove_task(task)
            self._open -= 1
            if not self._open:
                bars.stop()
                self._bars = None


class _Bar:
    def __init__(self, bars: "Bars", task: "TaskID") -> None:
        self._bars, self._task, self.remark = bars, task, ""

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar."""
        self._bars.advance(self._task, amount)

    def note(self, text: str) -> None:
        """Show a remark behind the bar."""
        self.remark = text
        self._bars.update(self._task, note=text)


class LineProgress:
    """Writes one line when a step ends; for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open = 0

    def step(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Step]:
        """Open a step that ends with a line."""
        return self._step(label)

    @contextmanager
    def _step(self, label: str) -> Iterator[Step]:
        started = time.monotonic()
        line = _Line()
        self._open += 1
        depth = self._open
        try:
            yield line
        finally:
            self._open -= 1
        ending = _ending(time.monotonic() - started, line.remark)
        if ending and depth <= DEEPEST_LINE:
            self._console.print(f"{label} {ending}", highlight=False, soft_wrap=True)


class _Line:
    remark = ""

    def advance(self, amount: float = 1.0) -> None:
        """Nothing moves in a log."""

    def note(self, text: str) -> None:
        """Remember the last remark for the line."""
        self.remark = text


def _bars(console: Console) -> "Bars":
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console,
        transient=True,
    )


def terminal_progress(console: Console) -> Progress:
    """Return bars for a terminal and lines for anything else."""
    return BarProgress(console) if console.is_terminal else LineProgress(console)


def _ending(seconds: float, remark: str) -> str:
    """Return what a finished step leaves; nothing for one that was too short to be of interest."""
    if seconds < WORTH_A_LINE and not remark:
        return ""
    return f"{seconds:.1f} s" + (f", {remark}" if remark else "")
