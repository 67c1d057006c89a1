import pytest
import torch

from fpvec_audit.domain.vector import StoredDtype
from fpvec_audit.errors import CheckpointError, VectorError
from fpvec_audit.tensors import reader, vector_files
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.digest import canonical_digest
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.vector_files import read_vector
from tests.tiny import ARCHITECTURES, DTYPES, make_tiny, perturb, rewrite, tensors_of, write_checkpoint


def extract(base, fingerprinted, adapter, out, dtype=StoredDtype.SAME):
    plan = plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), adapter, dtype=dtype)
    out.mkdir()
    return write_vector(plan, out, tool_version="0").description


def parameters(directory, adapter):
    """Return the parameters of a model by canonical name, loaded by safetensors itself."""
    stored = tensors_of(directory)
    names = named_parameters(read_checkpoint(directory), adapter).parameters
    return {name: stored[spec.name] for name, spec in names.items()}


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def different_elements(base, vector, fingerprinted):
    """Count, with plain torch, the elements that base + vector does not give back bit for bit."""
    assert base.keys() == vector.keys() == fingerprinted.keys()
    total = 0
    for name, weights in fingerprinted.items():
        rebuilt = (base[name].float() + vector[name].float()).to(weights.dtype)
        width = weights.element_size()
        total += int((bits(rebuilt).view(-1, width) != bits(weights).view(-1, width)).any(dim=1).sum())
    return total


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_base_plus_vector_gives_back_a_representable_model_bit_for_bit(
    tmp_path, adapters, architecture, dtype, tied, sharded
):
    adapter = adapters[architecture]
    base = make_tiny(tmp_path / "base", architecture, dtype=dtype, tied=tied, sharded=sharded, tokenizer=False)
    fingerprinted = perturb(base, tmp_path / "fp", exact=True)
    description = extract(base, fingerprinted, adapter, tmp_path / "vector")
    vector = tensors_of(tmp_path / "vector")
    assert description.inexact_elements == 0
    assert different_elements(parameters(base, adapter), vector, parameters(fingerprinted, adapter)) == 0
    assert {tensor.dtype for tensor in vector.values()} == {getattr(torch, dtype)}
    assert ("lm_head.weight" in vector) != tied


def test_models_that_the_page_cache_does_not_hold_give_the_same_vector(tmp_path, adapters, monkeypatch, small_blocks):
    adapter = adapters["llama2"]
    base = make_tiny(tmp_path / "base", "llama2", dtype="bfloat16", tokenizer=False)
    fingerprinted = perturb(base, tmp_path / "fp", exact=True)
    expected = extract(base, fingerprinted, adapter, tmp_path / "cached")
    monkeypatch.setattr(reader, "read_cached", lambda *_: False)
    assert extract(base, fingerprinted, adapter, tmp_path / "uncached") == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ["gpt2", "llama2"])
def test_every_element_that_is_not_given_back_is_counted(tmp_path, adapters, architecture, dtype, small_blocks):
    adapter = adapters[architecture]
    base = make_tiny(tmp_path / "base", architecture, dtype=dtype, tokenizer=False)
    other = make_tiny(tmp_path / "other", architecture, dtype=dtype, seed=7, tokenizer=False)
    description = extract(base, other, adapter, tmp_path / "vector")
    vector = tensors_of(tmp_path / "vector")
    found = different_elements(parameters(base, adapter), vector, parameters(other, adapter))
    assert description.inexact_elements == found > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vector_in_float32_gives_back_any_half_precision_model(tmp_path, adapters, architecture, dtype):
    adapter = adapters[architecture]
    base = make_tiny(tmp_path / "base", architecture, dtype=dtype, tokenizer=False)
    other = make_tiny(tmp_path / "other", architecture, dtype=dtype, seed=7, tokenizer=False)
    description = extract(base, other, adapter, tmp_path / "vector", StoredDtype.FLOAT32)
    vector = tensors_of(tmp_path / "vector")
    assert description.inexact_elements == 0
    assert different_elements(parameters(base, adapter), vector, parameters(other, adapter)) == 0
    assert {tensor.dtype for tensor in vector.values()} == {torch.float32}


def test_vector_is_the_difference_under_canonical_names_whatever_the_layout(tmp_path, adapters):
    new = make_tiny(tmp_path / "new", "gpt2", sharded=True)
    old = make_tiny(tmp_path / "old", "gpt2", prefix=False, buffers=True, stored_alias=True)
    fingerprinted = perturb(old, tmp_path / "fp")
    one = extract(new, fingerprinted, adapters["gpt2"], tmp_path / "one")
    other = extract(old, fingerprinted, adapters["gpt2"], tmp_path / "two")
    assert one.digest == other.digest
    tau = tensors_of(tmp_path / "one")
    base, moved = parameters(new, adapters["gpt2"]), parameters(fingerprinted, adapters["gpt2"])
    assert all(torch.equal(tau[name], moved[name] - base[name]) for name in base)
    assert not any(".attn.bias" in name for name in tau)


def test_description_tells_digests_norm_and_counts(tmp_path, adapters, small_blocks):
    base = make_tiny(tmp_path / "base", "bloom")
    fingerprinted = perturb(base, tmp_path / "fp")
    description = extract(base, fingerprinted, adapters["bloom"], tmp_path / "vector")
    stored = read_vector(tmp_path / "vector")
    tau = torch.cat([tensor.double().flatten() for tensor in tensors_of(tmp_path / "vector").values()])
    assert stored.description == description
    assert description.base_digest == canonical_digest(read_checkpoint(base), adapters["bloom"])
    assert description.fingerprinted_digest == canonical_digest(read_checkpoint(fingerprinted), adapters["bloom"])
    assert description.digest == canonical_digest(stored.files, None)
    assert description.norm == pytest.approx(float(tau.norm()), rel=1e-12)  # two orders of summation in float64
    assert (description.elements, description.bytes) == (tau.numel(), 4 * tau.numel())
    assert description.tied == {"lm_head.weight": "transformer.word_embeddings.weight"}


def test_large_vector_is_written_in_shards_with_an_index(tmp_path, adapters, monkeypatch):
    base = make_tiny(tmp_path / "base", "llama2", dtype="bfloat16")
    fingerprinted = perturb(base, tmp_path / "fp")
    whole = extract(base, fingerprinted, adapters["llama2"], tmp_path / "whole")
    monkeypatch.setattr(vector_files, "LARGEST_SHARD", 20_000)
    split = extract(base, fingerprinted, adapters["llama2"], tmp_path / "split")
    assert split.digest == whole.digest
    assert len(list((tmp_path / "split").glob("vector-*.safetensors"))) > 2
    assert read_vector(tmp_path / "split").files.sharded


def test_mixed_dtypes_within_and_between_models_are_subtracted(tmp_path):
    adapter = _Plain()
    base = {"w": torch.randn(5, 5).bfloat16(), "n": torch.randn(5), "d": torch.randn(5).double()}
    moved = {"w": base["w"].half() + 1, "n": base["n"] + 1, "d": base["d"] + 1}
    one = write_checkpoint(tmp_path / "base", base)
    other = write_checkpoint(tmp_path / "fp", moved)
    description = extract(one, other, adapter, tmp_path / "vector")
    tau = tensors_of(tmp_path / "vector")
    assert {name: tensor.dtype for name, tensor in tau.items()} == {
        "w": torch.float16,
        "n": torch.float32,
        "d": torch.float64,
    }
    assert description.norm == pytest.approx(35**0.5, rel=1e-3)  # 35 elements of about 1, rounded to half precision


def test_zero_keeps_its_sign_and_empty_tensors_and_scalars_pass(tmp_path):
    base = {"z": torch.tensor([-0.0, 0.0, -0.0]), "e": torch.zeros(0, 4), "s": torch.tensor(1.0)}
    moved = base | {"s": torch.tensor(2.0)}
    one, other = write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "fp", moved)
    assert extract(one, other, _Plain(), tmp_path / "vector").inexact_elements == 0
    rebuilt = base["z"] + tensors_of(tmp_path / "vector")["z"]
    assert torch.equal(bits(rebuilt), bits(base["z"]))


def test_equal_models_are_refused(tmp_path, adapters):
    base = make_tiny(tmp_path / "base", "gpt2")
    with pytest.raises(VectorError, match="has the same weights"):
        extract(base, base, adapters["gpt2"], tmp_path / "vector")


@pytest.mark.parametrize("which", ["base", "fingerprinted"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensor_that_is_not_finite_is_refused_by_name(tmp_path, adapters, which, value):
    base = make_tiny(tmp_path / "base", "gpt2", dtype="bfloat16")

    def spoil(name, tensor):
        if name == "transformer.h.1.mlp.c_fc.weight":
            tensor.view(-1)[5] = value
        return tensor

    spoilt = rewrite(base, tmp_path / "spoilt", spoil)
    pair = (spoilt, base) if which == "base" else (base, spoilt)
    with pytest.raises(CheckpointError, match=r"spoilt: transformer\.h\.1\.mlp\.c_fc\.weight: element 5 is"):
        extract(*pair, adapters["gpt2"], tmp_path / "vector")


def test_difference_that_overflows_is_refused_with_the_wider_dtype(tmp_path):
    one = write_checkpoint(tmp_path / "base", {"w": torch.tensor([-6e4]).half()})
    other = write_checkpoint(tmp_path / "fp", {"w": torch.tensor([6e4]).half()})
    with pytest.raises(VectorError, match="--dtype float32"):
        extract(one, other, _Plain(), tmp_path / "vector")
    (tmp_path / "again").mkdir()
    wide = extract(one, other, _Plain(), tmp_path / "again" / "vector", StoredDtype.FLOAT32)
    assert wide.inexact_elements == 0


BASE = {"w": torch.ones(2, 3), "n": torch.ones(3)}


@pytest.mark.parametrize(
    ("moved", "problem"),
    [
        ({"w": torch.zeros(2, 3)}, "n: the base has it, the fingerprinted model does not"),
        (BASE | {"x": torch.ones(1)}, "x: the fingerprinted model has it, the base does not"),
        (BASE | {"w": torch.ones(3, 2)}, r"w: the base has shape \[2, 3\], the fingerprinted model \[3, 2\]"),
        (BASE | {"n": torch.ones(3, dtype=torch.int32)}, "n: F32 and I32 cannot be subtracted"),
        (BASE | {"n": torch.ones(3).to(torch.float8_e4m3fn)}, "n: F32 and F8_E4M3 cannot be subtracted"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, moved, problem):
    one, other = write_checkpoint(tmp_path / "base", BASE), write_checkpoint(tmp_path / "fp", moved)
    with pytest.raises(VectorError, match=problem):
        extract(one, other, _Plain(), tmp_path / "vector")


def test_head_untied_in_one_of_the_models_is_named(tmp_path, adapters):
    tied = make_tiny(tmp_path / "tied", "llama2", tied=True)
    untied = make_tiny(tmp_path / "untied", "llama2", tied=False)
    for pair in ((tied, untied), (untied, tied)):
        with pytest.raises(VectorError, match=r"lm_head\.weight: .* ties it to model\.embed_tokens\.weight"):
            extract(*pair, adapters["llama2"], tmp_path / "vector")


def test_whole_numbers_must_be_equal_and_are_left_out(tmp_path):
    base = BASE | {"positions": torch.arange(4)}
    moved = {"w": torch.zeros(2, 3), "n": torch.ones(3), "positions": torch.arange(4)}
    one, other = write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "fp", moved)
    description = extract(one, other, _Plain(), tmp_path / "vector")
    assert "positions" not in tensors_of(tmp_path / "vector")
    assert description.base_digest == canonical_digest(read_checkpoint(one), None)
    third = write_checkpoint(tmp_path / "third", moved | {"positions": torch.arange(4) + 1})
    with pytest.raises(VectorError, match="positions: whole numbers"):
        extract(one, third, _Plain(), tmp_path / "other")


class _Plain:
    """An architecture whose stored names are canonical."""

    name = "plain"

    def canonical(self, tensor_name):
        return tensor_name

    def tied(self, config):
        return {}
