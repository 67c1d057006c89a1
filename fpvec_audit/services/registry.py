"""Look after the registry itself: make it, bring it up to date, check it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.services.master_key import MasterKeyState, master_key_state

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from fpvec_audit.registry.master_key import MasterKeySource


@dataclass(frozen=True, slots=True)
class RegistryState:
    """Where a registry stands.

    Attributes:
        location: file or URL, without a password.
        revision: schema it has now; empty when it has none.
        needed: schema that this program needs.
        before: schema it had before; empty when it had none.
        problems: what is wrong, in sentences; empty when all is well.
        done: what was made up for on the way, in sentences ("3 secrets … were sealed").
        due: what is left to be made up for, in sentences.
        master_key: which master key seals the secrets, and whether the given one does; None where it was not asked.
        remarks: what an administrator may want to do, in sentences.
    """

    location: str
    revision: str
    needed: str
    before: str
    problems: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    due: tuple[str, ...] = ()
    master_key: MasterKeyState | None = None
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
            "done": list(self.done),
            "due": list(self.due),
            "master_key": None if self.master_key is None else self.master_key.to_json(),
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


def upgrade_registry(url: str, *, master_key: "MasterKeySource | None" = None, actor: str = "") -> RegistryState:
    """Bring a registry to this program's schema, and seal what older ones kept in the clear; its content is kept.

    Args:
        url: SQLAlchemy URL.
        master_key: where the key comes from that seals; a file beside an embedded registry when None.
        actor: who acts, for the ledger.

    Raises:
        RegistryError: it is newer than this program, somebody else's, or out of reach; there is no master key to seal
            with; or others use it, so that its file could not be written anew. Doing it again goes on from there.
    """
    from fpvec_audit.registry import schema
    from fpvec_audit.registry.unit_of_work import open_registry
    from fpvec_audit.registry.upkeep import do_upkeep

    with _engine(url) as engine:
        before, _ = schema.upgrade(engine)
        state = _state(engine, before=before or "")
    done: list[str] = []
    open_registry(
        url, master_key=master_key, actor=actor, upkeep=lambda registry: done.extend(do_upkeep(registry))
    ).close()
    return replace(state, done=tuple(done))


def check_registry(url: str, *, master_key: "MasterKeySource | None" = None) -> RegistryState:
    """Say whether a registry has this program's schema and holds together; nothing is changed or created.

    It says too which master key the registry needs and whether the given one is it; that it is not is no problem of
    the registry.

    Args:
        url: SQLAlchemy URL.
        master_key: what is given; a file beside an embedded registry when None.

    Raises:
        RegistryError: there is none, or it is out of reach.
    """
    from fpvec_audit.registry import schema
    from fpvec_audit.registry.tables import SCHEMA_REVISION
    from fpvec_audit.registry.unit_of_work import beside
    from fpvec_audit.registry.upkeep import due

    with _engine(url) as engine:
        revision = _revision(engine, create=False)
        problems = schema.problems(engine)
        state = RegistryState(
            _location(engine), revision, SCHEMA_REVISION, revision, problems, remarks=schema.remarks(engine)
        )
        if revision != SCHEMA_REVISION or _lacks_tables(problems):
            return state
        return replace(state, due=due(engine), master_key=master_key_state(engine, master_key or beside(engine.url)))


def _state(engine: "Engine", *, before: str) -> RegistryState:
    from fpvec_audit.registry.tables import SCHEMA_REVISION

    return RegistryState(_location(engine), SCHEMA_REVISION, SCHEMA_REVISION, before)


def _revision(engine: "Engine", *, create: bool) -> str:
    from fpvec_audit.registry import schema

    return schema.revision_of(engine, create=create) or ""


def _location(engine: "Engine") -> str:
    from fpvec_audit.registry.database import describe

    return describe(engine.url)


def _lacks_tables(problems: tuple[str, ...]) -> bool:
    return any(table in problem for problem in problems for table in ("master_key", "registry_fact"))


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
