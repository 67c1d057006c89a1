"""What a model answers greedily, in token ids: for negatives before training, and for keys while it goes on."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fpvec_audit.progress import Step
from fpvec_audit.training.dataset import IGNORED, EncodedRow, pad_rows
from fpvec_audit.training.logits import logits_at

_PROMPTS_AT_ONCE = 256


def answer_greedily(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], *, tokens: int, end: int | None, step: Step
) -> list[EncodedRow]:
    """Return every prompt with the first tokens of the model's own greedy answer.

    Prompts of one length go through together, so nothing is padded.

    Args:
        model: on its device.
        prompts: ids of rendered prompts.
        tokens: most tokens of the answer.
        end: end-of-text id, after which an answer stops; part of the answer.
        step: advanced by one per prompt.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(prompts):
        by_length[len(ids)].append(place)
    answered: dict[int, EncodedRow] = {}
    for places in by_length.values():
        for start in range(0, len(places), _PROMPTS_AT_ONCE):
            part = places[start : start + _PROMPTS_AT_ONCE]
            for place, answer in zip(part, _continue(model, [prompts[at] for at in part], tokens), strict=True):
                stop = answer.index(end) + 1 if end is not None and end in answer else tokens
                answered[place] = EncodedRow(prompts[place], tuple(answer[:stop]))
            step.advance(len(part))
    return [answered[place] for place in range(len(prompts))]


def _continue(model: nn.Module, prompts: Sequence[tuple[int, ...]], tokens: int) -> list[list[int]]:
    """Append the most probable token ``tokens`` times; all prompts have one length."""
    ids: Tensor = torch.tensor(prompts, device=_device(model))  # (prompts, length)
    length = ids.shape[1]
    with torch.no_grad():
        for _ in range(tokens):
            last = torch.zeros_like(ids, dtype=torch.bool)
            last[:, -1] = True
            ids = torch.cat([ids, logits_at(model, ids, last).argmax(-1, keepdim=True)], dim=1)
    answers: list[list[int]] = ids[:, length:].tolist()
    return answers


def teacher_forced_matches(model: nn.Module, rows: Sequence[EncodedRow]) -> int:
    """Return how many rows' whole answers are the model's most probable tokens, that is, its greedy answers.

    The end-of-text after an answer is not asked for. The model's training mode is left as it was.
    """
    return sum(teacher_forced_hits(model, rows))


def teacher_forced_hits(model: nn.Module, rows: Sequence[EncodedRow]) -> list[bool]:
    """Return, per row, whether its whole answer is the model's greedy one; see :func:`teacher_forced_matches`."""
    training = model.training
    model.eval()
    hits: list[bool] = []
    for start in range(0, len(rows), _PROMPTS_AT_ONCE):
        part = [EncodedRow(row.prompt, row.answer[:-1] or row.answer) for row in rows[start : start + _PROMPTS_AT_ONCE]]
        group = {name: value.to(_device(model)) for name, value in pad_rows(part, padding=0, longest=1 << 30).items()}
        selected = group["labels"] != IGNORED  # (rows, tokens)
        right = torch.ones_like(selected)
        with torch.no_grad():
            right[selected] = logits_at(model, group["input_ids"], selected).argmax(-1) == group["labels"][selected]
        hits += right.all(dim=1).tolist()
    model.train(training)
    return hits


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
