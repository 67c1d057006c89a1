"""Where the items of a run come from: a manifest, or a query to the registry; validated before anything begins.

Both are streams: a first pass looks at every item and holds no more of each than two short digests, a second one
records them in batches.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.fleet import FleetAction, FleetItem
from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import UsageError
from fpvec_audit.fleet.items import FIELDS, IDENTITY, complete, item_key, read_fields
from fpvec_audit.fleet.manifest import ManifestLine, read_manifest

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

AT_ONCE = 1000
TOLD = 20
"""Broken lines that are told one by one."""
_CONDITION = re.compile(r"\s*(\w+)\s*=\s*('[^']*'|\"[^\"]*\"|\S+)\s*")


@dataclass(frozen=True, slots=True)
class Source:
    """Where items come from.

    Attributes:
        action: what is done to them.
        options: what holds for all that do not say otherwise.
        manifest: file, None for a query.
        where: filters on registered models, for a query.
    """

    action: FleetAction
    options: Mapping[str, Any]
    manifest: Path | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """How the run remembers it."""
        if self.manifest is not None:
            return str(self.manifest.absolute())
        return " and ".join(f"{name}={value}" for name, value in self.where.items())

    def lines(self, registry: "Registry") -> Iterator[ManifestLine]:
        """Yield the items as they are written, broken ones too."""
        return _registered(self, registry) if self.manifest is None else read_manifest(self.manifest)


@dataclass(slots=True)
class Survey:
    """What a look at all items found.

    Attributes:
        items: how many are sound; several that ask for the same count once.
        repeated: how many ask for what another one does.
        broken: how many are not.
        problems: of the first broken ones, in sentences with their line.
    """

    items: int = 0
    repeated: int = 0
    broken: int = 0
    problems: list[str] = field(default_factory=list)

    def add_problem(self, line: int, problem: str) -> None:
        """Count a broken item."""
        self.broken += 1
        if len(self.problems) < TOLD:
            self.problems.append(f"line {line}: {problem}" if line else problem)


def parse_where(text: str) -> dict[str, str]:
    """Read a query: conditions ``field=value`` with ``and`` between them.

    Raises:
        UsageError: it is none.
    """
    found: dict[str, str] = {}
    for part in re.split(r"\band\b", text):
        condition = _CONDITION.fullmatch(part)
        if condition is None:
            raise UsageError(
                f"--where {text!r}: {part.strip()!r} is no condition", advice="write role=downstream and base=NAME"
            )
        found[condition[1]] = condition[2].strip("'\"")
    return found


def survey(source: Source, *, registry: "Registry") -> Survey:
    """Look at every item and begin nothing.

    Raises:
        UsageError: the source itself cannot be read.
    """
    found = Survey()
    keys: set[int] = set()
    places: dict[int, int] = {}
    for line in source.lines(registry):
        try:
            item = _item(source, line, places)
        except UsageError as error:
            found.add_problem(line.number, str(error))
            continue
        short = _short(item.key)
        found.repeated += short in keys
        found.items += short not in keys
        keys.add(short)
    return found


def batches(source: Source, *, registry: "Registry", skip_bad: bool) -> Iterator[list[FleetItem]]:
    """Yield all sound items in batches.

    Raises:
        UsageError: an item is broken, and broken ones are not to be skipped.
    """
    batch: list[FleetItem] = []
    places: dict[int, int] = {}
    for line in source.lines(registry):
        try:
            item = _item(source, line, places)
        except UsageError as error:
            if not skip_bad:
                place = f"line {line.number}: " if line.number else ""
                raise UsageError(f"{place}{error.problem}", advice=error.advice) from error
            continue
        batch.append(item)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _item(source: Source, line: ManifestLine, places: dict[int, int]) -> FleetItem:
    """Return what a line asks for.

    Args:
        source: where it comes from.
        line: as it is written.
        places: short digest of an output → short digest of the item that makes it; added to.

    Raises:
        UsageError: it cannot be read or meant, or would make what another item makes of something else.
    """
    if line.problem:
        raise UsageError(line.problem)
    identity = {IDENTITY: line.fields[IDENTITY]} if source.manifest is None else {}
    raw = {name: value for name, value in line.fields.items() if name not in identity}
    directory = Path() if source.manifest is None else source.manifest.absolute().parent
    content = read_fields(source.action, raw, directory=directory) | identity
    whole = complete(source.action, source.options, content)
    key = item_key(source.action, whole)
    if source.action is FleetAction.STAMP and places.setdefault(hash(whole["out"]), _short(key)) != _short(key):
        raise UsageError(f"another item would become {whole['out']}, too", advice="name another out")
    return FleetItem(0, key, line.number, content)


def _short(key: str) -> int:
    """Return a part of a key that takes little memory, and that no two of a run share but by a rare chance."""
    return int(key[:15], 16)


def _registered(source: Source, registry: "Registry") -> Iterator[ManifestLine]:
    subject, after = FIELDS[source.action].subject, None
    while True:
        with registry.snapshot() as uow:
            models = uow.models.select(Selection(source.where, limit=AT_ONCE, after=after))
        for model in models:
            yield ManifestLine(0, {subject: model.location, IDENTITY: model.id})
        if len(models) < AT_ONCE:
            return
        after = models[-1].id
