"""Evidence about the copies of a family: whose words a bundle opens, and who is named for which marks.

Guarded here: a bundle opens the words of those whom it names and of nobody else, each with the proof that the plan
held it before the first question. Rules, c, ε and the number of licensees are the plan's. What rests on measurements of
the suspect's weights, which nobody without them can repeat, is told apart from what follows from answers.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

from fpvec_audit.domain.audit import Score, Verdict
from fpvec_audit.domain.audit_plan import AuditPlan
from fpvec_audit.domain.carrier_test import CarrierFinding, judged
from fpvec_audit.domain.code_words import WordBook
from fpvec_audit.domain.codes import RULE_A, RULE_B
from fpvec_audit.domain.family_finding import (
    MOST_POOLED,
    FamilyFinding,
    family_verdict,
    judge_family,
    pool_of,
    read_family_marks,
)
from fpvec_audit.domain.family_terms import FamilyTerms, OpenedWord, stands_in_terms
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, Commitment, KeySetSecret
from fpvec_audit.domain.mark_reading import MarkReading
from fpvec_audit.domain.naming import Suspected
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.domain.transcript import CARRIERS, SHARES, Record
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.bundle import Disclosure, Evidence, SecretDisclosure

CODE_CHOSEN, WORD_ISSUED, CARRIER_COMMITTED = "code.chosen", "code_word.issued", "carrier.committed"
ON_ANSWERS, ON_WEIGHTS = "answers", "answers and measured weights"
"""What a name rests on."""

Words = Mapping[int, Sequence[int]]
"""The marks of each word that is known, by number."""


def check_words(evidence: Evidence) -> tuple[Words, str]:
    """Check that the opened words were committed to by the plan, and return all words that are known.

    Of a self-attested set these are all of them, as they follow from its secret.

    Raises:
        EvidenceError: a word is not the committed one, or the terms do not belong to the key set.
    """
    terms, commitment = evidence.plan.family, evidence.commitment
    if terms is None:
        return {}, "no marks of this key set mean licensees"
    code = terms.parsed(commitment.marks)
    too_many = terms.licensees > code.words or terms.families > evidence.plan.comparisons
    if too_many or not terms.rules(code) or evidence.plan.sequential:
        raise EvidenceError(
            f"{terms.licensees} words of {terms.code} at c = {terms.colluders}, of {terms.families} families in "
            f"{evidence.plan.comparisons} key sets: no trace has such terms"
        )
    numbers = [word.number for word in evidence.words]
    if numbers != sorted(set(numbers)):
        raise EvidenceError("the opened words do not stand once each, by number")
    for word in evidence.words:
        if word.rank >= code.words or code.word(word.rank) != word.marks:
            raise EvidenceError(f"word {word.number} is none of the code {terms.code}")
        if not stands_in_terms(word, commitment.digest, terms):
            raise EvidenceError(
                f"word {word.number} of {word.licensee!a} is not what the plan committed to before the first question"
            )
    if isinstance(evidence.disclosure, SecretDisclosure):
        _check_secret(evidence.disclosure, commitment, terms, evidence.words)
    held = known_words(terms, commitment, evidence.disclosure, evidence.words)
    told = f"{len(numbers)} of {terms.licensees} words of {terms.code} are opened, as the plan committed to them"
    return held, told + (f"; the secret gives {len(held)}, without names" if len(held) > len(numbers) else "")


def known_words(
    terms: FamilyTerms, commitment: Commitment, disclosure: Disclosure, opened: Sequence[OpenedWord]
) -> Words:
    """Return the marks of all words that a bundle tells: those that it opens, and with the secret those of all.

    Of more than ``MOST_POOLED`` licensees those that it opens alone, as verifying takes bounded time.
    """
    if not isinstance(disclosure, SecretDisclosure) or terms.licensees > MOST_POOLED:
        return {word.number: word.marks for word in opened}
    book = _book(disclosure, commitment, terms)
    return {number: book.word(number) for number in range(terms.licensees)}


def _check_secret(
    disclosure: SecretDisclosure, commitment: Commitment, terms: FamilyTerms, opened: Sequence[OpenedWord]
) -> None:
    book = _book(disclosure, commitment, terms)
    if book.binding != terms.binding:
        raise EvidenceError("the order of words that the plan binds does not follow from the secret")
    for word in opened:
        if (book.rank(word.number), book.salt(word.number)) != (word.rank, word.salt):
            raise EvidenceError(f"word {word.number} does not follow from the secret")


def _book(disclosure: SecretDisclosure, commitment: Commitment, terms: FamilyTerms) -> WordBook:
    return WordBook(terms.parsed(commitment.marks), KeySetSecret(disclosure.secret), commitment.digest)


def family_outcome(
    plan: AuditPlan,
    records: Sequence[Record],
    scored: Score,
    decided: Verdict,
    *,
    marks: Sequence[Sequence[int]],
    held: Words,
    names: Mapping[int, str],
) -> tuple[Verdict, dict[str, Any]]:
    """Return the verdict on a family's copies, and what stands about them in a bundle's result.

    Args:
        plan: the committed plan, with terms.
        records: the transcript.
        scored: what it says of the family as a whole.
        decided: verdict on the family as a whole.
        marks: per mark, the indices of its keys.
        held: words that are known.
        names: licensee by number, of the words that are opened.

    Raises:
        EvidenceError: the rules name other licensees than those whose words are opened.
        UsageError: the transcript is not one of this plan.
    """
    terms = plan.family
    assert terms is not None
    readings = read_family_marks(plan, records, scored, marks=marks, families=terms.families)
    finding = judge_family(scored, readings, terms, found=decided is Verdict.MATCH, held=held)
    numbers = sorted(item.number for item in finding.named)
    if numbers != sorted(names):
        raise EvidenceError(
            f"the rules name the licensees {numbers}, and the words of {sorted(names)} are opened: neither more nor "
            "fewer may be"
        )
    weight = terms.parsed(len(readings)).weight
    verdict = family_verdict(decided, readings, weight=weight, named=bool(numbers))
    named = [_named_json(finding, item, terms, names[item.number], held[item.number]) for item in finding.named]
    return verdict, {
        "code": terms.code,
        "colluders": terms.colluders,
        "epsilon": str(terms.most_wrong),
        "licensees": terms.licensees,
        "found": finding.found,
        "marks": [_mark_json(reading) for reading in readings],
        "named": named,
        "accusation": accusation(finding, verdict, named, terms),
        "carriers": _carriers_json(records, Fraction(plan.alpha) / plan.comparisons),
    }


def accusation(finding: FamilyFinding, verdict: Verdict, named: Sequence[Mapping[str, Any]], terms: FamilyTerms) -> str:
    """Return who is accused and on what condition, in words that nobody can take for more."""
    if not named:
        why = (
            "the suspect is not independent of the family's keys, but its marks point to no licensee"
            if finding.found
            else "the family was not found in the suspect"
        )
        return (
            f"NOBODY IS NAMED ({verdict.value}): {why}. This is evidence against none of the {terms.licensees} "
            "licensees, whatever marks their copies share with what was read."
        )
    told = ", ".join(f"{item['licensee']} (word {item['number']})" for item in named)
    rules = {rule for item in named for rule in item["rules"]}
    conditions = []
    if RULE_A in rules:
        conditions.append(
            f"rule A, which holds where copies with at most {terms.colluders} different words were pooled and pooling "
            "invents no marks"
        )
    if RULE_B in rules:
        conditions.append(f"rule B, which names anybody wrongly with a chance of at most {terms.epsilon}")
    return f"NAMED (copies of {told} went into the suspect): by {'; by '.join(conditions)}."


def _named_json(
    finding: FamilyFinding, item: Suspected, terms: FamilyTerms, licensee: str, word: Sequence[int]
) -> dict[str, Any]:
    assert finding.naming is not None
    return {
        "number": item.number,
        "licensee": licensee,
        "word": list(word),
        "shared": item.shared,
        "needed": {rule: finding.naming.needed[rule] for rule in sorted(item.rules)},
        "rules": {rule: str(max(p_value, finding.p_value_corrected)) for rule, p_value in sorted(item.rules.items())},
        "colluders": terms.colluders if RULE_A in item.rules else 0,
        "p_value_corrected": str(finding.p_value_of(item)),
        "rests_on": ON_ANSWERS if item.number in finding.by_answers else ON_WEIGHTS,
    }


def _mark_json(reading: MarkReading) -> dict[str, Any]:
    return {
        "mark": reading.mark,
        "state": reading.state.value,
        "told_by": list(reading.told_by),
        "matched": reading.matched,
        "keys": reading.keys,
        "p_value": str(reading.p_value),
        "p_value_corrected": str(reading.p_value_corrected),
        "share": None if reading.share is None else repr(reading.share),
    }


def _carriers_json(records: Sequence[Record], alpha: Fraction) -> dict[str, Any] | None:
    """Judge carriers by the z that were measured, None where none were.

    Raises:
        EvidenceError: those that the record names are not those whose z is large enough.
    """
    content = _measured(records, CARRIERS)
    if content is None:
        return None
    scores = {name: float(z) for name, z in content["named"].items()}
    others = {f"\x00{place}": float(z) for place, z in enumerate(content["others"])}
    owner, judgement = judged(
        float(content["owner"]), scores | others, alpha=float(alpha), allowance=GRINDING_ALLOWANCE
    )
    present = [finding for finding in judgement if finding.present]
    if {finding.licensee for finding in present} != set(scores):
        raise EvidenceError("the carriers that are named are not those whose z is large enough")
    return {
        "owner": _carrier_json(owner),
        "named": [{"licensee": finding.licensee, **_carrier_json(finding)} for finding in present],
        "licensees": len(judgement),
    }


def _carrier_json(finding: CarrierFinding) -> dict[str, Any]:
    """Return a carrier's object; p as a power of ten that it is not above, so that no rounding decides."""
    return {"z": repr(finding.z), "present": finding.present, "p_below": f"1e{ceil(finding.log10_p_corrected)}"}


def _measured(records: Sequence[Record], kind: str) -> Mapping[str, Any] | None:
    return next((record.content for record in records if record.content["kind"] == kind), None)


def check_measurements(evidence: Evidence) -> None:
    """Check that measurements of weights stand in a transcript at most once, and only where there are marks.

    Raises:
        EvidenceError: they do not, or carriers are told that nobody committed to.
    """
    plan, records = evidence.plan, evidence.records
    for kind in (SHARES, CARRIERS):
        count = sum(record.content["kind"] == kind for record in records)
        if count > 1 or (count and (evidence.commitment.marks == 1 or (kind == CARRIERS and plan.family is None))):
            raise EvidenceError(f"the transcript holds {count} records of {kind}, which this audit cannot have")
    shares, carriers = _measured(records, SHARES), _measured(records, CARRIERS)
    if shares is not None and any(int(mark) >= evidence.commitment.marks for mark in shares["shares"]):
        raise EvidenceError("the transcript holds the share of a mark that the family does not have")
    for licensee in () if carriers is None else ("", *carriers["named"]):
        committed = [
            entry
            for entry in evidence.earlier
            if entry.event == CARRIER_COMMITTED and entry.content.get("licensee") == licensee
        ]
        if len(committed) != 1:
            raise EvidenceError(f"the ledger does not commit once, before the plan, to the carrier of {licensee!a}")


def check_family_ledger(evidence: Evidence) -> frozenset[str]:
    """Check that the ledger chose the code and issued the opened words before the plan, as the bundle says.

    Returns:
        ids of the code and of the words: what earlier entries may be about beside the key set.

    Raises:
        EvidenceError: an entry is missing, or says something else.
    """
    plan, terms = evidence.plan, evidence.plan.family
    if terms is None:
        return frozenset()
    chosen = _one(evidence.earlier, CODE_CHOSEN, {"key_set": plan.key_set}, "chooses the family's code")
    _same(
        chosen,
        {
            "code": terms.code,
            "colluders": terms.colluders,
            "epsilon": terms.epsilon,
            "binding": terms.binding,
        },
    )
    subjects = {chosen.subject}
    for word in evidence.words:
        issued = _one(evidence.earlier, WORD_ISSUED, {"number": word.number}, f"issues word {word.number}")
        digest = word.digest(evidence.commitment.digest, terms)
        _same(issued, {"code": chosen.subject, "licensee": word.licensee, "commitment": digest})
        subjects.add(issued.subject)
    return frozenset(subjects)


def _one(entries: Sequence[LedgerEntry], event: str, wanted: Mapping[str, Any], what: str) -> LedgerEntry:
    found = [
        entry
        for entry in entries
        if entry.event == event and all(entry.content.get(name) == value for name, value in wanted.items())
    ]
    if len(found) != 1:
        raise EvidenceError(f"the ledger holds {len(found)} entries before the plan of which one {what}")
    return found[0]


def _same(entry: LedgerEntry, wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if type(entry.content.get(name)) is not type(value) or entry.content[name] != value:
            raise EvidenceError(f"the ledger records another {name} in entry {entry.serial} than the bundle")


def family_not_recomputed(
    plan: AuditPlan, commitment: Commitment, records: Sequence[Record], disclosure: Disclosure
) -> tuple[str, ...]:
    """Return what verifying leaves open about a family's copies, with what it takes to measure again."""
    terms = plan.family
    if terms is None:
        return ()
    suspect = plan.suspect["digest"] or "unknown"
    sentences = []
    shares, carriers = _measured(records, SHARES), _measured(records, CARRIERS)
    if shares is not None:
        sentences.append(
            f"the shares of the marks' vectors in the suspect's weights, which the owner measured: who has the weights "
            f"{suspect}, the base {shares['base']} and the vectors that the record of shares lists regresses suspect − "
            "base on all of them together (docs/evidence.md shows how); names that rest on them say so"
        )
    if carriers is not None:
        sentences.append(
            f"the carriers in the suspect's weights, which the owner measured: who has the weights {suspect}, the "
            f"reference {carriers['reference'] or 'that was given'} and a carrier that its owner opened, as a ledger "
            "entry carrier.committed binds it, measures it again (`fpvec evidence read-carrier`); no verdict here "
            "rests on carriers"
        )
    if not isinstance(disclosure, SecretDisclosure):
        sentences.append(
            "that words were given in the order that the code's binding fixed: its key would open everybody's word; "
            "what is proven is that the plan held the opened words before the first question"
        )
        code = terms.parsed(commitment.marks)
        if RULE_A in terms.rules(code) and pool_of(code, terms, {}) is None:
            sentences.append(
                f"that {terms.colluders} words can hold all marks that were read: {terms.code} has {code.words} words"
            )
    sentences.append(
        "what single marks' p-values are worth in a copy with other marks: keys of an absent mark were trained to stay "
        "silent, which the owner's own copies calibrate; the family's own p does not depend on it"
    )
    return tuple(sentences)


FAMILY_DOES_NOT_PROVE = (
    "that a named licensee made, leaked or sold the suspect: who holds the key set's secret knows all words and can "
    "make a copy with anybody's, and a licensee's copy can be stolen",
    "that a licensee received the copy with its word: contracts and receipts show that",
    "anything against or for a licensee that is not named",
)
"""What no reader should take from names."""
