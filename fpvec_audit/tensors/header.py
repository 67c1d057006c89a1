"""The header of a safetensors file, read strictly: what it claims must be exactly what the file holds.

A file is 8 bytes of little-endian header length, that many bytes of JSON, then the tensors. It is accepted only if the
tensors, sorted by place, follow each other without hole or overlap from the end of the header to the end of the file,
and each has as many bytes as its dtype and shape say. Nothing is read beyond the file's own size, and sizes are exact
integers, so no claim can overflow.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fpvec_audit.domain.checkpoint import Dtype, TensorSpec
from fpvec_audit.errors import CheckpointError

LARGEST_HEADER = 100_000_000
METADATA = "__metadata__"
LENGTH_BYTES = 8
DAMAGED = "the file is damaged or was not written by safetensors; fetch it again"

_DTYPES = {dtype.label: dtype for dtype in Dtype}
_MOST_DIMENSIONS = 64
_LONGEST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        tensors: in the order of their bytes.
        metadata: the ``__metadata__`` entry, empty when there is none.
        data_start: offset of the first tensor byte, which is the size of length field and JSON.
    """

    tensors: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        CheckpointError: the file cannot be read, is truncated, or claims what it does not hold.
    """
    content, size = _header_bytes(path)
    entries = _parse(path, content)
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, f"{METADATA} is not an object of texts")
    data_start = LENGTH_BYTES + len(content)
    specs = sorted(
        (_spec(path, name, entry, data_start=data_start, size=size) for name, entry in entries.items()),
        key=lambda spec: (spec.start, spec.end),
    )
    _check_cover(path, specs, data_start=data_start, size=size)
    return Header(tuple(specs), metadata, data_start)


def header_bytes(tensors: Mapping[str, tuple[Dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return length field and JSON of a file whose tensors follow each other in the given order.

    The JSON is padded with spaces so that the first tensor is aligned to 8 bytes.
    """
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    start = 0
    for name, (dtype, shape) in tensors.items():
        end = start + _count(shape) * dtype.size
        entries[name] = {"dtype": dtype.label, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """Return the JSON bytes and the size of the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            field = file.read(LENGTH_BYTES)
            if len(field) < LENGTH_BYTES:
                _refuse(path, f"the file has {size} bytes, too few for a header")
            length = int.from_bytes(field, "little")
            if length > size - LENGTH_BYTES:
                _refuse(path, f"the header claims {length} bytes, the file has {size}")
            if length > LARGEST_HEADER:
                _refuse(path, f"the header has {length} bytes, more than the {LARGEST_HEADER} the format allows")
            content = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", advice=DAMAGED) from error
    if len(content) != length:
        _refuse(path, f"the header ends after {len(content)} of {length} bytes")
    return content, size


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    _refuse(path, f"{_shown(name)} stands twice in the header")
                seen.add(name)
        return entries

    def no_constant(text: str) -> NoReturn:
        _refuse(path, f"the header holds {text}")

    if not content.startswith(b"{"):
        _refuse(path, "the header does not begin with an object")
    try:
        entries = json.loads(content.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON and endless numbers are all ValueError
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{path}: the header is not valid JSON: {reason}", advice=DAMAGED) from error
    assert isinstance(entries, dict)
    return entries


def _spec(path: Path, name: str, entry: Any, *, data_start: int, size: int) -> TensorSpec:
    if not _is_text(name):
        _refuse(path, f"tensor name {_shown(name)} is not valid Unicode")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{_shown(name)}: the entry is not an object of dtype, shape and data_offsets")
    label, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _DTYPES.get(label) if isinstance(label, str) else None
    if dtype is None:
        _refuse(path, f"{_shown(name)}: unknown dtype {_shown(label)}", advice=f"known: {', '.join(_DTYPES)}")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        _refuse(path, f"{_shown(name)}: {_shown(shape)} is not a shape")
    if not _are_counts(offsets) or len(offsets) != 2:
        _refuse(path, f"{_shown(name)}: {_shown(offsets)} are not two offsets")
    begin, end = offsets
    if begin > end or end > size - data_start:
        _refuse(path, f"{_shown(name)}: bytes {begin} to {end} do not lie in the {size - data_start} bytes of tensors")
    expected = _count(shape) * dtype.size
    if end - begin != expected:
        _refuse(path, f"{_shown(name)}: {end - begin} bytes, but {label} of shape {shape} takes {expected}")
    return TensorSpec(name, dtype, tuple(shape), path.name, data_start + begin, data_start + end)


def _check_cover(path: Path, specs: list[TensorSpec], *, data_start: int, size: int) -> None:
    place = data_start
    for spec in specs:
        if spec.start != place:
            kind = "overlaps the tensor before it" if spec.start < place else "leaves a hole before it"
            _refuse(path, f"{_shown(spec.name)}: begins at byte {spec.start}, which {kind} (expected {place})")
        place = spec.end
    if place != size:
        _refuse(path, f"the tensors end at byte {place}, the file at {size}")


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _count(shape: tuple[int, ...] | list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    """Return a claimed value in a length and alphabet that a terminal can bear."""
    return ascii(value if isinstance(value, str) else str(value))[1:-1][:_LONGEST_SHOWN]


def _refuse(path: Path, problem: str, *, advice: str = DAMAGED) -> NoReturn:
    raise CheckpointError(f"{path}: {problem}", advice=advice)
