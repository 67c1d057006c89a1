"""Marks: groups of issued keys, each with a vector of its own – how large they must be to be read.

A mark is PRESENT where its p-value, times the number of marks, is at most α. Its keys stand against the family's decoys
alone, so the smallest p-value that K keys can have beside m decoys is 1/C(m + K, K).
"""

from enum import StrEnum
from fractions import Fraction
from math import comb

from fpvec_audit.domain.audit_plan import DEFAULT_ALPHA
from fpvec_audit.domain.codes import MOST_MARKS
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.statistics import hypergeometric_p_value
from fpvec_audit.errors import UsageError

DEFAULT_KEYS = 6
"""Keys of a mark unless something else is asked for."""
MOST_KEYS = 64
"""So many keys of a mark are looked at when it is asked how many it needs."""
DECOYS_PER_KEY = 6
LEAST_DECOYS = 384
"""With so many decoys the whole family's test reaches a MATCH on the keys of a few marks alone, after the grinding
allowance of a self-attested set: of 8 marks on 3, of 16 on 4."""


class MarkState(StrEnum):
    """What is said of a mark: never that it is absent, as averaging silences the marks that copies do not share."""

    PRESENT = "PRESENT"
    UNKNOWN = "UNKNOWN"


def default_decoys(issued: int) -> int:
    """Return how many decoys a family of so many issued keys gets unless something else is asked for."""
    return max(LEAST_DECOYS, DECOYS_PER_KEY * issued)


def can_be_present(keys: int, *, marks: int, decoys: int, alpha: Fraction) -> bool:
    """Return whether a mark of K keys can ever be PRESENT: 1/C(m + K, K) ≤ α/M."""
    return comb(decoys + keys, keys) * alpha >= marks


def least_keys(*, marks: int, decoys: int, alpha: Fraction) -> int | None:
    """Return the fewest keys with which a mark can be PRESENT; None where that is more than :data:`MOST_KEYS`."""
    for keys in range(1, MOST_KEYS + 1):
        if can_be_present(keys, marks=marks, decoys=decoys, alpha=alpha):
            return keys
    return None


def matches_of_mark(keys: int, *, marks: int, decoys: int, alpha: Fraction) -> int | None:
    """Return how many of a mark's keys must match, with no decoy, for it to be PRESENT; None if all are too few."""
    for matched in range(1, keys + 1):
        p_value = hypergeometric_p_value(candidates=keys + decoys, issued=keys, matched=matched, issued_matched=matched)
        if p_value * marks <= alpha:
            return matched
    return None


def refuse_unreadable(keys: int, *, marks: int, decoys: int, alpha: Fraction) -> None:
    """Refuse a family whose marks can never be PRESENT.

    Raises:
        UsageError: K keys a mark are too few; says how many are not.
    """
    if not can_be_present(keys, marks=marks, decoys=decoys, alpha=alpha):
        least = least_keys(marks=marks, decoys=decoys, alpha=alpha)
        raise UsageError(
            f"a mark of {keys} keys beside {decoys} decoys can never be PRESENT: its p is at least "
            f"{float(Fraction(1, comb(decoys + keys, keys))):.2g}, and {marks} marks need {float(alpha / marks):.2g}",
            advice="issue more --decoys"
            if least is None
            else f"--count {least} is the least that can, {least + 2} leaves room for keys that stay silent",
        )


def family_specification(
    marks: int, *, keys: int | None = None, decoys: int | None = None, scheme: str = "independent"
) -> KeySetSpecification:
    """Return what to draw for a family of marks.

    Args:
        marks: M, from 2.
        keys: K of each mark; :data:`DEFAULT_KEYS` when None.
        decoys: for all marks together; :func:`default_decoys` when None.
        scheme: shape of the keys.

    Raises:
        UsageError: a number that cannot be meant, or with which no mark could ever be read.
    """
    each = DEFAULT_KEYS if keys is None else keys
    if not 2 <= marks <= MOST_MARKS:
        raise UsageError(f"{marks} marks of {each} keys", advice=f"a family has from 2 to {MOST_MARKS} marks")
    if each < 1:
        raise UsageError(f"{marks} marks of {each} keys (--count {each})", advice="a mark has at least one key")
    beside = default_decoys(marks * each) if decoys is None else decoys
    specification = KeySetSpecification(scheme=scheme, issued=marks * each, decoys=beside, marks=marks)
    refuse_unreadable(each, marks=marks, decoys=beside, alpha=Fraction(DEFAULT_ALPHA))
    return specification


def reading_note(specification: KeySetSpecification) -> str:
    """Return how many keys of a mark must match for it to be read from answers, in a sentence; empty for one mark."""
    if specification.marks == 1:
        return ""
    keys = specification.issued // specification.marks
    needed = matches_of_mark(
        keys, marks=specification.marks, decoys=specification.decoys, alpha=Fraction(DEFAULT_ALPHA)
    )
    return (
        f"{specification.marks} marks of {keys} keys: {needed} of a mark's keys must match, and no decoy, for it to be "
        f"PRESENT at {DEFAULT_ALPHA}"
    )
