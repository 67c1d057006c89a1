"""Rows of the registry: SQLAlchemy mappings that nothing outside this package sees.

The shape lasts from the first migration on: a key set has marks and candidates, a training run is a vector family, a
stamp joins any number of vectors. Prompts and responses have no column: they follow from the secret in the vault.
What is secret lies in ``vault_secret.ciphertext`` and ``audit_record.content``, and nowhere else; these columns and
``data_key.wrapped`` are loaded only where a query asks for them, as an auditor's login may not read them.
A list is read in the order of an index, which is why times stand in indexes after what they are listed by.
Everything is portable between SQLite and PostgreSQL; what is peculiar to one of them lives in ``database.py`` and in
the migrations.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_REVISION = "0006"
"""Migration whose result these mappings describe; a test compares it with the head of ``migrations/``."""

DIGEST_LENGTH = 64
IDENTIFIER_LENGTH = 64
NAME_LENGTH = 200


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on every database, also where the column type forgets the zone (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; a naive time is a bug and refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time in the registry has a zone, {value!r} has none")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back the zone that the database may have dropped."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Shared metadata, with constraint names that a later migration can refer to."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON}  # noqa: RUF012 - read by SQLAlchemy


class FactRow(Base):
    """What the registry knows about itself, by name: its own id, and upkeep that is due."""

    __tablename__ = "registry_fact"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class LicenseeRow(Base):
    """Whom stamped copies and key sets are issued to."""

    __tablename__ = "licensee"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    created_at: Mapped[datetime]

    __table_args__ = (Index(None, "created_at", "id"),)


class ModelRow(Base):
    """A checkpoint by canonical digest. ``base_id``, where the line of its parents ends, is there to be listed by."""

    __tablename__ = "model"

    id: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    role: Mapped[str] = mapped_column(String(20))
    architecture: Mapped[str] = mapped_column(String(NAME_LENGTH))
    location: Mapped[str] = mapped_column(Text)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("model.id"))
    base_id: Mapped[str | None] = mapped_column(ForeignKey("model.id"))
    parameters: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]

    __table_args__ = (
        Index(None, "created_at", "id"),
        Index(None, "role", "created_at", "id"),
        Index(None, "parent_id", "created_at", "id"),
        Index(None, "base_id", "created_at", "id"),
    )


class ModelManifestRow(Base):
    """The tensors of a checkpoint by digest (``domain/manifest.py``): what says which of them differs."""

    __tablename__ = "model_manifest"

    model_id: Mapped[str] = mapped_column(ForeignKey("model.id"), primary_key=True)
    tensors: Mapped[int] = mapped_column(Integer)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class ModelTensorRow(Base):
    """A few fixed tensors of every model by content, by which a part of it is recognised (``domain/sketch.py``)."""

    __tablename__ = "model_tensor"

    content: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id"), primary_key=True)

    __table_args__ = ({"sqlite_with_rowid": False},)


class DigestedFilesRow(Base):
    """Files as they were when they were digested (``tensors/file_state.py``), so that they need not be read again."""

    __tablename__ = "digested_files"

    state: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))


class KeySetRow(Base):
    """An issued key set; its secret lies in the vault."""

    __tablename__ = "key_set"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    owner: Mapped[str] = mapped_column(String(NAME_LENGTH))
    licensee_id: Mapped[str | None] = mapped_column(ForeignKey("licensee.id"))
    commitment: Mapped[dict[str, Any]]
    commitment_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), unique=True)
    root: Mapped[str] = mapped_column(String(DIGEST_LENGTH), index=True)
    grade: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20), server_default="issued")
    chance: Mapped[str] = mapped_column(Text)
    base_id: Mapped[str | None] = mapped_column(ForeignKey("model.id"))
    created_at: Mapped[datetime]

    __table_args__ = (
        Index(None, "created_at", "id"),
        Index(None, "owner", "created_at", "id"),
        Index(None, "licensee_id", "created_at", "id"),
        Index(None, "base_id", "created_at", "id"),
        Index(None, "state", "created_at", "id"),
    )


class MarkRow(Base):
    """A group of issued keys with a vector of its own."""

    __tablename__ = "mark"

    key_set_id: Mapped[str] = mapped_column(ForeignKey("key_set.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class CandidateRow(Base):
    """A committed candidate: its place, its mark if it is issued, and the leaf that hides its text."""

    __tablename__ = "candidate"

    key_set_id: Mapped[str] = mapped_column(ForeignKey("key_set.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    mark: Mapped[int | None] = mapped_column(Integer)
    leaf: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    burnt_at: Mapped[datetime | None]
    burnt_in: Mapped[str | None] = mapped_column(String(IDENTIFIER_LENGTH))

    __table_args__ = (ForeignKeyConstraint(["key_set_id", "mark"], ["mark.key_set_id", "mark.number"]),)


class CodeRow(Base):
    """The code of a key set with several marks: which words there are, and what binds their secret order."""

    __tablename__ = "code"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    key_set_id: Mapped[str] = mapped_column(ForeignKey("key_set.id"), unique=True)
    text: Mapped[str] = mapped_column(String(NAME_LENGTH))
    colluders: Mapped[int] = mapped_column(Integer)
    epsilon: Mapped[str] = mapped_column(Text)
    binding: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    created_at: Mapped[datetime]


class CodeWordRow(Base):
    """Which number of a code a licensee was issued, and a salted digest of the word; the word itself is secret."""

    __tablename__ = "code_word"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    code_id: Mapped[str] = mapped_column(ForeignKey("code.id"))
    number: Mapped[int] = mapped_column(Integer)
    licensee_id: Mapped[str] = mapped_column(ForeignKey("licensee.id"))
    commitment: Mapped[str] = mapped_column(String(DIGEST_LENGTH), unique=True)
    state: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("code_id", "number"),
        Index(None, "licensee_id", "code_id"),
        Index(None, "code_id", "created_at", "id"),
    )


class VectorFamilyRow(Base):
    """One fingerprint training; a plain vector is a family of one."""

    __tablename__ = "vector_family"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    key_set_id: Mapped[str | None] = mapped_column(ForeignKey("key_set.id"), index=True)
    base_id: Mapped[str] = mapped_column(ForeignKey("model.id"), index=True)
    created_at: Mapped[datetime]


class VectorRow(Base):
    """A fingerprint vector on disk, one per mark of its family (and per way of storing it)."""

    __tablename__ = "vector"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), unique=True)
    family_id: Mapped[str] = mapped_column(ForeignKey("vector_family.id"))
    mark: Mapped[int] = mapped_column(Integer)
    fingerprinted_id: Mapped[str] = mapped_column(ForeignKey("model.id"), index=True)
    architecture: Mapped[str] = mapped_column(String(NAME_LENGTH))
    location: Mapped[str] = mapped_column(Text)
    inexact_elements: Mapped[int] = mapped_column(BigInteger)
    norm: Mapped[float] = mapped_column(Double)
    created_at: Mapped[datetime]

    __table_args__ = (Index(None, "created_at", "id"), Index(None, "family_id", "created_at", "id"))


class StampRow(Base):
    """A stamped copy of a downstream model.

    ``base_id`` and ``key_set_id`` follow from its first vector, so that it can be listed by them.
    """

    __tablename__ = "stamp"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    downstream_id: Mapped[str] = mapped_column(ForeignKey("model.id"))
    stamped_id: Mapped[str] = mapped_column(ForeignKey("model.id"), index=True)
    licensee_id: Mapped[str | None] = mapped_column(ForeignKey("licensee.id"))
    base_id: Mapped[str | None] = mapped_column(ForeignKey("model.id"))
    key_set_id: Mapped[str | None] = mapped_column(ForeignKey("key_set.id"))
    location: Mapped[str] = mapped_column(Text)
    applied_ratio: Mapped[float] = mapped_column(Double)
    cosine: Mapped[float] = mapped_column(Double)
    policies: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]

    __table_args__ = (
        Index(None, "created_at", "id"),
        Index(None, "licensee_id", "created_at", "id"),
        Index(None, "downstream_id", "created_at", "id"),
        Index(None, "base_id", "created_at", "id"),
        Index(None, "key_set_id", "created_at", "id"),
    )


class StampVectorRow(Base):
    """Which vector went into a stamp, at which scale, in the order given."""

    __tablename__ = "stamp_vector"

    stamp_id: Mapped[str] = mapped_column(ForeignKey("stamp.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    vector_id: Mapped[str] = mapped_column(ForeignKey("vector.id"))
    scale: Mapped[float] = mapped_column(Double)

    __table_args__ = (Index(None, "vector_id", "stamp_id"),)


class SuspectRow(Base):
    """Who was audited: a checkpoint by canonical digest or an endpoint, and when it was met first."""

    __tablename__ = "suspect"

    id: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    location: Mapped[str] = mapped_column(Text)
    first_seen_at: Mapped[datetime]

    __table_args__ = (Index(None, "first_seen_at", "id"), Index(None, "kind", "first_seen_at", "id"))


class AuditRow(Base):
    """An audit: planned before the first query, finished once."""

    __tablename__ = "audit"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    key_set_id: Mapped[str] = mapped_column(ForeignKey("key_set.id"))
    suspect: Mapped[str] = mapped_column(Text)
    suspect_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    plan_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), index=True)
    plan: Mapped[dict[str, Any]]
    begin: Mapped[dict[str, Any] | None]
    verdict: Mapped[str] = mapped_column(String(20))
    result: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "created_at", "id"),
        Index(None, "key_set_id", "created_at", "id"),
        Index(None, "verdict", "created_at", "id"),
        Index(None, "suspect_digest", "created_at", "id"),
    )


class AuditRecordRow(Base):
    """One record of an audit's transcript, appended as it arrived, sealed because it holds prompts.

    Under scheme ``plain``, of before there was a master key, the content is the record's canonical JSON itself.
    """

    __tablename__ = "audit_record"

    audit_id: Mapped[str] = mapped_column(ForeignKey("audit.id"), primary_key=True)
    serial: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    scheme: Mapped[str] = mapped_column(String(40))
    data_key_id: Mapped[str | None] = mapped_column(ForeignKey("data_key.id"), index=True)
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))


class RecordedAuditRow(Base):
    """An audit that somebody handed over as a bundle, which verified; of another owner's registry or of this one.

    The bundle itself is not kept: it opens candidates. Ids are those of its owner's registry.
    """

    __tablename__ = "recorded_audit"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    bundle: Mapped[str] = mapped_column(String(DIGEST_LENGTH), index=True)
    audit: Mapped[str] = mapped_column(Text)
    key_set: Mapped[str] = mapped_column(Text)
    commitment: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    suspect: Mapped[str] = mapped_column(Text)
    suspect_digest: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str] = mapped_column(String(20))
    alpha: Mapped[str] = mapped_column(Text)
    grade: Mapped[str] = mapped_column(String(20))
    signer: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    key_from: Mapped[str] = mapped_column(String(20))
    ordering: Mapped[str] = mapped_column(Text)
    location: Mapped[str] = mapped_column(Text)
    recorded_at: Mapped[datetime]
    recorded_by: Mapped[str] = mapped_column(Text)

    __table_args__ = (Index(None, "recorded_at", "id"),)


class AttackRunRow(Base):
    """One cell of a robustness run."""

    __tablename__ = "attack_run"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    stamped_id: Mapped[str] = mapped_column(ForeignKey("model.id"), index=True)
    key_set_id: Mapped[str] = mapped_column(ForeignKey("key_set.id"), index=True)
    attack: Mapped[str] = mapped_column(String(NAME_LENGTH))
    parameters: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20))
    result: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class JobRow(Base):
    """Long work under way or ended."""

    __tablename__ = "job"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    kind: Mapped[str] = mapped_column(String(NAME_LENGTH))
    state: Mapped[str] = mapped_column(String(20))
    detail: Mapped[dict[str, Any]]
    process: Mapped[int] = mapped_column(BigInteger)
    host: Mapped[str] = mapped_column(String(255))
    identity: Mapped[str] = mapped_column(String(NAME_LENGTH))
    command: Mapped[list[str]] = mapped_column(JSON)
    directory: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime | None]
    cancel_asked_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "started_at", "id"),
        Index(None, "state", "started_at", "id"),
        Index(None, "kind", "started_at", "id"),
    )


class FleetRunRow(Base):
    """One thing done to many models; ``job_id`` is the job of its last driver."""

    __tablename__ = "fleet_run"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    action: Mapped[str] = mapped_column(String(20))
    options: Mapped[dict[str, Any]]
    source: Mapped[str] = mapped_column(Text)
    retries: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(20))
    items: Mapped[int] = mapped_column(BigInteger)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("job.id"))
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "created_at", "id"), Index(None, "state", "created_at", "id"))


class FleetItemRow(Base):
    """One model of a fleet run, and what became of it."""

    __tablename__ = "fleet_item"

    run_id: Mapped[str] = mapped_column(ForeignKey("fleet_run.id"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    line: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20))
    attempts: Mapped[int] = mapped_column(Integer)
    outcome: Mapped[str] = mapped_column(String(40))
    result: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH))
    error: Mapped[str] = mapped_column(Text)
    node: Mapped[str] = mapped_column(String(255))
    seconds: Mapped[float | None] = mapped_column(Double)
    ended_at: Mapped[datetime | None]

    __table_args__ = (UniqueConstraint("run_id", "key"), Index(None, "run_id", "state", "number"))


class LedgerRow(Base):
    """One link of the history. ``content`` is canonical JSON as text, so that the digested bytes are the stored ones.

    Triggers made by the migration refuse UPDATE and DELETE; the unique ``previous`` refuses a fork.
    """

    __tablename__ = "ledger"

    serial: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(40))
    event: Mapped[str] = mapped_column(String(NAME_LENGTH))
    subject: Mapped[str] = mapped_column(Text)
    content: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(DIGEST_LENGTH), unique=True)
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), unique=True)

    __table_args__ = (Index(None, "subject"),)


class MasterKeyRow(Base):
    """A master key by its id, never the key itself; one at a time is in use, the others are retired."""

    __tablename__ = "master_key"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    source: Mapped[str] = mapped_column(String(20))
    derivation: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]


class DataKeyRow(Base):
    """What seals the secrets of one key set (or those of none), wrapped by the master key."""

    __tablename__ = "data_key"

    id: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH), primary_key=True)
    key_set_id: Mapped[str | None] = mapped_column(ForeignKey("key_set.id"), unique=True)
    master_key_id: Mapped[str] = mapped_column(ForeignKey("master_key.id"), index=True)
    wrapped: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[datetime]


class VaultSecretRow(Base):
    """A sealed secret. Under scheme ``plain``, of before there was a master key, it is the secret itself."""

    __tablename__ = "vault_secret"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(IDENTIFIER_LENGTH))
    scheme: Mapped[str] = mapped_column(String(40))
    data_key_id: Mapped[str | None] = mapped_column(ForeignKey("data_key.id"), index=True)
    ciphertext: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("kind", "subject"),)
