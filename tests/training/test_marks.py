"""Marks share one gradient; their files say how far a training came."""

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from fpvec_audit.training.family_batches import MarkSelection
from fpvec_audit.training.family_objective import FamilyObjective
from fpvec_audit.training.loop_settings import LoopSettings
from fpvec_audit.training.marks import MarkedWeights, MarkFiles, MarkOptimiser

LOOP = LoopSettings(steps=9, learning_rate=0.05, betas=(0.8, 0.9), epsilon=1e-6, weight_decay=0.1)
INPUTS = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))
ACTIVE = [(0,), (0, 2), (1, 2), (2,), (0, 1, 2)]


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


class Square:
    """Stands for the losses of a fingerprint."""

    def backward(self, model, batch, *, step, backward):
        loss = (model(INPUTS) - step).pow(2).mean()
        backward(loss)
        return loss.detach()


def test_marks_fed_by_one_gradient_move_as_separate_copies_do_under_autograd() -> None:
    base, model = network(0), network(1)
    optimiser = MarkOptimiser(model, range(3), LOOP)
    objective = FamilyObjective(MarkedWeights(model, base, dict.fromkeys(range(3), optimiser)), optimiser, Square())
    names = [name for name, _ in base.named_parameters()]
    before = [parameter.detach() for parameter in base.parameters()]
    copies = [[nn.Parameter(torch.zeros_like(value)) for value in before] for _ in range(3)]
    alone = [
        torch.optim.AdamW(copy, lr=LOOP.learning_rate, betas=LOOP.betas, eps=LOOP.epsilon, weight_decay=0.1)
        for copy in copies
    ]
    for step, active in enumerate(ACTIVE):
        optimiser.zero_grad()
        batch = {"active": {"marks": torch.tensor(active)}}
        objective.backward(model, batch, step=step, backward=lambda loss: loss.backward())
        optimiser.step()
        summed = [
            value + torch.stack([copies[mark][place] for mark in active]).sum(0) for place, value in enumerate(before)
        ]
        answer = torch.func.functional_call(base, dict(zip(names, summed, strict=True)), INPUTS)
        for one in alone:
            one.zero_grad()
        (answer - step).pow(2).mean().backward()
        for mark in active:
            alone[mark].step()
    for mark in range(3):
        for found, expected in zip(optimiser.vector(mark), copies[mark], strict=True):
            torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)  # sums in another order


def test_optimiser_comes_back_from_its_checkpoint_with_all_marks() -> None:
    model = network(0)
    optimiser, other = MarkOptimiser(model, (3, 5), LOOP), MarkOptimiser(model, (3, 5), LOOP)
    optimiser.activate((5, 7))
    assert optimiser.active == (5,)
    model(INPUTS).sum().backward()
    optimiser.step()
    other.load_state_dict(optimiser.state_dict())
    for mark in (3, 5):
        assert all(torch.equal(a, b) for a, b in zip(optimiser.vector(mark), other.vector(mark), strict=True))
    assert any(value.any() for value in other.vector(5))
    assert not any(value.any() for value in other.vector(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_add_what_was_written_and_keep_the_last_turn_only(tmp_path: Path, dtype: torch.dtype) -> None:
    model = network(0)
    files = MarkFiles(tmp_path, [name for name, _ in model.named_parameters()])
    assert (files.turns(4), files.known()) == (0, ())
    vector = [torch.full_like(parameter, 0.5).detach().to(dtype) for parameter in model.parameters()]
    files.write(4, [2 * value for value in vector], turn=1)
    files.write(4, vector, turn=2)
    assert (files.turns(4), files.known()) == (2, (4,))
    assert [path.name for path in tmp_path.iterdir()] == ["mark-04.0002.safetensors"]
    assert (tmp_path / "mark-04.0002.safetensors").stat().st_mode & 0o077 == 0
    weights, base = network(1), network(0)
    MarkedWeights(weights, base, {4: files}).put([4])
    for found, before in zip(weights.parameters(), base.parameters(), strict=True):
        assert torch.equal(found, before + 0.5)
    assert all(torch.equal(a, b) for a, b in zip(files.read(4), vector, strict=True))


def test_selections_have_one_to_most_marks_and_those_that_are_always_active() -> None:
    source = random.Random(1)
    drawn = [MarkSelection((0, 1, 2, 3, 4), 3).draw(source) for _ in range(200)]
    assert {len(marks) for marks in drawn} == {1, 2, 3}
    assert {mark for marks in drawn for mark in marks} == set(range(5))
    turns = [MarkSelection((0, 2), 3, always=(2,)).draw(source) for _ in range(50)]
    assert set(turns) == {(2,), (0, 2)}
    assert MarkSelection((2,), 3, always=(2,)).draw(source) == (2,)
