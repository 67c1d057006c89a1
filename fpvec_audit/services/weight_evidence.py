"""Descriptive weight evidence: which known vectors a suspect's weights look like, beside clean fine-tunes of the base.

Guarded here: nothing of this is a verdict. Vectors of different key sets on one base share a direction (cosine about
0.45), so a suspect that carries another licensee's vector resembles ours too, and no chance was drawn that a
probability could refer to. The p that is given ranks the suspect among the controls and is at least 1/(controls + 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from fpvec_audit.tensors.regression import Regression

MEANING = (
    "descriptive only: vectors of different key sets on one base share a direction (cosine about 0.45), so a likeness "
    "to a vector can stem from another one, and it can never give a MATCH; the conformal p ranks the suspect among the "
    "controls and cannot fall below 1/(controls + 1)"
)
FEW_CONTROLS = 4


@dataclass(frozen=True, slots=True)
class KnownVector:
    """A fingerprint vector of the base.

    Attributes:
        id: its identifier in the registry.
        path: its directory.
        key_set: key set that it was trained on.
        mark: mark of that key set that it carries.
    """

    id: str
    path: Path
    key_set: str
    mark: int = 0


@dataclass(frozen=True, slots=True)
class VectorEvidence:
    """How much of one vector a suspect seems to carry.

    Attributes:
        vector: which vector.
        coefficient: λ̂, jointly with all other vectors: near 1 in a copy stamped at scale 1, near 0 in a clean model.
        cosine: of the suspect's difference with the vector as it is; None where there is no difference.
        own_cosine: with the part of the vector that the others do not give; None where there is none.
        roles: role → λ̂ and cosine over the tensors of that role.
        controls: λ̂ of every control.
    """

    vector: KnownVector
    coefficient: float
    cosine: float | None
    own_cosine: float | None
    roles: Mapping[TensorRole, tuple[float, float | None]]
    controls: tuple[float, ...]

    @property
    def control_range(self) -> tuple[float, float] | None:
        """Lowest and highest λ̂ of the controls, None without any."""
        return (min(self.controls), max(self.controls)) if self.controls else None

    @property
    def conformal_p(self) -> float:
        """Rank of the suspect's λ̂ among the controls', ties counted against the suspicion; 1 without controls."""
        as_high = sum(control >= self.coefficient for control in self.controls)
        return (1 + as_high) / (1 + len(self.controls))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in the report."""
        return {
            "vector_id": self.vector.id,
            "key_set": self.vector.key_set,
            "mark": self.vector.mark,
            "coefficient": self.coefficient,
            "cosine": self.cosine,
            "own_cosine": self.own_cosine,
            "roles": {
                role.value: {"coefficient": coefficient, "cosine": cosine}
                for role, (coefficient, cosine) in self.roles.items()
            },
            "control_range": None if self.control_range is None else list(self.control_range),
            "conformal_p": self.conformal_p,
        }


@dataclass(frozen=True, slots=True)
class WeightEvidence:
    """What a suspect's weights look like; descriptive, never a verdict.

    Attributes:
        suspect: its directory.
        base: directory of the base.
        vectors: one entry per known vector.
        controls: directories of the clean fine-tunes beside it.
        residual: share of the difference's square in [0, 1] that the vectors do not explain; a downstream's own
            training is in it. None where suspect and base are alike.
        norm: ‖suspect − base‖.
        rank: number of independent directions among the vectors.
        condition: how unevenly these directions are filled; 1 when the vectors are orthogonal.
        remarks: what did not count and what to beware of, in sentences.
    """

    suspect: Path
    base: Path
    vectors: tuple[VectorEvidence, ...]
    controls: tuple[Path, ...]
    residual: float | None
    norm: float
    rank: int
    condition: float
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in the report."""
        return {
            "descriptive": True,
            "meaning": MEANING,
            "suspect": str(self.suspect),
            "base": str(self.base),
            "vectors": [vector.to_json() for vector in self.vectors],
            "controls": [str(control) for control in self.controls],
            "residual": self.residual,
            "norm": self.norm,
            "rank": self.rank,
            "condition": self.condition,
            "remarks": list(self.remarks),
        }


def weight_evidence(
    suspect_dir: Path,
    *,
    base_dir: Path,
    vectors: Sequence[KnownVector],
    adapter: ArchitectureAdapter | None,
    controls: Sequence[Path] = (),
    base_digest: str = "",
    progress: Progress = NO_PROGRESS,
) -> WeightEvidence:
    """Regress a suspect's difference from the base on all known vectors together, and clean fine-tunes likewise.

    Args:
        suspect_dir: checkpoint directory.
        base_dir: checkpoint directory of the base that all vectors were extracted from.
        vectors: every known vector of that base: one that is left out lends its share to the others.
        adapter: architecture of all models.
        controls: checkpoint directories of clean fine-tunes of the base.
        base_digest: canonical digest of the base, where it is known: vectors of another base are refused.
        progress: where to report.

    Raises:
        CheckpointError: a model cannot be read, or is not of the base's shape.
        VectorError: no vector, a damaged one, or one of another base.
    """
    from fpvec_audit.tensors.regression import regress, vector_gram

    paths = [vector.path for vector in vectors]
    _check_bases(vectors, base_digest)
    gram = vector_gram(paths, adapter, progress=progress)
    found, *beside = (
        regress(base_dir, model, paths, adapter, gram=gram, progress=progress) for model in (suspect_dir, *controls)
    )
    return WeightEvidence(
        suspect=suspect_dir,
        base=base_dir,
        vectors=tuple(_of_vector(place, vector, found, beside) for place, vector in enumerate(vectors)),
        controls=tuple(controls),
        residual=found.residual,
        norm=found.norm,
        rank=found.whole.rank,
        condition=found.whole.condition,
        remarks=(*found.remarks, *_warnings(found, len(beside))),
    )


def _check_bases(vectors: Sequence[KnownVector], base_digest: str) -> None:
    from fpvec_audit.tensors.vector_files import read_vector

    for vector in vectors:
        own = read_vector(vector.path).description.base_digest
        expected = base_digest or own
        if own != expected:
            raise VectorError(
                f"{vector.id} is a vector of base {own[:16]}…, not of {expected[:16]}…",
                advice="compare with the vectors of one base at a time",
            )
        base_digest = expected


def _of_vector(
    place: int, vector: KnownVector, found: "Regression", controls: Sequence["Regression"]
) -> VectorEvidence:
    return VectorEvidence(
        vector=vector,
        coefficient=found.coefficients[place],
        cosine=found.cosines[place],
        own_cosine=found.whole.own_cosines[place],
        roles={role: (fit.coefficients[place], fit.cosines[place]) for role, fit in found.roles.items()},
        controls=tuple(control.coefficients[place] for control in controls),
    )


def _warnings(found: "Regression", controls: int) -> list[str]:
    warnings = []
    if found.norm == 0:
        warnings.append("the suspect has the weights of the base")
    if controls < FEW_CONTROLS:
        warnings.append(
            f"with {controls} controls the conformal p cannot fall below {1 / (controls + 1):.2g}: give more clean "
            "fine-tunes of the base (--control)"
        )
    return warnings
