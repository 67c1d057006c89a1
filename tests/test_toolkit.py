from dataclasses import replace

import pytest
import torch

from fpvec_audit.api import NO_PROGRESS, AttackContext, TensorRole
from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import OutputError, PluginError, UsageError
from fpvec_audit.testing import RecordingProgress
from fpvec_audit.toolkit import known_base, random_generator, rewrite_checkpoint, weight_matrices
from tests.tiny import make_tiny, tensors_of

GPT2 = load_catalog().architectures["gpt2"]


def files_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("sharded", [False, True])
def test_a_change_that_changes_nothing_gives_the_same_bytes(tmp_path, sharded):
    source = make_tiny(tmp_path / "source", "gpt2", dtype="bfloat16", sharded=sharded, buffers=True)
    rewrite_checkpoint(source, tmp_path / "target", lambda _name, tensor: tensor, adapter=GPT2)
    assert files_of(tmp_path / "target") == files_of(source)


def test_parameters_are_changed_by_canonical_name_and_buffers_are_not(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2", prefix=False, buffers=True)
    names = []

    def double(name, tensor):
        names.append(name)
        return tensor * 2

    progress = RecordingProgress()
    rewrite_checkpoint(source, tmp_path / "target", double, adapter=GPT2, progress=progress)
    before, after = tensors_of(source), tensors_of(tmp_path / "target")
    for name, tensor in before.items():
        expected = tensor if name.endswith((".attn.bias", ".masked_bias")) else tensor * 2
        assert torch.equal(after[name], expected), name
    assert all(name.startswith("transformer.") for name in names)
    assert progress.advanced["write target"] == sum(tensor.nbytes for tensor in before.values())


def test_a_tied_tensor_that_is_stored_twice_stays_equal(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2", stored_alias=True)
    generator = torch.Generator().manual_seed(0)
    noise = lambda _name, tensor: tensor + torch.randn(tensor.shape, generator=generator)  # noqa: E731
    rewrite_checkpoint(source, tmp_path / "target", noise, adapter=GPT2)
    after = tensors_of(tmp_path / "target")
    assert torch.equal(after["lm_head.weight"], after["transformer.wte.weight"])
    assert not torch.equal(after["lm_head.weight"], tensors_of(source)["lm_head.weight"])


@pytest.mark.parametrize("change", [lambda _n, tensor: tensor.half(), lambda _n, tensor: tensor[:1]])
def test_another_shape_or_dtype_is_refused_and_nothing_is_left(tmp_path, change):
    source = make_tiny(tmp_path / "source", "llama2")
    with pytest.raises(PluginError, match=r"keep shape and dtype"):
        rewrite_checkpoint(source, tmp_path / "target", change)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_existing_target_is_refused(tmp_path):
    source = make_tiny(tmp_path / "source", "llama2")
    with pytest.raises(OutputError, match="exists already"):
        rewrite_checkpoint(source, source, lambda _name, tensor: tensor)


def test_a_generator_depends_on_seed_and_labels_alone():
    draw = lambda *labels: torch.rand(4, generator=random_generator(*labels)).tolist()  # noqa: E731
    assert draw(1, "noise", "a") == draw(1, "noise", "a")
    assert len({tuple(draw(*labels)) for labels in ((1, "a"), (2, "a"), (1, "b"), (1, "a", "b"), (1, "ab"))}) == 5


@pytest.mark.parametrize(("architecture", "turned"), [("gpt2", True), ("bloom", False), ("llama2", False)])
def test_matrices_are_known_with_their_roles_and_the_way_they_are_stored(tmp_path, architecture, turned):
    source = make_tiny(tmp_path / "source", architecture, prefix=False)
    adapter = load_catalog().architectures[architecture]
    found = weight_matrices(source, adapter=adapter)
    stored = {adapter.canonical(name): tensor for name, tensor in tensors_of(source).items()}
    assert set(found) == {name for name, tensor in stored.items() if tensor.dim() > 1}
    for name, matrix in found.items():
        assert matrix.role is adapter.role(name)
        assert matrix.transposed is (turned and matrix.role in (TensorRole.ATTENTION, TensorRole.MLP)), name
        rows = matrix.rows(stored[name])
        assert torch.equal(matrix.stored(rows, stored[name].shape), stored[name])
    strangers = weight_matrices(source)
    assert {matrix.role for matrix in strangers.values()} <= {
        TensorRole.EMBEDDING,
        TensorRole.OUTPUT_HEAD,
        TensorRole.OTHER,
    }
    assert set(strangers) == {name for name, tensor in tensors_of(source).items() if tensor.dim() > 1}


def test_the_base_is_the_one_given_or_the_one_known_or_named_as_missing(tmp_path):
    context = AttackContext(None, tmp_path, 0, "cpu", NO_PROGRESS, base=tmp_path / "known")
    assert known_base(tmp_path / "given", context, purpose="a test") == tmp_path / "given"
    assert known_base(None, context, purpose="a test") == tmp_path / "known"
    with pytest.raises(UsageError, match="base is not given, and a test needs the base"):
        known_base(None, replace(context, base=None), purpose="a test")
