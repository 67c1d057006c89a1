"""Where things are and how they are done: defaults < ``fpvec.toml`` < ``FPVEC_*`` environment < command line.

The only module that reads the environment. A :class:`Settings` is frozen and handed down from the command line.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fpvec_audit.errors import SettingsError

SETTINGS_FILE = "fpvec.toml"
HOME_NAME = "fpvec"


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command needs to know.

    Attributes:
        home: directory of the embedded registry, the vault key and artefacts made without ``--out``.
        registry: SQLAlchemy URL; empty means ``registry.db`` in ``home``.
        device: torch device: ``auto``, ``cpu`` or ``cuda``.
        backend: ``auto``, ``vllm`` or ``transformers``.
        vault_key_file: file of the master key; empty means ``vault.key`` in ``home``.
        actor: who acts, for the ledger; empty means the login on this machine.
        attack_cache: how much attacked copies that are kept may take together, as "20 GB" or a number of bytes.
        scratch: directory for local copies of what lies elsewhere, on a disk of this machine; empty means
            ``cache/scratch`` in ``home``.
        scratch_size: how much may lie there together, likewise.
    """

    home: Path
    registry: str = ""
    device: str = "auto"
    backend: str = "auto"
    vault_key_file: str = ""
    actor: str = ""
    attack_cache: str = "20 GB"
    scratch: str = ""
    scratch_size: str = "100 GB"

    @property
    def registry_url(self) -> str:
        """SQLAlchemy URL of the registry."""
        return self.registry or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def attack_cache_bytes(self) -> int:
        """How much attacked copies that are kept may take together, bytes.

        Raises:
            SettingsError: the setting is no size.
        """
        return _size("attack_cache", self.attack_cache)

    @property
    def scratch_directory(self) -> Path:
        """Where local copies of what lies elsewhere go."""
        return Path(self.scratch).expanduser().resolve() if self.scratch else self.home / "cache" / "scratch"

    @property
    def scratch_bytes(self) -> int:
        """How much may lie in scratch together, bytes.

        Raises:
            SettingsError: the setting is no size.
        """
        return _size("scratch_size", self.scratch_size)


def default_home(name: str = HOME_NAME) -> Path:
    """Return the platform's user data directory of this name (not created)."""
    from platformdirs import user_data_path

    return user_data_path(name, appauthor=False)


def load_settings(
    overrides: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    home_name: str = HOME_NAME,
) -> Settings:
    """Merge all sources of settings.

    Args:
        overrides: values from the command line; None means "not given".
        environment: ``FPVEC_*`` variables; the process environment by default.
        directory: where ``fpvec.toml`` is looked for; the working directory by default.
        home_name: name of the home in the user data directory when nothing else names one.

    Raises:
        SettingsError: an unknown name or a value of the wrong kind.
    """
    environment = os.environ if environment is None else environment
    names = [known.name for known in fields(Settings)]
    values: dict[str, Any] = {"home": default_home(home_name)}
    values |= _from_file((directory or Path.cwd()) / SETTINGS_FILE, names)
    values |= {name: environment[key] for name in names if environment.get(key := f"FPVEC_{name.upper()}")}
    values |= {name: value for name, value in overrides.items() if value is not None}
    settings = Settings(**values)
    return replace(settings, home=Path(settings.home).expanduser().resolve())


def api_key(environment: Mapping[str, str] | None = None) -> str:
    """Return the key for endpoints: ``FPVEC_API_KEY``, else ``OPENAI_API_KEY``; empty for none.

    It comes from the environment alone, so that it stands in no file, history or process list.
    """
    environment = os.environ if environment is None else environment
    return environment.get("FPVEC_API_KEY") or environment.get("OPENAI_API_KEY") or ""


@contextmanager
def handed_down(settings: Settings, variables: Mapping[str, str]) -> Iterator[None]:
    """Let the environment say what a process was told otherwise, for the processes that it starts meanwhile.

    So no argument of theirs, which others may read, holds a database's password.

    Args:
        settings: of this process.
        variables: further ones, of libraries; those that are set already stay as they are.
    """
    own = {f"FPVEC_{known.name.upper()}": str(getattr(settings, known.name)) for known in fields(Settings)}
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    wanted = {name: value for name, value in own.items() if value} | missing
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True)
class Worker:
    """One of the processes that a launcher started to train together.

    Attributes:
        rank: its number; 0 does everything but the training alone.
        processes: how many there are.
    """

    rank: int = 0
    processes: int = 1


ALONE = Worker()


def launched_worker(environment: Mapping[str, str] | None = None) -> Worker:
    """Return which process this is: ``RANK`` and ``WORLD_SIZE``, as ``accelerate launch`` and ``torchrun`` set them.

    Raises:
        SettingsError: they do not fit each other.
    """
    environment = os.environ if environment is None else environment
    rank, processes = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and processes.isdecimal() and int(rank) < int(processes)):
        raise SettingsError(f"RANK is {rank!r} and WORLD_SIZE {processes!r}", advice="start with `accelerate launch`")
    return Worker(int(rank), int(processes))


@dataclass(frozen=True, slots=True)
class VaultSecrets:
    """What the environment says about the master key: at most one of the two is set.

    Attributes:
        key: 64 hexadecimal digits.
        passphrase: what the key follows from.
    """

    key: str = field(default="", repr=False)
    passphrase: str = field(default="", repr=False)


def vault_secrets(prefix: str = "FPVEC_VAULT", environment: Mapping[str, str] | None = None) -> VaultSecrets:
    """Return master key or passphrase: ``FPVEC_VAULT_KEY``, ``FPVEC_VAULT_PASSPHRASE``; from the environment alone.

    Args:
        prefix: beginning of the variables' names.
        environment: the process environment by default.

    Raises:
        SettingsError: both are set.
    """
    environment = os.environ if environment is None else environment
    found = VaultSecrets(environment.get(f"{prefix}_KEY", ""), environment.get(f"{prefix}_PASSPHRASE", ""))
    if found.key and found.passphrase:
        raise SettingsError(f"{prefix}_KEY and {prefix}_PASSPHRASE are both set", advice="set one of them")
    return found


def login_name() -> str:
    """Return who is logged in where, as ``user@host``."""
    import pwd
    import socket

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}"


def _size(name: str, text: str) -> int:
    """Return a number of bytes that is written as a number, with a unit or without."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if found is None:
        raise SettingsError(f"{name} is {text!r}, which is no size", advice='write it as "20 GB"')
    return int(float(found.group(1)) * 1000 ** "_kMGT".index(found.group(2) or "_"))


def _from_file(path: Path, names: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    for name, value in values.items():
        if name not in names:
            raise SettingsError(f"{path}: unknown setting {name!r}", advice=f"known: {', '.join(names)}")
        if not isinstance(value, str):
            raise SettingsError(f"{path}: {name} is {value!r}", advice="write it as text in quotes")
    return values
