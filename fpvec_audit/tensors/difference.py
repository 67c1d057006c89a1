"""δ = θ_suspect − θ_base, element by element: what every look at a suspect's weights starts from.

Laws: tensors are matched by canonical name, never by order; a tied tensor counts once; δ is exact for every pair of
half and single precision numbers, as it is taken in float64; what only one of the two models has does not count, and
is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.domain.vector import Vocabulary, shared_elements
from fpvec_audit.errors import CheckpointError, VectorError
from fpvec_audit.tensors.index import read_checkpoint, refuse_quantised
from fpvec_audit.tensors.naming import NamedParameters, named_parameters
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.source import TensorSource

if TYPE_CHECKING:
    import torch

_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TensorPair:
    """One parameter in both models.

    Attributes:
        base: where the base stores it.
        suspect: where the suspect stores it, or what it is tied to there.
        shared: elements from the first on that both have: all but for added or missing rows of the vocabulary.
    """

    base: TensorSpec
    suspect: TensorSpec
    shared: int


class ModelDifference:
    """The difference between two models of one shape, read where it is asked for. A context manager, for one thread.

    Args:
        base: checkpoint directory.
        suspect: checkpoint directory.
        adapter: architecture of both; without one, names as stored are compared.

    Attributes:
        pairs: canonical name → the parameter in both models.
        remarks: what does not count, in sentences.

    Raises:
        CheckpointError: a directory cannot be read, is quantised, or the suspect is not of the base's shape.
    """

    def __init__(self, base: Path, suspect: Path, adapter: ArchitectureAdapter | None) -> None:
        checkpoints = [read_checkpoint(path) for path in (base, suspect)]
        for checkpoint in checkpoints:
            refuse_quantised(checkpoint)
        ours, theirs = (named_parameters(checkpoint, adapter) for checkpoint in checkpoints)
        found = _counterparts(ours, theirs)
        missing = _missing(checkpoints, ours, found)
        self._adapter = adapter
        self._files = tuple(OpenFiles(checkpoint.path) for checkpoint in checkpoints)
        self.pairs: Mapping[str, TensorPair] = {
            name: TensorPair(spec, found[name], self._shared(name, spec, found[name]))
            for name, spec in ours.parameters.items()
            if name in found and spec.dtype.floating and found[name].dtype.floating
        }
        if not self.pairs:
            raise CheckpointError(f"{suspect} shares no weights with {base}", advice="give the suspect's own base")
        self.remarks = (*missing, *_extra(ours, theirs, found), *self._cut())
        self._sources = {
            name: (self._files[0].source(pair.base), self._files[1].source(pair.suspect))
            for name, pair in self.pairs.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for files in self._files:
            files.close()

    @property
    def directories(self) -> tuple[Path, Path]:
        """Where base and suspect lie."""
        return self._files[0].directory, self._files[1].directory

    def sources(self, name: str, start: int, count: int) -> tuple[TensorSource, TensorSource]:
        """Return ``count`` elements of a parameter from ``start`` on, of base and of suspect, to be streamed."""
        pair = self.pairs[name]
        before, after = (
            files.source(_part(spec, start, count))
            for files, spec in zip(self._files, (pair.base, pair.suspect), strict=True)
        )
        return before, after

    def role(self, name: str) -> TensorRole:
        """Return what a parameter does; OTHER without an adapter."""
        return TensorRole.OTHER if self._adapter is None else self._adapter.role(name)

    def read(self, name: str, start: int, count: int) -> "torch.Tensor":
        """Return ``count`` elements of δ from flat position ``start`` on.

        Shapes:
            the result is (count,), float64, in memory of its own.

        Raises:
            CheckpointError: a file cannot be read, or a number is not finite.
        """
        from fpvec_audit.tensors.stored import read_elements

        before, after = (read_elements(source, start, count).double() for source in self._sources[name])
        delta = after.sub_(before)
        if not bool(delta.isfinite().all()):
            place = start + int((~delta.isfinite()).nonzero()[0])
            broken = self._files[0 if not before.isfinite().all() else 1].directory
            raise CheckpointError(
                f"{broken}: {name}: element {place} is not a finite number",
                advice="the model is broken; weights that are no numbers cannot be compared",
            )
        return delta

    def _shared(self, name: str, base: TensorSpec, suspect: TensorSpec) -> int:
        try:
            return shared_elements(name, suspect.shape, base.shape, role=self.role(name), vocabulary=Vocabulary.SHARED)
        except VectorError as error:
            raise CheckpointError(
                f"{name}: {self._files[0].directory} has shape {list(base.shape)}, "
                f"{self._files[1].directory} {list(suspect.shape)}",
                advice="the suspect is not of this base; give the base it was made from",
            ) from error

    def _cut(self) -> list[str]:
        return [
            f"{name} has {pair.suspect.shape[0]} rows in the suspect and {pair.base.shape[0]} in the base: "
            "the rows that both have count"
            for name, pair in self.pairs.items()
            if pair.base.shape != pair.suspect.shape
        ]


def _part(spec: TensorSpec, start: int, count: int) -> TensorSpec:
    """Return where consecutive elements of a tensor lie."""
    first = spec.start + start * spec.dtype.size
    return replace(spec, shape=(count,), start=first, end=first + count * spec.dtype.size)


def _counterparts(ours: NamedParameters, theirs: NamedParameters) -> dict[str, TensorSpec]:
    """Return name → tensor of the suspect; a head that the suspect ties and the base does not is what it is tied to."""
    found = {}
    for name in ours.parameters:
        spec = theirs.parameters.get(name) or theirs.parameters.get(theirs.tied.get(name, ""))
        if spec is not None:
            found[name] = spec
    return found


def _missing(
    checkpoints: Sequence[Checkpoint], ours: NamedParameters, found: Mapping[str, TensorSpec]
) -> tuple[str, ...]:
    """Say which small tensors the suspect does not have, and refuse a suspect without one of the matrices."""
    missing = [name for name in ours.parameters if name not in found]
    matrices = [name for name in missing if len(ours.parameters[name].shape) > 1]
    if matrices:
        raise CheckpointError(
            f"{matrices[0]}: {checkpoints[0].path} has it, {checkpoints[1].path} does not",
            advice="the suspect is not of this base; give the base it was made from",
        )
    return (f"only the base has {_shown(missing)}: left out",) if missing else ()


def _extra(ours: NamedParameters, theirs: NamedParameters, found: Mapping[str, TensorSpec]) -> tuple[str, ...]:
    used = {spec.name for spec in found.values()}
    extra = [name for name, spec in theirs.parameters.items() if spec.name not in used]
    return (f"only the suspect has {_shown(extra)}: left out",) if extra else ()


def _shown(names: Sequence[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more tensors" if rest > 0 else "")
