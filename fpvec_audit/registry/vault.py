"""The one place where secrets are kept and come from.

Every secret is sealed with the data key of its key set, and every data key with the master key
(:mod:`~fpvec_audit.registry.master_key`), so that a database, a dump or a backup alone gives none away. What is sealed
for one row opens in no other (:mod:`~fpvec_audit.registry.sealing`). Every disclosure is a ledger entry with who and
why, in the transaction that gives the secret out.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import select, update
from sqlalchemy.orm import Session, undefer

from fpvec_audit.domain.keys import KeySetSecret
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.master_key import KEY_BYTES, KnownKey, MasterKey, MasterKeySource
from fpvec_audit.registry.sealing import SCHEME, Place, sealed, unsealed
from fpvec_audit.registry.tables import DataKeyRow, MasterKeyRow, VaultSecretRow

KEY_SET, TRANSCRIPT = "key_set", "transcript"
"""Kinds of secrets."""
PLAIN = "plain"
"""The scheme of secrets of before there was a master key."""

_WRAPPED = undefer(DataKeyRow.wrapped)


@dataclass(frozen=True, slots=True)
class SealedValue:
    """What a row holds of a secret.

    Attributes:
        scheme: how it is sealed.
        data_key: id of the key that it is sealed with.
        content: sealed bytes.
    """

    scheme: str
    data_key: str | None
    content: bytes = field(repr=False)


@dataclass(slots=True)
class Keyring:
    """The keys that a process has opened so far; they live as long as its registry.

    Attributes:
        source: where the master key comes from.
        entropy: gives random bytes for keys.
        master: the master key, once it was needed.
        data_keys: data keys by id.
    """

    source: MasterKeySource
    entropy: Callable[[int], bytes] = secrets.token_bytes
    master: MasterKey | None = field(default=None, repr=False)
    data_keys: dict[str, bytes] = field(default_factory=dict, repr=False)


class Vault(Protocol):
    """Keeps secrets and gives them back; every disclosure is a ledger entry."""

    def seal(self, kind: str, subject: str, secret: bytes, *, key_set: str | None = None) -> None:
        """Keep a secret of a kind for the thing with this id.

        Args:
            kind: what kind of secret.
            subject: id of what it belongs to.
            secret: what to keep.
            key_set: id of the key set it is about; None for none.

        Raises:
            RegistryError: there is one already, or there is no master key.
        """
        ...

    def unseal(self, kind: str, subject: str, *, purpose: str) -> bytes:
        """Give a secret back and record that it was.

        Raises:
            RegistryError: there is none, it cannot be opened, or it is kept in a way that this program does not know.
        """
        ...

    def keep(self, key_set_id: str, secret: KeySetSecret) -> None:
        """Keep the secret of a key set."""
        ...

    def reveal(self, key_set_id: str, *, purpose: str = "use") -> KeySetSecret:
        """Give the secret of a key set back and record that it was.

        Args:
            key_set_id: whole id of the key set.
            purpose: what it is wanted for, written to the ledger.

        Raises:
            RegistryError: the vault does not have it, or it cannot be opened.
        """
        ...

    def sealed_at(self, place: Place, secret: bytes, *, key_set: str | None) -> SealedValue:
        """Return a secret sealed for a row of another table.

        Args:
            place: table and key of the row.
            secret: what to seal.
            key_set: id of the key set it is about; None for none.

        Raises:
            RegistryError: there is no master key.
        """
        ...

    def opened_at(self, place: Place, value: SealedValue) -> bytes:
        """Return what was sealed for a row; :meth:`disclose` records it.

        Raises:
            RegistryError: it cannot be opened.
        """
        ...

    def disclose(self, kind: str, subject: str, *, purpose: str) -> None:
        """Record that secrets of a kind, which belong to the thing with this id, are given out."""
        ...

    def check_master_key(self) -> None:
        """Look whether the given master key is the one in use, where there is one.

        Raises:
            RegistryError: it is not, or there is none.
        """
        ...

    def rekey(self, new: MasterKey, *, source: str, derivation: Mapping[str, Any]) -> "Rewrapped":
        """Wrap every data key with another master key; the secrets themselves are not touched.

        Args:
            new: the other key.
            source: where it comes from.
            derivation: how it follows from a passphrase.

        Raises:
            RegistryError: the key in use is missing, or a data key cannot be opened.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """A change of the master key.

    Attributes:
        before: id of the key before; empty when there was none.
        now: id of the key in use.
        former: ids of all keys that this registry does not use any more.
        data_keys: how many data keys were wrapped anew.
    """

    before: str
    now: str
    former: tuple[str, ...]
    data_keys: int


class DatabaseVault:
    """A vault in the registry's own database.

    Args:
        session: session of the surrounding unit of work.
        ledger: where disclosures are recorded.
        clock: gives the time a secret was kept.
        keyring: the master key's source, and the keys opened so far.
        actor: who acts, for the ledger.
    """

    def __init__(
        self, session: Session, ledger: Ledger, clock: Callable[[], datetime], *, keyring: Keyring, actor: str
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._clock = clock
        self._keyring = keyring
        self._actor = actor
        self._data_key_rows: dict[str | None, DataKeyRow] = {}

    def seal(self, kind: str, subject: str, secret: bytes, *, key_set: str | None = None) -> None:
        """Keep a secret; see :meth:`Vault.seal`."""
        if self._row(kind, subject) is not None:
            raise RegistryError(f"the vault has a {kind} secret of {subject} already")
        value = self.sealed_at(secret_place(kind, subject), secret, key_set=key_set)
        self._session.add(
            VaultSecretRow(
                kind=kind,
                subject=subject,
                scheme=value.scheme,
                data_key_id=value.data_key,
                ciphertext=value.content,
                created_at=self._clock(),
            )
        )
        self._session.flush()

    def unseal(self, kind: str, subject: str, *, purpose: str) -> bytes:
        """Give a secret back; see :meth:`Vault.unseal`."""
        row = self._row(kind, subject)
        if row is None:
            raise RegistryError(f"the vault has no {kind} secret of {subject}", advice="restore it from a backup")
        value = SealedValue(row.scheme, row.data_key_id, row.ciphertext)
        secret = self.opened_at(secret_place(kind, subject), value)
        self.disclose(kind, subject, purpose=purpose)
        return secret

    def keep(self, key_set_id: str, secret: KeySetSecret) -> None:
        """Keep the secret of a key set."""
        self.seal(KEY_SET, key_set_id, secret.reveal(), key_set=key_set_id)

    def reveal(self, key_set_id: str, *, purpose: str = "use") -> KeySetSecret:
        """Give the secret of a key set back; see :meth:`Vault.reveal`."""
        return KeySetSecret(self.unseal(KEY_SET, key_set_id, purpose=purpose))

    def sealed_at(self, place: Place, secret: bytes, *, key_set: str | None) -> SealedValue:
        """Return a secret sealed for a row; see :meth:`Vault.sealed_at`."""
        row = self._data_key_of(key_set)
        content = sealed(self._data_key(row), secret, place, entropy=self._keyring.entropy)
        return SealedValue(SCHEME, row.id, content)

    def opened_at(self, place: Place, value: SealedValue) -> bytes:
        """Return what was sealed for a row; see :meth:`Vault.opened_at`."""
        where = " ".join(str(part) for part in place)
        if value.scheme != SCHEME:
            raise RegistryError(
                f"the secret in {where} is kept under the scheme {value.scheme!r}",
                advice="`fpvec registry upgrade` seals it" if value.scheme == PLAIN else "use a newer fpvec-audit",
            )
        with bytes_expected(f"the key of the secret in {where}"):
            row = None if value.data_key is None else self._session.get(DataKeyRow, value.data_key, options=[_WRAPPED])
        if row is None:
            raise RegistryError(f"the key of the secret in {where} is not recorded", advice="restore a backup")
        try:
            return unsealed(self._data_key(row), value.content, place)
        except ValueError as error:
            raise RegistryError(
                f"the secret in {where} cannot be opened: {error}",
                advice="run `fpvec registry verify` and restore a backup",
            ) from error

    def disclose(self, kind: str, subject: str, *, purpose: str) -> None:
        """Record that secrets are given out; see :meth:`Vault.disclose`."""
        self._ledger.append("secret.revealed", subject, {"kind": kind, "purpose": purpose, "who": self._actor})

    def check_master_key(self) -> None:
        """Look whether the given master key is the one in use; see :meth:`Vault.check_master_key`."""
        if master_key_in_use(self._session) is not None:
            self._master_in_use()

    def rekey(self, new: MasterKey, *, source: str, derivation: Mapping[str, Any]) -> Rewrapped:
        """Wrap every data key with another master key; see :meth:`Vault.rekey`."""
        known = master_key_in_use(self._session)
        if known is not None and known.id == new.id:
            raise RegistryError(f"the registry is sealed with the key {new.id} already", advice="give another one")
        rows = self._session.scalars(select(DataKeyRow).order_by(DataKeyRow.id).options(_WRAPPED)).all()
        contents = [self._data_key(row) for row in rows]
        self._use_master_key(new, source, derivation)
        for row, content in zip(rows, contents, strict=True):
            row.master_key_id = new.id
            row.wrapped = sealed(new.content, content, wrapping_place(row), entropy=self._keyring.entropy)
        self._session.flush()
        before = "" if known is None else known.id
        self._ledger.append(
            "vault.rekeyed", new.id, {"before": before, "data_keys": len(rows), "source": source, "who": self._actor}
        )
        former = select(MasterKeyRow.id).where(MasterKeyRow.retired_at.is_not(None)).order_by(MasterKeyRow.id)
        return Rewrapped(before, new.id, tuple(self._session.scalars(former)), len(rows))

    def _use_master_key(self, new: MasterKey, source: str, derivation: Mapping[str, Any]) -> None:
        in_use = update(MasterKeyRow).where(MasterKeyRow.retired_at.is_(None)).values(retired_at=self._clock())
        self._session.execute(in_use, execution_options={"synchronize_session": "fetch"})
        row = self._session.get(MasterKeyRow, new.id)
        if row is None:
            self._add_master_key(new, source, derivation)
        else:  # it was in use before
            row.retired_at, row.source, row.derivation = None, source, dict(derivation)
            self._session.flush()

    def _row(self, kind: str, subject: str) -> VaultSecretRow | None:
        statement = select(VaultSecretRow).where(VaultSecretRow.kind == kind, VaultSecretRow.subject == subject)
        with bytes_expected(f"the {kind} secret of {subject}"):
            return self._session.scalars(statement.options(undefer(VaultSecretRow.ciphertext))).one_or_none()

    def _data_key_of(self, key_set: str | None) -> DataKeyRow:
        """Return the data key of a key set, or of what belongs to none, making it on first use."""
        if key_set not in self._data_key_rows:
            self._data_key_rows[key_set] = self._recorded_data_key(key_set) or self._new_data_key(key_set)
        return self._data_key_rows[key_set]

    def _recorded_data_key(self, key_set: str | None) -> DataKeyRow | None:
        column = DataKeyRow.key_set_id
        statement = select(DataKeyRow).where(column.is_(None) if key_set is None else column == key_set)
        statement = statement.options(_WRAPPED).order_by(DataKeyRow.created_at).limit(1)
        with bytes_expected("a data key"):
            return self._session.scalars(statement).one_or_none()

    def _new_data_key(self, key_set: str | None) -> DataKeyRow:
        master = self._master_in_use()
        content = self._keyring.entropy(KEY_BYTES)
        row = DataKeyRow(
            id=f"dk-{self._keyring.entropy(8).hex()}",
            key_set_id=key_set,
            master_key_id=master.id,
            created_at=self._clock(),
        )
        row.wrapped = sealed(master.content, content, wrapping_place(row), entropy=self._keyring.entropy)
        self._session.add(row)
        self._session.flush()
        return row

    def _data_key(self, row: DataKeyRow) -> bytes:
        content = self._keyring.data_keys.get(row.id)
        if content is None:
            master = self._master_in_use()
            if master.id != row.master_key_id:
                raise RegistryError(
                    f"the data key {row.id} is wrapped with {row.master_key_id}, the registry uses {master.id}",
                    advice="run `fpvec registry verify` and restore a backup",
                )
            try:
                content = unsealed(master.content, row.wrapped, wrapping_place(row))
            except ValueError as error:
                raise RegistryError(
                    f"the data key {row.id} cannot be opened: {error}",
                    advice="run `fpvec registry verify` and restore a backup",
                ) from error
            self._keyring.data_keys[row.id] = content
        return content

    def _master_in_use(self) -> MasterKey:
        known = master_key_in_use(self._session)
        cached = self._keyring.master
        if known is None:
            key, derivation = self._keyring.source.first()
            self._add_master_key(key, self._keyring.source.source, derivation)
        elif cached is not None and cached.id == known.id:
            return cached
        else:
            key = self._keyring.source.find(known)
        self._keyring.master = key
        return key

    def _add_master_key(self, key: MasterKey, source: str, derivation: Mapping[str, Any]) -> None:
        self._session.add(
            MasterKeyRow(
                id=key.id, source=source, derivation=dict(derivation), created_at=self._clock(), retired_at=None
            )
        )
        self._session.flush()


@contextmanager
def bytes_expected(what: str) -> Iterator[None]:
    """Say what was changed where a row holds a text in the place of bytes, which SQLite allows.

    Args:
        what: what the row is.

    Raises:
        RegistryError: it does.
    """
    try:
        yield
    except TypeError as error:
        raise RegistryError(
            f"{what} cannot be opened: it is no bytes any more",
            advice="run `fpvec registry verify` and restore a backup",
        ) from error


def master_key_in_use(session: Session) -> KnownKey | None:
    """Return what a registry knows of the master key in use; None while nothing was sealed."""
    row = session.scalars(select(MasterKeyRow).where(MasterKeyRow.retired_at.is_(None))).one_or_none()
    return None if row is None else KnownKey(row.id, row.source, row.derivation)


def secret_place(kind: str, subject: str) -> Place:
    """Return where a secret of the vault lies."""
    return ("vault_secret", kind, subject)


def record_place(audit: str, serial: int) -> Place:
    """Return where a record of a transcript lies."""
    return ("audit_record", audit, serial)


def wrapping_place(row: DataKeyRow) -> Place:
    """Return where a data key lies; it is bound to its key set and to the master key too."""
    return ("data_key", row.id, row.key_set_id or "", row.master_key_id)
