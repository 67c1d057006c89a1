"""What compressing a vector lost: what is decoded, compared with what was there.

Sums are taken in float64. ‖τ′ − τ‖ is summed as such and not derived from the other sums, which would cancel.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stored import read_elements, spans


class TensorSizes(NamedTuple):
    """How large a tensor is: its elements, and its bytes before and after."""

    elements: int
    dense_bytes: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Loss:
    """What compressing did to some tensors.

    Attributes:
        role: what these tensors do.
        tensors: how many there are.
        elements: how many elements they have.
        dense_bytes: their bytes before.
        bytes: their bytes after.
        relative_error: ‖τ′ − τ‖ / ‖τ‖; 0 where both are zero.
        cosine: of τ′ and τ; None where one is zero.
    """

    role: TensorRole
    tensors: int
    elements: int
    dense_bytes: int
    bytes: int
    relative_error: float
    cosine: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "role": self.role.value,
            "tensors": self.tensors,
            "elements": self.elements,
            "bytes": self.bytes,
            "share_of_bytes": self.bytes / self.dense_bytes if self.dense_bytes else None,
            "relative_error": self.relative_error,
            "cosine": self.cosine,
        }


@dataclass(slots=True)
class Sums:
    """Sums over pairs of elements (τ, τ′), in float64."""

    error: float = 0.0
    source: float = 0.0
    decoded: float = 0.0
    product: float = 0.0
    different: int = 0

    def take(self, tau: torch.Tensor, decoded: torch.Tensor) -> None:
        """Take in a stretch of both."""
        one, other = tau.double(), decoded.double()
        self.different += int(torch.count_nonzero(one.view(torch.int64) != other.view(torch.int64)))
        self.source += float(one.dot(one))
        self.decoded += float(other.dot(other))
        self.product += float(one.dot(other))
        other -= one
        self.error += float(other.dot(other))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def relative_error(self) -> float:
        """‖τ′ − τ‖ / ‖τ‖, 0 where both are zero."""
        return math.sqrt(self.error / self.source) if self.source else 0.0

    @property
    def cosine(self) -> float | None:
        """Cosine of τ and τ′, None where one is zero."""
        if not self.source or not self.decoded:
            return None
        return min(1.0, self.product / math.sqrt(self.source * self.decoded))


@dataclass(slots=True)
class Comparison:
    """What a vector and its compressed form have in common, tensor by tensor."""

    sums: dict[str, Sums] = field(default_factory=dict)
    digests: list[TensorDigest] = field(default_factory=list)

    def take(self, name: str, source: TensorSource, decoded: TensorSource) -> None:
        """Compare a tensor, and take the source's bytes into the digest."""
        assert source.shape == decoded.shape, f"{name} is decoded in another shape"
        sums = self.sums[name] = Sums()
        content = hashlib.sha256()
        for start, count in spans(math.prod(source.shape)):
            tau = read_elements(source, start, count)
            content.update(memoryview(tau.view(torch.uint8).numpy()))
            sums.take(tau, read_elements(decoded, start, count))
        if not math.isfinite(sums.decoded):
            raise VectorError(f"{name}: it does not fit into its compressed form", advice="compress it another way")
        self.digests.append(TensorDigest(name, source.dtype.label, source.shape, content.hexdigest()))

    @property
    def digest(self) -> str:
        """Canonical digest of the sources."""
        return Manifest.of(self.digests).digest

    def total(self, names: Iterable[str]) -> Sums:
        """Return the sums over some tensors."""
        return sum((self.sums[name] for name in names), Sums())

    def losses(self, sizes: Mapping[str, TensorSizes], role: Callable[[str], TensorRole]) -> tuple[Loss, ...]:
        """Return the loss of every role that there is.

        Args:
            sizes: canonical name → how large the tensor is.
            role: canonical name → role.
        """
        by_role: dict[TensorRole, list[str]] = {}
        for name in self.sums:
            by_role.setdefault(role(name), []).append(name)
        return tuple(self._loss(found, by_role[found], sizes) for found in TensorRole if found in by_role)

    def _loss(self, role: TensorRole, names: list[str], sizes: Mapping[str, TensorSizes]) -> Loss:
        total = self.total(names)
        return Loss(
            role=role,
            tensors=len(names),
            elements=sum(sizes[name].elements for name in names),
            dense_bytes=sum(sizes[name].dense_bytes for name in names),
            bytes=sum(sizes[name].bytes for name in names),
            relative_error=total.relative_error,
            cosine=total.cosine,
        )
