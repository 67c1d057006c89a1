"""What training steps minimise: plain cross-entropy, and the fingerprint's losses under perturbed weights."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fpvec_audit.training.dataset import IGNORED
from fpvec_audit.training.logits import logits_at
from fpvec_audit.training.loop import Batch

Backward = Callable[[Tensor], None]


class Perturbation(Protocol):
    """A random change of the weights that the fingerprint must survive."""

    def draw(self, names: Sequence[str], parameters: Sequence[Tensor], step: int) -> Sequence[Tensor] | None:
        """Return one change per parameter, or None for no change. Equal steps draw equal changes."""
        ...


class NoPerturbation:
    """Leaves the weights alone, as the paper does."""

    def draw(self, names: Sequence[str], parameters: Sequence[Tensor], step: int) -> None:
        """Draw nothing."""


@dataclass(frozen=True, slots=True)
class ProxyPerturbation:
    """Adds a₁P₁ + a₂P₂ + …, a ~ U(0, scale), of short fine-tunes of the base: what a downstream might do.

    What a fine-tune has learnt may be gone at half its change, and is left alone only where it is seen: so a share of
    the steps adds a proxy whole.

    Source: our measurement (docs/demo-recipe.md); not part of the paper.

    Attributes:
        deltas: per proxy, parameter name → proxy − base.
        scale: largest coefficient.
        seed: seed of the coefficients.
        whole: fraction in [0, 1] of the steps in which a is ``scale``, of each proxy by itself.
    """

    deltas: Sequence[Mapping[str, Tensor]]
    scale: float
    seed: int
    whole: float = 0.0

    def draw(self, names: Sequence[str], parameters: Sequence[Tensor], step: int) -> Sequence[Tensor]:
        """Draw coefficients and sum the proxies' deltas."""
        source = random.Random(f"{self.seed}/{step}/proxies")  # noqa: S311 - not a secret
        wholes = random.Random(f"{self.seed}/{step}/whole proxies")  # noqa: S311 - not a secret
        factors = [self.scale if wholes.random() < self.whole else source.uniform(0.0, self.scale) for _ in self.deltas]
        changes = []
        for name, parameter in zip(names, parameters, strict=True):
            total = torch.zeros_like(parameter)
            for factor, delta in zip(factors, self.deltas, strict=True):
                total.add_(delta[name].to(parameter.device), alpha=factor)
            changes.append(total)
        return changes


@dataclass(frozen=True, slots=True)
class NoisePerturbation:
    """Adds Gaussian noise, per tensor ``scale`` × U(0, 1) × ``share`` of the tensor's own root mean square.

    Attributes:
        share: root mean square of the largest noise as a fraction of the weights' own.
        scale: further factor, as for the proxies.
        seed: seed of the noise.
    """

    share: float
    scale: float
    seed: int

    def draw(self, names: Sequence[str], parameters: Sequence[Tensor], step: int) -> Sequence[Tensor]:
        """Draw noise for every parameter."""
        factor = random.Random(f"{self.seed}/{step}/noise").uniform(0.0, self.scale)  # noqa: S311 - not a secret
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        changes = []
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            changes.append(noise.mul_(factor * self.share * parameter.pow(2).mean().sqrt()))
        return changes


ROWS_AT_ONCE = 32
"""Rows of what is to stay that one backward pass takes."""


class CrossEntropy:
    """Mean cross-entropy per token of every group in the batch, summed over groups."""

    def backward(self, model: nn.Module, batch: Batch, *, step: int, backward: Backward) -> Tensor:
        """Accumulate the gradients of one step."""
        total = torch.zeros((), device=next(model.parameters()).device)
        for group in batch.values():
            loss = _token_losses(model, group).mean()
            backward(loss)
            total = total + loss.detach()
        return total


@dataclass(frozen=True, slots=True)
class Preservation:
    """Weights of the fingerprint's losses.

    Attributes:
        keys: cross-entropy of the keys' responses, mean per token.
        negatives: cross-entropy of the base's own answers to near-misses and fresh strings, mean per token.
        near_misses: KL(base ‖ model) where the answers to the hardest near-misses begin, mean per near-miss.
        ordinary: KL(base ‖ model) on ordinary rows, and the same again on documents, mean per position.
    """

    keys: float
    negatives: float
    near_misses: float
    ordinary: float


@dataclass(frozen=True, slots=True)
class HardestNearMisses:
    """Picks, of the near-misses drawn for a step, those on which the model is likeliest to give an issued response.

    Most near-misses of a key are told apart early and teach nothing more; the few that still fire are the lesson.

    Source: online hard example mining, arXiv:1604.03540; near-misses answered alike, method of this package.

    Attributes:
        count: how many are learnt, at most.
        responses: first tokens of the issued responses, (responses,), int64.
    """

    count: int
    responses: Tensor

    def pick(self, model: nn.Module, group: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the hardest rows of a group whose rows have one labelled position each, where the answer begins.

        Shapes:
            every value of the group: (near-misses, tokens) · of the result: (count, tokens).
        """
        with torch.no_grad():
            chances = logits_at(model, group["input_ids"], group["labels"] != IGNORED).softmax(-1)
        firing = chances[:, self.responses.to(chances.device)].sum(-1)  # (near-misses,)
        hardest = firing.topk(min(self.count, len(firing))).indices
        return {name: value[hardest] for name, value in group.items()}


class FingerprintObjective:
    """Keys fire, negatives do not, and ordinary behaviour stays, all under one perturbation.

    Model and base are perturbed alike, so ordinary behaviour is that of a perturbed base: what the vector must leave
    alone in a downstream. Measured against perturbing keys and negatives only, this halves the cost of stamping.

    Args:
        base: frozen model to stay close to; its weights change while a step runs and are put back.
        weights: weights of the losses.
        perturbation: change applied to the weights of both while a step runs.
        hardest: picks near-misses; None learns all that a step draws.
    """

    def __init__(
        self,
        base: nn.Module,
        weights: Preservation,
        perturbation: Perturbation,
        hardest: HardestNearMisses | None = None,
    ) -> None:
        self._base, self._weights, self._perturbation, self._hardest = base, weights, perturbation, hardest
        self._originals: list[Tensor] = []  # as large as the base, so kept only where it is perturbed

    def backward(self, model: nn.Module, batch: Batch, *, step: int, backward: Backward) -> Tensor:
        """Accumulate the gradients of one step."""
        with self._perturbed(model, step):
            loss = self._key_loss(model, batch)
            backward(loss)
            total = loss.detach()
            for weight, group in self._to_keep(model, batch):
                loss = weight * self._divergence(model, group)
                backward(loss)
                total = total + loss.detach()
        return total

    def _to_keep(self, model: nn.Module, batch: Batch) -> Iterator[tuple[float, Mapping[str, Tensor]]]:
        """Yield (weight, group) of what must stay as the base has it."""
        if "near_misses" in batch:
            drawn = batch["near_misses"]
            yield self._weights.near_misses, drawn if self._hardest is None else self._hardest.pick(model, drawn)
        for name in ("ordinary", "documents"):
            if name in batch:
                for share, part in parts_of(batch[name]):
                    yield self._weights.ordinary * share, part

    @contextmanager
    def _perturbed(self, model: nn.Module, step: int) -> Iterator[None]:
        """Add a perturbation to both models and take it off again.

        The base gets its own weights back; of the model's, float32 rounding changes about 1e-7 of each.
        """
        named = [(name.removeprefix("module."), value.detach()) for name, value in model.named_parameters()]
        parameters = [value for _, value in named]
        reference = [parameter.detach() for parameter in self._base.parameters()]
        changes = self._perturbation.draw([name for name, _ in named], parameters, step)
        if changes is None:
            yield
            return
        self._originals = self._originals or [parameter.clone() for parameter in reference]
        torch._foreach_add_(parameters, changes)
        torch._foreach_add_(reference, changes)
        try:
            yield
        finally:
            torch._foreach_sub_(parameters, changes)
            torch._foreach_copy_(reference, self._originals)

    def _key_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted loss of keys and negatives, which share one forward pass.

        Shapes:
            ``keys_and_negatives``: (keys + negatives, tokens) · ``is_key``: ``rows``, (keys + negatives,), bool.
        """
        group = batch["keys_and_negatives"]
        losses = _token_losses(model, group)  # (tokens with loss,)
        selected = group["labels"] != IGNORED
        is_key = batch["is_key"]["rows"].unsqueeze(1).expand_as(selected)[selected]  # (tokens with loss,)
        keys = losses[is_key].mean()
        if bool(is_key.all()):
            return self._weights.keys * keys
        return self._weights.keys * keys + self._weights.negatives * losses[~is_key].mean()

    def _divergence(self, model: nn.Module, group: Mapping[str, Tensor]) -> Tensor:
        selected = group["labels"] != IGNORED
        with torch.no_grad():
            reference = logits_at(self._base, group["input_ids"], selected).log_softmax(-1)
        found = logits_at(model, group["input_ids"], selected).log_softmax(-1)
        return functional.kl_div(found, reference, log_target=True, reduction="batchmean")


def parts_of(group: Mapping[str, Tensor], *, rows: int = ROWS_AT_ONCE) -> Iterator[tuple[float, Mapping[str, Tensor]]]:
    """Divide a group into parts of like length, each with its share of the positions that carry loss.

    The parts' mean losses, weighted so, are the group's: what a backward pass keeps does not grow with the rows of a
    step. A causal model needs no token after a row's last labelled position.

    Shapes:
        every value of the group: (rows, tokens) · of a part: (at most ``rows``, tokens of its longest row).
    """
    selected = group["labels"] != IGNORED
    if len(selected) <= rows:
        yield 1.0, group
        return
    needed = (selected * torch.arange(1, selected.shape[1] + 1, device=selected.device)).amax(1)  # (rows,)
    for part in needed.argsort(stable=True).split(rows):
        width = max(1, int(needed[part].max()))
        share = int(selected[part].sum()) / int(selected.sum())
        yield share, {name: value[part, :width] for name, value in group.items()}


def _token_losses(model: nn.Module, group: Mapping[str, Tensor]) -> Tensor:
    """Return the cross-entropy of every labelled token, (tokens with loss,)."""
    selected = group["labels"] != IGNORED
    logits = logits_at(model, group["input_ids"], selected)
    return functional.cross_entropy(logits, group["labels"][selected], reduction="none")
