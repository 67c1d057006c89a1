"""A checkpoint written again with its parameters computed anew, from its own values and those of other models.

Laws: tensors are matched by canonical name, never by order; a tied tensor that is stored twice is computed once; a
number that is not finite, read or made, stops the work before anything is left; what is not a floating-point parameter
keeps every bit. One tensor of every model is in memory at a time.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path

import torch

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.domain.vector import VOCABULARY_ROLES
from fpvec_audit.errors import CheckpointError, PluginError, VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.arithmetic import working_dtype
from fpvec_audit.tensors.index import read_checkpoint, refuse_quantised
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.rewrite import copy_files, other_files, rewrite_tensors
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.staging import size_of, staged_directory
from fpvec_audit.tensors.stored import read_elements
from fpvec_audit.tensors.vector_files import DESCRIPTION, open_tensors, read_vector

Change = Callable[[str, torch.Tensor], torch.Tensor]
"""(canonical name, tensor) → tensor of the same shape and dtype."""

Compute = Callable[[str, torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]
"""(canonical name, values, the same parameter of the other models) → new values, all in float32 (float64 for float64).

Returning the very values that were given leaves every bit of the tensor.
"""


def rewrite_checkpoint(
    source: Path,
    target: Path,
    change: Change,
    *,
    adapter: ArchitectureAdapter | None = None,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Write a checkpoint again with its parameters changed, one tensor in memory at a time.

    Only floating-point parameters are given to ``change``; buffers, integers and every other file are carried over. A
    tied tensor that is stored twice is changed once, so that its two copies stay equal.

    Args:
        source: checkpoint directory; stays as it is.
        target: directory to make; must not exist.
        change: gives the new values of a tensor, in its shape and dtype; may return the tensor itself.
        adapter: gives canonical names and tells buffers; without one, names are as stored.
        progress: where to report.

    Raises:
        CheckpointError: the source cannot be read, is quantised, or holds NaN or Inf.
        OutputError: the target exists or cannot be written.
        PluginError: ``change`` returned another shape or dtype, or numbers that are not finite.
    """
    checkpoint = read_checkpoint(source)
    refuse_quantised(checkpoint)
    others = other_files(checkpoint).carried
    with staged_directory(target, checkpoint.bytes + size_of(others), progress=progress) as staging:
        copy_files(others, staging)
        rewriting = _Rewriting(checkpoint, adapter, change)
        label = f"write {target.name}"  # one thread: a change may draw random numbers, in the order of the files
        rewrite_tensors(checkpoint, staging, rewriting.changed, label=label, threads=1, progress=progress)


def recompute_checkpoint(
    source: Path,
    target: Path,
    compute: Compute,
    *,
    others: Sequence[Path] = (),
    adapter: ArchitectureAdapter | None = None,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Write a checkpoint again with its parameters computed in float32 and rounded once to their own dtype.

    Rows of the vocabulary that one of the models lacks keep their values; only the shared ones are computed.

    Args:
        source: checkpoint directory; stays as it is.
        target: directory to make; must not exist.
        compute: gives the new values of a parameter, in its shape.
        others: checkpoints or fingerprint vectors of the same architecture; of a vector, a tensor that it does not
            have is zero.
        adapter: gives canonical names, ties and buffers; without one, names are as stored.
        progress: where to report.

    Raises:
        CheckpointError: a model cannot be read, is quantised, holds NaN or Inf, or does not fit the source.
        VectorError: a vector cannot be read, or has tensors that the source has not.
        OutputError: the target exists or cannot be written.
        PluginError: ``compute`` returned another shape, or numbers that are not finite or do not fit the dtype.
    """
    with ExitStack() as stack:
        operands = [_open_operand(path, source, adapter, stack) for path in others]

        def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
            values = tensor.to(working_dtype(tensor.dtype))
            parts = [operand.read(name, values) for operand in operands]
            rows = min([len(values), *map(len, parts)]) if values.dim() else 0
            if not values.dim() or rows == len(values):
                new = compute(name, values, [part[:rows] if part.dim() else part for part in parts])
                return tensor if new is values else _rounded(name, new, tensor)
            new = tensor.clone()  # a beginning of the vocabulary, the rest of which the others do not have
            given = values[:rows]
            made = compute(name, given, [part[:rows] for part in parts])
            if made is not given:
                new[:rows] = _rounded(name, made, tensor[:rows])
            return new

        rewrite_checkpoint(source, target, change, adapter=adapter, progress=progress)


class _Operand:
    """The parameters of another model or of a vector, read one by one."""

    def __init__(
        self,
        directory: Path,
        sources: dict[str, TensorSource],
        *,
        tied: dict[str, str],
        adapter: ArchitectureAdapter | None,
        sparse: bool,
    ) -> None:
        self._directory, self._sources, self._tied = directory, sources, tied
        self._adapter, self._sparse = adapter, sparse

    def read(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Return a parameter in the dtype of ``values``; it may have other rows if it is one of the vocabulary."""
        source = self._sources.get(name) or self._sources.get(self._tied.get(name, ""))
        if source is None:
            if self._sparse:
                return torch.zeros_like(values)
            raise CheckpointError(
                f"{name}: {self._directory} does not have it", advice="give a model of the same architecture"
            )
        role = TensorRole.OTHER if self._adapter is None else self._adapter.role(name)
        rows_may_differ = role in VOCABULARY_ROLES and values.dim() and len(source.shape) == values.dim()
        own = tuple(values.shape)
        if source.shape != own and not (rows_may_differ and source.shape[1:] == own[1:]):
            raise CheckpointError(
                f"{name}: {self._directory} has shape {list(source.shape)}, the attacked model {list(own)}",
                advice="give a model of the same architecture and size",
            )
        tensor = read_elements(source, 0, prod(source.shape)).view(source.shape).to(values.dtype)
        _refuse_broken(self._directory, name, tensor)
        return tensor


def _open_operand(path: Path, attacked: Path, adapter: ArchitectureAdapter | None, stack: ExitStack) -> _Operand:
    if (path / DESCRIPTION).is_file():
        sources = dict(stack.enter_context(open_tensors(read_vector(path))))
        own = named_parameters(read_checkpoint(attacked), adapter)
        foreign = sorted(set(sources) - set(own.parameters) - set(own.tied))
        if foreign:
            raise VectorError(
                f"{foreign[0]}: the vector {path} has it, {attacked} does not",
                advice="give a vector of the model's own architecture",
            )
        return _Operand(path, sources, tied={}, adapter=adapter, sparse=True)
    checkpoint = read_checkpoint(path)
    refuse_quantised(checkpoint)
    named = named_parameters(checkpoint, adapter)
    files = stack.enter_context(OpenFiles(path))
    sources = {name: files.source(spec) for name, spec in named.parameters.items() if spec.dtype.floating}
    return _Operand(path, sources, tied=dict(named.tied), adapter=adapter, sparse=False)


def _rounded(name: str, new: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    if new.shape != tensor.shape:
        raise PluginError(
            f"{name}: the computation gave shape {list(new.shape)} for {list(tensor.shape)}", advice="keep the shape"
        )
    return new.to(tensor.dtype)


def _refuse_broken(directory: Path, name: str, tensor: torch.Tensor) -> None:
    """Refuse numbers that no model has.

    Raises:
        CheckpointError: one is NaN or infinite.
    """
    place = _first_broken(tensor)
    if place is not None:
        raise CheckpointError(
            f"{directory}: {name}: element {place} is not a finite number",
            advice="the model is broken; an attack on it would say nothing",
        )


def _first_broken(tensor: torch.Tensor) -> int | None:
    """Return the flat position of the first number that is not finite, None where all are."""
    wide = tensor.float() if tensor.itemsize == 1 else tensor
    finite = torch.isfinite(wide).reshape(-1)
    return None if bool(finite.all()) else int((~finite).nonzero()[0])


class _Rewriting:
    """The changed tensors of a checkpoint, file by file."""

    def __init__(self, checkpoint: Checkpoint, adapter: ArchitectureAdapter | None, change: Change) -> None:
        named = named_parameters(checkpoint, adapter)
        self._checkpoint = checkpoint
        self._change = change
        self._canonical = named.canonical
        stored = list(named.canonical.values())
        self._twice = {name for name in stored if stored.count(name) > 1}
        self._kept: dict[str, torch.Tensor] = {}

    def changed(self, spec: TensorSpec, source: TensorSource) -> TensorSource:
        """Return the changed elements of a stored tensor; the change is made when they are first read."""
        return _ChangedTensor(spec, source, self._changed)

    def _changed(self, spec: TensorSpec, tensor: torch.Tensor) -> torch.Tensor:
        name = self._canonical.get(spec.name)
        if name is None or not spec.dtype.floating:
            return tensor
        if name in self._kept:
            return self._kept[name]
        _refuse_broken(self._checkpoint.path, name, tensor)
        changed = self._change(name, tensor)
        if changed.shape != tensor.shape or changed.dtype != tensor.dtype:
            raise PluginError(
                f"{name}: the change gave {changed.dtype} {tuple(changed.shape)} for {tensor.dtype} "
                f"{tuple(tensor.shape)}",
                advice="keep shape and dtype",
            )
        place = None if changed is tensor else _first_broken(changed)
        if place is not None:
            raise PluginError(
                f"{name}: the change made element {place} of {spec.dtype.label} infinite or no number",
                advice="attack less strongly; nothing was written",
            )
        changed = changed.detach().to("cpu").contiguous()
        if name in self._twice:
            self._kept[name] = changed
        return changed


class _ChangedTensor:
    """A tensor that is read and changed as a whole when its first block is asked for, and dropped after the last."""

    def __init__(
        self, spec: TensorSpec, source: TensorSource, change: Callable[[TensorSpec, torch.Tensor], torch.Tensor]
    ) -> None:
        self._spec, self._source, self._change = spec, source, change
        self._flat: torch.Tensor | None = None

    @property
    def dtype(self) -> Dtype:
        return self._spec.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._spec.shape

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        if self._flat is None:
            whole = read_elements(self._source, 0, self._spec.elements).view(self._source.shape)
            self._flat = self._change(self._spec, whole).reshape(-1)
        block[:] = memoryview(self._flat[start : start + count].view(torch.uint8).numpy())
        if start + count == self._spec.elements:
            self._flat = None
