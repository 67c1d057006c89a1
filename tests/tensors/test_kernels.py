import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors import native
from fpvec_audit.tensors.blocks import BlockMemory, torch_dtype
from fpvec_audit.tensors.kernels import BlockKernels

FLOATS = (Dtype.F32, Dtype.BF16, Dtype.F16)


class Variant:
    """The compiled loops of one instruction set, whichever this processor would choose."""

    def __init__(self, loaded, suffix):
        for name in ("fpvec_add", "fpvec_subtract"):
            function = loaded[f"{name}_{suffix}"]
            function.argtypes, function.restype = getattr(loaded, name).argtypes, None
            setattr(self, name, function)


def variant(suffix):
    made = BlockKernels()
    made._compiled = Variant(native.library(), suffix)
    return made


LEVEL = 0 if native.library() is None else native.library().fpvec_level()
KERNELS = [BlockKernels(compiled=False)] + [
    variant(suffix) for level, suffix in ((2, "avx2"), (3, "avx512")) if level <= LEVEL
]
IDS = ["torch", "avx2", "avx512"][: len(KERNELS)]


def block_of(tensor):
    formats = {torch_dtype(dtype): dtype for dtype in Dtype}
    block = BlockMemory().block(formats[tensor.dtype], len(tensor))
    block.torch().copy_(tensor)
    return block


def empty(dtype, count):
    return BlockMemory().block(dtype, count)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def numbers(draw, dtype, count):
    """Draw finite numbers of every size, zeros of both signs and subnormal numbers among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    values = torch.randn(count, generator=generator) * 10.0 ** draw(st.integers(-6, 3))
    special = torch.tensor([0.0, -0.0, 1e-7, -6e-8, 1.0, -1.0, 65504.0, 1e-30])
    places = torch.rand(count, generator=generator) < 0.2
    values[places] = special[torch.randint(len(special), (int(places.sum()),), generator=generator)]
    return values.to(torch_dtype(dtype))


@st.composite
def additions(draw):
    target, count = draw(st.sampled_from((*FLOATS, Dtype.F64))), draw(st.integers(0, 200))
    parts = [
        (numbers(draw, draw(st.sampled_from((*FLOATS, Dtype.F64))), draw(st.integers(0, count))), scale)
        for scale in draw(st.lists(st.floats(-3, 3, width=32), max_size=3))
    ]
    return numbers(draw, target, count), parts


@pytest.mark.skipif(native.library() is None, reason="the loops are not compiled here")
def test_compiled_loops_are_there_where_the_package_was_built_with_a_compiler():
    assert native.description().startswith("compiled")


@pytest.mark.parametrize("kernels", KERNELS, ids=IDS)
@settings(max_examples=150, deadline=None)
@given(addition=additions())
def test_sum_is_the_plain_sum_bit_for_bit_and_told_rightly(kernels, addition):
    target, parts = addition
    out = empty(block_of(target).dtype, len(target))
    sums = kernels.add(block_of(target), [(block_of(tau), scale) for tau, scale in parts], out)
    double = torch.float64 in (target.dtype, *(tau.dtype for tau, _ in parts))
    change = torch.full((len(target),), -0.0, dtype=torch.float64 if double else torch.float32)
    for tau, scale in parts:
        change[: len(tau)] += tau.to(change.dtype) * scale
    expected = (target.to(change.dtype) + change).to(target.dtype)
    finite = bool(expected.isfinite().all())
    if finite:
        assert torch.equal(bits(out.torch()), bits(expected))
        applied = expected.double() - target.double()
        for found, value in (
            (sums.applied, applied @ applied),
            (sums.wanted, change.double() @ change.double()),
            (sums.product, applied @ change.double()),
        ):
            assert found == pytest.approx(float(value), rel=1e-6, abs=1e-300)
    else:
        assert not math.isfinite(sums.applied)


@st.composite
def subtractions(draw):
    count = draw(st.integers(0, 200))
    base = numbers(draw, draw(st.sampled_from((*FLOATS, Dtype.F64))), count)
    dtype = draw(st.sampled_from((*FLOATS, Dtype.F64)))
    other = numbers(draw, dtype, count)
    near = draw(st.booleans())
    if near:
        other = (base.double() * (1 + 1e-3 * torch.sign(other.double()))).to(other.dtype)
    tau = draw(st.sampled_from([block_of(other).dtype, Dtype.F32]))
    return base, other, tau


@pytest.mark.parametrize("kernels", KERNELS, ids=IDS)
@settings(max_examples=150, deadline=None)
@given(subtraction=subtractions())
def test_difference_is_the_plain_difference_and_its_losses_are_counted(kernels, subtraction):
    base, other, dtype = subtraction
    tau = empty(dtype, len(base))
    found = kernels.subtract(block_of(base), block_of(other), tau)
    working = torch.float64 if torch.float64 in (base.dtype, other.dtype) else torch.float32
    one, two = base.to(working), other.to(working)
    equal = (one == two) & (torch.signbit(one) == torch.signbit(two))
    expected = torch.where(equal, -torch.zeros_like(one), two - one).to(torch_dtype(dtype))
    assert torch.equal(bits(tau.torch()), bits(expected))
    infinite = int((~expected.isfinite()).sum())
    assert (found.base_nonfinite, found.other_nonfinite) == (
        int((~base.isfinite()).sum()), int((~other.isfinite()).sum())
    )  # fmt: skip
    assert found.tau_nonfinite == infinite
    if not infinite:
        wide = torch.float64 if torch.float64 in (base.dtype, expected.dtype) else torch.float32
        rebuilt = (base.to(wide) + expected.to(wide)).to(other.dtype)
        different = bits(rebuilt).view(-1, other.itemsize) != bits(other).view(-1, other.itemsize)
        assert found.inexact == int(different.any(dim=1).sum())
        assert found.square == pytest.approx(float(expected.double() @ expected.double()), rel=1e-9)


@pytest.mark.parametrize("kernels", KERNELS, ids=IDS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.label)
@pytest.mark.parametrize("place", [0, 15, 16, 99])
def test_number_that_is_not_finite_shows(kernels, value, dtype, place):
    fine = torch.ones(100).to(torch_dtype(dtype))
    broken = fine.clone()
    broken[place] = value
    out = empty(dtype, 100)
    for target, tau in ((broken, fine), (fine, broken)):
        sums = kernels.add(block_of(target), [(block_of(tau), 1.0)], out)
        assert not (math.isfinite(sums.applied) and math.isfinite(sums.wanted))
    assert kernels.subtract(block_of(broken), block_of(fine), out).base_nonfinite == 1
    assert kernels.subtract(block_of(fine), block_of(broken), out).other_nonfinite == 1
    assert kernels.subtract(block_of(broken), block_of(broken), out).base_nonfinite == 1


def test_every_half_precision_number_is_rounded_as_torch_rounds():
    kernels = BlockKernels()
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    for dtype in (torch.float16, torch.bfloat16):
        values = every.view(dtype)
        values = values[values.isfinite()]
        for change in (0.0, 1e-3, -0.3, 7.1):
            tau = torch.full((len(values),), change)
            out = empty(block_of(values).dtype, len(values))
            kernels.add(block_of(values), [(block_of(tau), 1.0)], out)
            expected = (values.float() + tau).to(dtype)
            finite = expected.isfinite()
            assert torch.equal(bits(out.torch()[finite]), bits(expected[finite]))
