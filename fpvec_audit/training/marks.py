"""Marks: vectors that share one base and are trained to be added together in any selection.

A step trains the weights θ = base + Σ_{i active} τ_i, so the gradient with respect to every active τ_i is the gradient
with respect to θ, the very same tensor. One copy of the model and one gradient serve all marks; what a mark costs is
its vector and the optimiser's moments, and :class:`MarkOptimiser` holds exactly those for the marks that it trains.
All others are added from the disk by :class:`MarkFiles`.

Law: one step of :class:`MarkOptimiser` is one step of AdamW on separate copies of every active τ_i with autograd
through the sum (``tests/training/test_marks.py``).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.adamw import adamw

from fpvec_audit.training.loop_settings import LoopSettings

DELTA, MEAN, SQUARE, COUNT = "delta", "exp_avg", "exp_avg_sq", "count"


class AddedMarks(Protocol):
    """Vectors of marks, wherever they lie."""

    def add(self, mark: int, parameters: Sequence[Tensor]) -> None:
        """Add the vector of a mark to weights, in place; the parameters are in the model's own order."""
        ...


class MarkOptimiser(torch.optim.Optimizer):  # type: ignore[misc] # torch's optimisers are untyped here
    """AdamW over the vectors of some marks, all fed by the gradient of the one model that their sum is put into.

    State per mark and parameter: the vector and two moments, float32 on the parameter's device, so that a checkpoint of
    the optimiser is a checkpoint of the marks. Weight decay pulls at the vector, not at the weights. Parameters without
    a gradient stay as they are.

    Args:
        model: model whose parameters receive the gradients; it is left alone.
        marks: numbers of the marks to train; all begin as zero.
        loop: rate, moments, denominator floor and weight decay.
    """

    def __init__(self, model: nn.Module, marks: Iterable[int], loop: LoopSettings) -> None:
        settings = {
            "lr": loop.learning_rate, "betas": loop.betas, "eps": loop.epsilon, "weight_decay": loop.weight_decay
        }  # fmt: skip
        super().__init__(list(model.parameters()), settings)
        self.marks = tuple(marks)
        self.active: tuple[int, ...] = ()
        for parameter in self._parameters():
            self.state[parameter] = {str(mark): _fresh_state(parameter) for mark in self.marks}

    def activate(self, marks: Iterable[int]) -> None:
        """Say which marks the next gradient is of; those that are not trained here are left out."""
        self.active = tuple(mark for mark in marks if mark in self.marks)

    def begin_at(self, mark: int, vector: Sequence[Tensor]) -> None:
        """Let a mark begin at a given vector instead of zero."""
        for parameter, value in zip(self._parameters(), vector, strict=True):
            self.state[parameter][str(mark)][DELTA] = value.to(parameter, copy=True)

    def vector(self, mark: int) -> list[Tensor]:
        """Return the vector of a mark, a tensor per parameter of the model, not copied."""
        return [self.state[parameter][str(mark)][DELTA] for parameter in self._parameters()]

    def add(self, mark: int, parameters: Sequence[Tensor]) -> None:
        """Add the vector of a mark to weights, in place."""
        torch._foreach_add_(list(parameters), self.vector(mark))

    def step(self, closure: None = None) -> None:
        """Move every active mark by the gradient that they share."""
        group = self.param_groups[0]
        moved = [parameter for parameter in self._parameters() if parameter.grad is not None]
        for mark in self.active:
            states = [self.state[parameter][str(mark)] for parameter in moved]
            adamw(
                [state[DELTA] for state in states],
                [parameter.grad for parameter in moved],
                [state[MEAN] for state in states],
                [state[SQUARE] for state in states],
                [],
                [state[COUNT] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def _parameters(self) -> list[nn.Parameter]:
        parameters: list[nn.Parameter] = self.param_groups[0]["params"]
        return parameters


class MarkFiles:
    """Vectors of marks in safetensors files, in the dtype of the base's own files; one is mapped at a time.

    A file is named by its mark and by how many turns of training made it, and appears whole or not at all: what lies in
    the directory says how far an interrupted training came.

    Args:
        directory: where the files are; must exist.
        names: the model's parameter names, in its order.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self._directory, self._names = directory, tuple(names)

    def turns(self, mark: int) -> int:
        """Return how many turns of training a mark has had, 0 where there is no file of it."""
        return max((_turn_of(path) for path in self._directory.glob(f"{_stem(mark)}.*.safetensors")), default=0)

    def known(self) -> tuple[int, ...]:
        """Return the marks that there are vectors of, ascending."""
        return tuple(sorted({int(path.name[5:].split(".")[0]) for path in self._directory.glob("mark-*.safetensors")}))

    def write(self, mark: int, vector: Iterable[Tensor], *, turn: int) -> None:
        """Write the vector of a mark and let go of the one before."""
        earlier = list(self._directory.glob(f"{_stem(mark)}.*.safetensors"))
        target = self._directory / f"{_stem(mark)}.{turn:04}.safetensors"
        partial = target.with_suffix(".partial")
        save_file({name: value.cpu().contiguous() for name, value in zip(self._names, vector, strict=True)}, partial)
        partial.chmod(0o600)
        _synced(partial)
        partial.rename(target)
        for path in earlier:
            if path != target:
                path.unlink()

    def add(self, mark: int, parameters: Sequence[Tensor]) -> None:
        """Add the vector of a mark to weights, in place."""
        with safe_open(self._path(mark), framework="pt") as stored:
            for name, parameter in zip(self._names, parameters, strict=True):
                parameter.add_(stored.get_tensor(name).to(parameter))

    def read(self, mark: int) -> list[Tensor]:
        """Return the vector of a mark, a tensor per parameter, in the stored dtype."""
        with safe_open(self._path(mark), framework="pt") as stored:
            return [stored.get_tensor(name) for name in self._names]

    def _path(self, mark: int) -> Path:
        return max(self._directory.glob(f"{_stem(mark)}.*.safetensors"), key=_turn_of)


class MarkedWeights:
    """Puts base + Σ τ_i of chosen marks into a model.

    Args:
        model: whose weights are replaced.
        base: frozen model with the base's weights, of the same architecture.
        sources: mark → where its vector lies.
    """

    def __init__(self, model: nn.Module, base: nn.Module, sources: Mapping[int, AddedMarks]) -> None:
        self._model, self._base = model, base
        self.sources: dict[int, AddedMarks] = dict(sources)

    def put(self, marks: Iterable[int]) -> None:
        """Replace the model's weights by the base's and the vectors of some marks."""
        parameters = [parameter.detach() for parameter in self._model.parameters()]
        torch._foreach_copy_(parameters, [parameter.detach() for parameter in self._base.parameters()])
        for mark in marks:
            self.sources[mark].add(mark, parameters)


def _fresh_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return the vector and moments of a mark that begins as zero; what is not trained takes no memory."""
    if not parameter.requires_grad:
        return {DELTA: parameter.new_zeros(()).expand_as(parameter)}
    zeros = {name: torch.zeros_like(parameter, requires_grad=False) for name in (DELTA, MEAN, SQUARE)}
    return zeros | {COUNT: torch.zeros((), device=parameter.device)}


def mark_name(mark: int) -> str:
    """Return how a mark's directory is called inside a family's, such as ``mark-03``."""
    return _stem(mark)


def _stem(mark: int) -> str:
    return f"mark-{mark:02}"


def _turn_of(path: Path) -> int:
    return int(path.name.split(".")[1])


def _synced(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
