"""Files that only their owner may read, and that are either whole or not there.

They are written beside their place under another name, synced, and given their own name last, which takes nothing
away: a file that is there is refused.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fpvec_audit.errors import OutputError


@contextmanager
def new_private_file(target: Path) -> Iterator[BinaryIO]:
    """Give a file to write to; on a clean exit it has its name and lasts, otherwise there is none.

    Args:
        target: where it shall be.

    Raises:
        OutputError: it exists, or cannot be written.
    """
    with staged_path(target) as staged, staged.open("wb") as file:
        yield file


@contextmanager
def staged_path(target: Path) -> Iterator[Path]:
    """Give the path of an empty private file beside its target, which becomes the target on a clean exit.

    Raises:
        OutputError: the target exists, or cannot be written.
    """
    staged = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        refuse_existing(target)
        os.close(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            yield staged
            _sync(staged)
            _name(staged, target)
        finally:
            staged.unlink(missing_ok=True)
        _sync(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error


def refuse_existing(target: Path) -> None:
    """Refuse a target that is there, whatever it is.

    Raises:
        OutputError: it exists.
    """
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} exists already", advice="name another file")


def cannot_write(target: Path, error: OSError) -> OutputError:
    """Return in our words why a file could not be written."""
    if isinstance(error, FileExistsError):
        return OutputError(f"{target} exists already", advice="name another file")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return OutputError(
        f"{target} cannot be written: {error.strerror}",
        advice="free some space; nothing was left behind" if full else "name a file in a directory that you may write",
    )


def _name(staged: Path, target: Path) -> None:
    try:
        os.link(staged, target)  # fails where a target appeared meanwhile
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
        refuse_existing(target)  # a file system without links, such as that of a memory stick
        staged.rename(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
