import pytest
import torch

from fpvec_audit.errors import PluginError
from fpvec_plugins.attacks.cast import Cast
from tests.plugins.attacks.bench import attacked, bound, context
from tests.tiny import make_tiny, rewrite, tensors_of

ATTACK = Cast()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_weight_is_the_nearest_of_the_format_in_the_models_own_dtype(tmp_path, dtype):
    source = make_tiny(tmp_path / "source", "gpt2")
    after = attacked(ATTACK, source, tmp_path, f"dtype={dtype}")
    for name, tensor in tensors_of(source).items():
        assert after[name].dtype == torch.float32
        assert torch.equal(after[name], tensor.to(getattr(torch, dtype)).float()), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_format_that_holds_every_number_leaves_every_byte(tmp_path, dtype):
    source = make_tiny(tmp_path / "source", "llama2", dtype="bfloat16", sharded=True)
    attacked(ATTACK, source, tmp_path, f"dtype={dtype}", architecture="llama2")
    for file in source.iterdir():
        assert (tmp_path / "target" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_weight_too_large_for_the_format_is_an_error_that_names_it(tmp_path):
    source = rewrite(
        make_tiny(tmp_path / "made", "gpt2"),
        tmp_path / "source",
        lambda name, tensor: tensor.index_fill(0, torch.tensor([1]), 7e4) if "ln_f.bias" in name else tensor,
    )
    with pytest.raises(PluginError, match=r"transformer.ln_f.bias: the change made element 1 of F32 infinite"):
        ATTACK.apply(source, tmp_path / "target", bound(ATTACK, "dtype=float16"), context(tmp_path, "gpt2"))
    assert not (tmp_path / "target").exists()
