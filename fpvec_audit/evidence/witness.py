"""Statements of witnesses and proofs of chance, verified: the same functions for those who make and who check them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fpvec_audit.domain.beacon import BeaconRound
from fpvec_audit.domain.keys import Commitment
from fpvec_audit.domain.witness import (
    COMMITMENT,
    STATEMENT_TYPE,
    WitnessSource,
    WitnessStatement,
    chance_of,
    chance_source,
)
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.signing import Envelope, PublicKey, SigningKey, sign_document, verify_envelope


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement whose signature was verified.

    Attributes:
        statement: what the witness says.
        envelope: as it was signed.
    """

    statement: WitnessStatement
    envelope: Envelope

    @property
    def chance(self) -> bytes:
        """SHA-256 of the signature, which nobody could know before: R of a key set, nonce of an audit."""
        return chance_of(self.envelope.signature)


@dataclass(frozen=True, slots=True)
class ProvenChance:
    """The chance behind an assignment, and what is known about when the commitment was made.

    Attributes:
        value: R, 32 bytes.
        statement: the witness's word whose signature gave R; None for a beacon.
        beacon: the round that R is, None for a witness. Its own signature is not verified.
    """

    value: bytes
    statement: SignedStatement | None
    beacon: BeaconRound | None

    @property
    def anchored(self) -> bool:
        """Whether somebody else's signature gave the chance after having been shown the commitment.

        A beacon does not anchor: nothing here shows that its round is genuine, nor that the commitment came before it.
        Who forges a round, or commits after it with a clock set back, could have tried many assignments.
        """
        return self.statement is not None


def sign_statement(statement: WitnessStatement, key: SigningKey) -> SignedStatement:
    """Sign a statement as the witness it names."""
    assert statement.witness == key.public_key.hex
    return SignedStatement(statement, sign_document(STATEMENT_TYPE, statement.to_json(), key))


def verify_statement(
    envelope_json: Any, *, signer: PublicKey | None = None, subject: str = "", digest: str = ""
) -> SignedStatement:
    """Return what a witness says after checking that it was said.

    Args:
        envelope_json: the signed envelope.
        signer: key the statement must be by; None takes the key it names itself, which anybody could have made.
        subject: what it must be about, empty for anything.
        digest: which one it must be about, hex; empty for any.

    Raises:
        EvidenceError: malformed, altered, by another key or about something else.
    """
    envelope = envelope_json if isinstance(envelope_json, Envelope) else Envelope.from_json(envelope_json)
    statement = WitnessStatement.from_json(envelope.document)
    verify_envelope(envelope, PublicKey.from_hex(statement.witness) if signer is None else signer, STATEMENT_TYPE)
    if signer is not None and statement.witness != signer.hex:
        raise EvidenceError(f"this statement names the witness {statement.witness[:16]}…, but another key signed it")
    if subject and statement.subject != subject:
        raise EvidenceError(f"this statement is about a {statement.subject}, not about a {subject}")
    if digest and statement.digest != digest:
        raise EvidenceError(
            f"this statement is about the {statement.subject} {statement.digest[:16]}…, not {digest[:16]}…"
        )
    return SignedStatement(statement, envelope)


def prove_chance(commitment: Commitment, proof: Mapping[str, Any] | None) -> ProvenChance | None:
    """Return the chance that a commitment was followed by; None for a self-attested set, which has none.

    Args:
        commitment: says where its chance had to come from.
        proof: ``{"source", "envelope"}`` for a witness, ``{"source", "beacon"}`` for a beacon.

    Raises:
        EvidenceError: the proof does not fit the commitment, or does not verify.
    """
    source = chance_source(commitment.chance_source)
    if source is None:
        if proof is not None:
            raise EvidenceError("this key set was committed without a source of chance, so none can be proven for it")
        return None
    if not isinstance(proof, dict) or proof.get("source") != commitment.chance_source:
        raise EvidenceError(f"the chance of this key set had to come from {commitment.chance_source}")
    if isinstance(source, WitnessSource):
        _refuse_other_fields(proof, {"source", "envelope"})
        signer = PublicKey.from_hex(source.witness)
        signed = verify_statement(proof["envelope"], signer=signer, subject=COMMITMENT, digest=commitment.digest)
        return ProvenChance(signed.chance, signed, None)
    _refuse_other_fields(proof, {"source", "beacon"})
    found = BeaconRound.from_json(proof["beacon"])
    if found.source != commitment.chance_source:
        raise EvidenceError(f"this is round {found.round} of {found.chain[:16]}…, not {commitment.chance_source}")
    return ProvenChance(found.randomness, None, found)


def _refuse_other_fields(proof: Mapping[str, Any], needed: set[str]) -> None:
    if proof.keys() != needed:
        raise EvidenceError(
            f"a proof of chance from this source has {', '.join(sorted(needed))}, not {', '.join(sorted(proof))}"
        )
