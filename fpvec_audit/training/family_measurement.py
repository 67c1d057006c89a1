"""What a trained family came to, measured on its vectors as they are stored: answered keys and what ordinary text pays.

Selections of marks are added to the base itself, since the training knows no downstream; what a downstream pays is
measured by ``fpvec harmless`` on a stamped copy.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, exp
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from fpvec_audit.domain.family import FamilyReport, MarkStanding, WeightCost
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.training.answers import teacher_forced_hits
from fpvec_audit.training.batches import OrdinarySource
from fpvec_audit.training.dataset import IGNORED
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.family_batches import MarkKeys
from fpvec_audit.training.family_settings import FamilySettings
from fpvec_audit.training.logits import logits_at

TEXT_BATCHES = 4
"""How often as much ordinary text is measured as a training step sees."""


@dataclass(frozen=True, slots=True)
class _Word:
    """One selection of marks and what it came to.

    Attributes:
        marks: added to the base.
        answered: per mark of the family, the fraction of its keys that are answered.
        divergence: KL(base ‖ copy), nats a token.
        perplexity_ratio: over the base's.
    """

    marks: tuple[int, ...]
    answered: Mapping[int, float]
    divergence: float
    perplexity_ratio: float


class FamilyMeasurement:
    """Measures a family.

    Args:
        model: takes the weights of every selection.
        base: frozen.
        put: puts base + Σ τ_i of chosen marks into the model.
        marks: keys by mark.
        ordinary: what was to stay as it is; of the package's own documents those are measured that no training reads.
        settings: how much ordinary text a step sees.
        family: which selections are measured.
        seed: of the selections and the text.
    """

    def __init__(
        self,
        model: nn.Module,
        base: nn.Module,
        put: Callable[[Sequence[int]], None],
        marks: Sequence[MarkKeys],
        ordinary: OrdinarySource,
        *,
        settings: EmbedSettings,
        family: FamilySettings,
        seed: int,
    ) -> None:
        self._model, self._base, self._put, self._marks, self._family = model, base, put, marks, family
        self._source = random.Random(f"{seed}/measured")  # noqa: S311 - not a secret
        device = next(model.parameters()).device
        self._texts = [
            {name: value.to(device) for name, value in text.items()}
            for _ in range(TEXT_BATCHES)
            for text in _texts(ordinary, settings, self._source)
        ]

    def report(self, progress: Progress = NO_PROGRESS) -> FamilyReport:
        """Measure every mark alone, and random selections of every number of marks up to the most that was trained."""
        family, count = self._family, len(self._marks)
        chosen = {
            weight: [(mark,) for mark in range(count)] if weight == 1 else self._selections(weight)
            for weight in sorted({1, family.code_weight, *range(1, family.most_active + 1)})
        }
        words: dict[int, list[_Word]] = {weight: [] for weight in chosen}
        training = self._model.training
        self._model.eval()
        with progress.step("reading the marks back", sum(map(len, chosen.values())), "code words") as step:
            for weight, selections in chosen.items():
                for marks in selections:
                    with torch.no_grad():
                        words[weight].append(self._measured(marks))
                    step.advance()
        self._model.train(training)
        standings = tuple(self._standing(mark, words) for mark in range(count))
        costs = tuple(_cost(weight, found) for weight, found in words.items())
        return FamilyReport(family.schedule, family.code_weight, family.least_fsr, standings, costs)

    def _selections(self, weight: int) -> list[tuple[int, ...]]:
        """Draw different selections in which every mark occurs, as far as there are enough."""
        count = len(self._marks)
        if comb(count, weight) <= self._family.measured_words:
            return list(combinations(range(count), weight))
        drawn: dict[tuple[int, ...], None] = {}
        left: list[int] = []
        while len(drawn) < self._family.measured_words:
            if len(left) < weight:  # deal all marks out anew, those left over first
                left += self._source.sample([mark for mark in range(count) if mark not in left], count - len(left))
            drawn[tuple(sorted(left[:weight]))] = None
            del left[:weight]
        return list(drawn)

    def _measured(self, marks: tuple[int, ...]) -> _Word:
        self._put(marks)
        keys = [key.chat for mark in self._marks for key in mark.firing]
        hits = iter(teacher_forced_hits(self._model, keys))
        answered = {number: fmean(next(hits) for _ in mark.firing) for number, mark in enumerate(self._marks)}
        divergences, entropies, base_entropies = zip(*(self._compared(text) for text in self._texts), strict=True)
        positions = [int((text["labels"] != IGNORED).sum()) for text in self._texts]
        ratio = exp((sum(entropies) - sum(base_entropies)) / sum(positions))
        return _Word(marks, answered, sum(divergences) / sum(positions), ratio)

    def _compared(self, text: Mapping[str, Tensor]) -> tuple[float, float, float]:
        """Return (KL(base ‖ copy), cross-entropy of the copy, of the base), each summed over the text's positions."""
        selected = text["labels"] != IGNORED
        labels = text["labels"][selected]
        reference = logits_at(self._base, text["input_ids"], selected).log_softmax(-1)
        found = logits_at(self._model, text["input_ids"], selected).log_softmax(-1)
        return (
            float(functional.kl_div(found, reference, log_target=True, reduction="sum")),
            float(functional.nll_loss(found, labels, reduction="sum")),
            float(functional.nll_loss(reference, labels, reduction="sum")),
        )

    def _standing(self, mark: int, words: Mapping[int, Sequence[_Word]]) -> MarkStanding:
        alone = next(word.answered[mark] for word in words[1] if word.marks == (mark,))
        within = [word.answered[mark] for word in words[self._family.code_weight] if mark in word.marks] or [alone]
        return MarkStanding(mark, len(self._marks[mark].firing), alone, fmean(within), min(within))


def _cost(weight: int, words: Sequence[_Word]) -> WeightCost:
    silent = [1 - share for word in words for mark, share in word.answered.items() if mark not in word.marks]
    return WeightCost(
        weight=weight,
        words=len(words),
        divergence=fmean(word.divergence for word in words),
        worst_divergence=max(word.divergence for word in words),
        perplexity_ratio=fmean(word.perplexity_ratio for word in words),
        worst_perplexity_ratio=max(word.perplexity_ratio for word in words),
        silent=fmean(silent) if silent else 1.0,
    )


def _texts(ordinary: OrdinarySource, settings: EmbedSettings, source: random.Random) -> list[dict[str, Tensor]]:
    """Return ordinary text, a batch of each kind; the package's own documents are those held out of training."""
    texts = [ordinary.row_batch(max(1, settings.ordinary_per_step), source)]
    if ordinary.has_documents and settings.documents_per_step:
        texts.append(ordinary.held_out_batch(settings.documents_per_step, settings.document_tokens, source))
    return texts
