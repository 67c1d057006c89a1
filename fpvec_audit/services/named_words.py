"""Whose words a bundle about a family opens: recomputed from the registry, never taken over from a recorded result."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from fpvec_audit.domain.audit import Verdict, decide, score
from fpvec_audit.domain.code_words import WordBook
from fpvec_audit.domain.family_finding import judge_family, read_family_marks
from fpvec_audit.domain.family_terms import FamilyTerms, OpenedWord, holder_paths
from fpvec_audit.domain.keys import KeySet, KeySetSecret
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.domain.transcript import CARRIERS
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.family import CARRIER_COMMITTED, CODE_CHOSEN, WORD_ISSUED
from fpvec_audit.services.finished_audits import RESTORE, FinishedAudit

if TYPE_CHECKING:
    from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork


def named_words(
    found: FinishedAudit, key_set: KeySet, secret: KeySetSecret, registry: "Registry"
) -> tuple[tuple[OpenedWord, ...], tuple[LedgerEntry, ...]]:
    """Return the words of those whom a family's trace names, and what the ledger says of them before the plan.

    Args:
        found: the family's audit.
        key_set: its key set as chance assigned it.
        secret: what key set and words follow from.
        registry: where code, words and ledger are.

    Raises:
        EvidenceError: code or words are not those that the plan committed to.
    """
    terms = found.plan.family
    if terms is None:
        return (), ()
    with registry.unit_of_work() as uow:
        code = uow.code_words.code_of(found.key_set.id)
        words = () if code is None else uow.code_words.words(code)[: terms.licensees]
        if code is None or not words or FamilyTerms.of(code, words, families=terms.families) != terms:
            raise EvidenceError(
                f"code or words of {found.key_set.name!r} are not those that the plan of {found.audit.id} committed to",
                advice=RESTORE,
            )
        book = WordBook(terms.parsed(len(key_set.marks)), secret, key_set.commitment.digest)
        numbers = _named(found, key_set, terms, book)
        opened = _opened(numbers, words, book)
        return opened, _entries(uow, found, code, [words[number] for number in numbers])


def _named(found: FinishedAudit, key_set: KeySet, terms: FamilyTerms, book: WordBook) -> list[int]:
    plan = found.plan
    responses = {candidate.index: candidate.response for candidate in key_set.candidates}
    issued = frozenset(key_set.issued_indices)
    scored = score(plan, found.begin, found.records, responses=responses, issued=issued)
    decided = decide(
        scored,
        alpha=Fraction(plan.alpha),
        committed_profile=plan.committed_profile,
        positive_control=False,  # it decides between NO_MATCH and INCONCLUSIVE, which name nobody alike
        comparisons=plan.comparisons,
    )
    if decided is not Verdict.MATCH:
        return []
    readings = read_family_marks(plan, found.records, scored, marks=key_set.marks, families=terms.families)
    held = {number: book.word(number) for number in range(terms.licensees)}
    return sorted(item.number for item in judge_family(scored, readings, terms, found=True, held=held).named)


def _opened(numbers: Sequence[int], words: "Sequence[CodeWordRecord]", book: WordBook) -> tuple[OpenedWord, ...]:
    paths = holder_paths(words) if numbers else ()
    return tuple(
        OpenedWord(
            number, words[number].licensee, book.rank(number), book.word(number), book.salt(number), paths[number]
        )
        for number in numbers
    )


def _entries(
    uow: "UnitOfWork", found: FinishedAudit, code: "CodeRecord", named: "Sequence[CodeWordRecord]"
) -> tuple[LedgerEntry, ...]:
    subjects = [code.id, *(word.id for word in named)]
    entries = [*uow.ledger.about(*subjects, events=(CODE_CHOSEN, WORD_ISSUED)), *_carriers(uow, found)]
    first = found.segment[0].serial
    return tuple(sorted((entry for entry in entries if entry.serial < first), key=lambda entry: entry.serial))


def _carriers(uow: "UnitOfWork", found: FinishedAudit) -> list[LedgerEntry]:
    """Return the commitments to the owner's carrier and to those that were found; the others' stay out."""
    told: list[Mapping[str, str]] = [
        record.content["named"] for record in found.records if record.content["kind"] == CARRIERS
    ]
    if not told:
        return []
    wanted = {"", *told[0]}
    committed = uow.ledger.about(found.key_set.id, events=(CARRIER_COMMITTED,))
    return [entry for entry in committed if entry.content.get("licensee") in wanted]
