"""Directories that several processes share and one may remove: locked while in use, by what goes with a process.

The lock of a directory is the system's own (``flock`` on the directory itself), so whoever is killed lets go of it, and
nobody is ever taken for somebody else with the same number. Shared, it says "in use"; exclusive, "being made" or "being
removed". A lock belongs to the directory and not to its name: after waiting for one, look whether the name still is it.
"""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def in_use(entry: Path, mark: str) -> int:
    """Return a descriptor that keeps a directory from being removed until it is closed; −1 where it is not there.

    Args:
        entry: the directory.
        mark: file that is in it as long as it is whole.
    """
    try:
        descriptor = os.open(entry, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if (entry / mark).is_file() and is_still(entry, descriptor):
        return descriptor
    os.close(descriptor)  # it was removed while we waited
    return -1


def sole(entry: Path) -> int:
    """Return a descriptor that holds a directory for us alone; −1 while anybody uses it, or where it is not there."""
    try:
        descriptor = os.open(entry, _FLAGS)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    if is_still(entry, descriptor):
        return descriptor
    os.close(descriptor)
    return -1


def removed(entry: Path, mark: str) -> bool:
    """Remove a directory unless somebody uses it, and return whether it is gone.

    Args:
        entry: the directory.
        mark: file that goes first, so that who waits for the lock sees that it is no longer whole.
    """
    descriptor = sole(entry)
    if descriptor < 0:
        return not entry.exists()
    with suppress(OSError):
        (entry / mark).unlink(missing_ok=True)
    shutil.rmtree(entry, ignore_errors=True)
    os.close(descriptor)
    return not entry.exists()


def is_still(entry: Path, descriptor: int) -> bool:
    """Return whether a name still stands for the directory that was opened under it."""
    try:
        return os.path.samestat(entry.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def last_use(entry: Path) -> int:
    """Return when a directory was used last, nanoseconds; 0 where it is gone."""
    try:
        return entry.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def bytes_of(entry: Path) -> int:
    """Return the bytes that a directory takes on the disk."""
    total = 0
    for file in entry.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_blocks * 512
    return total
