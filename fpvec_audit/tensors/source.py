"""Where the elements of a tensor come from: a file as a rule, or something that is decoded block by block."""

from typing import Protocol

from fpvec_audit.domain.checkpoint import Dtype


class TensorSource(Protocol):
    """The elements of one tensor, in row-major order.

    One thread reads a source at a time, block after block from the front; another thread may read another source of the
    same file.
    """

    @property
    def dtype(self) -> Dtype:
        """Number format of the blocks it gives."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        ...

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        """Write the ``count`` elements from flat position ``start`` on into ``block``, as little-endian numbers.

        Raises:
            CheckpointError: a file ends too early or cannot be read.
        """
        ...
