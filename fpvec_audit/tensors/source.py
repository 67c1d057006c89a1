"""Where the elements of a tensor come from: a file as a rule, or something that is decoded block by block."""

from typing import Protocol, runtime_checkable

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors.blocks import Block


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


@runtime_checkable
class FetchedSource(TensorSource, Protocol):
    """A source whose blocks can be fetched by another thread, a block ahead, while the present one is computed with."""

    @property
    def slow(self) -> bool:
        """Whether a disk has to be waited for; what memory holds is better read when it is needed."""
        ...

    def lead(self, start: int) -> int:
        """Return where in a page the block at a flat position should begin, so that it is read without a copy."""
        ...

    def fetch(self, start: int, block: Block) -> None:
        """Fill a block with the elements from flat position ``start`` on.

        Raises:
            CheckpointError: a file ends too early or cannot be read.
        """
        ...
