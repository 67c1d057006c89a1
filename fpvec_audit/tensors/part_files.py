"""Files of a compressed vector while they are written: each part from front to back, all parts side by side."""

import hashlib
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.tensors.header import header_bytes
from fpvec_audit.tensors.vector_files import METADATA, VectorLayout


class PartFiles:
    """Writes the files of a layout; use it as a context manager.

    Args:
        directory: where to make the files.
        layout: which parts they hold.
    """

    def __init__(self, directory: Path, layout: VectorLayout) -> None:
        self._descriptors: list[int] = []
        self._parts: dict[str, _PartFile] = {}
        for file, tensors in layout.shards.items():
            header = header_bytes(tensors, METADATA)
            descriptor = os.open(directory / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            self._descriptors.append(descriptor)
            _PartFile(descriptor, 0, len(header)).append(memoryview(header))
            place = len(header)
            for stored, (dtype, shape) in tensors.items():
                end = place + math.prod(shape) * dtype.size
                self._parts[stored] = _PartFile(descriptor, place, end, dtype, shape)
                place = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def append(self, stored: str, block: torch.Tensor) -> None:
        """Write a flat stretch of a part after what was written of it before."""
        self._parts[stored].append(memoryview(block.view(torch.uint8).numpy()))

    def hexdigest(self) -> str:
        """Return the canonical digest of all parts."""
        for stored, part in self._parts.items():
            assert part.place == part.end, f"{stored} was not written to its end"
        return Manifest.of(
            TensorDigest(stored, part.dtype.label, part.shape, part.content.hexdigest())
            for stored, part in self._parts.items()
        ).digest


@dataclass(slots=True)
class _PartFile:
    """The place of one part in a file."""

    descriptor: int
    place: int
    end: int
    dtype: Dtype = Dtype.U8
    shape: tuple[int, ...] = ()
    content: Any = field(default_factory=hashlib.sha256)

    def append(self, content: memoryview) -> None:
        assert self.place + len(content) <= self.end, "a part has more bytes than was planned"
        self.content.update(content)
        done = 0
        while done < len(content):
            done += os.pwrite(self.descriptor, content[done:], self.place + done)
        self.place += done
