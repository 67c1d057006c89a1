"""Attacked copies that are kept: what was made once is not made again, by this run or any other.

A copy is found by what it follows from – the weights that were attacked, the attack with its version and parameters,
the seed, the base, the other copies – never by what it is called. A chain of attacks is a chain of such names, so a
prefix of a longer chain is found too. Nothing that is secret lies here beyond what the stamped model is itself.

Laws: a copy is whole or not there (``tensors/staging``); one that is in use is locked, and never evicted; together they
take no more than was set, but for those in use.
"""

import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.attack_spec import AttackLink
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.errors import OutputError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.storage import kept

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog

PLACE = Path("cache") / "attacks"
"""Where copies lie in a home."""
SCHEMA = 1
ENTRY = "entry.json"
KEY_DIGITS = 24
"""Of a digest: 96 bits tell all copies apart, and can be read in a message."""


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """What all copies of a run follow from, beside the attacks.

    Attributes:
        stamped: canonical digest of the stamped model, hex.
        texts: digest of its tokenizer and chat template, hex.
        adapter: name of the architecture adapter, None where it is not known.
        seed: all randomness derives from it.
        base: canonical digest of the base, empty where it is not at hand.
        copies: digests of the other stamped copies.
    """

    stamped: str
    texts: str
    adapter: str | None
    seed: int
    base: str = ""
    copies: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the stamped model as the beginning of a chain, hex."""
        return _digest({"schema": SCHEMA, "stamped": self.stamped, "texts": self.texts})[:KEY_DIGITS]

    def next_key(self, previous: str, link: AttackLink, catalog: "Catalog") -> str:
        """Return the name of the copy that an attack makes of another.

        Args:
            previous: name of what is attacked.
            link: the attack and its parameters.
            catalog: plugins; their version counts, and the text of the attack's module.

        Raises:
            OutputError: a file that a parameter names cannot be read.
        """
        info = catalog.info(ATTACK, link.name)
        return _digest(
            {
                "schema": SCHEMA,
                "previous": previous,
                "attack": link.name,
                "owner": info.owner,
                "module": _module_digest(type(catalog.attack(link.name))),
                "parameters": link.to_json(),
                "files": _named_files(link),
                "seed": self.seed,
                "adapter": self.adapter,
                "base": self.base,
                "copies": list(self.copies),
            }
        )[:KEY_DIGITS]


@dataclass(frozen=True, slots=True)
class Cleared:
    """What clearing the cache did.

    Attributes:
        removed: copies that were removed.
        freed: bytes.
        in_use: copies that a running process uses, and that stayed.
    """

    removed: int
    freed: int
    in_use: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {"removed": self.removed, "bytes_freed": self.freed, "in_use": self.in_use}


@dataclass(slots=True)
class CopyStore:
    """The kept copies below one directory.

    Attributes:
        root: where they lie; made when the first one is.
        most_bytes: how much they may take together.
        made: how many were made through this object.
        reused: how many were found.
    """

    root: Path
    most_bytes: int
    made: int = field(default=0, init=False)
    reused: int = field(default=0, init=False)

    @contextmanager
    def hold(
        self,
        key: str,
        name: str,
        make: Callable[[Path], None],
        *,
        size: int,
        about: Mapping[str, Any],
        progress: Progress = NO_PROGRESS,
    ) -> Iterator[Path]:
        """Give a copy, made first where it is not there; it stays as long as the context lasts.

        Args:
            key: its name, from :class:`CopyFacts`.
            name: name of its directory, for messages.
            make: writes it: takes an empty directory and leaves a directory of that name in it.
            size: bytes that it will take, for the check of free space.
            about: what is written beside it, for people.
            progress: where to name what interrupted runs left.

        Raises:
            OutputError: it cannot be written.
            FpvecError: it cannot be made.
        """
        entry = self.root / key
        lock = kept.in_use(entry, ENTRY)
        if lock < 0:
            self._make(entry, make, size=size, about=about, progress=progress)
            self.made += 1
            lock = kept.in_use(entry, ENTRY)
        else:
            self.reused += 1
        try:
            if lock < 0:
                raise OutputError(f"{entry} is gone again", advice="do not clear the cache while attacks run")
            with suppress(OSError):
                now = time.time_ns()  # finer than what the system would write
                os.utime(entry, ns=(now, now))  # when it was used last
            yield entry / name
        finally:
            if lock >= 0:
                os.close(lock)

    def has(self, key: str) -> bool:
        """Return whether a copy is there."""
        return (self.root / key / ENTRY).is_file()

    def trim(self, room: int = 0) -> None:
        """Evict copies that are not in use, the longest unused first, until all take no more than they may.

        What a killed run left half-written goes in any case.

        Args:
            room: bytes about to be written.
        """
        for leftover in self._entries(leftovers=True):
            if leftover.name.startswith("."):
                kept.removed(leftover, ENTRY)
        entries = sorted(self._entries(), key=kept.last_use)
        sizes = {entry: kept.bytes_of(entry) for entry in entries}
        total = sum(sizes.values()) + room
        for entry in entries:
            if total <= self.most_bytes:
                return
            if kept.removed(entry, ENTRY):
                total -= sizes[entry]

    def clear(self) -> Cleared:
        """Remove all copies that are not in use, and what interrupted runs left."""
        removed = freed = in_use = 0
        for entry in self._entries(leftovers=True):
            size = kept.bytes_of(entry)
            if kept.removed(entry, ENTRY):
                removed += 1
                freed += size
            else:
                in_use += 1
        return Cleared(removed, freed, in_use)

    def _make(
        self, entry: Path, make: Callable[[Path], None], *, size: int, about: Mapping[str, Any], progress: Progress
    ) -> None:
        from fpvec_audit.tensors.staging import staged_directory

        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.trim(size)
            with staged_directory(entry, size, progress=progress) as staging:
                make(staging)
                (staging / ENTRY).write_text(json.dumps({"schema": SCHEMA, **about}, indent=2), encoding="utf-8")
        except OutputError as error:
            if not entry.exists():  # else another run has made it meanwhile
                advice = "make room (`fpvec attack clean`), or choose another --home"
                raise OutputError(error.problem, advice=advice) from error
        except OSError as error:
            raise OutputError(
                f"{self.root} cannot be written: {error.strerror}", advice="choose another --home"
            ) from error

    def _entries(self, *, leftovers: bool = False) -> list[Path]:
        if not self.root.is_dir():
            return []
        found = [entry for entry in self.root.iterdir() if entry.is_dir() and not entry.is_symlink()]
        return [entry for entry in found if leftovers or not entry.name.startswith(".")]


def named_size(checkpoint: Path) -> int:
    """Return the bytes of a checkpoint's files: about what an attacked copy of it takes."""
    return sum(file.stat().st_size for file in checkpoint.iterdir() if file.is_file())


def directory_digest(directory: Path) -> str:
    """Return a digest of a directory's files as they are, by name, size and time; their content is not read."""
    found = sorted(
        [file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in directory.iterdir() if file.is_file()
    )
    return _digest({"path": str(directory.resolve()), "files": found})


def _named_files(link: AttackLink) -> dict[str, str]:
    """Return parameter → digest of the content of the files and directories that it names.

    A path is one by its type; a text counts where it has a separator and what it names is there, as of several
    directories that are joined by ``:``.
    """
    found = {}
    for item in fields(link.parameters):
        value = getattr(link.parameters, item.name)
        if isinstance(value, Path):
            paths = [value]
        else:
            text = value if isinstance(value, str) and (os.sep in value or os.pathsep in value) else ""
            paths = [Path(part) for part in text.split(os.pathsep) if part]
        digests = [_content_digest(path) for path in paths if path.exists()]
        if digests:
            found[item.name] = _digest(digests)
    return found


def _content_digest(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    try:
        return _digest([[str(file.relative_to(path)), _file_digest(file)] for file in files])
    except OSError as error:
        raise OutputError(f"{error.filename} cannot be read: {error.strerror}", advice="check the attack") from error


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _module_digest(attack: type) -> str:
    """Return a digest of the source of an attack's module, empty where it has none: code changes between versions."""
    try:
        source = inspect.getsourcefile(attack)
        return _file_digest(Path(source)) if source else ""
    except (OSError, TypeError):
        return ""


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
