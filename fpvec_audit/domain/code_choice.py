"""Which codes serve how many licensees against how many colluders, and how many marks that takes.

By rule A a code bears coalitions of c where its weight exceeds c·μ. Random words have no such guarantee; they count as
bearing c where a coalition of c *all* of whose marks are seen is named: L·P(Hypergeometric(M, w, c·w) ≥ w) ≤ ε.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from fpvec_audit.domain.codes import (
    MOST_MARKS,
    RULE_A,
    RULE_B,
    AffinePlane,
    Code,
    RandomWords,
    ReedSolomon,
    most_colluders,
)
from fpvec_audit.domain.finite_field import prime_powers
from fpvec_audit.domain.statistics import hypergeometric_p_value
from fpvec_audit.errors import UsageError

DEFAULT_EPSILON = "1e-3"
"""Chance that rule B names anybody wrongly, at most, over all licensees of a family."""
MOST_DIMENSION = 24
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Demand:
    """What a family's code shall bear.

    Attributes:
        licensees: how many words are wanted.
        colluders: c, how many licensees may pool their copies.
        epsilon: for random words, the chance that anybody is named wrongly.
        least_weight: fewest marks that a copy must have, so that its keys are enough for a MATCH.
    """

    licensees: int
    colluders: int
    epsilon: Fraction = Fraction(DEFAULT_EPSILON)
    least_weight: int = 1

    def __post_init__(self) -> None:
        if self.licensees < 1 or self.colluders < 1:
            raise UsageError(
                f"a code for {self.licensees} licensees and coalitions of {self.colluders} cannot be meant",
                advice="both are at least 1",
            )


def naming_rules(code: Code, colluders: int) -> tuple[str, ...]:
    """Return the rules by which licensees are named: A as far as the code bears coalitions of c, B for random words."""
    by_assumption = 1 <= colluders <= most_colluders(code)
    return (*((RULE_A,) if by_assumption else ()), *((RULE_B,) if code.rule == RULE_B else ()))


def chance_bound(code: Code, *, licensees: int, seen: int, shared: int) -> Fraction:
    """Return how likely it is, at most, that *any* innocent shares so many of the marks that are seen (rule B).

    Whatever a coalition does, and whichever marks are read wrongly, the word of an innocent is uniform over the words
    that the coalition does not hold; at most L − 1 words are held. So each innocent shares at least ``shared`` with
    probability at most C/(C − L + 1)·P(Hypergeometric(M, w, seen) ≥ shared), C the number of all words.

    Args:
        code: random words.
        licensees: L, all that were ever issued a word.
        seen: |Y|, marks of the code that are PRESENT.
        shared: how many of them a word has.

    Returns:
        The bound over all licensees together, at most 1.
    """
    if shared > min(code.weight, seen):
        return Fraction(0)
    others = code.words - licensees + 1
    if others < 1 or shared <= max(0, code.weight + seen - code.marks):
        return Fraction(1)
    tail = hypergeometric_p_value(candidates=code.marks, issued=code.weight, matched=seen, issued_matched=shared)
    return min(Fraction(1), licensees * Fraction(code.words, others) * tail)


def shares_needed(code: Code, *, licensees: int, seen: int, epsilon: Fraction) -> int | None:
    """Return how many of the marks that are seen a word must have to be named by rule B; None where all are too few."""
    for shared in range(max(0, seen - code.marks + code.weight), min(code.weight, seen) + 1):
        if chance_bound(code, licensees=licensees, seen=seen, shared=shared) <= epsilon:
            return shared
    return None


def bears(code: Code, demand: Demand) -> bool:
    """Return whether a code has the words for a demand, and bears its coalitions."""
    if code.words < demand.licensees or code.weight < demand.least_weight:
        return False
    if demand.colluders <= most_colluders(code):
        return True
    if code.rule == RULE_A:
        return False
    seen = min(code.marks, demand.colluders * code.weight)
    return chance_bound(code, licensees=demand.licensees, seen=seen, shared=code.weight) <= demand.epsilon


def proposals(demand: Demand) -> tuple[Code, ...]:
    """Return the codes worth having for a demand: by each rule, those with fewer marks than all that weigh less.

    A smaller weight costs a copy less of its usefulness, fewer marks cost less training. Rule A first, lighter first.
    """
    best: dict[str, list[Code]] = {RULE_A: [], RULE_B: []}
    fitting = [code for code in _candidates(demand) if bears(code, demand)]
    for code in sorted(fitting, key=lambda code: (code.weight, code.marks, code.text)):
        worth = best[rule_for(code, demand)]
        if not worth or code.marks < worth[-1].marks:
            worth.append(code)
    return tuple(best[RULE_A] + best[RULE_B])


def chosen_code(demand: Demand, *, marks: int) -> Code:
    """Return the code of least weight that a family of so many marks carries; by rule A where one does.

    Raises:
        UsageError: none does; says how many marks it would take.
    """
    fitting = [code for code in _candidates(demand) if code.marks <= marks and bears(code, demand)]
    if not fitting:
        everything = proposals(demand)
        raise UsageError(
            f"{marks} marks cannot tell {demand.licensees} licensees apart {_pooled(demand)}: that takes "
            f"{fewest_marks_text(everything)}",
            advice="issue a key set with that many --marks, or ask for fewer --licensees or --colluders",
        )
    best = min(fitting, key=lambda code: (rule_for(code, demand), code.weight, code.marks))
    return _spread(best, marks)


def _spread(code: Code, marks: int) -> Code:
    """Return the code of the same weight that has the most words over the marks there are."""
    if isinstance(code, ReedSolomon):
        order = max(prime_powers(code.order, marks // code.length))
        return ReedSolomon(order, code.dimension, code.length)
    return RandomWords(code.weight, marks) if isinstance(code, RandomWords) else code


def fewest_marks_text(codes: tuple[Code, ...]) -> str:
    """Return how many marks a demand takes, in words: with the fewest marks, and some that weigh less."""
    if not codes:
        return f"more than {MOST_MARKS} marks, the most a family has"
    fewest = sorted(codes, key=lambda code: code.marks)[:_SHOWN]
    return " or ".join(f"{code.marks} marks ({code.text}, {code.weight} in a copy)" for code in fewest)


def _pooled(demand: Demand) -> str:
    if demand.colluders == 1:
        return "even when nobody pools copies"
    return f"when {demand.colluders} of them pool their copies"


def rule_for(code: Code, demand: Demand) -> str:
    """Return the rule by which a code bears a demand: A as far as its coalitions go, else its own."""
    return RULE_A if demand.colluders <= most_colluders(code) else code.rule


def _candidates(demand: Demand) -> Iterator[Code]:
    """Yield, of every construction and weight, the smallest code that can serve."""
    orders = prime_powers(2, MOST_MARKS)
    for order in orders:
        heavy = order > demand.colluders and order >= demand.least_weight
        if heavy and order**2 <= MOST_MARKS and order**2 + order >= demand.licensees:
            yield AffinePlane(order)
            break
    for dimension in range(1, MOST_DIMENSION + 1):
        length = max(demand.colluders * (dimension - 1) + 1, demand.least_weight)
        for order in orders:
            if order * length > MOST_MARKS:
                break
            if order >= length and order**dimension >= demand.licensees:
                yield ReedSolomon(order, dimension, length)
                break
    for weight in range(demand.least_weight, MOST_MARKS // (demand.colluders + 1)):
        smallest = _smallest_random(weight, demand)
        if smallest is not None:
            yield smallest


def _smallest_random(weight: int, demand: Demand) -> RandomWords | None:
    """Return random words of a weight over the fewest marks that bear a demand, found by halves."""
    low, high = weight, MOST_MARKS
    if not _random_bears(weight, high, demand):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _random_bears(weight, middle, demand) else (middle + 1, high)
    return RandomWords(weight, low)


def _random_bears(weight: int, marks: int, demand: Demand) -> bool:
    """Return what :func:`bears` does for random words, without a sum: all of a word's marks are among those seen."""
    words = comb(marks, weight)
    if words < demand.licensees:
        return False
    if demand.colluders == 1:
        return True
    seen = min(marks, demand.colluders * weight)
    others = words - demand.licensees + 1
    return demand.licensees * comb(seen, weight) * demand.epsilon.denominator <= others * demand.epsilon.numerator
