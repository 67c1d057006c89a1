"""How large a family must be that serves so many licensees: what to issue, before there is anything to ask.

Marks, keys and code hang together. More marks mean more keys of which a whole copy answers a smaller part, so the
lightest code with which a copy's own keys still make a MATCH is not known before the number of marks is.
"""

from dataclasses import dataclass
from fractions import Fraction

from fpvec_audit.domain.code_choice import DEFAULT_EPSILON, Demand, fewest_marks_text, proposals
from fpvec_audit.domain.codes import MOST_MARKS, RULE_A, Code, most_colluders
from fpvec_audit.domain.keys import SELF_ATTESTED, KeySetSpecification
from fpvec_audit.domain.marks import family_specification
from fpvec_audit.errors import UsageError
from fpvec_audit.services.keys import matches_needed

MOST_WEIGHT = 24
"""Codes up to this weight are looked at: lighter ones cost a copy less, and reach everything that families can."""


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """What to issue, and the code that it is for.

    Attributes:
        specification: of the key set.
        code: one of its copies answers enough keys for a MATCH.
        colluders: the largest coalitions that the code bears.
    """

    specification: KeySetSpecification
    code: Code
    colluders: int


def plan_family(
    licensees: int, *, colluders: int, most_marks: int = MOST_MARKS, grade: str = SELF_ATTESTED
) -> FamilyPlan:
    """Return the family with the fewest marks that serves licensees; keys and decoys are those of `fpvec key issue`.

    Args:
        licensees: how many get a copy of their own.
        colluders: c, how many of them may pool their copies.
        most_marks: more are not wanted.
        grade: of the key set that will be issued.

    Raises:
        UsageError: numbers that cannot be meant, or that take more marks; says how many.
    """
    fitting = [
        code
        for weight in range(1, MOST_WEIGHT + 1)  # asked for a heavier one, the code with the fewest marks is another
        for code in proposals(Demand(licensees, colluders, Fraction(DEFAULT_EPSILON), least_weight=weight))
        if _enough(code, grade)
    ]
    lightest = sorted(fitting, key=lambda code: (code.marks, code.weight))[:1]
    if not lightest or lightest[0].marks > most_marks:
        raise UsageError(
            f"{licensees} licensees, {colluders} of whom may pool their copies, take "
            f"{fewest_marks_text(tuple(lightest))}; {most_marks} are the most here",
            advice="ask for fewer licensees",
        )
    (code,) = lightest
    return FamilyPlan(
        family_specification(code.marks), code, most_colluders(code) if code.rule == RULE_A else colluders
    )


def _enough(code: Code, grade: str) -> bool:
    """Return whether a whole copy answers enough keys of its family for a MATCH."""
    if code.marks > MOST_MARKS or code.marks < 2:
        return False
    specification = family_specification(code.marks)
    needed = matches_needed(specification.issued, specification.decoys, grade=grade)
    return needed is not None and code.weight * (specification.issued // code.marks) >= needed
