"""What was digested before and has not changed since: reading the bytes again would give the same digest.

Used where an owner works with the owner's own files, to add the same vector to the tenth model without hashing it the
tenth time. Never used for a suspect, for ``model verify``, or for anything that becomes evidence.
"""

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fpvec_audit.domain.manifest import Manifest

if TYPE_CHECKING:
    from fpvec_audit.domain.checkpoint import Checkpoint
    from fpvec_audit.registry.unit_of_work import UnitOfWork
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


def look_at(checkpoint: "Checkpoint", taken_for: str) -> DigestedFiles:
    """Return files as they are now.

    Raises:
        CheckpointError: one is gone.
    """
    from fpvec_audit.tensors.file_state import file_state

    state = file_state(checkpoint, machine=socket.gethostname(), taken_for=taken_for)
    return DigestedFiles(checkpoint, taken_for, state)
