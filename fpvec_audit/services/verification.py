"""Use case: hold a registry against its own history, and its history against what was published of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.services.anchors import HeldAnchor, ReadAnchor, hold_against, read_anchors
from fpvec_audit.services.registry import entry_json

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.registry.verification import Verification


@dataclass(frozen=True, slots=True)
class RegistryVerification:
    """What verifying a registry found.

    Attributes:
        found: what holding it against its history found.
        anchors: what holding its history against anchors found.
    """

    found: "Verification"
    anchors: tuple[HeldAnchor, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether everything fits."""
        return self.fault is None and not self.problems

    @property
    def entries(self) -> int:
        """Serial of the ledger's last entry, or of the first that does not fit."""
        return self.found.entries

    @property
    def head(self) -> str:
        """Digest of the last entry; empty when there is none or one does not fit."""
        return self.found.head

    @property
    def fault(self) -> LedgerEntry | None:
        """The first entry that does not continue the history, None when all do."""
        return self.found.fault

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not fit, in sentences."""
        further = (f"{self.found.unnamed} further problems are not listed",) if self.found.unnamed else ()
        return (*self.found.problems, *further, *(held.problem for held in self.anchors if held.problem))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing and no fault, in sentences."""
        unpinned = "an anchor was held against the key that it names itself: give --signer to know whose it is"
        return (*self.found.notes, *((unpinned,) if any(not held.pinned for held in self.anchors) else ()))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "valid": self.valid,
            "entries": self.entries,
            "head": self.head,
            "first_fault": None if self.fault is None else entry_json(self.fault),
            "rows": dict(self.found.rows),
            "anchors": [held.to_json() for held in self.anchors],
            "problems": list(self.problems),
            "warnings": list(self.notes),
        }


def verify_registry(
    *, registry: "Registry", anchors: Sequence[Path] = (), signer: str | None = None
) -> RegistryVerification:
    """Check a registry as it is at one moment, while others may go on writing.

    Args:
        registry: which.
        anchors: files of anchors, an owner's or a witness's.
        signer: public key that must have signed them, as file or 64 hexadecimal digits; None believes the keys that
            they name themselves.

    Raises:
        EvidenceError: an anchor cannot be read, does not verify or is about another registry.
        RegistryError: the registry is out of reach.
    """
    from fpvec_audit.registry.verification import verify_snapshot

    published: tuple[ReadAnchor, ...] = ()
    if anchors:
        from fpvec_audit.evidence.verify import read_signer

        published = read_anchors(anchors, signer=None if signer is None else read_signer(signer))
    with registry.snapshot() as uow:
        held = hold_against(uow, published) if published else ()
        return RegistryVerification(verify_snapshot(uow), held)
