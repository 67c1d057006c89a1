"""Where the elements of a tensor go: a file as a rule, or nowhere."""

from dataclasses import dataclass
from typing import Protocol

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors.blocks import Block


class TensorSink(Protocol):
    """Where the bytes of one output tensor go."""

    @property
    def dtype(self) -> Dtype:
        """Number format."""
        ...

    def lead(self, start: int) -> int:
        """Return where in a page the block at a flat position should begin, so that it is written without a copy."""
        ...

    def write(self, start: int, block: Block) -> None:
        """Write a block at a flat position; blocks come from the front to the back."""
        ...

    def close(self) -> None:
        """Take note that the tensor is complete."""
        ...


@dataclass(frozen=True, slots=True)
class Scratch:
    """A sink that keeps nothing: room for numbers that are only computed with.

    Attributes:
        dtype: number format.
    """

    dtype: Dtype

    def lead(self, start: int) -> int:
        """No place is better than another."""
        return 0

    def write(self, start: int, block: Block) -> None:
        """Forget a block."""

    def close(self) -> None:
        """Nothing is complete."""
