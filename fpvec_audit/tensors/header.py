"""The header of a safetensors file, read strictly: what it claims must be exactly what the file holds.

A file is 8 bytes of little-endian header length, that many bytes of JSON, then the tensors. It is accepted only if the
tensors, sorted by place, follow each other without hole or overlap from the end of the header to the end of the file,
and each has as many bytes as its dtype and shape say. Nothing is read beyond the file's own size, and sizes are exact
integers, so no claim can overflow.

A header is read twice. The first scan keeps 32 bytes a tensor and decides; only then does the second build objects.
So the memory taken at any time is at most

    bytes of the file + 64 KiB                         when the file is refused,
    bytes of the file + 64 KiB + bytes of the result   when it is accepted,

where the result is the :class:`Header` with everything in it. The time is linear in the size of the header.
"""

import json
import os
import stat
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

from fpvec_audit.domain.checkpoint import Dtype, TensorSpec
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.header_scanner import (
    FINGERPRINT_BYTES,
    LENGTH_BYTES,
    LONGEST_SHOWN,
    METADATA,
    Claim,
    HeaderError,
    HeaderScanner,
    Note,
    shown,
)

__all__ = ["DAMAGED", "LARGEST_HEADER", "LENGTH_BYTES", "METADATA", "Header", "header_bytes", "read_header"]

LARGEST_HEADER = 100_000_000
DAMAGED = "the file is damaged or was not written by safetensors; fetch it again"

_DTYPES = {dtype.label: (dtype, dtype.size) for dtype in Dtype}
_PARTS = FINGERPRINT_BYTES // 8
_MOST_BYTES = 1 << 61
_FREE_NOTES = 1024
_BYTES_PER_NOTE = 32


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

    Stricter than safetensors itself: the object begins at the first byte, names and keys are unique, an entry is an
    object of the format's three keys and no others, a shape has at most 64 sizes, every number is below 2^63, and
    metadata may have more than 1024 entries only if they have 32 bytes on average.

    Raises:
        CheckpointError: the file cannot be read, is truncated, or claims what it does not hold.
    """
    try:
        with _opened(path) as file:
            return _read(file)
    except HeaderError as error:
        raise CheckpointError(f"{path}: {error}", advice=DAMAGED) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", advice=DAMAGED) from error


def header_bytes(tensors: Mapping[str, tuple[Dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return length field and JSON of a file whose tensors follow each other in the given order.

    The JSON is padded with spaces so that the first tensor is aligned to 8 bytes.
    """
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    start = 0
    for name, (dtype, shape) in tensors.items():
        end = start + prod(shape) * dtype.size
        entries[name] = {"dtype": dtype.label, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


@dataclass(frozen=True, slots=True)
class _File:
    """An open safetensors file.

    Attributes:
        path: where it lies.
        descriptor: open for reading.
        size: bytes of the file.
        length: bytes of JSON, as the length field claims.
        data_start: offset of the first tensor byte.
        space: bytes that are left for tensors.
    """

    path: Path
    descriptor: int
    size: int
    length: int
    data_start: int
    space: int

    def refuse(self, problem: str, *, advice: str = DAMAGED) -> NoReturn:
        raise CheckpointError(f"{self.path}: {problem}", advice=advice)


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    # without blocking, because a pipe may have taken the file's place since
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        field = os.pread(descriptor, LENGTH_BYTES, 0)
        size, length = status.st_size, int.from_bytes(field, "little")
        data_start = LENGTH_BYTES + length
        file = _File(path, descriptor, size, length, data_start, size - data_start)
        if len(field) < LENGTH_BYTES:
            file.refuse(f"the file has {file.size} bytes, too few for a header")
        if file.space < 0:
            file.refuse(f"the header claims {file.length} bytes, the file has {file.size}")
        if file.length > LARGEST_HEADER:
            file.refuse(f"the header has {file.length} bytes, more than the {LARGEST_HEADER} the format allows")
        yield file
        if os.fstat(descriptor).st_size != file.size:
            _refuse_change(file)
    finally:
        os.close(descriptor)


def _read(file: _File) -> Header:
    key = os.urandom(16)
    survey = _survey(file, key)
    _check_unique(file, survey)
    _check_cover(file, survey)
    specs, metadata = _build(file, survey)
    del survey
    # in two steps, because a key of both numbers would be one more object a tensor
    specs.sort(key=attrgetter("end"))
    specs.sort(key=attrgetter("start"))
    return Header(tuple(specs), metadata, file.data_start)


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a first scan keeps of a header whose members are sound one by one: enough to compare them.

    Attributes:
        key: secret of the fingerprints.
        names: fingerprints of the tensors' names, two numbers each, in the order of the header.
        begins: offsets of the tensors' first bytes from the end of the header.
        ends: offsets after their last bytes.
        notes: fingerprints of the names in the metadata, two numbers each.
        longest: bytes of the longest text, at least those of a message.
    """

    key: bytes
    names: "array[int]"
    begins: "array[int]"
    ends: "array[int]"
    notes: "array[int]"
    longest: int


def _survey(file: _File, key: bytes) -> _Survey:
    names, begins, ends, notes = array("Q"), array("Q"), array("Q"), array("Q")
    longest = LONGEST_SHOWN
    for member in HeaderScanner(file.descriptor, length=file.length, room=LONGEST_SHOWN, key=key).members():
        if isinstance(member, Note):
            notes.frombytes(member.key.fingerprint)
            if len(notes) // _PARTS > _FREE_NOTES + member.read // _BYTES_PER_NOTE:
                file.refuse(f"{METADATA} has more than {_FREE_NOTES} entries of fewer than {_BYTES_PER_NOTE} bytes")
            longest = max(longest, member.key.length, member.value.length)
        else:
            _dtype_of(file, member)
            names.frombytes(member.name.fingerprint)
            begins.append(member.begin)
            ends.append(member.end)
            longest = max(longest, member.name.length)
    return _Survey(key, names, begins, ends, notes, longest)


def _dtype_of(file: _File, claim: Claim) -> Dtype:
    """Return the dtype of a tensor whose claim is sound by itself."""
    known = _DTYPES.get(claim.label)
    if known is None:
        problem = f"{shown(claim.name.start)}: unknown dtype {shown(claim.label)}"
        file.refuse(problem, advice=f"known: {', '.join(_DTYPES)}")
    dtype, size = known
    expected = prod(claim.shape) * size
    if (
        claim.end - claim.begin != expected
        or claim.end > file.space
        or prod(filter(None, claim.shape)) * size >= _MOST_BYTES
    ):
        _refuse_claim(file, claim, dtype, expected)
    return dtype


def _refuse_claim(file: _File, claim: Claim, dtype: Dtype, expected: int) -> NoReturn:
    name, begin, end = shown(claim.name.start), claim.begin, claim.end
    sizes = shown(str(list(claim.shape)))
    if begin > end or end > file.space:
        file.refuse(f"{name}: bytes {begin} to {end} do not lie in the {file.space} bytes of tensors")
    if end - begin != expected:
        file.refuse(f"{name}: {end - begin} bytes, but {dtype.label} of shape {sizes} takes {shown(str(expected))}")
    file.refuse(f"{name}: the sizes {sizes} multiply to more bits than 64 bits can count")


def _check_unique(file: _File, survey: _Survey) -> None:
    for fingerprints in (survey.notes, survey.names):
        positions = _Positions(fingerprints, width=_PARTS)
        for position in range(len(fingerprints) // _PARTS):
            if positions.add(position) is not None:
                if fingerprints is survey.notes:
                    file.refuse(f"a name stands twice in {METADATA}, the second time as entry {position + 1}")
                file.refuse(f"{_name(file, survey, position)} stands twice in the header")


def _check_cover(file: _File, survey: _Survey) -> None:
    """Refuse holes and overlaps without sorting.

    If the tensors have as many bytes as there are, no two of them begin at the same byte, one begins at the first, and
    each ends where another begins or the file ends, then going from end to beginning leads through all of them. An
    empty tensor takes no part, but it must not lie inside another.
    """
    begins, ends, space = survey.begins, survey.ends, file.space
    total = sum(ends) - sum(begins)
    if total != space:
        file.refuse(f"the tensors have {total} bytes, the file has {space} bytes for them")
    positions = _Positions(begins)
    for position, begin in enumerate(begins):
        if begin != ends[position]:
            other = positions.add(position)
            if other is not None:
                names = f"{_name(file, survey, position)} and {_name(file, survey, other)}"
                file.refuse(f"{names} overlap: both begin at byte {file.data_start + begin}")
    if space and positions.find(0) is None:
        file.refuse(f"there is a hole: no tensor begins at byte {file.data_start}, where the header ends")
    for position, end in enumerate(ends):
        if end != space and positions.find(end) is None:
            name = _name(file, survey, position)
            file.refuse(
                f"{name}: ends at byte {file.data_start + end}, where neither a tensor begins nor the file ends"
            )


def _name(file: _File, survey: _Survey, position: int) -> str:
    """Return the name of a tensor for a message, by one more scan."""
    scanner = HeaderScanner(file.descriptor, length=file.length, room=LONGEST_SHOWN, key=survey.key)
    claims = (member for member in scanner.members() if isinstance(member, Claim))
    claim = next(islice(claims, position, None), None)
    return shown(claim.name.start) if claim else f"tensor {position + 1}"


def _build(file: _File, survey: _Survey) -> tuple[list[TensorSpec], dict[str, str]]:
    specs: list[TensorSpec] = []
    metadata: dict[str, str] = {}
    start = file.data_start
    for member in HeaderScanner(file.descriptor, length=file.length, room=survey.longest, key=survey.key).members():
        if isinstance(member, Note):
            metadata[member.key.start] = member.value.start
            same = max(member.key.length, member.value.length) <= survey.longest
        else:
            place = len(specs)
            found = (member.name.fingerprint, member.begin, member.end)
            same = found == _surveyed(survey, place)
            name, begin, end = member.name.start, start + member.begin, start + member.end
            specs.append(TensorSpec(name, _dtype_of(file, member), member.shape, file.path.name, begin, end))
        if not same:
            _refuse_change(file)
    if len(specs) != len(survey.begins) or len(metadata) != len(survey.notes) // _PARTS:
        _refuse_change(file)
    return specs, metadata


def _surveyed(survey: _Survey, place: int) -> tuple[bytes, int, int] | None:
    if place >= len(survey.begins):
        return None
    name = survey.names[_PARTS * place : _PARTS * (place + 1)].tobytes()
    return name, survey.begins[place], survey.ends[place]


def _refuse_change(file: _File) -> NoReturn:
    file.refuse("the file was changed while it was read", advice="try again when nobody writes to it")


class _Positions:
    """Finds out where in an array a number, or a row of them, stands: a hash table of at most 12 bytes a row.

    Args:
        numbers: rows that follow each other; the table refers to them.
        width: numbers in a row.
    """

    def __init__(self, numbers: "array[int]", *, width: int = 1) -> None:
        self._numbers = numbers
        self._width = width
        # one to three times as many slots as rows, and one that stays free; 0 is a free slot
        self._mask = (1 << (len(numbers) // width * 3 // 2).bit_length()) - 1
        self._slots = array("I", [0]) * (self._mask + 1)
        # without it a file could be written whose offsets all want the same slot
        self._salt = os.urandom(8)

    def add(self, position: int) -> int | None:
        """Add a row, or return the position of an equal one that was added before."""
        slot = self._slot(self._row(position))
        if self._slots[slot]:
            return self._slots[slot] - 1
        self._slots[slot] = position + 1
        return None

    def find(self, number: int) -> int | None:
        """Return the position of a row of one number, if it was added."""
        found = self._slots[self._slot(array("Q", (number,)).tobytes())]
        return found - 1 if found else None

    def _slot(self, row: bytes) -> int:
        """Return the slot that has a row, or the free one where it belongs."""
        slot = hash(self._salt + row) & self._mask
        while self._slots[slot] and self._row(self._slots[slot] - 1) != row:
            slot = slot + 1 & self._mask
        return slot

    def _row(self, position: int) -> bytes:
        return self._numbers[self._width * position : self._width * (position + 1)].tobytes()
