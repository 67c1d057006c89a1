"""Use case: hand the evidence of a finished audit to somebody who does not trust its owner, or check such evidence.

What goes into a bundle comes from the registry, and the registry is not believed either: the result is recomputed, and
the bundle is verified as a stranger would before a byte of it is written. A disclosure is recorded before it happens:
the secret's reveal, the bundle's digest, and the candidates that are known to others from then on.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit import __version__
from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import KeySet, KeySetSecret, restore_key_set
from fpvec_audit.domain.witness import NO_CHANCE
from fpvec_audit.errors import EvidenceError, FpvecError, UsageError
from fpvec_audit.evidence.bundle import (
    Evidence,
    SecretDisclosure,
    asked_candidates,
    read_bundle,
    sign_evidence,
    write_bundle,
)
from fpvec_audit.evidence.signing import PublicKey, SigningKey
from fpvec_audit.evidence.statement import build_statement
from fpvec_audit.evidence.verify import SELF_ASSERTED, Verification, read_anchor, read_signer, verify_evidence
from fpvec_audit.services.finished_audits import RESTORE, FinishedAudit, finished_audit
from fpvec_audit.services.named_words import named_words

if TYPE_CHECKING:
    from fpvec_audit.domain.family_terms import OpenedWord
    from fpvec_audit.domain.records import LedgerEntry
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

KEY_FILE, PUBLIC_FILE = "signing.key", "signing.pub"
EXPORTED_EVENT = "evidence.exported"
TRACE_PREFIX = "tr-"


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """The key with which an owner signs bundles.

    Attributes:
        key: the private key.
        file: where it lies.
        made: whether it was made just now.
    """

    key: SigningKey
    file: Path
    made: bool


@dataclass(frozen=True, slots=True)
class ExportedEvidence:
    """A bundle that was written.

    Attributes:
        out: its file.
        size: its bytes.
        digest: SHA-256 of the file, hex.
        audit_id: whose evidence it is.
        evidence: what it says.
        verification: what verifying it found, the signer pinned.
        warnings: what the owner should know about having written it, in sentences.
    """

    out: Path
    size: int
    digest: str
    audit_id: str
    evidence: Evidence
    verification: Verification
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read; it holds no key."""
        disclosed = self.evidence.disclosure
        whole = isinstance(disclosed, SecretDisclosure)
        return {
            "out": str(self.out),
            "bytes": self.size,
            "digest": self.digest,
            "audit_id": self.audit_id,
            "verdict": self.verification.verdict,
            "grade": self.verification.grade,
            "order": self.verification.order,
            "signer": self.evidence.signer,
            "accusation": self.verification.accusation or None,
            "named": [item["licensee"] for item in self.verification.named],
            "disclosed": "secret" if whole else "openings",
            "candidates": self.evidence.commitment.candidates if whole else len(_opened(self.evidence)),
            "ledger_entries": len(self.evidence.earlier) + len(self.evidence.segment),
            "warnings": list(self.warnings),
            "not_recomputed": list(self.verification.not_recomputed),
            "does_not_prove": list(self.verification.does_not_prove),
        }


def owner_key(home: Path, file: Path | None = None) -> OwnerKey:
    """Return the key that signs bundles; the home's own is made on first use, with its public half beside it.

    Args:
        home: directory of the registry.
        file: another key to use; it must be there.

    Raises:
        EvidenceError: it cannot be read, can be read by others, or cannot be made.
    """
    path = home / KEY_FILE if file is None else file
    if file is not None or path.exists() or path.is_symlink():
        return OwnerKey(SigningKey.load(path), path, made=False)
    key = SigningKey.generate()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EvidenceError(f"{home} cannot be made: {error.strerror}", advice="use --signing-key FILE") from error
    key.save(path)
    if not (home / PUBLIC_FILE).exists():
        key.public_key.save(home / PUBLIC_FILE)
    return OwnerKey(key, path, made=True)


def known_owner(home: Path) -> PublicKey | None:
    """Return the public half of the home's own signing key, None where there is none yet."""
    path = home / KEY_FILE
    return SigningKey.load(path).public_key if path.exists() else None


def export_evidence(
    reference: str,
    out: Path,
    *,
    registry: "Registry",
    key: SigningKey,
    anchors: Sequence[Path] = (),
    disclose_secret: bool = False,
) -> ExportedEvidence:
    """Write the evidence of a finished audit to a new file, signed, after verifying it as a stranger would.

    Args:
        reference: id of the audit, or the beginning of one; of a trace, where one family with licensees was traced.
        out: the file.
        registry: where audit, key set and ledger are.
        key: signs the bundle.
        anchors: files with witnesses' signed statements over entries of the ledger.
        disclose_secret: agreement to open the whole secret of a key set that nobody else vouches for.

    Raises:
        UnknownNameError: there is no such audit.
        UsageError: the key set's secret would be opened without agreement, or an anchor is no signed statement.
        EvidenceError: the audit is not finished, the registry contradicts itself, the evidence would not verify, or
            the file exists or cannot be written.
    """
    found, statements = _asked_for(reference, out, registry=registry, anchors=anchors, disclose_secret=disclose_secret)
    key_set, secret = _revealed(found, registry)
    words, told = named_words(found, key_set, secret, registry)
    evidence = _built(found, key_set, secret, key, statements, words=words, told=told)
    envelope = sign_evidence(evidence, key)
    content = canonical_bytes(envelope.to_json())
    verification = verify_evidence(content, signer=key.public_key)
    if not verification.valid:
        raise EvidenceError(
            f"the evidence of audit {found.audit.id} would not verify: {'; '.join(verification.problems)}",
            advice="this registry was altered, or this is a bug: run `fpvec registry verify` and restore a backup",
        )
    digest = sha256(content).hexdigest()
    _record_disclosure(found, evidence, digest, registry)
    write_bundle(out, envelope)
    return ExportedEvidence(
        out, len(content), digest, found.audit.id, evidence, verification, _warnings(found, evidence, verification)
    )


def refuse_export(
    reference: str, out: Path, *, registry: "Registry", anchors: Sequence[Path] = (), disclose_secret: bool = False
) -> None:
    """Refuse what :func:`export_evidence` would refuse for what is asked for, before there is a key to sign with.

    Args:
        reference: id of the audit, or the beginning of one; of a trace, where one family with licensees was traced.
        out: the file.
        registry: where audit, key set and ledger are.
        anchors: files with witnesses' signed statements over entries of the ledger.
        disclose_secret: agreement to open the whole secret of a key set that nobody else vouches for.

    Raises:
        UnknownNameError: there is no such audit.
        UsageError: the key set's secret would be opened without agreement, or an anchor is no signed statement.
        EvidenceError: the audit is not finished, or the file exists.
    """
    _asked_for(reference, out, registry=registry, anchors=anchors, disclose_secret=disclose_secret)


def _asked_for(
    reference: str, out: Path, *, registry: "Registry", anchors: Sequence[Path], disclose_secret: bool
) -> "tuple[FinishedAudit, list[Mapping[str, Any]]]":
    statements = [_statement(path) for path in anchors]
    if out.exists() or out.is_symlink():
        raise EvidenceError(f"{out} exists already", advice="name another file for the evidence bundle")
    with registry.unit_of_work() as uow:
        found = finished_audit(uow, _audit_of(uow, reference))
        if found.key_set.commitment.chance_source == NO_CHANCE and not disclose_secret:
            raise UsageError(  # inside, so that nothing was read where nothing is given out
                f"nobody but its owner vouches for key set {found.key_set.name!r}: it can only be verified by its "
                "whole secret, and whoever reads the bundle will know every key",
                advice="add --disclose-secret, and issue a new key set for further audits",
            )
    return found, statements


def verify_bundle(file: Path, *, signer: str | None = None, anchors: Sequence[Path] = ()) -> Verification:
    """Verify a bundle in a file, offline and without a registry.

    Args:
        file: the bundle.
        signer: public key that must have signed it, as hex or as the path of its file; None believes the bundle.
        anchors: files with witnesses' public keys or signed statements, had from the witnesses themselves.

    Raises:
        EvidenceError: a file cannot be read, or ``signer`` is no public key.
    """
    pinned = None if signer is None else read_signer(signer)
    return verify_evidence(read_bundle(file), signer=pinned, anchors=[read_anchor(path) for path in anchors])


def _audit_of(uow: "UnitOfWork", reference: str) -> str:
    """Return the audit that a bundle is about: of a trace, that of the family whose licensees it names.

    Raises:
        UnknownNameError: there is no such trace.
        UsageError: it was about several families, or about none with licensees.
    """
    if not reference.startswith(TRACE_PREFIX):
        return reference
    audits = uow.audits.of_trace(reference)
    families = [audit.id for audit in audits if audit.plan.get("family") is not None]
    chosen = families or [audit.id for audit in audits]
    if len(chosen) == 1:
        return chosen[0]
    raise UsageError(
        f"trace {reference} is about {len(chosen)} {'families' if families else 'key sets'}, and a bundle is about one",
        advice=f"export one of its audits: {', '.join(chosen[:10])}",
    )


def _statement(path: Path) -> Mapping[str, Any]:
    anchor = read_anchor(path)
    if isinstance(anchor, PublicKey):
        raise UsageError(
            f"{path} is a public key, not a statement that a witness signed",
            advice="give the signed statement here, and the key to whoever verifies",
        )
    return anchor


def _revealed(found: FinishedAudit, registry: "Registry") -> tuple[KeySet, KeySetSecret]:
    with registry.unit_of_work() as uow:
        secret = uow.vault.reveal(found.key_set.id, purpose=f"evidence of {found.audit.id}")
    chance = bytes.fromhex(found.key_set.chance)
    return restore_key_set(secret, found.key_set.commitment, chance=chance), secret


def _built(
    found: FinishedAudit,
    key_set: KeySet,
    secret: KeySetSecret,
    key: SigningKey,
    anchors: Sequence[Mapping[str, Any]],
    *,
    words: "Sequence[OpenedWord]",
    told: "Sequence[LedgerEntry]",
) -> Evidence:
    try:
        return build_statement(
            key_set=key_set,
            secret=secret,
            chance=found.chance,
            plan=found.plan,
            begin=found.begin,
            records=found.records,
            earlier=sorted((*found.earlier, *told), key=lambda entry: entry.serial),
            segment=found.segment,
            positive_control=found.audit.verdict == Verdict.NO_MATCH,  # no other verdict rests on one
            signer=key.public_key,
            burns=found.burns,
            examiner=found.examiner,
            anchors=anchors,
            versions=_versions(),
            words=words,
        )
    except FpvecError as error:
        raise EvidenceError(
            f"audit {found.audit.id} cannot be recomputed from the registry: {error.problem}", advice=RESTORE
        ) from error


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {
        "fpvec-audit": __version__,
        "python": platform.python_version(),
        "cryptography": version("cryptography"),
    }


def _opened(evidence: Evidence) -> tuple[int, ...]:
    """Return the candidates whose texts a bundle shows."""
    if isinstance(evidence.disclosure, SecretDisclosure):
        return tuple(range(evidence.commitment.candidates))
    return asked_candidates(evidence.records)


def _record_disclosure(found: FinishedAudit, evidence: Evidence, digest: str, registry: "Registry") -> None:
    """Record that a bundle is about to be written, and which candidates others may know from it."""
    opened = _opened(evidence)
    with registry.unit_of_work() as uow:
        uow.key_sets.burn(found.key_set.id, opened, where=found.audit.id)
        uow.ledger.append(
            EXPORTED_EVENT,
            found.audit.id,
            {
                "bundle": digest,
                "signer": evidence.signer,
                "disclosed": evidence.disclosure.to_json()["kind"],
                "candidates": len(opened),
            },
        )


def _word_warning(evidence: Evidence, licensees: int) -> str:
    """Return what a bundle about a family gives away about its licensees' copies."""
    if isinstance(evidence.disclosure, SecretDisclosure):
        return (
            f"the secret gives the words of all {licensees} licensees by their numbers, named or not: whoever reads "
            "the bundle can tell and silence the marks of every copy; names of others can be confirmed by guessing, as "
            "it gives the salts too; only a family with a witness is opened in part"
        )
    return (
        f"the words of {len(evidence.words)} of {licensees} licensees are opened with their names; the others' stay "
        "sealed, but who knows the keys and can ask a copy reads its marks"
    )


def _warnings(found: FinishedAudit, evidence: Evidence, verification: Verification) -> tuple[str, ...]:
    name, plan = found.key_set.name, found.plan
    warnings = []
    if isinstance(evidence.disclosure, SecretDisclosure):
        warnings.append(
            f"the bundle opens the whole secret of key set {name!r}: whoever reads it knows every key, so the set is "
            "spent for further audits of endpoints"
        )
    else:
        warnings.append(
            f"the bundle opens {len(_opened(evidence))} candidates of key set {name!r} with their responses: they are "
            "marked as burnt"
        )
    if plan.family is not None:
        warnings.append(_word_warning(evidence, plan.family.licensees))
    if not plan.committed_profile:
        warnings.append(
            f"exploratory: {plan.profile}/{plan.match.value} is no committed profile, so this audit could not have "
            "given a MATCH"
        )
    if plan.comparisons > 1:
        warnings.append(f"one of {plan.comparisons} key sets that were tested together: every p is corrected for it")
    if others := sum(entry.subject != found.audit.id for entry in found.segment):
        warnings.append(
            f"{others} ledger entries about other things stand between plan and result and are in the bundle, as a "
            "segment has no gaps: read them before you hand it over"
        )
    if verification.order == SELF_ASSERTED:
        warnings.append("the order of plan, questions and result is your word: no witness signed plan or ledger")
    return tuple(warnings)
