"""Which marks of a family a suspect shows: each mark's keys against the family's decoys.

A mark is PRESENT where the p-value of its *answers* – its K keys are the issued ones, the family's decoys the others,
and the keys of the other marks are left out – times the number of marks and the families read together, is at most α,
or where its vector's share λ̂ of the suspect's *weights* is at least :data:`LEAST_SHARE`. Else it is UNKNOWN, and never
absent. Averages silence the answers of marks that not all copies have, and leave their shares: 1/c of c copies.

What these p-values rest on. For a suspect that has nothing of the family they are exact. In a copy that carries *other*
marks, the keys of an absent mark were trained to give the ordinary answer, which decoys were not; they are then a
yardstick that the owner's own copies calibrate (docs/marks.md), not a null distribution. So they count only behind the
family's own test, and pay no grinding allowance: that is paid there.

A share has no p-value: those of marks that copies do not carry were within 0.01 of zero, and within 0.1 where colluders
spliced copies or took extremes (docs/marks.md).

Rank tests on likelihoods or gradients are told for every mark and decide nothing: marks trained together make the
responses of *all* marks likelier than those of decoys, whichever of them a copy carries (measured, docs/marks.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from fpvec_audit.domain.marks import MarkState
from fpvec_audit.domain.rank_test import rank_sum_p_value
from fpvec_audit.domain.statistics import hypergeometric_p_value

LEAST_SHARE = 0.125
"""Half of what an average of four copies leaves of a mark that one of them has; one more than the codes' usual c."""

ANSWERS, WEIGHTS = "answers", "weights"
"""What tells that a mark is PRESENT."""

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
        tests: p-value by test, uncorrected; all but that of the answers are descriptive.
        p_value: of the answers.
        p_value_corrected: that, times marks and families, at most 1; PRESENT at α or less.
        share: λ̂ of its vector in the suspect's weights, None where they were not compared; PRESENT from
            :data:`LEAST_SHARE`.
        told_by: what tells that it is PRESENT, :data:`ANSWERS` or :data:`WEIGHTS` or both.
    """

    mark: int
    state: MarkState
    matched: int
    keys: int
    tests: Mapping[str, Fraction]
    p_value: Fraction
    p_value_corrected: Fraction
    share: float | None = None
    told_by: tuple[str, ...] = (ANSWERS,)

    @property
    def by_answers(self) -> "MarkReading":
        """The same mark as its answers alone tell of it."""
        told_by = (ANSWERS,) if ANSWERS in self.told_by else ()
        state = MarkState.PRESENT if told_by else MarkState.UNKNOWN
        return replace(self, state=state, share=None, told_by=told_by)


def read_marks(
    marks: Sequence[Sequence[int]],
    decoys: Sequence[int],
    *,
    matched: frozenset[int],
    exact: str,
    scores: Mapping[str, Scores],
    alpha: Fraction,
    families: int = 1,
    shares: Mapping[int, float] = MappingProxyType({}),
) -> tuple[MarkReading, ...]:
    """Read every mark of a family.

    Args:
        marks: per mark, the indices of its keys that were asked.
        decoys: indices of the decoys that were asked.
        matched: candidates that answered with their response.
        exact: name of the test on answers.
        scores: by name of a rank test, what ranks the candidates; descriptive.
        alpha: significance level.
        families: how many are read together.
        shares: λ̂ by mark, of the marks whose vectors were compared with the suspect's weights.
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
        p_value = tests[exact]
        corrected = min(Fraction(1), p_value * len(marks) * families)
        share = shares.get(number)
        told_by = ((ANSWERS,) if corrected <= alpha else ()) + ((WEIGHTS,) if (share or 0.0) >= LEAST_SHARE else ())
        state = MarkState.PRESENT if told_by else MarkState.UNKNOWN
        readings.append(MarkReading(number, state, hits, len(keys), tests, p_value, corrected, share, told_by))
    return tuple(readings)


def present(readings: Sequence[MarkReading]) -> frozenset[int]:
    """Return the marks that are PRESENT."""
    return frozenset(reading.mark for reading in readings if reading.state is MarkState.PRESENT)
