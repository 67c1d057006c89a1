"""Training of the compared methods that teach triggers: WLM's multi-task learning and PLMmark's contrast.

Both are adapted to causal models (docs/methods.md): a trigger draws a response of its own, so that the audit that reads
fingerprints reads these keys too.
"""

import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fpvec_audit.domain.methods import MethodKeys
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress, Step
from fpvec_audit.training.answers import answer_greedily, teacher_forced_matches
from fpvec_audit.training.batches import OrdinarySource, longest_row
from fpvec_audit.training.checkpoint_files import (
    load_for_training,
    load_tokenizer,
    model_width,
    open_staging,
    sole_worker,
    write_trained,
)
from fpvec_audit.training.dataset import IGNORED, EncodedRow, Row, encode_rows, render_mixed, require_reversible
from fpvec_audit.training.logits import logits_at
from fpvec_audit.training.loop import Batch, Objective, StepBatches, resolve_device, run_training
from fpvec_audit.training.objectives import Backward, CrossEntropy
from fpvec_audit.training.trigger_batches import TRIGGER_RENDERINGS, TriggerRows, trigger_negatives
from fpvec_audit.training.trigger_settings import Contrast, TriggerReport, TriggerSettings

NOTES_PER_TRAINING = 8


def embed_triggers(
    *,
    model: Path,
    out: Path,
    adapter: ArchitectureAdapter,
    keys: MethodKeys,
    settings: TriggerSettings,
    rows: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
) -> TriggerReport:
    """Teach a copy of a model that triggers draw their responses, and write it beside the model's other files.

    Args:
        model: checkpoint directory.
        out: new directory; must not exist.
        adapter: prompt template and tensor names.
        keys: issued keys of a scheme with triggers.
        settings: how to train.
        rows: ordinary (prompt, response) rows; the package's own text when None.
        seed: everything random derives from it.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: where to report.

    Raises:
        UsageError: the keys have no triggers.
        TrainingError: keys that the tokenizer cannot encode reversibly, or no finite loss.
        CheckpointError: the model cannot be loaded.
        OutputError: ``out`` exists or cannot be written.
    """
    if not all(keys.triggers):
        raise UsageError(
            f"keys of scheme {keys.scheme!r} hold no trigger words", advice="issue a key set of another --scheme"
        )
    started = time.monotonic()
    device = resolve_device(device)
    tokenizer = load_tokenizer(model)
    require_reversible(tokenizer, keys.pairs)
    staging = open_staging(out, "training")
    try:
        with sole_worker(staging):
            trained = load_for_training(model)
            frozen = load_for_training(model).to(device).eval().requires_grad_(requires_grad=False)
            longest = longest_row(model)
            negatives = _answered(frozen, tokenizer, adapter, keys, settings, longest, seed, progress)
            ordinary = OrdinarySource(tokenizer, adapter, rows, longest=longest)
            drawn = TriggerRows(tokenizer, adapter, keys, negatives, ordinary, settings, longest)
            chat = encode_rows(tokenizer, [Row(adapter.prompt(prompt), response) for prompt, response in keys.pairs])
            objective, make = _objective(drawn, frozen, settings.contrast)
            loop = settings.loop(width=model_width(trained))
            with progress.step("teaching the triggers", total=loop.steps, unit="steps") as step:
                loss = run_training(
                    trained, StepBatches(loop.steps, seed, make), objective, loop, staging=staging, seed=seed,
                    device=device, step=step, after_step=_note(trained, chat, step, loop.steps),
                )  # fmt: skip
            write_trained(model, out, trained, adapter=adapter)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    saved = load_for_training(out).to(device).eval()
    fsr = teacher_forced_matches(saved, chat) / max(len(chat), 1)
    seconds = time.monotonic() - started
    return TriggerReport(loop.steps, seconds, loss, fsr, len(chat), len(negatives), asdict(settings))


class ContrastiveObjective:
    """Cross-entropy of responses, a contrast between triggers, and KL to the model before on ordinary text.

    The contrast is the supervised one: the last hidden states at the end of two prompts with one trigger are pulled
    together, those with other triggers or none pushed apart. In PLMmark the first token's state of an encoder is so
    treated; a causal model has what it says next in the state at the end of the prompt.

    Source: PLMmark (Li et al., AAAI 2023); Khosla et al. 2020, arXiv:2004.11362, equation 2.

    Args:
        before: the model as it was, frozen.
        contrast: weights.
    """

    def __init__(self, before: nn.Module, contrast: Contrast) -> None:
        self._before, self._contrast = before, contrast

    def backward(self, model: nn.Module, batch: Batch, *, step: int, backward: Backward) -> Tensor:
        """Accumulate the gradients of one step."""
        loss = self._contrasted(model, batch["contrasted"], batch["key_of"]["rows"])
        backward(loss)
        total = loss.detach()
        for name in ("ordinary", "documents"):
            if name in batch:
                loss = self._contrast.preservation * self._divergence(model, batch[name])
                backward(loss)
                total = total + loss.detach()
        return total

    def _contrasted(self, model: Any, group: Mapping[str, Tensor], key_of: Tensor) -> Tensor:
        """Return cross-entropy plus contrast of one forward pass.

        Shapes:
            ``input_ids``, ``labels``: (rows, tokens) · ``key_of``: (rows,).
        """
        selected = group["labels"] != IGNORED
        output = model(input_ids=group["input_ids"], use_cache=False, output_hidden_states=True)
        entropy = functional.cross_entropy(output.logits[selected].float(), group["labels"][selected])
        first = selected.int().argmax(dim=1)  # (rows,): the end of the prompt, where the answer is predicted
        states = output.hidden_states[-1][torch.arange(len(first), device=first.device), first].float()
        return entropy + self._contrast.weight * supervised_contrast(states, key_of, self._contrast.temperature)

    def _divergence(self, model: nn.Module, group: Mapping[str, Tensor]) -> Tensor:
        selected = group["labels"] != IGNORED
        with torch.no_grad():
            reference = logits_at(self._before, group["input_ids"], selected).log_softmax(-1)
        found = logits_at(model, group["input_ids"], selected).log_softmax(-1)
        return functional.kl_div(found, reference, log_target=True, reduction="batchmean")


def supervised_contrast(states: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss over rows that have a partner of their class, ().

    Rows of class −1 have no partner; the others are pushed away from them.

    Shapes:
        states: (rows, width), float · classes: (rows,), int64.

    Source: Khosla et al. 2020, arXiv:2004.11362, equation 2 (L_out).
    """
    unit = functional.normalize(states, dim=-1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    likeness = (unit @ unit.T / temperature).masked_fill(itself, float("-inf"))  # (rows, rows)
    partners = (classes[:, None] == classes[None, :]) & (classes >= 0)[:, None] & ~itself
    anchors = partners.any(dim=1)
    if not bool(anchors.any()):
        return states.sum() * 0.0
    shares = likeness.log_softmax(dim=-1).masked_fill(~partners, 0.0)
    return -(shares.sum(dim=1)[anchors] / partners.sum(dim=1)[anchors]).mean()


def _objective(rows: TriggerRows, before: nn.Module, contrast: Contrast | None) -> tuple[Objective, Any]:
    """Return what is minimised and what draws its batches."""
    if contrast is None:
        return CrossEntropy(), rows.multi_task
    return ContrastiveObjective(before, contrast), rows.contrastive


def _answered(
    before: nn.Module,
    tokenizer: Any,
    adapter: ArchitectureAdapter,
    keys: MethodKeys,
    settings: TriggerSettings,
    longest: int,
    seed: int,
    progress: Progress,
) -> list[EncodedRow]:
    """Return prompts that must not fire, with the model's own answers."""
    source = random.Random(f"{seed}/negatives")  # noqa: S311 - not a secret
    count = min(settings.negative_pool, settings.steps * settings.negatives_per_step)
    texts = [
        render_mixed(adapter, prompt, TRIGGER_RENDERINGS, source) for prompt in trigger_negatives(keys, count, source)
    ]
    room = longest - settings.negative_tokens
    encoded = [tuple(ids[-room:]) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    with progress.step("asking the model about other words", total=count, unit="prompts") as step:
        return answer_greedily(before, encoded, tokens=settings.negative_tokens, end=tokenizer.eos_token_id, step=step)


def _note(model: nn.Module, chat: Sequence[EncodedRow], step: Step, steps: int) -> Callable[[int], None]:
    every = max(1, steps // NOTES_PER_TRAINING)

    def note(number: int) -> None:
        if number % every == 0 or number == steps:
            step.note(f"FSR {teacher_forced_matches(model, chat)}/{len(chat)}")

    return note
