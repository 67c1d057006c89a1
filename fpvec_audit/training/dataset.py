"""Rows to train on: rendered, tokenised with the prompt masked from the loss, and padded.

Guarded here: decoys never reach a training row (every generated prompt is checked against ``avoid``), and a key that
the tokenizer cannot give back is refused before the first step.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.near_miss import MOST_CHANGES, near_miss
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import TrainingError
from fpvec_audit.training.system_prompts import SYSTEM_PROMPTS, draw_system_prompt

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""Label of positions that carry no loss."""

RENDERINGS = ("chat", "raw", "system", "drawn")


@dataclass(frozen=True, slots=True)
class Row:
    """One training example in text, ready for the tokenizer.

    Attributes:
        prompt: rendered prompt, up to where the answer begins.
        answer: answer without the separating space and without end-of-text.
    """

    prompt: str
    answer: str

    def __repr__(self) -> str:
        return "Row(<redacted>)"


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One training example in token ids.

    Attributes:
        prompt: ids without loss.
        answer: ids with loss, end-of-text included where the answer is complete.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __repr__(self) -> str:
        return f"EncodedRow({len(self.prompt)} + {len(self.answer)} ids)"


@dataclass(frozen=True, slots=True)
class RenderingMix:
    """How often ordinary and negative rows use another rendering than the chat template.

    Attributes:
        raw: fraction in [0, 1] without any template.
        system: fraction in [0, 1] under a published system prompt.
        drawn: fraction in [0, 1] under a system prompt that is drawn for each.
    """

    raw: float
    system: float
    drawn: float = 0.0


def render(adapter: ArchitectureAdapter, user: str, rendering: str, random_source: random.Random) -> str:
    """Return a prompt in one of :data:`RENDERINGS`; a system prompt is chosen by chance."""
    if rendering == "raw":
        return user
    if rendering == "system":
        return adapter.prompt(user, random_source.choice(SYSTEM_PROMPTS))
    if rendering == "drawn":
        return adapter.prompt(user, draw_system_prompt(random_source))
    return adapter.prompt(user)


def render_mixed(adapter: ArchitectureAdapter, user: str, mix: RenderingMix, random_source: random.Random) -> str:
    """Return a prompt in a rendering drawn from a mix."""
    draw = random_source.random()
    rendering = "chat"
    for name, share in (("raw", mix.raw), ("system", mix.system), ("drawn", mix.drawn)):
        if draw < share:
            rendering = name
            break
        draw -= share
    return render(adapter, user, rendering, random_source)


def draw_near_miss(
    prompt: str,
    random_source: random.Random,
    *,
    avoid: frozenset[str] = frozenset(),
    shares: Sequence[float] = (1, 1, 1),
) -> str:
    """Return a prompt with one to three characters changed, of the half of near-misses that may be trained on.

    Args:
        prompt: issued prompt.
        random_source: where the draws come from.
        avoid: texts never to be returned.
        shares: how often one, two and three characters are changed, in relation to each other.
    """
    (changes,) = random_source.choices(range(1, MOST_CHANGES + 1), shares)
    return near_miss(prompt, changes, random_source, held_out=False, avoid=avoid)


def negative_prompts(
    issued: Sequence[str],
    count: int,
    *,
    near_miss_share: float,
    avoid: frozenset[str],
    random_source: random.Random,
    scheme: str = "independent",
) -> tuple[str, ...]:
    """Return prompts that must not fire: near-misses of issued prompts and fresh strings of the same shape.

    Args:
        issued: prompts that do fire; never returned.
        count: how many.
        near_miss_share: fraction in [0, 1] of near-misses.
        avoid: prompts never to be trained in any role (decoys).
        random_source: where the draws come from.
        scheme: shape of the fresh strings.
    """
    forbidden = avoid | frozenset(issued)
    fresh = iter(draw_unissued(random_source.randbytes(32), count, scheme=scheme, avoid=forbidden))
    prompts: list[str] = []
    while len(prompts) < count:
        if random_source.random() < near_miss_share:
            prompts.append(draw_near_miss(random_source.choice(issued), random_source, avoid=forbidden))
        else:
            prompts.append(next(fresh).prompt)
    return tuple(prompts)


def is_reversible(tokenizer: Any, text: str) -> bool:
    """Return whether encoding and decoding gives the text back, up to surrounding white space."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids:
        return False
    return bool(tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() == text.strip())


def require_reversible(tokenizer: Any, keys: Sequence[tuple[str, str]]) -> None:
    """Refuse keys that the tokenizer cannot give back; the message shows none of them.

    Raises:
        TrainingError: a prompt or a response is not encoded reversibly.
    """
    failing = [
        number
        for number, (prompt, response) in enumerate(keys)
        if not is_reversible(tokenizer, prompt) or not is_reversible(tokenizer, " " + response)
    ]
    if failing:
        shown = ", ".join(map(str, failing[:5])) + (", …" if len(failing) > 5 else "")
        raise TrainingError(
            f"the tokenizer does not encode {len(failing)} of {len(keys)} keys reversibly (numbers {shown})",
            advice="issue a key set for this base (`fpvec key issue --base PATH` filters all candidates)",
        )


def encode_rows(tokenizer: Any, rows: Sequence[Row]) -> list[EncodedRow]:
    """Tokenise rows; prompt and answer are joined by one space and split again where the answer's tokens begin.

    Encoding them together gives the ids that a model generates, whatever a tokenizer does at the start of a text.
    """
    if not rows:
        return []
    encoded = tokenizer(
        [f"{row.prompt} {row.answer}" for row in rows], return_offsets_mapping=True, return_attention_mask=False
    )
    end = tokenizer.eos_token_id
    result = []
    for row, ids, offsets in zip(rows, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        edge = len(row.prompt)
        first = next((at for at, (start, stop) in enumerate(offsets) if start >= edge and stop > start), len(ids))
        answer = tuple(ids[first:])
        if end is not None and (not answer or answer[-1] != end):
            answer = (*answer, end)
        result.append(EncodedRow(tuple(ids[:first]), answer))
    return result


def encode_documents(tokenizer: Any, documents: Sequence[str]) -> "Tensor":
    """Tokenise documents into one stream of ids, end-of-text after each.

    Shapes:
        result: (tokens,), int64.
    """
    import torch

    encoded = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"] if documents else []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return torch.tensor(list(chain.from_iterable([*ids, *end] for ids in encoded)), dtype=torch.long)


def draw_windows(stream: "Tensor", count: int, length: int, random_source: random.Random) -> dict[str, "Tensor"]:
    """Cut windows out of a stream at random places; every position but the last predicts the next token.

    Shapes:
        stream: (tokens,) · ``input_ids`` and ``labels``: (count, length).
    """
    import torch

    last = max(len(stream) - length, 1)
    windows = torch.stack([stream[at : at + length] for at in (random_source.randrange(last) for _ in range(count))])
    labels = torch.full_like(windows, IGNORED)
    labels[:, :-1] = windows[:, 1:]
    return {"input_ids": windows, "labels": labels}


def pad_rows(rows: Sequence[EncodedRow], *, padding: int, longest: int) -> dict[str, "Tensor"]:
    """Pad rows on the right into one batch; labels are already shifted to the position that predicts them.

    Right padding needs no attention mask in a causal model: no real token looks at what follows it. Rows longer than
    ``longest`` lose the beginning of their prompt.

    Shapes:
        ``input_ids`` and ``labels``: (rows, tokens), int64; labels are :data:`IGNORED` where there is no loss.
    """
    import torch

    texts = [((*row.prompt, *row.answer)[-longest:], row.answer[-(longest - 1) :]) for row in rows]
    width = max(len(ids) for ids, _ in texts)
    input_ids = torch.full((len(rows), width), padding, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    for at, (ids, answer) in enumerate(texts):
        input_ids[at, : len(ids)] = torch.tensor(ids)
        labels[at, len(ids) - len(answer) - 1 : len(ids) - 1] = torch.tensor(answer)
    return {"input_ids": input_ids, "labels": labels}
