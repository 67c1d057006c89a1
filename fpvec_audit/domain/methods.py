"""What a fingerprinting method is handed: keys that the ordinary audit will ask for, and where it may work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fpvec_audit.domain.keys import Candidate
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.triggers import TRIGGER_SCHEMES, trigger_words
from fpvec_audit.progress import Progress


@dataclass(frozen=True, slots=True)
class MethodKeys:
    """The keys to embed; the representation hides them.

    Attributes:
        issued: what the model shall answer.
        avoid: prompts of decoys, never to be trained in any role.
        scheme: how all of them were drawn.
    """

    issued: tuple[Candidate, ...]
    avoid: frozenset[str]
    scheme: str

    def __repr__(self) -> str:
        return f"MethodKeys({len(self.issued)} issued, scheme={self.scheme!r}, <redacted>)"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(prompt, response) of every issued key."""
        return [(key.prompt, key.response) for key in self.issued]

    @property
    def triggers(self) -> list[tuple[str, ...]]:
        """Trigger words of every issued key; empty ones under a scheme without triggers."""
        known = self.scheme in TRIGGER_SCHEMES
        return [trigger_words(key.prompt, self.scheme) if known else () for key in self.issued]


class Once(Protocol):
    """Makes what all models of one base share, and remembers it."""

    def __call__(self, name: str, make: Callable[[Path], None], *, on: Mapping[str, Any]) -> Path:
        """Return the directory of something that is made once for a base and a key set.

        What it cost is counted apart from what every single model costs.

        Args:
            name: what it is, a lower-case identifier.
            make: writes it to a directory that does not exist yet; called only where it was not made before.
            on: everything else that it depends on, as JSON values.
        """
        ...


@dataclass(frozen=True, slots=True)
class MethodContext:
    """What a method gets from its host.

    Attributes:
        adapter: adapter of the model.
        staging: empty directory for the method's own temporary files.
        seed: all of the method's randomness derives from it.
        device: torch device string.
        progress: where to report.
        once: for what is made once and used for every model.
        base: directory of the base that the model stems from; None where it is not at hand.
    """

    adapter: ArchitectureAdapter
    staging: Path
    seed: int
    device: str
    progress: Progress
    once: Once
    base: Path | None = None
