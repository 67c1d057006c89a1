import pytest
import torch

from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import OutputError, PluginError
from fpvec_audit.testing import RecordingProgress
from fpvec_audit.toolkit import rewrite_checkpoint
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
