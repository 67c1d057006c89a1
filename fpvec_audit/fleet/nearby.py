"""What lies elsewhere, brought near for one item: fetched into the machine's scratch, made there before it goes out.

Plain paths are used where they lie. A vector or base stays in scratch for the next item; a model that is stamped or
audited once does not.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fpvec_audit.services.elsewhere import Elsewhere
from fpvec_audit.services.suspects import is_endpoint
from fpvec_audit.storage.addresses import is_url, read_address
from fpvec_audit.storage.fetching import fetched
from fpvec_audit.storage.publishing import publish
from fpvec_audit.storage.scratch import Scratch


@contextmanager
def nearby(scratch: Scratch) -> Iterator["Nearby"]:
    """Give what brings things near, until the context ends.

    Args:
        scratch: room on this machine.
    """
    with ExitStack() as stack:
        yield Nearby(scratch, stack)


class Nearby:
    """Brings things near for one item.

    Args:
        scratch: room on this machine.
        stack: lets go of everything when it closes.
    """

    def __init__(self, scratch: Scratch, stack: ExitStack) -> None:
        self._scratch = scratch
        self._stack = stack
        self._sources: dict[Path, str] = {}
        self._outputs: dict[Path, str] = {}

    @property
    def elsewhere(self) -> Elsewhere:
        """What the registry calls the places of what was brought near."""
        return Elsewhere(self._sources, self._published)

    def directory(self, place: str, *, keep: bool = True) -> Path:
        """Return a directory with what lies at a place.

        Args:
            place: path or URL.
            keep: whether the copy stays for the next item.

        Raises:
            UsageError: the URL cannot be read, or a package for it is missing.
            StorageError: nothing that is whole lies there, it cannot be reached, or it changed meanwhile.
            OutputError: scratch has no room for it.
        """
        found = self._stack.enter_context(fetched(place, scratch=self._scratch, keep=keep))
        if is_url(place):
            self._sources[found] = read_address(place).shown
        return found

    def copy(self, suspect: str) -> Path | None:
        """Return a copy of a suspect that lies elsewhere; None for a path, an endpoint or a hub's id.

        Raises:
            FpvecError: as :meth:`directory`.
        """
        if not is_url(suspect) or is_endpoint(suspect):
            return None
        return self.directory(suspect, keep=False)

    def vector(self, text: str) -> str:
        """Return a vector as the services take it, with its scale: an id, or a directory.

        Raises:
            FpvecError: as :meth:`directory`.
        """
        if not is_url(text):
            return text
        place, colon, scale = text.rpartition(":")
        scaled = is_url(place) and "/" not in scale
        found = self.directory(place if scaled else text)
        return f"{found}{colon}{scale}" if scaled else str(found)

    def output(self, place: str, *sources: Path) -> Path:
        """Return the directory where a copy is made that will lie at a place.

        Args:
            place: path or URL.
            sources: what it is made of, which says how much room it takes at most.

        Raises:
            UsageError: the URL cannot be read.
            OutputError: scratch has no room for it.
        """
        if not is_url(place):
            return Path(place)
        address = read_address(place)
        files = (file for source in sources for file in source.rglob("*"))
        needed = sum(file.stat().st_size for file in files if file.is_file())
        workspace = self._stack.enter_context(self._scratch.workspace(needed))
        target = workspace / address.name
        self._outputs[target] = address.url
        return target

    def _published(self, staged: Path, target: Path) -> str:
        url = self._outputs.get(target)
        return "" if url is None else publish(staged, url).address
