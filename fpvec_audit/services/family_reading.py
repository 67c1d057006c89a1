"""Read a family's marks out of an interview that was held anyway, and say whose copy it is.

The gate comes first: nobody is named unless the family as a whole is found by the tests that every key set goes
through. Then marks, then licensees (``domain/mark_reading.py``, ``domain/naming.py``). All words are derived at once,
so that a thousand licensees take hardly longer than ten.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.audit import Score, Verdict, rank_scores
from fpvec_audit.domain.code_choice import naming_rules
from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord, several_words
from fpvec_audit.domain.codes import RULE_A, Code, parse_code
from fpvec_audit.domain.family_finding import (
    family_verdict,
    judge_family,
    quarter_of_a_copy_would_show,
    read_family_marks,
)
from fpvec_audit.domain.family_terms import FamilyTerms
from fpvec_audit.domain.mark_reading import MarkReading, present
from fpvec_audit.domain.naming import Naming, Suspected
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.services.audit_result import as_float
from fpvec_audit.services.code_words import recorded_words
from fpvec_audit.services.examination import Case

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

MOST_RANKED = 20
"""Licensees in a document; those that are named are always among them, as they come first."""
CALIBRATION = (
    "p-values of single marks are exact for a suspect without anything of the family; in a copy with other marks they "
    "are calibrated on the owner's own copies, and count only behind the family's own test; shares of the weights "
    "have no p-value: where a licensee is named by them alone, the p-value is that of the family as a whole"
)
NO_CODE = "the family has no code, so no marks mean anybody"
NO_WORDS = "nobody has a word of the family's code"


@dataclass(frozen=True, slots=True)
class FamilyReading:
    """What a suspect shows of one family.

    Attributes:
        record: the key set.
        found: whether the family as a whole was found.
        p_value_corrected: of the family as a whole.
        readings: of every mark.
        code: the family's code, None where none was chosen.
        words: every word that was issued, by number.
        naming: who is named; None where nobody could be.
        why: why nobody is named, in a sentence; empty where somebody is.
        carried: marks that the suspect carries by the registry, where it is an own copy; None for a stranger.
    """

    record: KeySetRecord
    found: bool
    p_value_corrected: Fraction
    readings: tuple[MarkReading, ...]
    code: CodeRecord | None = None
    words: tuple[CodeWordRecord, ...] = field(default=(), repr=False)
    naming: Naming | None = field(default=None, repr=False)
    why: str = ""
    carried: frozenset[int] | None = None

    @property
    def not_found(self) -> bool:
        """Whether a copy that answers a quarter of *its* keys would have shown."""
        return quarter_of_a_copy_would_show(self.readings, weight=1 if self.code is None else self._parsed.weight)

    def verdict(self, decided: Verdict) -> Verdict:
        """Return the verdict of the family's audit, given that on the family as a whole."""
        if not self.words:
            return decided
        return family_verdict(decided, self.readings, weight=self._parsed.weight, named=bool(self.named))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever reads the names should beware of, in sentences."""
        if self.code is None or not any(RULE_A in item.rules for item in self.named):
            return ()
        return several_words(self.words, colluders=self.code.colluders)

    @property
    def named(self) -> tuple[Suspected, ...]:
        """Licensees that are named."""
        return () if self.naming is None else self.naming.named

    def named_json(self, audit: str) -> list[dict[str, Any]]:
        """Return one object for every licensee that is named.

        Args:
            audit: id of the family's audit.
        """
        return [
            {
                **self._licensee_json(item),
                "key_set": self.record.id,
                "name": self.record.name,
                "p_value_corrected": as_float(max(item.p_value, self.p_value_corrected)),
                "rule": min(item.rules, key=lambda rule: (item.rules[rule], rule)),
                "audit_id": audit,
            }
            for item in self.named
        ]

    @property
    def marks_json(self) -> list[dict[str, Any]]:
        """One object for every mark."""
        return [
            {
                "key_set": self.record.id,
                "name": self.record.name,
                "mark": reading.mark,
                "state": reading.state.value,
                "p_value": as_float(reading.p_value),
                "p_value_corrected": as_float(reading.p_value_corrected),
                "tests": {name: as_float(p_value) for name, p_value in reading.tests.items()},
                "matched": reading.matched,
                "keys": reading.keys,
                "coefficient": reading.share,
                "told_by": list(reading.told_by),
            }
            for reading in self.readings
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the family's object: how it was read, and who is how likely."""
        naming = self.naming
        return {
            "key_set": self.record.id,
            "name": self.record.name,
            "found": self.found,
            "p_value_corrected": as_float(self.p_value_corrected),
            "code": None if self.code is None else self.code.text,
            "colluders": None if self.code is None else self.code.colluders,
            "epsilon": None if self.code is None else self.code.epsilon,
            "rules": [] if self.code is None else list(naming_rules(self._parsed, self.code.colluders)),
            "words": len(self.words),
            "present": sorted(present(self.readings)),
            "needed": {} if naming is None else dict(naming.needed),
            "covered": None if naming is None else naming.covered,
            "licensees": []
            if naming is None
            else [self._licensee_json(item) for item in naming.suspected[:MOST_RANKED]],
            "why": self.why,
            "own_copy": self._own_copy_json(),
            "calibration": CALIBRATION,
        }

    def _own_copy_json(self) -> dict[str, list[int]] | None:
        """Return how well an own copy was read: what calibrates p-values of single marks."""
        if self.carried is None:
            return None
        seen = present(self.readings)
        return {
            "marks": sorted(self.carried),
            "missed": sorted(self.carried - seen),
            "wrong": sorted(seen - self.carried),
        }

    @property
    def _parsed(self) -> Code:
        assert self.code is not None
        return parse_code(self.code.text, marks=len(self.readings))

    def _licensee_json(self, item: Suspected) -> dict[str, Any]:
        word = self.words[item.number]
        return {
            "licensee": word.licensee,
            "number": item.number,
            "state": word.state.value,
            "shared": item.shared,
            "weight": self._parsed.weight,
            "colluders": item.colluders,
            "named": bool(item.rules),
            "rules": {rule: as_float(max(p_value, self.p_value_corrected)) for rule, p_value in item.rules.items()},
        }


def family_terms(records: Sequence[KeySetRecord], registry: "Registry") -> dict[str, FamilyTerms]:
    """Return by what terms licensees may be named, by key set: of the families that have words.

    Args:
        records: all key sets that are traced together.
        registry: where codes and words are.
    """
    families = [record for record in records if record.commitment.marks > 1]
    found = {}
    with registry.unit_of_work() as uow:
        for record in families:
            code = uow.code_words.code_of(record.id)
            if code is not None and (words := uow.code_words.words(code)):
                found[record.id] = FamilyTerms.of(code, words, families=len(families))
    return found


def read_family(
    case: Case,
    scored: Score,
    *,
    found: bool,
    p_value_corrected: Fraction,
    registry: "Registry",
    families: int,
) -> FamilyReading:
    """Read the marks of a family that was asked for, and name licensees where the family was found.

    Args:
        case: the family's key set and its finished transcript, with what was measured of the suspect's weights.
        scored: what the transcript says of the family as a whole.
        found: whether that names the family.
        p_value_corrected: of the family as a whole.
        registry: where code and words are; that words are derived is a ledger entry.
        families: how many families are read together.

    Raises:
        RegistryError: the vault cannot give the words.
    """
    readings = _readings(case, scored, families)
    terms = case.plan.family
    with registry.unit_of_work() as uow:
        carried = _carried(uow, case)
        code = uow.code_words.code_of(case.record.id)
        if code is None or terms is None:
            why = NO_CODE if code is None else NO_WORDS
            return FamilyReading(case.record, found, p_value_corrected, readings, code, why=why, carried=carried)
        words = uow.code_words.words(code)[: terms.licensees]
        held = (
            dict(enumerate(recorded_words(uow, case.record, code, words, purpose=f"trace {case.keeper.identifier}")))
            if found
            else {}
        )
    finding = judge_family(scored, readings, terms, found=found, held=held)
    return FamilyReading(
        case.record, found, p_value_corrected, readings, code, words, finding.naming, finding.why, carried=carried
    )


def _carried(uow: "UnitOfWork", case: Case) -> frozenset[int] | None:
    """Return the marks of a family that a suspect was stamped with, None where it is no own copy."""
    stamps = uow.stamps.of_model(case.plan.suspect["digest"])
    vectors = [uow.vectors.find(identifier) for stamp in stamps for identifier, _ in stamp.vectors]
    marks = [vector.mark for vector in vectors if vector is not None and vector.key_set == case.record.id]
    return frozenset(marks) if stamps else None


def _readings(case: Case, scored: Score, families: int) -> tuple[MarkReading, ...]:
    responses = {candidate.index: candidate.response for candidate in case.key_set.candidates}
    return read_family_marks(
        case.plan,
        case.keeper.records,
        scored,
        marks=case.key_set.marks,
        families=families,
        scores=rank_scores(case.plan, case.keeper.records, responses=responses),
    )
