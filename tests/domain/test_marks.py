"""Marks are as large as they must be to be read."""

from fractions import Fraction

import pytest

from fpvec_audit.domain.marks import (
    can_be_present,
    family_specification,
    least_keys,
    matches_of_mark,
    reading_note,
    refuse_unreadable,
)
from fpvec_audit.errors import UsageError

ALPHA = Fraction("1e-6")


def test_least_keys_is_the_first_number_that_can_be_present():
    for marks, decoys in ((16, 112), (8, 224), (55, 30)):
        least = least_keys(marks=marks, decoys=decoys, alpha=ALPHA)
        assert least is not None
        assert can_be_present(least, marks=marks, decoys=decoys, alpha=ALPHA)
        assert not can_be_present(least - 1, marks=marks, decoys=decoys, alpha=ALPHA)
        assert matches_of_mark(least, marks=marks, decoys=decoys, alpha=ALPHA) == least
        assert matches_of_mark(least - 1, marks=marks, decoys=decoys, alpha=ALPHA) is None


def test_published_slack():
    assert matches_of_mark(6, marks=16, decoys=112, alpha=ALPHA) == 5
    assert matches_of_mark(8, marks=16, decoys=112, alpha=ALPHA) == 6


def test_family_that_can_never_be_read_is_refused_with_the_least_count():
    with pytest.raises(UsageError, match="can never be PRESENT") as refused:
        family_specification(16, keys=3, decoys=100)
    assert "--count 5" in refused.value.advice
    with pytest.raises(UsageError) as refused:
        family_specification(16, decoys=1)
    assert refused.value.advice == "issue more --decoys"
    refuse_unreadable(5, marks=16, decoys=100, alpha=ALPHA)


def test_family_has_decoys_for_its_keys():
    specification = family_specification(16)
    assert (specification.issued, specification.decoys, specification.marks) == (96, 576, 16)
    assert "4 of a mark's keys must match" in reading_note(specification)
    assert family_specification(2, keys=8, decoys=500).issued == 16
    for marks in (1, 513, 0):
        with pytest.raises(UsageError, match="a family has from 2 to 512 marks"):
            family_specification(marks, keys=6)
    with pytest.raises(UsageError, match=r"4 marks of 0 keys \(--count 0\) – a mark has at least one key"):
        family_specification(4, keys=0)
