"""How long work reports that it goes on, without knowing who looks.

The core and plugins receive a :class:`Progress` as an argument; the command line passes one that draws bars on
stderr, everything else passes :data:`NO_PROGRESS`.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Step(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float = 1.0) -> None:
        """Report that ``amount`` more units are done."""
        ...

    def note(self, text: str) -> None:
        """Show a short remark beside the bar, such as "FSR 31/32"."""
        ...


class Progress(Protocol):
    """Where steps are announced."""

    def step(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Step]:
        """Open a step; it ends with the context.

        Args:
            label: what is being done, in a few words.
            total: number of units, or None when it is not known.
            unit: what is counted ("tensors", "prompts", "bytes").
        """
        ...


class _SilentStep:
    def advance(self, amount: float = 1.0) -> None:
        """Report nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class _SilentProgress:
    def step(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Step]:
        """Open a step that nobody sees."""
        return nullcontext(_SilentStep())


NO_PROGRESS: Progress = _SilentProgress()
