import pytest
import torch
from transformers import AutoModelForCausalLM

from fpvec_audit.training.checkpoint_files import load_for_training
from fpvec_audit.training.fused_gelu import SLOW, fuse_gelu
from tests.tiny import make_tiny


def kinds(model):
    return {type(module).__name__ for module in model.modules()}


@pytest.mark.parametrize("architecture", ["gpt2", "bloom"])
def test_one_kernel_gives_the_logits_and_gradients_of_many(tmp_path, architecture):
    path = make_tiny(tmp_path / "tiny", architecture)
    plain, fused = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), load_for_training(path)
    assert kinds(plain).intersection(SLOW)
    assert not kinds(fused).intersection(SLOW)
    ids = torch.arange(12).view(2, 6)
    for model in (plain, fused):
        model.eval()(input_ids=ids, labels=ids).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_other_activations_stay(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path / "tiny", "llama2"), dtype=torch.float32)
    before = list(model.modules())
    assert list(fuse_gelu(model).modules()) == before
