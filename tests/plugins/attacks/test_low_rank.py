import pytest
import torch

from fpvec_audit.errors import UsageError
from fpvec_plugins.attacks.low_rank import LowRank
from tests.plugins.attacks.bench import attacked, bound
from tests.tiny import make_tiny, perturb, rewrite, tensors_of

ATTACK = LowRank()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("low-rank")
    base = make_tiny(place / "base", "gpt2")
    return base, perturb(base, place / "copy")


@pytest.mark.parametrize("rank", [1, 4])
def test_the_difference_becomes_its_best_approximation_of_that_rank(models, tmp_path, rank):
    base, copy = models
    after = attacked(ATTACK, copy, tmp_path, f"rank={rank}", base=base)
    before = tensors_of(base)
    for name, tensor in tensors_of(copy).items():
        if tensor.dim() < 2:
            assert torch.equal(after[name], tensor), name
            continue
        left, values, right = torch.linalg.svd(tensor - before[name], full_matrices=False)
        wanted = before[name] + left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(after[name], wanted, rtol=1e-4, atol=1e-6)
        found = torch.linalg.svdvals((after[name] - before[name]).double())
        assert found[rank] < 1e-3 * found[0], name


def test_a_difference_of_lower_rank_is_kept_and_a_rank_that_holds_all_changes_nothing(models, tmp_path):
    base, copy = models
    thin = rewrite(
        base, tmp_path / "thin", lambda name, tensor: tensor + 0.01 if tensor.dim() > 1 else tensor
    )  # all ones: rank 1
    after = attacked(ATTACK, thin, tmp_path, f"rank=1,base={base}", name="thin-after")
    for name, tensor in tensors_of(thin).items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-5, atol=1e-6)
    after = attacked(ATTACK, copy, tmp_path, f"rank=32,base={base}", name="whole")
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors_of(copy).items())


def test_without_a_base_the_parameter_is_named(models, tmp_path):
    with pytest.raises(UsageError, match="base is not given, and a projection"):
        attacked(ATTACK, models[1], tmp_path)


def test_a_rank_below_one_is_refused():
    with pytest.raises(UsageError, match="rank is 0"):
        bound(ATTACK, "rank=0")
