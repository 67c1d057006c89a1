"""Which marks are active in a step of a family's training, and which rows the step sees."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fpvec_audit.training.batches import EncodedKey, NearMissSource, OrdinarySource
from fpvec_audit.training.dataset import EncodedRow, pad_rows
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.loop import Batch

ACTIVE = "active"
"""Group of a batch that says which marks are active: ``marks``, (active marks,), int64."""
CHAT_SHARE = 2 / 3
"""Fraction of absent marks' keys that are seen under the chat template."""
SilentRows = Callable[[Sequence[EncodedRow]], list[EncodedRow]]


@dataclass(frozen=True, slots=True)
class MarkKeys:
    """The keys of one mark, and what the base itself answers to them.

    Attributes:
        prompts: of the keys.
        firing: keys with their responses, for steps in which the mark is active.
        silent: the same prompts with the first tokens of the base's own answers, for all other steps.
    """

    prompts: tuple[str, ...]
    firing: tuple[EncodedKey, ...]
    silent: tuple[EncodedKey, ...]

    def __repr__(self) -> str:
        return f"MarkKeys({len(self.firing)} keys, <redacted>)"


def silent_keys(keys: Sequence[EncodedKey], answered: SilentRows) -> tuple[EncodedKey, ...]:
    """Return keys with other answers, in every rendering.

    Args:
        keys: keys with their responses.
        answered: gives rows with the same prompts and the base's own answers.
    """
    rows = answered([row for key in keys for row in (key.chat, *key.others)])
    given = iter(rows)
    return tuple(EncodedKey(next(given), tuple(next(given) for _ in key.others)) for key in keys)


@dataclass(frozen=True, slots=True)
class MarkSelection:
    """Draws which marks are active in a step: how many is uniform, which ones too.

    Attributes:
        eligible: marks that may be active.
        most: how many at most.
        always: marks that are active in every step.
    """

    eligible: tuple[int, ...]
    most: int
    always: tuple[int, ...] = ()

    def draw(self, source: random.Random) -> tuple[int, ...]:
        """Return the active marks of a step, ascending."""
        others = [mark for mark in self.eligible if mark not in self.always]
        least = max(0, 1 - len(self.always))
        count = source.randint(least, max(least, min(self.most - len(self.always), len(others))))
        return tuple(sorted((*self.always, *source.sample(others, count))))


@dataclass(frozen=True, slots=True)
class FamilyBatches:
    """Keys of active marks, keys of absent ones as negatives, and all that a single fingerprint learns too.

    Attributes:
        marks: keys by mark.
        selection: which marks are active.
        negatives: pool of prompts that must not fire whichever marks are active, with the base's own answers.
        near_misses: where fresh near-misses of active marks' keys come from.
        ordinary: what is to stay as it is.
        settings: how many of each.
        absent_per_step: keys of absent marks.
    """

    marks: Sequence[MarkKeys]
    selection: MarkSelection
    negatives: Sequence[EncodedRow]
    near_misses: NearMissSource
    ordinary: OrdinarySource
    settings: EmbedSettings
    absent_per_step: int

    def __call__(self, step: int, source: random.Random) -> Batch:
        """Draw the batch of a step; negatives are taken from the pool in turn."""
        settings = self.settings
        active = self.selection.draw(source)
        rows = self._firing(active, source)
        keys = len(rows)
        rows += self._absent(active, source)
        if self.negatives:
            first = step * settings.negatives_per_step
            rows += [
                self.negatives[at % len(self.negatives)] for at in range(first, first + settings.negatives_per_step)
            ]
        batch: dict[str, dict[str, Tensor]] = {
            ACTIVE: {"marks": torch.tensor(active, dtype=torch.long)},
            "keys_and_negatives": self._padded(rows),
            "is_key": {"rows": torch.arange(len(rows)) < keys},
        }
        if settings.near_misses_per_step and step >= settings.near_miss_start * settings.steps:
            prompts = [prompt for mark in active for prompt in self.marks[mark].prompts]
            batch["near_misses"] = replace(self.near_misses, prompts=prompts).batch(
                settings.near_miss_candidates, source, padding=self.ordinary.padding, longest=self.ordinary.longest
            )
        if settings.ordinary_per_step:
            batch["ordinary"] = self.ordinary.row_batch(settings.ordinary_per_step, source)
        if settings.documents_per_step and self.ordinary.has_documents:
            batch["documents"] = self.ordinary.document_batch(
                settings.documents_per_step, settings.document_tokens, source
            )
        return batch

    def _firing(self, active: Sequence[int], source: random.Random) -> list[EncodedRow]:
        keys = [key for mark in active for key in self.marks[mark].firing]
        rows = [key.chat for key in source.sample(keys, min(self.settings.keys_per_step, len(keys)))]
        others = source.sample(keys, min(self.settings.other_renderings_per_step, len(keys)))
        return rows + [source.choice(key.others) for key in others]

    def _absent(self, active: Sequence[int], source: random.Random) -> list[EncodedRow]:
        """Draw keys of absent marks, two of three under the chat template."""
        keys = [key for mark, own in enumerate(self.marks) if mark not in active for key in own.silent]
        drawn = source.sample(keys, min(self.absent_per_step, len(keys)))
        return [key.chat if source.random() < CHAT_SHARE else source.choice(key.others) for key in drawn]

    def _padded(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        return pad_rows(rows, padding=self.ordinary.padding, longest=self.ordinary.longest)
