"""Scratch: local copies of what lies elsewhere, and room for what is being made, together never more than was set.

Laws. A copy is whole or not there: it is made under another name, made durable, and renamed. One copy is made by one
process; the others that want it wait and share it. What is in use is never removed; the rest goes, the longest unused
first, when room is needed. Whoever is about to write says how much first, so that no item begins what cannot end.
Whatever a process held is free the moment it ends, be it killed: locks are the system's, and what it left half-made is
gone on with or removed by the next one.
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fpvec_audit.errors import OutputError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.storage import kept

ENTRY = "entry.json"
RESERVED = "reserved.json"
MAKING = ".making"
WORKSPACE = ".workspace-"
SCHEMA = 1
KEY_DIGITS = 32

_ACCOUNTS = ".accounts"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A copy that somebody wants.

    Attributes:
        key: its name, hex; equal keys are equal content.
        name: name of its directory, for messages and as a model's name.
        about: where it comes from, without secrets.
        bytes: what it will take.
    """

    key: str
    name: str
    about: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Scratch:
    """Room on this machine below one directory.

    Attributes:
        root: the directory, on a disk of this machine; made when it is first used, for its owner alone.
        most_bytes: how much may lie there together, in use or not.
    """

    root: Path
    most_bytes: int

    @contextmanager
    def hold(
        self, wanted: Wanted, make: Callable[[Path], None], *, keep: bool = True, progress: Progress = NO_PROGRESS
    ) -> Iterator[Path]:
        """Give a copy, made first where it is not there; it stays as long as the context lasts.

        Args:
            wanted: which.
            make: fills a directory, which may hold what an interrupted maker of the same copy left.
            keep: whether it stays afterwards for whoever wants it next, until its room is needed.
            progress: where to report.

        Raises:
            OutputError: there is no room, or it cannot be written.
        """
        self._prepare()
        entry = self.root / wanted.key
        lock = kept.in_use(entry, ENTRY)
        while lock < 0:
            lock = self._made(wanted, make, progress=progress)
        try:
            with suppress(OSError):
                now = time.time_ns()  # finer than what the system would write
                os.utime(entry, ns=(now, now))  # when it was used last
            yield entry / wanted.name
        finally:
            os.close(lock)
            if not keep:
                with self._accounts():
                    kept.removed(entry, ENTRY)

    @contextmanager
    def workspace(self, needed: int) -> Iterator[Path]:
        """Give an empty directory for what is being made; it is removed when the context ends.

        Args:
            needed: bytes that will be written at most.

        Raises:
            OutputError: there is no room, or the disk is full.
        """
        self._prepare()
        place = self.root / f"{WORKSPACE}{secrets.token_hex(8)}"
        with self._accounts():
            self._make_room(needed, "what is to be made")
            place.mkdir(mode=0o700)
            lock = kept.sole(place)
            _reserve(place, needed)
        try:
            (place / "out").mkdir()
            with self._room_that_may_end(place, needed):
                yield place / "out"
        finally:
            shutil.rmtree(place, ignore_errors=True)
            os.close(lock)

    def clear(self) -> int:
        """Remove everything that is not in use, and return how many bytes that freed."""
        if not self.root.is_dir():
            return 0
        with self._accounts():
            before = sum(kept.bytes_of(entry) for entry in self._all())
            for entry in self._all():
                kept.removed(entry, ENTRY)
            return before - sum(kept.bytes_of(entry) for entry in self._all())

    def used(self) -> int:
        """Return the bytes that copies and workspaces take, or have said that they will."""
        return sum(_claimed(entry) for entry in self._all())

    def _made(self, wanted: Wanted, make: Callable[[Path], None], *, progress: Progress) -> int:
        """Make a copy unless another process does, and return what holds it; −1 if one has to look again."""
        entry, staging = self.root / wanted.key, self.root / f".{wanted.key}{MAKING}"
        lock = _sole_maker(staging, wanted, progress=progress)
        try:
            if entry.exists() or not kept.is_still(staging, lock):  # the one we waited for has made it
                os.close(lock)
                return kept.in_use(entry, ENTRY)
            with self._accounts():
                self._make_room(wanted.bytes, wanted.about, but=staging)
                _reserve(staging, wanted.bytes)
            with self._room_that_may_end(staging, wanted.bytes):
                place = staging / wanted.name
                place.mkdir(exist_ok=True)
                make(place)
                _finish(staging, wanted)
            with self._accounts():  # whoever removes holds them too: nobody comes between renaming and the lock
                staging.rename(entry)
                fcntl.flock(lock, fcntl.LOCK_SH)
        except BaseException as error:
            with suppress(OSError):
                os.close(lock)
            if isinstance(error, OSError):
                raise self._refusal(error) from error
            raise
        return lock

    def _prepare(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise self._refusal(error) from error

    @contextmanager
    def _accounts(self) -> Iterator[None]:
        """Hold the accounts: one process at a time says what it will write, and removes what nobody uses."""
        try:
            descriptor = os.open(self.root / _ACCOUNTS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._refusal(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            os.close(descriptor)

    def _refusal(self, error: OSError) -> OutputError:
        return OutputError(
            f"scratch {self.root} cannot be used: {error.strerror or error}",
            advice="let scratch lie on a disk of this machine that you may write to",
        )

    def _make_room(self, needed: int, what: str, *, but: Path | None = None) -> None:
        """Remove what nobody uses until there is room.

        Args:
            needed: bytes about to be written.
            what: they are of, for the message.
            but: a directory that is about to be filled; what lies in it already is part of what is needed.

        Raises:
            OutputError: what is in use leaves too little.
        """
        others = sorted((entry for entry in self._all() if entry != but), key=_eviction_order)
        for entry in others:
            if entry.name.startswith(WORKSPACE):
                kept.removed(entry, ENTRY)  # of a process that is gone
        claims = {entry: _claimed(entry) for entry in others if entry.exists()}
        written = 0 if but is None else kept.bytes_of(but)
        candidates = list(claims) if needed <= self.most_bytes else []  # else nothing that goes would help
        while (missing := self._missing(needed, written, claims)) > 0 and candidates:
            entry = candidates.pop(0)
            if kept.removed(entry, ENTRY):
                del claims[entry]
        if missing > 0:
            raise OutputError(
                f"scratch {self.root} has no room for {what}: {missing} of {needed} bytes are missing "
                f"({sum(claims.values())} of {self.most_bytes} are taken, "
                f"the disk has {shutil.disk_usage(self.root).free} free)",
                advice="let scratch take more or lie on a larger disk, or let fewer items run at a time",
            )

    def _missing(self, needed: int, written: int, claims: Mapping[Path, int]) -> int:
        """Return by how many bytes the tighter of two limits is exceeded: what scratch may take, and the disk."""
        promised = sum(  # by others, who have not written it yet
            max(0, claim - kept.bytes_of(entry)) for entry, claim in claims.items() if (entry / RESERVED).is_file()
        )
        free = shutil.disk_usage(self.root).free
        return max(needed + sum(claims.values()) - self.most_bytes, needed - written + promised - free)

    @contextmanager
    def _room_that_may_end(self, place: Path, needed: int) -> Iterator[None]:
        """Say how much is missing when the disk turns out to be full all the same, and free what was written."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            written = kept.bytes_of(place)
            shutil.rmtree(place, ignore_errors=True)
            raise OutputError(
                f"scratch {self.root}: the disk is full, {max(needed - written, 0)} of {needed} bytes are missing",
                advice="make room there, or let scratch lie on a larger disk",
            ) from error

    def _all(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [entry for entry in self.root.iterdir() if entry.is_dir() and not entry.is_symlink()]


def _sole_maker(staging: Path, wanted: Wanted, *, progress: Progress) -> int:
    """Return a descriptor that holds the directory where a copy is made, waiting for whoever makes it now."""
    while True:
        staging.mkdir(mode=0o700, exist_ok=True)
        lock = kept.sole(staging)
        if lock >= 0:
            return lock
        try:
            lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # it is done, or was given up
            continue
        try:
            with progress.step(f"wait for {wanted.about}, which another process fetches"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        except BaseException:
            os.close(lock)
            raise
        return lock


def _finish(staging: Path, wanted: Wanted) -> None:
    from fpvec_audit.tensors.staging import sync_tree

    facts = {"schema": SCHEMA, "about": wanted.about, "bytes": wanted.bytes}
    (staging / ENTRY).write_text(json.dumps(facts), encoding="utf-8")
    (staging / RESERVED).unlink()
    sync_tree(staging)


def _reserve(place: Path, needed: int) -> None:
    (place / RESERVED).write_text(json.dumps({"bytes": needed, "process": os.getpid()}), encoding="utf-8")


def _claimed(entry: Path) -> int:
    """Return the bytes that a directory takes, or that whoever fills it has said it will."""
    for name in (ENTRY, RESERVED):
        with suppress(OSError, ValueError, KeyError):
            return int(json.loads((entry / name).read_text(encoding="utf-8"))["bytes"])
    return kept.bytes_of(entry)


def _eviction_order(entry: Path) -> tuple[bool, int]:
    """What was left half-made goes first, then the longest unused."""
    return not entry.name.startswith("."), kept.last_use(entry)
