"""Proxies are added in part or whole, alike whenever a step is repeated."""

import pytest
import torch

from fpvec_audit.errors import SettingsError
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.objectives import ProxyPerturbation

STEPS = 400


def coefficients(whole: float) -> torch.Tensor:
    """Return how much of each of two proxies every step adds, (steps, 2)."""
    names, weights = ["w"], [torch.zeros(2)]
    proxies = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}]
    perturbation = ProxyPerturbation(proxies, scale=2.0, seed=5, whole=whole)
    drawn = torch.stack([perturbation.draw(names, weights, step)[0] for step in range(STEPS)])
    again = torch.stack([perturbation.draw(names, weights, step)[0] for step in range(STEPS)])
    assert torch.equal(drawn, again)
    return drawn


def test_proxies_are_added_in_part() -> None:
    drawn = coefficients(0.0)
    assert float(drawn.min()) >= 0.0
    assert float(drawn.max()) < 2.0
    assert drawn.mean(0).tolist() == pytest.approx([1.0, 1.0], abs=0.15)


def test_so_many_are_added_whole_each_by_itself() -> None:
    whole = coefficients(0.5) == 2.0
    assert whole.double().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    assert float(whole.all(1).double().mean()) == pytest.approx(0.25, abs=0.1)
    assert bool((coefficients(1.0) == 2.0).all())


def test_a_share_is_a_fraction() -> None:
    with pytest.raises(SettingsError, match=r"whole_share is 1\.5"):
        EmbedSettings(whole_share=1.5)
