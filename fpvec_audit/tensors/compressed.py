"""Compressed vectors, read: which parts a tensor is stored in, and a source that puts them together again.

A stored tensor is named ``CANONICAL:part``. The parts tell how it was compressed:

========================================  ======================================================================
``dense``                                 as it is
``gaps``, ``values``, ``counts``,         its largest elements, see ``sparse``; ``shape`` has no elements, its own
``shape``                                 shape is (0, *shape of the tensor)
``left``, ``right``                       a product of two thin matrices, see ``low_rank``
``codes``, ``scales``                     float8 numbers with a scale per row, see ``scaled``
========================================  ======================================================================

Law: dtype and shape of every tensor are known from the headers alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype, TensorSpec
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors import scaled, sparse
from fpvec_audit.tensors.low_rank import LowRank
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.scaled import Scaled
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.sparse import Sparse
from fpvec_audit.tensors.vector_files import PART

DENSE, LEFT, RIGHT = "dense", "left", "right"

_DENSE = frozenset({DENSE})
_SPARSE = frozenset({sparse.GAPS, sparse.VALUES, sparse.COUNTS, sparse.SHAPE})
_LOW_RANK = frozenset({LEFT, RIGHT})
_SCALED = frozenset({scaled.CODES, scaled.SCALES})


def stored_name(name: str, part: str) -> str:
    """Return the name under which a part of a tensor is stored."""
    return f"{name}{PART}{part}"


@contextmanager
def open_compressed(files: Checkpoint) -> Iterator[Mapping[str, TensorSource]]:
    """Give the tensors of a compressed vector: canonical name → source; its files are closed at the end.

    Sources of one vector may be read by several threads, each source by one at a time. What a source needs in memory
    (the factors of a matrix, the scales of its rows) it loads when it is first read and lets go after the last element.

    Args:
        files: directory and stored tensors, such as ``StoredVector.files``.

    Raises:
        VectorError: parts are missing, unknown or do not fit each other.
        CheckpointError: a file is missing.
    """
    with OpenFiles(files.path) as opened:
        yield {name: _source(name, parts, opened) for name, parts in _parts(files).items()}


def tensor_formats(files: Checkpoint) -> Mapping[str, tuple[Dtype, tuple[int, ...]]]:
    """Return canonical name → dtype and shape of the tensors that a compressed vector gives, from its headers.

    Raises:
        VectorError: see :func:`open_compressed`.
        CheckpointError: a file is missing.
    """
    with open_compressed(files) as sources:
        return {name: (source.dtype, source.shape) for name, source in sources.items()}


def _parts(files: Checkpoint) -> dict[str, dict[str, TensorSpec]]:
    """Return canonical name → part → where it lies, in the order of the names."""
    found: dict[str, dict[str, TensorSpec]] = {}
    for stored, spec in sorted(files.tensors.items()):
        name, _, part = stored.rpartition(PART)
        found.setdefault(name, {})[part] = spec
    return found


def _source(name: str, parts: Mapping[str, TensorSpec], files: OpenFiles) -> TensorSource:
    kind = frozenset(parts)
    if kind == _DENSE:
        _check(name, parts[DENSE])
        return files.source(parts[DENSE])
    if kind == _SPARSE:
        return _sparse(name, parts, files)
    if kind == _LOW_RANK:
        for spec in parts.values():
            _check(name, spec, dimensions=2)
        if parts[LEFT].shape[1] != parts[RIGHT].shape[0]:
            _refuse(name, f"{LEFT} and {RIGHT} cannot be multiplied")
        return LowRank(files.source(parts[LEFT]), files.source(parts[RIGHT]))
    if kind == _SCALED:
        codes, scales = parts[scaled.CODES], parts[scaled.SCALES]
        if not scaled.is_scalable(codes.shape):
            _refuse(name, f"{scaled.CODES} of shape {list(codes.shape)} have no rows")
        for part, (dtype, shape) in scaled.scaled_parts(codes.shape).items():
            if (parts[part].dtype, parts[part].shape) != (dtype, shape):
                _refuse(name, f"{part} are {_shown(parts[part])}, not {dtype.label} of shape {list(shape)}")
        return Scaled(files.source(codes), files.source(scales))
    return _refuse(name, f"it is stored as {', '.join(sorted(kind)) or 'nothing'}, which no way of compressing gives")


def _sparse(name: str, parts: Mapping[str, TensorSpec], files: OpenFiles) -> Sparse:
    gaps, values, counts, shape = (parts[part] for part in (sparse.GAPS, sparse.VALUES, sparse.COUNTS, sparse.SHAPE))
    _check(name, values, dimensions=1)
    if shape.shape[:1] != (0,):
        _refuse(name, f"{sparse.SHAPE} is {_shown(shape)}")
    whole = shape.shape[1:]
    if gaps.dtype is not Dtype.U8 or len(gaps.shape) != 1:
        _refuse(name, f"{sparse.GAPS} are {_shown(gaps)}")
    if counts.dtype is not Dtype.I32 or counts.shape != sparse.counts_shape(whole):
        _refuse(name, f"{sparse.COUNTS} are {_shown(counts)}, not those of a tensor of shape {list(whole)}")
    return Sparse(files.source(gaps), files.source(values), files.source(counts), shape=whole, name=name)


def _check(name: str, spec: TensorSpec, *, dimensions: int | None = None) -> None:
    if not spec.dtype.floating or spec.dtype.size == 1 or dimensions not in (None, len(spec.shape)):
        _refuse(name, f"{spec.name.rpartition(PART)[2]} is {_shown(spec)}")


def _shown(spec: TensorSpec) -> str:
    return f"{spec.dtype.label} of shape {list(spec.shape)}"


def _refuse(name: str, problem: str) -> NoReturn:
    raise VectorError(f"{name}: {problem}", advice="the compressed vector is damaged; compress it again")
