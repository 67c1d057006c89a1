"""The master key: what wraps the keys that seal every secret of a registry, and where it comes from.

It is a file that only its owner may read (made on first use), a value from the environment, or derived from a
passphrase. The database knows its id and, for a passphrase, salt and cost; never the key. A key is made only for a
registry that has none: one that has sealed secrets under another key gets an error, not a new key.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fpvec_audit.errors import RegistryError

KEY_BYTES = 32
MASTER_KEY_FILE = "vault.key"
"""Name of the key file in a home."""
FILE, ENVIRONMENT, PASSPHRASE = "file", "environment", "passphrase"
"""Where a master key comes from, as the registry records it."""

_ID_LABEL = b"fpvec master key id v1"
_SCRYPT = {"kdf": "scrypt", "n": 1 << 17, "r": 8, "p": 1}
"""128 MiB and about half a second a guess (OWASP's recommendation for scrypt)."""
_MOST_SCRYPT_BYTES = 1 << 30
_HEADING = "# Master key of a fpvec registry: whoever has it can read the secrets; without it nobody can. Back it up.\n"
_SEALED_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A master key.

    Attributes:
        content: 32 random bytes.
    """

    content: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.content) == KEY_BYTES

    @property
    def id(self) -> str:
        """What the registry calls it: ``mk-`` and 16 characters that do not tell the key."""
        return f"mk-{hmac.new(self.content, _ID_LABEL, hashlib.sha256).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What the registry knows about a master key.

    Attributes:
        id: see :attr:`MasterKey.id`.
        source: where it came from when it was first used.
        derivation: how it follows from a passphrase; empty otherwise.
    """

    id: str
    source: str
    derivation: Mapping[str, Any]


class MasterKeySource(Protocol):
    """Where the master key of a registry comes from."""

    @property
    def source(self) -> str:
        """``file``, ``environment`` or ``passphrase``."""
        ...

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Return a key for a registry that has none, and its derivation; it lasts before this returns.

        Raises:
            RegistryError: it cannot be made, read or kept.
        """
        ...

    def find(self, known: KnownKey) -> MasterKey:
        """Return the key that a registry is sealed with.

        Raises:
            RegistryError: there is none, or it is another one.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file with one key in each line; more than one only while keys are exchanged.

    Attributes:
        path: the file.
        entropy: gives random bytes.
    """

    path: Path
    entropy: Callable[[int], bytes] = secrets.token_bytes

    @property
    def source(self) -> str:
        """See :class:`MasterKeySource`."""
        return FILE

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Return the last key of the file, making file and key where there is none."""
        keys = self.keys()
        if not keys:
            keys = [MasterKey(self.entropy(KEY_BYTES))]
            self.keep(keys)
            keys = self.keys()  # of two processes that make one, both use the one that is there
        return keys[-1], {}

    def find(self, known: KnownKey) -> MasterKey:
        """Return the key of this id; see :class:`MasterKeySource`."""
        keys = self.keys()
        if not keys:
            raise RegistryError(
                f"the master key {known.id} is missing: there is no {self.path}",
                advice="put the file back from its backup; without it all but the secrets can be read",
            )
        for key in keys:
            if key.id == known.id:
                return key
        raise _wrong(known, f"{self.path} holds {', '.join(key.id for key in keys)}")

    def keys(self) -> list[MasterKey]:
        """Return the keys of the file, none where it does not exist.

        Raises:
            RegistryError: others may read it, or it is no key file.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RegistryError(f"the master key {self.path} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RegistryError(f"the master key {self.path} is no file")
            if status.st_mode & 0o077:
                raise RegistryError(
                    f"the master key {self.path} may be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                    advice=f"`chmod 600 {self.path}`; if others have read it, `fpvec registry rekey` afterwards",
                )
            content = file.read(1 << 16)
        return [MasterKey(bytes.fromhex(line)) for line in self._lines(content)]

    def keep(self, keys: Sequence[MasterKey]) -> None:
        """Write the file anew, whole or not at all; a file that is there is replaced only where it was read before.

        Raises:
            RegistryError: it cannot be written.
        """
        text = _HEADING + "".join(f"{key.content.hex()}\n" for key in keys)
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        replaced = self.path.exists()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                if replaced:
                    temporary.replace(self.path)
                else:
                    _link_unless_there(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise RegistryError(
                f"the master key {self.path} cannot be written: {error.strerror}",
                advice="choose a directory that you may write with --home, or give the key by FPVEC_VAULT_KEY",
            ) from error

    def _lines(self, content: bytes) -> list[str]:
        lines = [line.strip() for line in content.decode("ascii", "replace").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found or not all(_SEALED_KEY.fullmatch(line) for line in found):
            raise RegistryError(
                f"{self.path} is no master key: a line is not 64 hexadecimal digits",
                advice="put the file back from where it was backed up",
            )
        return found


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A key that the environment gives.

    Attributes:
        text: 64 hexadecimal digits.
    """

    text: str = field(repr=False)

    @property
    def source(self) -> str:
        """See :class:`MasterKeySource`."""
        return ENVIRONMENT

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Return the given key."""
        return self._key(), {}

    def find(self, known: KnownKey) -> MasterKey:
        """Return the given key if it is the one; see :class:`MasterKeySource`."""
        key = self._key()
        if key.id != known.id:
            raise _wrong(known, f"FPVEC_VAULT_KEY is {key.id}")
        return key

    def _key(self) -> MasterKey:
        text = self.text.strip().lower()
        if not _SEALED_KEY.fullmatch(text):
            raise RegistryError(
                "FPVEC_VAULT_KEY is no master key: it is not 64 hexadecimal digits",
                advice="`openssl rand -hex 32` makes one",
            )
        return MasterKey(bytes.fromhex(text))


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A key that follows from a passphrase by scrypt; salt and cost lie in the registry.

    Attributes:
        text: the passphrase.
        entropy: gives random bytes.
    """

    text: str = field(repr=False)
    entropy: Callable[[int], bytes] = secrets.token_bytes

    @property
    def source(self) -> str:
        """See :class:`MasterKeySource`."""
        return PASSPHRASE

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Return a key with a salt of its own."""
        derivation = {**_SCRYPT, "salt": self.entropy(16).hex()}
        return self._derived(derivation), derivation

    def find(self, known: KnownKey) -> MasterKey:
        """Return the key if the passphrase is the one; see :class:`MasterKeySource`."""
        if known.source != PASSPHRASE:
            raise _wrong(known, "FPVEC_VAULT_PASSPHRASE is set")
        key = self._derived(known.derivation)
        if key.id != known.id:
            raise RegistryError(
                f"the passphrase is not that of the master key {known.id}", advice="check FPVEC_VAULT_PASSPHRASE"
            )
        return key

    def _derived(self, derivation: Mapping[str, Any]) -> MasterKey:
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        if not self.text:
            raise RegistryError("the passphrase is empty", advice="set FPVEC_VAULT_PASSPHRASE")
        try:
            cost, block, lanes = (int(derivation[name]) for name in ("n", "r", "p"))
            if derivation["kdf"] != "scrypt" or 128 * cost * block * lanes > _MOST_SCRYPT_BYTES:
                raise ValueError(derivation["kdf"])
            kdf = Scrypt(salt=bytes.fromhex(derivation["salt"]), length=KEY_BYTES, n=cost, r=block, p=lanes)
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(
                "the registry does not say how its master key follows from a passphrase",
                advice="run `fpvec registry verify` and restore a backup",
            ) from error
        return MasterKey(kdf.derive(self.text.encode()))


@dataclass(frozen=True, slots=True)
class NoKey:
    """No master key: everything but secrets can be listed and verified.

    Attributes:
        why: what was looked for, and what to do.
    """

    why: str = "no master key was given"

    @property
    def source(self) -> str:
        """See :class:`MasterKeySource`."""
        return FILE

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Refuse."""
        raise self._refusal()

    def find(self, known: KnownKey) -> MasterKey:
        """Refuse."""
        raise self._refusal()

    def _refusal(self) -> RegistryError:
        return RegistryError(
            f"secrets can neither be kept nor read: {self.why}",
            advice="set FPVEC_VAULT_KEY_FILE, FPVEC_VAULT_KEY or FPVEC_VAULT_PASSPHRASE",
        )


def _wrong(known: KnownKey, given: str) -> RegistryError:
    asked = "a passphrase (FPVEC_VAULT_PASSPHRASE)" if known.source == PASSPHRASE else "a key"
    return RegistryError(
        f"the registry's secrets are sealed with {asked} of id {known.id}, but {given}",
        advice="give the key that this registry was sealed with; `fpvec registry check` names it",
    )


def _link_unless_there(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return  # another process was quicker, and its key counts


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
