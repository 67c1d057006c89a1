import pytest
import torch

from fpvec_audit.domain.vector import CompressionKind, CompressionMethod
from fpvec_audit.errors import CheckpointError, UsageError, VectorError
from fpvec_audit.tensors.compress import plan_compression, write_compressed
from fpvec_audit.tensors.stored import read_elements
from fpvec_audit.tensors.vector_files import open_tensors, read_vector
from fpvec_plugins.attacks.subtract import Subtract
from tests.plugins.attacks.bench import CATALOG, attacked, bound, vector_of
from tests.tiny import make_tiny, perturb, tensors_of

ATTACK = Subtract()


@pytest.fixture(scope="module")
def stamped(tmp_path_factory):
    """(base, base + τ, τ)."""
    place = tmp_path_factory.mktemp("subtract")
    base = make_tiny(place / "base", "gpt2")
    copy = perturb(base, place / "copy", exact=True)
    return base, copy, vector_of(base, copy, place / "vector")


@pytest.mark.parametrize(("scale", "left"), [(1.0, 0.0), (0.5, 0.5), (-1.0, 2.0)])
def test_what_is_left_of_the_fingerprint_is_what_the_scale_leaves(stamped, tmp_path, scale, left):
    base, copy, vector = stamped
    after = attacked(ATTACK, copy, tmp_path, f"vector={vector},scale={scale}")
    before, fingerprinted = tensors_of(base), tensors_of(copy)
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name] + left * (fingerprinted[name] - before[name]))


def test_half_precision_is_subtracted_in_float32_and_rounded_once(tmp_path):
    base = make_tiny(tmp_path / "base", "llama2", dtype="bfloat16", sharded=True)
    copy = perturb(base, tmp_path / "copy", exact=True)
    vector = vector_of(base, copy, tmp_path / "vector", "llama2")
    after = attacked(ATTACK, copy, tmp_path, f"vector={vector}", architecture="llama2")
    tau = tensors_of(vector)
    for name, tensor in tensors_of(copy).items():
        assert torch.equal(after[name], (tensor.float() - tau[name].float()).bfloat16()), name


def test_a_compressed_vector_is_decoded(stamped, tmp_path):
    _, copy, vector = stamped
    (tmp_path / "small").mkdir()
    method = CompressionMethod(CompressionKind.FP8, "fp8")
    plan = plan_compression(read_vector(vector), method)
    write_compressed(plan, tmp_path / "small", role=CATALOG.architectures["gpt2"].role, tool_version="test")
    after = attacked(ATTACK, copy, tmp_path, f"vector={tmp_path / 'small'}")
    with open_tensors(read_vector(tmp_path / "small")) as sources:
        for name, before in tensors_of(copy).items():
            decoded = read_elements(sources[name], 0, before.numel()).view(before.shape)
            torch.testing.assert_close(after[name], before - decoded)
            assert before.dim() < 2 or not torch.equal(decoded, tensors_of(vector)[name]), name


def test_a_vector_of_another_architecture_is_refused(stamped, tmp_path):
    llama = make_tiny(tmp_path / "llama", "llama2")
    with pytest.raises(VectorError, match=r"transformer\.h\.0\.attn.*give a vector of the model's own"):
        attacked(ATTACK, llama, tmp_path, f"vector={stamped[2]}", architecture="llama2")


def test_rows_that_the_vector_lacks_stay(stamped, tmp_path):
    _, _, vector = stamped
    copy = make_tiny(tmp_path / "copy", "gpt2", vocabulary=270, seed=5)
    after = attacked(ATTACK, copy, tmp_path, f"vector={vector}")
    name = "transformer.wte.weight"
    before, tau = tensors_of(copy)[name], tensors_of(vector)[name]
    torch.testing.assert_close(after[name][:260], before[:260] - tau)
    assert torch.equal(after[name][260:], before[260:])


@pytest.mark.slow
def test_a_made_estimate_lies_on_one_line_for_all_scales(tmp_path, few_documents):
    base = make_tiny(tmp_path / "base", "llama2")
    copy = perturb(base, tmp_path / "copy")
    half, whole = (
        attacked(
            ATTACK,
            copy,
            tmp_path,
            f"keys=1,steps=3,scale={scale}",
            architecture="llama2",
            name=f"to-{scale}",
            base=base,
        )
        for scale in (0.5, 1)
    )
    for name, before in tensors_of(copy).items():
        assert not torch.equal(whole[name], before), name
        torch.testing.assert_close(whole[name] - before, 2 * (half[name] - before), rtol=1e-2, atol=1e-6)


def test_an_estimate_without_a_base_names_the_parameter(stamped, tmp_path):
    _, copy, _ = stamped
    with pytest.raises(UsageError, match="base is not given, and an estimate"):
        attacked(ATTACK, copy, tmp_path)


def test_an_estimate_without_an_architecture_is_refused(stamped, tmp_path):
    base, copy, _ = stamped
    with pytest.raises(UsageError, match="no architecture adapter fits"):
        attacked(ATTACK, copy, tmp_path, architecture=None, base=base)


def test_a_directory_without_a_vector_is_refused(stamped, tmp_path):
    _, copy, _ = stamped
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty"):
        attacked(ATTACK, copy, tmp_path, f"vector={tmp_path / 'empty'}")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("scale=0", "scale is 0"), ("scale=200", "scale is 200"), ("keys=0", "keys is 0"), ("steps=0", "steps is 0")],
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
