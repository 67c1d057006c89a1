"""What a transcript says of a family: its marks, who may be named for them, and the verdict. Pure functions.

A trace and whoever verifies its evidence call these, so who is named is recomputed and not believed. They differ in
the words that they know: the owner knows all, a stranger those that a bundle opens. So the stranger asks the marking
assumption of all words that the code has, the owner of those that were issued, which is stricter.

Guarded here: nobody is named unless the family as a whole is a MATCH by the tests that every key set goes through, and
a family that is found without naming anybody is INCONCLUSIVE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

from fpvec_audit.domain.audit import NO_MATCH_CEILING, AuditPlan, Score, Verdict
from fpvec_audit.domain.audit_plan import EXACT
from fpvec_audit.domain.codes import Code
from fpvec_audit.domain.family_terms import FamilyTerms
from fpvec_audit.domain.mark_reading import MarkReading, Scores, read_marks
from fpvec_audit.domain.naming import Naming, Suspected, name_holders
from fpvec_audit.domain.statistics import upper_bound
from fpvec_audit.domain.transcript import Record, mark_shares

NOT_FOUND = "the family as a whole was not found"
MOST_POOLED = 2**12
"""Words of a code up to which all of them are tried for covering the marks that are seen."""


@dataclass(frozen=True, slots=True)
class FamilyFinding:
    """What a suspect shows of a family whose words mean licensees.

    Attributes:
        found: whether the family as a whole is a MATCH.
        p_value_corrected: of the family as a whole.
        readings: of every mark.
        naming: who is named; None where the family was not found.
        by_answers: numbers of licensees that are named even if nothing is taken from the weights.
        why: why nobody is named, in a sentence; empty where somebody is.
    """

    found: bool
    p_value_corrected: Fraction
    readings: tuple[MarkReading, ...]
    naming: Naming | None = field(default=None, repr=False)
    by_answers: frozenset[int] = frozenset()
    why: str = ""

    @property
    def named(self) -> tuple[Suspected, ...]:
        """Licensees that are named."""
        return () if self.naming is None else self.naming.named

    def p_value_of(self, item: Suspected) -> Fraction:
        """Return the p-value that stands with a name: no smaller than the family's own."""
        return max(item.p_value, self.p_value_corrected)


def read_family_marks(
    plan: AuditPlan,
    records: Sequence[Record],
    scored: Score,
    *,
    marks: Sequence[Sequence[int]],
    families: int,
    scores: Mapping[str, Scores] = MappingProxyType({}),
) -> tuple[MarkReading, ...]:
    """Read the marks of a family out of a finished transcript.

    Args:
        plan: what was carried out.
        records: the transcript, with what was measured of the suspect's weights.
        scored: what it says of the family as a whole.
        marks: per mark, the indices of its keys.
        families: how many are read together.
        scores: by name of a rank test, what ranks the candidates; descriptive.
    """
    population = set(plan.population)
    issued = {index for mark in marks for index in mark}
    return read_marks(
        [[index for index in mark if index in population] for mark in marks],
        [index for index in plan.population if index not in issued],
        matched=frozenset((*scored.matched_indices, *scored.decoys_matched_indices)),
        exact=EXACT,
        scores=scores,
        alpha=Fraction(plan.alpha),
        families=families,
        shares=mark_shares(records),
    )


def judge_family(
    scored: Score,
    readings: tuple[MarkReading, ...],
    terms: FamilyTerms,
    *,
    found: bool,
    held: Mapping[int, Sequence[int]],
) -> FamilyFinding:
    """Say who may be named for the marks of a family, as far as words are known.

    Args:
        scored: what the transcript says of the family as a whole.
        readings: of every mark.
        terms: by what the plan lets licensees be named.
        found: whether the family as a whole is a MATCH.
        held: the marks of each word that is known, by number.

    Raises:
        UsageError: the terms' code is none over so many marks.
    """
    if not found:
        return FamilyFinding(found, scored.p_value_corrected, readings, why=NOT_FOUND)
    code = terms.parsed(len(readings))
    naming = _named(readings, code, terms, held)
    answered = [reading.by_answers for reading in readings]
    alone = frozenset(item.number for item in _named(answered, code, terms, held).named)
    return FamilyFinding(found, scored.p_value_corrected, readings, naming, alone, naming.why)


def family_verdict(decided: Verdict, readings: Sequence[MarkReading], *, weight: int, named: bool) -> Verdict:
    """Return the verdict of a family whose words mean licensees: MATCH where somebody is named, and not before.

    Args:
        decided: verdict on the family as a whole.
        readings: of every mark.
        weight: marks of a copy.
        named: whether somebody is named.
    """
    if named:
        return Verdict.MATCH
    acquitted = decided is Verdict.NO_MATCH and quarter_of_a_copy_would_show(readings, weight=weight)
    return Verdict.NO_MATCH if acquitted else Verdict.INCONCLUSIVE


def quarter_of_a_copy_would_show(readings: Sequence[MarkReading], *, weight: int) -> bool:
    """Return whether so few keys were answered that a copy which answers a quarter of *its* keys would have shown.

    A copy carries some of the marks only, so a quarter of the family's keys is more than it may have.
    """
    matched, keys = sum(item.matched for item in readings), sum(item.keys for item in readings)
    return keys > 0 and upper_bound(matched, keys) * len(readings) < NO_MATCH_CEILING * weight


def pool_of(code: Code, terms: FamilyTerms, held: Mapping[int, Sequence[int]]) -> Sequence[Sequence[int]] | None:
    """Return the words of which few must hold all marks that are seen; None where they are too many to be tried.

    Those issued where all are known, else all words of the code.
    """
    if len(held) == terms.licensees:
        return [held[number] for number in sorted(held)]
    return [code.word(rank) for rank in range(code.words)] if code.words <= MOST_POOLED else None


def _named(
    readings: Sequence[MarkReading], code: Code, terms: FamilyTerms, held: Mapping[int, Sequence[int]]
) -> Naming:
    return name_holders(
        readings,
        code,
        held,
        licensees=terms.licensees,
        pool=pool_of(code, terms, held),
        rules=terms.rules(code),
        colluders=terms.colluders,
        epsilon=terms.most_wrong,
        families=terms.families,
    )
