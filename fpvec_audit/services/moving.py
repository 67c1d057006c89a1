"""Use case: take a registry elsewhere – into a file, out of one, as a backup and back.

The master key travels in none of these files: without it everything but the secrets can be read again, with it all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fpvec_audit.errors import RegistryError

if TYPE_CHECKING:
    from fpvec_audit.registry.backup import BackedUp
    from fpvec_audit.registry.master_key import MasterKeySource
    from fpvec_audit.registry.moving import Moved
    from fpvec_audit.registry.unit_of_work import Registry


@dataclass(frozen=True, slots=True)
class MovedRegistry:
    """A registry that was written to a file, or made of one.

    Attributes:
        location: the registry, without a password.
        file: the file; empty for a stream.
        schema: revision of the registry's schema.
        rows: number of rows in all tables of the file.
        entries: serial of the last ledger entry in the file; a registry that is made of it adds one about that.
        head: digest of that entry, empty while there is none.
        master_key: id of the key that its secrets are sealed with, empty while there are none.
        warnings: what whoever moves it should know, in sentences.
    """

    location: str
    file: str
    schema: str
    rows: int
    entries: int
    head: str
    master_key: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {name: getattr(self, name) for name in self.__slots__} | {"warnings": list(self.warnings)}


def export_registry(out: Path, *, registry: "Registry") -> MovedRegistry:
    """Write everything that a registry holds to a new file of JSON Lines, as of one moment.

    Raises:
        RegistryError: secrets lie in it in the clear, or it cannot be read.
        OutputError: the file exists, or cannot be written.
    """
    from fpvec_audit.registry.moving import write_registry
    from fpvec_audit.registry.private_files import new_private_file

    with new_private_file(out) as file:
        moved = write_registry(registry, file.write)
    return _moved(moved, registry.where, str(out), _without_key(moved.header.master_key, "the file"))


def export_to_stream(stream: BinaryIO, *, registry: "Registry") -> MovedRegistry:
    """Write everything that a registry holds to a stream, as :func:`export_registry` does."""
    from fpvec_audit.registry.moving import write_registry

    moved = write_registry(registry, stream.write)
    stream.flush()
    return _moved(moved, registry.where, "", _without_key(moved.header.master_key, "the stream"))


def import_registry(file: Path, *, registry: "Registry") -> MovedRegistry:
    """Fill an empty registry from a file of :func:`export_registry`, as a whole or not at all.

    Raises:
        RegistryError: the registry is not empty, or the file is of another schema, cut or altered.
    """
    from fpvec_audit.registry.ledger import IMPORTED

    return _filled(file, registry=registry, event=IMPORTED)


def import_from_stream(stream: BinaryIO, *, registry: "Registry") -> MovedRegistry:
    """Fill an empty registry from a stream, as :func:`import_registry` does."""
    from fpvec_audit.registry.moving import read_registry

    moved = read_registry(registry, stream)
    return _moved(moved, registry.where, "", _key_needed(moved.header.master_key, registry.keyring.source))


def backup_registry(out: Path, url: str) -> MovedRegistry:
    """Copy a registry as of one moment, while others write: an embedded one as a file, any other as JSON Lines.

    Args:
        out: the backup; a new file that only its owner may read.
        url: SQLAlchemy URL of the registry, of any schema where it is embedded.

    Raises:
        RegistryError: there is none, it is damaged, or out of reach.
        OutputError: the backup exists, or cannot be written.
    """
    from fpvec_audit.registry.backup import back_up_file
    from fpvec_audit.registry.database import database_file, parse_url
    from fpvec_audit.registry.unit_of_work import open_registry

    file = database_file(parse_url(url))
    if file is None:
        with open_registry(url, create=False) as registry:
            return export_registry(out, registry=registry)
    found = back_up_file(file, out)
    return _backed_up(found, str(file), out, _without_key(found.master_key, "the backup"))


def restore_registry(
    backup: Path,
    url: str,
    *,
    master_key: "MasterKeySource",
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    actor: str = "",
) -> MovedRegistry:
    """Put a backup where there is no registry, verified, as a whole or not at all.

    An entry in the ledger of the restored registry says so: what was recorded elsewhere after the backup was made, it
    cannot know.

    Args:
        backup: a file of :func:`backup_registry` (or of :func:`export_registry`).
        url: SQLAlchemy URL of a registry that is missing or empty.
        master_key: where the registry's key will come from; told whether it is the right one.
        clock: gives the time of that entry.
        actor: who acts, for the ledger.

    Raises:
        RegistryError: the registry is not empty, or the backup is cut, altered, or for another kind of database.
    """
    from fpvec_audit.registry.backup import is_backup_file, restore_file
    from fpvec_audit.registry.database import database_file, parse_url
    from fpvec_audit.registry.ledger import RESTORED
    from fpvec_audit.registry.unit_of_work import open_registry

    file = database_file(parse_url(url))
    if not is_backup_file(backup):
        with open_registry(url, clock=clock, master_key=master_key, actor=actor) as registry:
            return _filled(backup, registry=registry, event=RESTORED)
    if file is None:
        raise RegistryError(
            f"{backup} is the backup of an embedded registry and cannot be restored into a server",
            advice="restore it with --home DIRECTORY, then `fpvec registry export` and `fpvec registry import`",
        )
    found = restore_file(backup, file, clock=clock, who=actor)
    return _backed_up(found, str(file), backup, _key_needed(found.master_key, master_key))


def _filled(file: Path, *, registry: "Registry", event: str) -> MovedRegistry:
    from fpvec_audit.registry.moving import read_registry

    with _opened(file) as source:
        moved = read_registry(registry, source, event=event, file=file.name)
    return _moved(moved, registry.where, str(file), _key_needed(moved.header.master_key, registry.keyring.source))


def _backed_up(found: "BackedUp", location: str, file: Path, warnings: tuple[str, ...]) -> MovedRegistry:
    from fpvec_audit.registry.tables import SCHEMA_REVISION

    if found.plaintext:
        warnings += ("it is so old that secrets lie in it in the clear: keep it as you keep the master key",)
    if not found.noted:
        warnings += ("it was not made by `fpvec registry backup`: only its structure and its ledger were verified",)
    if found.revision != SCHEMA_REVISION:
        warnings += (f"it has schema {found.revision}: `fpvec registry upgrade` brings it to {SCHEMA_REVISION}",)
    return MovedRegistry(
        location,
        str(file),
        found.revision,
        sum(found.rows.values()),
        found.entries,
        found.head,
        found.master_key,
        warnings,
    )


def _moved(moved: "Moved", location: str, file: str, warnings: tuple[str, ...]) -> MovedRegistry:
    header = moved.header
    return MovedRegistry(
        location,
        file,
        header.schema,
        sum(moved.rows.values()),
        header.entries,
        header.head,
        header.master_key,
        warnings,
    )


def _without_key(master_key: str, what: str) -> tuple[str, ...]:
    if not master_key:
        return ()
    return (
        f"the master key {master_key} is not in {what}: back it up by itself, elsewhere; without it the secrets are "
        "lost",
    )


def _key_needed(master_key: str, source: "MasterKeySource") -> tuple[str, ...]:
    """Say which master key a registry needs, unless it is at hand."""
    from fpvec_audit.registry.master_key import KeyFile

    if not master_key:
        return ()
    if isinstance(source, KeyFile):
        try:
            held = {key.id for key in source.keys()}  # noqa: SIM118 - keys of a file
            if master_key in held:
                return ()
        except RegistryError as error:
            return (f"its secrets need the master key {master_key}, but {error.problem}",)
        return (f"its secrets need the master key {master_key}: put it into {source.path}",)
    return (f"its secrets need the master key {master_key}",)


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise RegistryError(f"{file} cannot be read: {error.strerror}", advice="name the file of an export") from error
