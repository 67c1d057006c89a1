"""Look after the registry itself: make it, bring it up to date, check it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import LedgerEntry

if TYPE_CHECKING:
    from sqlalchemy import Engine


@dataclass(frozen=True, slots=True)
class RegistryState:
    """Where a registry stands.

    Attributes:
        location: file or URL, without a password.
        revision: schema it has now; empty when it has none.
        needed: schema that this program needs.
        before: schema it had before; empty when it had none.
        problems: what is wrong, in sentences; empty when all is well.
        remarks: what an administrator may want to do, in sentences.
    """

    location: str
    revision: str
    needed: str
    before: str
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def current(self) -> bool:
        """Whether this program can work with it."""
        return self.revision == self.needed and not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "location": self.location,
            "revision": self.revision,
            "needed": self.needed,
            "before": self.before,
            "current": self.current,
            "problems": list(self.problems),
            "warnings": list(self.remarks),
        }


def init_registry(url: str) -> RegistryState:
    """Make a registry where there is none; one that is there is left as it is.

    Raises:
        RegistryError: it is outdated, newer than this program, somebody else's, or out of reach.
    """
    from fpvec_audit.registry import schema

    with _engine(url) as engine:
        before = _revision(engine, create=True)
        schema.prepare(engine)
        return _state(engine, before=before)


def upgrade_registry(url: str) -> RegistryState:
    """Bring a registry to this program's schema; its content is kept.

    Raises:
        RegistryError: it is newer than this program, somebody else's, or out of reach.
    """
    from fpvec_audit.registry import schema

    with _engine(url) as engine:
        before, _ = schema.upgrade(engine)
        return _state(engine, before=before or "")


def check_registry(url: str) -> RegistryState:
    """Say whether a registry has this program's schema and holds together; nothing is changed or created.

    Raises:
        RegistryError: there is none, or it is out of reach.
    """
    from fpvec_audit.registry import schema
    from fpvec_audit.registry.tables import SCHEMA_REVISION

    with _engine(url) as engine:
        revision = _revision(engine, create=False)
        problems, remarks = schema.problems(engine), schema.remarks(engine)
        return RegistryState(_location(engine), revision, SCHEMA_REVISION, revision, problems, remarks)


def _state(engine: "Engine", *, before: str) -> RegistryState:
    from fpvec_audit.registry.tables import SCHEMA_REVISION

    return RegistryState(_location(engine), SCHEMA_REVISION, SCHEMA_REVISION, before)


def _revision(engine: "Engine", *, create: bool) -> str:
    from fpvec_audit.registry import schema

    return schema.revision_of(engine, create=create) or ""


def _location(engine: "Engine") -> str:
    from fpvec_audit.registry.database import describe

    return describe(engine.url)


@contextmanager
def _engine(url: str) -> "Iterator[Engine]":
    from fpvec_audit.registry.database import make_engine

    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def entry_json(entry: LedgerEntry) -> dict[str, Any]:
    """Return a ledger entry as the JSON object that scripts read."""
    return {
        "serial": entry.serial,
        "at": entry.at,
        "event": entry.event,
        "subject": entry.subject,
        "content": dict(entry.content),
        "previous": entry.previous,
        "digest": entry.digest,
    }
