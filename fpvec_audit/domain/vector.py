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


class CompressionKind(StrEnum):
    """How a compressed vector is stored: its largest elements, products of thin matrices, or eight bits an element."""

    KEEP = "keep"
    RANK = "rank"
    FP8 = "fp8"


@dataclass(frozen=True, slots=True)
class CompressionMethod:
    """How a vector is to be compressed.

    Attributes:
        kind: what is stored of it.
        value: the share of elements that are kept, in (0, 1); the rank, at least 1; or ``fp8``.
    """

    kind: CompressionKind
    value: float | int | str

    @property
    def parameters(self) -> dict[str, float | int | str]:
        """The option that asks for it, and its value."""
        return {"dtype" if self.kind is CompressionKind.FP8 else self.kind.value: self.value}


@dataclass(frozen=True, slots=True)
class Compression:
    """How a compressed vector was made, and how near it is to the vector that it was made from.

    Attributes:
        kind: what is stored.
        parameters: option → value.
        source: id of the vector that was compressed.
        relative_error: ‖τ′ − τ‖ / ‖τ‖ over all elements, where τ′ is what is decoded.
        cosine: of τ′ and τ.
    """

    kind: CompressionKind
    parameters: Mapping[str, float | int | str]
    source: str
    relative_error: float
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in the description."""
        return {
            "kind": self.kind.value,
            "parameters": dict(self.parameters),
            "source": self.source,
            "relative_error": self.relative_error,
            "cosine": self.cosine,
        }

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> "Compression":
        """Rebuild it, checking every entry.

        Raises:
            VectorError: an entry is missing or wrong, or a newer program wrote it.
        """
        entries: dict[str, Any] = value if isinstance(value, dict) else {}
        wrong = [name for name in ("relative_error", "cosine") if not _is_number(entries.get(name))]
        if entries.get("kind") not in list(CompressionKind):
            wrong.append("kind")
        if not isinstance(entries.get("parameters"), dict):
            wrong.append("parameters")
        if not isinstance(entries.get("source"), str):
            wrong.append("source")
        if wrong:
            raise VectorError(
                f"{where}: {wrong[0]} of compression is {entries.get(wrong[0])!r}", advice="compress the vector again"
            )
        return cls(
            kind=CompressionKind(entries["kind"]),
            parameters=dict(entries["parameters"]),
            source=entries["source"],
            relative_error=float(entries["relative_error"]),
            cosine=float(entries["cosine"]),
        )


@dataclass(frozen=True, slots=True)
class VectorDescription:
    """What ``fpvec_vector.json`` says of the vector beside it.

    Attributes:
        digest: canonical digest of the vector's own tensors, as stored.
        architecture: adapter name.
        dtype: how it is stored.
        base_digest: canonical digest of the base model.
        fingerprinted_digest: canonical digest of the fingerprinted model.
        tied: alias → canonical name that shared its values in the base.
        tensors: number of tensors; those that are stored in several parts count once.
        elements: number of elements, stored or decoded.
        bytes: number of tensor bytes, as stored.
        inexact_elements: elements where base + stored vector is not the fingerprinted model. Of a compressed vector,
            whose models were not at hand, elements that are decoded to other bits than they had in its source.
        norm: Euclidean norm over all elements, decoded, accumulated in float64.
        tool_version: version of this package that wrote it.
        compression: how it was compressed, None when it is stored element by element.
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
    compression: Compression | None = None

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
            **({} if self.compression is None else {"compression": self.compression.to_json()}),
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
            compression=(Compression.from_json(value["compression"], where=where) if "compression" in value else None),
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
    if not _is_number(norm):
        wrong.append("norm")
    if not isinstance(tied, dict) or not all(isinstance(name, str) for name in tied.values()):
        wrong.append("tied")
    if value.get("dtype") not in list(StoredDtype):
        wrong.append("dtype")
    if wrong:
        raise VectorError(f"{where}: {wrong[0]} is {value.get(wrong[0])!r}", advice="extract the vector again")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
