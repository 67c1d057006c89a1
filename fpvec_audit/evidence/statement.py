"""Makes the evidence of an audit from its parts, by the same functions that verify it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fpvec_audit.domain.audit_plan import AuditPlan, Begin
from fpvec_audit.domain.family_terms import OpenedWord
from fpvec_audit.domain.keys import KeySet, KeySetSecret
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.domain.transcript import Record, genesis, head
from fpvec_audit.evidence.bundle import Burn, Evidence, asked_candidates, disclose
from fpvec_audit.evidence.family import family_not_recomputed, known_words
from fpvec_audit.evidence.outcome import does_not_prove, match_vector_digest, not_recomputed, outcome
from fpvec_audit.evidence.signing import PublicKey
from fpvec_audit.evidence.standing import ExaminerStatement, grade_of, plan_witness
from fpvec_audit.evidence.witness import prove_chance


def build_statement(
    *,
    key_set: KeySet,
    secret: KeySetSecret,
    chance: Mapping[str, Any] | None,
    plan: AuditPlan,
    begin: Begin,
    records: Sequence[Record],
    earlier: Sequence[LedgerEntry],
    segment: Sequence[LedgerEntry],
    positive_control: bool,
    signer: PublicKey,
    burns: Sequence[Burn] = (),
    examiner: Mapping[str, Any] | None = None,
    anchors: Sequence[Mapping[str, Any]] = (),
    versions: Mapping[str, str] | None = None,
    words: Sequence[OpenedWord] = (),
) -> Evidence:
    """Return the evidence of an audit; the result is computed here, not taken over.

    Args:
        key_set: the key set as chance assigned it.
        secret: what it follows from; it goes into the bundle of a self-attested set, of any other its sub-key alone.
        chance: proof of where R came from, None for a self-attested set.
        plan: what was fixed before the first question.
        begin: what chance decided afterwards.
        records: the whole transcript.
        earlier: ledger entries about the key set before the plan, among them the one that issues it.
        segment: ledger entries from the plan to the result, without a gap.
        positive_control: whether an own stamped model answered under the same profile and engine.
        signer: public key of who will sign.
        burns: earlier audits for whose sake candidates are left out, oldest first.
        examiner: an examiner's signed statement, None without one.
        anchors: witnesses' signed statements over the commitment, the plan or entries of the ledger.
        versions: what made the bundle; the plan's tool version where nothing is given.
        words: of the licensees that a family's trace names, by number.

    Raises:
        EvidenceError: the proof of chance, or the witness's statement over the plan, does not fit, or the rules name
            others than those whose words are given.
        UsageError: the transcript is not one of this plan.
    """
    proven = prove_chance(key_set.commitment, chance)
    disclosure = disclose(key_set, secret, asked_candidates(records))
    witnessed = plan_witness(plan, begin, owner=signer.hex) is not None
    grade = grade_of(plan, witnessed=witnessed, examined=examiner is not None)
    result = outcome(
        plan,
        begin,
        records,
        responses={candidate.index: candidate.response for candidate in key_set.candidates},
        issued=frozenset(key_set.issued_indices),
        grade=grade,
        positive_control=positive_control,
        marks=key_set.marks,
        held={} if plan.family is None else known_words(plan.family, key_set.commitment, disclosure, words),
        names={word.number: word.licensee for word in words},
    )
    return Evidence(
        signer=signer.hex,
        commitment=key_set.commitment,
        chance=chance,
        disclosure=disclosure,
        plan=plan,
        begin=begin,
        burns=tuple(burns),
        records=tuple(records),
        earlier=tuple(earlier),
        segment=tuple(segment),
        result=result,
        examiner=examiner,
        anchors=tuple(anchors),
        versions={"fpvec-audit": plan.tool_version} if versions is None else versions,
        not_recomputed=not_recomputed(
            plan,
            chance=proven,
            disclosure=disclosure,
            burns=burns,
            family=family_not_recomputed(plan, key_set.commitment, records, disclosure),
        ),
        does_not_prove=does_not_prove(result["verdict"], grade, family=plan.family is not None),
        words=tuple(words),
    )


def examiner_statement(
    plan: AuditPlan,
    begin: Begin,
    records: Sequence[Record],
    *,
    responses: Mapping[int, str],
    examiner: PublicKey,
    name: str,
    time: str,
) -> ExaminerStatement:
    """Return what an examiner signs about the transcript that it made itself, without knowing the assignment.

    Args:
        plan: the plan that it was given.
        begin: what chance decided afterwards.
        records: the whole transcript.
        responses: response of every candidate of the population.
        examiner: its public key.
        name: what it calls itself.
        time: when it signs, ISO 8601 in UTC.
    """
    return ExaminerStatement(
        plan=plan.digest,
        suspect=plan.suspect["digest"],
        transcript=head(records, start=genesis(plan.digest, begin.nonce)),
        records=len(records),
        matches=match_vector_digest(plan, records, responses),
        name=name,
        time=time,
        examiner=examiner.hex,
    )
