"""Layers changed by what flows into them: a model is walked block by block, as pruning by activations needs it.

Law: what flows into a block comes through the blocks before it as they were changed already.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import CheckpointError, TrainingError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.training.checkpoint_files import context_length, load_for_training, load_tokenizer
from fpvec_audit.training.dataset import draw_windows, encode_documents
from fpvec_audit.training.loop import resolve_device
from fpvec_audit.training.matrices import canonical_names

WINDOWS_AT_ONCE = 8

ChangeLayer = Callable[[Tensor, Tensor], Tensor]
"""(weight with one row per output, Euclidean norm of every input) → weight in the same shape.

Shapes:
    (outputs, inputs), (inputs,) → (outputs, inputs), float32.
"""


@dataclass(slots=True)
class _Inputs:
    """What a block is called with, batch by batch, beside the hidden states."""

    positional: list[tuple[Any, ...]] = field(default_factory=list)
    named: list[Mapping[str, Any]] = field(default_factory=list)


def change_by_activations(
    source: Path,
    change: ChangeLayer,
    texts: Sequence[str],
    *,
    windows: int,
    tokens: int,
    adapter: ArchitectureAdapter | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> Mapping[str, Tensor]:
    """Return the linear layers of a model's blocks, changed one block after the other.

    Every block is run on the calibration text as it is, its layers are changed by the norms of what flowed into them,
    and it is run again, changed, to give the next block its input.

    Args:
        source: checkpoint directory; its model is loaded in float32.
        change: gives the new weight of a layer.
        texts: calibration text, joined by ends of text.
        windows: how many windows of it.
        tokens: tokens in each, at most the model's context.
        adapter: names tensors; without one, a layer stands under its full name and without the body's prefix.
        seed: places of the windows.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: where to report.

    Returns:
        canonical name → changed weight as stored, float32, on the CPU.

    Raises:
        CheckpointError: the model cannot be loaded, or has no blocks.
        TrainingError: there is no text.

    Source: the walk is that of SparseGPT (arXiv:2301.00774) and Wanda (arXiv:2306.11695, section 3).
    """
    model = load_for_training(source).to(resolve_device(device)).eval()
    stream = encode_documents(load_tokenizer(source), texts)
    if not len(stream):
        raise TrainingError("there is no calibration text", advice="give rows with some")
    length = min(tokens, context_length(source) or tokens, len(stream))
    drawn = draw_windows(stream, windows, length, random.Random(f"{seed}/calibration"))  # noqa: S311 - not a secret
    batches = drawn["input_ids"].to(model.device).split(WINDOWS_AT_ONCE)
    place, blocks = _blocks(source, model)
    changed: dict[str, Tensor] = {}
    with torch.no_grad(), progress.step("calibrate", len(blocks), "blocks") as step:
        states, inputs = _recorded(model, blocks, batches)
        for number, (block, given) in enumerate(zip(blocks, inputs, strict=True)):
            layers = {name: module for name, module in block.named_modules() if _is_linear(module)}
            with _squares(layers.values()) as squares:
                _run(block, states, given)
            for name, layer in layers.items():
                weight = _rows(layer)
                if layer in squares:
                    weight.copy_(change(weight, squares[layer].sqrt().float()))
                for known in canonical_names(model, adapter, f"{place}.{number}.{name}.weight"):
                    changed[known] = layer.weight.detach().to("cpu")
            states = _run(block, states, given)
            step.advance()
    return changed


def _blocks(source: Path, model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of the blocks: the module list that holds most of the model."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise CheckpointError(f"{source}: the model has no list of blocks", advice="use an attack without calibration")
    return max(lists, key=lambda item: sum(parameter.numel() for parameter in item[1].parameters()))


def _recorded(model: nn.Module, blocks: nn.ModuleList, batches: Sequence[Tensor]) -> tuple[list[Tensor], list[_Inputs]]:
    """Run the model as it is; return what flows into the first block, and what all blocks are called with beside it."""
    states: list[Tensor] = []
    inputs = [_Inputs() for _ in blocks]

    def keep(number: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_block: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            rest = dict(named)
            first = positional[0] if positional else rest.pop("hidden_states")
            if number == 0:
                states.append(first)
            inputs[number].positional.append(positional[1:])
            inputs[number].named.append(rest)

        return hook

    handles = [block.register_forward_pre_hook(keep(number), with_kwargs=True) for number, block in enumerate(blocks)]
    try:
        for batch in batches:
            getattr(model, "base_model", model)(input_ids=batch, use_cache=False)  # the head is of no use here
    finally:
        for handle in handles:
            handle.remove()
    return states, inputs


def _run(block: nn.Module, states: Sequence[Tensor], given: _Inputs) -> list[Tensor]:
    """Run a block on every batch and return what it gives."""
    made = []
    for state, positional, named in zip(states, given.positional, given.named, strict=True):
        output = block(state, *positional, **named)
        made.append(output[0] if isinstance(output, tuple) else output)
    return made


@contextmanager
def _squares(layers: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect, per layer that is called, the sum of the squares of every input over all tokens, in float64."""
    sums: dict[nn.Module, Tensor] = {}

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        flat = inputs[0].reshape(-1, inputs[0].shape[-1])  # (tokens, inputs)
        sums[layer] = sums.get(layer, torch.zeros((), device=flat.device)) + flat.double().pow(2).sum(0)

    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _rows(layer: nn.Module) -> Tensor:
    """Return a view of a layer's weight, (outputs, inputs)."""
    weight: Tensor = layer.weight.data
    return weight if isinstance(layer, nn.Linear) else weight.T
