"""The evidence of one audit as a value, and as the one signed file that anybody can check.

A bundle holds what a stranger needs to recompute the verdict: what was committed, where chance came from, the plan,
what chance decided afterwards, every record of the transcript, the ledger's entries and the openings of the candidates
that were asked. Candidates that were not asked stay sealed, except in a self-attested set, whose whole secret is
opened: nobody else vouches for how it was drawn.

Round-trip law: ``Evidence.from_json(Value(evidence.to_json(), "payload")) == evidence``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpvec_audit.domain.audit_plan import AuditPlan, Begin, question_order
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.family_terms import OpenedWord
from fpvec_audit.domain.keys import Commitment, KeySet, KeySetSecret, Opening, leaf_digest
from fpvec_audit.domain.merkle import merkle_paths
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.domain.transcript import Record, answers
from fpvec_audit.domain.witness import NO_CHANCE
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence import forms
from fpvec_audit.evidence.documents import read_bytes, write_new
from fpvec_audit.evidence.signing import Envelope, PublicKey, SigningKey, sign_document
from fpvec_audit.evidence.strict_json import MOST_BYTES, Value

EVIDENCE_SCHEMA = "fpvec-audit/evidence/1"
EVIDENCE_TYPE = "application/vnd.fpvec-audit.evidence+json"
MOST_BURNS = 1000
MOST_WORDS = 2**12


@dataclass(frozen=True, slots=True)
class SecretDisclosure:
    """The whole key set, by its secret.

    Attributes:
        secret: its 32 bytes.
    """

    secret: bytes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object in the bundle."""
        return {"kind": "secret", "secret": self.secret.hex()}


@dataclass(frozen=True, slots=True)
class OpeningsDisclosure:
    """The candidates that were asked, each with the proof that it was committed; the others stay sealed.

    Attributes:
        assignment_key: sub-key that drives the assignment; it tells nothing about the candidates' texts.
        openings: in index order.
    """

    assignment_key: bytes = field(repr=False)
    openings: tuple[Opening, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object in the bundle."""
        return {
            "kind": "openings",
            "assignment_key": self.assignment_key.hex(),
            "candidates": [
                {
                    "index": opening.candidate.index,
                    "prompt": opening.candidate.prompt,
                    "response": opening.candidate.response,
                    "salt": opening.salt.hex(),
                    "path": [digest.hex() for digest in opening.path],
                }
                for opening in self.openings
            ],
        }


Disclosure = SecretDisclosure | OpeningsDisclosure


@dataclass(frozen=True, slots=True)
class Burn:
    """An earlier audit that showed candidates to somebody, so that this one leaves them out.

    Which candidates it showed is not for the owner to choose: they stand first in the order that its own plan and
    nonce give.

    Attributes:
        plan: the earlier audit's plan.
        begin: what chance decided after it.
        asked: how many candidates of its order were sent.
    """

    plan: AuditPlan
    begin: Begin
    asked: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object in the bundle."""
        return {"plan": self.plan.to_json(), "begin": self.begin.to_json(), "asked": self.asked}

    @property
    def candidates(self) -> tuple[int, ...]:
        """Indices of the candidates that were shown."""
        return question_order(self.plan, self.begin)[: self.asked]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a bundle says; nothing in it is verified by making one.

    Attributes:
        signer: public key of who signs the bundle, hex.
        commitment: what the owner bound before the assignment existed.
        chance: proof of where R came from, None for a self-attested set; see
            :func:`fpvec_audit.evidence.witness.prove_chance`.
        disclosure: the candidates, or the secret they follow from.
        plan: what was fixed before the first question.
        begin: what chance decided after the plan.
        burns: earlier audits for whose sake candidates are left out, oldest first; empty where all are asked.
        records: the transcript.
        earlier: ledger entries about the key set, not necessarily adjacent.
        segment: ledger entries from the plan to the result, without a gap.
        result: what the audit found, see :mod:`fpvec_audit.evidence.outcome`.
        examiner: an examiner's signed statement, None without one.
        anchors: witnesses' signed statements over heads of the ledger.
        versions: what made the bundle.
        not_recomputed: what verifying leaves open, in sentences.
        does_not_prove: what no reader should take from the verdict, in sentences.
        words: code words of the licensees that a trace of a family names, by number; those of all others stay sealed.
    """

    signer: str
    commitment: Commitment
    chance: Mapping[str, Any] | None
    disclosure: Disclosure
    plan: AuditPlan
    begin: Begin
    burns: tuple[Burn, ...]
    records: tuple[Record, ...] = field(repr=False)
    earlier: tuple[LedgerEntry, ...]
    segment: tuple[LedgerEntry, ...]
    result: Mapping[str, Any]
    examiner: Mapping[str, Any] | None
    anchors: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, str]
    not_recomputed: tuple[str, ...]
    does_not_prove: tuple[str, ...]
    words: tuple[OpenedWord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the payload that is signed; only that of a family with code words has ``words``."""
        opened = {} if self.plan.family is None else {"words": [word.to_json() for word in self.words]}
        return opened | {
            "schema": EVIDENCE_SCHEMA,
            "signer": self.signer,
            "commitment": self.commitment.to_json(),
            "chance": None if self.chance is None else dict(self.chance),
            "disclosure": self.disclosure.to_json(),
            "plan": self.plan.to_json(),
            "begin": self.begin.to_json(),
            "burns": [burn.to_json() for burn in self.burns],
            "records": [record.to_json() for record in self.records],
            "ledger": {
                "earlier": [forms.ledger_entry_json(entry) for entry in self.earlier],
                "segment": [forms.ledger_entry_json(entry) for entry in self.segment],
            },
            "result": dict(self.result),
            "examiner": None if self.examiner is None else dict(self.examiner),
            "anchors": [dict(anchor) for anchor in self.anchors],
            "versions": dict(self.versions),
            "not_recomputed": list(self.not_recomputed),
            "does_not_prove": list(self.does_not_prove),
        }

    @classmethod
    def from_json(cls, value: Value) -> "Evidence":
        """Rebuild the evidence from a payload, strictly.

        Raises:
            EvidenceError: a member missing, unknown, or of another form than :meth:`to_json` writes.
        """
        plan = forms.read_plan(Value(value.object().get("plan"), f"{value.path}.plan"))
        elsewhere = {"earlier", "segment", *(("words",) if plan.family is None else ())}
        names = ("schema", *(name for name in cls.__slots__ if name not in elsewhere), "ledger")
        found = dict(zip(names, value.members(*names), strict=True))
        found["schema"].choice(EVIDENCE_SCHEMA)
        earlier, segment = found["ledger"].members("earlier", "segment")
        questions = len(plan.population) * plan.repeats
        return cls(
            signer=found["signer"].hexadecimal(),
            commitment=forms.read_commitment(found["commitment"]),
            chance=None if found["chance"].optional() is None else found["chance"].object(),
            disclosure=_disclosure(found["disclosure"], plan),
            plan=plan,
            begin=forms.read_begin(found["begin"]),
            burns=tuple(_burn(burn) for burn in found["burns"].items(most=MOST_BURNS)),
            records=tuple(
                forms.read_record(record, candidates=plan.candidates)
                for record in found["records"].items(most=questions + 2 * len(plan.population) + 3)
            ),
            earlier=_entries(earlier),
            segment=_entries(segment),
            result=found["result"].object(),
            examiner=None if found["examiner"].optional() is None else found["examiner"].object(),
            anchors=tuple(anchor.object() for anchor in found["anchors"].items(most=100)),
            versions=found["versions"].texts(),
            not_recomputed=forms.texts(found["not_recomputed"]),
            does_not_prove=forms.texts(found["does_not_prove"]),
            words=tuple(forms.read_opened_word(word) for word in found["words"].items(most=MOST_WORDS))
            if "words" in found
            else (),
        )


def asked_candidates(records: Iterable[Record]) -> tuple[int, ...]:
    """Return the candidates that a transcript asks, ascending: those that a bundle opens."""
    return tuple(sorted({answer.index for answer in answers(records)}))


def disclose(key_set: KeySet, secret: KeySetSecret, asked: Iterable[int]) -> Disclosure:
    """Return what a bundle shows of a key set: all of a self-attested one, else the candidates that were asked."""
    if key_set.commitment.chance_source == NO_CHANCE:
        return SecretDisclosure(secret.reveal())
    leaves = [leaf_digest(candidate, salt) for candidate, salt in zip(key_set.candidates, key_set.salts, strict=True)]
    paths = merkle_paths(leaves)
    openings = (Opening(key_set.candidates[index], key_set.salts[index], paths[index]) for index in asked)
    return OpeningsDisclosure(secret.subkey("assign"), tuple(openings))


def sign_evidence(evidence: Evidence, key: SigningKey) -> Envelope:
    """Sign a bundle.

    Raises:
        EvidenceError: the evidence names another signer.
    """
    if evidence.signer != key.public_key.hex:
        raise EvidenceError(f"the evidence names the signer {evidence.signer}, the key is {key.public_key.hex}")
    return sign_document(EVIDENCE_TYPE, evidence.to_json(), key)


def write_bundle(path: Path, envelope: Envelope) -> None:
    """Write a signed bundle to a new file.

    Raises:
        EvidenceError: the file exists or cannot be written, or the bundle is larger than a verifier would read.
    """
    content = canonical_bytes(envelope.to_json())
    if len(content) > MOST_BYTES:
        raise EvidenceError(f"the bundle has {len(content)} bytes, a verifier reads at most {MOST_BYTES}")
    write_new(path, content, "evidence bundle")


def read_bundle(path: Path) -> bytes:
    """Return the bytes of a bundle, unverified.

    Raises:
        EvidenceError: it cannot be read, or is larger than a bundle may be.
    """
    return read_bytes(path, "evidence bundle", most=MOST_BYTES)


def named_signer(envelope: Envelope) -> PublicKey:
    """Return the key that a bundle says it is signed with; whether it is shows when the signature is verified.

    Raises:
        EvidenceError: the payload names none.
    """
    return PublicKey.from_hex(str(envelope.document.get("signer")))


def _burn(value: Value) -> Burn:
    plan, begin, asked = value.members("plan", "begin", "asked")
    planned = forms.read_plan(plan)
    return Burn(planned, forms.read_begin(begin), asked.integer(1, len(planned.population)))


def _disclosure(value: Value, plan: AuditPlan) -> Disclosure:
    if "secret" in value.object():
        kind, secret = value.members("kind", "secret")
        kind.choice("secret")
        return SecretDisclosure(bytes.fromhex(secret.hexadecimal()))
    kind, key, candidates = value.members("kind", "assignment_key", "candidates")
    kind.choice("openings")
    opened = candidates.items(most=len(plan.population))
    openings = tuple(forms.read_opening(opening, candidates=plan.candidates) for opening in opened)
    return OpeningsDisclosure(bytes.fromhex(key.hexadecimal()), openings)


def _entries(value: Value) -> tuple[LedgerEntry, ...]:
    return tuple(forms.read_ledger_entry(entry) for entry in value.items(most=forms.MOST_LEDGER_ENTRIES))
