"""One short transaction per state change: commits on a clean exit, rolls back on an exception.

A domain row and its ledger entry are written by the same unit, so either both last or neither. Never hold a unit
across model work: it holds the registry's write lock from its first statement. A snapshot reads one moment and holds
nobody up.
"""

import secrets
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from sqlalchemy import URL, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from fpvec_audit.errors import UsageError
from fpvec_audit.registry import schema
from fpvec_audit.registry.database import database_file, describe, make_engine, reading, translated
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.master_key import MASTER_KEY_FILE, KeyFile, MasterKeySource, NoKey
from fpvec_audit.registry.redaction import Redaction
from fpvec_audit.registry.repositories.attack_runs import AttackRunRepository
from fpvec_audit.registry.repositories.audits import AuditRepository
from fpvec_audit.registry.repositories.candidates import CandidateRepository
from fpvec_audit.registry.repositories.code_words import CodeWordRepository
from fpvec_audit.registry.repositories.fleets import FleetRepository
from fpvec_audit.registry.repositories.jobs import JobRepository
from fpvec_audit.registry.repositories.key_sets import KeySetRepository
from fpvec_audit.registry.repositories.licensees import LicenseeRepository
from fpvec_audit.registry.repositories.models import ModelRepository
from fpvec_audit.registry.repositories.recorded_audits import RecordedAuditRepository
from fpvec_audit.registry.repositories.stamps import StampRepository
from fpvec_audit.registry.repositories.suspects import SuspectRepository
from fpvec_audit.registry.repositories.vectors import VectorRepository
from fpvec_audit.registry.upkeep import upkeep_at_opening
from fpvec_audit.registry.vault import DatabaseVault, Keyring, Vault


def utc_now() -> datetime:
    """Return the time as an aware datetime in UTC."""
    return datetime.now(UTC)


class UnitOfWork:
    """A transaction with the repositories that take part in it. Use it once, as a context manager.

    Attributes:
        key_sets: issued key sets.
        candidates: what they were drawn as, and who was shown which.
        vault: their secrets.
        licensees: whom they and the copies are for.
        code_words: codes of families, and which licensee has which word.
        models: registered checkpoints.
        vectors: fingerprint vectors and families.
        stamps: stamped copies.
        suspects: who was audited.
        audits: audits.
        recorded_audits: audits that were handed over as bundles.
        attack_runs: cells of robustness runs.
        jobs: long work.
        fleets: things done to many models.
        ledger: the history.
    """

    def __init__(
        self,
        session: Session,
        *,
        where: str,
        clock: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        keyring: Keyring,
        actor: str,
    ) -> None:
        self._session = session
        self._where = where
        self.ledger = Ledger(session, clock)
        self.vault: Vault = DatabaseVault(session, self.ledger, clock, keyring=keyring, actor=actor)
        self.licensees = LicenseeRepository(session, self.ledger, clock)
        self.candidates = CandidateRepository(session, clock=clock)
        self.key_sets = KeySetRepository(
            session, self.ledger, vault=self.vault, licensees=self.licensees, candidates=self.candidates
        )
        self.code_words = CodeWordRepository(
            session, self.ledger, clock, key_sets=self.key_sets, licensees=self.licensees
        )
        self.models = ModelRepository(session, self.ledger)
        self.vectors = VectorRepository(session, self.ledger)
        self.stamps = StampRepository(session, self.ledger, licensees=self.licensees)
        self.suspects = SuspectRepository(session, self.ledger)
        self.audits = AuditRepository(session, self.ledger, clock, vault=self.vault, suspects=self.suspects)
        self.recorded_audits = RecordedAuditRepository(session, self.ledger)
        self.attack_runs = AttackRunRepository(session, self.ledger)
        self.jobs = JobRepository(session, clock, entropy)
        self.fleets = FleetRepository(session, self.ledger, clock, entropy)

    @property
    def session(self) -> Session:
        """The session, for this package's own upkeep and copying; everybody else uses the repositories."""
        return self._session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._session.commit()
        except SQLAlchemyError as failure:
            raise translated(failure, self._where) from failure
        finally:
            self._close()
        if isinstance(error, SQLAlchemyError):
            raise translated(error, self._where) from error
        if isinstance(error, UnicodeEncodeError):
            raise UsageError(
                f"{error.object!a} is not valid Unicode and cannot be recorded",
                advice="rename the file or directory",
            ) from error

    def _close(self) -> None:
        try:
            self._session.close()  # rolls back what was not committed
        except SQLAlchemyError as failure:
            raise translated(failure, self._where) from failure


class Registry:
    """A registry at the current schema, from which units of work come.

    Args:
        engine: connections to its database.
        clock: gives all times that are recorded.
        entropy: gives random bytes for ids.
        keyring: opens what is sealed.
        actor: who acts, for the ledger.
        command: arguments of the command that acts, for jobs; without secrets.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        keyring: Keyring,
        actor: str = "",
        command: Sequence[str] = (),
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._entropy = entropy
        self._keyring = keyring
        self._actor = actor
        self._command = tuple(command)
        self._redaction = Redaction()
        # At the latest when the process ends: whoever closes an embedded registry last moves its log into the file.
        weakref.finalize(self, engine.dispose)

    def __repr__(self) -> str:
        return f"Registry({self.where!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def where(self) -> str:
        """The file or URL, without a password."""
        return describe(self._engine.url)

    @property
    def engine(self) -> Engine:
        """Connections, for schema checks and maintenance."""
        return self._engine

    @property
    def clock(self) -> Callable[[], datetime]:
        """Gives the time that records carry."""
        return self._clock

    @property
    def keyring(self) -> Keyring:
        """Opens what is sealed."""
        return self._keyring

    @property
    def actor(self) -> str:
        """Who acts, for the ledger."""
        return self._actor

    @property
    def command(self) -> tuple[str, ...]:
        """Arguments of the command that acts, for jobs; empty where none does."""
        return self._command

    @property
    def redaction(self) -> Redaction:
        """Takes prompts that were opened out of what is recorded in the clear."""
        return self._redaction

    def unit_of_work(self) -> UnitOfWork:
        """Return a new transaction, to be used with ``with``; it has the registry's write lock."""
        return self._unit(self._engine)

    def snapshot(self) -> UnitOfWork:
        """Return a view of one moment, to be used with ``with``; it takes no lock and cannot write."""
        return self._unit(reading(self._engine))

    def _unit(self, engine: Engine) -> UnitOfWork:
        return UnitOfWork(
            Session(engine, autoflush=False, expire_on_commit=False),
            where=self.where,
            clock=self._clock,
            entropy=self._entropy,
            keyring=self._keyring,
            actor=self._actor,
        )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def open_registry(
    url: str,
    *,
    clock: Callable[[], datetime] = utc_now,
    create: bool = True,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    master_key: MasterKeySource | None = None,
    actor: str = "",
    command: Sequence[str] = (),
    upkeep: Callable[[Registry], object] = upkeep_at_opening,
) -> Registry:
    """Open a registry; an empty database is brought to the current schema first.

    Args:
        url: SQLAlchemy URL.
        clock: gives all times that are recorded.
        create: whether a missing or empty database may be filled.
        entropy: gives random bytes for ids; keys and nonces always come from the system.
        master_key: where the key comes from that seals its secrets; a file beside an embedded registry when None.
        actor: who acts, for the ledger.
        command: arguments of the command that acts, for jobs; without secrets.
        upkeep: does what a migration left to be done.

    Raises:
        RegistryError: missing, locked, damaged, outdated, newer than this program, or out of reach.
    """
    engine = make_engine(url)
    keyring = Keyring(master_key or beside(engine.url))
    registry = Registry(engine, clock=clock, entropy=entropy, keyring=keyring, actor=actor, command=command)
    try:
        schema.prepare(engine, create=create)
        upkeep(registry)
    except BaseException:
        registry.close()
        raise
    return registry


def beside(url: URL) -> MasterKeySource:
    """Return the key file beside an embedded registry; no key for any other."""
    file = database_file(url)
    if file is None:
        return NoKey(f"no master key was given for {describe(url)}")
    return KeyFile(file.parent / MASTER_KEY_FILE)
