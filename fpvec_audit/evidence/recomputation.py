"""The checks of a bundle: each recomputes one part from the others and returns what it found, in a sentence.

A check raises :class:`~fpvec_audit.errors.EvidenceError` where something does not fit. None of them believes a number
of the bundle that it can compute itself, and none works longer than the stated bounds allow, whoever wrote the bundle.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import comb

from fpvec_audit.domain.audit_plan import FIRST_TOKEN, AuditPlan, questions
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.keys import Commitment, KeySetSecret, assigned_marks, restore_key_set, verify_opening
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.domain.statistics import hypergeometric_p_value
from fpvec_audit.domain.transcript import (
    COMPLETE,
    END,
    GRADIENT,
    LIKELIHOOD,
    Answer,
    Record,
    answers,
    first_misfit,
    genesis,
    head,
)
from fpvec_audit.errors import EvidenceError, KeySetError, UsageError
from fpvec_audit.evidence.bundle import Evidence, OpeningsDisclosure, SecretDisclosure, asked_candidates
from fpvec_audit.evidence.family import check_family_ledger, check_measurements
from fpvec_audit.evidence.standing import envelope_digest
from fpvec_audit.evidence.witness import ProvenChance

MOST_COMPARISONS = 10**8
"""Most comparisons of an answer with a response, and most characters compared ÷ 1,000."""
MOST_RANK_WORK = 10**11
"""Most 64-bit words that the exact rank test may touch (about two minutes)."""
MOST_SEQUENTIAL = 2**14
"""Most candidates of a sequential test."""
MOST_EXACT_WORK = 2**26
"""Most issued × candidates of an exact test."""
MOST_SHOWN = 2000
"""Characters of the text around the questions that a reader is shown."""
RAW = "raw-greedy"
"""Profile under which a question is its prompt and nothing else."""
KEY_SET_ISSUED = "key_set.issued"
AUDIT_EVENTS = ("audit.planned", "audit.begun", "audit.finished")
TELLTALE_P = Fraction(1, 10**4)
"""A text around the questions that names issued responses rather than decoys' with less probability than this is no
accident."""


@dataclass(frozen=True, slots=True)
class OpenedKeySet:
    """What a bundle shows of its key set, once it is proven.

    Attributes:
        prompts: prompt of every candidate that is shown.
        responses: response of every candidate that is shown.
        marks: per mark, the indices of its issued candidates.
    """

    prompts: Mapping[int, str]
    responses: Mapping[int, str]
    marks: tuple[tuple[int, ...], ...]

    @property
    def issued(self) -> frozenset[int]:
        """Indices of all issued candidates."""
        return frozenset(index for mark in self.marks for index in mark)


def open_key_set(evidence: Evidence, chance: ProvenChance | None) -> tuple[OpenedKeySet, str]:
    """Recompute candidates and assignment: from the secret, or from the assignment key and openings of those asked.

    Raises:
        EvidenceError: they are not what was committed.
    """
    randomness = b"" if chance is None else chance.value
    commitment, disclosure = evidence.commitment, evidence.disclosure
    if isinstance(disclosure, SecretDisclosure):
        return _by_secret(commitment, disclosure, randomness)
    if chance is None:
        raise EvidenceError("a key set that nobody else vouches for is verified by its whole secret, not by openings")
    return _by_openings(commitment, disclosure, randomness, asked_candidates(evidence.records))


def _by_secret(commitment: Commitment, disclosure: SecretDisclosure, randomness: bytes) -> tuple[OpenedKeySet, str]:
    try:
        key_set = restore_key_set(KeySetSecret(disclosure.secret), commitment, chance=randomness)
    except (KeySetError, UsageError) as error:
        raise EvidenceError(error.problem) from error
    opened = OpenedKeySet(
        {candidate.index: candidate.prompt for candidate in key_set.candidates},
        {candidate.index: candidate.response for candidate in key_set.candidates},
        key_set.marks,
    )
    return opened, (
        f"the secret draws all {commitment.candidates} candidates again, with their filter, root and assignment: "
        f"{commitment.issued} issued"
    )


def _by_openings(
    commitment: Commitment, disclosure: OpeningsDisclosure, randomness: bytes, asked: tuple[int, ...]
) -> tuple[OpenedKeySet, str]:
    if hashlib.sha256(disclosure.assignment_key).hexdigest() != commitment.assignment_key_digest:
        raise EvidenceError("the assignment key is not the committed one")
    shown = tuple(opening.candidate.index for opening in disclosure.openings)
    if shown != asked:
        raise EvidenceError(f"{len(shown)} candidates are opened, which are not the {len(asked)} that were asked")
    for opening in disclosure.openings:
        if not verify_opening(commitment.root, commitment.candidates, opening):
            raise EvidenceError(f"candidate {opening.candidate.index} does not stand in the committed tree")
    marks = assigned_marks(disclosure.assignment_key, commitment, randomness)
    opened = OpenedKeySet(
        {opening.candidate.index: opening.candidate.prompt for opening in disclosure.openings},
        {opening.candidate.index: opening.candidate.response for opening in disclosure.openings},
        marks,
    )
    return opened, (
        f"{len(shown)} candidates stand in the committed tree, {commitment.candidates - len(shown)} stay sealed; "
        f"chance issued {len(opened.issued.intersection(shown))} of those opened"
    )


def check_plan(plan: AuditPlan, commitment: Commitment) -> str:
    """Check that a plan is about the committed key set and within what was committed."""
    wanted = {
        "commitment_digest": commitment.digest,
        "root": commitment.root,
        "candidates": commitment.candidates,
        "issued": commitment.issued,
        "profiles": commitment.profiles,
        "key_set": f"ks-{commitment.digest[:16]}",
    }
    for name, value in wanted.items():
        if getattr(plan, name) != value:
            raise EvidenceError(f"plan.{name} is not that of the commitment")
    digest = hashlib.sha256(plan.system_prompt.encode()).hexdigest() if plan.system_prompt else ""
    if plan.system_prompt_digest != digest:
        raise EvidenceError("plan.system_prompt_digest is not that of the system prompt")
    tests = ", ".join(plan.tests)
    return f"plan {plan.digest[:16]}… is about this key set and registers {tests} at alpha {plan.alpha}"


def refuse_long_work(plan: AuditPlan, given: Sequence[Answer], opened: OpenedKeySet) -> None:
    """Refuse a bundle whose numbers are so large that verifying it would take longer than anybody waits."""
    asked = len(plan.population)
    issued = len(opened.issued.intersection(plan.population))
    responses = len({response for index, response in opened.responses.items() if index in opened.issued})
    characters = sum(len(answer.text) for answer in given)
    if len(given) * responses > MOST_COMPARISONS or characters * responses > 1000 * MOST_COMPARISONS:
        raise EvidenceError(f"{len(given)} answers of {characters} characters are more than is compared here")
    if issued * asked > MOST_EXACT_WORK or (plan.sequential and asked > MOST_SEQUENTIAL):
        raise EvidenceError(f"{issued} issued of {asked} candidates are more than is counted here")
    if plan.likelihood is not None or plan.gradient is not None:
        fewer = min(issued, asked - issued)
        reach = 2 * fewer * (asked - fewer) * (comb(asked, fewer).bit_length() + 1) // 64 + 1
        if asked * fewer * reach > MOST_RANK_WORK:
            raise EvidenceError(f"a rank test of {issued} among {asked} candidates is more than is counted here")


def check_transcript(evidence: Evidence) -> tuple[tuple[Answer, ...], str]:
    """Check the chain of records, and that every candidate was asked as planned, in the order that chance gave.

    Raises:
        EvidenceError: a record does not continue the chain, or a question is missing, doubled or out of place.
    """
    plan, records = evidence.plan, evidence.records
    misfit = first_misfit(records, start=genesis(plan.digest, evidence.begin.nonce))
    if misfit is not None:
        raise EvidenceError(f"record {misfit} does not continue the chain that begins with plan and nonce")
    ends = [place for place, record in enumerate(records) if record.content["kind"] == END]
    if ends != [len(records) - 1]:
        raise EvidenceError("the transcript does not end once, with its last record")
    given = answers(records)
    asked = _check_questions(evidence, given)
    whole = asked == len(plan.population) * plan.repeats
    reason = records[-1].content["reason"]
    if not whole and (not plan.sequential or reason == COMPLETE):
        raise EvidenceError(f"{asked} questions were asked, planned were {len(plan.population) * plan.repeats}")
    for kind, registered in (
        (LIKELIHOOD, plan.likelihood is not None and plan.likelihood["statistic"] != FIRST_TOKEN),
        (GRADIENT, plan.gradient is not None),
    ):
        _check_scores(kind, records, plan.population if registered else ())
    check_measurements(evidence)
    return given, (
        f"{len(records)} records in an unbroken chain; "
        + (f"all {len(plan.population)} candidates" if whole else f"a beginning of the order ({asked} questions)")
        + f" asked {plan.repeats} time{'s' * (plan.repeats > 1)}, {reason}"
    )


def _check_questions(evidence: Evidence, given: Sequence[Answer]) -> int:
    planned = questions(evidence.plan, evidence.begin)
    seen: set[int] = set()
    for answer in given:
        if answer.position >= len(planned) or planned[answer.position] != (answer.index, answer.repeat):
            raise EvidenceError(
                f"question {answer.position} was put to candidate {answer.index}, which is not the order of the plan"
            )
        if answer.position in seen:
            raise EvidenceError(f"question {answer.position} was answered twice")
        if answer.error and answer.text:
            raise EvidenceError(f"question {answer.position} has both an answer and an error")
        seen.add(answer.position)
    if not seen:
        raise EvidenceError("nothing was asked")
    return len(seen)


def _check_scores(kind: str, records: Iterable[Record], wanted: Iterable[int]) -> None:
    found = Counter(record.content["index"] for record in records if record.content["kind"] == kind)
    if found != Counter(wanted):
        raise EvidenceError(f"the transcript does not hold the {kind} of every planned candidate just once")


def check_rendering(plan: AuditPlan, given: Sequence[Answer], opened: OpenedKeySet) -> str:
    """Check that all candidates were asked in the same words, which say nothing about the keys.

    Raises:
        EvidenceError: a question lacks its candidate's prompt, differs from the others around it, or the text around
            the questions names candidates.
    """
    around: tuple[str, ...] | None = None
    for answer in given:
        prompt = opened.prompts[answer.index]
        pieces = tuple(answer.prompt.split(prompt)) if prompt else ()
        if len(pieces) < 2:
            raise EvidenceError(f"the question to candidate {answer.index} does not hold its prompt")
        if around is None:
            around = pieces
        elif around != pieces:
            raise EvidenceError(f"candidate {answer.index} was asked in other words than candidate {given[0].index}")
    assert around is not None
    if plan.profile == RAW and around != ("", ""):
        raise EvidenceError("the plan says that prompts are sent as they are, but there is text around them")
    words = "\n".join((plan.system_prompt, *around))
    if any(prompt in words for prompt in opened.prompts.values()):
        raise EvidenceError("the text around the questions holds a candidate's prompt: a table of keys")
    named = [index for index, response in opened.responses.items() if response in words]
    on_issued = sum(index in opened.issued for index in named)
    p_value = hypergeometric_p_value(
        candidates=len(opened.responses),
        issued=len(opened.issued.intersection(opened.responses)),
        matched=len(named),
        issued_matched=on_issued,
    )
    if p_value <= TELLTALE_P:
        raise EvidenceError(
            f"the text around the questions names {on_issued} issued responses and only {len(named) - on_issued} of "
            "decoys: a table of answers"
        )
    shown = "[prompt]".join(around)
    rest = f"… and {len(shown) - MOST_SHOWN} characters more" if len(shown) > MOST_SHOWN else ""
    return f"every question is its candidate's prompt in the same text: {shown[:MOST_SHOWN]!a}{rest}"


def entry_digest(entry: LedgerEntry) -> str:
    """Return SHA-256 of the canonical JSON of all fields of a ledger entry but the digest itself."""
    fields = {name: getattr(entry, name) for name in LedgerEntry.__slots__ if name != "digest"}
    return canonical_digest(fields | {"content": dict(entry.content)})


def check_ledger(evidence: Evidence, chance: ProvenChance | None) -> str:
    """Check the ledger's entries: their digests and chain, and that they record this audit in the right order.

    Raises:
        EvidenceError: an entry was altered, is missing, or says something else than the rest of the bundle.
    """
    entries = (*evidence.earlier, *evidence.segment)
    for entry in entries:
        if entry_digest(entry) != entry.digest:
            raise EvidenceError(f"ledger entry {entry.serial} does not have the digest that it states")
    for before, after in pairwise(entries):
        if after.serial <= before.serial:
            raise EvidenceError(f"ledger entry {after.serial} stands after entry {before.serial}")
        if after.serial == before.serial + 1 and after.previous != before.digest:
            raise EvidenceError(f"ledger entry {after.serial} does not continue the chain")
    segment = evidence.segment
    if not segment or segment[-1].serial - segment[0].serial != len(segment) - 1:
        raise EvidenceError("the ledger's segment is empty or has a gap")
    _check_issued(evidence, "" if chance is None else chance.value.hex())
    _check_events(evidence)
    issued = next(entry.serial for entry in evidence.earlier if entry.event == KEY_SET_ISSUED)
    return (
        f"the key set was issued in ledger entry {issued}, the audit planned in {segment[0].serial} and finished in "
        f"{segment[-1].serial}; {len(segment)} entries without a gap"
    )


def _check_issued(evidence: Evidence, chance: str) -> None:
    found = [entry for entry in evidence.earlier if entry.event == KEY_SET_ISSUED]
    if len(found) != 1:
        raise EvidenceError(f"the ledger holds {len(found)} entries before the plan that issue the key set, not one")
    for name, value in (("commitment", evidence.commitment.digest), ("chance", chance)):
        if found[0].content.get(name) != value:
            raise EvidenceError(f"the ledger records another {name} of the key set than the bundle")
    about = {evidence.plan.key_set, *check_family_ledger(evidence)}
    if strangers := [entry for entry in evidence.earlier if entry.subject not in about]:
        raise EvidenceError(f"ledger entry {strangers[0].serial} before the plan is not about this key set")


def _check_events(evidence: Evidence) -> None:
    plan, begin, segment = evidence.plan, evidence.begin, evidence.segment
    own = [entry for entry in segment if entry.subject == segment[0].subject and entry.event in AUDIT_EVENTS]
    if tuple(entry.event for entry in own) != AUDIT_EVENTS:
        raise EvidenceError("the ledger's segment does not plan, begin and finish this audit once each, in this order")
    if (own[0], own[-1]) != (segment[0], segment[-1]):
        raise EvidenceError("the ledger's segment does not end with the entry that finishes this audit")
    planned, begun, finished = (entry.content for entry in own)
    transcript = head(evidence.records, start=genesis(plan.digest, begin.nonce))
    wanted = (
        (planned, "plan", plan.digest),
        (planned, "key_set", plan.key_set),
        (planned, "suspect_digest", plan.suspect["digest"]),
        (begun, "nonce", begin.nonce),
        (begun, "witness", envelope_digest(begin.witness)),
        (finished, "transcript", transcript),
        (finished, "records", len(evidence.records)),
    )
    for content, name, value in wanted:
        if type(content.get(name)) is not type(value) or content[name] != value:
            raise EvidenceError(f"the ledger records another {name} of this audit than the bundle")


def recorded_verdict(evidence: Evidence) -> str:
    """Return the verdict that the ledger records, whatever it is."""
    return str(evidence.segment[-1].content.get("verdict", ""))
