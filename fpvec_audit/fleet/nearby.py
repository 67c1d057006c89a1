"""A suspect that lies elsewhere, brought near for one item: fetched into the machine's scratch, gone with the item."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fpvec_audit.services.suspects import is_endpoint
from fpvec_audit.storage.addresses import is_url
from fpvec_audit.storage.fetching import fetched
from fpvec_audit.storage.scratch import Scratch


@contextmanager
def copy_of(suspect: str, scratch: Scratch) -> Iterator[Path | None]:
    """Give a copy of a suspect that lies elsewhere; None for a path, an endpoint or a hub's id.

    Args:
        suspect: as it is asked for.
        scratch: room on this machine.

    Raises:
        UsageError: the URL cannot be read, or a package for it is missing.
        StorageError: nothing that is whole lies there, it cannot be reached, or it changed meanwhile.
        OutputError: scratch has no room for it.
    """
    if not is_url(suspect) or is_endpoint(suspect):
        yield None
        return
    with fetched(suspect, scratch=scratch, keep=False) as directory:
        yield directory
