"""What third parties vouch for in a bundle, and so which grade it has.

The accuser may have chosen everything that nobody else signed: the secret, the moment, the order of the questions. A
signature counts here only when its key is not the one that signs the bundle, and when what is signed could not have
been known or tried out before: R is the digest of a witness's signature over the commitment, the nonce that of a
signature over the plan. Whether a witness is independent of the owner no file can tell; its key is therefore shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from fpvec_audit.domain.audit_plan import AuditPlan, Begin
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.keys import ANCHORED, GRINDING_ALLOWANCE, SELF_ATTESTED
from fpvec_audit.domain.witness import PLAN
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence import forms
from fpvec_audit.evidence.bundle import Burn
from fpvec_audit.evidence.signing import Envelope, PublicKey, verify_envelope
from fpvec_audit.evidence.strict_json import Value
from fpvec_audit.evidence.witness import ProvenChance, SignedStatement, verify_statement

EXAMINER_SCHEMA = "fpvec-audit/examiner-statement/1"
EXAMINER_TYPE = "application/vnd.fpvec-audit.examiner-statement+json"
EXAMINED = "examined"


@dataclass(frozen=True, slots=True)
class ExaminerStatement:
    """What an examiner signs: it asked the suspect itself, without knowing which candidates are issued.

    Attributes:
        plan: digest of the plan, hex.
        suspect: digest of the suspect, as the plan names it.
        transcript: digest of the last record, hex.
        records: how many records the transcript has.
        matches: digest of the match vector, see :func:`fpvec_audit.evidence.outcome.match_vector_digest`.
        name: what the examiner calls itself.
        time: when it signed, ISO 8601 in UTC.
        examiner: its public key, hex.
    """

    plan: str
    suspect: str
    transcript: str
    records: int
    matches: str
    name: str
    time: str
    examiner: str

    def to_json(self) -> dict[str, Any]:
        """Return the document that is signed as :data:`EXAMINER_TYPE`."""
        return {"schema": EXAMINER_SCHEMA} | {name: getattr(self, name) for name in self.__slots__}


def read_examiner_statement(envelope: Mapping[str, Any]) -> ExaminerStatement:
    """Return an examiner's statement after verifying its signature with the key that it names.

    Raises:
        EvidenceError: malformed, or the signature does not fit.
    """
    document = Value(Envelope.from_json(envelope).document, "examiner statement")
    schema, plan, suspect, transcript, records, matches, name, time, examiner = document.members(
        "schema", *ExaminerStatement.__slots__
    )
    schema.choice(EXAMINER_SCHEMA)
    forms.read_time(time)
    verify_envelope(envelope, PublicKey.from_hex(examiner.hexadecimal()), EXAMINER_TYPE)
    return ExaminerStatement(
        plan.hexadecimal(),
        suspect.text(),
        transcript.hexadecimal(),
        records.integer(1),
        matches.hexadecimal(),
        name.text(most=1000),
        time.text(),
        examiner.hexadecimal(),
    )


def check_examiner(
    statement: ExaminerStatement, *, plan: AuditPlan, transcript: str, records: int, matches: str, owner: str
) -> None:
    """Check that an examiner's statement is about this audit, and not by its owner.

    Args:
        statement: verified statement.
        plan: plan of the audit.
        transcript: digest of its last record.
        records: number of its records.
        matches: digest of its match vector.
        owner: public key of who signs the bundle, hex.

    Raises:
        EvidenceError: it is about something else, or by the owner.
    """
    if statement.examiner == owner:
        raise EvidenceError(f"the examiner's key {owner} is that of the bundle's signer, who cannot examine itself")
    wanted = (plan.digest, plan.suspect["digest"], transcript, records, matches)
    signed = (statement.plan, statement.suspect, statement.transcript, statement.records, statement.matches)
    names = ("plan", "suspect", "transcript", "number of records", "match vector")
    for name, found, expected in zip(names, signed, wanted, strict=True):
        if found != expected:
            raise EvidenceError(f"the examiner signed another {name}: {found!a}, not {expected!a}")


def is_foreign(chance: ProvenChance | None, *, owner: str) -> bool:
    """Return whether somebody but the owner vouches that the commitment came before its chance.

    Args:
        chance: proven chance of a key set, None for a self-attested one.
        owner: public key of who signs the bundle, hex; what it signed itself counts for nothing.
    """
    return chance is not None and chance.statement is not None and chance.statement.statement.witness != owner


def plan_witness(plan: AuditPlan, begin: Begin, *, owner: str) -> SignedStatement | None:
    """Return the statement of the witness that signed a plan, None where nobody but the owner did.

    Raises:
        EvidenceError: the statement is malformed, about something else, or the nonce is not the one it gives.
    """
    if begin.witness is None:
        return None
    signed = verify_statement(begin.witness, subject=PLAN, digest=plan.digest)
    if signed.chance.hex() != begin.nonce:
        raise EvidenceError("the nonce is not the digest of the witness's signature over the plan")
    return signed if signed.statement.witness != owner else None


def entitled_set_grade(
    plan: AuditPlan, begin: Begin, *, chance: ProvenChance | None, burns: Sequence[Burn], owner: str
) -> str:
    """Return the best grade that a plan may claim for its key set, which decides whether the grinding allowance is due.

    Without foreign chance the owner could try out secrets. Where the order of the questions decides what counts – an
    audit that may stop early, or one that leaves out what earlier audits asked first – it could try out nonces, as it
    knows the assignment by then, unless witnesses gave them. Even then it says how many candidates each earlier audit
    showed: for one audit whoever doubts that can multiply p by N, several pay the allowance.

    Args:
        plan: the plan.
        begin: what chance decided afterwards.
        chance: proven chance of the key set, None for a self-attested one.
        burns: earlier audits for whose sake candidates are left out.
        owner: public key of who signs the bundle, hex.

    Raises:
        EvidenceError: a witness's statement over a plan does not fit.
    """
    orders = [(burn.plan, burn.begin) for burn in burns] + ([(plan, begin)] if plan.sequential else [])
    witnessed = [plan_witness(*order, owner=owner) is not None for order in orders]
    return ANCHORED if is_foreign(chance, owner=owner) and all(witnessed) and len(burns) <= 1 else SELF_ATTESTED


def relied_on(
    plan: AuditPlan,
    chance: ProvenChance | None,
    witness: SignedStatement | None,
    burns: Sequence[Burn],
    *,
    owner: str,
) -> tuple[str, ...]:
    """Return the keys of the witnesses whose word spares a plan the grinding allowance; none where it pays.

    Args:
        plan: the plan.
        chance: proven chance of the key set, None for a self-attested one.
        witness: who signed the plan, None where nobody did.
        burns: earlier audits for whose sake candidates are left out.
        owner: public key of who signs the bundle, hex.
    """
    if plan.set_grade == SELF_ATTESTED:
        return ()
    orders = (plan_witness(burn.plan, burn.begin, owner=owner) for burn in burns)
    signed = (None if chance is None else chance.statement, witness, *orders)
    return tuple(dict.fromkeys(item.statement.witness for item in signed if item is not None))


def grade_of(plan: AuditPlan, *, witnessed: bool, examined: bool) -> str:
    """Return the grade of an audit whose plan claims no more than :func:`entitled_set_grade`.

    Args:
        plan: the plan.
        witnessed: whether a third party signed the plan before the first question.
        examined: whether an examiner asked the suspect and signed what came back.
    """
    if plan.set_grade == SELF_ATTESTED:
        return SELF_ATTESTED
    return EXAMINED if examined else ANCHORED if witnessed else SELF_ATTESTED


def envelope_digest(envelope: Mapping[str, Any] | None) -> str:
    """Return how the ledger refers to an envelope; empty for none."""
    return "" if envelope is None else canonical_digest(dict(envelope))


def check_burns(plan: AuditPlan, burns: Sequence[Burn], *, owner: str) -> None:
    """Check that every candidate left out was shown by an earlier audit, and that none was left out by choice.

    Nonces of one earlier audit can only be tried blindly, which the grinding allowance pays for. Those of several could
    be tried one after the other, a candidate each: then any candidate can be left out with hardly any trying. Numbers
    of candidates shown can be searched for in the same way, so they may not allow more choices than the allowance
    pays for.

    Args:
        plan: the plan.
        burns: earlier audits for whose sake candidates are left out.
        owner: public key of who signs the bundle, hex.

    Raises:
        EvidenceError: an earlier audit was not of this key set, the population is not the rest of them all, or the
            owner had more ways of leaving out candidates than the allowance pays for.
    """
    unsigned = sum(plan_witness(burn.plan, burn.begin, owner=owner) is None for burn in burns)
    if unsigned > 1:
        raise EvidenceError(
            f"{unsigned} earlier audits, for whose sake candidates are left out, have their order from the owner: "
            "their nonces could have been tried one after the other, until they leave out what suits"
        )
    if prod(len(burn.plan.population) + 1 for burn in burns) > GRINDING_ALLOWANCE:
        raise EvidenceError(
            f"only the owner says how many candidates {len(burns)} earlier audits showed: it could have chosen among "
            "more than 2^40 populations"
        )
    everybody = set(range(plan.candidates))
    rest = set(everybody)
    for burn in burns:
        if (burn.plan.commitment_digest, burn.plan.candidates) != (plan.commitment_digest, plan.candidates):
            raise EvidenceError(f"the earlier audit {burn.plan.audit} was not of this key set")
        if set(burn.plan.population) not in (everybody, rest):
            raise EvidenceError(f"the earlier audit {burn.plan.audit} had itself left out candidates by choice")
        rest -= set(burn.candidates)
    if rest != set(plan.population):
        missing = sorted(rest.symmetric_difference(plan.population))
        raise EvidenceError(
            f"{len(missing)} candidates were left out or put in without an earlier audit that accounts for it, such "
            f"as {missing[0]}"
        )
