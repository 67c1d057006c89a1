"""Output files of known size, written in any order by several threads, and durable when their last tensor is complete.

What stands here must lie in a staging directory: see ``staging``.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors.blocks import Block

_WRITE_OUT = 2
"""SYNC_FILE_RANGE_WRITE of Linux: begin to write, do not wait."""


class OutputFile:
    """A file that is filled tensor by tensor; use it as a context manager.

    Args:
        path: file to make; with ``again`` it may be there, with the same header and size.
        header: bytes before the first tensor.
        size: bytes of the whole file.
        tensors: how many tensors will be written; the file is synced when the last is complete.
        again: go on with a file that an interrupted run left.
    """

    def __init__(self, path: Path, header: bytes, *, size: int, tensors: int, again: bool = False) -> None:
        flags = os.O_CREAT if again else os.O_CREAT | os.O_EXCL
        self.path = path
        self._left = tensors
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_WRONLY | flags | os.O_CLOEXEC, 0o666)
        try:
            write_all(self._descriptor, memoryview(header), 0)
            os.ftruncate(self._descriptor, size)
            if not tensors:
                os.fsync(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, memory: memoryview, place: int) -> None:
        """Write bytes at an offset from the beginning of the file."""
        write_all(self._descriptor, memory, place)

    def complete(self, start: int, end: int) -> None:
        """Take note that the bytes of a tensor are written; the last tensor makes the file durable."""
        _begin_to_write_out(self._descriptor, start, end - start)
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            os.fsync(self._descriptor)


class FileSink:
    """The place of one tensor in an output file; a ``TensorSink``."""

    __slots__ = ("_dtype", "_end", "_file", "_start")

    def __init__(self, file: OutputFile, *, start: int, end: int, dtype: Dtype) -> None:
        self._file, self._start, self._end, self._dtype = file, start, end, dtype

    @property
    def dtype(self) -> Dtype:
        """Number format."""
        return self._dtype

    def write(self, start: int, block: Block) -> None:
        """Write a block at a flat position of the tensor."""
        self._file.write(block.memory, self._start + start * self._dtype.size)

    def close(self) -> None:
        """Take note that the tensor is complete."""
        self._file.complete(self._start, self._end)


def write_all(descriptor: int, memory: memoryview, place: int) -> None:
    """Write all bytes at an offset, however many calls that takes."""
    done = 0
    while done < len(memory):
        done += os.pwrite(descriptor, memory[done:], place + done)


def _begin_to_write_out(descriptor: int, start: int, size: int) -> None:
    """Let the disk begin with what is complete, so that the sync at the end has little left to do."""
    call = _sync_file_range()
    if call is not None and size:
        call(descriptor, start, size, _WRITE_OUT)  # only a hint: what it may fail at, the sync will report


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return call
