"""The sequential test: questions are asked one at a time, and the audit may stop at any of them.

A bettor starts with 1 and, before each candidate is opened, stakes its fortune on whether a matched (or unmatched)
candidate is an issued one. Under H0 – the answers are independent of the assignment – every bet is fair: given what has
been opened, the next candidate is issued with probability q = (issued left) / (candidates left), whatever was answered.
So the fortune E is a martingale, and by Ville's inequality it ever reaches 1/α with probability at most α. That holds
at any stop, chosen with everything seen so far in view, a cut connection included. Integers throughout: the same
outcomes give the same fraction on every machine. Standard library only: whoever checks an audit runs this very file.

Source: J. Ville, Étude critique de la notion de collectif (1939); A. Ramdas et al., Statistical Science 38 (2023)
576–601.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import gcd

GRID = tuple(
    (Fraction(on_issued, 1000), Fraction(on_decoys, 1000))
    for on_issued in (150, 300, 500, 750, 950)
    for on_decoys in (2, 10, 50, 200)
    if on_issued > on_decoys
)
"""What the bettors believe: (share of issued candidates that match, share of decoys that do). E is their mean."""

_PRECISION = 64
"""Bits behind the point to which the largest E is kept."""


def _odds(on_issued: Fraction, on_decoys: Fraction) -> tuple[int, int]:
    """Return the ratio of two probabilities in lowest terms."""
    ratio = on_issued / on_decoys
    return ratio.numerator, ratio.denominator


_LIKELIHOODS = tuple(
    tuple(_odds(on_issued, on_decoys) for on_issued, on_decoys in pairs)
    for pairs in ([(1 - one, 1 - other) for one, other in GRID], GRID)
)
"""By answer (0 unmatched, 1 matched) and bettor: likelihood of it on an issued candidate : on a decoy."""


class SequentialTest:
    """The fortune of a bet on the assignment, opened candidate by candidate.

    Each bettor's fortune is a pair of integers, exact. The largest E is kept rounded down to 64 bits behind the point,
    which errs against the accuser by less than 2^-64: the exact fraction would be thousands of digits long.

    Attributes:
        candidates: N, all that may be asked.
        issued: n, how many of them are issued.
        asked: how many have been opened.
        issued_asked: how many of those were issued.
    """

    __slots__ = ("_denominators", "_largest", "_numerators", "asked", "candidates", "issued", "issued_asked")

    def __init__(self, *, candidates: int, issued: int) -> None:
        if not 0 <= issued <= candidates:
            raise ValueError(f"{issued} issued of {candidates} candidates: at least 0 and at most all can be issued")
        self.candidates = candidates
        self.issued = issued
        self.asked = 0
        self.issued_asked = 0
        self._numerators = [1] * len(GRID)
        self._denominators = [1] * len(GRID)
        self._largest = len(GRID) << _PRECISION  # sum over bettors, in units of 2^-64

    def step(self, *, matched: bool, issued: bool) -> None:
        """Open the next candidate in the order of the plan.

        Args:
            matched: whether its answer matched, settled before it was opened.
            issued: whether it turned out to be issued.

        Raises:
            ValueError: no such candidate is left.
        """
        issued_left = self.issued - self.issued_asked
        decoys_left = self.candidates - self.asked - issued_left
        if not (issued_left if issued else decoys_left):
            kind, total = ("issued", self.issued) if issued else ("decoys", self.candidates - self.issued)
            raise ValueError(
                f"question {self.asked + 1} opens one more of the {kind}, and all {total} have been opened"
            )
        self.asked += 1
        self.issued_asked += issued
        if issued_left and decoys_left:  # otherwise what comes is known, and there is nothing to bet on
            self._bet(_LIKELIHOODS[matched], issued_left=issued_left, decoys_left=decoys_left, issued=issued)

    @property
    def e_value(self) -> Fraction:
        """E, the mean fortune of the bettors now: exact, and after many questions long."""
        return _sum([Fraction(*pair) for pair in zip(self._numerators, self._denominators, strict=True)]) / len(GRID)

    @property
    def largest(self) -> Fraction:
        """The largest E so far, the 1 at the start included, rounded down by less than 2^-64."""
        return Fraction(self._largest, len(GRID) << _PRECISION)

    @property
    def p_value(self) -> Fraction:
        """1 / :attr:`largest`: in (0, 1], valid at any stop."""
        return 1 / self.largest

    def _bet(self, odds: Iterable[tuple[int, int]], *, issued_left: int, decoys_left: int, issued: bool) -> None:
        left = issued_left + decoys_left
        together = 0
        for bettor, (if_issued, if_decoy) in enumerate(odds):
            gain = left * (if_issued if issued else if_decoy)
            stake = issued_left * if_issued + decoys_left * if_decoy
            shared = gcd(gain, stake)
            self._numerators[bettor] *= gain // shared
            self._denominators[bettor] *= stake // shared
            together += (self._numerators[bettor] << _PRECISION) // self._denominators[bettor]
        self._largest = max(self._largest, together)


def sequential_p_value(outcomes: Iterable[tuple[bool, bool]], *, candidates: int, issued: int) -> Fraction:
    """Return the p-value of a whole audit, or of one that was stopped.

    Args:
        outcomes: (matched, issued) of each candidate asked, in the order of the plan.
        candidates: N, all that might have been asked.
        issued: n, how many of them are issued.

    Raises:
        ValueError: more candidates of a kind were opened than there are.
    """
    test = SequentialTest(candidates=candidates, issued=issued)
    for matched, is_issued in outcomes:
        test.step(matched=matched, issued=is_issued)
    return test.p_value


def _sum(terms: Sequence[Fraction]) -> Fraction:
    if len(terms) == 1:
        return terms[0]
    return _sum(terms[::2]) + _sum(terms[1::2])  # by halves, so that the longest fractions are added once
