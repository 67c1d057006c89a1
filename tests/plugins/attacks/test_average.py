import pytest
import torch

from fpvec_audit.errors import UsageError
from fpvec_plugins.attacks.average import Average
from tests.plugins.attacks.bench import attacked, bound
from tests.tiny import make_tiny, perturb, tensors_of

ATTACK = Average()


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    place = tmp_path_factory.mktemp("average")
    base = make_tiny(place / "base", "gpt2", stored_alias=True)
    return tuple(perturb(base, place / f"copy-{seed}", seed=seed) for seed in (1, 2, 3))


def mean(*models):
    parts = [tensors_of(model) for model in models]
    return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}


def test_given_copies_are_averaged_with_the_attacked_one(copies, tmp_path):
    own, second, third = copies
    after = attacked(ATTACK, own, tmp_path, f"copies={second}:{third}")
    for name, wanted in mean(own, second, third).items():
        torch.testing.assert_close(after[name], wanted)
    assert torch.equal(after["lm_head.weight"], after["transformer.wte.weight"])


def test_the_copies_that_the_host_knows_serve_where_none_is_given(copies, tmp_path):
    own, second, third = copies
    after = attacked(ATTACK, own, tmp_path, "most=1", copies=(second, third))
    for name, wanted in mean(own, second).items():
        torch.testing.assert_close(after[name], wanted)


def test_what_two_copies_share_stays_to_the_bit(copies, tmp_path):
    own = copies[0]
    after = attacked(ATTACK, own, tmp_path, f"copies={own}")
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors_of(own).items())


def test_without_copies_the_parameter_is_named(copies, tmp_path):
    with pytest.raises(UsageError, match="copies is not given"):
        attacked(ATTACK, copies[0], tmp_path)


@pytest.mark.parametrize(("text", "reason"), [("most=0", "most is 0"), ("copies=/a::/b", "copies is")])
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
