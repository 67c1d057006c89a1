import hashlib
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype
from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.ports import ModelDescription, TensorRole
from fpvec_audit.domain.vector import CompressionKind, CompressionMethod, StoredDtype, VectorDescription
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors import low_rank, scaled, sparse, stored
from fpvec_audit.tensors.compress import plan_compression, write_compressed
from fpvec_audit.tensors.compressed import open_compressed, tensor_formats
from fpvec_audit.tensors.index import read_tensors
from fpvec_audit.tensors.low_rank import LowRank, truncated_factors
from fpvec_audit.tensors.sparse import gaps_of, places_of
from fpvec_audit.tensors.stored import MemoryTensor, read_elements
from fpvec_audit.tensors.vector_files import STEM, StoredVector, read_vector, write_description

FORMATS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
FP8 = CompressionMethod(CompressionKind.FP8, "fp8")


def keep(share):
    return CompressionMethod(CompressionKind.KEEP, share)


def rank(number):
    return CompressionMethod(CompressionKind.RANK, number)


def bits(tensor):
    return tensor.reshape(-1).view(BITS[tensor.element_size()])


def content_of(tensor):
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


@pytest.fixture
def small_pieces(monkeypatch):
    """Let tiny tensors take many spans, tiles and blocks, the last of them short."""
    for module in (stored, scaled, low_rank):
        monkeypatch.setattr(module, "SPAN", 37)
    monkeypatch.setattr(sparse, "BLOCK", 23)


@pytest.fixture
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


def write_vector(path, tensors):
    """Write tensors as an extracted vector."""
    path.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / f"{STEM}.safetensors")
    digests = [
        TensorDigest(name, FORMATS[tensor.dtype], tuple(tensor.shape), content_of(tensor))
        for name, tensor in tensors.items()
    ]
    description = VectorDescription(
        digest=Manifest.of(digests).digest,
        architecture="gpt2",
        dtype=StoredDtype.SAME,
        base_digest="b" * 64,
        fingerprinted_digest="f" * 64,
        tied={},
        tensors=len(tensors),
        elements=sum(tensor.numel() for tensor in tensors.values()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        inexact_elements=0,
        norm=1.0,
        tool_version="0",
    )
    found, files, sharded = read_tensors(path, STEM)
    vector = StoredVector(Checkpoint(path, found, files, sharded, ModelDescription({}, {})), description)
    write_description(path, plan_compression(vector, FP8).layout, description)
    return read_vector(path)


def compress(vector, out, method, role=lambda name: TensorRole.OTHER):
    out.mkdir()
    description, losses = write_compressed(plan_compression(vector, method), out, role=role, tool_version="1")
    written = read_vector(out)
    assert written.description == description
    return written, losses


def decode(vector):
    with open_compressed(vector.files) as sources:
        return {
            name: read_elements(source, 0, math.prod(source.shape)).view(source.shape)
            for name, source in sources.items()
        }


def round_trip(directory, tensors, method):
    """Compress, decode, and return what is decoded; the directory is used again."""
    number = len(list(directory.iterdir()))
    source = write_vector(directory / f"{number}-source", tensors)
    written, _ = compress(source, directory / f"{number}-out", method)
    assert tensor_formats(written.files).keys() == tensors.keys()
    return decode(written)


SHAPES = st.sampled_from([(), (1,), (7,), (0,), (0, 3), (3, 0), (1, 1), (5, 7), (13, 11), (2, 3, 5), (130,), (3, 90)])
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.25, 1e-3, -3e-5, 2.0, 6e-8])


@st.composite
def vectors(draw):
    """Tensors with many equal absolute values and zeros of both signs; one element at least is not zero."""
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=4))
    tensors = {"sure": torch.tensor([1.5, -0.0], dtype=dtype)}
    for number, shape in enumerate(shapes):
        seed = draw(st.integers(0, 2**16))
        choices = torch.tensor(draw(st.lists(NUMBERS, min_size=1, max_size=6)))
        picked = torch.randint(len(choices), (math.prod(shape),), generator=torch.Generator().manual_seed(seed))
        tensors[f"w.{number}"] = choices[picked].to(dtype).view(shape)
    return tensors


LAWS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LAWS
@given(tensors=vectors(), share=st.floats(0.001, 0.999))
def test_kept_elements_are_the_largest_and_come_back_bit_for_bit_others_as_negative_zero(
    small_pieces, directory, tensors, share
):
    decoded = round_trip(directory, tensors, keep(share))
    before = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    after = torch.cat([decoded[name].reshape(-1) for name in tensors])
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in decoded.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()
    }
    kept = after != 0
    assert torch.equal(bits(after)[kept], bits(before)[kept])
    assert torch.equal(bits(after)[~kept], bits(torch.full_like(after, -0.0))[~kept])
    wanted = min(max(1, round(share * len(before))), int(torch.count_nonzero(before)))
    assert int(kept.sum()) == wanted
    if wanted < int(torch.count_nonzero(before)):
        assert before[kept].abs().min() >= before[~kept].abs().max()


@LAWS
@given(tensors=vectors())
def test_float8_is_within_a_sixteenth_and_keeps_zeros_as_negative_zero(small_pieces, directory, tensors):
    decoded = round_trip(directory, tensors, FP8)
    for name, tensor in tensors.items():
        if tensor.dim() < 2 or not tensor.numel():
            assert torch.equal(bits(decoded[name]), bits(tensor)), "it stays dense"
            continue
        before, after = tensor.float(), decoded[name]
        assert after.dtype == torch.float32
        assert torch.equal(
            bits(after)[(before == 0).view(-1)], bits(torch.full_like(after, -0.0))[(before == 0).view(-1)]
        )
        least = before.abs().amax(-1, keepdim=True) * 2**-13
        close = (after - before).abs() <= torch.maximum(before.abs(), least) / 16
        assert bool(close.all())


@LAWS
@given(tensors=vectors(), number=st.integers(1, 4))
def test_low_rank_is_as_near_as_a_product_can_be(small_pieces, directory, tensors, number):
    decoded = round_trip(directory, tensors, rank(number))
    for name, tensor in tensors.items():
        if not low_rank.is_thinner(tuple(tensor.shape), number):
            assert torch.equal(bits(decoded[name]), bits(tensor)), "it stays dense"
            continue
        before, after = tensor.double(), decoded[name].double()
        best = torch.linalg.svdvals(before)[number:].norm()
        rounding = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[tensor.dtype]  # of the factors
        assert (after - before).norm() <= best + rounding * (before.norm() + before.norm() * number)
        untouched = ~tensor.any(dim=1)
        assert torch.equal(bits(decoded[name][untouched]), bits(torch.full_like(decoded[name][untouched], -0.0)))


@pytest.mark.parametrize("method", [keep(0.3), rank(2), FP8], ids=lambda method: method.kind)
def test_what_is_read_does_not_depend_on_the_blocks(small_pieces, directory, method):
    generator = torch.Generator().manual_seed(1)
    tensors = {"a": torch.randn(19, 41, generator=generator), "b": torch.randn(211, generator=generator)}
    written, _ = compress(write_vector(directory / "v", tensors), directory / "out", method)
    whole = decode(written)
    with open_compressed(written.files) as sources:
        for name, source in sources.items():
            elements = math.prod(source.shape)
            for size in (1, 36, 37, 64, elements):
                starts = [*range(0, elements, size), 5, 0]
                for start in starts:
                    count = min(size, elements - start)
                    assert torch.equal(
                        bits(read_elements(source, start, count)), bits(whole[name].view(-1)[start : start + count])
                    )
            assert len(read_elements(source, elements, 0)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", [keep(0.02), rank(3), FP8], ids=lambda method: method.kind)
def test_tensors_larger_than_a_block_survive(directory, method, dtype):
    generator = torch.Generator().manual_seed(2)
    tensors = {
        "long": torch.randn(3, 300_001, generator=generator).to(dtype),
        "deep": torch.randn(70_001, 5, generator=generator).to(dtype),
    }
    source = write_vector(directory / "v", tensors)
    written, _ = compress(source, directory / "out", method)
    decoded = decode(written)
    if method.kind is CompressionKind.KEEP:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()]).abs()
        assert sum(int((tensor != 0).sum()) for tensor in decoded.values()) == round(0.02 * len(flat))
    if method.kind is CompressionKind.FP8:
        assert written.description.compression.relative_error == pytest.approx(0.0265, abs=2e-3)
    before = torch.cat([tensors[name].double().reshape(-1) for name in tensors])
    after = torch.cat([decoded[name].double().reshape(-1) for name in tensors])
    compression = written.description.compression
    assert compression.relative_error == pytest.approx(float((after - before).norm() / before.norm()))
    assert compression.cosine == pytest.approx(float(after @ before / after.norm() / before.norm()))
    assert written.description.norm == pytest.approx(float(after.norm()))
    assert written.description.inexact_elements == int((bits(before) != bits(after)).sum())


def test_ties_at_the_limit_are_spread_over_the_vector(directory):
    tensors = {name: torch.ones(1000) for name in "abcd"}
    decoded = round_trip(directory, tensors, keep(0.25))
    assert [int((tensor != 0).sum()) for tensor in decoded.values()] == [250] * 4
    assert int((decoded["a"][:500] != 0).sum()) == 125


def test_kept_element_takes_a_byte_beside_its_value(directory):
    generator = torch.Generator().manual_seed(3)
    source = write_vector(directory / "v", {"w": torch.randn(1 << 20, generator=generator).bfloat16()})
    written, _ = compress(source, directory / "out", keep(0.1))
    assert written.description.bytes / (0.1 * (1 << 20)) == pytest.approx(3.0, abs=0.01)


@given(st.sets(st.integers(0, 65_535), max_size=300))
def test_places_survive_their_gaps(places):
    places = torch.tensor(sorted(places), dtype=torch.int64)
    assert torch.equal(places_of(gaps_of(places)), places)


def test_description_names_source_and_origin(directory):
    source = write_vector(directory / "v", {"w": torch.randn(40, 40, generator=torch.Generator().manual_seed(0))})
    description = compress(source, directory / "out", rank(2))[0].description
    assert description.compression.source == source.description.id != description.id
    assert (description.compression.kind, description.compression.parameters) == (CompressionKind.RANK, {"rank": 2})
    assert (description.base_digest, description.fingerprinted_digest) == ("b" * 64, "f" * 64)
    assert (description.tensors, description.elements) == (1, 1600)
    stored = load_file(directory / "out" / "vector.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {"w:left": (40, 2), "w:right": (2, 40)}
    assert description.bytes == 4 * 160
    entries = [TensorDigest(name, "F32", tuple(tensor.shape), content_of(tensor)) for name, tensor in stored.items()]
    assert description.digest == Manifest.of(entries).digest


def test_loss_is_told_by_role(directory):
    tensors = {"wte": torch.full((8, 8), 2.0), "mlp": torch.full((8, 8), 1.0), "ln": torch.zeros(8)}
    roles = {"wte": TensorRole.EMBEDDING, "mlp": TensorRole.MLP, "ln": TensorRole.NORM}
    _, losses = compress(write_vector(directory / "v", tensors), directory / "out", keep(0.4), roles.__getitem__)
    assert [(loss.role, loss.relative_error, loss.cosine) for loss in losses] == [
        (TensorRole.EMBEDDING, pytest.approx((10 / 64) ** 0.5), pytest.approx((54 / 64) ** 0.5)),
        (TensorRole.MLP, 1.0, None),
        (TensorRole.NORM, 0.0, None),
    ]
    assert losses[0].to_json()["share_of_bytes"] == losses[0].bytes / 256


@pytest.mark.parametrize("method", [keep(0.3), rank(2), FP8], ids=lambda method: method.kind)
def test_compressing_twice_gives_the_same_vector(directory, method):
    source = write_vector(directory / "v", {"w": torch.randn(600, 530, generator=torch.Generator().manual_seed(0))})
    digests = {compress(source, directory / out, method)[0].description.digest for out in ("one", "two")}
    assert len(digests) == 1


def test_large_matrix_is_decomposed_nearly_as_well_in_a_random_subspace():
    generator = torch.Generator().manual_seed(4)
    matrix = torch.randn(700, 30, generator=generator) @ torch.randn(30, 900, generator=generator)
    matrix += torch.randn(700, 900, generator=generator)
    left, right = truncated_factors(matrix, 20, generator)
    best = torch.linalg.svdvals(matrix)[20:].norm()
    assert (left @ right - matrix).norm() <= 1.001 * best


@pytest.mark.parametrize("transposed", [False, True])
def test_low_rank_source_is_the_scaled_product(small_pieces, transposed):
    generator = torch.Generator().manual_seed(5)
    left, right = torch.randn(9, 4, generator=generator), torch.randn(4, 12, generator=generator).bfloat16()
    left[2] = 0
    product = 0.5 * (left @ right.float())
    source = LowRank(MemoryTensor(left), MemoryTensor(right), scale=0.5, transposed=transposed)
    expected = product.T if transposed else product
    assert (source.dtype, source.shape) == (Dtype.F32, tuple(expected.shape))
    read = read_elements(source, 0, 108).view(source.shape)
    torch.testing.assert_close(read, expected)
    zeros = read[:, 2] if transposed else read[2]
    assert bool(torch.signbit(zeros).all())


def test_low_rank_refuses_factors_that_do_not_fit():
    with pytest.raises(VectorError, match=r"\[2, 3\] and \[2, 3\] cannot be multiplied"):
        LowRank(MemoryTensor(torch.ones(2, 3)), MemoryTensor(torch.ones(2, 3)))


def test_compressed_vector_is_not_compressed_again(directory):
    source = write_vector(directory / "v", {"w": torch.ones(20, 20)})
    written, _ = compress(source, directory / "out", FP8)
    with pytest.raises(VectorError, match=rf"compressed already \(fp8\) – compress .* {source.description.id}"):
        plan_compression(written, keep(0.1))


@pytest.mark.parametrize("method", [keep(0.3), rank(2), FP8], ids=lambda method: method.kind)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_number_that_float32_cannot_hold_is_refused(directory, method, bad):
    tensor = torch.ones(20, 20, dtype=torch.float64)
    tensor[3, 3] = bad
    source = write_vector(directory / "v", {"w": tensor})
    (directory / "out").mkdir()
    with pytest.raises(VectorError, match="w: an element is"):
        write_compressed(
            plan_compression(source, method), directory / "out", role=lambda name: TensorRole.OTHER, tool_version="1"
        )


def test_vector_of_zeros_is_refused(directory):
    source = write_vector(directory / "v", {"w": torch.full((20, 20), -0.0)})
    with pytest.raises(VectorError, match="every element is zero"):
        compress(source, directory / "out", keep(0.5))


def test_source_whose_bytes_were_changed_is_refused(directory):
    source = write_vector(directory / "v", {"w": torch.ones(20, 20)})
    source = replace(source, description=replace(source.description, digest="0" * 64))
    with pytest.raises(VectorError, match="not those of its description"):
        compress(source, directory / "out", FP8)


def damaged(directory, method, change):
    """Compress a vector and change what is stored."""
    source = write_vector(directory / "v", {"w": torch.randn(40, 40, generator=torch.Generator().manual_seed(0))})
    written, _ = compress(source, directory / "out", method)
    stored = load_file(directory / "out" / "vector.safetensors")
    change(stored)
    save_file(stored, directory / "out" / "vector.safetensors")
    return replace(written, files=read_vector(directory / "out").files)


@pytest.mark.parametrize(
    ("method", "part", "value", "message"),
    [
        (keep(0.1), "w:gaps", None, "no way of compressing gives"),
        (keep(0.1), "w:gaps", torch.zeros(3, dtype=torch.uint8), "w: the blocks do not add up"),
        (keep(0.1), "w:gaps", torch.full((160,), 254, dtype=torch.uint8), "w: block 0 does not hold"),
        (keep(0.1), "w:counts", torch.zeros(2, 2, dtype=torch.int32), "w: counts are"),
        (keep(0.1), "w:shape", torch.zeros(1, 2, dtype=torch.uint8), "w: shape is"),
        (keep(0.1), "w:values", torch.zeros(160, dtype=torch.int32), "w: values is I32"),
        (rank(2), "w:left", torch.zeros(40, 3), "w: left and right cannot be multiplied"),
        (rank(2), "w:left", torch.zeros(40), "w: left is F32 of shape"),
        (FP8, "w:scales", torch.zeros(39), "w: scales are F32"),
        (FP8, "w:codes", torch.zeros(40).to(torch.float8_e4m3fn), "have no rows"),
        (FP8, "w:codes", None, "stored as scales"),
    ],
)
def test_damaged_parts_are_refused_by_name(directory, method, part, value, message):
    def change(stored):
        del stored[part]
        if value is not None:
            stored[part] = value

    vector = damaged(directory, method, change)
    with pytest.raises(VectorError, match=message):
        decode(vector)
