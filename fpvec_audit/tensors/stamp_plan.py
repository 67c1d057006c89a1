"""What a stamp adds to which tensor, settled on headers before the first byte is written.

A vector of a base with tied head fits a target whose head was untied since: both copies get the same τ. A vector with a
head of its own does not fit a target that ties it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fpvec_audit.domain.checkpoint import Checkpoint
from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.domain.vector import Vocabulary, shared_elements
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.adapter import PeftAdapter, TensorChange, adapter_changes
from fpvec_audit.tensors.naming import NamedParameters, named_parameters
from fpvec_audit.tensors.rewrite import CarriedFiles, other_files
from fpvec_audit.tensors.staging import size_of
from fpvec_audit.tensors.vector_files import StoredVector, TensorFormat, tensor_formats


@dataclass(frozen=True, slots=True)
class ScaledVector:
    """A vector and how strongly it is added.

    Attributes:
        vector: the vector on disk.
        scale: λ, finite and not 0.
    """

    vector: StoredVector
    scale: float


@dataclass(frozen=True, slots=True)
class Part:
    """What one vector adds to one tensor.

    Attributes:
        vector: position of the vector in the stamp.
        name: its tensor.
        elements: how many elements, from the first on, are added to.
    """

    vector: int
    name: str
    elements: int


@dataclass(frozen=True, slots=True)
class StampPlan:
    """A stamp that was checked on headers and can be carried out.

    Attributes:
        target: the downstream model.
        vectors: what is added, in this order.
        names: parameters of the target.
        parts: canonical name → what is added to it, in the order of the vectors.
        roles: canonical name → role, of what is added to.
        others: files beside the tensors.
        merged: LoRA adapter that is merged into the target before vectors are added, None without.
        changes: canonical name → what that adapter makes of it.
    """

    target: Checkpoint
    vectors: tuple[ScaledVector, ...]
    names: NamedParameters
    parts: Mapping[str, tuple[Part, ...]]
    roles: Mapping[str, TensorRole]
    others: CarriedFiles
    merged: PeftAdapter | None = None
    changes: Mapping[str, TensorChange] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes that the stamped model will have on disk."""
        weights = {file: self.target.path / file for file in self.target.files}
        return size_of(weights) + size_of(self.others.carried)


def plan_stamp(
    target: Checkpoint,
    vectors: Sequence[ScaledVector],
    adapter: ArchitectureAdapter,
    *,
    vocabulary: Vocabulary = Vocabulary.REFUSE,
    skip: frozenset[TensorRole] = frozenset(),
    merged: PeftAdapter | None = None,
) -> StampPlan:
    """Match the tensors of vectors and target by canonical name.

    Args:
        target: the downstream model.
        vectors: what to add.
        adapter: architecture of the target.
        vocabulary: what to do where the numbers of rows differ.
        skip: roles whose tensors no vector is added to.
        merged: LoRA adapter of the target to merge into it.

    Raises:
        CheckpointError: names or ties of the target contradict each other, or the LoRA adapter cannot be merged.
        VectorError: a tensor is missing, extra or of another shape; it is named. Or nothing is left to stamp.
    """
    names = named_parameters(target, adapter)
    roles = {name: adapter.role(name) for name in names.parameters}
    parts: dict[str, list[Part]] = {}
    for position, scaled in enumerate(vectors):
        stored = tensor_formats(scaled.vector)
        tied = scaled.vector.description.tied
        _check_names(target, names, scaled.vector, stored)
        for name, spec in names.parameters.items():
            if spec.dtype.floating and roles[name] not in skip:
                tau = tied.get(name, name) if name not in stored else name
                shared = shared_elements(name, spec.shape, stored[tau][1], role=roles[name], vocabulary=vocabulary)
                parts.setdefault(name, []).append(Part(position, tau, shared))
    if not parts:
        raise VectorError(
            f"{target.path}: nothing is left to stamp when {', '.join(sorted(skip))} are skipped",
            advice="skip fewer roles",
        )
    return StampPlan(
        target,
        tuple(vectors),
        names,
        {name: tuple(items) for name, items in parts.items()},
        {name: roles[name] for name in parts},
        other_files(target),
        merged,
        adapter_changes(merged, target, names, adapter) if merged is not None else {},
    )


def _check_names(
    target: Checkpoint, names: NamedParameters, vector: StoredVector, stored: Mapping[str, TensorFormat]
) -> None:
    tied = vector.description.tied
    advice = f"stamp a model that was fine-tuned from the base of {vector.description.id}"
    for name, spec in names.parameters.items():
        if spec.dtype.floating and name not in stored and tied.get(name) not in stored:
            raise VectorError(f"{name}: {target.path} has it, the vector {vector.files.path} does not", advice=advice)
        if not spec.dtype.floating and name in stored:
            raise VectorError(f"{name}: {target.path} stores it as {spec.dtype.label}", advice=advice)
    for name in stored:
        if name in names.tied:
            raise VectorError(
                f"{name}: the vector has it apart from {names.tied[name]}, {target.path} ties the two",
                advice="save the model with tie_word_embeddings=False, with a copy of the head, and stamp that",
            )
        if name not in names.parameters:
            raise VectorError(f"{name}: the vector {vector.files.path} has it, {target.path} does not", advice=advice)
