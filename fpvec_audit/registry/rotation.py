"""Exchanges the master key of a registry, so that at no moment a key is needed that lies nowhere.

Three steps, of which each lasts before the next begins: the new key is added to the key file, behind those that are
there; the data keys are wrapped with it, in one transaction with its ledger entry; the registry's former keys move to
the file of retired keys. Whoever is killed in between leaves a registry whose key is in the file, and repeating the
exchange clears up. The former key is not erased: another registry in the same home may be sealed with it, and every
backup of before is.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.master_key import KEY_BYTES, KeyFile, MasterKey, MasterKeySource, temporary_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fpvec_audit.registry.unit_of_work import Registry

_ABANDONED_SECONDS = 60.0
"""From this age on, an unfinished key file is what a killed process left."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a master key was exchanged.

    Attributes:
        before: id of the key before; empty when there was none.
        now: id of the key in use.
        source: where that comes from: ``file``, ``environment`` or ``passphrase``.
        data_keys: how many data keys were wrapped anew.
        retired_to: file that holds the former keys; empty where none was in a file.
        remark: what could not be cleared up, in a sentence; empty when all is done.
    """

    before: str
    now: str
    source: str
    data_keys: int
    retired_to: str
    remark: str


def rotate(registry: "Registry", target: MasterKeySource) -> Rotation:
    """Seal a registry with another master key; its keyring goes on with that.

    Args:
        registry: opened with the key in use.
        target: where the new key comes from; a key file gets a new random key.

    Raises:
        RegistryError: the key in use does not fit, the new one is that same, or another exchange is under way.
            Nothing is changed then.
    """
    current = registry.keyring.source
    with _locked(target):
        with registry.unit_of_work() as uow:
            uow.vault.check_master_key()
        new, derivation = _drawn(target)
        with registry.unit_of_work() as uow:
            done = uow.vault.rekey(new, source=target.source, derivation=derivation)
        registry.keyring.source, registry.keyring.master = target, new
        retired_to, remark = _clear_up(target, done.former)
    if _file_of(current) != _file_of(target):
        try:
            with _locked(current):
                retired_to, remark = _clear_up(current, done.former)
        except RegistryError as error:
            remark = _still_there(error)
    return Rotation(done.before, done.now, target.source, done.data_keys, retired_to, remark)


def _clear_up(source: MasterKeySource, former: tuple[str, ...]) -> tuple[str, str]:
    """Retire former keys of a file; return the file that they are in now, and what could not be done."""
    if not isinstance(source, KeyFile):
        return "", ""
    try:
        return (str(source.retired.path), "") if _retire(source, former) else ("", "")
    except RegistryError as error:
        return "", _still_there(error)


def _still_there(error: RegistryError) -> str:
    return f"the former key is still in the key file, since it could not be moved: {error}"


def _file_of(source: MasterKeySource) -> Path | None:
    return source.path.resolve() if isinstance(source, KeyFile) else None


def _drawn(target: MasterKeySource) -> "tuple[MasterKey, Mapping[str, Any]]":
    """Return the new key, which lasts already."""
    if not isinstance(target, KeyFile):
        return target.first()
    keys = target.keys()
    if not keys:
        return target.first()
    new = MasterKey(target.entropy(KEY_BYTES))
    target.replace([*keys, new])
    kept = target.keys()
    if new not in kept:
        raise RegistryError(f"{target.path} does not keep what is written to it", advice="check its file system")
    return new, {}


def _retire(file: KeyFile, former: tuple[str, ...]) -> bool:
    """Move keys that a registry does not use any more to the file of retired ones; return whether there were any."""
    keys = file.keys()
    leaving = [key for key in keys if key.id in former]
    if not leaving:
        return False
    retired = file.retired.keys()
    file.retired.replace([*retired, *(key for key in leaving if key not in retired)])
    staying = [key for key in keys if key not in leaving]
    if staying:
        file.replace(staying)
    else:
        file.remove()
    return True


@contextmanager
def _locked(source: MasterKeySource) -> Iterator[None]:
    """Let nobody else exchange keys of this file meanwhile, and remove what a killed process left unfinished."""
    file = _file_of(source)
    if file is None:
        yield
        return
    descriptor = _lock(file)
    try:
        _sweep(file)
        yield
    finally:
        os.close(descriptor)


def _lock(file: Path) -> int:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file.with_name(f".{file.name}-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RegistryError(
            f"the directory of the master key {file} cannot be written: {error.strerror}",
            advice="let whoever may write it exchange the key, or give a key with --to environment",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise RegistryError(
            f"another exchange of keys in {file} is under way", advice="wait until it ends and try again"
        ) from error
    return descriptor


def _sweep(file: Path) -> None:
    for name in (file.name, KeyFile(file).retired.path.name):
        prefix = temporary_prefix(file.with_name(name))
        with suppress(OSError):
            for left in [path for path in file.parent.iterdir() if path.name.startswith(prefix)]:
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    left.unlink()
