"""Let 8 processes issue key sets, stamp and audit at once on SQLite and PostgreSQL, and kill some of them.

    .venv/bin/python benchmarks/registry_concurrency.py --out benchmarks/registry_concurrency.json

Every process does ``--rounds`` rounds: a key set issued, one tiny model stamped, the copy audited with an engine that
says nothing, all through the services. Workers are killed at random moments and replaced. Afterwards everything that
was confirmed is held against the registry, and the ledger verified. Then the same number of processes write units of
work with one ledger entry each, and as many bare INSERTs into a table of the same database, each in a transaction of
its own: what of the time is the database's. PostgreSQL is started in a temporary directory with its own settings for
durability (``fsync=on``), SQLite runs as the program opens it.
"""

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from sqlalchemy import make_url  # noqa: E402

from tests import postgresql  # noqa: E402
from tests.registry.many_processes import KINDS, Work, hold_against, prepared, work_together  # noqa: E402


def main() -> None:
    """Measure both databases and write the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200, help="issues, stamps and audits of every process, each")
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--databases", nargs="*", default=["sqlite", "postgresql"])
    parser.add_argument("--out", type=Path, help="JSON file, completed where it exists")
    options = parser.parse_args()
    document: dict[str, Any] = {"benchmark": "registry_concurrency", "schema_version": 1}
    if options.out and options.out.exists():
        document |= json.loads(options.out.read_text(encoding="utf-8"))
    document["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    document["versions"] = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in options.databases:
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fpvec-concurrency-")))
            url = f"sqlite:///{place / 'registry.db'}"
            if name == "postgresql":
                postgresql._SPEED = ("max_connections=200",)  # durable, as a server of a company is
                server = stack.enter_context(postgresql.running_server())
                document["versions"]["postgresql"] = server.execute("SHOW server_version")[0][0]
                url = server.fresh()
            document[name] = measured(url, place, options)
        print(json.dumps({name: document[name]}, indent=2), file=sys.stderr)
        if options.out:
            options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def measured(url: str, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what one database came to."""
    work = prepared(url, place)
    done = work_together(work, processes=options.processes, rounds=options.rounds, kills=options.kills)
    started = time.monotonic()
    with work.opened() as registry:
        hold_against(registry, done, processes=options.processes, rounds=options.rounds)
        with registry.snapshot() as uow:
            head = uow.ledger.head()
    assert head is not None
    checked = time.monotonic() - started
    transactions = options.processes * options.rounds
    make_bare_table(url)
    units = side_by_side(write_units, work, options)
    bare = side_by_side(insert_bare, work, options)
    shutil.rmtree(place / "base", ignore_errors=True)
    operations = len(done.confirmed)
    return {
        "load_before": round(os.getloadavg()[2], 2),
        "processes": options.processes,
        "operations": {kind: sum(of == kind for _, _, of in done.confirmed) for kind in KINDS},
        "killed": done.kills,
        "lost": 0,
        "twice": 0,
        "ledger_entries": head.serial,
        "ledger_verifies": True,
        "seconds": round(done.seconds, 1),
        "operations_per_second": round(operations / done.seconds, 1),
        "checking_seconds": round(checked, 1),
        "units_of_work": {"count": transactions} | units,
        "bare_inserts": {"count": transactions} | bare,
    }


def side_by_side(
    write: Callable[[Work, int, int, Any], None], work: Work, options: argparse.Namespace
) -> dict[str, Any]:
    """Return how many transactions a second processes get through together, and how long each takes."""
    context = get_context("fork")
    answers: Queue[list[float]] = context.Queue()
    processes = [
        context.Process(target=write, args=(work, number, options.rounds, answers))
        for number in range(options.processes)
    ]
    started = time.monotonic()
    for process in processes:
        process.start()
    seconds = [item for _ in processes for item in answers.get(timeout=600)]
    for process in processes:
        process.join()
    elapsed = time.monotonic() - started
    return {
        "per_second": round(len(seconds) / elapsed, 1),
        "median_ms": round(1000 * statistics.median(seconds), 2),
        "p99_ms": round(1000 * statistics.quantiles(seconds, n=100)[98], 2),
    }


def write_units(work: Work, number: int, count: int, answers: "Queue[list[float]]") -> None:
    """Write units of work with one ledger entry each."""
    seconds = []
    with work.opened() as registry:
        for turn in range(count):
            started = time.perf_counter()
            with registry.unit_of_work() as uow:
                uow.ledger.append("thing.done", f"{number}-{turn}", {"number": turn})
            seconds.append(time.perf_counter() - started)
    answers.put(seconds)


def insert_bare(work: Work, number: int, count: int, answers: "Queue[list[float]]") -> None:
    """Insert rows of about the same size, each in a transaction of its own, through the driver alone."""
    seconds = []
    text = "x" * 300
    with closing(connected(work.url)) as connection:
        sign = "?" if isinstance(connection, sqlite3.Connection) else "%s"
        for turn in range(count):
            started = time.perf_counter()
            connection.execute(f"INSERT INTO bare VALUES ({sign}, {sign})", (f"{number}-{turn}", text))
            seconds.append(time.perf_counter() - started)
    answers.put(seconds)


def make_bare_table(url: str) -> None:
    """Make the table that bare rows go to."""
    with closing(connected(url)) as connection:
        connection.execute("CREATE TABLE bare (id VARCHAR(64) PRIMARY KEY, content TEXT NOT NULL)")


def connected(url: str) -> Any:
    """Return a connection of the database's own driver, every statement a transaction."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return sqlite3.connect(str(parsed.database), isolation_level=None, timeout=30)
    import psycopg

    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


if __name__ == "__main__":
    main()
