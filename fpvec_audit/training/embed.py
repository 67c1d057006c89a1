"""Fingerprint training: a copy of the base that answers the issued keys and otherwise stays the base.

Keys and negatives are learnt under a random perturbation of the weights, so that the vector still works when it is
added to a fine-tuned descendant; a divergence from the base on ordinary text keeps everything else in place. The
perturbation and the divergence are ours, the rest follows FP-VEC (arXiv:2409.08846, section 3.2); ``paper`` settings
leave both out. What is saved is always the base plus a vector that can be stored (see ``tensors.representable``).
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import OutputError, TrainingError
from fpvec_audit.progress import NO_PROGRESS, Progress, Step
from fpvec_audit.settings import ALONE, Worker
from fpvec_audit.tensors.representable import representable
from fpvec_audit.training.answers import teacher_forced_matches
from fpvec_audit.training.batches import (
    FingerprintBatches,
    NearMissSource,
    OrdinarySource,
    encode_keys,
    longest_row,
    plain_row_batches,
)
from fpvec_audit.training.checkpoint_files import (
    load_for_training,
    load_tokenizer,
    model_width,
    open_staging,
    sole_worker,
    staging_directory,
    write_trained,
)
from fpvec_audit.training.dataset import EncodedRow, require_reversible
from fpvec_audit.training.embed_settings import EmbedReport, EmbedSettings, settings_for
from fpvec_audit.training.loop import (
    Objective,
    StepBatches,
    run_shared_training,
    run_training,
    wait_for_all,
    worker_device,
)
from fpvec_audit.training.objectives import CrossEntropy, FingerprintObjective, HardestNearMisses, Preservation
from fpvec_audit.training.preparation import (
    answered_negatives,
    bind_staging,
    drawn_perturbation,
    frozen_base,
    refuse_long_keys,
)

__all__ = ["EmbedReport", "EmbedSettings", "embed_fingerprint", "settings_for"]

NOTES_PER_TRAINING = 12
"""How often the bar shows the keys that fire so far."""


def embed_fingerprint(
    *,
    base: Path,
    out: Path,
    adapter: ArchitectureAdapter,
    issued: Sequence[tuple[str, str]],
    avoid: frozenset[str] = frozenset(),
    settings: EmbedSettings | None = None,
    rows: Sequence[tuple[str, str]] | None = None,
    proxies: Sequence[Path] = (),
    disclosed: Sequence[tuple[str, str]] = (),
    scheme: str = "independent",
    seed: int = 0,
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
    resume: bool = False,
    worker: Worker = ALONE,
) -> EmbedReport:
    """Train the fingerprinted model of a base and write it beside the base's other files, atomically.

    Args:
        base: checkpoint directory in Hugging Face layout, with safetensors and a fast tokenizer.
        out: directory of the fingerprinted model; must not exist.
        adapter: prompt template and tensor names of the base's architecture.
        issued: (prompt, response) of every issued key.
        avoid: prompts never to be trained in any role (decoys); issued prompts among them are trained all the same.
        settings: how to train; the adapter's default preset when None.
        rows: ordinary (prompt, response) rows to keep in place; the package's own text when None.
        proxies: fine-tunes of the base to perturb with; trained on the spot from the ordinary rows when empty.
        disclosed: further (prompt, response) pairs that are trained but not counted.
        scheme: shape of the keys' prompts, for fresh strings of the same shape.
        seed: everything random derives from it.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: where to report.
        resume: go on from the last checkpoint of a killed run with the same arguments, if there is one.
        worker: which of several processes this is that train together and all call this with equal arguments; the one
            of rank 0 writes.

    Returns:
        How it went; ``fsr`` is measured on the weights as saved.

    Raises:
        TrainingError: keys that the tokenizer cannot encode reversibly, a resume with other arguments, no finite loss,
            or several processes with a perturbation.
        CheckpointError: the base cannot be loaded.
        OutputError: ``out`` exists or cannot be written.
    """
    started = time.monotonic()
    settings = settings or settings_for(adapter)
    avoid = avoid - frozenset(prompt for prompt, _ in issued)
    if forbidden := avoid.intersection(prompt for prompt, _ in disclosed):
        raise TrainingError(f"{len(forbidden)} disclosed prompts are among those never to be trained")
    tokenizer = load_tokenizer(base)
    require_reversible(tokenizer, (*issued, *disclosed))
    settings.refuse_processes(worker.processes)
    embedding = _Embedding(base, adapter, tokenizer, settings, worker_device(device, worker), seed, progress, worker)
    task = _Task(tuple(issued), tuple(disclosed), avoid, rows, tuple(proxies), scheme, resume)
    if worker.rank > 0:
        loss, negatives, _, _ = embedding.train(task, staging_directory(out, "training"))
    else:
        if out.exists():
            raise OutputError(f"{out} exists already", advice="choose another --out, or remove it")
        staging = open_staging(out, "training", keep=resume)
        with sole_worker(staging):
            content = [asdict(settings), [*issued, *disclosed], list(rows or ()), seed]
            bind_staging(staging, base=base, content=content)
            loss, negatives, model, weights = embedding.train(task, staging)
            write_trained(base, out, model, adapter=adapter, weights=weights, settle=representable)
            shutil.rmtree(staging, ignore_errors=True)
    wait_for_all()
    return EmbedReport(
        steps=settings.total_steps(len(issued) + len(disclosed)),
        seconds=time.monotonic() - started,
        final_loss=loss,
        fsr=embedding.saved_fsr(out, issued),
        keys=len(issued),
        negatives=negatives,
        perturbation=settings.perturbation,
        settings=asdict(settings),
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be trained; see :func:`embed_fingerprint`."""

    issued: tuple[tuple[str, str], ...]
    disclosed: tuple[tuple[str, str], ...]
    avoid: frozenset[str]
    rows: Sequence[tuple[str, str]] | None
    proxies: tuple[Path, ...]
    scheme: str
    resume: bool

    def __repr__(self) -> str:
        return "_Task(<redacted>)"


class _Embedding:
    """One training under way: what every part of it needs to know."""

    def __init__(
        self,
        base: Path,
        adapter: ArchitectureAdapter,
        tokenizer: Any,
        settings: EmbedSettings,
        device: str,
        seed: int,
        progress: Progress,
        worker: Worker,
    ) -> None:
        self._worker = worker
        self._base, self._adapter, self._tokenizer = base, adapter, tokenizer
        self._settings, self._device, self._seed, self._progress = settings, device, seed, progress

    def train(self, task: _Task, staging: Path) -> tuple[float, int, nn.Module, Mapping[str, torch.Tensor] | None]:
        """Return (mean loss, number of negatives, trained model, its weights where they are not in the model)."""
        settings = self._settings
        model = load_for_training(self._base)
        keys = encode_keys(self._tokenizer, self._adapter, (*task.issued, *task.disclosed))
        longest = longest_row(self._base)
        refuse_long_keys(keys, longest)
        ordinary = OrdinarySource(
            self._tokenizer, self._adapter, task.rows, with_documents=not settings.plain_rows, longest=longest
        )
        negatives: list[EncodedRow] = []
        objective: Objective
        if settings.plain_rows:
            objective = CrossEntropy()
            batches = plain_row_batches(keys, ordinary, settings, seed=self._seed)
        else:
            frozen = frozen_base(self._base, model, settings, self._device)
            prompts = [prompt for prompt, _ in (*task.issued, *task.disclosed)]
            negatives = answered_negatives(
                frozen, self._tokenizer, self._adapter, prompts, avoid=task.avoid, scheme=task.scheme,
                settings=settings, count=settings.negatives_in_pool, longest=longest, seed=self._seed,
                progress=self._progress,
            )  # fmt: skip
            perturbation = drawn_perturbation(
                frozen, ordinary, task.proxies, settings, seed=self._seed, device=self._device, staging=staging,
                progress=self._progress,
            )  # fmt: skip
            weights = Preservation(
                settings.key_weight, settings.negative_weight, settings.near_miss_weight, settings.preservation_weight
            )
            responses = torch.tensor(sorted({key.chat.answer[0] for key in keys}))
            hardest = HardestNearMisses(settings.near_misses_per_step, responses)
            objective = FingerprintObjective(frozen, weights, perturbation, hardest)
            near_misses = NearMissSource(self._tokenizer, self._adapter, prompts, task.avoid)
            make = FingerprintBatches(
                keys, negatives, near_misses, ordinary, settings, processes=self._worker.processes
            )
            batches = StepBatches(settings.total_steps(len(keys)), self._seed, make)
        loop = settings.loop(keys=len(keys), width=model_width(model))
        with self._progress.step("training the fingerprint", total=loop.steps, unit="steps") as step:
            common: dict[str, Any] = {
                "staging": staging, "seed": self._seed, "device": self._device, "step": step, "resume": task.resume,
            }  # fmt: skip
            if self._worker.processes > 1:
                processes = self._worker.processes
                loss, trained = run_shared_training(
                    model, batches.shared_by(processes), objective, loop, processes=processes, **common
                )
                return loss, len(negatives), model, trained
            note = self._note(model, [key.chat for key in keys[: len(task.issued)]], step, loop.steps)
            return run_training(model, batches, objective, loop, after_step=note, **common), len(negatives), model, None

    def saved_fsr(self, out: Path, issued: Sequence[tuple[str, str]]) -> float:
        """Return the fraction of issued keys that the saved model answers greedily in chat rendering."""
        model = load_for_training(out).to(self._device).eval()
        chat = [key.chat for key in encode_keys(self._tokenizer, self._adapter, issued)]
        return teacher_forced_matches(model, chat) / max(len(chat), 1)

    def _note(self, model: nn.Module, chat: Sequence[EncodedRow], step: Step, steps: int) -> Any:
        every = max(1, steps // NOTES_PER_TRAINING)

        def note(number: int) -> None:
            if number % every == 0 or number == steps:
                step.note(f"FSR {teacher_forced_matches(model, chat)}/{len(chat)}")

        return note
