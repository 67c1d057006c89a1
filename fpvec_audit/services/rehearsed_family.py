"""Whom a trace of an attacked copy would name, and whether that is anybody whose copy is not in it.

A trace of a suspect is planned in the ledger; a copy that the owner bent himself is no suspect, so its marks are read
in a rehearsal, by the very functions that a trace uses. The host knows whose copies an attack pooled, and a trace does
not: so this is where the promise that innocents are not named is put to the test.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.domain.attack_spec import AttackLink
from fpvec_audit.domain.audit import Score, Verdict
from fpvec_audit.domain.family_finding import FamilyFinding, family_verdict, judge_family, read_family_marks
from fpvec_audit.domain.family_terms import FamilyTerms
from fpvec_audit.domain.mark_reading import present
from fpvec_audit.domain.ports import PoolingAttack
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.robustness import TracedCopy
from fpvec_audit.services.code_words import recorded_words
from fpvec_audit.services.examination import Case

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork


@dataclass(frozen=True, slots=True)
class RehearsedFamily:
    """A family whose copies are attacked.

    Attributes:
        terms: by what licensees may be named.
        names: licensee of every word, by number.
        words: the marks of every word, by number.
    """

    terms: FamilyTerms
    names: tuple[str, ...]
    words: Mapping[int, Sequence[int]] = field(repr=False)

    def judge(self, case: Case, scored: Score) -> FamilyFinding:
        """Return whom a trace would name for a finished transcript."""
        marks, records = case.key_set.marks, case.keeper.records
        readings = read_family_marks(case.plan, records, scored, marks=marks, families=self.terms.families)
        found = case.verdict(scored, controlled=False) is Verdict.MATCH
        return judge_family(scored, readings, self.terms, found=found, held=self.words)

    def verdict(self, finding: FamilyFinding, decided: Verdict) -> Verdict:
        """Return the verdict of a trace, given that on the family as a whole."""
        weight = self.terms.parsed(len(finding.readings)).weight
        return family_verdict(decided, finding.readings, weight=weight, named=bool(finding.named))

    def told(self, finding: FamilyFinding, pooled: Iterable[str]) -> TracedCopy:
        """Return who is named, held against whose copies are in it.

        Args:
            finding: what a trace would say.
            pooled: licensees whose copies are in the attacked one.
        """
        colluders = sorted(set(pooled))
        theirs = {mark for number, name in enumerate(self.names) if name in colluders for mark in self.words[number]}
        seen = present(finding.readings)
        return TracedCopy(
            named={self.names[item.number]: "+".join(sorted(item.rules)) for item in finding.named},
            pooled=tuple(colluders),
            present=tuple(sorted(seen)),
            wrong=tuple(sorted(seen - theirs)),
            why=finding.why,
        )


def rehearsed_family(record: KeySetRecord, registry: "Registry") -> RehearsedFamily | None:
    """Return the family of a key set, None where no marks of it mean licensees.

    Raises:
        RegistryError: the vault cannot give the words.
    """
    if record.commitment.marks == 1:
        return None
    with registry.unit_of_work() as uow:
        code = uow.code_words.code_of(record.id)
        holders = () if code is None else uow.code_words.words(code)
        if code is None or not holders:
            return None
        words = recorded_words(uow, record, code, holders, purpose="attacks on copies")
    terms = FamilyTerms.of(code, holders, families=1)
    return RehearsedFamily(terms, tuple(holder.licensee for holder in holders), dict(enumerate(words)))


def copy_holders(uow: "UnitOfWork", stamped: str, place: Path) -> dict[Path, str]:
    """Return to whom stamped copies were issued, by where they lie; those that name nobody not.

    Args:
        uow: where stamps are.
        stamped: model id of the attacked copy.
        place: its directory, which may be another than it was stamped to.
    """
    found = {Path(stamp.location).resolve(): stamp.licensee for stamp in uow.stamps.list() if stamp.licensee}
    own = {place.resolve(): stamp.licensee for stamp in uow.stamps.of_model(stamped) if stamp.licensee}
    return found | own


def pooled_licensees(
    links: Sequence[AttackLink],
    *,
    stamped: Path,
    copies: Sequence[Path],
    holders: Mapping[Path, str],
    catalog: "Catalog",
) -> tuple[str, ...]:
    """Return the licensees whose copies attacks on weights put together, that of the attacked one included.

    Args:
        links: the attacks, in order.
        stamped: the attacked copy.
        copies: other copies that the attacks are given.
        holders: to whom copies were issued.
        catalog: plugins.
    """
    places = [stamped]
    for link in links:
        attack = catalog.attack(link.name)
        if isinstance(attack, PoolingAttack):
            places += attack.pools(link.parameters, tuple(copies))
    return tuple(dict.fromkeys(name for place in places if (name := holders.get(place.resolve()))))
