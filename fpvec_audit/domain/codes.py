"""Codes of constant weight: which marks a licensee's copy carries, so that averages of copies still point at somebody.

A *word* is a set of ``weight`` of the family's marks. Averaging or splicing copies silences marks and invents none
(the *marking assumption*), so what is seen of c copies lies in the union of their words. Where two words never share
more than μ marks and the weight exceeds c·μ, an innocent shares at most c·μ marks with that union: whoever shares more
took part (rule A). Random words need no such assumption, and more marks (rule B, ``domain/naming.py``).

Words have ranks: the word of a rank is computed without the others. Which rank a licensee gets is secret
(``domain/code_words.py``).

Laws: every word of a code has its weight and marks below ``marks``; two words of different ranks differ, and share at
most ``intersection`` marks.

Source: Boneh and Shaw, IEEE Transactions on Information Theory 44 (1998) 1897–1905 (marking assumption); Kautz and
Singleton, IEEE Transactions on Information Theory 10 (1964) 363–377 (words of constant weight from Reed–Solomon codes).
"""

from dataclasses import dataclass
from math import comb
from typing import Protocol

from fpvec_audit.domain.finite_field import field
from fpvec_audit.errors import UsageError

MOST_MARKS = 512
"""More marks than this are refused: nobody trains them, and their words would outgrow the secret permutation."""

RULE_A, RULE_B = "A", "B"
"""Rule A rests on the marking assumption, rule B on the words' being uniform and secret."""


class Code(Protocol):
    """A set of words of constant weight over marks 0 … ``marks`` − 1.

    Attributes:
        text: how it is written and read back: ``plane:4``, ``rs:11,3,5``, ``random:8/64``.
        marks: M, how many marks its words are over.
        weight: w, marks in a word.
        words: how many words it has.
        intersection: μ, the most marks that two words share.
        rule: by which licensees are named: :data:`RULE_A` or :data:`RULE_B`.
    """

    @property
    def text(self) -> str:
        """How it is written."""
        ...

    @property
    def marks(self) -> int:
        """M."""
        ...

    @property
    def weight(self) -> int:
        """Marks in a word, w."""
        ...

    @property
    def words(self) -> int:
        """How many there are."""
        ...

    @property
    def intersection(self) -> int:
        """The most marks that two words share, μ."""
        ...

    @property
    def rule(self) -> str:
        """How licensees are named."""
        ...

    def word(self, rank: int) -> tuple[int, ...]:
        """Return the word of a rank in [0, ``words``), its marks ascending."""
        ...


@dataclass(frozen=True, slots=True)
class AffinePlane:
    """The lines of the affine plane over a field of q elements: q² marks, words of q, any two share at most one.

    Attributes:
        order: q, a prime power.
    """

    order: int

    def __post_init__(self) -> None:
        field(self.order)
        _check_marks(self.marks, f"plane:{self.order}")

    @property
    def text(self) -> str:
        """How it is written."""
        return f"plane:{self.order}"

    @property
    def marks(self) -> int:
        """M = q²: the points."""
        return self.order**2

    @property
    def weight(self) -> int:
        """Points on a line."""
        return self.order

    @property
    def words(self) -> int:
        """Lines: q² + q."""
        return self.order**2 + self.order

    @property
    def intersection(self) -> int:
        """Two lines meet in one point, or are parallel."""
        return 1

    @property
    def rule(self) -> str:
        """Rule A."""
        return RULE_A

    def word(self, rank: int) -> tuple[int, ...]:
        """Return a line: y = a·x + b for rank a·q + b, and x = c for rank q² + c; point (x, y) is mark x·q + y."""
        _check_rank(rank, self.words)
        slope, height = divmod(rank, self.order)
        if slope == self.order:
            return tuple(height * self.order + y for y in range(self.order))
        line = (height, slope)
        return tuple(x * self.order + field(self.order).evaluate(line, x) for x in range(self.order))


@dataclass(frozen=True, slots=True)
class ReedSolomon:
    """Polynomials of degree below k over a field of q elements: one of q marks at each of ℓ positions.

    Attributes:
        order: q, a prime power.
        dimension: k, coefficients of a polynomial; two of them agree at k − 1 positions at most.
        length: ℓ, positions; from k to q.
    """

    order: int
    dimension: int
    length: int

    def __post_init__(self) -> None:
        field(self.order)
        if not 1 <= self.dimension <= self.length <= self.order:
            raise UsageError(
                f"rs:{self.order},{self.dimension},{self.length} is no Reed–Solomon code: q,k,l need 1 ≤ k ≤ l ≤ q",
                advice="rs:11,3,5 has 1,331 words of 5 out of 55 marks",
            )
        _check_marks(self.marks, self.text)

    @property
    def text(self) -> str:
        """How it is written."""
        return f"rs:{self.order},{self.dimension},{self.length}"

    @property
    def marks(self) -> int:
        """M = q·ℓ."""
        return self.order * self.length

    @property
    def weight(self) -> int:
        """One mark a position."""
        return self.length

    @property
    def words(self) -> int:
        """Polynomials: q^k."""
        return int(self.order**self.dimension)

    @property
    def intersection(self) -> int:
        """Two polynomials agree at k − 1 positions at most."""
        return self.dimension - 1

    @property
    def rule(self) -> str:
        """Rule A."""
        return RULE_A

    def word(self, rank: int) -> tuple[int, ...]:
        """Return the values of the polynomial whose coefficients are the rank's digits in base q, as marks."""
        _check_rank(rank, self.words)
        coefficients = []
        for _ in range(self.dimension):
            rank, digit = divmod(rank, self.order)
            coefficients.append(digit)
        polynomial = tuple(coefficients)
        return tuple(
            position * self.order + field(self.order).evaluate(polynomial, position) for position in range(self.length)
        )


@dataclass(frozen=True, slots=True)
class RandomWords:
    """All sets of w marks; the secret order in which they are issued makes them uniform, and never twice the same.

    Attributes:
        weight: w.
        marks: M.
    """

    weight: int
    marks: int

    def __post_init__(self) -> None:
        _check_marks(self.marks, f"random:{self.weight}")
        if not 1 <= self.weight <= self.marks:
            raise UsageError(
                f"a word of {self.weight} marks cannot be drawn from {self.marks}",
                advice=f"choose a weight from 1 to {self.marks}",
            )

    @property
    def text(self) -> str:
        """How it is written."""
        return f"random:{self.weight}/{self.marks}"

    @property
    def words(self) -> int:
        """Sets of w marks."""
        return comb(self.marks, self.weight)

    @property
    def intersection(self) -> int:
        """Two sets differ in one mark at least, where there are two."""
        return self.weight - 1 if self.words > 1 else 0

    @property
    def rule(self) -> str:
        """Rule B."""
        return RULE_B

    def word(self, rank: int) -> tuple[int, ...]:
        """Return the set of a rank in the order of the combinatorial number system."""
        _check_rank(rank, self.words)
        chosen, mark = [], self.marks - 1
        for size in range(self.weight, 0, -1):
            below = comb(mark, size)  # sets of that size among the marks below
            while below > rank:
                below = below * (mark - size) // mark
                mark -= 1
            rank -= below
            chosen.append(mark)
            mark -= 1
        return tuple(reversed(chosen))


def most_colluders(code: Code) -> int:
    """Return the largest coalition c with w > c·μ: that rule A can bear; all licensees where words share nothing."""
    return (code.weight - 1) // code.intersection if code.intersection else code.words


def expected_intersection(code: Code) -> float:
    """Return how many marks two uniform random words share on average: w²/M."""
    return code.weight**2 / code.marks


def parse_code(text: str, *, marks: int) -> Code:
    """Return the code that a text names, over at most ``marks`` marks.

    Args:
        text: ``plane:Q``, ``rs:Q,K,L``, ``random:W`` (over all marks) or ``random:W/M``.
        marks: marks of the family.

    Raises:
        UsageError: there is no such code, or it needs more marks.
    """
    kind, _, written = text.strip().partition(":")
    numbers = _numbers(written.replace("/", ","))
    code: Code | None = None
    if kind == "plane" and len(numbers) == 1:
        code = AffinePlane(*numbers)
    elif kind == "rs" and len(numbers) == 3:
        code = ReedSolomon(*numbers)
    elif kind == "random" and len(numbers) in (1, 2):
        code = RandomWords(numbers[0], numbers[1] if len(numbers) == 2 else marks)
    if code is None:
        raise UsageError(
            f"{text!r} is no code", advice="write plane:Q, rs:Q,K,L or random:W – plane:4, rs:11,3,5, random:8"
        )
    if code.marks > marks:
        raise UsageError(
            f"the code {code.text} needs {code.marks} marks, the family has {marks}",
            advice=f"issue a key set with --marks {code.marks}, or choose a smaller code",
        )
    return code


def _numbers(written: str) -> tuple[int, ...]:
    parts = written.split(",")
    fine = all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts)
    return tuple(map(int, parts)) if fine else ()


def _check_marks(marks: int, text: str) -> None:
    if not 1 <= marks <= MOST_MARKS:
        raise UsageError(f"{text} has {marks} marks", advice=f"a code has from 1 to {MOST_MARKS}")


def _check_rank(rank: int, words: int) -> None:
    if not 0 <= rank < words:
        raise ValueError(f"there is no word of rank {rank} among {words}")
