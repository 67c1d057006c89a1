import math

import pytest

from fpvec_audit.domain.carrier_test import LEAST_P, carrier_z, judged, log10_p, p_of
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE


def test_p_is_the_bound_of_hoeffding():
    assert carrier_z(30, 100) == 3
    assert 10 ** log10_p(3.0) == pytest.approx(math.exp(-4.5))
    assert (log10_p(0.0), log10_p(-5.0)) == (0, 0)
    assert carrier_z(0, 0) == 0


def test_p_that_no_float_holds_is_bounded():
    assert p_of(log10_p(1000.0)) == LEAST_P
    assert p_of(-2.0) == pytest.approx(0.01)
    assert p_of(0.0) == 1


def test_licensees_are_corrected_for_their_number_the_likeliest_first():
    owner, found = judged(10.0, {"A": 6.0, "B": 9.0, "C": -1.0, "D": 5.2}, alpha=1e-6)
    assert owner.present
    assert [finding.licensee for finding in found] == ["B", "A", "D", "C"]
    assert found[0].log10_p_corrected == pytest.approx(log10_p(9.0) + math.log10(4))
    assert found[1].log10_p_corrected == pytest.approx(log10_p(6.0) + math.log10(3))
    assert [finding.present for finding in found] == [True, True, False, False]
    assert found[3].log10_p_corrected == 0


def test_corrected_p_never_falls_below_that_of_a_likelier_one():
    _, found = judged(0.0, dict.fromkeys("ABCDEFGHIJ", 5.6), alpha=1e-6)
    corrected = [finding.log10_p_corrected for finding in found]
    assert corrected == sorted(corrected)
    assert len({finding.present for finding in found}) == 1


def test_whoever_chose_the_secret_alone_pays_for_it():
    owner, _ = judged(9.0, {}, alpha=1e-6, allowance=GRINDING_ALLOWANCE)
    assert not owner.present
    owner, _ = judged(9.2, {}, alpha=1e-6, allowance=GRINDING_ALLOWANCE)
    assert owner.present
    assert owner.to_json()["licensee"] is None
