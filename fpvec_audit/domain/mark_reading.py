"""Which marks of a family a suspect shows: each mark's keys against the family's decoys.

Every test of the audit is done once more for each mark: its K keys are the issued ones, the family's decoys the others,
and the keys of the other marks are left out. A mark is PRESENT where its p-value – times the number of its tests, the
number of marks and the families read together – is at most α; else it is UNKNOWN, and never absent.

What these p-values rest on. For a suspect that has nothing of the family they are exact. In a copy that carries *other*
marks, the keys of an absent mark were trained to give the ordinary answer, which decoys were not; they are then a
yardstick that the owner's own copies calibrate (docs/marks.md), not a null distribution. So they count only behind the
family's own test, and pay no grinding allowance: that is paid there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fpvec_audit.domain.marks import MarkState
from fpvec_audit.domain.rank_test import rank_sum_p_value
from fpvec_audit.domain.statistics import hypergeometric_p_value

Scores = Mapping[int, Fraction | None]
"""A number for every candidate; None where it is unknown."""


@dataclass(frozen=True, slots=True)
class MarkReading:
    """What is said of one mark.

    Attributes:
        mark: its number, from 0.
        state: PRESENT or UNKNOWN.
        matched: how many of its keys were answered.
        keys: how many it has.
        tests: p-value by test, uncorrected.
        p_value: the smallest of them times their number, at most 1.
        p_value_corrected: that, times marks and families; PRESENT at α or less.
    """

    mark: int
    state: MarkState
    matched: int
    keys: int
    tests: Mapping[str, Fraction]
    p_value: Fraction
    p_value_corrected: Fraction


def read_marks(
    marks: Sequence[Sequence[int]],
    decoys: Sequence[int],
    *,
    matched: frozenset[int],
    exact: str,
    scores: Mapping[str, Scores],
    alpha: Fraction,
    families: int = 1,
) -> tuple[MarkReading, ...]:
    """Read every mark of a family.

    Args:
        marks: per mark, the indices of its keys that were asked.
        decoys: indices of the decoys that were asked.
        matched: candidates that answered with their response.
        exact: name of the test on answers.
        scores: by name of a rank test, what ranks the candidates.
        alpha: significance level.
        families: how many are read together.
    """
    answered = sum(index in matched for index in decoys)
    ranked = {name: [values[index] for index in decoys] for name, values in scores.items()}
    readings = []
    for number, keys in enumerate(marks):
        hits = sum(index in matched for index in keys)
        tests = {
            exact: hypergeometric_p_value(
                candidates=len(keys) + len(decoys), issued=len(keys), matched=hits + answered, issued_matched=hits
            )
        }
        for name, values in scores.items():
            tests[name] = rank_sum_p_value([values[index] for index in keys], ranked[name])
        p_value = min(Fraction(1), min(tests.values()) * len(tests))
        corrected = min(Fraction(1), p_value * len(marks) * families)
        state = MarkState.PRESENT if corrected <= alpha else MarkState.UNKNOWN
        readings.append(MarkReading(number, state, hits, len(keys), tests, p_value, corrected))
    return tuple(readings)


def present(readings: Sequence[MarkReading]) -> frozenset[int]:
    """Return the marks that are PRESENT."""
    return frozenset(reading.mark for reading in readings if reading.state is MarkState.PRESENT)
