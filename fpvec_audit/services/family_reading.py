"""Read a family's marks out of an interview that was held anyway, and say whose copy it is.

The gate comes first: nobody is named unless the family as a whole is found by the tests that every key set goes
through. Then marks, then licensees (``domain/mark_reading.py``, ``domain/naming.py``). All words are derived at once,
so that a thousand licensees take hardly longer than ten.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.audit import NO_MATCH_CEILING, Score, rank_scores
from fpvec_audit.domain.audit_plan import EXACT
from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord
from fpvec_audit.domain.codes import Code, parse_code
from fpvec_audit.domain.mark_reading import MarkReading, present, read_marks
from fpvec_audit.domain.naming import Naming, Suspected, name_licensees
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.statistics import upper_bound
from fpvec_audit.services.audit_result import as_float
from fpvec_audit.services.code_summary import naming_rules
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
NOT_FOUND = "the family as a whole was not found"
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
        """Whether so few keys were answered that a copy which answers a quarter of *its* keys would have shown.

        A copy carries some of the marks only, so a quarter of the family's keys is more than it may have.
        """
        weight = 1 if self.code is None else self._parsed.weight
        matched, keys = sum(item.matched for item in self.readings), sum(item.keys for item in self.readings)
        return keys > 0 and upper_bound(matched, keys) * len(self.readings) < NO_MATCH_CEILING * weight

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
            "rules": {rule: as_float(p_value) for rule, p_value in item.rules.items()},
        }


def read_family(
    case: Case,
    scored: Score,
    *,
    found: bool,
    p_value_corrected: Fraction,
    registry: "Registry",
    families: int,
    shares: Mapping[int, float],
) -> FamilyReading:
    """Read the marks of a family that was asked for, and name licensees where the family was found.

    Args:
        case: the family's key set and its finished transcript.
        scored: what the transcript says of the family as a whole.
        found: whether that names the family.
        p_value_corrected: of the family as a whole.
        registry: where code and words are; that words are derived is a ledger entry.
        families: how many families are read together.
        shares: λ̂ by mark, of the marks whose vectors were compared with the suspect's weights.

    Raises:
        RegistryError: the vault cannot give the words.
    """
    readings = _readings(case, scored, families, shares)
    with registry.unit_of_work() as uow:
        carried = _carried(uow, case)
        code = uow.code_words.code_of(case.record.id)
        words = () if code is None else uow.code_words.words(code)
        why = NO_CODE if code is None else NO_WORDS if not words else "" if found else NOT_FOUND
        if code is None or why:
            return FamilyReading(case.record, found, p_value_corrected, readings, code, words, why=why, carried=carried)
        marks = recorded_words(uow, case.record, code, words, purpose=f"trace {case.keeper.identifier}")
    parsed = parse_code(code.text, marks=len(readings))
    naming = name_licensees(
        readings,
        parsed,
        marks,
        rules=naming_rules(parsed, code.colluders),
        colluders=code.colluders,
        epsilon=Fraction(code.epsilon),
        families=families,
    )
    return FamilyReading(
        case.record, found, p_value_corrected, readings, code, words, naming, naming.why, carried=carried
    )


def _carried(uow: "UnitOfWork", case: Case) -> frozenset[int] | None:
    """Return the marks of a family that a suspect was stamped with, None where it is no own copy."""
    stamps = uow.stamps.of_model(case.plan.suspect["digest"])
    vectors = [uow.vectors.find(identifier) for stamp in stamps for identifier, _ in stamp.vectors]
    marks = [vector.mark for vector in vectors if vector is not None and vector.key_set == case.record.id]
    return frozenset(marks) if stamps else None


def _readings(case: Case, scored: Score, families: int, shares: Mapping[int, float]) -> tuple[MarkReading, ...]:
    population = set(case.plan.population)
    issued = set(case.key_set.issued_indices)
    return read_marks(
        [[index for index in mark if index in population] for mark in case.key_set.marks],
        [index for index in case.plan.population if index not in issued],
        matched=frozenset((*scored.matched_indices, *scored.decoys_matched_indices)),
        exact=EXACT,
        scores=rank_scores(
            case.plan,
            case.keeper.records,
            responses={candidate.index: candidate.response for candidate in case.key_set.candidates},
        ),
        alpha=Fraction(case.plan.alpha),
        families=families,
        shares=shares,
    )
