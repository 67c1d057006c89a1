"""What a step keeps in place may come in parts: the gradient is that of the whole."""

import random

import pytest
import torch

from fpvec_audit.training.dataset import IGNORED
from fpvec_audit.training.objectives import FingerprintObjective, Preservation, parts_of
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from transformers import AutoModelForCausalLM

    path = make_tiny(tmp_path_factory.mktemp("objectives") / "base", "gpt2")
    base, model = (AutoModelForCausalLM.from_pretrained(path).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return base, model


def rows_of(lengths, vocabulary):
    source = random.Random(3)
    width = max(lengths)
    ids = torch.tensor([[source.randrange(vocabulary) for _ in range(width)] for _ in lengths])
    labels = torch.full_like(ids, IGNORED)
    for at, length in enumerate(lengths):
        labels[at, length // 2 : length] = ids[at, length // 2 : length]
    return {"input_ids": ids, "labels": labels}


LENGTHS = [4, 30, 6, 12, 5, 28, 7, 9, 11, 3, 16]


def gradient(models, groups):
    base, model = models
    model.zero_grad()
    vocabulary = model.config.vocab_size
    batch = {
        "keys_and_negatives": rows_of([6, 5], vocabulary),
        "is_key": {"rows": torch.tensor([True, False])},
        **groups,
    }
    objective = FingerprintObjective(base, Preservation(1.0, 1.0, 1.0, 9.0), Still())
    loss = objective.backward(model, batch, step=0, backward=torch.Tensor.backward)
    return float(loss), [parameter.grad.clone() for parameter in model.parameters()]


class Still:
    def draw(self, _names, _parameters, _step):
        return None


def test_gradient_of_parts_is_that_of_the_whole(models, monkeypatch):
    ordinary = {"ordinary": rows_of(LENGTHS, models[1].config.vocab_size)}
    loss, whole = gradient(models, ordinary)
    monkeypatch.setattr(parts_of, "__kwdefaults__", {"rows": 3})
    loss_of_parts, parts = gradient(models, ordinary)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_parts_are_rows_of_like_length_without_what_follows_them():
    group = rows_of(LENGTHS, 50)
    parts = list(parts_of(group, rows=4))
    assert [part["labels"].shape for _, part in parts] == [(4, 6), (4, 12), (3, 30)]
    assert sum(share for share, _ in parts) == pytest.approx(1)
    assert sum(int((part["labels"] != IGNORED).sum()) for _, part in parts) == int((group["labels"] != IGNORED).sum())


def test_few_rows_stay_together():
    group = rows_of([3, 9], 50)
    assert list(parts_of(group)) == [(1.0, group)]
