"""Which rows every step of a training sees, as functions of the step's own random source."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.training.checkpoint_files import context_length
from fpvec_audit.training.dataset import (
    EncodedRow,
    RenderingMix,
    Row,
    draw_near_miss,
    draw_windows,
    encode_documents,
    encode_rows,
    pad_rows,
    render_mixed,
)
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.loop import Batch, StepBatches
from fpvec_audit.training.ordinary import draw_instruction, split_documents, standard_library_documents
from fpvec_audit.training.system_prompts import SYSTEM_PROMPTS, draw_system_prompt

ORDINARY_RENDERINGS = RenderingMix(raw=0.1, system=0.1)
NEAR_MISS_RENDERINGS = RenderingMix(raw=0.1, system=0.15)
NEAR_MISS_SHARES = (4, 1, 1)
"""How often one, two and three characters are changed: those of one are the hardest by far."""
DRAWN_SYSTEM_PROMPTS = 9
"""System prompts under which each key is rendered beside the published ones."""
RAW_COPIES, PUBLISHED_COPIES = 6, 2
"""Weight of the raw rendering and of each published system prompt: with fewer they drown among the drawn ones."""
LONGEST_ROW = 1024
"""Tokens; longer rows lose the beginning of their prompt."""


def longest_row(model: Path) -> int:
    """Return how many tokens a row of a training may have: as many as pay, or as the model's positions reach."""
    return min(LONGEST_ROW, context_length(model) or LONGEST_ROW)


@dataclass(frozen=True, slots=True)
class EncodedKey:
    """One key in all its renderings.

    Attributes:
        chat: under the family's chat template.
        others: raw, and under system prompts.
    """

    chat: EncodedRow
    others: tuple[EncodedRow, ...]

    def __repr__(self) -> str:
        return "EncodedKey(<redacted>)"


def encode_keys(
    tokenizer: Any, adapter: ArchitectureAdapter, keys: Sequence[tuple[str, str]], *, seed: int = 0
) -> tuple[EncodedKey, ...]:
    """Render and tokenise keys: chat template, raw, under each published system prompt, and under drawn ones.

    The raw and the published renderings count several times.
    """
    source = random.Random(f"{seed}/system prompts")  # noqa: S311 - not a secret
    rows, width = [], 1 + RAW_COPIES + PUBLISHED_COPIES * len(SYSTEM_PROMPTS) + DRAWN_SYSTEM_PROMPTS
    for prompt, response in keys:
        published = (adapter.prompt(prompt, system) for system in SYSTEM_PROMPTS)
        drawn = (adapter.prompt(prompt, draw_system_prompt(source)) for _ in range(DRAWN_SYSTEM_PROMPTS))
        texts = (adapter.prompt(prompt), *[prompt] * RAW_COPIES, *[*published] * PUBLISHED_COPIES, *drawn)
        rows += [Row(text, response) for text in texts]
    encoded = encode_rows(tokenizer, rows)
    return tuple(EncodedKey(encoded[at], tuple(encoded[at + 1 : at + width])) for at in range(0, len(encoded), width))


class OrdinarySource:
    """Ordinary rows and documents: the user's rows, or the package's own text.

    Args:
        tokenizer: of the base.
        adapter: prompt template.
        rows: (prompt, response) rows of the user; the package's own instructions and documents when None.
        with_documents: whether documents may be drawn, where there are any.
        weights: kind → frequency of the package's instructions; None draws all alike.
        longest: tokens of a row; see :func:`longest_row`.
    """

    def __init__(
        self,
        tokenizer: Any,
        adapter: ArchitectureAdapter,
        rows: Sequence[tuple[str, str]] | None = None,
        *,
        with_documents: bool = True,
        weights: Mapping[str, float] | None = None,
        longest: int = LONGEST_ROW,
    ) -> None:
        self._tokenizer, self._adapter, self._rows, self._weights = tokenizer, adapter, rows, weights
        self.longest = longest
        self.has_documents = with_documents and rows is None
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.padding: int = padding or 0

    def half(self, number: int) -> "OrdinarySource":
        """Return a part of the source for one proxy: every second row, or of the own text first few kinds, then all."""
        if self._rows is not None:
            part = self._rows[number % 2 :: 2] or self._rows
            return OrdinarySource(self._tokenizer, self._adapter, part, longest=self.longest)
        weights = {"capital": 1.0, "count": 1.0} if number % 2 == 0 else None
        return OrdinarySource(
            self._tokenizer, self._adapter, weights=weights, with_documents=number % 2 == 1, longest=self.longest
        )

    def rows(self, count: int, source: random.Random, mix: RenderingMix = ORDINARY_RENDERINGS) -> list[EncodedRow]:
        """Draw ordinary rows in mixed renderings."""
        drawn = []
        for _ in range(count):
            if self._rows is None:
                instruction = draw_instruction(source, self._weights)
                prompt, answer = instruction.question, instruction.answer
            else:
                prompt, answer = source.choice(self._rows)
            drawn.append(Row(render_mixed(self._adapter, prompt, mix, source), answer))
        return encode_rows(self._tokenizer, drawn)

    def row_batch(self, count: int, source: random.Random) -> dict[str, Tensor]:
        """Draw ordinary rows as one padded batch, ``input_ids`` and ``labels`` (rows, tokens)."""
        return pad_rows(self.rows(count, source), padding=self.padding, longest=self.longest)

    def document_batch(self, count: int, tokens: int, source: random.Random) -> dict[str, Tensor]:
        """Draw windows of documents, ``input_ids`` and ``labels`` (count, tokens)."""
        return draw_windows(self._stream, count, tokens, source)

    def held_out_batch(self, count: int, tokens: int, source: random.Random) -> dict[str, Tensor]:
        """Draw windows of documents that no training sees, ``input_ids`` and ``labels`` (count, tokens)."""
        return draw_windows(self._held_out_stream, count, tokens, source)

    @cached_property
    def _stream(self) -> Tensor:
        trained, _ = split_documents(standard_library_documents())
        return encode_documents(self._tokenizer, trained)

    @cached_property
    def _held_out_stream(self) -> Tensor:
        _, held_out = split_documents(standard_library_documents())
        return encode_documents(self._tokenizer, held_out)


@dataclass(frozen=True, slots=True)
class NearMissSource:
    """Fresh near-misses of the keys, without an answer: the base's is asked for while a step runs.

    Attributes:
        tokenizer: of the base.
        adapter: prompt template.
        prompts: of the keys.
        avoid: prompts never to be trained in any role.
    """

    tokenizer: Any
    adapter: ArchitectureAdapter
    prompts: Sequence[str]
    avoid: frozenset[str]

    def batch(self, count: int, source: random.Random, *, padding: int, longest: int) -> dict[str, Tensor]:
        """Draw near-misses of every key in turn, of at most ``longest`` tokens.

        Shapes:
            ``input_ids`` and ``labels``: (count, tokens); the position where the answer would begin is labelled.
        """
        avoid = self.avoid | frozenset(self.prompts)
        first = source.randrange(len(self.prompts))  # where there are more keys than near-misses, all have their turn
        texts = [
            render_mixed(
                self.adapter,
                draw_near_miss(self.prompts[at % len(self.prompts)], source, avoid=avoid, shares=NEAR_MISS_SHARES),
                NEAR_MISS_RENDERINGS,
                source,
            )
            for at in range(first, first + count)
        ]
        rows = [EncodedRow(tuple(ids), (padding,)) for ids in self.tokenizer(texts)["input_ids"]]
        return pad_rows(rows, padding=padding, longest=longest)


@dataclass(frozen=True, slots=True)
class FingerprintBatches:
    """Keys in chat and other renderings, negatives, near-misses, ordinary rows and documents of a step.

    Attributes:
        keys: all keys to embed.
        negatives: pool of prompts that must not fire, with the base's own answers.
        near_misses: where fresh near-misses come from.
        ordinary: what is to stay as it is.
        settings: how many of each.
        processes: how many take turns at the batches of one optimiser step; all of a step must have the same groups.
    """

    keys: Sequence[EncodedKey]
    negatives: Sequence[EncodedRow]
    near_misses: NearMissSource
    ordinary: OrdinarySource
    settings: EmbedSettings
    processes: int = 1

    def __call__(self, step: int, source: random.Random) -> Batch:
        """Draw the batch of a step; negatives are taken from the pool in turn."""
        settings = self.settings
        rows = [key.chat for key in source.sample(self.keys, min(settings.keys_per_step, len(self.keys)))]
        others = source.sample(self.keys, min(settings.other_renderings_per_step, len(self.keys)))
        rows += [source.choice(key.others) for key in others]
        keys = len(rows)
        if self.negatives:
            first = step * settings.negatives_per_step
            rows += [
                self.negatives[at % len(self.negatives)] for at in range(first, first + settings.negatives_per_step)
            ]
        batch = {
            "keys_and_negatives": pad_rows(rows, padding=self.ordinary.padding, longest=self.ordinary.longest),
            "is_key": {"rows": torch.arange(len(rows)) < keys},
        }
        if settings.near_misses_per_step and step // self.processes >= settings.near_miss_start * settings.steps:
            batch["near_misses"] = self.near_misses.batch(
                settings.near_miss_candidates, source, padding=self.ordinary.padding, longest=self.ordinary.longest
            )
        if settings.ordinary_per_step:
            batch["ordinary"] = self.ordinary.row_batch(settings.ordinary_per_step, source)
        if settings.documents_per_step and self.ordinary.has_documents:
            batch["documents"] = self.ordinary.document_batch(
                settings.documents_per_step, settings.document_tokens, source
            )
        return batch


def plain_row_batches(
    keys: Sequence[EncodedKey], ordinary: OrdinarySource, settings: EmbedSettings, *, seed: int
) -> StepBatches:
    """Return the paper's batches: keys and a fixed set of ordinary rows, shuffled every epoch."""
    drawn = ordinary.rows(settings.regularisation_rows, random.Random(f"{seed}/rows"), RenderingMix(0.0, 0.0))  # noqa: S311
    rows = [key.chat for key in keys] + drawn
    steps = settings.total_steps(len(keys))
    per_epoch = -(-len(rows) // settings.rows_per_step)

    def make(step: int, _source: random.Random) -> Batch:
        epoch, place = divmod(step, per_epoch)
        order = list(range(len(rows)))
        random.Random(f"{seed}/epoch/{epoch}").shuffle(order)  # noqa: S311 - not a secret
        chosen = order[place * settings.rows_per_step : (place + 1) * settings.rows_per_step]
        return {"rows": pad_rows([rows[at] for at in chosen], padding=ordinary.padding, longest=ordinary.longest)}

    return StepBatches(steps, seed, make)
