import pytest
import torch

from fpvec_audit.errors import CheckpointError, UsageError
from fpvec_audit.toolkit import random_generator
from fpvec_plugins.attacks.merge import Merge
from tests.plugins.attacks.bench import attacked, bound, context
from tests.tiny import make_tiny, perturb, tensors_of

ATTACK = Merge()


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A base with two fine-tunes: (base, copy, other)."""
    place = tmp_path_factory.mktemp("merge")
    base = make_tiny(place / "base", "gpt2")
    return base, perturb(base, place / "copy", seed=1), perturb(base, place / "other", seed=2)


def merged(family, tmp_path, text, **more):
    base, copy, other = family
    return attacked(ATTACK, copy, tmp_path, f"{text},other={other},base={base}", **more)


def expected(family, formula):
    base, copy, other = map(tensors_of, family)
    return {name: formula(name, base[name], copy[name], other[name]) for name in base}


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-7, msg=lambda text, name=name: name + text)


def test_linear_is_the_weighted_mean(family, tmp_path):
    found = merged(family, tmp_path, "method=linear,ratio=0.3")
    assert_close(found, expected(family, lambda _n, base, copy, other: 0.3 * copy + 0.7 * other))


def test_task_adds_both_differences_to_the_base(family, tmp_path):
    found = merged(family, tmp_path, "method=task,ratio=0.3,scaling=2")
    formula = lambda _n, base, copy, other: base + 2 * (0.3 * (copy - base) + 0.7 * (other - base))  # noqa: E731
    assert_close(found, expected(family, formula))


def test_slerp_keeps_the_length_between_orthogonal_tensors(tmp_path):
    copy = make_tiny(tmp_path / "copy", "gpt2", seed=1)
    other = make_tiny(tmp_path / "other", "gpt2", seed=2)
    found = attacked(ATTACK, copy, tmp_path, f"method=slerp,ratio=0.25,other={other}")
    name = "transformer.h.0.mlp.c_fc.weight"
    first, second = (tensors_of(model)[name].double().flatten() for model in (copy, other))
    angle = torch.acos(first @ second / (first.norm() * second.norm()))
    wanted = (torch.sin(0.25 * angle) * first + torch.sin(0.75 * angle) * second) / torch.sin(angle)
    torch.testing.assert_close(found[name].double().flatten(), wanted, rtol=1e-4, atol=1e-6)
    assert float(found[name].norm()) == pytest.approx(float(first.norm()), rel=0.05)


def test_slerp_between_models_of_one_direction_is_linear(family, tmp_path):
    found = merged(family, tmp_path, "method=slerp,ratio=0.3")
    norms = [name for name in found if ".ln_" in name and name.endswith("weight")]  # cosine above 0.9995
    wanted = expected(family, lambda _n, base, copy, other: 0.3 * copy + 0.7 * other)
    assert_close({name: found[name] for name in norms}, {name: wanted[name] for name in norms})


def ties(first, second, weights, density):
    """TIES element by element, as section 3 of the paper says it."""
    parts = []
    for difference in (first, second):
        count = max(1, int(density * difference.numel()))
        edge = difference.abs().flatten().sort(descending=True).values[count - 1]
        parts.append(torch.where(difference.abs() >= edge, difference, 0.0))
    result = torch.zeros_like(first)
    for at in range(first.numel()):
        values = [float(part.flatten()[at]) for part in parts]
        total = sum(weight * value for weight, value in zip(weights, values, strict=True))
        chosen = [
            (weight, value)
            for weight, value in zip(weights, values, strict=True)
            if value * (1 if total >= 0 else -1) > 0
        ]
        if chosen:
            mean = sum(weight * value for weight, value in chosen) / sum(weight for weight, _ in chosen)
            result.flatten()[at] = mean
    return result


def test_ties_trims_elects_a_sign_and_averages_what_agrees(family, tmp_path):
    found = merged(family, tmp_path, "method=ties,ratio=0.4,density=0.4")
    base, copy, other = map(tensors_of, family)
    for name in ("transformer.h.0.attn.c_attn.bias", "transformer.h.1.attn.c_proj.weight"):
        wanted = base[name] + ties(copy[name] - base[name], other[name] - base[name], (0.4, 0.6), 0.4)
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["dare-task", "dare-ties"])
def test_dare_drops_at_random_and_rescales(family, tmp_path, method):
    found = merged(family, tmp_path, f"method={method},ratio=0.4,density=0.25")

    def formula(name, base, copy, other):
        parts = []
        for number, (weight, model) in enumerate(((0.4, copy), (0.6, other))):
            kept = torch.rand(base.shape, generator=random_generator(3, "merge", name, str(number))) < 0.25
            parts.append(weight * torch.where(kept, (model - base) / 0.25, 0.0))
        total = parts[0] + parts[1]
        if method == "dare-task":
            return base + total
        return base + sum(torch.where(part * torch.where(total >= 0, 1, -1) > 0, part, 0.0) for part in parts)

    assert_close(found, expected(family, formula))


def test_dare_keeps_the_mean_difference_and_about_its_density(family, tmp_path):
    base, copy, _ = family
    found = attacked(ATTACK, copy, tmp_path, f"method=dare-task,ratio=0.5,density=0.25,other={base},base={base}")
    name = "transformer.wte.weight"
    before, after, start = tensors_of(copy)[name], found[name], tensors_of(base)[name]
    moved = (after - start) != 0
    assert float(moved.float().mean()) == pytest.approx(0.25, abs=0.025)
    torch.testing.assert_close((after - start)[moved], 2 * (before - start)[moved], rtol=1e-3, atol=1e-6)


def test_the_hosts_base_serves_where_none_is_given(family, tmp_path):
    base, copy, other = family
    known = attacked(ATTACK, copy, tmp_path, f"method=task,other={other}", name="known", base=base)
    assert_close(known, merged(family, tmp_path, "method=task"))


def test_without_a_base_the_methods_that_need_one_name_the_parameter(family, tmp_path):
    _, copy, other = family
    for method in ("task", "ties", "dare-task", "dare-ties"):
        with pytest.raises(UsageError, match=f"base is not given, and method {method}"):
            attacked(ATTACK, copy, tmp_path, f"method={method},other={other}")


def test_half_precision_is_rounded_once(tmp_path):
    base = make_tiny(tmp_path / "base", "llama2", dtype="bfloat16")
    copy, other = (perturb(base, tmp_path / f"copy-{seed}", seed=seed) for seed in (1, 2))
    found = attacked(ATTACK, copy, tmp_path, f"ratio=0.3,other={other}", architecture="llama2")
    for name, tensor in tensors_of(copy).items():
        wanted = (0.3 * tensor.float() + 0.7 * tensors_of(other)[name].float()).bfloat16()
        assert torch.equal(found[name], wanted), name


def test_rows_that_the_other_lacks_stay(tmp_path):
    copy = make_tiny(tmp_path / "copy", "gpt2", vocabulary=270, stored_alias=True)
    other = make_tiny(tmp_path / "other", "gpt2", vocabulary=262, seed=1)
    found = attacked(ATTACK, copy, tmp_path, f"ratio=0.5,other={other}")
    name = "transformer.wte.weight"
    before, beside = tensors_of(copy)[name], tensors_of(other)[name]
    torch.testing.assert_close(found[name][:262], (before[:262] + beside) / 2)
    assert torch.equal(found[name][262:], before[262:])
    assert torch.equal(found[name], found["lm_head.weight"])


def test_layouts_and_ties_may_differ(tmp_path):
    copy = make_tiny(tmp_path / "copy", "gpt2", sharded=True)
    other = make_tiny(tmp_path / "other", "gpt2", seed=1, prefix=False, stored_alias=True, buffers=True)
    found = attacked(ATTACK, copy, tmp_path, f"ratio=0.5,other={other}")
    beside = tensors_of(other)
    for name, tensor in tensors_of(copy).items():
        torch.testing.assert_close(found[name], (tensor + beside[name.removeprefix("transformer.")]) / 2)


def test_another_architecture_is_refused(tmp_path):
    copy = make_tiny(tmp_path / "copy", "gpt2")
    wide = make_tiny(tmp_path / "wide", "gpt2", hidden=64)
    llama = make_tiny(tmp_path / "llama", "llama2")
    for other, reason in ((wide, "has shape"), (llama, "does not have it")):
        with pytest.raises(CheckpointError, match=reason):
            attacked(ATTACK, copy, tmp_path, f"other={other}")
        assert not (tmp_path / "target").exists()


def test_a_made_partner_is_a_fine_tune_of_the_base_and_leaves_nothing(family, tmp_path):
    base, copy, _ = family
    found = attacked(ATTACK, copy, tmp_path, "ratio=0.5,steps=2", base=base)
    name = "transformer.h.0.mlp.c_fc.weight"
    partner = 2 * found[name] - tensors_of(copy)[name]
    distance = lambda model: float((partner - tensors_of(model)[name]).norm())  # noqa: E731
    assert 0 < distance(base) < 0.1 * distance(copy)
    alone = attacked(ATTACK, copy, tmp_path, "ratio=0.5,steps=2", name="alone")
    partner = 2 * alone[name] - tensors_of(copy)[name]
    assert 0 < distance(copy) < 0.1 * distance(base)


def test_a_broken_partner_is_named(family, tmp_path):
    from tests.tiny import rewrite

    _, copy, other = family
    broken = rewrite(other, tmp_path / "broken", lambda name, tensor: tensor / 0 if "c_fc.bias" in name else tensor)
    with pytest.raises(CheckpointError, match=r"broken: transformer.h.0.mlp.c_fc.bias: element 0"):
        ATTACK.apply(copy, tmp_path / "target", bound(ATTACK, f"other={broken}"), context(tmp_path, "gpt2"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ratio=0", "ratio is 0"),
        ("ratio=1.5", "ratio is 1.5"),
        ("density=0", "density is 0"),
        ("scaling=0", "scaling is 0"),
        ("steps=0", "steps is 0"),
        ("method=tie", "did you mean ties"),
    ],
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
