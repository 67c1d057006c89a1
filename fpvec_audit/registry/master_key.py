"""The master key: what wraps the keys that seal every secret of a registry, and where it comes from.

It is a file that only its owner may read (made on first use), a value from the environment, or derived from a
passphrase. The database knows its id and, for a passphrase, salt and cost; never the key. A key is made only for a
registry that has none: one that has sealed secrets under another key gets an error, not a new key.

A key file may serve several registries, so a key that one of them no longer uses is never erased: it goes to a file of
retired keys beside it (:attr:`KeyFile.retired`), where those that still need it, and backups, find it.
"""

import errno
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
RETIRED_SUFFIX = ".retired"
"""What the name of the file of retired keys ends with."""
KEY_VARIABLE, PASSPHRASE_VARIABLE = "FPVEC_VAULT_KEY", "FPVEC_VAULT_PASSPHRASE"
FILE, ENVIRONMENT, PASSPHRASE = "file", "environment", "passphrase"
"""Where a master key comes from, as the registry records it."""

_ID_LABEL = b"fpvec master key id v1"
_HEADING = "# Master key of a fpvec registry: whoever has it can read the secrets; without it nobody can. Back it up.\n"
_RETIRED_HEADING = (
    "# Former master keys: a registry that was rekeyed needs them no more, but backups of before do, and registries "
    "that share the key file. Remove this file when there are neither.\n"
)
_MOST_FILE_BYTES = 1 << 16
HEX_KEY = re.compile(r"[0-9a-f]{64}")
"""How a key is written."""


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

    @property
    def shown(self) -> str:
        """What a user calls it: the file's path, or the variable's name."""
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
    """A file with one key in each line; more than one while keys are exchanged, or where several registries share it.

    Attributes:
        path: the file; a symbolic link is followed.
        entropy: gives random bytes.
    """

    path: Path
    entropy: Callable[[int], bytes] = secrets.token_bytes

    @property
    def source(self) -> str:
        """See :class:`MasterKeySource`."""
        return FILE

    @property
    def shown(self) -> str:
        """See :class:`MasterKeySource`."""
        return str(self.path)

    @property
    def retired(self) -> "KeyFile":
        """The file of keys that no longer seal anything new."""
        return KeyFile(self.path.with_name(self.path.name + RETIRED_SUFFIX), self.entropy)

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Return the last key of the file, making file and key where there is none."""
        keys = self.keys()
        if not keys:
            self._write([MasterKey(self.entropy(KEY_BYTES))], _link_unless_there)
            keys = self.keys()  # of two processes that make one, both use the one that is there
        return keys[-1], {}

    def find(self, known: KnownKey) -> MasterKey:
        """Return the key of this id, which may be a retired one; see :class:`MasterKeySource`."""
        keys = self.keys()
        for key in (*keys, *self.retired.keys()):
            if key.id == known.id:
                return key
        if keys:
            raise wrong_key(known, f"{self.path} holds {', '.join(key.id for key in keys)}")
        if known.source == PASSPHRASE:
            raise wrong_key(known, "none is given")
        raise RegistryError(
            f"the master key {known.id} is missing: there is no {self.path}",
            advice="put the file back from its backup, copy it from the machine that made it, or give the key by "
            f"{KEY_VARIABLE}; without it all but the secrets can be read",
        )

    def keys(self) -> list[MasterKey]:
        """Return the keys of the file, none where it does not exist.

        Raises:
            RegistryError: others may read it, or it is no key file.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not keep us
        except FileNotFoundError as error:
            if self.path.is_symlink():
                raise RegistryError(f"the master key {self.path} is a symbolic link to nothing") from error
            return []
        except OSError as error:
            raise RegistryError(
                f"the master key {self.path} cannot be read: {error.strerror}",
                advice="it has to belong to the user who runs fpvec",
            ) from error
        try:
            self._refuse_unfit(os.fstat(descriptor).st_mode)
            content = os.read(descriptor, _MOST_FILE_BYTES)
        finally:
            os.close(descriptor)
        return [MasterKey(bytes.fromhex(line)) for line in self._lines(content)]

    def replace(self, keys: Sequence[MasterKey]) -> None:
        """Write the file anew, whole or not at all; whoever calls it has the lock of :mod:`.rotation`.

        Raises:
            RegistryError: it cannot be written.
        """
        self._write(keys, os.replace)

    def remove(self) -> None:
        """Remove the file, the last key of which was retired.

        Raises:
            RegistryError: it cannot be removed.
        """
        try:
            self.path.unlink(missing_ok=True)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise RegistryError(f"the master key {self.path} cannot be removed: {error.strerror}") from error

    def _write(self, keys: Sequence[MasterKey], put: Callable[[Path, Path], None]) -> None:
        heading = _RETIRED_HEADING if self.path.name.endswith(RETIRED_SUFFIX) else _HEADING
        text = heading + "".join(f"{key.content.hex()}\n" for key in keys)
        try:
            target = self.path.resolve()
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = target.with_name(f"{temporary_prefix(target)}{secrets.token_hex(8)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                put(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(target.parent)
        except OSError as error:
            raise RegistryError(
                f"the master key {self.path} cannot be written: {error.strerror}",
                advice=f"choose a directory that you may write with --home, or give the key by {KEY_VARIABLE}",
            ) from error

    def _refuse_unfit(self, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise RegistryError(
                f"the master key {self.path} is no file", advice="name a file with FPVEC_VAULT_KEY_FILE"
            )
        if mode & 0o077:
            raise RegistryError(
                f"the master key {self.path} may be read by others (mode {stat.S_IMODE(mode):04o})",
                advice=f"`chmod 600 {self.path}`; if others have read it, `fpvec registry rekey` afterwards",
            )

    def _lines(self, content: bytes) -> list[str]:
        lines = [line.strip() for line in content.decode("ascii", "replace").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if len(content) == _MOST_FILE_BYTES or not found or not all(HEX_KEY.fullmatch(line) for line in found):
            raise RegistryError(
                f"{self.path} is no master key: "
                + ("a line is not 64 hexadecimal digits" if found else "there is no key in it"),
                advice="put the file back from where it was backed up",
            )
        return found


@dataclass(frozen=True, slots=True)
class NoKey:
    """No master key: everything but secrets can be listed and verified.

    Attributes:
        why: what was looked for.
        advice: what to do.
    """

    why: str = "no master key was given"
    advice: str = "set FPVEC_VAULT_KEY_FILE, FPVEC_VAULT_KEY or FPVEC_VAULT_PASSPHRASE"

    @property
    def source(self) -> str:
        """See :class:`MasterKeySource`."""
        return FILE

    @property
    def shown(self) -> str:
        """See :class:`MasterKeySource`."""
        return "nothing"

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Refuse."""
        raise self._refusal()

    def find(self, known: KnownKey) -> MasterKey:
        """Refuse."""
        raise self._refusal()

    def _refusal(self) -> RegistryError:
        return RegistryError(f"secrets can neither be kept nor read: {self.why}", advice=self.advice)


def temporary_prefix(path: Path) -> str:
    """Return what the names of files begin with that become a key file when they are whole."""
    return f".{path.name}."


def wrong_key(known: KnownKey, given: str) -> RegistryError:
    """Return the error of a key that is not the one that a registry is sealed with."""
    asked = f"a passphrase ({PASSPHRASE_VARIABLE})" if known.source == PASSPHRASE else "a key"
    return RegistryError(
        f"the registry's secrets are sealed with {asked} of id {known.id}, but {given}",
        advice="give the key that this registry was sealed with; `fpvec registry check` names it",
    )


def _link_unless_there(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return  # another process was quicker, and its key counts
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS) or path.exists():
            raise
        os.rename(temporary, path)  # noqa: PTH104 - a file system without hard links


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
