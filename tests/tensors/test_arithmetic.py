"""The block arithmetic against plain torch, over all finite bit patterns that hypothesis finds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.checkpoint import Dtype, TensorSpec
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.arithmetic import BlockArithmetic, is_finite, refuse_nonfinite

BITS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
PROPERTIES = settings(max_examples=200, deadline=None)


@st.composite
def blocks(draw, count, dtype=None):
    dtype = dtype or draw(st.sampled_from(list(BITS)))
    width = torch.iinfo(BITS[dtype]).bits
    patterns = draw(st.lists(st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1), min_size=count, max_size=count))
    block = torch.tensor(patterns, dtype=BITS[dtype]).view(dtype)
    return torch.where(torch.isfinite(block), block, torch.zeros_like(block))


def same_bits(one, other):
    return torch.equal(one.view(BITS[one.dtype]), other.view(BITS[other.dtype]))


@PROPERTIES
@given(target=blocks(8), tau=blocks(8, torch.bfloat16) | blocks(8, torch.float32))
def test_one_vector_of_scale_one_is_the_plain_sum(target, tau):
    working = torch.float64 if target.dtype == torch.float64 else torch.float32
    stamped = BlockArithmetic().added(
        target, BlockArithmetic().update([(tau, 1.0)], count=8, working=working), target.dtype
    )
    assert same_bits(stamped, (target.to(working) + tau.to(working)).to(target.dtype))


@PROPERTIES
@given(
    target=blocks(8, torch.bfloat16) | blocks(8, torch.float16),
    taus=st.tuples(blocks(8, torch.bfloat16), blocks(8, torch.bfloat16)),
    scales=st.tuples(st.floats(-4, 4, width=32), st.floats(-4, 4, width=32)),
)
def test_several_vectors_are_added_in_the_order_given(target, taus, scales):
    change = BlockArithmetic().update(list(zip(taus, scales, strict=True)), count=8, working=torch.float32)
    expected = target.float() + (taus[0].float() * scales[0] + taus[1].float() * scales[1])
    assert (
        torch.equal(BlockArithmetic().added(target, change, target.dtype), expected.to(target.dtype))
        or expected.isnan().any()
    )


@PROPERTIES
@given(pair=st.sampled_from(list(BITS)).flatmap(lambda dtype: st.tuples(blocks(8, dtype), blocks(8, dtype))))
def test_difference_is_the_plain_one_and_leaves_equal_elements_their_every_bit(pair):
    base, target = pair
    tau = BlockArithmetic().difference(base, base.clone(), base.dtype)
    assert same_bits(BlockArithmetic().added(target, tau, target.dtype), target)
    working = torch.float64 if base.dtype == torch.float64 else torch.float32
    expected = (target.to(working) - base.to(working)).to(base.dtype)
    assert torch.equal(BlockArithmetic().difference(base, target, base.dtype), expected)


@PROPERTIES
@given(target=blocks(8), scale=st.floats(0.01, 4))
def test_negative_zero_times_a_positive_scale_changes_no_bit(target, scale):
    tau = torch.full((8,), -0.0, dtype=torch.bfloat16)
    working = torch.float64 if target.dtype == torch.float64 else torch.float32
    change = BlockArithmetic().update([(tau, scale)], count=8, working=working)
    assert same_bits(BlockArithmetic().added(target, change, target.dtype), target)


@given(pair=st.tuples(blocks(8, torch.bfloat16), blocks(8, torch.bfloat16)))
@PROPERTIES
def test_bfloat16_within_a_factor_of_two_is_subtracted_exactly(pair):
    base, direction = pair
    near = torch.where(direction > 0, base * 2, base / 2)
    near = torch.where(torch.isfinite(near) & (base.abs() > 1e-30), near, base)
    tau = BlockArithmetic().difference(base, near, torch.bfloat16)
    assert BlockArithmetic().count_different(BlockArithmetic().added(base, tau, torch.bfloat16), near) == 0


def test_shorter_block_has_no_say_in_the_rest():
    change = BlockArithmetic().update([(torch.ones(2), 0.5)], count=4, working=torch.float32)
    assert change.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert torch.signbit(change).tolist() == [False, False, True, True]


def test_different_bits_are_counted_even_where_values_are_equal():
    assert BlockArithmetic().count_different(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([-0.0, 1.0, 3.0])) == 2


def test_products_are_summed_in_float64():
    block = torch.full((10,), 60_000.0, dtype=torch.float16)
    assert BlockArithmetic().product_sum(block, block) == 10 * float(block[0]) ** 2
    assert BlockArithmetic().product_sum(block, torch.full((10,), 0.5)) == 5 * float(block[0])


def test_memory_is_used_again_and_does_not_mix_blocks_up():
    arithmetic = BlockArithmetic()
    base, moved = torch.tensor([1.0, 2.0]).bfloat16(), torch.tensor([1.5, 2.0]).bfloat16()
    for _ in range(3):
        tau = arithmetic.difference(base, moved, torch.bfloat16)
        change = arithmetic.update([(tau, 2.0)], count=2, working=torch.float32)
        total = arithmetic.added(base, change, torch.bfloat16)
        away = arithmetic.moved(base, total)
        assert (tau.tolist(), change.tolist(), total.tolist(), away.tolist()) == (
            [0.5, -0.0], [1.0, -0.0], [2.0, 2.0], [1.0, 0.0],
        )  # fmt: skip
        assert arithmetic.product_sum(away, change) == 1.0
        assert arithmetic.count_different(total, base) == 1


def test_memory_does_not_grow_with_the_number_and_sizes_of_blocks():
    arithmetic = BlockArithmetic()
    places = set()
    for count in (1000, 7, 500, 1000):
        block = torch.ones(count)
        places.add(
            arithmetic.added(
                block, arithmetic.update([(block, 1.0)], count=count, working=torch.float32), torch.float16
            ).data_ptr()
        )
    assert len(places) == 1


@pytest.mark.parametrize("dtype", list(BITS), ids=str)
def test_not_a_number_anywhere_in_a_block_is_seen(dtype):
    for value in (float("nan"), float("inf"), -float("inf")):
        for place in (0, 50, 99):
            block = torch.zeros(100, dtype=dtype)
            assert is_finite(block)
            block[place] = value
            assert not is_finite(block)
    assert is_finite(torch.zeros(0, dtype=dtype))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_number_that_is_not_finite_is_refused_with_tensor_and_place(tmp_path, value):
    spec = TensorSpec("h.0.w", Dtype.F32, (10,), "model.safetensors", 0, 40)
    with pytest.raises(CheckpointError, match=r"h\.0\.w: element 102 is"):
        refuse_nonfinite(tmp_path, spec, 100, torch.tensor([0.0, 1.0, value, value]))
