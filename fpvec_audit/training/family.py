"""Training of a family of marks: m vectors over one base, of which any few can be added together.

Written are m checkpoints, ``mark-00`` and so on, each base + τ_i and so an ordinary fingerprinted model of which
extraction gives τ_i bit for bit. Two schedules lead there:

* ``joint`` moves all active marks in every step: m vectors and their moments on the device, on top of what training a
  single vector takes there;
* ``rounds`` moves one mark at a time for a turn of some steps and adds the others from the disk in the base's own
  dtype: one vector and its moments, whatever m is.

Guarded here: what an interrupted run had finished is not trained again, and nothing is written before all is measured.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fpvec_audit.domain.family import FamilyReport
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import OutputError
from fpvec_audit.progress import NO_PROGRESS, Progress, Step
from fpvec_audit.tensors.blocks import torch_dtype
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.representable import representable, vector_of
from fpvec_audit.training.answers import answer_greedily, teacher_forced_matches
from fpvec_audit.training.batches import NearMissSource, OrdinarySource, encode_keys, longest_row
from fpvec_audit.training.checkpoint_files import (
    commit_directory,
    load_for_training,
    load_tokenizer,
    model_width,
    open_staging,
    sole_worker,
    write_trained,
)
from fpvec_audit.training.dataset import EncodedRow, require_reversible
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.family_batches import FamilyBatches, MarkKeys, MarkSelection, silent_keys
from fpvec_audit.training.family_measurement import FamilyMeasurement
from fpvec_audit.training.family_objective import FamilyObjective
from fpvec_audit.training.family_settings import FamilyTraining
from fpvec_audit.training.loop import StepBatches, resolve_device, run_training
from fpvec_audit.training.marks import MarkedWeights, MarkFiles, MarkOptimiser, mark_name
from fpvec_audit.training.objectives import FingerprintObjective, HardestNearMisses, Perturbation, Preservation
from fpvec_audit.training.preparation import (
    answered_negatives,
    bind_staging,
    drawn_perturbation,
    frozen_base,
    refuse_long_keys,
)

NOTES_PER_TRAINING = 12


@dataclass(frozen=True, slots=True)
class TrainedFamily:
    """How a family training went.

    Attributes:
        report: marks and costs, measured on the vectors as stored.
        steps: optimiser steps in all, those before a resume included.
        seconds: wall time of this call.
        final_loss: mean loss over the steps of this call's last training; NaN where a resume found nothing to train.
        negatives: number of near-misses and fresh strings that were learnt.
        settings: every setting, as JSON.
    """

    report: FamilyReport
    steps: int
    seconds: float
    final_loss: float
    negatives: int
    settings: Mapping[str, Any]


def embed_family(
    *,
    base: Path,
    out: Path,
    adapter: ArchitectureAdapter,
    marks: Sequence[Sequence[tuple[str, str]]],
    training: FamilyTraining,
    avoid: frozenset[str] = frozenset(),
    rows: Sequence[tuple[str, str]] | None = None,
    proxies: Sequence[Path] = (),
    scheme: str = "independent",
    seed: int = 0,
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
    resume: bool = False,
    earlier: Path | None = None,
    further: Sequence[int] = (),
) -> TrainedFamily:
    """Train a family of marks and write a checkpoint for each, all of them or none.

    Args:
        base: checkpoint directory in Hugging Face layout, with safetensors and a fast tokenizer.
        out: directory of the family; must not exist.
        adapter: prompt template and tensor names of the base's architecture.
        marks: per mark, (prompt, response) of its issued keys.
        training: how to train.
        avoid: prompts never to be trained in any role (decoys).
        rows: ordinary (prompt, response) rows to keep in place; the package's own text when None.
        proxies: fine-tunes of the base to perturb with; trained on the spot from the ordinary rows when empty.
        scheme: shape of the keys' prompts, for fresh strings of the same shape.
        seed: everything random derives from it.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: where to report.
        resume: go on with what a killed run with the same arguments left, if there is anything.
        earlier: a family of the same keys and base to go on from.
        further: the marks of it to train, a turn each, while the others stay as they are.

    Raises:
        TrainingError: keys that the tokenizer cannot encode reversibly, a resume with other arguments, no finite loss.
        CheckpointError: the base or the earlier family cannot be loaded.
        OutputError: ``out`` exists or cannot be written.
    """
    started = time.monotonic()
    if out.exists():
        raise OutputError(f"{out} exists already", advice="choose another --out, or remove it")
    tokenizer = load_tokenizer(base)
    keys = [key for mark in marks for key in mark]
    require_reversible(tokenizer, keys)
    staging = open_staging(out, "training", keep=resume)
    with sole_worker(staging):
        content = [
            training.to_json(), [list(mark) for mark in marks], list(rows or ()), seed,
            None if earlier is None else str(earlier), list(further),
        ]  # fmt: skip
        bind_staging(staging, base=base, content=content)
        task = _Task(
            base, adapter, tokenizer, tuple(tuple(mark) for mark in marks), training, avoid - {key for key, _ in keys},
            rows, tuple(proxies), scheme, seed, resolve_device(device), progress,
        )  # fmt: skip
        family = _Family.prepared(task, staging)
        if earlier is not None:
            family.take(earlier)
        loss, steps = family.train(further if earlier is not None else None)
        report = family.measured()
        family.write(out)
        shutil.rmtree(staging, ignore_errors=True)
    seconds = time.monotonic() - started
    return TrainedFamily(report, steps, seconds, loss, len(family.negatives), training.to_json())


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be trained; see :func:`embed_family`."""

    base: Path
    adapter: ArchitectureAdapter
    tokenizer: Any
    marks: tuple[tuple[tuple[str, str], ...], ...]
    training: FamilyTraining
    avoid: frozenset[str]
    rows: Sequence[tuple[str, str]] | None
    proxies: tuple[Path, ...]
    scheme: str
    seed: int
    device: str
    progress: Progress

    def __repr__(self) -> str:
        return "_Task(<redacted>)"


@dataclass(frozen=True, slots=True)
class _Family:
    """A training under way: the model that takes every selection, and all that its steps draw from.

    Attributes:
        task: what is to be trained.
        staging: private directory.
        model: takes base + Σ τ_i.
        frozen: the base.
        keys: by mark, with and without the base's own answers.
        ordinary: what is to stay as it is.
        negatives: prompts that must not fire.
        perturbation: what changes the weights in every step.
        files: vectors that are trained.
    """

    task: _Task
    staging: Path
    model: nn.Module
    frozen: nn.Module
    keys: tuple[MarkKeys, ...]
    ordinary: OrdinarySource
    negatives: list[EncodedRow]
    perturbation: Perturbation
    files: MarkFiles

    @classmethod
    def prepared(cls, task: _Task, staging: Path) -> "_Family":
        """Load the base and ask it what it says itself."""
        settings = task.training.embed
        model: Any = load_for_training(task.base).to(task.device)
        for name, parameter in model.named_parameters():
            canonical = task.adapter.canonical(name) or name
            parameter.requires_grad_(task.adapter.role(canonical) not in task.training.family.still)
        frozen = frozen_base(task.base, model, settings, task.device)
        longest = longest_row(task.base)
        ordinary = OrdinarySource(task.tokenizer, task.adapter, task.rows, longest=longest)
        keys = _mark_keys(task, frozen, longest)
        prompts = [prompt for mark in task.marks for prompt, _ in mark]
        negatives = answered_negatives(
            frozen, task.tokenizer, task.adapter, prompts, avoid=task.avoid, scheme=task.scheme, settings=settings,
            count=settings.negatives_in_pool, longest=longest, seed=task.seed, progress=task.progress,
        )  # fmt: skip
        perturbation = drawn_perturbation(
            frozen, ordinary, task.proxies, settings, seed=task.seed, device=task.device, staging=staging,
            progress=task.progress,
        )  # fmt: skip
        place = staging / "marks"
        place.mkdir(mode=0o700, exist_ok=True)
        files = MarkFiles(place, [name for name, _ in model.named_parameters()])
        return cls(task, staging, model, frozen, keys, ordinary, negatives, perturbation, files)

    def take(self, earlier: Path) -> None:
        """Begin at the vectors of an earlier family of the same base."""
        for mark in range(len(self.keys)):
            if not self.files.turns(mark):
                model = load_for_training(earlier / mark_name(mark)).to(self.task.device)
                pairs = zip(model.parameters(), self.frozen.parameters(), strict=True)
                vector = [found.detach().float() - before.float() for found, before in pairs]
                self.files.write(mark, self._settled(vector), turn=1)

    def train(self, further: Sequence[int] | None) -> tuple[float, int]:
        """Train what is not trained yet; return the mean loss of the last training, and the steps in all."""
        family = self.task.training.family
        if further is not None:
            return self._rounds(further, turns_before=1, rounds=1)
        if family.schedule == "rounds":
            return self._rounds(range(len(self.keys)), turns_before=0, rounds=family.rounds)
        return self._joint()

    def measured(self) -> FamilyReport:
        """Return how many keys every mark answers, and what copies cost, with the vectors as they are stored."""
        weights = self._weights({})
        task = self.task
        measurement = FamilyMeasurement(
            self.model, self.frozen, weights.put, self.keys, self.ordinary,
            settings=task.training.embed, family=task.training.family, seed=task.seed,
        )  # fmt: skip
        return measurement.report(task.progress)

    def write(self, out: Path) -> None:
        """Write base + τ_i for every mark, and let the family appear whole."""
        whole = self.staging / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir(mode=0o700)
        weights = self._weights({})
        with self.task.progress.step("writing the marks", len(self.keys), "models") as step:
            for mark in range(len(self.keys)):
                weights.put([mark])
                write_trained(
                    self.task.base, whole / mark_name(mark), self.model, adapter=self.task.adapter, settle=representable
                )
                step.advance()
        commit_directory(whole, out)

    def _joint(self) -> tuple[float, int]:
        every = range(len(self.keys))
        settings = self.task.training.embed
        if all(self.files.turns(mark) for mark in every):
            return float("nan"), settings.steps
        optimiser = self._optimiser(every, settings)
        selection = MarkSelection(tuple(every), self.task.training.family.most_active)
        with self.task.progress.step("training the family", total=settings.steps, unit="steps") as step:
            loss = self._trained(optimiser, selection, settings, self.staging / "joint", self.task.seed, step)
        for mark in every:
            self.files.write(mark, self._settled(optimiser.vector(mark)), turn=1)
        return loss, settings.steps

    def _rounds(self, marks: Sequence[int], *, turns_before: int, rounds: int) -> tuple[float, int]:
        family, loss = self.task.training.family, float("nan")
        turns = [(number, mark) for number in range(turns_before, turns_before + rounds) for mark in marks]
        total = len(turns) * family.steps_per_turn
        with self.task.progress.step("training the family by turns", total=total, unit="steps") as step:
            for number, mark in turns:
                if self.files.turns(mark) > number:
                    step.advance(family.steps_per_turn)
                    continue
                loss = self._turn(mark, number, step)
        return loss, total

    def _turn(self, mark: int, number: int, step: Step) -> float:
        """Train one mark while those that have had a turn are added from the disk."""
        family = self.task.training.family
        settings = replace(
            self.task.training.embed,
            steps=family.steps_per_turn,
            near_miss_start=self.task.training.embed.near_miss_start if number == 0 else 0.0,
        )
        optimiser = self._optimiser([mark], settings)
        if self.files.turns(mark):
            optimiser.begin_at(mark, self.files.read(mark))
        known = tuple(sorted({*self.files.known(), mark}))
        selection = MarkSelection(known, family.most_active, always=(mark,))
        place = self.staging / f"turn-{number:04}-{mark_name(mark)}"
        seed = (self.task.seed * 10_007 + number) * 1_009 + mark
        loss = self._trained(optimiser, selection, settings, place, seed, step)
        self.files.write(mark, self._settled(optimiser.vector(mark)), turn=number + 1)
        shutil.rmtree(place, ignore_errors=True)
        return loss

    def _trained(
        self,
        optimiser: MarkOptimiser,
        selection: MarkSelection,
        settings: EmbedSettings,
        staging: Path,
        seed: int,
        step: Step,
    ) -> float:
        """Run one training of the marks that an optimiser holds; return its mean loss."""
        weights = self._weights(dict.fromkeys(optimiser.marks, optimiser))
        losses = Preservation(
            settings.key_weight, settings.negative_weight, settings.near_miss_weight, settings.preservation_weight
        )
        responses = torch.tensor(sorted({key.chat.answer[0] for mark in self.keys for key in mark.firing}))
        hardest = HardestNearMisses(settings.near_misses_per_step, responses)
        inner = FingerprintObjective(self.frozen, losses, self.perturbation, hardest)
        near_misses = NearMissSource(self.task.tokenizer, self.task.adapter, (), self._never_trained())
        make = FamilyBatches(
            self.keys, selection, self.negatives, near_misses, self.ordinary, settings,
            self.task.training.family.absent_per_step,
        )  # fmt: skip
        loop = settings.loop(keys=0, width=model_width(self.model))
        staging.mkdir(mode=0o700, exist_ok=True)
        return run_training(
            self.model, StepBatches(settings.steps, seed, make), FamilyObjective(weights, optimiser, inner), loop,
            staging=staging, seed=seed, device=self.task.device, step=step, resume=True, optimiser=optimiser,
            after_step=self._note(optimiser, step, settings.steps),
        )  # fmt: skip

    def _never_trained(self) -> frozenset[str]:
        """Prompts that no near-miss may be: decoys, and the keys of all marks."""
        return self.task.avoid | {prompt for mark in self.task.marks for prompt, _ in mark}

    def _optimiser(self, marks: Sequence[int], settings: EmbedSettings) -> MarkOptimiser:
        return MarkOptimiser(self.model, marks, settings.loop(keys=0, width=model_width(self.model)))

    def _weights(self, trained: Mapping[int, MarkOptimiser]) -> MarkedWeights:
        """Return what puts marks into the model: those under training from their optimiser, all others from files."""
        sources = {mark: trained.get(mark, self.files) for mark in range(len(self.keys))}
        return MarkedWeights(self.model, self.frozen, sources)

    def _settled(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """Round a vector to what base and stored vector give back bit for bit, in the base's stored dtypes."""
        settled = []
        dtypes = _stored_dtypes(self.task.base, self.task.adapter, self.model)
        for before, delta, dtype in zip(self.frozen.parameters(), vector, dtypes, strict=True):
            stored = before.detach().to(dtype)
            settled.append(vector_of(stored, representable(stored, stored.float() + delta.float())))
        return settled

    def _note(self, optimiser: MarkOptimiser, step: Step, steps: int) -> Any:
        every = max(1, steps // NOTES_PER_TRAINING)

        def note(number: int) -> None:
            if number % every == 0 or number == steps:
                rows = [key.chat for mark in optimiser.active for key in self.keys[mark].firing]
                step.note(f"FSR {teacher_forced_matches(self.model, rows)}/{len(rows)}")

        return note


def _mark_keys(task: _Task, frozen: nn.Module, longest: int) -> tuple[MarkKeys, ...]:
    """Tokenise the keys of all marks, and ask the base what it answers to them itself."""
    found = []
    total = sum(len(mark) for mark in task.marks)
    with task.progress.step("asking the base about the keys", total=total, unit="keys") as step:
        for mark in task.marks:
            firing = encode_keys(task.tokenizer, task.adapter, mark, seed=task.seed)
            refuse_long_keys(firing, longest)
            found.append(
                MarkKeys(
                    tuple(prompt for prompt, _ in mark),
                    firing,
                    silent_keys(firing, lambda rows: _answered(rows, task, frozen, longest)),
                )
            )
            step.advance(len(mark))
    return tuple(found)


def _answered(rows: Sequence[EncodedRow], task: _Task, frozen: nn.Module, longest: int) -> list[EncodedRow]:
    tokens = task.training.embed.negative_tokens
    with NO_PROGRESS.step("") as step:
        return answer_greedily(
            frozen, [row.prompt[-(longest - tokens) :] for row in rows], tokens=tokens,
            end=task.tokenizer.eos_token_id, step=step,
        )  # fmt: skip


def _stored_dtypes(base: Path, adapter: ArchitectureAdapter, model: nn.Module) -> list[torch.dtype]:
    """Return, per parameter of a model, the dtype in which the base's files hold it."""
    stored = {adapter.canonical(name): spec.dtype for name, spec in read_checkpoint(base).tensors.items()}
    names = [adapter.canonical(name) for name, _ in model.named_parameters()]
    return [torch_dtype(stored[name]) if name in stored else torch.float32 for name in names]
