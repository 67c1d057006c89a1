"""Outputs that are whole or do not exist.

Everything is written to a staging directory beside the target, ``.NAME.fpvec-staging-XXXXXXXX``, synced, and renamed as
the very last step. Whatever goes wrong before – an exception, Ctrl-C, a full disk – the staging directory is removed.
``kill -9`` and a power cut leave it; its lock goes with the process, so the next run that is to make the same target
knows it for a leftover, names and removes it, or goes on with it.

Law: after :func:`staged_directory` the target is complete and durable, or it is not there.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fpvec_audit.errors import OutputError
from fpvec_audit.progress import NO_PROGRESS, Progress

STAGING_MARK = ".fpvec-staging-"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def staged_directory(
    target: Path, needed: int, *, resumed: Path | None = None, progress: Progress = NO_PROGRESS
) -> Iterator[Path]:
    """Give a staging directory that becomes ``target`` when the context ends well.

    What earlier runs left for the same target is removed and named.

    Args:
        target: directory to make; missing parents are made too.
        needed: bytes that will be written, for the check of free space and for messages; of a leftover that is gone on
            with, without those that are written (:func:`written_bytes`).
        resumed: a leftover to go on with, one of :func:`leftovers`.
        progress: where to report.

    Raises:
        OutputError: the target exists, there is no room, or writing failed.
    """
    refuse_existing(target)
    made: list[Path] = []
    staging: Path | None = None
    lock = -1
    try:
        made.extend(_make_parents(target.parent))
        remove_leftovers(target, but=resumed, progress=progress)
        _check_space(target.parent, needed)
        staging, lock = _locked(target, resumed)
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
    finally:
        if lock >= 0:
            os.close(lock)


@contextmanager
def sole_finisher() -> Iterator[Callable[[Sequence[Path]], None]]:
    """Give a function that lets this process alone finish given targets until the context ends.

    Two processes may make the same target side by side; whoever calls the function first goes on to record and to
    rename it, and the other one finds it there. Enter this context before the targets' :func:`staged_directory`, so
    that it ends after they are renamed, and call the function when all is written.

    Raises:
        OutputError: in the function: one of the targets exists.
    """
    held: list[int] = []

    def claim(targets: Sequence[Path]) -> None:
        for parent in sorted({target.resolve().parent for target in targets}):
            descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.append(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENOLCK):  # a file system without locks
                    raise
        for target in targets:
            refuse_existing(target)

    try:
        yield claim
    finally:
        for descriptor in held:
            os.close(descriptor)


def refuse_existing(target: Path) -> None:
    """Refuse a target that is there already.

    Raises:
        OutputError: it exists, be it a dangling link.
    """
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} exists already", advice="choose another --out, or remove it")


def leftovers(target: Path) -> tuple[Path, ...]:
    """Return the staging directories of a target that no running process works in, newest first."""
    if not target.parent.is_dir():
        return ()
    mark = f".{target.name}{STAGING_MARK}"
    found = [entry for entry in target.parent.iterdir() if entry.name.startswith(mark) and entry.is_dir()]
    free = [entry for entry in found if not entry.is_symlink() and _is_free(entry)]
    return tuple(sorted(free, key=_last_change, reverse=True))


def remove_leftovers(target: Path, *, but: Path | None = None, progress: Progress = NO_PROGRESS) -> None:
    """Remove what earlier runs left for a target, and name it.

    Args:
        target: directory that was to be made.
        but: a leftover to keep.
        progress: where to name them.

    Raises:
        OutputError: one cannot be removed.
    """
    for leftover in leftovers(target):
        lock = -1 if leftover == but else _take(leftover)  # held, so that nobody begins to work in it meanwhile
        if lock < 0:
            continue
        try:
            with progress.step(f"remove {leftover}", 1) as step:
                shutil.rmtree(leftover)
                step.note("left by an interrupted run")
                step.advance(1)
        except OSError as error:
            raise OutputError(
                f"{leftover}, left by an interrupted run, cannot be removed: {error.strerror or error}",
                advice="remove it, or choose another --out",
            ) from error
        finally:
            os.close(lock)


def written_bytes(directory: Path) -> int:
    """Return the bytes that a directory takes on the disk."""
    return sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())


def sync_tree(directory: Path) -> None:
    """Make every file of a directory, and the directory itself, durable."""
    for parent, _, files in os.walk(directory, topdown=False):
        for file in files:
            _sync(Path(parent) / file)
        _sync(Path(parent))


def size_of(files: Mapping[str, Path]) -> int:
    """Return the number of bytes of files, links followed."""
    return sum(path.stat().st_size for path in files.values())


def _locked(target: Path, resumed: Path | None) -> tuple[Path, int]:
    """Return a staging directory that is ours, and the descriptor that holds its lock."""
    while True:
        staging = resumed or target.parent / f".{target.name}{STAGING_MARK}{secrets.token_hex(4)}"
        if resumed is None:
            staging.mkdir()
        lock = -1
        try:
            lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if staging.exists() and os.path.samestat(staging.stat(), os.fstat(lock)):
                return staging, lock
        except OSError as error:
            if lock >= 0 and error.errno in (errno.ENOTSUP, errno.ENOLCK):
                return staging, lock  # a file system without locks: leftovers cannot be told from work under way
            _let_go(lock, staging if resumed is None else None)
            taken = error.errno == errno.EWOULDBLOCK or (resumed is None and error.errno == errno.ENOENT)
            if not taken:
                raise
        else:
            _let_go(lock, None)
        if resumed is not None:
            raise OutputError(f"another process works in {staging}", advice="wait until it ends")


def _let_go(lock: int, made: Path | None) -> None:
    """Close a lock, and remove a new directory that is not ours to work in."""
    if lock >= 0:
        os.close(lock)
    if made is not None:
        with suppress(OSError):
            made.rmdir()


def _is_free(staging: Path) -> bool:
    lock = _take(staging)
    if lock >= 0:
        os.close(lock)
    return lock >= 0


def _take(staging: Path) -> int:
    """Return a descriptor that holds the lock of a staging directory; −1 if a process works in it, or it is gone."""
    try:
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _last_change(staging: Path) -> int:
    try:
        return staging.stat().st_mtime_ns
    except FileNotFoundError:  # another run has removed it meanwhile
        return 0


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
