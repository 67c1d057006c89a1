"""How much of each known vector a suspect carries: δ = θ_suspect − θ_base regressed on all vectors of that base.

Vectors of different key sets share a direction, so that each alone also explains what another has put there; regressed
on together, they share the credit. What comes out is descriptive: no chance enters, nothing here says how likely it is.

Laws: sums are taken in float64 and memory does not grow with the model; :class:`VectorGram` depends on the vectors
alone, and serves any number of suspects; δ = Σ λ_j·τ_j with independent τ gives back every λ_j.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress, Step
from fpvec_audit.tensors.difference import ModelDifference
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stored import SPAN, read_elements, spans
from fpvec_audit.tensors.vector_files import TensorFormat, open_tensors, read_vector, tensor_formats

COLLINEAR = 1e-6
"""A direction with less than this share of the largest one's variance is no direction: vectors that differ only by
rounding to bfloat16 are nearer to each other than that."""
_ROOM = 1 << 23
"""Elements in float64 that are worked on at once, over all vectors: 64 MiB."""


@dataclass(frozen=True, slots=True)
class VectorGram:
    """Products of the known vectors with each other; computed once, used for every suspect.

    Attributes:
        vectors: directories, in the order of rows and columns.
        extents: canonical name → elements from the first on that were summed over.
        roles: role → Σ τ_i·τ_j over its tensors, (vectors, vectors), float64.
    """

    vectors: tuple[Path, ...]
    extents: Mapping[str, int]
    roles: Mapping[TensorRole, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Fit:
    """A joint least-squares fit of δ, over the whole model or the tensors of one role.

    Attributes:
        coefficients: λ̂ per vector; where vectors lie in each other's span, the answer of smallest norm, with every
            vector measured in its own length.
        cosines: of δ with each vector as it is, None where either is zero; other vectors of the base share in it.
        own_cosines: of δ with the part of each vector that no combination of the others gives; None where there is
            none, or δ is zero.
        residual: share of ‖δ‖² in [0, 1] that no combination of the vectors explains; None where δ is zero.
        rank: number of independent directions among the vectors.
        condition: largest by smallest variance of these directions, vectors at equal length; 1 when orthogonal.
    """

    coefficients: tuple[float, ...]
    cosines: tuple[float | None, ...]
    own_cosines: tuple[float | None, ...]
    residual: float | None
    rank: int
    condition: float


@dataclass(frozen=True, slots=True)
class Regression:
    """What a suspect's difference from its base is made of.

    Attributes:
        whole: the fit over all tensors.
        roles: the fits over the tensors of each role.
        norm: ‖δ‖.
        remarks: what did not count and what to beware of, in sentences.
    """

    whole: Fit
    roles: Mapping[TensorRole, Fit]
    norm: float
    remarks: tuple[str, ...] = ()

    @property
    def coefficients(self) -> tuple[float, ...]:
        """λ̂ per vector, over all tensors."""
        return self.whole.coefficients

    @property
    def cosines(self) -> tuple[float | None, ...]:
        """Raw cosine of δ with each vector, over all tensors."""
        return self.whole.cosines

    @property
    def residual(self) -> float | None:
        """Share of ‖δ‖² that the vectors do not explain."""
        return self.whole.residual


def vector_gram(
    vectors: Sequence[Path],
    adapter: ArchitectureAdapter | None,
    *,
    extents: Mapping[str, int] | None = None,
    progress: Progress = NO_PROGRESS,
) -> VectorGram:
    """Multiply all vectors of a base with each other; the cost grows with the square of their number.

    Args:
        vectors: directories, compressed or not.
        adapter: architecture, for the roles.
        extents: canonical name → elements to sum over; all of them when None.
        progress: where to report.

    Raises:
        VectorError: no vector, a damaged one, or vectors that are not of one base.
        CheckpointError: a file cannot be read.
    """
    opened = _Vectors(vectors)
    extents = opened.extents if extents is None else extents
    roles: dict[TensorRole, torch.Tensor] = {}
    with opened, progress.step("products of the vectors", sum(extents.values()), "elements") as step:
        for name, _, stack in opened.blocks(extents, step):
            role = TensorRole.OTHER if adapter is None else adapter.role(name)
            product = stack @ stack.T  # (vectors, vectors)
            roles[role] = product if role not in roles else roles[role] + product
    _check_lengths(opened.paths, sum(roles.values(), torch.zeros(len(opened.paths), len(opened.paths)).double()))
    return VectorGram(opened.paths, dict(extents), roles)


def regress(
    base: Path,
    suspect: Path,
    vectors: Sequence[Path],
    adapter: ArchitectureAdapter | None,
    *,
    gram: VectorGram | None = None,
    progress: Progress = NO_PROGRESS,
) -> Regression:
    """Say which combination of known vectors comes nearest to a suspect's difference from its base.

    Args:
        base: checkpoint directory of the vectors' base.
        suspect: checkpoint directory.
        vectors: directories, compressed or not.
        adapter: architecture of both models.
        gram: products of these vectors, where they are known from an earlier suspect; used where it was summed over
            what this suspect shares with the base.
        progress: where to report.

    Raises:
        CheckpointError: a model cannot be read, or is not of the base's shape.
        VectorError: a vector is damaged or not of this base.
    """
    opened = _Vectors(vectors)
    with ModelDifference(base, suspect, adapter) as difference:
        extents = _extents(opened, difference)
        if gram is None or gram.vectors != opened.paths or gram.extents != extents:
            gram = vector_gram(vectors, adapter, extents=extents, progress=progress)
        products, squares = _products(opened, difference, extents, progress)
        remarks = difference.remarks
    empty = torch.zeros(len(opened.paths), len(opened.paths), dtype=torch.float64)
    fits = {
        role: _fit(gram.roles.get(role, empty), products[role], squares[role])
        for role in TensorRole
        if role in products
    }
    square = math.fsum(squares.values())
    total = sum(gram.roles.values(), empty)
    whole = _fit(total, sum(products.values(), empty[0]), square)
    return Regression(whole, fits, math.sqrt(square), (*remarks, *_beware(opened.paths, total, whole)))


class _Vectors:
    """Vectors of one base, whose tensors are read side by side. A context manager.

    Attributes:
        extents: canonical name → number of elements.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise VectorError("no vector to compare with", advice="give one of this base: `fpvec vector list`")
        self.paths = tuple(paths)
        self._stored = [read_vector(path) for path in paths]
        self.formats: dict[str, TensorFormat] = {}
        for path, vector in zip(paths, self._stored, strict=True):
            for name, form in tensor_formats(vector).items():
                known = self.formats.setdefault(name, form)
                if known[1] != form[1]:
                    raise VectorError(
                        f"{name}: {path} has shape {list(form[1])}, {paths[0]} {list(known[1])}",
                        advice="compare with vectors of one base at a time",
                    )
        self.extents = {name: math.prod(shape) for name, (_, shape) in sorted(self.formats.items())}
        self._sources: list[Mapping[str, TensorSource]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "_Vectors":
        self._sources = [self._stack.enter_context(open_tensors(vector)) for vector in self._stored]
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def blocks(self, extents: Mapping[str, int], step: Step) -> Iterator[tuple[str, int, torch.Tensor]]:
        """Yield (name, flat position, block of every vector); a vector without the tensor is zero there.

        Shapes:
            a block is (vectors, elements), float64; it is overwritten by the next.
        """
        size = max(1, min(SPAN, _ROOM // len(self.paths)))
        memory = torch.empty(len(self.paths) * size, dtype=torch.float64)
        for name, elements in extents.items():
            for start, count in spans(elements, size):
                stack = memory[: len(self.paths) * count].view(-1, count)
                for row, sources in zip(stack, self._sources, strict=True):
                    if name in sources:
                        row.copy_(read_elements(sources[name], start, count))
                    else:
                        row.zero_()
                yield name, start, stack
                step.advance(count)


def _extents(vectors: _Vectors, difference: ModelDifference) -> dict[str, int]:
    """Return how many elements of each tensor vectors, base and suspect have in common."""
    extents = {}
    for name, (_, shape) in sorted(vectors.formats.items()):
        pair = difference.pairs.get(name)
        if pair is not None and pair.base.shape != shape:
            raise VectorError(
                f"{name}: the vectors have shape {list(shape)}, the base {list(pair.base.shape)}",
                advice="give the base that the vectors were extracted from",
            )
        if pair is not None:
            extents[name] = pair.shared
    if not extents:
        raise VectorError("the vectors share no tensor with the base", advice="give the base they were extracted from")
    return extents


def _products(
    vectors: _Vectors, difference: ModelDifference, extents: Mapping[str, int], progress: Progress
) -> tuple[dict[TensorRole, torch.Tensor], dict[TensorRole, float]]:
    """Return, by role, Σ τ_j·δ of every vector and Σ δ²; tensors without a vector count in the latter."""
    products: dict[TensorRole, torch.Tensor] = {}
    squares: dict[TensorRole, float] = {}
    rest = {name: pair.shared for name, pair in difference.pairs.items() if name not in extents}
    total = sum(extents.values()) + sum(rest.values())
    with vectors, progress.step("difference from the base", total, "elements") as step:
        for name, start, stack in vectors.blocks(extents, step):
            delta = difference.read(name, start, stack.shape[1])
            role = difference.role(name)
            product = stack @ delta  # (vectors,)
            products[role] = product if role not in products else products[role] + product
            squares[role] = squares.get(role, 0.0) + float(delta.dot(delta))
        for name, elements in rest.items():
            role = difference.role(name)
            products.setdefault(role, torch.zeros(len(vectors.paths), dtype=torch.float64))
            for start, count in spans(elements):
                delta = difference.read(name, start, count)
                squares[role] = squares.get(role, 0.0) + float(delta.dot(delta))
                step.advance(count)
    return products, squares


def _fit(gram: torch.Tensor, product: torch.Tensor, square: float) -> Fit:
    """Solve the normal equations, every vector at length one.

    Shapes:
        gram: (vectors, vectors) · product: (vectors,), float64.
    """
    lengths = gram.diagonal().sqrt()
    units = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    values, basis = torch.linalg.eigh(gram / units.outer(units))
    kept = values > COLLINEAR * values.max().clamp(min=0)
    count = int(kept.sum())
    inverse = (basis[:, kept] / values[kept]) @ basis[:, kept].T
    reached = (basis[:, kept] @ basis[:, kept].T).diagonal()  # 1 where a vector is in nobody else's span
    shares = product / units
    solution = inverse @ shares
    delta = math.sqrt(square)
    alone = [bool(value > 1 - COLLINEAR) for value in reached]
    own = solution / inverse.diagonal().clamp(min=1e-300).sqrt()
    return Fit(
        coefficients=tuple((solution / units).tolist()),
        cosines=tuple(
            float(share) / delta if delta and length else None for share, length in zip(shares, lengths, strict=True)
        ),
        own_cosines=tuple(
            float(part) / delta if delta and single else None for part, single in zip(own, alone, strict=True)
        ),
        residual=min(1.0, max(0.0, 1 - float(shares.dot(solution)) / square)) if square else None,
        rank=count,
        condition=float(values[kept].max() / values[kept].min()) if count else 1.0,
    )


def _check_lengths(paths: Sequence[Path], gram: torch.Tensor) -> None:
    for path, square in zip(paths, gram.diagonal().tolist(), strict=True):
        if not math.isfinite(square):
            raise VectorError(f"{path} holds numbers that are not finite", advice="extract the vector again")


def _beware(paths: Sequence[Path], gram: torch.Tensor, fit: Fit) -> tuple[str, ...]:
    """Say which vectors cannot be told apart."""
    if fit.rank == len(paths):
        return ()
    lengths = gram.diagonal().sqrt()
    cosines = gram / lengths.outer(lengths).clamp(min=1e-300)
    for place, path in enumerate(paths):
        for other in range(place):
            if float(cosines[place, other].abs()) > 1 - COLLINEAR:
                return (_collinear(len(paths), fit.rank, f"{paths[other]} and {path}, for example,"),)
    return (_collinear(len(paths), fit.rank, "some of them"),)


def _collinear(vectors: int, rank: int, alike: str) -> str:
    return (
        f"{vectors} vectors span {rank} directions: {alike} cannot be told apart; theirs are the smallest coefficients "
        "that explain the difference, and only what they add up to means anything"
    )
