"""The one place secrets are kept and come from.

Today a secret lies in its row as it is (scheme ``plain``): the database file is the thing to protect, and it is
created for its owner alone. Encryption is another scheme behind the same interface, with columns that wait for it.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from fpvec_audit.domain.keys import KeySetSecret
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.tables import VaultSecretRow

_KEY_SET = "key_set"
PLAIN = "plain"


class Vault(Protocol):
    """Keeps secrets and gives them back; every disclosure is a ledger entry."""

    def seal(self, kind: str, subject: str, secret: bytes) -> None:
        """Keep a secret of a kind for the thing with this id.

        Raises:
            RegistryError: there is one already.
        """
        ...

    def unseal(self, kind: str, subject: str, *, purpose: str) -> bytes:
        """Give a secret back and record that it was.

        Raises:
            RegistryError: there is none, or it is kept in a way that this program does not know.
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
            RegistryError: the vault does not have it.
        """
        ...


class DatabaseVault:
    """A vault in the registry's own database.

    Args:
        session: session of the surrounding unit of work.
        ledger: where disclosures are recorded.
        clock: gives the time a secret was kept.
    """

    def __init__(self, session: Session, ledger: Ledger, clock: Callable[[], datetime]) -> None:
        self._session = session
        self._ledger = ledger
        self._clock = clock

    def seal(self, kind: str, subject: str, secret: bytes) -> None:
        """Keep a secret; see :meth:`Vault.seal`."""
        if self._row(kind, subject) is not None:
            raise RegistryError(f"the vault has a {kind} secret of {subject} already")
        self._session.add(
            VaultSecretRow(kind=kind, subject=subject, scheme=PLAIN, ciphertext=secret, created_at=self._clock())
        )
        self._session.flush()

    def unseal(self, kind: str, subject: str, *, purpose: str) -> bytes:
        """Give a secret back; see :meth:`Vault.unseal`."""
        row = self._row(kind, subject)
        if row is None:
            raise RegistryError(f"the vault has no {kind} secret of {subject}", advice="restore it from a backup")
        if row.scheme != PLAIN:
            raise RegistryError(
                f"the {kind} secret of {subject} is kept under the scheme {row.scheme!r}",
                advice="use a newer fpvec-audit",
            )
        self._ledger.append("secret.revealed", subject, {"kind": kind, "purpose": purpose})
        return row.ciphertext

    def keep(self, key_set_id: str, secret: KeySetSecret) -> None:
        """Keep the secret of a key set."""
        self.seal(_KEY_SET, key_set_id, secret.reveal())

    def reveal(self, key_set_id: str, *, purpose: str = "use") -> KeySetSecret:
        """Give the secret of a key set back; see :meth:`Vault.reveal`."""
        return KeySetSecret(self.unseal(_KEY_SET, key_set_id, purpose=purpose))

    def _row(self, kind: str, subject: str) -> VaultSecretRow | None:
        statement = select(VaultSecretRow).where(VaultSecretRow.kind == kind, VaultSecretRow.subject == subject)
        return self._session.scalars(statement).one_or_none()
