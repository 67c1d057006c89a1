"""Use case: an auditor records an audit that somebody handed over as a bundle, after verifying it.

Nothing is taken from the registry that made the bundle, and nothing here needs a master key. The bundle itself is not
kept, as it opens candidates: what is kept is its digest and what verifying it found.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.records import RecordedAudit
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.bundle import EVIDENCE_TYPE, Evidence, read_bundle
from fpvec_audit.evidence.signing import Envelope
from fpvec_audit.evidence.strict_json import Value, parse_canonical
from fpvec_audit.evidence.verify import Verification, read_anchor, read_signer, verify_evidence

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

FROM_VERIFIER, FROM_BUNDLE = "verifier", "bundle"
"""Where the key that a bundle was verified with was had from."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What recording a bundle came to.

    Attributes:
        record: what the registry holds of it.
        new: whether it was recorded just now.
        verification: what verifying it found.
    """

    record: RecordedAudit
    new: bool
    verification: Verification

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        warnings = []
        if self.record.key_from == FROM_BUNDLE:
            warnings.append(
                f"the signer {self.record.signer} is the one that the bundle names itself: get the key from the owner "
                "and record the bundle again with --signer"
            )
        return recorded_json(self.record) | {
            "new": self.new,
            "not_recomputed": list(self.verification.not_recomputed),
            "does_not_prove": list(self.verification.does_not_prove),
            "warnings": warnings,
        }


def record_bundle(
    file: Path, *, registry: "Registry", signer: str | None = None, anchors: Sequence[Path] = ()
) -> Recording:
    """Verify a bundle and record what it says; once, however often it is asked for.

    Args:
        file: the bundle.
        registry: where it is recorded.
        signer: public key that must have signed it, as hex or as the path of its file; None believes the bundle.
        anchors: files with witnesses' public keys or signed statements, had from the witnesses themselves.

    Raises:
        EvidenceError: the bundle does not verify, or a file cannot be read.
        RegistryError: the registry cannot be written.
    """
    pinned = None if signer is None else read_signer(signer)
    content = read_bundle(file)
    verification = verify_evidence(content, signer=pinned, anchors=[read_anchor(path) for path in anchors])
    if not verification.valid:
        raise EvidenceError(
            f"{file} does not verify and is not recorded: {'; '.join(verification.problems)}",
            advice="`fpvec evidence verify` shows every check; get the bundle again from whoever signed it",
        )
    record = _record(content, verification, file=file, pinned=pinned is not None, registry=registry)
    with registry.unit_of_work() as uow:
        known = uow.recorded_audits.find(record.id)
        if known is None:
            uow.recorded_audits.add(record)
    return Recording(known or record, known is None, verification)


def list_recorded(*, registry: "Registry") -> tuple[RecordedAudit, ...]:
    """Return the audits that were handed over and recorded, oldest first."""
    with registry.snapshot() as uow:
        return uow.recorded_audits.list()


def recorded_json(record: RecordedAudit) -> dict[str, Any]:
    """Return the JSON object of a recorded audit that scripts read."""
    return asdict(record) | {"recorded_at": record.recorded_at.isoformat()}


def _record(
    content: bytes, verification: Verification, *, file: Path, pinned: bool, registry: "Registry"
) -> RecordedAudit:
    evidence = _evidence(content)
    bundle, plan = sha256(content).hexdigest(), evidence.plan
    key_from = FROM_VERIFIER if pinned else FROM_BUNDLE
    found = [bundle, evidence.signer, key_from, verification.order]
    return RecordedAudit(
        id=f"ra-{canonical_digest(found)[:16]}",
        bundle=bundle,
        audit=f"au-{plan.digest[:16]}",
        key_set=_shown(plan.key_set),
        commitment=evidence.commitment.digest,
        suspect=_shown(plan.suspect["location"]),
        suspect_digest=_shown(plan.suspect["digest"]),
        verdict=verification.verdict,
        alpha=verification.alpha,
        grade=verification.grade,
        signer=evidence.signer,
        key_from=key_from,
        ordering=verification.order,
        location=_shown(str(file)),
        recorded_at=registry.clock(),
        recorded_by=registry.actor,
    )


def _evidence(content: bytes) -> Evidence:
    envelope = Envelope.from_json(parse_canonical(content, name="the bundle"))
    assert envelope.payload_type == EVIDENCE_TYPE
    return Evidence.from_json(Value(parse_canonical(envelope.payload, name="the payload"), "payload"))


def _shown(text: str) -> str:
    """Return a stranger's text in characters that print and that every database takes."""
    return text if text.isprintable() else ascii(text)[1:-1]
