import pytest
import torch

from fpvec_audit.errors import UsageError
from fpvec_plugins.attacks.overstamp import Overstamp
from tests.plugins.attacks.bench import attacked, bound, vector_of
from tests.tiny import make_tiny, perturb, tensors_of

ATTACK = Overstamp()


@pytest.fixture(scope="module")
def stamped(tmp_path_factory):
    """(base, stamped copy, a second vector of the base)."""
    place = tmp_path_factory.mktemp("overstamp")
    base = make_tiny(place / "base", "gpt2")
    other = perturb(base, place / "other", seed=2, exact=True)
    return base, perturb(base, place / "copy"), vector_of(base, other, place / "vector")


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_a_given_vector_is_added_on_top(stamped, tmp_path, scale):
    _, copy, vector = stamped
    after, tau = attacked(ATTACK, copy, tmp_path, f"vector={vector},scale={scale}"), tensors_of(vector)
    for name, before in tensors_of(copy).items():
        torch.testing.assert_close(after[name], before + scale * tau[name])


@pytest.mark.slow
def test_a_made_vector_is_that_of_the_base_and_without_one_of_the_copy(tmp_path, few_documents):
    base = make_tiny(tmp_path / "base", "llama2")
    copy = perturb(base, tmp_path / "copy", size=0.05)
    name = "model.layers.0.mlp.up_proj.weight"

    def second(target, **more):
        found = attacked(ATTACK, copy, tmp_path, "keys=1,steps=3", architecture="llama2", name=target, **more)
        return found[name] - tensors_of(copy)[name]

    of_base, of_copy = second("of-base", base=base), second("of-copy")
    assert min(float(of_base.norm()), float(of_copy.norm())) > 0
    assert not torch.allclose(of_copy, of_base, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"), [("scale=-1", "scale is -1"), ("keys=0", "keys is 0"), ("steps=0", "steps is 0")]
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
