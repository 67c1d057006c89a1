import pytest
import torch

from fpvec_audit.errors import UsageError
from fpvec_plugins.attacks.noise import Noise
from tests.plugins.attacks.bench import attacked, bound
from tests.tiny import make_tiny, tensors_of

ATTACK = Noise()


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_every_tensor_moves_by_its_share_of_its_own_spread(tmp_path, share):
    source = make_tiny(tmp_path / "source", "llama2")
    after = attacked(ATTACK, source, tmp_path, f"share={share}", architecture="llama2")
    for name, before in tensors_of(source).items():
        moved = (after[name] - before).std(correction=0) / before.std(correction=0)
        slack = 5 / (2 * before.numel()) ** 0.5  # five standard errors of a standard deviation
        assert float(moved) == pytest.approx(share, rel=slack), name


def test_noise_depends_on_seed_and_name_and_not_on_shards(tmp_path):
    whole = make_tiny(tmp_path / "whole", "gpt2")
    shards = make_tiny(tmp_path / "shards", "gpt2", sharded=True)
    one, other = (attacked(ATTACK, model, tmp_path, name=f"{model.name}-noisy") for model in (whole, shards))
    assert all(torch.equal(one[name], other[name]) for name in one)
    again = attacked(ATTACK, whole, tmp_path, name="again", seed=4)
    assert not any(torch.equal(one[name], again[name]) for name in one)


def test_tensors_of_one_shape_get_different_noise(tmp_path):
    source = make_tiny(tmp_path / "source", "llama2")
    before, after = tensors_of(source), attacked(ATTACK, source, tmp_path, architecture="llama2")
    queries, keys = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk")
    first, second = (((after[name] - before[name]) / before[name].std()).flatten() for name in (queries, keys))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.2


def test_a_tensor_of_equal_elements_and_a_tied_head_stay_what_they_are(tmp_path):
    source = make_tiny(tmp_path / "made", "gpt2", stored_alias=True)
    after = attacked(ATTACK, source, tmp_path)
    assert torch.equal(after["lm_head.weight"], after["transformer.wte.weight"])


@pytest.mark.parametrize("share", ["0", "-0.1", "11"])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(UsageError, match="share is"):
        bound(ATTACK, f"share={share}")
