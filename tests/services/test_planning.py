"""Which tests a plan registers without being asked for."""

from fpvec_audit.services.planning import MOST_FAMILY_WORK, MOST_GRADIENT_WORK, PASS_OVERHEAD, gradients_are_short
from tests.tiny import make_tiny


def test_gradients_are_left_out_where_many_candidates_or_another_shape_make_them_long(tmp_path):
    base = make_tiny(tmp_path / "base", "gpt2")
    other = make_tiny(tmp_path / "other", "llama2")
    many = MOST_FAMILY_WORK // PASS_OVERHEAD
    assert gradients_are_short(base, base, candidates=256)
    assert gradients_are_short(base, base, candidates=many)
    assert not gradients_are_short(base, base, candidates=many, marks=16)
    assert not gradients_are_short(base, base, candidates=MOST_GRADIENT_WORK // PASS_OVERHEAD)
    assert not gradients_are_short(base, other, candidates=256)
    assert not gradients_are_short(base, tmp_path / "nothing", candidates=256)


def test_families_of_the_demo_have_their_gradients_with_8_marks_and_not_with_16():
    demo = 1_100_000 + PASS_OVERHEAD
    assert (8 * 6 + 384) * demo <= MOST_FAMILY_WORK < (16 * 6 + 576) * demo
