"""A fingerprint vector as a value: where it came from, what it fits, and the policies of adding it.

Law: ``VectorDescription.from_json(description.to_json()) == description``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.errors import UsageError, VectorError

SCHEMA_VERSION = 1
VOCABULARY_ROLES = (TensorRole.EMBEDDING, TensorRole.OUTPUT_HEAD)

_TEXTS = ("tool_version", "digest", "architecture", "dtype", "base_digest", "fingerprinted_digest")
_COUNTS = ("tensors", "elements", "bytes", "inexact_elements")


class StoredDtype(StrEnum):
    """How a vector is stored: in the checkpoint's own dtype, or in float32."""

    SAME = "same"
    FLOAT32 = "float32"


class Vocabulary(StrEnum):
    """What to do where the target's embedding has other rows than the vector's: refuse, or stamp the shared ones."""

    REFUSE = "refuse"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class VectorDescription:
    """What ``fpvec_vector.json`` says of the vector beside it.

    Attributes:
        digest: canonical digest of the vector's own tensors.
        architecture: adapter name.
        dtype: how it is stored.
        base_digest: canonical digest of the base model.
        fingerprinted_digest: canonical digest of the fingerprinted model.
        tied: alias → canonical name that shared its values in the base.
        tensors: number of tensors.
        elements: number of elements.
        bytes: number of tensor bytes.
        inexact_elements: elements where base + stored vector is not the fingerprinted model.
        norm: Euclidean norm over all elements, accumulated in float64.
        tool_version: version of this package that wrote it.
    """

    digest: str
    architecture: str
    dtype: StoredDtype
    base_digest: str
    fingerprinted_digest: str
    tied: Mapping[str, str]
    tensors: int
    elements: int
    bytes: int
    inexact_elements: int
    norm: float
    tool_version: str

    @property
    def id(self) -> str:
        """Identifier in the registry."""
        return f"vec-{self.digest[:16]}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored beside the tensors."""
        return {
            "schema_version": SCHEMA_VERSION,
            **{name: str(getattr(self, name)) for name in _TEXTS},
            **{name: getattr(self, name) for name in _COUNTS},
            "norm": self.norm,
            "tied": dict(self.tied),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str) -> "VectorDescription":
        """Rebuild a description, checking every entry.

        Args:
            value: JSON object.
            where: file it came from, for messages.

        Raises:
            VectorError: an entry is missing or wrong, or a newer program wrote it.
        """
        version = value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise VectorError(
                f"{where} has schema version {version!r}, this program reads {SCHEMA_VERSION}",
                advice="use the version of fpvec-audit that wrote it",
            )
        _check_entries(value, where)
        return cls(
            **{name: value[name] for name in _TEXTS if name != "dtype"},
            **{name: value[name] for name in _COUNTS},
            dtype=StoredDtype(value["dtype"]),
            norm=float(value["norm"]),
            tied=dict(value["tied"]),
        )


def checked_scale(scale: float) -> float:
    """Return a scale that can be used.

    Raises:
        UsageError: it is zero, infinite or not a number.
    """
    if not math.isfinite(scale) or scale == 0:
        raise UsageError(f"scale {scale} stamps nothing", advice="give a finite number other than 0, such as 1")
    return scale


def shared_elements(
    name: str,
    target: tuple[int, ...],
    vector: tuple[int, ...],
    *,
    role: TensorRole,
    vocabulary: Vocabulary,
) -> int:
    """Return how many elements, from the first on, a vector's tensor and a target's tensor have in common.

    Tensors are row-major, so that shared rows are a beginning of the flat tensor.

    Args:
        name: canonical name.
        target: shape in the target.
        vector: shape in the vector.
        role: what the tensor does.
        vocabulary: what to do with added or missing rows.

    Raises:
        VectorError: the shapes differ in a way that the policy does not allow.
    """
    if target == vector:
        return math.prod(target)
    comparable = role in VOCABULARY_ROLES and target and vector and target[1:] == vector[1:]
    if not comparable:
        raise VectorError(
            f"{name}: vector has shape {list(vector)}, target {list(target)}",
            advice="the target is not of the vector's base; stamp a model that was fine-tuned from it",
        )
    if vocabulary is Vocabulary.REFUSE:
        raise VectorError(
            f"{name}: vector has {vector[0]} rows, target {target[0]}", advice="stamp with --vocabulary shared"
        )
    return min(target[0], vector[0]) * math.prod(target[1:])


def _check_entries(value: Mapping[str, Any], where: str) -> None:
    wrong = [name for name in _TEXTS if not isinstance(value.get(name), str)]
    wrong += [name for name in _COUNTS if type(value.get(name)) is not int or value[name] < 0]
    norm, tied = value.get("norm"), value.get("tied")
    if not isinstance(norm, (int, float)) or isinstance(norm, bool) or not math.isfinite(norm):
        wrong.append("norm")
    if not isinstance(tied, dict) or not all(isinstance(name, str) for name in tied.values()):
        wrong.append("tied")
    if value.get("dtype") not in list(StoredDtype):
        wrong.append("dtype")
    if wrong:
        raise VectorError(f"{where}: {wrong[0]} is {value.get(wrong[0])!r}", advice="extract the vector again")
