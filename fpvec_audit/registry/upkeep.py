"""What is left to do for a registry after a migration, and needs more than SQL: the master key, or a whole file.

A migration leaves facts in ``registry_fact``; each is removed when its work is done, so that whatever interrupts the
work, the next opening goes on with it.

* ``plaintext``: secrets of before there was a master key. ``rows``: they are to be sealed. ``pages``: they are, but
  pages of the file may still hold what they were, until it is written anew.
* ``sketches``: models recorded before parts of them could be recognised.
* ``suspects``: audits recorded before their suspects were.
"""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import InstrumentedAttribute, Session, undefer

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.database import LOCK_WAIT_SECONDS, describe, is_sqlite, reading, translated
from fpvec_audit.registry.roles import owns_tables
from fpvec_audit.registry.tables import (
    AuditRecordRow,
    AuditRow,
    FactRow,
    KeySetRow,
    ModelManifestRow,
    ModelTensorRow,
    SuspectRow,
    VaultSecretRow,
)

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

PLAINTEXT, ROWS, PAGES = "plaintext", "rows", "pages"
SKETCHES, SUSPECTS, DUE = "sketches", "suspects", "due"
_AT_ONCE = 500
_PATIENCE_AT_OPENING = 1.0
_SECRET_TABLES = ("vault_secret", "audit_record")
_DUE = {
    (PLAINTEXT, ROWS): "secrets of before there was a master key lie in the clear: `fpvec registry upgrade` seals them",
    (PLAINTEXT, PAGES): "pages of the database may still hold what secrets were before they were sealed: "
    "`fpvec registry upgrade` writes it anew",
    (SKETCHES, DUE): "models cannot be recognised by a part of them yet: `fpvec registry upgrade` makes that up",
}

RowType = TypeVar("RowType", VaultSecretRow, AuditRecordRow)

logger = logging.getLogger(__name__)


def facts(engine: Engine) -> dict[str, str]:
    """Return what a registry knows about itself, by name."""
    try:
        with Session(reading(engine)) as session:
            return {row.name: row.value for row in session.scalars(select(FactRow))}
    except DBAPIError as error:
        raise translated(error, describe(engine.url)) from error


def due(engine: Engine) -> tuple[str, ...]:
    """Return what is due, in sentences."""
    found = facts(engine)
    return tuple(_DUE[name, found[name]] for name in (PLAINTEXT, SKETCHES) if (name, found.get(name)) in _DUE)


def do_upkeep(registry: "Registry", *, patience: float | None = None) -> tuple[str, ...]:
    """Do what is due, and return what was done, in sentences.

    Args:
        registry: whose upkeep.
        patience: seconds to wait for others that use the database, before its file is left as it is; as long as for any
            lock when None.

    Raises:
        RegistryError: there is no master key to seal with, or the database cannot be written.
    """
    found, done = facts(registry.engine), []
    if found.get(PLAINTEXT) == ROWS:
        done += _seal_everything(registry)
    if PLAINTEXT in found:
        _write_anew(registry.engine, patience)
        _forget(registry, PLAINTEXT)
        done.append("the database was written anew, so that none of its pages holds what they were before")
    if SKETCHES in found:
        done.append(_sketch_everything(registry))
    if SUSPECTS in found:
        _meet_everybody(registry)
    return tuple(done)


def upkeep_at_opening(registry: "Registry", *, warn: Callable[[str], None] | None = None) -> None:
    """Do what is due, as far as whoever opens the registry can, without waiting for others.

    Args:
        registry: whose upkeep.
        warn: takes a sentence about what could not be done; it goes to the log when None.
    """
    if not facts(registry.engine).keys() & {PLAINTEXT, SKETCHES, SUSPECTS}:
        return
    if not owns_tables(registry.engine):
        logger.warning("upkeep of the registry is due: let the owner of its tables run `fpvec registry upgrade`")
        return
    try:
        do_upkeep(registry, patience=_PATIENCE_AT_OPENING)
    except RegistryError as error:
        sentence = f"upkeep of the registry is due, but could not be done: {error}"
        if warn is None:
            logger.warning("%s", sentence)
        else:
            warn(sentence)


def _seal_everything(registry: "Registry") -> list[str]:
    """Seal every secret that lies in the clear, in one transaction: all or none."""
    with registry.unit_of_work() as uow:
        if uow.session.scalar(select(FactRow.value).where(FactRow.name == PLAINTEXT)) != ROWS:
            return []  # another process was quicker
        secrets = sum(_seal_secret(uow, row) for row in _plain_rows(uow.session, VaultSecretRow, VaultSecretRow.id))
        place = (AuditRecordRow.audit_id, AuditRecordRow.serial)
        key_sets = {row.id: row.key_set_id for row in uow.session.execute(select(AuditRow.id, AuditRow.key_set_id))}
        rows = _plain_rows(uow.session, AuditRecordRow, *place)
        records = sum(_seal_record(uow, row, key_sets[row.audit_id]) for row in rows)
        uow.session.execute(update(FactRow).where(FactRow.name == PLAINTEXT).values(value=PAGES))
        uow.session.flush()
        uow.ledger.append("vault.sealed", "registry", {"secrets": secrets, "records": records, "who": registry.actor})
    return [f"{secrets} secrets and {records} records of transcripts were sealed"]


def _plain_rows(session: Session, table: type[RowType], *key: InstrumentedAttribute[Any]) -> Iterator[RowType]:
    """Yield the rows of a table that lie in the clear, a page at a time, so that memory does not grow with them."""
    from fpvec_audit.registry.vault import PLAIN

    statement = select(table).where(table.scheme == PLAIN).options(undefer("*")).order_by(*key).limit(_AT_ONCE)
    while page := session.scalars(statement).all():  # those that were sealed are found no more
        yield from page
        session.flush()
        session.expunge_all()


def _seal_secret(uow: "UnitOfWork", row: VaultSecretRow) -> int:
    from fpvec_audit.registry.vault import secret_place

    session = uow.session
    key_set = session.scalar(select(KeySetRow.id).where(KeySetRow.id == row.subject))
    if key_set is None:
        key_set = session.scalar(select(AuditRow.key_set_id).where(AuditRow.id == row.subject))
    value = uow.vault.sealed_at(secret_place(row.kind, row.subject), row.ciphertext, key_set=key_set)
    row.scheme, row.data_key_id, row.ciphertext = value.scheme, value.data_key, value.content
    return 1


def _seal_record(uow: "UnitOfWork", row: AuditRecordRow, key_set: str) -> int:
    from fpvec_audit.registry.vault import record_place

    value = uow.vault.sealed_at(record_place(row.audit_id, row.serial), row.content, key_set=key_set)
    row.scheme, row.data_key_id, row.content = value.scheme, value.data_key, value.content
    return 1


def _write_anew(engine: Engine, patience: float | None) -> None:
    """Let no page hold what rows were before; nothing else may use the database meanwhile.

    Raises:
        RegistryError: something does.
    """
    embedded = is_sqlite(engine.url)
    if embedded:
        wait = [] if patience is None else [f"PRAGMA busy_timeout={int(patience * 1000)}"]
        statements = [*wait, "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]
    else:  # with the samples that the planner keeps of every column
        wait = [f"SET lock_timeout = {int((LOCK_WAIT_SECONDS if patience is None else patience) * 1000)}"]
        statements = [*wait, *(f"VACUUM (FULL, ANALYZE) {table}" for table in _SECRET_TABLES)]
    connection = engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        if not embedded:
            driver.autocommit = True
        for statement in statements:
            rows = _execute(driver, statement)
            if "wal_checkpoint" in statement and rows[0][0]:
                raise _in_use(engine)
    except engine.dialect.loaded_dbapi.Error as error:
        failure = translated(DBAPIError("", None, error), describe(engine.url))
        raise (_in_use(engine) if "locked" in failure.problem else failure) from error
    finally:
        connection.invalidate()
        connection.close()


def _execute(driver: Any, statement: str) -> list[tuple[Any, ...]]:
    cursor = driver.execute(statement)
    return list(cursor.fetchall()) if cursor.description else []  # a result that is not read holds VACUUM up


def _in_use(engine: Engine) -> RegistryError:
    return RegistryError(
        f"the secrets of the registry {describe(engine.url)} are sealed, but it is in use by another process, so that "
        "pages of it may still hold what they were",
        advice="end what uses it and run `fpvec registry upgrade`",
    )


def _sketch_everything(registry: "Registry") -> str:
    """Make every recorded model findable by its tensors, in transactions of a few models."""
    from fpvec_audit.domain.manifest import Manifest
    from fpvec_audit.domain.sketch import sketch
    from fpvec_audit.registry.repositories.sketches import add_sketch

    models = 0
    for identifiers in _batches(registry.engine):
        models += len(identifiers)
        with registry.unit_of_work() as uow:
            session = uow.session
            for identifier in identifiers:
                content = session.scalar(
                    select(ModelManifestRow.content).where(ModelManifestRow.model_id == identifier)
                )
                session.execute(delete(ModelTensorRow).where(ModelTensorRow.model_id == identifier))
                values = () if content is None else sketch(Manifest.from_bytes(content))
                add_sketch(session, identifier, values)
    _forget(registry, SKETCHES)
    return f"{models} models can be recognised by a part of them"


def _meet_everybody(registry: "Registry") -> None:
    """Record every suspect that was audited before suspects were, as its first audit has it."""
    from fpvec_audit.registry.repositories.suspects import suspect_kind

    unmet = (
        select(AuditRow.suspect_digest)
        .where(AuditRow.suspect_digest != "", AuditRow.suspect_digest.not_in(select(SuspectRow.id)))
        .group_by(AuditRow.suspect_digest)
        .order_by(func.min(AuditRow.created_at), AuditRow.suspect_digest)
    )
    with registry.unit_of_work() as uow:
        for digest in uow.session.scalars(unmet).all():
            audits = select(AuditRow).where(AuditRow.suspect_digest == digest)
            first = uow.session.scalars(audits.order_by(AuditRow.created_at, AuditRow.id).limit(1)).one()
            uow.suspects.meet(digest, suspect_kind(first.plan), location=first.suspect, at=first.created_at)
        uow.session.execute(delete(FactRow).where(FactRow.name == SUSPECTS))


def _batches(engine: Engine) -> Iterator[list[str]]:
    with Session(reading(engine)) as session:
        identifiers = list(session.scalars(select(ModelManifestRow.model_id).order_by(ModelManifestRow.model_id)))
    for start in range(0, len(identifiers), _AT_ONCE):
        yield identifiers[start : start + _AT_ONCE]


def _forget(registry: "Registry", name: str) -> None:
    with registry.unit_of_work() as uow:
        uow.session.execute(delete(FactRow).where(FactRow.name == name))
