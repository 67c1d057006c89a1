"""The registry that settings name, opened with the master key that goes with it.

The command line opens it so, and so does every worker of a fleet, out of its own environment and home.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.errors import SettingsError
from fpvec_audit.settings import Settings, VaultSecrets, login_name, vault_secrets

if TYPE_CHECKING:
    from fpvec_audit.registry.master_key import KeyFile, MasterKeySource
    from fpvec_audit.registry.unit_of_work import Registry


def open_own_registry(settings: Settings, *, command: Sequence[str] = (), warn: Callable[[str], None]) -> "Registry":
    """Open the registry that settings name; an empty database is brought to the current schema first.

    Args:
        settings: say where it is.
        command: arguments of the command that acts, for jobs; without secrets.
        warn: takes a sentence about what a migration left to be done.

    Raises:
        RegistryError: missing, locked, damaged, outdated, newer than this program, or out of reach.
    """
    from fpvec_audit.registry.unit_of_work import open_registry
    from fpvec_audit.registry.upkeep import upkeep_at_opening

    return open_registry(
        settings.registry_url,
        master_key=own_master_key(settings),
        actor=settings.actor or login_name(),
        command=command,
        upkeep=lambda registry: upkeep_at_opening(registry, warn=warn),
    )


def own_master_key(settings: Settings) -> "MasterKeySource":
    """Return where the key comes from that seals the registry's secrets: environment, else a file.

    What is wrong with it shows when a secret is needed, and not before.
    """
    from fpvec_audit.registry.master_key import NoKey

    try:
        given = vault_secrets()
    except SettingsError as error:
        return NoKey(error.problem, error.advice)
    return master_key_source(settings, given)


def master_key_source(settings: Settings, given: VaultSecrets) -> "MasterKeySource":
    """Return where a master key comes from: what the environment gives, else a file."""
    from fpvec_audit.registry.given_key import GivenKey, Passphrase

    if given.key:
        return GivenKey(given.key)
    if given.passphrase:
        return Passphrase(given.passphrase)
    return key_file(settings)


def key_file(settings: Settings) -> "KeyFile":
    """Return the file of the master key, whether it is there or not."""
    from fpvec_audit.registry.master_key import MASTER_KEY_FILE, KeyFile

    file = Path(settings.vault_key_file).expanduser() if settings.vault_key_file else settings.home / MASTER_KEY_FILE
    return KeyFile(file)
