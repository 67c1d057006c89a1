"""Carriers against their law: what stamping adds, how it is rounded, and what reading counts."""

import math
import struct

import numpy
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.carrier import CarrierKey, CarrierSecret, spans_chosen, tensor_nonce
from fpvec_audit.domain.carrier_test import carrier_z
from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors import blocks, carrier_levels, carrier_reading, native
from fpvec_audit.tensors.blocks import BlockMemory, torch_dtype
from fpvec_audit.tensors.carrier import CHUNK, CopyCarriers, round_by_chance, sign_bytes
from fpvec_audit.tensors.carrier_levels import STEP, levels_of, products_of
from fpvec_audit.tensors.carrier_reading import read_carriers
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.kernels import BlockKernels
from fpvec_audit.tensors.stamp import StampCopy, write_stamps
from fpvec_audit.tensors.stamp_plan import ScaledVector, plan_stamp
from fpvec_audit.tensors.vector_files import read_vector
from tests.tiny import make_tiny, perturb, rewrite

FORMATS = (Dtype.F32, Dtype.BF16, Dtype.F16)
HALVES = (torch.bfloat16, torch.float16)
KEY, OTHER = CarrierKey(bytes(range(32))), CarrierKey(bytes(range(1, 33)))
VARIANTS = ["torch"]
if native.carrier_library() is not None:
    VARIANTS += ["aes", "vaes"][: native.carrier_library().fpvec_carrier_level() - 1]


class Variant:
    """The compiled loops of one instruction set."""

    def __init__(self, suffix):
        loaded = native.carrier_library()
        for name in ("fpvec_carry", "fpvec_levels", "fpvec_read_carriers"):
            function = loaded[f"{name}_{suffix}"]
            function.argtypes, function.restype = getattr(loaded, name).argtypes, getattr(loaded, name).restype
            setattr(self, name, function)


@pytest.fixture(params=VARIANTS)
def variant(request, monkeypatch):
    """Let one of the counterparts do the work."""
    chosen = None if request.param == "torch" else Variant(request.param)
    monkeypatch.setattr(native, "carrier_library", lambda: chosen)
    monkeypatch.setattr(carrier_levels, "carrier_library", lambda: chosen)
    return request.param


def block_of(tensor):
    formats = {torch_dtype(dtype): dtype for dtype in Dtype}
    block = BlockMemory().block(formats[tensor.dtype], len(tensor))
    block.torch().copy_(tensor)
    return block


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def plain_signs(key, name, start, count):
    """Return the signs by their law: one block of AES for 128 elements."""
    cipher = Cipher(AES(key.cipher), ECB()).encryptor()
    found = []
    for k in range(start, start + count):
        block = cipher.update(tensor_nonce(name) + struct.pack(">I", k // 128))
        found.append(1 - 2 * (block[k % 128 // 8] >> k % 8 & 1))
    return torch.tensor(found, dtype=torch.float64)


def eight_bits(value):
    return float(torch.tensor(value, dtype=torch.float64).float().bfloat16())


def plain_addend(parts, count, keys, name, start, strength):
    """Return what carriers add, by their law, in float64, and Σ scale · τ."""
    change = torch.zeros(count)
    for tau, scale in parts:
        change[: len(tau)] += tau.float() * scale
    said, addend = max(len(tau) for tau, _ in parts), torch.zeros(count)
    for first in range(0, said, CHUNK):
        piece = change[first : min(first + CHUNK, said)]
        spread = math.sqrt(float(piece.double().square().sum()) / len(piece))
        for key in keys:
            signs = plain_signs(key, name, start + first, len(piece)).float()
            addend[first : first + len(piece)] += signs * eight_bits(strength * spread)
    return addend


def numbers(generator, count, dtype, size):
    values = torch.randn(count, generator=generator) * size
    values[torch.rand(count, generator=generator) < 0.2] = -0.0
    return values.to(torch_dtype(dtype))


@st.composite
def carried(draw):
    """Draw weights, vectors and carriers: the last chunk short, some chunks without a say."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    count = draw(st.sampled_from([1, 7, 100, CHUNK, CHUNK + 5, 2 * CHUNK + 130]))
    weights = numbers(generator, count, draw(st.sampled_from((*FORMATS, Dtype.F64))), 10.0 ** draw(st.integers(-5, 1)))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        own = numbers(
            generator, draw(st.integers(1, count)), draw(st.sampled_from(FORMATS)), 10.0 ** draw(st.integers(-6, -2))
        )
        if draw(st.booleans()):
            own[:CHUNK] = -0.0
        parts.append((own, draw(st.floats(-2, 2, width=32).filter(bool))))
    keys = draw(st.sampled_from([(KEY,), (KEY, OTHER)]))
    return (
        weights,
        parts,
        keys,
        CHUNK * draw(st.sampled_from([0, 3, (1 << 32) // CHUNK])),
        draw(st.sampled_from([0.02, 0.5])),
    )


def test_carriers_move_weights_by_the_law(variant):
    @settings(max_examples=30 if variant == "torch" else 60, deadline=None, derandomize=True)
    @given(case=carried())
    def hold(case):
        weights, parts, keys, start, strength = case
        carriers = CopyCarriers(keys, strength).of("h.0.weight")
        values = block_of(weights)
        square = BlockKernels().carry(values, [(block_of(tau), scale) for tau, scale in parts], start, carriers)
        after = values.torch()
        if weights.dtype is torch.float64:
            addend = plain_addend(parts, len(weights), keys, "h.0.weight", start, strength).double()
            assert torch.allclose(after, weights + addend, rtol=1e-12, atol=1e-12)
            return
        exact = weights.float() + plain_addend(parts, len(weights), keys, "h.0.weight", start, strength)
        expected = torch.cat(
            [
                round_by_chance(exact[first : first + CHUNK], weights.dtype, start + first, carriers.rounding)
                for first in range(0, len(exact), CHUNK)
            ]
        )
        unchanged = exact == weights.float()
        assert torch.equal(bits(after[~unchanged]), bits(expected[~unchanged]))
        assert torch.equal(after[unchanged], weights[unchanged])
        moved = after.double() - weights.double()
        assert square == pytest.approx(float(moved @ moved), rel=1e-6, abs=1e-300)

    hold()


def test_what_vectors_leave_alone_keeps_every_bit(variant):
    weights = torch.full((2 * CHUNK,), -0.0, dtype=torch.bfloat16)
    tau = torch.full((2 * CHUNK,), -0.0, dtype=torch.bfloat16)
    tau[CHUNK:] = 1e-3
    values = block_of(weights)
    BlockKernels().carry(values, [(block_of(tau), 1.0)], 0, CopyCarriers((KEY,), 0.1).of("w"))
    assert torch.equal(bits(values.torch()[:CHUNK]), bits(weights[:CHUNK]))
    assert bool((values.torch()[CHUNK:] != 0).any())


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_by_chance_is_right_on_average_and_the_same_again(dtype):
    generator = torch.Generator().manual_seed(5)
    values = torch.cat([torch.randn(2000, generator=generator) * size for size in (1e-7, 1e-4, 0.02, 3.0)])
    tries = [round_by_chance(values, dtype, 0, (n * 2654435761 % 2**32, n * 40503)) for n in range(400)]
    assert torch.equal(tries[7], round_by_chance(values, dtype, 0, (7 * 2654435761 % 2**32, 7 * 40503)))
    stacked = torch.stack([one.double() for one in tries])
    digits, least = (7, 0.0) if dtype is torch.bfloat16 else (10, 2.0**-24)
    gap = torch.exp2(values.double().abs().log2().floor() - digits).clamp(min=least)
    assert bool(((stacked - values.double()).abs() < gap).all())
    errors = (stacked.mean(0) - values.double()) / gap  # each has a standard deviation of at most 0.5 / √400
    assert float(errors.abs().max()) < 0.15
    assert abs(float(errors.mean())) < 4 * 0.025 / math.sqrt(len(values))


def test_numbers_too_large_for_half_precision_stay_finite():
    values = torch.tensor([65519.0, -65519.0, 65504.0])
    assert bool(round_by_chance(values, torch.float16, 0, (1, 2)).isfinite().all())


def test_signs_are_bits_of_the_cipher():
    for start, count in ((0, 300), (128, 1), (4096, 129)):
        packed = numpy.unpackbits(
            numpy.frombuffer(sign_bytes(KEY.cipher, tensor_nonce("w"), start, count), numpy.uint8), bitorder="little"
        )
        assert (1 - 2 * packed[:count].astype(int)).tolist() == plain_signs(KEY, "w", start, count).int().tolist()


def plain_levels(before, after):
    """Return the levels by their law."""
    wide = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32
    delta = (after.to(wide) - before.to(wide)).float()
    found = torch.zeros(len(delta), dtype=torch.int64)
    for first in range(0, len(delta), CHUNK):
        piece = delta[first : first + CHUNK]
        unit = eight_bits(STEP * float(piece.abs().double().sum()) / len(piece))
        if unit:
            level = sum((piece.abs() >= edge * unit).long() for edge in (0.5, 1.5, 2.5))
            found[first : first + CHUNK] = level * torch.sign(piece).long()
    return found


@st.composite
def pairs(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    count = draw(st.sampled_from([1, 9, CHUNK, CHUNK + 77]))
    before = numbers(generator, count, draw(st.sampled_from((*FORMATS, Dtype.F64))), 1.0)
    after = before.double() + torch.randn(count, generator=generator, dtype=torch.float64) * 10.0 ** draw(
        st.integers(-4, 0)
    )
    after[torch.rand(count, generator=generator) < 0.3] = 0
    after = torch.where(after == 0, before.double(), after)
    return before, after.to(torch_dtype(draw(st.sampled_from((*FORMATS, Dtype.F64)))))


def test_levels_and_products_are_those_of_the_law(variant):
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(pair=pairs(), start=st.sampled_from([0, CHUNK, 5 * CHUNK]))
    def hold(pair, start):
        before, after = pair
        levels = levels_of(block_of(before), block_of(after))
        expected = plain_levels(before, after)
        signs, ones, twos = (
            torch.from_numpy(
                numpy.unpackbits(numpy.frombuffer(plane, numpy.uint8), bitorder="little").astype(numpy.int64)
            )
            for plane in (levels.signs, levels.ones, levels.twos)
        )
        found = ((ones + 2 * twos) * (1 - 2 * signs))[: len(expected)]
        assert torch.equal(found, expected)
        assert levels.square == int(expected.square().sum())
        assert not levels.broken
        products = products_of(levels, [KEY.cipher, OTHER.cipher], tensor_nonce("w"), start)
        for key, product in zip((KEY, OTHER), products, strict=True):
            assert product == int(expected.double() @ plain_signs(key, "w", start, len(expected)))

    hold()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_show(variant, value):
    clean, broken = torch.zeros(100), torch.zeros(100)
    broken[99] = value
    assert levels_of(block_of(clean), block_of(broken)).broken
    assert levels_of(block_of(broken), block_of(clean)).broken


def test_keys_follow_from_secret_and_name_alone_and_do_not_show():
    secret = CarrierSecret(bytes(32))
    assert secret.key("Globex") == CarrierSecret(bytes(32)).key("Globex") != secret.key("Initech")
    assert len({secret.key(name).commitment for name in ("", "owner", "Globex", "Initech")}) == 4
    assert secret.key("Globex").cipher.hex() not in repr(secret) + repr(secret.key("Globex")) + repr(
        CopyCarriers((secret.key("Globex"),), 0.1)
    )
    assert "redacted" in repr(secret)
    assert "redacted" in repr(secret.key(""))


def test_pieces_that_are_read_are_a_keyed_share():
    chosen = spans_chosen(CarrierSecret(bytes(32)), 0.25)
    other = spans_chosen(CarrierSecret(bytes([1]) * 32), 0.25)
    places = [(f"h.{layer}.weight", span) for layer in range(20) for span in range(100)]
    assert 400 < sum(chosen(*place) for place in places) < 600
    assert any(chosen(*place) != other(*place) for place in places)
    assert all(spans_chosen(CarrierSecret(bytes(32)), 1.0)(*place) for place in places)


DIFFERENCES = {
    "one number": [5.0] + [0.0] * 4095,
    "three numbers": [1.0, -2.0, 0.5] + [0.0] * 4093,
    "heavy tails": [math.tan(1.57 * (2 * k / 4096 - 1)) for k in range(4096)],
    "alternating": [(-1.0) ** k for k in range(4096)],
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_wrong_carriers_reach_a_z_no_oftener_than_the_bound_says(difference):
    delta = torch.tensor(DIFFERENCES[difference])
    levels = levels_of(block_of(torch.zeros(len(delta))), block_of(delta))
    ciphers = [CarrierSecret(number.to_bytes(32, "big")).key("").cipher for number in range(4000)]
    found = numpy.array([carrier_z(product, levels.square) for product in products_of(levels, ciphers, bytes(12), 0)])
    for z in (0.5, 1, 2, 3, 4):
        bound = math.exp(-z * z / 2)
        assert (found >= z).mean() <= bound + 4 * math.sqrt(bound * (1 - bound) / len(found)) + 1e-9
    assert abs(found.mean()) < 4 / math.sqrt(len(found))


@pytest.fixture(scope="module")
def halves(tmp_path_factory, adapters):
    """Return a bfloat16 model whose head is stored twice, and a vector for it."""
    place = tmp_path_factory.mktemp("halves")
    base = make_tiny(place / "base", "gpt2", dtype="bfloat16", hidden=64, tokenizer=False)
    fingerprinted = perturb(base, place / "fp", size=1e-3, exact=True)
    plan = plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), adapters["gpt2"])
    (place / "vector").mkdir()
    write_vector(plan, place / "vector", tool_version="0")
    return perturb(base, place / "down", seed=2), place / "vector"


def stamped(place, halves, adapter, carriers):
    down, vector = halves
    plan = plan_stamp(read_checkpoint(down), [ScaledVector(read_vector(vector), 1.0)], adapter)
    place.mkdir()
    return write_stamps([StampCopy(plan, place, carriers=carriers)])[0]


def test_a_copy_has_the_same_bits_whatever_makes_it(tmp_path, halves, adapters, monkeypatch):
    carriers = CopyCarriers((KEY, OTHER), 0.1)
    outcome = stamped(tmp_path / "usual", halves, adapters["gpt2"], carriers)
    assert 0.1 < outcome.carried_ratio < 1
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2 * CHUNK)
    assert stamped(tmp_path / "short blocks", halves, adapters["gpt2"], carriers).stamped == outcome.stamped
    monkeypatch.setattr(native, "library", lambda: None)
    assert stamped(tmp_path / "torch", halves, adapters["gpt2"], carriers).stamped == outcome.stamped
    plain = stamped(tmp_path / "plain", halves, adapters["gpt2"], None)
    assert plain.carried_ratio == 0
    assert (plain.applied_ratio, plain.cosine) == pytest.approx((outcome.applied_ratio, outcome.cosine))


def test_carriers_in_a_half_precision_copy_are_found(tmp_path, halves, adapters, monkeypatch):
    stamped(tmp_path / "copy", halves, adapters["gpt2"], CopyCarriers((KEY, OTHER), 0.2))
    wrong = [CarrierSecret(number.to_bytes(32, "big")).key("").cipher for number in range(200)]
    ciphers = [KEY.cipher, OTHER.cipher, *wrong]
    found = read_carriers(halves[0], tmp_path / "copy", adapters["gpt2"], ciphers)
    own, other, *rest = (carrier_z(product, found.square) for product in found.products)
    assert min(own, other) > 9
    assert max(rest) < 5
    assert found.elements == found.shared
    monkeypatch.setattr(carrier_reading, "SPAN", CHUNK)  # more pieces, the same sums
    assert read_carriers(halves[0], tmp_path / "copy", adapters["gpt2"], ciphers).products == found.products
    chosen = spans_chosen(CarrierSecret(bytes(32)), 0.5)
    part = read_carriers(halves[0], tmp_path / "copy", adapters["gpt2"], ciphers[:1], chosen=chosen)
    assert 0.3 < part.elements / part.shared < 0.7
    assert carrier_z(part.products[0], part.square) > 5


def test_model_that_is_not_finite_is_named(tmp_path, halves, adapters):
    broken = rewrite(
        halves[0], tmp_path / "broken", lambda name, tensor: tensor * math.nan if "ln_f" in name else tensor
    )
    with pytest.raises(CheckpointError, match=r"ln_f.*nan"):
        read_carriers(halves[0], broken, adapters["gpt2"], [KEY.cipher])
