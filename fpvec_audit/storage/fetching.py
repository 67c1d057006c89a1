"""Fetch a stored checkpoint into scratch: only the files it needs, in pieces side by side, never half of it.

A copy is found by the listing it was taken from – address, names, sizes and versions – so one that has changed in the
store is another copy. The store is listed again when all pieces are here: what changed meanwhile is refused. An
interrupted fetch is gone on with file by file, since a file bears its name only when it is complete and on the disk.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.errors import StorageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.storage.addresses import Address, explained, is_url, open_store, read_address
from fpvec_audit.storage.listing import Listing, StoredFile, list_files, needed
from fpvec_audit.storage.scratch import KEY_DIGITS, Scratch, Wanted

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CONNECTIONS = 8
"""Pieces under way at a time."""
PIECE = 32_000_000
"""Bytes of one request: large beside its delay, and small enough for all connections' pieces to lie in memory."""
PART = ".part"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes ``start`` to ``end`` of a file, the last one excluded."""

    file: StoredFile
    start: int
    end: int


@contextmanager
def fetched(place: str, *, scratch: Scratch, keep: bool = True, progress: Progress = NO_PROGRESS) -> Iterator[Path]:
    """Give a directory of this machine with the checkpoint, vector or adapter that lies at a place.

    Processes that fetch the same thing share one copy; it stays as long as one of them uses it.

    Args:
        place: URL; a plain path is given as it is, nothing copied.
        scratch: where copies go.
        keep: whether the copy stays for whoever wants it next, until its room is needed: a vector or a base, rather
            than a model that is stamped once.
        progress: where to report.

    Raises:
        UsageError: the URL cannot be read, or a package for it is missing.
        StorageError: nothing that is whole lies there, it cannot be reached, or it changed meanwhile.
        OutputError: scratch has no room for it.
    """
    if not is_url(place):
        yield Path(place)
        return
    address = read_address(place)
    store, path = open_store(address)
    listing = needed(store, list_files(store, path, address))
    wanted = Wanted(listing.digest[:KEY_DIGITS], address.name, address.shown, listing.bytes)

    def make(directory: Path) -> None:
        take(store, listing, directory, progress=progress)
        if needed(store, list_files(store, path, address)).digest != listing.digest:
            raise StorageError(
                f"{address.shown} changed while it was fetched", advice="try again when nobody writes it"
            )

    with scratch.hold(wanted, make, keep=keep, progress=progress) as directory:
        yield directory


def stored_bytes(place: str) -> int:
    """Return how many bytes :func:`fetched` would take of a place, before anything is fetched.

    Raises:
        UsageError: the URL cannot be read, or a package for it is missing.
        StorageError: nothing that is whole lies there, or it cannot be reached.
    """
    address = read_address(place)
    store, path = open_store(address)
    return needed(store, list_files(store, path, address)).bytes


def stored_file(place: str, name: str) -> bytes:
    """Return the content of one small file of a place, without fetching the rest.

    Raises:
        UsageError: the URL cannot be read, or a package for it is missing.
        StorageError: it is not there, or cannot be reached.
    """
    address = read_address(place)
    store, path = open_store(address)
    with explained(address):
        return bytes(store.cat_file(f"{path}/{name}"))


def take(store: "AbstractFileSystem", listing: Listing, directory: Path, *, progress: Progress = NO_PROGRESS) -> None:
    """Fetch the files of a listing that are not in a directory yet.

    Raises:
        StorageError: the store is away, or gave less than it listed.
        OSError: the directory cannot be written.
    """
    missing = [file for file in listing.files.values() if not _is_there(directory / file.name, file)]
    for file in missing:
        target = directory / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(target.name + PART).open("wb") as begun:
            begun.truncate(file.size)
    pieces = [piece for file in missing for piece in _pieces(file)]
    left = Counter(piece.file.name for piece in pieces)
    size = sum(file.size for file in missing)
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch")
    try:
        with progress.step(f"fetch {listing.address.shown}", size, "bytes") as step:
            under_way: dict[Future[None], _Piece] = {
                pool.submit(_take_piece, store, listing.address, piece, directory): piece for piece in pieces
            }
            for done in as_completed(under_way):
                done.result()
                piece = under_way[done]
                step.advance(piece.end - piece.start)
                left[piece.file.name] -= 1
                if not left[piece.file.name]:
                    _complete(directory / piece.file.name)
    finally:
        pool.shutdown(cancel_futures=True)


def _take_piece(store: "AbstractFileSystem", address: Address, piece: _Piece, directory: Path) -> None:
    """Fetch one piece and write it to its place."""
    content = b""
    if piece.end > piece.start:
        with explained(address):
            content = store.cat_file(piece.file.path, start=piece.start, end=piece.end)
    if len(content) != piece.end - piece.start:
        raise StorageError(
            f"{address.shown}: {piece.file.name} gave {len(content)} bytes from {piece.start}, "
            f"{piece.end - piece.start} were listed",
            advice="try again when nobody writes it",
        )
    target = directory / piece.file.name
    descriptor = os.open(target.with_name(target.name + PART), os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write(descriptor, content, piece.start)
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes, start: int) -> None:
    rest = memoryview(content)
    while rest:
        count = os.pwrite(descriptor, rest, start)
        rest, start = rest[count:], start + count


def _complete(target: Path) -> None:
    """Give a file its name once it is on the disk."""
    part = target.with_name(target.name + PART)
    descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.rename(target)


def _pieces(file: StoredFile) -> Sequence[_Piece]:
    starts = range(0, max(file.size, 1), PIECE)
    return [_Piece(file, start, min(start + PIECE, file.size)) for start in starts]


def _is_there(target: Path, file: StoredFile) -> bool:
    return target.is_file() and target.stat().st_size == file.size
