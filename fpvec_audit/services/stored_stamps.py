"""Use case: stamp models that lie elsewhere, and publish the copies there.

Models, vectors and the base are fetched into scratch, copies are made in a workspace beside them, published, and
forgotten here. A copy is recorded when it is made, and *moves* to its address when it lies there: so the registry never
says of an address what is not there yet, and a command that was killed in between is simply given again.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.attack_copies import named_size
from fpvec_audit.storage.addresses import Address, is_url, read_address
from fpvec_audit.storage.fetching import fetched
from fpvec_audit.storage.publishing import publish

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork
    from fpvec_audit.services.stamped_model import StampedModel
    from fpvec_audit.storage.scratch import Scratch


@dataclass(frozen=True, slots=True)
class StampPlaces:
    """What a stamp reads and where its copies go; each is a path or a URL.

    Attributes:
        downstreams: models to stamp.
        vectors: ids or places, each with ``:SCALE`` where it is not 1.
        out: place of the stamped model; of several, what holds them.
        base: place of the base, None where it is not given.
    """

    downstreams: tuple[str, ...]
    vectors: tuple[str, ...]
    out: str
    base: str | None = None


@dataclass(frozen=True, slots=True)
class LocalPlaces:
    """The same on this machine.

    Attributes:
        downstreams: directories.
        vectors: ids or directories, with their scales.
        out: directory to make.
        base: directory, None where none is given.
    """

    downstreams: tuple[Path, ...]
    vectors: tuple[str, ...]
    out: Path
    base: Path | None


def stamp_stored(
    places: StampPlaces,
    make: "Callable[[LocalPlaces], list[StampedModel]]",
    *,
    copies: int,
    scratch: "Scratch",
    registry: "Registry",
    progress: Progress = NO_PROGRESS,
) -> "list[StampedModel]":
    """Fetch what a stamp reads, stamp, and publish what it made; plain paths are used where they lie.

    Args:
        places: what is read, and where copies go.
        make: stamps with everything on this machine, as :func:`~fpvec_audit.services.stamp.stamp_models` does.
        copies: of each downstream model.
        scratch: where fetched things and unpublished copies lie.
        registry: where copies are recorded.
        progress: where to report.

    Returns:
        what ``make`` gave, with the addresses of what was published.

    Raises:
        UsageError: a URL cannot be read, or a package for it is missing.
        StorageError: a place holds nothing whole, or cannot be reached.
        OutputError: something else lies at the output, or scratch has no room.
    """
    if not any(map(is_url, (*places.downstreams, *places.vectors, places.out, places.base or ""))):
        return make(
            LocalPlaces(tuple(map(Path, places.downstreams)), places.vectors, Path(places.out), _path(places.base))
        )
    address = read_address(places.out) if is_url(places.out) else None  # read before anything is fetched
    with ExitStack() as stack:

        def here(place: str, *, keep: bool) -> Path:
            return stack.enter_context(fetched(place, scratch=scratch, keep=keep, progress=progress))

        def vector_here(text: str) -> str:
            place, scale = split_scale(text)
            return f"{here(place, keep=True)}{scale}" if is_url(place) else text

        vectors = tuple(vector_here(text) for text in places.vectors)
        base = None if places.base is None else here(places.base, keep=True)
        local = LocalPlaces(
            tuple(here(place, keep=False) for place in places.downstreams), vectors, Path(places.out), base
        )
        if address is not None:
            sources = (
                *local.downstreams,
                *([] if base is None else [base]),
            )  # an adapter's copy is as large as its base
            workspace = stack.enter_context(scratch.workspace(copies * sum(map(named_size, sources))))
            local = replace(local, out=workspace / address.name)
        made = make(local)
        each = len(made) // len(places.downstreams)
        with registry.unit_of_work() as uow:  # at once: publishing may fail, and what was fetched goes either way
            for number, stamp in enumerate(made):
                _originate(uow, stamp, places.downstreams[number // each])
        if address is not None:
            made = [_published(stamp, local.out, address, progress=progress) for stamp in made]
            with registry.unit_of_work() as uow:
                for stamp in made:
                    _move(uow, stamp)
        return made


def _published(stamp: "StampedModel", root: Path, address: Address, *, progress: Progress) -> "StampedModel":
    """Publish a copy at the address, or below it where there are several."""
    relative = stamp.out.relative_to(root)
    url = address.url if relative == Path() else f"{address.url}/{relative.as_posix()}"
    publish(stamp.out, url, progress=progress)
    return replace(stamp, address=read_address(url).shown)


def _path(place: str | None) -> Path | None:
    return None if place is None else Path(place)


def split_scale(text: str) -> tuple[str, str]:
    """Return the place or id of a vector, and ``:SCALE`` or nothing; the colon of ``://`` begins no scale."""
    place, colon, scale = text.rpartition(":")
    return (place, f":{scale}") if colon and not scale.startswith("//") else (text, "")


def _originate(uow: "UnitOfWork", stamp: "StampedModel", origin: str) -> None:
    """Record where the model lies for good that a copy was made from."""
    if is_url(origin) and stamp.adapter is None:
        uow.models.add(replace(uow.models.get(stamp.downstream_digest), location=read_address(origin).shown))


def _move(uow: "UnitOfWork", stamp: "StampedModel") -> None:
    """Record where a copy lies for good."""
    record = uow.stamps.get(stamp.stamp_id)
    if record.location != stamp.address:
        uow.stamps.add(replace(record, location=stamp.address))
    uow.models.add(replace(uow.models.get(stamp.digest), location=stamp.address))
