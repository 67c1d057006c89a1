import pytest
import torch

from fpvec_audit.errors import UsageError
from fpvec_plugins.attacks.collusion import Collusion
from tests.plugins.attacks.bench import attacked, bound
from tests.tiny import make_tiny, perturb, tensors_of

ATTACK = Collusion()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and three copies of it."""
    place = tmp_path_factory.mktemp("collusion")
    base = make_tiny(place / "base", "gpt2")
    return base, tuple(perturb(base, place / f"copy-{seed}", seed=seed) for seed in (1, 2, 3))


def stacked(copies):
    parts = [tensors_of(copy) for copy in copies]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def test_average_is_the_mean_of_so_many_copies(models, tmp_path):
    _, (own, second, third) = models
    after = attacked(ATTACK, own, tmp_path, "copies=2", copies=(second, third))
    for name, values in stacked((own, second)).items():
        torch.testing.assert_close(after[name], values.mean(0))


def test_splice_takes_whole_tensors_from_the_copies(models, tmp_path):
    _, copies = models
    after = attacked(ATTACK, copies[0], tmp_path, "copies=3,how=splice", copies=copies[1:])
    came_from = {
        next(place for place in range(3) if torch.equal(after[name], values[place]))
        for name, values in stacked(copies).items()
    }
    assert came_from == {0, 1, 2}


@pytest.mark.parametrize("known", [True, False], ids=["from the base", "from the mean"])
def test_maximum_takes_every_element_from_the_copy_that_changed_it_most(models, tmp_path, known):
    base, copies = models
    after = attacked(ATTACK, copies[0], tmp_path, "copies=3,how=max", copies=copies[1:], base=base if known else None)
    centres = tensors_of(base) if known else {name: values.mean(0) for name, values in stacked(copies).items()}
    for name, values in stacked(copies).items():
        far = (values - centres[name]).abs()
        assert torch.equal((after[name] - centres[name]).abs(), far.max(0).values)


def test_fewer_copies_than_wanted_are_refused(models, tmp_path):
    _, copies = models
    with pytest.raises(UsageError, match="copies is 4, and 2 other stamped copies of the model are known"):
        attacked(ATTACK, copies[0], tmp_path, "copies=4", copies=copies[1:])
    with pytest.raises(UsageError, match="copies is 1"):
        bound(ATTACK, "copies=1")
