"""What was digested before and has not changed since: reading the bytes again would give the same digest.

Used where an owner works with the owner's own files, to add the same vector to the tenth model without hashing it the
tenth time. Never used for a suspect, for ``model verify``, or for anything that becomes evidence.
"""

import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fpvec_audit.domain.manifest import Manifest

if TYPE_CHECKING:
    from fpvec_audit.domain.checkpoint import Checkpoint
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork
    from fpvec_audit.services.stamp_orders import StampOrder
    from fpvec_audit.tensors.file_state import FileState

VECTOR = "vector"
"""Stands for the adapter where the files are a vector's."""


@dataclass(frozen=True, slots=True)
class DigestedFiles:
    """Files before they are read.

    Attributes:
        checkpoint: what they are.
        taken_for: name of the adapter, or ``VECTOR``.
        state: inodes, sizes and times.
    """

    checkpoint: "Checkpoint"
    taken_for: str
    state: "FileState"

    def known_digest(self, uow: "UnitOfWork") -> str | None:
        """Return the digest that these files gave before, None if they are new or changed."""
        return uow.models.digest_of_files(self.state.digest) if self.state.settled else None

    def known_manifest(self, uow: "UnitOfWork") -> Manifest | None:
        """Return the tensors that these files had before, by digest, None if they are new, changed or not recorded."""
        digest = self.known_digest(uow)
        return None if digest is None else uow.models.manifest(digest)

    def remember(self, uow: "UnitOfWork", digest: str) -> None:
        """Keep what the files gave, if they are still in the state in which reading them began."""
        if self.state.settled and look_at(self.checkpoint, self.taken_for).state.digest == self.state.digest:
            uow.models.remember_files(self.state.digest, digest)


def look_at(checkpoint: "Checkpoint", taken_for: str, *, own: bool = False) -> DigestedFiles:
    """Return files as they are now.

    Args:
        checkpoint: the files.
        taken_for: name of the adapter, or ``VECTOR``.
        own: whether this process wrote them just now.

    Raises:
        CheckpointError: one is gone.
    """
    from fpvec_audit.tensors.file_state import file_state

    state = file_state(checkpoint, machine=socket.gethostname(), taken_for=taken_for, own=own)
    return DigestedFiles(checkpoint, taken_for, state)


def known_tensors(
    uow: "UnitOfWork", files: Sequence[DigestedFiles], names: Sequence[Collection[str]]
) -> tuple[Manifest | None, ...]:
    """Return the tensors of models by digest, None of each that is new, changed, or has other tensors than expected.

    Args:
        uow: the transaction.
        files: the models' files.
        names: for each, the canonical names of its parameters.
    """
    found = (item.known_manifest(uow) for item in files)
    return tuple(
        manifest if manifest is not None and _names(manifest) == set(expected) else None
        for manifest, expected in zip(found, names, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Inputs:
    """What stamps read: vectors and downstream models, and what is known of them.

    Attributes:
        vectors: the vectors' files, by id.
        digests: the vectors' digests, by id.
        checked: ids of the vectors that were found to be what they say, and have not changed.
        targets: the downstream models' files, one per stamp.
        manifests: their tensors by digest, None for those that are new or changed.
    """

    vectors: Mapping[str, DigestedFiles]
    digests: Mapping[str, str]
    checked: frozenset[str]
    targets: tuple[DigestedFiles, ...]
    manifests: tuple[Manifest | None, ...]

    @classmethod
    def look_at(cls, orders: "Sequence[StampOrder]", *, registry: "Registry", reread: bool) -> "Inputs":
        """Look at what stamps are about to read.

        Args:
            orders: the stamps.
            registry: where it is recorded what files were digested to.
            reread: believe nothing.
        """
        found = {item.vector.description.id: item.vector for order in orders for item in order.plan.vectors}
        vectors = {name: look_at(vector.files, VECTOR) for name, vector in found.items()}
        digests = {name: vector.description.digest for name, vector in found.items()}
        targets = tuple(look_at(order.plan.target, order.adapter.name) for order in orders)
        if reread:
            return cls(vectors, digests, frozenset(), targets, (None,) * len(targets))
        with registry.unit_of_work() as uow:
            checked = {name for name, files in vectors.items() if files.known_digest(uow) == digests[name]}
            manifests = known_tensors(uow, targets, [order.plan.names.parameters for order in orders])
        return cls(vectors, digests, frozenset(checked), targets, manifests)

    def remember(self, uow: "UnitOfWork", digests: Sequence[str]) -> None:
        """Keep what everything was digested to.

        Args:
            uow: the transaction.
            digests: canonical digests of the downstream models, in the order of the stamps.
        """
        for name, files in self.vectors.items():
            if name not in self.checked:
                files.remember(uow, self.digests[name])
        for files, digest in zip(self.targets, digests, strict=True):
            files.remember(uow, digest)


def _names(manifest: Manifest) -> set[str]:
    return {tensor.name for tensor in manifest.tensors}
