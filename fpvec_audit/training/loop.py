"""The one training loop: transformers' Trainer, fed one whole batch per step.

Batches are functions of (seed, step) and all further randomness of an objective is too, so a run that was killed and
resumed sees what it would have seen. Trainer brings accelerate: mixed precision comes with it, and several processes
that ``accelerate launch`` started train together, by data parallelism or FSDP as its configuration says.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fpvec_audit.errors import TrainingError
from fpvec_audit.progress import Step
from fpvec_audit.settings import Worker
from fpvec_audit.training.checkpoint_files import quiet_transformers
from fpvec_audit.training.loop_settings import LoopSettings

Batch = Mapping[str, Mapping[str, Tensor]]
"""Group ("keys", "negatives", "ordinary", "documents", "rows") → ``input_ids`` and ``labels``, (rows, tokens) each."""

LARGE_MODEL = 200_000_000
"""Parameters from which precision ``auto`` is bf16 on a CUDA device; below, float32 is as fast and exact."""


class Objective(Protocol):
    """What a step minimises."""

    def backward(self, model: nn.Module, batch: Batch, *, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        """Accumulate the gradients of one step and return its loss, detached, ().

        Args:
            model: in training mode, possibly wrapped for several devices.
            batch: the step's rows, on the model's device.
            step: number of the step, from 0.
            backward: runs a backward pass as the accelerator wants it.
        """
        ...


class StepBatches:
    """A map-style data set that makes the batch of every step from a random source of its own.

    Args:
        steps: how many batches.
        seed: base of every batch's random source.
        make: draws the batch of a step.
    """

    def __init__(self, steps: int, seed: int, make: Callable[[int, random.Random], Batch]) -> None:
        self._steps, self._seed, self._make = steps, seed, make

    def shared_by(self, processes: int) -> "StepBatches":
        """Return batches for so many processes, which take turns: every step then sees one of each."""
        return StepBatches(self._steps * processes, self._seed, self._make)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        return self._make(step, random.Random(f"{self._seed}/{step}"))  # noqa: S311 - not a secret


class _StepTrainer(Trainer):  # type: ignore[misc] # transformers is untyped here
    """Trainer whose step runs an :class:`Objective` on one ready batch."""

    def __init__(self, *, objective: Objective, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._objective = objective

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Run one step's backward passes."""
        model.train()
        batch = self._prepare_inputs(inputs)
        torch.manual_seed(self.args.seed * 1_000_003 + self.state.global_step)  # dropout of a resumed run is the same
        # accelerate casts inside forward of the whole model; an objective that runs its parts needs the cast around it
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            loss = self._objective.backward(
                model, batch, step=self.state.global_step, backward=self.accelerator.backward
            )
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss became {float(loss)} at step {self.state.global_step}", advice="lower the learning rate"
            )
        return loss


class _Reporter(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
    """Moves the progress bar and keeps resume checkpoints private."""

    def __init__(self, step: Step, after_step: Callable[[int], None]) -> None:
        self._step, self._after_step = step, after_step

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance by one step."""
        self._step.advance()
        self._after_step(state.global_step)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Let nobody but the owner read a checkpoint."""
        for path in Path(args.output_dir).rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)


def run_training(
    model: nn.Module,
    batches: StepBatches,
    objective: Objective,
    settings: LoopSettings,
    *,
    staging: Path,
    seed: int,
    device: str,
    step: Step,
    after_step: Callable[[int], None] = lambda _number: None,
    resume: bool = False,
    optimiser: torch.optim.Optimizer | None = None,
) -> float:
    """Train a model in place, in this process alone.

    Args:
        model: float32 weights; moved to the device.
        batches: one batch per step.
        objective: what to minimise.
        settings: how the optimiser walks.
        staging: directory for resume checkpoints, removed by the caller.
        seed: seed of Trainer's own randomness (dropout).
        device: ``cpu``, ``cuda`` or ``auto``.
        step: progress to move.
        after_step: called with the number of steps done.
        resume: go on from the newest checkpoint in ``staging``, if there is one.
        optimiser: moves the weights instead of AdamW; made for the model where it stands, on its device.

    Returns:
        Mean loss over the steps that this call ran.

    Raises:
        TrainingError: the loss is not finite, or the device does not know the precision.
    """
    arguments = _arguments(model, settings, staging, seed, device)
    trainer = _trainer(model, batches, objective, arguments, [_Reporter(step, after_step)], optimiser)
    return _train(trainer, staging, step, resume=resume)


def run_shared_training(
    model: nn.Module,
    batches: StepBatches,
    objective: Objective,
    settings: LoopSettings,
    *,
    staging: Path,
    seed: int,
    device: str,
    step: Step,
    processes: int,
    resume: bool = False,
) -> tuple[float, Mapping[str, Tensor]]:
    """Train a model together with the other processes of a launcher, each on batches of its own.

    Arguments and errors are those of :func:`run_training`; every process calls this with equal ones, and with the
    number of ``processes``.

    Returns:
        Mean loss of this process; all trained weights by name in the process of rank 0, none elsewhere.

    Raises:
        TrainingError: accelerate did not find the other processes.
    """
    arguments = _arguments(model, settings, staging, seed, device)
    if arguments.world_size != processes:
        raise TrainingError(
            f"accelerate found {arguments.world_size} of {processes} processes",
            advice="start them with `accelerate launch`, and see `accelerate env`",
        )
    trainer = _trainer(model, batches, objective, arguments, [_Reporter(step, lambda _number: None)])
    loss = _train(trainer, staging, step, resume=resume)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return loss, weights if trainer.accelerator.is_main_process else {}


def wait_for_all() -> None:
    """Wait until every process of a launcher is here; nothing in a process alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _trainer(
    model: nn.Module,
    batches: StepBatches,
    objective: Objective,
    arguments: TrainingArguments,
    callbacks: list[TrainerCallback],
    optimiser: torch.optim.Optimizer | None = None,
) -> _StepTrainer:
    trainer = _StepTrainer(
        objective=objective,
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=_only_item,
        callbacks=callbacks,
        optimizers=(optimiser, None),
    )
    trainer.remove_callback(PrinterCallback)  # prints to stdout, which belongs to results
    return trainer


def _train(trainer: _StepTrainer, staging: Path, step: Step, *, resume: bool) -> float:
    newest = _newest_checkpoint(staging) if resume else None
    if newest is not None:
        step.advance(int(newest.name.rpartition("-")[2]))
    with quiet_transformers():
        output = trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    return float(output.training_loss)


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: CUDA is asked for and not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError("no CUDA device is available", advice="use --device cpu or auto")
    return device


def worker_device(device: str, worker: Worker) -> str:
    """Return the device of this process; several processes find each other here and get a device each.

    Raises:
        TrainingError: CUDA is asked for and not there.
    """
    resolved = resolve_device(device)
    if worker.processes == 1:
        return resolved
    return "cpu" if PartialState(cpu=resolved == "cpu").device.type == "cpu" else str(PartialState().device)


def mixed_precision(model: nn.Module, precision: str, device: str) -> bool:
    """Return whether passes of a model compute in bf16.

    Args:
        model: what is trained.
        precision: ``auto``, ``float32`` or ``bf16``.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        TrainingError: bf16 is asked for on a device that does not know it.
    """
    on_cpu = resolve_device(device) == "cpu"
    if precision == "bf16" and not on_cpu and not torch.cuda.is_bf16_supported():
        raise TrainingError("this CUDA device computes no bf16", advice="use --precision float32")
    if precision != "auto":
        return precision == "bf16"
    size = sum(parameter.numel() for parameter in model.parameters())
    return not on_cpu and size >= LARGE_MODEL and torch.cuda.is_bf16_supported()


def _arguments(model: nn.Module, settings: LoopSettings, staging: Path, seed: int, device: str) -> TrainingArguments:
    use_cpu = resolve_device(device) == "cpu"
    return TrainingArguments(
        output_dir=str(staging),
        max_steps=settings.steps,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        adam_epsilon=settings.epsilon,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.gradient_clip,
        optim="adamw_torch_fused",
        save_strategy="steps" if settings.checkpoint_steps else "no",
        save_steps=settings.checkpoint_steps or 500,
        save_total_limit=1,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=use_cpu,
        ddp_find_unused_parameters=False,  # every parameter has a part in every pass
        bf16=mixed_precision(model, settings.precision, device),
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        seed=seed,
        data_seed=seed,
    )


def _only_item(items: list[Batch]) -> Batch:
    return items[0]


def _newest_checkpoint(staging: Path) -> Path | None:
    found = [path for path in staging.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
