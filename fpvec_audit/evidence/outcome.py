"""What a bundle says its audit found, recomputed in the same words by whoever verifies it.

Everything here is a pure function of plan, transcript, responses and assignment. The verifier calls it again and
compares whole documents, so that no number, count or verdict of a bundle needs to be believed. Probabilities are exact
fractions as text. The sentences belong to the schema of the bundle: other words would be another schema.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from fpvec_audit.domain.audit import Score, Verdict, decide, score
from fpvec_audit.domain.audit_plan import AuditPlan, Begin
from fpvec_audit.domain.beacon import beacon_caveat
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.keys import SELF_ATTESTED
from fpvec_audit.domain.transcript import Record, answers
from fpvec_audit.evidence.bundle import Burn, Disclosure, OpeningsDisclosure, asked_candidates
from fpvec_audit.evidence.family import FAMILY_DOES_NOT_PROVE, Words, family_outcome
from fpvec_audit.evidence.witness import ProvenChance

_SEALED = "\x00 sealed \x00"
"""In place of the response of a candidate that was not asked: no answer matches it."""


def outcome(
    plan: AuditPlan,
    begin: Begin,
    records: Sequence[Record],
    *,
    responses: Mapping[int, str],
    issued: frozenset[int],
    grade: str,
    positive_control: bool,
    marks: Sequence[Sequence[int]] = (),
    held: Words = MappingProxyType({}),
    names: Mapping[int, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the result that stands in a bundle; of a family with code words, whom it names too.

    Args:
        plan: the committed plan.
        begin: what chance decided afterwards.
        records: the transcript.
        responses: response of every candidate that was asked; those of others are not looked at.
        issued: indices of all issued candidates.
        grade: grade of the audit.
        positive_control: whether an own stamped model answered under the same profile and engine, as the owner says.
        marks: per mark of a family, the indices of its keys.
        held: code words that are known, by number.
        names: licensees whose words are opened, by number.

    Raises:
        UsageError: the transcript is not one of this plan.
        EvidenceError: the words that are opened are not those of the licensees who are named.
    """
    sealed = dict.fromkeys(plan.population, _SEALED)
    shown = {index: responses[index] for index in asked_candidates(records)}
    found = score(plan, begin, records, responses=sealed | shown, issued=issued)
    verdict = decide(
        found,
        alpha=Fraction(plan.alpha),
        committed_profile=plan.committed_profile,
        positive_control=positive_control,
        comparisons=plan.comparisons,
    )
    family: dict[str, Any] = {}
    if plan.family is not None:
        verdict, told = family_outcome(plan, records, found, verdict, marks=marks, held=held, names=names)
        family = {"family": told}
    return family | {
        "verdict": verdict.value,
        "grade": grade,
        "alpha": str(Fraction(plan.alpha)),
        "positive_control": positive_control,
        **_counts(found),
        "tests": [
            {
                "name": test.name,
                "statistic": test.statistic,
                "p_value": str(test.p_value),
                "p_value_adjusted": str(test.p_value_adjusted),
            }
            for test in found.tests
        ],
        "p_value_corrected": str(found.p_value_corrected),
    }


def _counts(found: Score) -> dict[str, Any]:
    return {
        "asked": found.issued + found.decoys,
        "issued": found.issued,
        "decoys": found.decoys,
        "matched": list(found.matched_indices),
        "decoys_matched": list(found.decoys_matched_indices),
        "false_triggers": found.false_triggers,
        "errors": found.errors,
    }


def match_vector_digest(plan: AuditPlan, records: Sequence[Record], responses: Mapping[int, str]) -> str:
    """Return the digest of which candidates matched, which an examiner can compute without the assignment.

    A candidate matches when more than half of its planned answers do.
    """
    hits = dict.fromkeys(plan.population, 0)
    for answer in answers(records):
        if answer.index in hits and not answer.error:
            hits[answer.index] += plan.match.matches(answer.text, responses[answer.index])
    matched = [index for index, count in hits.items() if 2 * count > plan.repeats]
    return canonical_digest({"plan": plan.digest, "matched": matched})


def not_recomputed(
    plan: AuditPlan,
    *,
    chance: ProvenChance | None,
    disclosure: Disclosure,
    burns: Sequence[Burn],
    family: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return what verifying a bundle leaves open, with the digests that are needed to repeat it.

    Args:
        plan: the committed plan.
        chance: proven chance of the key set, None for a self-attested one.
        disclosure: what is opened.
        burns: earlier audits for whose sake candidates are left out.
        family: what is left open about the copies of a family.
    """
    suspect = f"{plan.suspect['kind']} {plan.suspect['location']}, digest {plan.suspect['digest'] or 'unknown'}"
    sentences = [f"that the suspect gave these answers: ask it again ({suspect})"]
    if plan.likelihood is not None:
        base = f" and of the base {plan.likelihood['base']}" if plan.likelihood["base"] else ""
        sentences.append(
            f"the log-probabilities behind the likelihood test ({plan.likelihood['statistic']}): compute those of the "
            f"suspect {plan.suspect['digest']}{base} again; their ranks and p are recomputed"
        )
    if plan.gradient is not None:
        sentences.append(
            f"the scores behind the gradient test: compute those of the suspect {plan.suspect['digest']} and the base "
            f"{plan.gradient['base']} again, clipped at {plan.gradient['clip']}; their ranks and p are recomputed"
        )
    sentences += family
    if chance is not None and chance.beacon is not None:
        sentences.append(beacon_caveat(chance.beacon))
    if isinstance(disclosure, OpeningsDisclosure):
        sentences.append(
            "that the candidates come from the published generator: their secret stays sealed; the tests hold for any "
            "candidates that were committed before chance assigned them"
        )
    if burns:
        sentences.append(
            f"how many candidates {len(burns)} earlier audits showed: whoever doubts a number multiplies p by "
            f"{plan.candidates}"
        )
    if plan.profile != "raw-greedy":
        sentences.append(
            "that the text around the questions is the suspect's own template, was not picked among many that were "
            "tried out, and tells no keys under a disguise: the check of the questions shows it"
        )
    if plan.system_prompt:
        sentences.append("that the system prompt in the plan is the suspect's own, and tells no keys under a disguise")
    if plan.controls:
        digests = ", ".join(control.get("digest", "unknown") for control in plan.controls)
        sentences.append(f"what the controls answered ({digests})")
    sentences.append("the positive control that a NO_MATCH rests on")
    sentences.append("the owner's ledger before and after the entries in this bundle")
    return tuple(sentences)


def does_not_prove(verdict: str, grade: str, *, family: bool = False) -> tuple[str, ...]:
    """Return what no reader should take from the verdict; with ``family``, from names of licensees."""
    sentences: list[str] = list(FAMILY_DOES_NOT_PROVE) if family else []
    if verdict != Verdict.MATCH:
        sentences.append(
            "that the suspect never had contact with the keys: averaged or suppressed copies are not excluded"
        )
    if grade == SELF_ATTESTED:
        sentences.append(
            "that the plan was made before the answers were known: nobody but the owner vouches for the order of things"
        )
    if grade != "examined":
        sentences.append("that the suspect is who it is said to be, and gave these answers: the accuser asked it")
    sentences += [
        "that anything was copied: that answers depend on the keys has other causes too, such as poisoning or planting",
        "by whom, when or how the keys came into the suspect",
        "that a witness or examiner is independent of the owner: compare their keys with those you got from them",
        "that no other registry, and no run outside this ledger, exists",
        "that the keys never leaked",
    ]
    return tuple(sentences)
