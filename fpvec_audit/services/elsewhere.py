"""Models that lie elsewhere: what the registry calls their place while a copy of them is worked on here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


def _stays(_staged: Path, _target: Path) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where models come from, and where what is made of them goes.

    Attributes:
        sources: directory of a copy → the address that it was fetched from.
        published: takes a finished directory that has not been recorded yet, and the place that it was made for; puts
            it where it belongs, unless it is there already, and returns that address. Empty where it stays here.
    """

    sources: Mapping[Path, str] = field(default_factory=dict)
    published: Callable[[Path, Path], str] = _stays

    def source(self, directory: Path) -> str:
        """Return the address that a directory is a copy of, empty for one that lies here."""
        return self.sources.get(directory, "")


HERE = Elsewhere()
"""Everything lies on this machine."""
