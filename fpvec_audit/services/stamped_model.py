"""What a stamp gave: the result that a script reads, and what its owner should be told."""

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.services.stamp_orders import StampOrder

if TYPE_CHECKING:
    from fpvec_audit.tensors.stamp_outcome import StampOutcome

LEAST_APPLIED = 0.5
LEAST_COSINE = 0.9
UNKNOWN_ORIGIN = (
    "nothing says that {name} was made from the vector's base: give it with --base, or register the model with "
    "`fpvec model register {path} --parent BASE`"
)
UNKNOWN_ORIGIN_OF_BASE = (
    "nothing says that {name} was made from the vector's base: register the model with "
    "`fpvec model register {path} --parent BASE`"
)


@dataclass(frozen=True, slots=True)
class StampedModel:
    """One stamped copy.

    Attributes:
        out: its directory.
        vectors: (vector id, scale) in the order given.
        licensee: for whom, None when for nobody in particular.
        tensors: number of tensors that were added to.
        bytes_written: bytes of all files; 0 when it was there already.
        applied_ratio: share of the vectors that survived rounding.
        cosine: between what was applied and what was wanted.
        roles: tensor role → ``applied_ratio``, ``cosine`` and ``tensors`` of its tensors; empty when it was there.
        file_digests: file → SHA-256, where they were asked for.
        resumed: tensors that an interrupted run had written already.
        digest: canonical digest of the stamped model.
        downstream_digest: canonical digest of the model that was stamped, the base's where there is an adapter.
        stamp_id: identifier in the registry.
        already: whether the very same stamp was there before.
        warnings: what the owner should know, in sentences.
        seconds: wall time.
        peak_memory_bytes: largest resident memory of this process so far.
        carrier: strength of the carriers that were added, None without.
        carried_ratio: ‖carriers as rounded‖ / ‖vectors‖; 0 without carriers, or when it was there.
        adapter: what became of the adapter of the downstream, ``keep`` or ``merge``; None for a whole model.
        adapter_digest: digest of that adapter's configuration and weights; None for a whole model.
        adapter_base: directory of that adapter's base; None for a whole model.
        address: where it was published, from its directory, which is gone; empty where it stayed.
    """

    out: Path
    vectors: tuple[tuple[str, float], ...]
    licensee: str | None
    tensors: int
    bytes_written: int
    applied_ratio: float
    cosine: float
    roles: Mapping[str, Mapping[str, float]]
    file_digests: Mapping[str, str]
    resumed: int
    digest: str
    downstream_digest: str
    stamp_id: str
    already: bool
    warnings: tuple[str, ...]
    seconds: float
    peak_memory_bytes: int
    carrier: float | None = None
    carried_ratio: float = 0.0
    adapter: str | None = None
    adapter_digest: str | None = None
    adapter_base: Path | None = None
    address: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        single = self.vectors[0] if len(self.vectors) == 1 else (None, None)
        return {
            "out": self.address or str(self.out),
            "vectors": [{"vector": vector, "scale": scale} for vector, scale in self.vectors],
            "vector": single[0],
            "scale": single[1],
            "licensee": self.licensee,
            "tensors": self.tensors,
            "bytes_written": self.bytes_written,
            "applied_ratio": self.applied_ratio,
            "cosine": self.cosine,
            "roles": {role: dict(rounding) for role, rounding in self.roles.items()},
            "carrier": self.carrier,
            "carried_ratio": self.carried_ratio,
            "file_digests": dict(self.file_digests),
            "resumed": self.resumed,
            "adapter": self.adapter,
            "adapter_digest": self.adapter_digest,
            "adapter_base": None if self.adapter_base is None else str(self.adapter_base),
            "digest": self.digest,
            "downstream_digest": self.downstream_digest,
            "stamp_id": self.stamp_id,
            "already": self.already,
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def adapter_fields(order: StampOrder) -> dict[str, Any]:
    """Return the fields of a result that tell of a LoRA adapter."""
    return {} if order.adapted is None else {**order.adapted.trace, "adapter_base": order.adapted.base}


def stamp_warnings(order: StampOrder, outcome: "StampOutcome", *, known: bool) -> tuple[str, ...]:
    """Return what the owner of a stamped model should know, in sentences."""
    found: list[str] = []
    path = order.plan.target.path
    if order.adapted is not None:
        found.extend(order.adapted.notes)
    if not known:
        unknown = UNKNOWN_ORIGIN_OF_BASE if order.stamps_given_base else UNKNOWN_ORIGIN
        found.append(unknown.format(name=path.resolve().name, path=path))
    swallowed = {
        role: rounding
        for role, rounding in outcome.roles.items()
        if rounding.applied_ratio < LEAST_APPLIED or rounding.cosine < LEAST_COSINE
    }
    total = outcome.rounding
    if total.applied_ratio < LEAST_APPLIED or total.cosine < LEAST_COSINE:
        found.append(
            f"rounding took much of the vector: {total.applied_ratio:.0%} of its norm was applied, cosine "
            f"{total.cosine:.2f}; stamp a float32 copy of the model, or with a larger scale, and audit the result"
        )
    elif swallowed:
        worst = ", ".join(f"{role.value} (cosine {rounding.cosine:.2f})" for role, rounding in swallowed.items())
        found.append(
            f"rounding took much of the vector in {worst}; if an audit of the result disappoints, stamp a float32 copy "
            f"of the model, or with a larger scale"
        )
    if order.plan.others.left_out:
        found.append(
            f"not carried over, as they hold the unstamped weights or their history: "
            f"{', '.join(order.plan.others.left_out)}"
        )
    return tuple(found)


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
