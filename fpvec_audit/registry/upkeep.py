"""What is left to do for a registry after a migration, and needs more than SQL: the master key, or a whole file.

A migration leaves facts in ``registry_fact``; each is removed when its work is done, so that whatever interrupts the
work, the next opening goes on with it.

* ``plaintext``: secrets of before there was a master key. ``rows``: they are to be sealed. ``pages``: they are, but
  pages of the file may still hold what they were, until it is written anew.
* ``sketches``: models recorded before parts of them could be recognised.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.database import describe, is_sqlite, reading, translated
from fpvec_audit.registry.tables import (
    AuditRecordRow,
    AuditRow,
    FactRow,
    KeySetRow,
    ModelManifestRow,
    ModelTensorRow,
    VaultSecretRow,
)

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

PLAINTEXT, ROWS, PAGES = "plaintext", "rows", "pages"
SKETCHES, DUE = "sketches", "due"
_AT_ONCE = 500

logger = logging.getLogger(__name__)


def facts(engine: Engine) -> dict[str, str]:
    """Return what a registry knows about itself, by name."""
    try:
        with Session(reading(engine)) as session:
            return {row.name: row.value for row in session.scalars(select(FactRow))}
    except DBAPIError as error:
        raise translated(error, describe(engine.url)) from error


def do_upkeep(registry: "Registry") -> tuple[str, ...]:
    """Do what is due, and return what was done, in sentences.

    Raises:
        RegistryError: there is no master key to seal with, or the database cannot be written.
    """
    due, done = facts(registry.engine), []
    if due.get(PLAINTEXT) == ROWS:
        done.append(_seal_everything(registry))
    if PLAINTEXT in due:
        _write_anew(registry.engine)
        _forget(registry, PLAINTEXT)
    if SKETCHES in due:
        _sketch_everything(registry)
    return tuple(done)


def upkeep_at_opening(registry: "Registry") -> None:
    """Do what is due, as far as whoever opens the registry can; a warning tells of the rest."""
    try:
        do_upkeep(registry)
    except RegistryError as error:
        logger.warning("upkeep of the registry is due, but could not be done: %s", error)


def _seal_everything(registry: "Registry") -> str:
    """Seal every secret that lies in the clear, in one transaction."""
    from fpvec_audit.registry.vault import PLAIN

    with registry.unit_of_work() as uow:
        session = uow.session
        secrets = session.scalars(select(VaultSecretRow).where(VaultSecretRow.scheme == PLAIN)).all()
        for secret in secrets:
            _seal_secret(uow, secret)
        records = 0
        statement = select(AuditRecordRow, AuditRow.key_set_id).join(AuditRow, AuditRow.id == AuditRecordRow.audit_id)
        for record, key_set in session.execute(statement.where(AuditRecordRow.scheme == PLAIN)).all():
            _seal_record(uow, record, key_set)
            records += 1
        session.execute(update(FactRow).where(FactRow.name == PLAINTEXT).values(value=PAGES))
        session.flush()
        uow.ledger.append(
            "vault.sealed", "registry", {"secrets": len(secrets), "records": records, "who": registry.actor}
        )
    return f"{len(secrets)} secrets and {records} records of transcripts were sealed"


def _seal_secret(uow: "UnitOfWork", row: VaultSecretRow) -> None:
    from fpvec_audit.registry.vault import secret_place

    session = uow.session
    key_set = row.subject if session.get(KeySetRow, row.subject) is not None else None
    if key_set is None:
        key_set = session.scalar(select(AuditRow.key_set_id).where(AuditRow.id == row.subject))
    value = uow.vault.sealed_at(secret_place(row.kind, row.subject), row.ciphertext, key_set=key_set)
    row.scheme, row.data_key_id, row.ciphertext = value.scheme, value.data_key, value.content


def _seal_record(uow: "UnitOfWork", row: AuditRecordRow, key_set: str) -> None:
    from fpvec_audit.registry.vault import record_place

    value = uow.vault.sealed_at(record_place(row.audit_id, row.serial), row.content, key_set=key_set)
    row.scheme, row.data_key_id, row.content = value.scheme, value.data_key, value.content


def _write_anew(engine: Engine) -> None:
    """Let no page hold what rows were before; nothing else may use the database meanwhile."""
    statements = ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")
    if not is_sqlite(engine.url):
        statements = ("VACUUM FULL vault_secret", "VACUUM FULL audit_record")
    connection = engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        if not is_sqlite(engine.url):
            driver.autocommit = True
        for statement in statements:
            row = driver.execute(statement)
            if statement.startswith("PRAGMA") and (busy := row.fetchone()) and busy[0]:
                raise RegistryError(
                    f"the registry {describe(engine.url)} is in use, so that its log could not be emptied",
                    advice="end what uses it and run `fpvec registry upgrade`",
                )
    except engine.dialect.loaded_dbapi.Error as error:
        raise translated(DBAPIError("", None, error), describe(engine.url)) from error
    finally:
        connection.invalidate()
        connection.close()


def _sketch_everything(registry: "Registry") -> None:
    """Make every recorded model findable by its tensors, in transactions of a few models."""
    from fpvec_audit.domain.manifest import Manifest
    from fpvec_audit.domain.sketch import sketch
    from fpvec_audit.registry.repositories.sketches import add_sketch

    for identifiers in _batches(registry.engine):
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


def _batches(engine: Engine) -> Iterator[list[str]]:
    with Session(reading(engine)) as session:
        identifiers = list(session.scalars(select(ModelManifestRow.model_id).order_by(ModelManifestRow.model_id)))
    for start in range(0, len(identifiers), _AT_ONCE):
        yield identifiers[start : start + _AT_ONCE]


def _forget(registry: "Registry", name: str) -> None:
    with registry.unit_of_work() as uow:
        uow.session.execute(delete(FactRow).where(FactRow.name == name))
