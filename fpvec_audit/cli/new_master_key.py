"""Where a new master key comes from: a file, the environment, or a passphrase that is typed without echo."""

import sys
from typing import TYPE_CHECKING

from fpvec_audit.errors import UnknownNameError, UsageError
from fpvec_audit.services.own_registry import key_file
from fpvec_audit.settings import Settings, vault_secrets

if TYPE_CHECKING:
    from fpvec_audit.registry.master_key import MasterKeySource

NEW_VAULT = "FPVEC_NEW_VAULT"
SOURCES = ("file", "environment", "passphrase")


def new_master_key(settings: Settings, source: str) -> "MasterKeySource":
    """Return where the new master key of a registry comes from.

    Args:
        settings: name the key file.
        source: ``file``, ``environment`` or ``passphrase``.

    Raises:
        UsageError: another source, or nothing is given for this one.
    """
    from fpvec_audit.registry.given_key import GivenKey, Passphrase

    if source not in SOURCES:
        raise UnknownNameError("source of a master key", source, SOURCES)
    given = vault_secrets(NEW_VAULT)
    if source == "file":
        if given.key or given.passphrase:
            raise UsageError(
                f"{NEW_VAULT}_KEY or {NEW_VAULT}_PASSPHRASE is set, but a key file gets a random key",
                advice="say --to environment or --to passphrase, or unset it",
            )
        return key_file(settings)
    if source == "environment":
        if not given.key:
            raise UsageError(f"{NEW_VAULT}_KEY is not set", advice="`openssl rand -hex 32` makes a key")
        return GivenKey(given.key, variable=f"{NEW_VAULT}_KEY")
    return Passphrase(given.passphrase or _typed(), variable=f"{NEW_VAULT}_PASSPHRASE")


def _typed() -> str:
    if not sys.stdin.isatty():
        raise UsageError(f"{NEW_VAULT}_PASSPHRASE is not set", advice="set it, or run this on a terminal and type it")
    import typer

    typed: str = typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return typed
