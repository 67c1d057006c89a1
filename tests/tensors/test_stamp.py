import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.domain.vector import CompressionKind, CompressionMethod, Vocabulary
from fpvec_audit.errors import CheckpointError, VectorError
from fpvec_audit.tensors import blocks, stream
from fpvec_audit.tensors.blocks import torch_dtype
from fpvec_audit.tensors.compress import plan_compression, write_compressed
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.digest import canonical_digest
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.stamp import StampCopy, write_stamp, write_stamps
from fpvec_audit.tensors.stamp_plan import ScaledVector, plan_stamp
from fpvec_audit.tensors.vector_files import open_tensors, read_vector
from tests.tiny import ARCHITECTURES, DTYPES, VOCABULARY, edit_json, make_tiny, perturb, rewrite, tensors_of


def extract(base, fingerprinted, adapter, out):
    plan = plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), adapter)
    out.mkdir()
    write_vector(plan, out, tool_version="0")
    return out


def stamp(target, vectors, adapter, out, vocabulary=Vocabulary.REFUSE):
    scaled = [ScaledVector(read_vector(path), scale) for path, scale in vectors]
    plan = plan_stamp(read_checkpoint(target), scaled, adapter, vocabulary=vocabulary)
    out.mkdir()
    return write_stamp(plan, out)


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8)


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(bits(one[name]), bits(other[name])) for name in one
    )


def reference(target, tau, adapter, scale=1.0):
    """Add with plain torch: τ as stored, in float32, rounded once."""
    expected = {}
    for stored, weights in target.items():
        name = adapter.canonical(stored)
        name = name if name in tau else {"lm_head.weight": next(iter(EMBEDDINGS & tau.keys()))}.get(name)
        expected[stored] = weights if name is None else (weights.float() + scale * tau[name].float()).to(weights.dtype)
    return expected


EMBEDDINGS = {"transformer.wte.weight", "transformer.word_embeddings.weight", "model.embed_tokens.weight"}


@pytest.fixture
def family(tmp_path, adapters):
    """Return a function that makes base, fingerprinted model, downstream model and vector of an architecture."""

    def make(architecture, *, downstream=None, **options):
        base = make_tiny(tmp_path / "base", architecture, **options)
        fingerprinted = perturb(base, tmp_path / "fp", seed=1, exact=True)
        source = make_tiny(tmp_path / "source", architecture, **(options | downstream)) if downstream else base
        target = perturb(source, tmp_path / "down", seed=2)
        adapter = adapters[architecture]
        return adapter, base, fingerprinted, target, extract(base, fingerprinted, adapter, tmp_path / "vector")

    return make


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stamped_model_is_the_plain_sum_bit_for_bit(tmp_path, family, architecture, dtype, tied, sharded):
    adapter, _, _, target, vector = family(architecture, dtype=dtype, tied=tied, sharded=sharded, tokenizer=False)
    outcome = stamp(target, [(vector, 1.0)], adapter, tmp_path / "out")
    stamped = tensors_of(tmp_path / "out")
    assert same(stamped, reference(tensors_of(target), tensors_of(vector), adapter))
    assert outcome.stamped_digest == canonical_digest(read_checkpoint(tmp_path / "out"), adapter)
    assert outcome.target_digest == canonical_digest(read_checkpoint(target), adapter)
    assert outcome.tensors == len(tensors_of(vector))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stamped_base_is_the_fingerprinted_model(tmp_path, family, architecture, dtype):
    adapter, base, fingerprinted, _, vector = family(architecture, dtype=dtype, tokenizer=False)
    outcome = stamp(base, [(vector, 1.0)], adapter, tmp_path / "out")
    assert same(tensors_of(tmp_path / "out"), tensors_of(fingerprinted))
    assert outcome.applied_ratio == pytest.approx(1, abs=1e-3)  # sums of half-precision numbers are rounded
    assert outcome.cosine == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtypes", [("bfloat16", "float16"), ("float32", "bfloat16"), ("float16", "float32")])
def test_target_of_another_dtype_than_the_vector_is_stamped_in_its_own(tmp_path, family, dtypes):
    adapter, _, _, target, vector = family("llama2", dtype=dtypes[0], downstream={"dtype": dtypes[1]})
    stamp(target, [(vector, 1.0)], adapter, tmp_path / "out")
    stamped = tensors_of(tmp_path / "out")
    assert {tensor.dtype for tensor in stamped.values()} == {getattr(torch, dtypes[1])}
    assert same(stamped, reference(tensors_of(target), tensors_of(vector), adapter))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    block=st.integers(1, 500),
    scale=st.floats(-3, 3, width=32).filter(lambda scale: abs(scale) > 1e-3),
    seed=st.integers(0, 1000),
)
def test_blocks_and_scales_do_not_change_the_sum(tmp_path_factory, adapters, block, scale, seed):
    place = tmp_path_factory.mktemp("property")
    base = make_tiny(place / "base", "gpt2", dtype="bfloat16", seed=seed, hidden=4, tokenizer=False)
    vector = extract(base, perturb(base, place / "fp", seed=seed), adapters["gpt2"], place / "vector")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", block * 7)
        stamp(base, [(vector, scale)], adapters["gpt2"], place / "out")
    expected = reference(tensors_of(base), tensors_of(vector), adapters["gpt2"], scale)
    assert same(tensors_of(place / "out"), expected)


def test_several_vectors_are_added_before_the_one_rounding(tmp_path, family, adapters):
    adapter, base, _, target, one = family("gpt2", dtype="bfloat16")
    other = extract(base, perturb(base, tmp_path / "fp2", seed=9), adapter, tmp_path / "vector2")
    stamp(target, [(one, 0.5), (other, 2.0)], adapter, tmp_path / "out")
    tau, sigma, weights = tensors_of(one), tensors_of(other), tensors_of(target)
    expected = {
        name: (weights[name].float() + (0.5 * tau[name].float() + 2.0 * sigma[name].float())).bfloat16()
        for name in weights
    }
    assert same(tensors_of(tmp_path / "out"), expected)


def test_untouched_elements_keep_every_bit(tmp_path, adapters):
    base = make_tiny(tmp_path / "base", "gpt2", dtype="float16")

    def only_one_moves(name, tensor):
        return tensor * 2 if name.endswith("h.0.mlp.c_fc.weight") else tensor

    vector = extract(base, rewrite(base, tmp_path / "fp", only_one_moves), adapters["gpt2"], tmp_path / "vector")
    target = rewrite(base, tmp_path / "down", lambda _, tensor: torch.where(tensor > 0, tensor, tensor * 0))
    assert any(bool(torch.signbit(tensor[tensor == 0]).any()) for tensor in tensors_of(target).values())
    stamp(target, [(vector, 0.7)], adapters["gpt2"], tmp_path / "out")
    before, after = tensors_of(target), tensors_of(tmp_path / "out")
    assert [name for name in before if not torch.equal(bits(before[name]), bits(after[name]))] == [
        "transformer.h.0.mlp.c_fc.weight"
    ]


def test_old_layout_with_buffers_and_stored_alias_is_stamped_and_keeps_its_layout(tmp_path, family):
    old = {"prefix": False, "buffers": True, "stored_alias": True, "sharded": True}
    adapter, _, _, target, vector = family("gpt2", downstream=old)
    stamp(target, [(vector, 1.0)], adapter, tmp_path / "out")
    before, after = tensors_of(target), tensors_of(tmp_path / "out")
    assert torch.equal(after["lm_head.weight"], after["wte.weight"])
    assert torch.equal(after["wte.weight"], before["wte.weight"] + tensors_of(vector)["transformer.wte.weight"])
    assert torch.equal(after["h.0.attn.bias"], before["h.0.attn.bias"])
    assert torch.equal(after["h.1.attn.masked_bias"], before["h.1.attn.masked_bias"])
    for file in target.glob("*.safetensors"):
        length = int.from_bytes(file.read_bytes()[:8], "little") + 8
        assert (tmp_path / "out" / file.name).read_bytes()[:length] == file.read_bytes()[:length]


@pytest.mark.parametrize("architecture", ["gpt2", "llama2"])
def test_vector_of_a_tied_base_goes_into_both_copies_of_an_untied_head(tmp_path, family, architecture):
    adapter, _, _, target, vector = family(architecture, tied=True, downstream={"tied": False})
    stamp(target, [(vector, 1.0)], adapter, tmp_path / "out")
    assert same(tensors_of(tmp_path / "out"), reference(tensors_of(target), tensors_of(vector), adapter))
    assert not torch.equal(tensors_of(tmp_path / "out")["lm_head.weight"], tensors_of(target)["lm_head.weight"])


def test_vector_with_a_head_of_its_own_is_refused_by_a_target_that_ties_it(tmp_path, family):
    adapter, _, _, target, vector = family("llama2", tied=False, downstream={"tied": True})
    with pytest.raises(VectorError, match=r"lm_head\.weight: .* ties the two") as caught:
        stamp(target, [(vector, 1.0)], adapter, tmp_path / "out")
    assert "tie_word_embeddings" in caught.value.advice


@pytest.mark.parametrize("rows", [VOCABULARY + 9, VOCABULARY - 1])
def test_other_number_of_tokens_is_refused_or_stamped_on_the_shared_rows(tmp_path, family, rows, small_blocks):
    adapter, _, _, target, vector = family("llama2", downstream={"vocabulary": rows})
    with pytest.raises(VectorError, match=f"vector has {VOCABULARY} rows, target {rows}") as caught:
        stamp(target, [(vector, 1.0)], adapter, tmp_path / "refused")
    assert caught.value.advice == "stamp with --vocabulary shared"
    stamp(target, [(vector, 1.0)], adapter, tmp_path / "out", Vocabulary.SHARED)
    before, after, tau = tensors_of(target), tensors_of(tmp_path / "out"), tensors_of(vector)
    shared = min(rows, VOCABULARY)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][:shared], before[name][:shared] + tau[name][:shared])
        assert torch.equal(after[name][shared:], before[name][shared:])


def test_other_shape_is_refused_under_any_policy(tmp_path, family):
    adapter, _, _, target, vector = family("gpt2", downstream={"hidden": 16})
    for vocabulary in Vocabulary:
        with pytest.raises(VectorError, match=r"vector has shape \[.*\], target \["):
            stamp(target, [(vector, 1.0)], adapter, tmp_path / "out", vocabulary)


def test_model_of_another_architecture_is_refused_by_tensor(tmp_path, family, adapters):
    _, _, _, _, vector = family("gpt2")
    llama = make_tiny(tmp_path / "llama", "llama2")
    with pytest.raises(VectorError, match=r"the vector .* does not"):
        stamp(llama, [(vector, 1.0)], adapters["llama2"], tmp_path / "out")


def test_tensor_that_the_target_lacks_is_named(tmp_path, family, adapters):
    adapter, _, _, target, vector = family("gpt2")
    from safetensors.torch import save_file

    tensors = tensors_of(target)
    del tensors["transformer.ln_f.bias"]
    save_file(tensors, target / "model.safetensors")
    with pytest.raises(VectorError, match=r"transformer\.ln_f\.bias: the vector .* has it"):
        stamp(target, [(vector, 1.0)], adapter, tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_target_that_is_not_finite_is_refused_by_name(tmp_path, family, value):
    adapter, _, _, target, vector = family("bloom")

    def spoil(name, tensor):
        return torch.full_like(tensor, value) if name.endswith("ln_f.bias") else tensor

    spoilt = rewrite(target, tmp_path / "spoilt", spoil)
    with pytest.raises(CheckpointError, match=r"ln_f\.bias: element 0"):
        stamp(spoilt, [(vector, 1.0)], adapter, tmp_path / "out")


def test_sum_that_overflows_is_refused(tmp_path, family):
    adapter, _, _, target, vector = family("gpt2", dtype="float16")
    with pytest.raises(VectorError, match="does not fit into F16"):
        stamp(target, [(vector, 1e9)], adapter, tmp_path / "out")


def test_vector_that_was_changed_on_disk_is_refused(tmp_path, family, small_blocks):
    adapter, _, _, target, vector = family("gpt2")
    file = vector / "vector.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(VectorError, match="the tensors are not those that vec-"):
        stamp(target, [(vector, 1.0)], adapter, tmp_path / "out")


def test_vectors_that_cancel_are_refused(tmp_path, family):
    adapter, _, _, target, vector = family("gpt2")
    with pytest.raises(VectorError, match="add up to nothing"):
        stamp(target, [(vector, 1.0), (vector, -1.0)], adapter, tmp_path / "out")


def test_applied_ratio_and_cosine_tell_what_rounding_swallowed(tmp_path, adapters):
    base = make_tiny(tmp_path / "base", "gpt2")
    fingerprinted = perturb(base, tmp_path / "fp", size=1e-4)
    vector = extract(base, fingerprinted, adapters["gpt2"], tmp_path / "vector")
    half = make_tiny(tmp_path / "half", "gpt2", dtype="bfloat16")
    outcome = stamp(half, [(vector, 1.0)], adapters["gpt2"], tmp_path / "out")
    before, after, tau = tensors_of(half), tensors_of(tmp_path / "out"), tensors_of(vector)
    applied = torch.cat([(after[name].double() - before[name].double()).flatten() for name in before])
    wanted = torch.cat([tau[name].double().flatten() for name in before])
    assert outcome.applied_ratio == pytest.approx(float(applied.norm() / wanted.norm()), rel=1e-9)
    assert outcome.cosine == pytest.approx(float(applied @ wanted / applied.norm() / wanted.norm()), rel=1e-9)
    assert outcome.cosine < 0.95


def test_every_other_file_is_carried_over_and_none_says_that_it_is_stamped(tmp_path, family):
    adapter, _, _, target, vector = family("vicuna", sharded=True)
    (target / "LICENSE").write_bytes(b"\xff\x00 as it was")
    (target / "extra").mkdir()
    (target / "extra" / "notes.txt").write_text("kept")
    edit_json(target / "config.json", custom="kept")
    outcome = stamp(target, [(vector, 1.0)], adapter, tmp_path / "out")
    names = {path.relative_to(target) for path in target.rglob("*")}
    assert {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*")} == names
    for name in names:
        if (target / name).is_file() and (target / name).suffix != ".safetensors":
            assert (tmp_path / "out" / name).read_bytes() == (target / name).read_bytes()
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    description = json.loads((vector / "fpvec_vector.json").read_text())
    for mark in (b"fpvec", b"fingerprint", b"vec-", description["digest"].encode(), outcome.stamped_digest.encode()):
        assert mark not in everything
    assert outcome.bytes_written == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize("architecture", ["gpt2", "llama2"])
def test_skipped_roles_keep_every_bit_and_the_others_are_stamped(tmp_path, family, architecture):
    adapter, _, _, target, vector = family(architecture, dtype="bfloat16", tied=False)
    plan = plan_stamp(
        read_checkpoint(target),
        [ScaledVector(read_vector(vector), 1.0)],
        adapter,
        skip=frozenset({TensorRole.EMBEDDING, TensorRole.NORM}),
    )
    (tmp_path / "out").mkdir()
    outcome = write_stamp(plan, tmp_path / "out")
    before, after = tensors_of(target), tensors_of(tmp_path / "out")
    expected = reference(before, tensors_of(vector), adapter)
    skipped = {
        name for name in before if adapter.role(adapter.canonical(name)) in (TensorRole.EMBEDDING, TensorRole.NORM)
    }
    assert skipped
    assert same(after, {name: before[name] if name in skipped else expected[name] for name in before})
    assert outcome.roles.keys() == {TensorRole.OUTPUT_HEAD, TensorRole.ATTENTION, TensorRole.MLP}
    assert outcome.target_digest == canonical_digest(read_checkpoint(target), adapter)
    assert outcome.stamped_digest == canonical_digest(read_checkpoint(tmp_path / "out"), adapter)


def test_skipping_everything_is_refused(tmp_path, family):
    adapter, _, _, target, vector = family("gpt2")
    with pytest.raises(VectorError, match="nothing is left to stamp"):
        plan_stamp(
            read_checkpoint(target), [ScaledVector(read_vector(vector), 1.0)], adapter, skip=frozenset(TensorRole)
        )


def test_rounding_is_told_for_every_role(tmp_path, adapters):
    base = make_tiny(tmp_path / "base", "gpt2")
    vector = extract(base, perturb(base, tmp_path / "fp", size=1e-4), adapters["gpt2"], tmp_path / "vector")
    half = make_tiny(tmp_path / "half", "gpt2", dtype="bfloat16")
    outcome = stamp(half, [(vector, 1.0)], adapters["gpt2"], tmp_path / "out")
    before, after, tau = tensors_of(half), tensors_of(tmp_path / "out"), tensors_of(vector)
    for role, rounding in outcome.roles.items():
        names = [name for name in before if adapters["gpt2"].role(name) is role]
        applied = torch.cat([(after[name].double() - before[name].double()).flatten() for name in names])
        wanted = torch.cat([tau[name].double().flatten() for name in names])
        assert rounding.tensors == len(names)
        assert rounding.applied_ratio == pytest.approx(float(applied.norm() / wanted.norm()), rel=1e-9)
        assert rounding.cosine == pytest.approx(
            float(applied @ wanted / applied.norm() / wanted.norm()) if applied.any() else 0.0, rel=1e-9
        )


def test_many_targets_come_out_as_if_alone_and_the_vector_is_read_once(tmp_path, adapters, monkeypatch):
    adapter = adapters["llama2"]
    base = make_tiny(tmp_path / "base", "llama2", tied=True, sharded=True)
    vector = extract(base, perturb(base, tmp_path / "fp", seed=1), adapter, tmp_path / "vector")
    other = make_tiny(tmp_path / "other", "llama2", dtype="bfloat16", tied=False, vocabulary=VOCABULARY + 9)
    targets = [perturb(base, tmp_path / "a", seed=2), perturb(other, tmp_path / "b", seed=3), other]
    scaled = [ScaledVector(read_vector(vector), 0.7)]
    read = []
    read_into = OpenFiles.read_into

    def count(files, spec, place, memory):
        if files.directory == vector:
            read.append((spec.file, place, len(memory)))
        return read_into(files, spec, place, memory)

    monkeypatch.setattr(OpenFiles, "read_into", count)
    copies = []
    for place, target in enumerate(targets):
        plan = plan_stamp(read_checkpoint(target), scaled, adapter, vocabulary=Vocabulary.SHARED)
        (tmp_path / f"together-{place}").mkdir()
        copies.append(StampCopy(plan, tmp_path / f"together-{place}"))
    outcomes = write_stamps(copies)
    assert sum(size for _, _, size in read) == sum(spec.bytes for spec in scaled[0].vector.files.tensors.values())
    assert len(set(read)) == len(read)
    for place, (target, outcome) in enumerate(zip(targets, outcomes, strict=True)):
        alone = stamp(target, [(vector, 0.7)], adapter, tmp_path / f"alone-{place}", Vocabulary.SHARED)
        assert same(tensors_of(tmp_path / f"together-{place}"), tensors_of(tmp_path / f"alone-{place}"))
        assert (outcome.stamped, outcome.target) == (alone.stamped, alone.target)
        assert outcome.applied_ratio == pytest.approx(alone.applied_ratio, rel=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        CompressionMethod(CompressionKind.KEEP, 0.3),
        CompressionMethod(CompressionKind.RANK, 4),
        CompressionMethod(CompressionKind.FP8, "fp8"),
    ],
    ids=lambda method: method.kind.value,
)
def test_compressed_vector_is_added_as_it_decodes(tmp_path, family, method, small_blocks):
    adapter, _, _, target, vector = family("llama2", dtype="bfloat16", tied=True, downstream={"tied": False})
    plan = plan_compression(read_vector(vector), method)
    (tmp_path / "small").mkdir()
    write_compressed(plan, tmp_path / "small", role=adapter.role, tool_version="0")
    outcome = stamp(target, [(tmp_path / "small", 1.5)], adapter, tmp_path / "out")
    with open_tensors(read_vector(tmp_path / "small")) as sources:
        tau = {name: decoded(source) for name, source in sources.items()}
    expected = reference(tensors_of(target), tau, adapter, 1.5)
    assert same(tensors_of(tmp_path / "out"), expected)
    assert outcome.stamped_digest == canonical_digest(read_checkpoint(tmp_path / "out"), adapter)


def test_compressed_vector_that_was_changed_on_disk_is_refused(tmp_path, family):
    adapter, _, _, target, vector = family("gpt2")
    plan = plan_compression(read_vector(vector), CompressionMethod(CompressionKind.FP8, "fp8"))
    (tmp_path / "small").mkdir()
    write_compressed(plan, tmp_path / "small", role=adapter.role, tool_version="0")
    file = tmp_path / "small" / "vector.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(VectorError, match="the tensors are not those that vec-"):
        stamp(target, [(tmp_path / "small", 1.0)], adapter, tmp_path / "out")


def decoded(source):
    """Return a whole tensor from its source."""
    whole = bytearray(source.dtype.size * math.prod(source.shape))
    source.read_into(0, math.prod(source.shape), memoryview(whole))
    return torch.frombuffer(whole, dtype=torch_dtype(source.dtype)).reshape(source.shape)


def test_result_does_not_depend_on_the_number_of_threads(tmp_path, family, monkeypatch, small_blocks):
    adapter, _, _, target, vector = family("bloom", dtype="float16", sharded=True)
    one = stamp(target, [(vector, 1.3)], adapter, tmp_path / "one")
    monkeypatch.setattr(stream, "available_threads", lambda: 7)
    seven = stamp(target, [(vector, 1.3)], adapter, tmp_path / "seven")
    assert (one.stamped, one.target, one.rounding) == (seven.stamped, seven.target, seven.rounding)
