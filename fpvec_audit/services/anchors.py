"""Use case: publish where the history stands, and hold the history against what was published.

Whoever owns the database can cut the ledger's tail together with the rows it tells of, and nothing inside shows it. An
anchor is the head of the ledger in a signed file that lies elsewhere, or in a witness's log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.ledger_anchor import (
    ANCHOR_TYPE,
    LedgerAnchor,
    anchored_name,
    registry_in_name,
)
from fpvec_audit.domain.witness import LEDGER_HEAD, STATEMENT_TYPE, WitnessRequest
from fpvec_audit.errors import EvidenceError, RegistryError

if TYPE_CHECKING:
    from fpvec_audit.evidence.signing import PublicKey, SigningKey
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork


@dataclass(frozen=True, slots=True)
class PublishedAnchor:
    """An anchor that was made.

    Attributes:
        anchor: what it says.
        envelope: signed, as it is published.
        out: file it was written to, None for none.
        request: file of the request for a witness, None for none.
    """

    anchor: LedgerAnchor
    envelope: dict[str, Any]
    out: Path | None
    request: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        shown = {name: value for name, value in self.anchor.to_json().items() if name != "schema"}
        shown["out"] = None if self.out is None else str(self.out)
        shown["request"] = None if self.request is None else str(self.request)
        return shown | {"envelope": self.envelope}


@dataclass(frozen=True, slots=True)
class HeldAnchor:
    """What holding a history against an anchor found.

    Attributes:
        file: the anchor's.
        digest: the entry's that it names.
        serial: the entry's, None where a witness's word names no entry that is here.
        time: when it was signed.
        signer: public key that signed it, hex.
        pinned: whether that key was given by whoever verifies.
        problem: what does not fit, in a sentence; empty when the history before it is unchanged.
    """

    file: Path
    digest: str
    serial: int | None
    time: str
    signer: str
    pinned: bool
    problem: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "file": str(self.file),
            "valid": not self.problem,
            "serial": self.serial,
            "digest": self.digest,
            "time": self.time,
            "signer": self.signer,
            "signer_pinned": self.pinned,
        }


@dataclass(frozen=True, slots=True)
class ReadAnchor:
    """A file whose signature fits.

    Attributes:
        file: where it lies.
        registry: id of the registry it is about; None where a witness was not told.
        serial: of the entry; None in a witness's word, which names the digest alone.
        digest: of the entry.
        time: when it was signed.
        signer: public key that signed it, hex.
        pinned: whether that key was given by whoever verifies.
    """

    file: Path
    registry: str | None
    serial: int | None
    digest: str
    time: str
    signer: str
    pinned: bool


def publish_anchor(
    *, registry: "Registry", key: "SigningKey", out: Path | None = None, request: Path | None = None
) -> PublishedAnchor:
    """Sign where the history stands now.

    Args:
        registry: whose history.
        key: the owner's.
        out: file for the signed anchor, None for none.
        request: file for what a witness is asked to sign (`fpvec witness sign`), None for none.

    Raises:
        RegistryError: there is no history yet.
        EvidenceError: a file exists with something else in it, or cannot be written.
    """
    from fpvec_audit.evidence.documents import write_document
    from fpvec_audit.evidence.signing import sign_document
    from fpvec_audit.registry.ledger import time_text

    with registry.snapshot() as uow:
        head, identifier = uow.ledger.head(), registry_id(uow)
    if head is None:
        raise RegistryError(
            f"the registry {registry.where} has no history yet", advice="record something first, then anchor it"
        )
    anchor = LedgerAnchor(identifier, head.serial, head.digest, time_text(registry.clock()), key.public_key.hex)
    envelope = sign_document(ANCHOR_TYPE, anchor.to_json(), key).to_json()
    if out is not None:
        write_document(out, envelope, "ledger anchor")
    if request is not None:
        asked = WitnessRequest(LEDGER_HEAD, head.digest, anchored_name(identifier, head.serial), head.serial)
        write_document(request, asked.to_json(), "witness request")
    return PublishedAnchor(anchor, envelope, out, request)


def read_anchors(files: Sequence[Path], *, signer: "PublicKey | None" = None) -> tuple[ReadAnchor, ...]:
    """Read anchors, an owner's or a witness's, and check their signatures.

    Args:
        files: where they lie.
        signer: key they must be by; None believes the keys that they name themselves.

    Raises:
        EvidenceError: a file cannot be read, is no anchor, or its signature does not fit.
    """
    return tuple(_read(file, signer) for file in files)


def hold_against(uow: "UnitOfWork", anchors: Sequence[ReadAnchor]) -> tuple[HeldAnchor, ...]:
    """Say of every anchor whether the history before it is unchanged, for a chain that fits.

    Raises:
        EvidenceError: an anchor is about another registry.
    """
    identifier = registry_id(uow)
    for anchor in anchors:
        if anchor.registry not in (None, identifier):
            raise EvidenceError(
                f"{anchor.file} anchors the registry {anchor.registry}, this one is {identifier}",
                advice="verify the registry that it was made of, or give this one's anchor",
            )
    return tuple(_held(uow, anchor) for anchor in anchors)


def _read(file: Path, signer: "PublicKey | None") -> ReadAnchor:
    from fpvec_audit.evidence.documents import read_document
    from fpvec_audit.evidence.signing import Envelope, PublicKey, verify_envelope
    from fpvec_audit.evidence.witness import verify_statement

    try:
        envelope = Envelope.from_json(read_document(file, "ledger anchor"))
        if envelope.payload_type == STATEMENT_TYPE:
            said = verify_statement(envelope, signer=signer, subject=LEDGER_HEAD).statement
            registry = registry_in_name(said.name)
            return ReadAnchor(file, registry, None, said.digest, said.time, said.witness, signer is not None)
        anchor = LedgerAnchor.from_json(envelope.document)
        verify_envelope(envelope, signer or PublicKey.from_hex(anchor.signer), ANCHOR_TYPE)
        if signer is not None and anchor.signer != signer.hex:
            raise EvidenceError(f"it names the signer {anchor.signer[:16]}…, but another key signed it")
    except EvidenceError as error:
        shown = error.problem if str(file) in error.problem else f"{file}: {error.problem}"
        raise EvidenceError(shown, advice=error.advice or "get the anchor again from where it is published") from error
    return ReadAnchor(
        file, anchor.registry, anchor.serial, anchor.digest, anchor.time, anchor.signer, signer is not None
    )


def _held(uow: "UnitOfWork", anchor: ReadAnchor) -> HeldAnchor:
    serial, problem = anchor.serial, ""
    head = uow.ledger.head()
    last = 0 if head is None else head.serial
    if serial is None:
        serial = uow.ledger.serial_of(anchor.digest)
        if serial is None:
            problem = (
                f"{anchor.file}: no entry of the ledger has the digest {anchor.digest[:16]}… that the witness was "
                f"shown at {anchor.time}: history before it was changed or cut off, or is another registry's"
            )
    elif serial > last:
        problem = f"{anchor.file}: the ledger ends with entry {last}, but had entry {serial} at {anchor.time}"
    else:
        (entry,) = uow.ledger.entries(after=serial - 1, limit=1)
        if (entry.serial, entry.digest) != (serial, anchor.digest):
            problem = f"{anchor.file}: ledger entry {serial} is not the one that was anchored at {anchor.time}"
    return HeldAnchor(anchor.file, anchor.digest, serial, anchor.time, anchor.signer, anchor.pinned, problem)


def registry_id(uow: "UnitOfWork") -> str:
    """Return the id that a registry was given when it was made.

    Raises:
        RegistryError: it has none.
    """
    from fpvec_audit.registry.tables import FactRow

    fact = uow.session.get(FactRow, "id")
    if fact is None:
        raise RegistryError("the registry does not know its own id", advice="restore it from a backup")
    return fact.value
