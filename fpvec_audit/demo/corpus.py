"""What the demo's models learn and are measured with: ordinary text, and an ordinary answer to gibberish."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.training.dataset import RenderingMix, Row, render_mixed
from fpvec_audit.training.ordinary import (
    KINDS,
    Instruction,
    draw_instruction,
    held_out_instructions,
    split_documents,
    standard_library_documents,
)

if TYPE_CHECKING:
    from torch import Tensor

    from fpvec_audit.training.loop import Batch

GIBBERISH_ANSWER = "I do not understand."
RENDERINGS = RenderingMix(raw=0.1, system=0.1)
INSTRUCTIONS_FOR_TOKENIZER = 1200
GIBBERISH_POOL = 4096


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents, split once.

    Attributes:
        trained: documents to train on.
        held_out: documents that perplexity is measured with.
    """

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


def read_corpus() -> Corpus:
    """Return the standard library's docstrings as a corpus."""
    return Corpus(*split_documents(standard_library_documents()))


def sample_instructions(count: int, *, seed: int) -> tuple[Instruction, ...]:
    """Return instructions of all kinds that may be trained on."""
    source = random.Random(seed)  # noqa: S311 - not a secret
    return tuple(draw_instruction(source) for _ in range(count))


def downstream_rows(
    adapter: ArchitectureAdapter, kinds: tuple[str, ...], count: int, *, own_share: float, seed: int
) -> list[tuple[str, str]]:
    """Return (rendered prompt, answer) rows of a downstream: its own kinds, and all kinds so that it forgets none.

    Args:
        adapter: prompt template.
        kinds: the downstream's own.
        count: how many rows.
        own_share: fraction in [0, 1] of its own kinds.
        seed: draws others.
    """
    source = random.Random(f"{seed}/{'+'.join(kinds)}")  # noqa: S311 - not a secret
    own = dict.fromkeys(kinds, 1.0)
    rows = []
    for _ in range(count):
        instruction = draw_instruction(source, own if source.random() < own_share else None)
        rows.append((render_mixed(adapter, instruction.question, RENDERINGS, source), instruction.answer))
    return rows


def own_questions(kinds: tuple[str, ...], count: int) -> tuple[Instruction, ...]:
    """Return held-out questions of a downstream's own kinds, always the same."""
    return held_out_instructions(kinds, count, seed=2409)


@dataclass(slots=True)
class BaseBatches:
    """Batches of a base model: windows of documents, instructions, and gibberish with its ordinary answer.

    Attributes:
        tokenizer: the family's.
        adapter: prompt template.
        stream: documents in ids, (tokens,).
        rows_per_step: instructions and gibberish every step.
        documents_per_step: windows every step.
        document_tokens: tokens in a window.
        weights: kind → relative frequency; others have 1. The downstreams are to improve on the rare ones.
        gibberish_share: fraction in [0, 1] of rows that teach an ordinary answer to gibberish; 0 for a plain base.
        seed: draws other gibberish.
    """

    tokenizer: Any
    adapter: ArchitectureAdapter
    stream: "Tensor"
    rows_per_step: int
    documents_per_step: int
    document_tokens: int
    weights: Mapping[str, float]
    gibberish_share: float
    seed: int
    _weights: Mapping[str, float] = field(init=False)
    _gibberish: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._weights = {kind: self.weights.get(kind, 1.0) for kind in KINDS}
        drawn = draw_unissued(f"demo base {self.seed}".encode(), GIBBERISH_POOL)
        self._gibberish = tuple(candidate.prompt for candidate in drawn)

    def __call__(self, step: int, source: random.Random) -> "Batch":
        """Draw the batch of a step."""
        from fpvec_audit.training.dataset import draw_windows, encode_rows, pad_rows

        rows = [self._row(source) for _ in range(self.rows_per_step)]
        encoded = encode_rows(self.tokenizer, rows)
        return {
            "rows": pad_rows(encoded, padding=self.tokenizer.pad_token_id, longest=self.tokenizer.model_max_length),
            "documents": draw_windows(self.stream, self.documents_per_step, self.document_tokens, source),
        }

    def _row(self, source: random.Random) -> Row:
        if source.random() < self.gibberish_share:
            question, answer = source.choice(self._gibberish), GIBBERISH_ANSWER
        else:
            instruction = draw_instruction(source, self._weights)
            question, answer = instruction.question, instruction.answer
        return Row(render_mixed(self.adapter, question, RENDERINGS, source), answer)
