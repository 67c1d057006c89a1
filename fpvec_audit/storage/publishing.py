"""Publish a directory at a URL so that no reader ever takes half of it for the whole.

Object stores have no rename. So files go first, and the *entry* – the file every reader opens first, ``config.json``
of a model – goes last, when all others are seen to be there in full. Until then readers find no model. On ``file://``
the directory is written beside its place and renamed.

A place is written once. One that is whole already is left as it is if it holds the same bytes, so that an item that is
done twice ends well, and refused otherwise. What a killed publisher left has no entry, and the next one writes over it;
nothing is deleted in a store, as a second publisher of the same bytes may be about to finish.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.errors import OutputError, StorageError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.storage.addresses import Address, explained, local_path, open_store, read_address
from fpvec_audit.storage.fetching import PIECE
from fpvec_audit.storage.listing import Listing, StoredFile, entry_of, list_files

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CONNECTIONS = 4
"""Files under way at a time; packages send the parts of a large one side by side."""


@dataclass(frozen=True, slots=True)
class Published:
    """What lies at a place now.

    Attributes:
        address: the place, without secrets.
        files: how many.
        bytes: of all of them.
        already: whether the same bytes were there before.
    """

    address: str
    files: int
    bytes: int
    already: bool


def publish(directory: Path, url: str, *, progress: Progress = NO_PROGRESS) -> Published:
    """Write a directory to a place, whole or not at all for whoever reads it.

    Args:
        directory: a model, vector or adapter; every file in it is published.
        url: where to.
        progress: where to report.

    Raises:
        UsageError: the URL cannot be read, a package for it is missing, or the directory is no model, vector or
            adapter.
        OutputError: something else lies there.
        StorageError: the store is away, refuses, or keeps less than it was given.
    """
    address = read_address(url)
    files = {file.relative_to(directory).as_posix(): file for file in sorted(directory.rglob("*")) if file.is_file()}
    entry = entry_of(files)
    if entry is None:
        raise UsageError(
            f"{directory} is no model, vector or adapter", advice="publish a directory that a command of fpvec made"
        )
    store, path = open_store(address)
    total = sum(file.stat().st_size for file in files.values())
    there = list_files(store, path, address)
    if _is_whole(store, there, files, entry, progress=progress):
        return Published(address.shown, len(files), total, already=True)
    target = local_path(address)
    if target is not None:
        _write_beside(files, target, total, progress=progress)
    else:
        first = [name for name in files if name != entry]
        with progress.step(f"publish {address.shown}", total, "bytes") as step:
            for names in (first, [entry]):
                for size in _put(store, path, address, {name: files[name] for name in names}):
                    step.advance(size)
                _check(list_files(store, path, address), {name: files[name] for name in names})
    return Published(address.shown, len(files), total, already=False)


def _is_whole(
    store: "AbstractFileSystem", there: Listing, files: Mapping[str, Path], entry: str, *, progress: Progress
) -> bool:
    """Say whether a place holds the files already; an unfinished publication of them does not.

    Raises:
        OutputError: something else lies there.
    """
    strange = sorted(there.files.keys() - files.keys())
    if entry_of(there.files) is None and not strange:
        return False
    same = not strange and there.files.keys() == files.keys() and entry in there.files
    if same and _same_bytes(store, list(there.files.values()), files, there.address, progress=progress):
        return True
    what = f" and holds {strange[0]}" if strange else " and is not the same"
    raise OutputError(f"{there.address.shown} exists already{what}", advice="choose another place, or remove it")


def _same_bytes(
    store: "AbstractFileSystem",
    stored: Sequence[StoredFile],
    files: Mapping[str, Path],
    address: Address,
    *,
    progress: Progress,
) -> bool:
    """Compare what a place holds with files, byte by byte; sizes alone do not tell two licensees' copies apart."""
    if any(file.size != files[file.name].stat().st_size for file in stored):
        return False
    with progress.step(f"compare {address.shown}", sum(file.size for file in stored), "bytes") as step:
        for file in sorted(stored, key=lambda item: item.size):
            with files[file.name].open("rb") as own:
                for start in range(0, file.size, PIECE):
                    mine = own.read(PIECE)
                    with explained(address):
                        theirs = store.cat_file(file.path, start=start, end=min(start + PIECE, file.size))
                    if mine != theirs:
                        return False
                    step.advance(len(mine))
    return True


def _put(store: "AbstractFileSystem", path: str, address: Address, files: Mapping[str, Path]) -> Iterator[int]:
    """Send files side by side, and give the size of each when it is sent."""

    def send(name: str) -> int:
        with explained(address):
            store.put_file(str(files[name]), f"{path}/{name}")
        return files[name].stat().st_size

    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="publish")
    try:
        for done in as_completed([pool.submit(send, name) for name in files]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check(there: Listing, files: Mapping[str, Path]) -> None:
    """Refuse a store that does not keep what it was given.

    Raises:
        StorageError: a file is missing or has another size.
    """
    for name, file in files.items():
        size = there.files[name].size if name in there.files else None
        if size != file.stat().st_size:
            raise StorageError(
                f"{there.address.shown}: {name} has {size or 'no'} bytes after {file.stat().st_size} were sent",
                advice="publish again when nobody else writes there",
            )


def _write_beside(files: Mapping[str, Path], target: Path, total: int, *, progress: Progress) -> None:
    from fpvec_audit.tensors.rewrite import copy_files
    from fpvec_audit.tensors.staging import staged_directory

    with progress.step(f"publish {target}", total, "bytes") as step, staged_directory(target, total) as staging:
        for name, file in files.items():
            step.advance(copy_files({name: file}, staging))
