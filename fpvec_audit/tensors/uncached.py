"""Reading past the system's page cache: for tensors that nobody will want soon again.

To find, clear and fill new pages of the cache takes a processor about as long as to subtract what they hold, and it
pushes out what others still need. What the cache holds already is taken from there; the rest goes from the disk into
the memory of blocks, without a copy.
"""

import os
from pathlib import Path

_CACHED_ONLY = getattr(os, "RWF_NOWAIT", 0)
"""Flag of Linux: give what the page cache holds, and nothing else."""


def open_uncached(path: Path) -> int:
    """Return a descriptor that reads past the page cache, or −1 where the file system has no such thing."""
    if not _CACHED_ONLY:
        return -1
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return -1


def read_cached(descriptor: int, memory: memoryview, place: int) -> bool:
    """Fill memory from the page cache alone and return whether everything was there."""
    try:
        return os.preadv(descriptor, [memory], place, _CACHED_ONLY) == len(memory)
    except OSError:  # nothing is there, or the file system cannot tell
        return False


def read_pages(descriptor: int, pages: memoryview, place: int, wanted: int) -> bool:
    """Fill memory from the disk, past the page cache, and return whether the wanted bytes are there.

    Args:
        descriptor: from :func:`open_uncached`.
        pages: whole pages of memory, beginning at a page.
        place: where in the file to begin, likewise at a page.
        wanted: bytes that are needed; the file may end behind them.
    """
    done = 0
    try:
        while done < wanted and not done % _SECTOR:
            read = os.preadv(descriptor, [pages[done:]], place + done)
            if not read:
                break
            done += read
    except OSError:  # a file system that opens files in this way and then does not read them, or a broken disk
        return False
    return done >= wanted


_SECTOR = 512
