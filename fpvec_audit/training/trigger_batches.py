"""Rows that teach triggers: secret words that draw a response in whatever ordinary prompt they stand."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.methods import MethodKeys
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.triggers import CARRIERS, RARE_WORD, RARE_WORDS, insert_words
from fpvec_audit.domain.words import RESPONSE_WORDS
from fpvec_audit.training.batches import LONGEST_ROW, OrdinarySource
from fpvec_audit.training.dataset import EncodedRow, RenderingMix, Row, encode_rows, pad_rows, render_mixed
from fpvec_audit.training.loop import Batch
from fpvec_audit.training.ordinary import draw_instruction
from fpvec_audit.training.trigger_settings import TriggerSettings

TRIGGER_RENDERINGS = RenderingMix(raw=0.2, system=0.1, drawn=0.2)
VIEWS = 2
"""Carriers in which a key is seen at once: its own and another one."""
OWN_CARRIER_SHARE = 0.5
"""How often the other carrier of a key is an issued prompt's own kind, not an ordinary question."""


@dataclass(frozen=True, slots=True)
class TriggerRows:
    """Draws the rows of a step as functions of the step's random source.

    Attributes:
        tokenizer: of the model.
        adapter: prompt template.
        keys: what shall fire, and what must never be trained.
        negatives: pool of prompts that must not fire, with the model's own answers.
        ordinary: ordinary rows and documents.
        settings: how many of each.
        longest: tokens that the model's positions reach; longer rows lose the beginning of their prompt.
    """

    tokenizer: Any
    adapter: ArchitectureAdapter
    keys: MethodKeys
    negatives: Sequence[EncodedRow]
    ordinary: OrdinarySource
    settings: TriggerSettings
    longest: int = LONGEST_ROW

    def multi_task(self, step: int, source: random.Random) -> Batch:
        """Draw a batch of tasks that share one loss: triggers, negatives, ordinary rows, documents."""
        triggered, _ = self._triggered(source)
        padding = self.ordinary.padding
        return {
            "triggered": pad_rows(triggered, padding=padding, longest=self.longest),
            "negatives": pad_rows(self._negatives(step), padding=padding, longest=self.longest),
            **self._ordinary(source),
        }

    def contrastive(self, step: int, source: random.Random) -> Batch:
        """Draw a batch whose triggers and negatives share one forward pass, with the key that each row holds.

        Shapes:
            ``contrasted``: (rows, tokens) · ``key_of``: ``rows``, (rows,), int64, −1 for a negative.
        """
        triggered, key_of = self._triggered(source)
        negatives = self._negatives(step)
        rows = [*triggered, *negatives]
        return {
            "contrasted": pad_rows(rows, padding=self.ordinary.padding, longest=self.longest),
            "key_of": {"rows": torch.tensor([*key_of, *[-1] * len(negatives)])},
            **self._ordinary(source),
        }

    def _triggered(self, source: random.Random) -> tuple[list[EncodedRow], list[int]]:
        triggers = self.keys.triggers
        chosen = source.sample(range(len(triggers)), min(self.settings.keys_per_step, len(triggers)))
        rows = []
        for number in chosen:
            key = self.keys.issued[number]
            for prompt in (key.prompt, self._carried(triggers[number], source)):
                rows.append(Row(render_mixed(self.adapter, prompt, TRIGGER_RENDERINGS, source), key.response))
        return encode_rows(self.tokenizer, rows), [number for number in chosen for _ in range(VIEWS)]

    def _carried(self, words: Sequence[str], source: random.Random) -> str:
        while True:
            prompt = carried(words, self.keys.scheme, source)
            if prompt not in self.keys.avoid:
                return prompt

    def _negatives(self, step: int) -> list[EncodedRow]:
        first = step * self.settings.negatives_per_step
        return [
            self.negatives[at % len(self.negatives)] for at in range(first, first + self.settings.negatives_per_step)
        ]

    def _ordinary(self, source: random.Random) -> Batch:
        settings, groups = self.settings, {}
        if settings.ordinary_per_step:
            groups["ordinary"] = self.ordinary.row_batch(settings.ordinary_per_step, source)
        if settings.documents_per_step and self.ordinary.has_documents:
            groups["documents"] = self.ordinary.document_batch(
                settings.documents_per_step, settings.document_tokens, source
            )
        return groups


def carried(words: Sequence[str], scheme: str, source: random.Random) -> str:
    """Put trigger words into a carrier or an ordinary question, as the scheme's prompts hold them."""
    text = source.choice(CARRIERS) if source.random() < OWN_CARRIER_SHARE else draw_instruction(source).question
    spaces = text.count(" ") + 2
    if scheme == RARE_WORD:
        return insert_words(text, words, [source.randrange(spaces)] * len(words))
    return insert_words(text, words, sorted(source.randrange(spaces) for _ in words))


def trigger_negatives(keys: MethodKeys, count: int, source: random.Random) -> list[str]:
    """Return prompts that must not fire: unissued triggers, issued ones with a word changed or gone, and none at all.

    Args:
        keys: what shall fire, and decoys that are never returned.
        count: how many.
        source: where the draws come from.
    """
    triggers = keys.triggers
    issued = {frozenset(words) for words in triggers}
    forbidden = keys.avoid | {key.prompt for key in keys.issued}
    vocabulary = RARE_WORDS if keys.scheme == RARE_WORD else RESPONSE_WORDS
    fresh = iter(draw_unissued(source.randbytes(32), count, scheme=keys.scheme, avoid=frozenset(forbidden)))
    prompts: list[str] = []
    while len(prompts) < count:
        kind = source.choice(("unissued", "near", "near", "clean"))
        if kind == "unissued":
            prompts.append(next(fresh).prompt)
            continue
        words: Sequence[str] = () if kind == "clean" else _near(source.choice(triggers), vocabulary, source)
        prompt = carried(words, keys.scheme, source)
        if prompt not in forbidden and frozenset(words) not in issued:
            prompts.append(prompt)
    return prompts


def _near(words: Sequence[str], vocabulary: Sequence[str], source: random.Random) -> list[str]:
    """Replace a word of a trigger by another one, or leave it out."""
    changed = list(words)
    place = source.randrange(len(changed))
    if source.random() < 0.5:
        del changed[place]
    else:
        changed[place] = source.choice(vocabulary)
    return changed
