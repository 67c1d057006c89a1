"""Who may be named for the marks that a suspect shows, by which rule, and against how many colluders.

Let Y be the marks that are PRESENT and W_j the word of licensee j.

Rule A rests on the marking assumption – pooling copies invents no marks, so Y lies in the union of the colluders' words
– and on copies with at most c different words; a licensee who was given several words may hold as many. Two words share
at most μ marks, so an innocent shares at most c·μ with that union: j is named where |Y ∩ W_j| ≥ c·μ + 1. Whoever is
named stands in *every* set of at most c issued words that covers Y. Where no such set exists, the assumption does not
hold, and nobody is named.

Rule B assumes nothing about the suspect: words are uniform and secret, so whatever Y is, an innocent shares so many
marks with it by chance alone. j is named where that chance, over all licensees together, is at most ε.

Words are found through an index from marks to licensees, so the time grows with what is shared and not with the number
of licensees.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from fpvec_audit.domain.code_choice import chance_bound
from fpvec_audit.domain.codes import RULE_A, RULE_B, Code, most_colluders
from fpvec_audit.domain.mark_reading import WEIGHTS, MarkReading, present

MOST_COPIES = 4
"""Coalitions that are looked for beyond c, to say what shared marks would bear."""
MOST_STEPS = 20_000
"""Steps of the search for a set of words that covers all marks; where they run out, such a set is taken to exist."""


@dataclass(frozen=True, slots=True)
class Suspected:
    """A licensee some of whose marks are PRESENT.

    Attributes:
        number: of the word.
        shared: |Y ∩ W|.
        colluders: largest c for which rule A would name the licensee, 0 for none; all licensees where words share
            nothing.
        rules: the rules that name the licensee → p-value over all licensees together. Marks that the weights alone tell
            have none, and add nothing to that of rule A: what then bounds it is the family's own.
    """

    number: int
    shared: int
    colluders: int
    rules: Mapping[str, Fraction]

    @property
    def p_value(self) -> Fraction:
        """Smallest p-value of the rules that name the licensee, 1 where none does."""
        return min(self.rules.values(), default=Fraction(1))


@dataclass(frozen=True, slots=True)
class Naming:
    """Who is named.

    Attributes:
        present: Y.
        suspected: licensees that share a mark with Y, the likeliest first.
        needed: shared marks that each rule asks for; None where no number is enough.
        covered: whether at most c words cover Y; None where rule A was not asked.
        why: why nobody is named, in a sentence; empty where somebody is.
    """

    present: frozenset[int]
    suspected: tuple[Suspected, ...]
    needed: Mapping[str, int | None] = field(default_factory=dict)
    covered: bool | None = None
    why: str = ""

    @property
    def named(self) -> tuple[Suspected, ...]:
        """Licensees that a rule names."""
        return tuple(item for item in self.suspected if item.rules)


def name_licensees(
    readings: Sequence[MarkReading],
    code: Code,
    words: Sequence[Sequence[int]],
    *,
    rules: Sequence[str],
    colluders: int,
    epsilon: Fraction,
    families: int = 1,
) -> Naming:
    """Say who may be named for the marks that were read, all issued words at hand.

    Args:
        readings: of all marks of the family.
        code: its code.
        words: the marks of every word that was ever issued, by number.
        rules: by which to name.
        colluders: c of rule A.
        epsilon: chance of naming anybody wrongly by rule B, at most.
        families: how many are read together.
    """
    return name_holders(
        readings,
        code,
        dict(enumerate(words)),
        licensees=len(words),
        pool=words,
        rules=rules,
        colluders=colluders,
        epsilon=epsilon,
        families=families,
    )


def name_holders(
    readings: Sequence[MarkReading],
    code: Code,
    held: Mapping[int, Sequence[int]],
    *,
    licensees: int,
    pool: Sequence[Sequence[int]] | None,
    rules: Sequence[str],
    colluders: int,
    epsilon: Fraction,
    families: int = 1,
) -> Naming:
    """Say who of some licensees may be named, whatever the words of the others are: what a stranger recomputes.

    Args:
        readings: of all marks of the family.
        code: its code.
        held: the marks of each word that is known, by number.
        licensees: L, how many words were ever issued.
        pool: words of which at most c must hold all that is seen: those issued, or all that the code has; None where
            they are too many, which is taken as held.
        rules: by which to name.
        colluders: c of rule A.
        epsilon: chance of naming anybody wrongly by rule B, at most.
        families: how many are read together.
    """
    seen = present(readings)
    shared = _shared(held, seen)
    if not seen:
        return Naming(seen, (), why="no mark is PRESENT")
    needed: dict[str, int | None] = {}
    covered, smallest = None, None
    if RULE_A in rules:
        needed[RULE_A] = colluders * code.intersection + 1
        largest = max(colluders, min(most_colluders(code), MOST_COPIES))
        smallest = _fewest(seen, code) if pool is None else _smallest_cover(pool, seen, code, most=largest)
        covered = smallest is not None and smallest <= colluders
    if RULE_B in rules:
        chances = _chances(code, licensees, seen, families)
        needed[RULE_B] = next((count for count, chance in enumerate(chances) if chance <= epsilon), None)
    corrected = [Fraction(0) if reading.told_by == (WEIGHTS,) else reading.p_value_corrected for reading in readings]
    suspected = []
    for number, count in shared.items():
        naming = {}
        if covered and count >= (needed[RULE_A] or 0):
            ascending = sorted(corrected[mark] for mark in held[number])
            naming[RULE_A] = ascending[colluders * code.intersection]
        if RULE_B in rules and chances[count] <= epsilon:
            naming[RULE_B] = chances[count]
        borne = _colluders_borne(code, count, licensees)
        suspected.append(Suspected(number, count, borne if smallest is not None and borne >= smallest else 0, naming))
    suspected.sort(key=lambda item: (not item.rules, item.p_value, -item.shared, item.number))
    why = (
        ""
        if any(item.rules for item in suspected)
        else _why(needed, covered, colluders, max(shared.values(), default=0))
    )
    return Naming(seen, tuple(suspected), needed, covered, why)


def covers(words: Sequence[Sequence[int]], seen: frozenset[int], *, most: int, needed: int) -> bool:
    """Return whether at most ``most`` of the words hold all the marks that are seen.

    Args:
        words: by number.
        seen: marks.
        most: how many words.
        needed: whoever shares so many marks stands in every such set (c·μ + 1).
    """
    sets = [frozenset(word) & seen for word in words]
    forced = {held for held in sets if len(held) >= needed}
    rest = seen.difference(*forced)
    left = most - len(forced)
    useful = {held & rest for held in sets} - {frozenset()}
    steps = [MOST_STEPS]
    return left >= 0 and _covers(rest, useful, left, steps)


def _covers(rest: frozenset[int], useful: set[frozenset[int]], left: int, steps: list[int]) -> bool:
    """Try the words that hold the mark which the fewest words hold; ``steps`` counts down."""
    if not rest:
        return True
    if left == 0 or len(rest) > left * max(map(len, useful), default=0):
        return False
    holders = {mark: [held for held in useful if mark in held] for mark in rest}
    for held in min(holders.values(), key=len):
        steps[0] -= 1
        if steps[0] < 0:
            return True
        following = rest - held
        if _covers(following, {each & following for each in useful} - {frozenset()}, left - 1, steps):
            return True
    return False


def _smallest_cover(words: Sequence[Sequence[int]], seen: frozenset[int], code: Code, *, most: int) -> int | None:
    """Return how few words hold all the marks that are seen; None where more than ``most`` are needed."""
    for copies in range(_fewest(seen, code), most + 1):
        if covers(words, seen, most=copies, needed=copies * code.intersection + 1):
            return copies
    return None


def _fewest(seen: frozenset[int], code: Code) -> int:
    """Return how many words are needed at least for so many marks."""
    return max(1, -(-len(seen) // code.weight))


def _shared(held: Mapping[int, Sequence[int]], seen: frozenset[int]) -> Counter[int]:
    """Return how many of the marks each licensee has that has any."""
    return Counter(number for number, word in held.items() for mark in word if mark in seen)


def _chances(code: Code, licensees: int, seen: frozenset[int], families: int) -> list[Fraction]:
    """Return, by number of shared marks, the chance that anybody innocent shares so many."""
    of_code = sum(mark < code.marks for mark in seen)
    return [
        min(Fraction(1), families * chance_bound(code, licensees=licensees, seen=of_code, shared=count))
        for count in range(code.weight + 1)
    ]


def _colluders_borne(code: Code, shared: int, licensees: int) -> int:
    return min(licensees, (shared - 1) // code.intersection) if code.intersection else licensees


def _why(needed: Mapping[str, int | None], covered: bool | None, colluders: int, most: int) -> str:
    if covered is False and RULE_B not in needed:
        return (
            f"no {colluders} of the issued words hold all marks that are PRESENT: more copies were pooled, or a mark "
            "is there that no copy carried"
        )
    wanted = [
        f"rule {rule} asks for {'more than there are' if count is None else count}"
        for rule, count in needed.items()
        if not (rule == RULE_A and covered is False)
    ]
    return (
        f"nobody has enough of the marks that are PRESENT: {' and '.join(wanted)}, the most that anybody has is {most}"
    )
