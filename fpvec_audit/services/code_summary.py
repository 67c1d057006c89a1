"""Choose a family's code, and say what it can bear before anything is recorded.

Words belong to the key set: they can be issued before its training, and another training of the same keys keeps them.
A code is chosen once, with the first word; from then on all words are bound, in an order that nobody can change
(``domain/code_words.py``). Issuing them is the business of ``services/family_codes.py``.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.audit_plan import DEFAULT_ALPHA
from fpvec_audit.domain.code_choice import (
    DEFAULT_EPSILON,
    Demand,
    bears,
    chance_bound,
    chosen_code,
    fewest_marks_text,
    naming_rules,
    proposals,
)
from fpvec_audit.domain.code_records import CodeRecord, WordState
from fpvec_audit.domain.codes import RULE_A, RULE_B, Code, expected_intersection, most_colluders, parse_code
from fpvec_audit.domain.decimals import decimal_number
from fpvec_audit.domain.family import WeightCost
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.errors import UsageError
from fpvec_audit.services.family import find_family
from fpvec_audit.services.keys import matches_needed

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

DEFAULT_COLLUDERS = (3, 2, 1)
"""Coalitions that are tried, in this order, where nothing is asked for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the owner asks of a family's code; everything may be left out.

    Attributes:
        code: as it is written, empty for one that is proposed.
        licensees: how many words there shall be; as many as marks, and at least as many as get one at once, when None.
        colluders: c; the largest of :data:`DEFAULT_COLLUDERS` that the marks carry when None.
        epsilon: for random words, decimal text; :data:`DEFAULT_EPSILON` when None.
        at_once: how many get a word right now.
    """

    code: str = ""
    licensees: int | None = None
    colluders: int | None = None
    epsilon: str | None = None
    at_once: int = 0

    def demanded(self, marks: int) -> int:
        """Return how many licensees a code over so many marks is for."""
        return self.licensees or max(marks, self.at_once)


NOTHING = Wanted()


@dataclass(frozen=True, slots=True)
class CodeSummary:
    """A family's code, and what it can bear.

    Attributes:
        key_set: whose marks it is over.
        code: the code.
        colluders: c that it shall bear; 0 where rule B alone names.
        epsilon: chance that rule B names anybody wrongly, at most, as decimal text.
        issued: words in use.
        retired: words out of use.
        keys_needed: how many keys must match, and no decoy, for the family's MATCH; None where all are too few.
        planned: licensees that a proposal was asked for; 0 where it was not said.
        costs: what copies lose, by weight, as the family's training measured it; empty before it.
        created_at: when it was chosen, ISO 8601; empty for a proposal.
    """

    key_set: KeySetRecord
    code: Code
    colluders: int
    epsilon: str
    issued: int = 0
    retired: int = 0
    keys_needed: int | None = None
    planned: int = 0
    costs: Sequence[WeightCost] = ()
    created_at: str = ""

    @property
    def keys_of_a_copy(self) -> int:
        """How many keys a whole copy answers."""
        commitment = self.key_set.commitment
        return self.code.weight * (commitment.issued // commitment.marks)

    @property
    def rules(self) -> tuple[str, ...]:
        """By which rules licensees are named."""
        return naming_rules(self.code, self.colluders)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What it cannot do, in sentences."""
        told = []
        if self.keys_needed is None or self.keys_of_a_copy < self.keys_needed:
            needed = "even all keys are too few" if self.keys_needed is None else f"{self.keys_needed} must match"
            told.append(
                f"a whole copy answers {self.keys_of_a_copy} keys, and for a MATCH at {DEFAULT_ALPHA} {needed}: its "
                "answers alone can never name anybody; issue more decoys, or choose a code of more weight"
            )
        if self.rules == (RULE_A,) and self.colluders == 1:
            told.append("c = 1: it names nobody rightly once two licensees pool their copies")
        if self.key_set.commitment.marks > self.code.marks:
            told.append(f"{self.key_set.commitment.marks - self.code.marks} of the family's marks are in no word")
        return tuple(told)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read; it holds no word."""
        code, given = self.code, self.issued + self.retired
        return {
            "key_set": self.key_set.id,
            "name": self.key_set.name,
            "code": code.text,
            "rules": list(self.rules),
            "colluders": self.colluders,
            "most_colluders": most_colluders(code),
            "epsilon": self.epsilon,
            "family_marks": self.key_set.commitment.marks,
            "marks": code.marks,
            "weight": code.weight,
            "capacity": code.words,
            "issued": self.issued,
            "retired": self.retired,
            "left": code.words - given,
            "intersection": code.intersection,
            "expected_intersection": expected_intersection(code),
            "keys_of_a_copy": self.keys_of_a_copy,
            "keys_needed": self.keys_needed,
            "bound": self._bound(max(given, self.planned, 1)),
            "cost_by_weight": [asdict(cost) for cost in self.costs],
            "chosen_at": self.created_at or None,
            "warnings": list(self.warnings),
        }

    def _bound(self, licensees: int) -> dict[str, float] | None:
        """Return, by number of copies whose marks are all seen, how likely an innocent shares a whole word."""
        if RULE_B not in self.rules:
            return None
        return {
            str(copies): float(
                chance_bound(
                    self.code,
                    licensees=licensees,
                    seen=min(self.code.marks, copies * self.code.weight),
                    shared=self.code.weight,
                )
            )
            for copies in (1, 2, 3)
        }


def family_code(family: str, *, registry: "Registry", wanted: Wanted = NOTHING) -> CodeSummary:
    """Return a family's code, or the one that would be chosen; nothing is recorded.

    Args:
        family: name or id of a key set, or id of a vector family.
        registry: where it is recorded.
        wanted: what a new code shall bear.

    Raises:
        UnknownNameError: there is no such family.
        UsageError: it has no marks, they do not carry what is wanted, or it has another code already.
    """
    with registry.snapshot() as uow:
        key_set = marked_key_set(uow, family)
        known = uow.code_words.code_of(key_set.id)
        return proposed_code(uow, key_set, wanted) if known is None else known_code(uow, key_set, known, wanted)


def code_in_use(uow: "UnitOfWork", key_set: KeySetRecord) -> CodeRecord:
    """Return a family's code.

    Raises:
        UsageError: it has none yet.
    """
    code = uow.code_words.code_of(key_set.id)
    if code is None:
        raise UsageError(
            f"the family {key_set.name!r} has no code yet, so nobody has a word of it",
            advice=f"`fpvec licensee add NAME --family {key_set.name}` chooses one",
        )
    return code


def marked_key_set(uow: "UnitOfWork", family: str) -> KeySetRecord:
    """Return the key set of a family, which has several marks.

    Raises:
        UnknownNameError: there is no such family.
        UsageError: its key set has one mark.
    """
    key_set = uow.code_words.key_set_of(family)
    if key_set.commitment.marks == 1:
        raise UsageError(
            f"key set {key_set.name!r} has one mark, so that every copy is alike",
            advice="issue a family: `fpvec key issue NAME --marks M`",
        )
    return key_set


def known_code(uow: "UnitOfWork", key_set: KeySetRecord, record: CodeRecord, wanted: Wanted = NOTHING) -> CodeSummary:
    """Return what a code bears that was chosen before.

    Raises:
        UsageError: something is wanted of it, which comes too late.
    """
    code = parse_code(record.text, marks=key_set.commitment.marks)
    if _other_than(record, code, wanted):
        raise UsageError(
            f"the family {key_set.name!r} has the code {record.text} since {record.created_at:%Y-%m-%d}, for "
            f"coalitions of {record.colluders}",
            advice="a code is chosen once: leave --code, --licensees, --colluders and --epsilon out, or issue another "
            "key set",
        )
    counts = uow.code_words.counts(record)
    return CodeSummary(
        key_set,
        code,
        record.colluders,
        record.epsilon,
        issued=counts[WordState.ISSUED],
        retired=counts[WordState.RETIRED],
        keys_needed=_keys_needed(key_set),
        costs=_measured_costs(uow, key_set.id),
        created_at=record.created_at.isoformat(),
    )


def _other_than(record: CodeRecord, code: Code, wanted: Wanted) -> bool:
    """Return whether what is wanted is not what was chosen; saying the same again is no other."""
    return (
        (bool(wanted.code) and parse_code(wanted.code, marks=code.marks).text != code.text)
        or (wanted.licensees or 0) > code.words
        or wanted.colluders not in (None, record.colluders)
        or (wanted.epsilon is not None and _fraction(wanted.epsilon) != Fraction(record.epsilon))
    )


def proposed_code(uow: "UnitOfWork", key_set: KeySetRecord, wanted: Wanted) -> CodeSummary:
    """Return the code that a family would get.

    Raises:
        UsageError: its marks do not carry what is wanted; says how many would.
    """
    marks = key_set.commitment.marks
    needed = _keys_needed(key_set)
    text = DEFAULT_EPSILON if wanted.epsilon is None else wanted.epsilon
    epsilon = _fraction(text)
    if wanted.code:
        code, colluders = _named(wanted, marks, epsilon)
    else:
        each = key_set.commitment.issued // marks
        least = 1 if needed is None else -(-needed // each)
        code, colluders = _suggested(wanted, marks, epsilon, least_weight=min(least, marks))
    return CodeSummary(
        key_set, code, colluders, text,
        keys_needed=needed, planned=wanted.licensees or wanted.at_once, costs=_measured_costs(uow, key_set.id),
    )  # fmt: skip


def _named(wanted: Wanted, marks: int, epsilon: Fraction) -> tuple[Code, int]:
    """Return the code that was named, and the coalitions that it shall bear."""
    if wanted.colluders is not None and wanted.colluders < 1:
        raise UsageError(
            f"--colluders {wanted.colluders} is no coalition: nobody could ever be named",
            advice="give at least 1, or leave it out",
        )
    code = parse_code(wanted.code, marks=marks)
    largest = min(most_colluders(code), code.words) if code.rule == RULE_A else 0
    colluders = largest if wanted.colluders is None else wanted.colluders
    demand = Demand(wanted.licensees or max(1, wanted.at_once), max(1, colluders), epsilon)
    if code.words < demand.licensees or (colluders and not bears(code, demand)):
        raise UsageError(
            f"{code.text} has {code.words} words, and bears coalitions of {most_colluders(code)}; {demand.licensees} "
            f"words and coalitions of {demand.colluders} take {fewest_marks_text(proposals(demand))}",
            advice="choose another --code, or ask for less",
        )
    if not colluders:
        refuse_beyond_chance(code, min(wanted.demanded(marks), code.words), epsilon)
    return code, colluders


def refuse_beyond_chance(code: Code, licensees: int, epsilon: Fraction) -> None:
    """Refuse so many licensees that by rule B alone not even a whole, unaltered copy would name anybody.

    Raises:
        UsageError: they are too many; says how many marks it would take.
    """
    chance = chance_bound(code, licensees=licensees, seen=code.weight, shared=code.weight)
    if chance > epsilon:
        raise UsageError(
            f"among {licensees} licensees somebody innocent has all marks of a whole copy by {code.text} with a chance "
            f"of up to {float(chance):.2g}, more than ε = {float(epsilon):g}: nobody could be named; {licensees} "
            f"licensees take {fewest_marks_text(proposals(Demand(licensees, 1, epsilon)))}",
            advice="choose a code of more weight, a larger --epsilon, or fewer licensees",
        )


def _suggested(wanted: Wanted, marks: int, epsilon: Fraction, *, least_weight: int) -> tuple[Code, int]:
    """Return a code that bears what is wanted, or the most that marks bear where nothing is, and its coalitions."""
    licensees = wanted.demanded(marks)
    tried = DEFAULT_COLLUDERS if wanted.colluders is None else (wanted.colluders,)
    for colluders in tried:
        try:
            return chosen_code(Demand(licensees, colluders, epsilon, least_weight), marks=marks), colluders
        except UsageError:
            if colluders == tried[-1]:
                raise
    raise AssertionError("the last one returns or raises")


def _measured_costs(uow: "UnitOfWork", key_set: str) -> tuple[WeightCost, ...]:
    family = find_family(uow, key_set)
    return () if family is None else family.report.costs


def _keys_needed(key_set: KeySetRecord) -> int | None:
    commitment = key_set.commitment
    return matches_needed(commitment.issued, commitment.candidates - commitment.issued, grade=key_set.grade)


def _fraction(epsilon: str) -> Fraction:
    try:
        value = decimal_number(epsilon)
    except ValueError:
        value = Fraction(0)
    if not 0 < value < 1:
        raise UsageError(f"--epsilon {epsilon} is no decimal number between 0 and 1", advice="1e-3, for example")
    return value
