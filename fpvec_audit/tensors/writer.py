"""Outputs that are whole or do not exist.

Everything is written to a staging directory beside the target, ``.NAME.fpvec-staging-XXXXXXXX``, synced, and renamed as
the very last step. Whatever goes wrong before – an exception, Ctrl-C, a full disk – the staging directory is removed.

Law: after :func:`staged_directory` the target is complete and durable, or it is not there.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from fpvec_audit.errors import OutputError
from fpvec_audit.tensors.reader import bytes_of

STAGING_MARK = ".fpvec-staging-"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def staged_directory(target: Path, needed: int) -> Iterator[Path]:
    """Give a staging directory that becomes ``target`` when the context ends well.

    Args:
        target: directory to make; missing parents are made too.
        needed: bytes that will be written, for the check of free space and for messages.

    Raises:
        OutputError: the target exists, there is no room, or writing failed.
    """
    refuse_existing(target)
    made: list[Path] = []
    staging: Path | None = None
    try:
        made.extend(_make_parents(target.parent))
        _check_space(target.parent, needed)
        staging = target.parent / f".{target.name}{STAGING_MARK}{secrets.token_hex(4)}"
        staging.mkdir()
        yield staging
        sync_tree(staging)
        refuse_existing(target)
        staging.rename(target)
        _sync(target.parent)
    except BaseException as error:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise _translated(error, target, needed) from error
        raise


def refuse_existing(target: Path) -> None:
    """Refuse a target that is there already.

    Raises:
        OutputError: it exists, be it a dangling link.
    """
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} exists already", advice="choose another --out, or remove it")


class TensorWriter:
    """Writes a safetensors file from front to back; use it as a context manager.

    Args:
        path: file to make.
        header: length field and JSON, as they will stand in the file.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._place = 0
        self._append(memoryview(header))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @property
    def written(self) -> int:
        """Bytes written so far."""
        return self._place

    def append(self, block: torch.Tensor) -> None:
        """Write a flat, contiguous block after what was written before."""
        self._append(bytes_of(block))

    def _append(self, content: memoryview) -> None:
        done = 0
        while done < len(content):
            done += os.pwrite(self._descriptor, content[done:], self._place + done)
        self._place += done


def sync_tree(directory: Path) -> None:
    """Make every file of a directory, and the directory itself, durable."""
    for parent, _, files in os.walk(directory, topdown=False):
        for file in files:
            _sync(Path(parent) / file)
        _sync(Path(parent))


def size_of(files: Mapping[str, Path]) -> int:
    """Return the number of bytes of files, links followed."""
    return sum(path.stat().st_size for path in files.values())


def _make_parents(directory: Path) -> list[Path]:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for parent in reversed(missing):
        parent.mkdir()
    return missing[::-1]


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OutputError(
            f"{directory} has {free} bytes free, {needed} are needed", advice="make room, or choose another --out"
        )


def _translated(error: OSError, target: Path, needed: int) -> OutputError:
    if error.errno in _FULL:
        return OutputError(
            f"{target}: the disk is full, {needed} bytes are needed in all; nothing was left behind",
            advice="make room, or choose another --out",
        )
    where = f" ({error.filename})" if error.filename else ""
    return OutputError(
        f"{target} could not be written: {error.strerror or error}{where}", advice="check --out and its permissions"
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
