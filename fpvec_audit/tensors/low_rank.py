"""Matrices as products of two thin ones: a truncated singular value decomposition, or a LoRA update.

Laws:

* :class:`LowRank` gives scale · left · right in float32; a product that is zero comes as −0.0, which leaves every bit
  of what it is added to;
* rows and columns of a matrix that are zero throughout are zero in what :func:`truncated_factors` stands for.

Legend: m rows, n columns, r rank.
"""

from math import prod

import torch

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stored import SPAN, Tiles, read_elements, without_positive_zeros

EXACT = 512
"""A matrix whose shorter side is not longer than this is decomposed exactly."""
OVERSAMPLING = 16
POWER_ITERATIONS = 4


class LowRank:
    """The product of two thin matrices as a source of its elements; both factors are in memory while it is read.

    Shapes:
        left is (m, r), right (r, n); the source is (m, n), or (n, m) when it is transposed.

    Args:
        left: any floating-point format.
        right: any floating-point format.
        scale: factor of the product.
        transposed: give the transpose of the product, as layers need that store their weights (in, out).

    Raises:
        VectorError: the two cannot be multiplied.
    """

    def __init__(
        self, left: TensorSource, right: TensorSource, *, scale: float = 1.0, transposed: bool = False
    ) -> None:
        if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[0]:
            raise VectorError(f"factors of shapes {list(left.shape)} and {list(right.shape)} cannot be multiplied")
        self._left, self._right = left, right
        self._scale = scale
        self._transposed = transposed
        self._factors: tuple[torch.Tensor, torch.Tensor] | None = None
        columns = max(1, self.shape[1])
        self._tiles = Tiles(
            elements=prod(self.shape),
            size=max(1, SPAN // columns) * columns,
            decode=self._product,
            release=self._release,
        )

    @property
    def dtype(self) -> Dtype:
        """Always float32."""
        return Dtype.F32

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the product, transposed if asked for."""
        rows, columns = self._left.shape[0], self._right.shape[1]
        return (columns, rows) if self._transposed else (rows, columns)

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        """Write the ``count`` elements of the product from flat position ``start`` on into ``block``.

        Raises:
            CheckpointError: a file ends too early or cannot be read.
        """
        self._tiles.read_into(start, count, block)

    def _product(self, start: int, count: int) -> torch.Tensor:
        """Return whole rows of the product, flat."""
        left, right = self._loaded()
        columns = self.shape[1]
        rows = left[start // columns : (start + count) // columns] @ right  # (rows of the tile, columns)
        if self._scale != 1:
            rows *= self._scale
        return without_positive_zeros(rows.view(-1))

    def _loaded(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._factors is None:
            left, right = (
                read_elements(factor, 0, prod(factor.shape)).view(factor.shape).float()
                for factor in (self._left, self._right)
            )
            self._factors = (right.T.contiguous(), left.T.contiguous()) if self._transposed else (left, right)
        return self._factors

    def _release(self) -> None:
        self._factors = None


def is_thinner(shape: tuple[int, ...], rank: int) -> bool:
    """Say whether a tensor is a matrix and two factors of this rank have fewer elements than it."""
    return len(shape) == 2 and rank * (shape[0] + shape[1]) < shape[0] * shape[1]


def truncated_factors(matrix: torch.Tensor, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two factors whose product is the matrix up to its smaller singular values.

    The square root of every singular value goes to either side, so that neither factor runs out of range in half
    precision. A large matrix is decomposed in a random subspace, refined by power iterations.

    Shapes:
        matrix is (m, n); the factors are (m, r) and (r, n).

    Args:
        matrix: float32, finite.
        rank: r, at most min(m, n).
        generator: source of the random subspace; not used for small matrices.

    Returns:
        Two new tensors in float32.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness" (arXiv:0909.4061), algorithms 4.4 and 5.1.
    """
    shorter = min(matrix.shape)
    if shorter <= EXACT or rank + OVERSAMPLING >= shorter:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        basis = _range(matrix, rank + OVERSAMPLING, generator)  # (m, r + oversampling)
        small, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        left = basis @ small
    root = values[:rank].sqrt()
    left, right = left[:, :rank] * root, root[:, None] * right[:rank]
    left[~matrix.any(dim=1)] = 0
    right[:, ~matrix.any(dim=0)] = 0
    return left, right


def _range(matrix: torch.Tensor, dimensions: int, generator: torch.Generator) -> torch.Tensor:
    """Return an orthonormal basis of a subspace that holds nearly all of the matrix's larger directions."""
    image = matrix @ torch.randn(matrix.shape[1], dimensions, generator=generator)
    for _ in range(POWER_ITERATIONS):
        basis, _ = torch.linalg.qr(image)
        basis, _ = torch.linalg.qr(matrix.T @ basis)
        image = matrix @ basis
    return torch.linalg.qr(image).Q
