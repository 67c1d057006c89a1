"""A real PostgreSQL server for tests: its own directory, loopback only, gone with the test session.

``initdb`` refuses to run as root, so that the server then runs as the user ``postgres``. A developer without the
server's programs sees the tests skipped with the reason; in CI (``CI`` set) they fail instead.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_TEMPLATE = "fpvec_template"
_SPEED = (
    *("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off"),
    *("max_connections=200", "log_statement=none"),
)
"""Nothing here is about power cuts of the server, and no database lives long enough to be vacuumed: every one of some
hundreds would get a process for that each minute. All else is as shipped."""
_MEMORY, _MOST_BYTES = Path("/dev/shm"), 6_000_000_000
"""Where data lies if there is room for twice what all tests write: making a database is six times as fast there."""
_FIRST_WITH_STRATEGIES = 150_000
"""Version from which databases are copied block by block through the log, which is slower for a small one."""


def programs() -> Path | None:
    """Return the directory of ``initdb`` and ``pg_ctl``, None where there is none."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    candidates = [*places, *([Path(found).resolve().parent] if found else [])]
    return next((place for place in candidates if all((place / name).exists() for name in ("initdb", "pg_ctl"))), None)


@dataclass
class PostgreSQL:
    """A running server.

    Attributes:
        place: its directory.
        port: where it listens on 127.0.0.1.
        options: settings of the server.
    """

    place: Path
    port: int
    options: Sequence[str] = _SPEED
    _numbers: int = 0
    _copying: str | None = None

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str = "") -> str:
        """Return the SQLAlchemy URL of a database."""
        login = f"{user}:{password}" if password else user
        return f"postgresql+psycopg://{login}@127.0.0.1:{self.port}/{database}"

    def fresh(self, *, template: str = "template0") -> str:
        """Make a database that nobody has used, and return its URL."""
        self._numbers += 1
        name = f"fpvec_{os.getpid()}_{self._numbers}"
        if self._copying is None:
            ((version,),) = self.execute("SHOW server_version_num")
            self._copying = "STRATEGY FILE_COPY" if int(version) >= _FIRST_WITH_STRATEGIES else ""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {self._copying}")
        return self.url(name)

    def with_schema(self) -> str:
        """Make a database that holds an empty registry at head, and return its URL."""
        from fpvec_audit.registry.unit_of_work import open_registry

        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{_TEMPLATE}'"):
            self.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
            open_registry(self.url(_TEMPLATE)).close()
        return self.fresh(template=_TEMPLATE)

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple]:
        """Run a statement as the server's administrator, outside of any transaction."""
        import psycopg

        with psycopg.connect(self.url(database).replace("+psycopg", ""), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def control(self, *arguments: str) -> None:
        """Run ``pg_ctl``."""
        directory = programs()
        assert directory is not None
        _as_postgres([str(directory / "pg_ctl"), "-D", str(self.place / "data"), "-w", *arguments], self.place)

    def start(self) -> None:
        """Start the server."""
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories= " + " ".join(
            f"-c {option}" for option in self.options
        )
        self.control("-l", str(self.place / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server: ``immediate`` as a crash, ``fast`` with rollbacks."""
        self.control("-m", mode, "stop")

    def dump(self, database: str) -> str:
        """Return what ``pg_dump`` gives."""
        directory = programs()
        assert directory is not None
        command = [str(directory / "pg_dump"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", database]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@contextmanager
def running_server(options: Sequence[str] = _SPEED) -> Iterator[PostgreSQL]:
    """Give a server of its own; skip where there are no programs for one.

    Args:
        options: settings of the server.
    """
    directory = programs()
    if directory is None:
        reason = "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _MOST_BYTES
    place = Path(tempfile.mkdtemp(prefix="fpvec-postgresql-", dir=_MEMORY if roomy else None))
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(place, user.pw_uid, user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = PostgreSQL(place, port, options)
    try:
        data = str(place / "data")
        _as_postgres(
            [
                str(directory / "initdb"),
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
                "--locale=C.UTF-8",
            ],
            place,
        )
        server.start()
        yield server
    finally:
        if (place / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(place, ignore_errors=True)


def _as_postgres(command: Sequence[str], place: Path) -> None:
    user = "postgres" if os.geteuid() == 0 else None
    log = place / "commands.log"
    with log.open("ab") as output:  # a pipe would be held open by the server
        done = subprocess.run(command, stdout=output, stderr=output, cwd=place, user=user, check=False)
    assert done.returncode == 0, log.read_text()
