"""What a stamp did: the digests before and after, and what rounding left of the vectors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.tensors.kernels import Sums


@dataclass(frozen=True, slots=True)
class Rounding:
    """What rounding left of Σ scale · τ.

    Attributes:
        applied_ratio: ‖applied‖ / ‖Σ scale · τ‖, in float64; 0 where nothing was to be applied.
        cosine: between what was applied and Σ scale · τ.
        tensors: number of tensors.
    """

    applied_ratio: float
    cosine: float
    tensors: int

    @classmethod
    def of(cls, sums: Sequence[Sums]) -> "Rounding":
        """Return what sums over blocks or tensors tell."""
        applied, wanted, product = (
            math.fsum(getattr(item, name) for item in sums) for name in ("applied", "wanted", "product")
        )
        ratio = math.sqrt(applied / wanted) if wanted else 0.0
        cosine = product / math.sqrt(applied) / math.sqrt(wanted) if applied and wanted else 0.0
        return cls(ratio, min(1.0, max(-1.0, cosine)), len(sums))


@dataclass(frozen=True, slots=True)
class StampOutcome:
    """What stamping did.

    Attributes:
        rounding: over all tensors that were added to.
        roles: role → the same for its tensors only.
        bytes_written: bytes of all files.
        target: tensors of the target as it was read, by digest.
        stamped: tensors of the stamped model, by digest.
        resumed: number of tensors that an interrupted run had written already.
        carried_ratio: ‖carriers as applied‖ / ‖Σ scale · τ‖; 0 without carriers.
    """

    rounding: Rounding
    roles: Mapping[TensorRole, Rounding]
    bytes_written: int
    target: Manifest
    stamped: Manifest
    resumed: int
    carried_ratio: float = 0.0

    @property
    def tensors(self) -> int:
        """Number of tensors that were added to."""
        return self.rounding.tensors

    @property
    def applied_ratio(self) -> float:
        """Share of the vectors that survived rounding."""
        return self.rounding.applied_ratio

    @property
    def cosine(self) -> float:
        """Between what was applied and what was wanted."""
        return self.rounding.cosine

    @property
    def target_digest(self) -> str:
        """Canonical digest of the target."""
        return self.target.digest

    @property
    def stamped_digest(self) -> str:
        """Canonical digest of the stamped model."""
        return self.stamped.digest
