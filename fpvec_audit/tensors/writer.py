"""Output files of known size, written in any order by several threads, and durable when their last tensor is complete.

What stands here must lie in a staging directory: see ``staging``.
"""

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors.blocks import PAGE, Block

WORTH_DIRECT = 16 << 20
"""Bytes from which a file is written past the page cache."""

_WRITE_OUT = 2
"""SYNC_FILE_RANGE_WRITE of Linux: begin to write, do not wait."""


class OutputFile:
    """A file that is filled tensor by tensor; use it as a context manager.

    Large files are written past the system's page cache where the file system can do that (O_DIRECT): the data is not
    copied, and at the end there is next to nothing left to sync. Only the pages that two tensors share go through the
    cache; no page does both.

    Args:
        path: file to make; with ``again`` it may be there, with the same header and size.
        header: bytes before the first tensor.
        size: bytes of the whole file.
        tensors: how many tensors will be written; the file is synced when the last is complete.
        again: go on with a file that an interrupted run left.
    """

    def __init__(self, path: Path, header: bytes, *, size: int, tensors: int, again: bool = False) -> None:
        flags = os.O_CREAT if again else os.O_CREAT | os.O_EXCL
        if again:
            with suppress(FileNotFoundError):
                path.chmod(0o600)  # it has the mode of its source, which may be read-only
        self.path = path
        self._left = tensors
        self._lock = threading.Lock()
        self._direct = -1
        self._descriptor = os.open(path, os.O_WRONLY | flags | os.O_CLOEXEC, 0o666)
        try:
            write_all(self._descriptor, memoryview(header), 0)
            os.ftruncate(self._descriptor, size)
            if not tensors:
                os.fsync(self._descriptor)
            if size >= WORTH_DIRECT:
                self._direct = _open_direct(path)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        if self._direct >= 0:
            os.close(self._direct)

    @property
    def direct(self) -> bool:
        """Whether whole pages are written past the page cache."""
        return self._direct >= 0

    def write(self, memory: memoryview, place: int) -> None:
        """Write bytes at an offset from the beginning of the file."""
        write_all(self._descriptor, memory, place)

    def write_pages(self, pages: memoryview, place: int) -> None:
        """Write whole pages that lie at the beginning of a page, in memory and in the file."""
        done = 0
        try:
            while done < len(pages):
                done += os.pwrite(self._direct, pages[done:], place + done)
                if done % PAGE:  # a disk that is filling up: let the other way say so
                    break
        except OSError as error:
            if error.errno != errno.EINVAL:  # what the file system does not do after all
                raise
        if done < len(pages):
            write_all(self._descriptor, pages[done:], place + done)

    def complete(self, start: int, end: int) -> None:
        """Take note that the bytes of a tensor are written; the last tensor makes the file durable."""
        if not self.direct:
            _begin_to_write_out(self._descriptor, start, end - start)
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            os.fsync(self._descriptor)


class FileSink:
    """The place of one tensor in an output file; a ``TensorSink``."""

    __slots__ = ("_carried", "_dtype", "_end", "_file", "_start")

    def __init__(self, file: OutputFile, *, start: int, end: int, dtype: Dtype) -> None:
        self._file, self._start, self._end, self._dtype = file, start, end, dtype
        self._carried = b""

    @property
    def dtype(self) -> Dtype:
        """Number format."""
        return self._dtype

    def lead(self, start: int) -> int:
        """Return where in a page the block at a flat position lies in the file."""
        return self._place(start) % PAGE if self._file.direct else 0

    def write(self, start: int, block: Block) -> None:
        """Write a block at a flat position of the tensor.

        What ends within a page is carried to the page in which the next block begins, and written together with that.
        """
        if not block.memory:  # this tensor is complete, another that is stamped along with it is longer
            return
        place = self._place(start)
        lead = len(block.span) - len(block.memory)
        if not self._file.direct or lead != place % PAGE or (block.address - lead) % PAGE:
            self._file.write(memoryview(self._carried), place - len(self._carried))
            self._carried = b""
            self._file.write(block.memory, place)
            return
        if self._carried:
            block.span[:lead] = self._carried
        begin, end = 0, len(block.span) // PAGE * PAGE
        if lead and not self._carried:  # the page begins with another tensor
            begin = min(PAGE, len(block.span))
            self._file.write(block.span[lead:begin], place)
        if begin < end:
            self._file.write_pages(block.span[begin:end], place - lead + begin)
        rest = block.span[max(begin, end) :]
        if place + len(block.memory) == self._end:
            self._file.write(rest, self._end - len(rest))
        else:
            self._carried = bytes(rest)

    def close(self) -> None:
        """Take note that the tensor is complete."""
        self._file.complete(self._start, self._end)

    def _place(self, start: int) -> int:
        return self._start + start * self._dtype.size


def _open_direct(path: Path) -> int:
    """Return a descriptor that writes past the page cache, or −1 where the file system has no such thing."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return -1


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
