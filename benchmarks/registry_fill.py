"""Fill a registry with a million stamps in minutes: rows go in through the driver, past the program.

What is not filled, because nothing that is measured reads it: manifests of the filled models (those that are compared
are recorded by the program itself), candidates and secrets of key sets, and the ledger's entries of all this.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Engine, Index

from fpvec_audit.domain.keys import Commitment
from fpvec_audit.registry.tables import Base

START = datetime(2025, 1, 1, tzinfo=UTC)
SPAN_SECONDS = 2 * 365 * 86400
OWNERS, KEY_SETS, VECTORS, BASES, DOWNSTREAMS, LICENSEES, SUSPECTS = 20, 200, 1000, 5, 200, 5000, 10_000
COUNTED = 8
_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one table.

    Attributes:
        name: of the table.
        columns: what the rows have.
        rows: makes them.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterable[Sequence[Any]]]


def tables(stamps: int, audits: int) -> list[Table]:
    """Return everything that is filled in, in the order of the references.

    Args:
        stamps: number of stamps; each has a stamped model of its own.
        audits: number of audits.
    """
    span = SPAN_SECONDS / max(stamps, 1)

    def at(number: int) -> datetime:
        return START + timedelta(seconds=number * span)

    def audit(number: int) -> Sequence[Any]:
        created = START + timedelta(seconds=number * SPAN_SECONDS / audits)
        verdict = ("MATCH", "NO_MATCH", "NO_MATCH", "INCONCLUSIVE", "")[number % 5] if number % 100 else "MATCH"
        result = {"verdict": verdict, "tests": [{"name": "exact", "p_value": 0.5}] * 8, "warnings": ["w" * 200]}
        key_set = key_set_id(number * 7 % KEY_SETS)
        suspect = digest("suspect", number % SUSPECTS)
        values = (f"au-{digest('audit', number)[:16]}", key_set, f"/suspects/{number}", suspect)
        plan = json.dumps({"alpha": "1e-6", "trace": ""})
        ended = None if verdict == "" else created
        return (*values, digest("plan", number), plan, None, verdict, json.dumps(result), created, ended)

    def stamp(number: int) -> Sequence[Any]:
        vector = number * 31 % VECTORS
        downstream = number % DOWNSTREAMS
        # One licensee has a tenth of all copies, the others share the rest.
        licensee = licensee_id(0 if number % 10 == 0 else number % LICENSEES)
        base = digest("base", downstream % BASES)
        values = (stamp_id(number), digest("downstream", downstream), digest("stamped", number), licensee)
        return (*values, base, key_set_of(vector), f"/out/{number}", 0.99, 0.999, "{}", at(number))

    def model(number: int) -> Sequence[Any]:
        downstream = number % DOWNSTREAMS
        parent, base = digest("downstream", downstream), digest("base", downstream % BASES)
        values = (digest("stamped", number), f"copy-{number}", "stamped", "llama2", f"/out/{number}", parent, base)
        return (*values, 7_000_000_000, at(number))

    def originals() -> Iterator[Sequence[Any]]:
        for number in range(BASES):
            identifier = digest("base", number)
            yield (identifier, f"base-{number}", "base", "llama2", f"/base/{number}", None, None, 7_000_000_000, START)
        for kind, role, count in (("downstream",) * 2 + (DOWNSTREAMS,), ("fingerprinted",) * 2 + (VECTORS,)):
            for number in range(count):
                base = digest("base", number % BASES)
                yield (digest(kind, number), f"{kind}-{number}", role, "llama2", "/x", base, base, 7_000_000_000, START)

    def key_set(number: int) -> Sequence[Any]:
        licensee = licensee_id(number) if number % 2 else None
        commitment = Commitment("independent", 32, 256, 1, digest("root", number), digest("assignment", number))
        bound = (json.dumps(commitment.to_json()), commitment.digest, commitment.root)
        values = (key_set_id(number), f"keys-{number}", f"Owner {number % OWNERS}", licensee, *bound)
        base = digest("base", number % BASES)
        return (*values, "self-attested", "embedded", "", base, START + timedelta(hours=number))

    def vector(number: int) -> Sequence[Any]:
        values = (vector_id(number), digest("vector", number), f"fam-{number * KEY_SETS // VECTORS}", 0)
        fingerprinted = digest("fingerprinted", number)
        return (*values, fingerprinted, "llama2", "/v", 0, 0.1, START + timedelta(hours=number))

    def contents() -> Iterator[Sequence[Any]]:
        source = random.Random(5)
        shared = [source.getrandbits(64) - 2**63 for _ in range(DOWNSTREAMS)]
        pairs = [(source.getrandbits(64) - 2**63, number) for number in range(stamps) for _ in range(COUNTED - 1)]
        # The tensor that stamping left alone is that of all the copies of one downstream model.
        pairs += [(shared[number % DOWNSTREAMS], number) for number in range(stamps)]
        identifiers = [digest("stamped", number) for number in range(stamps)]
        rows = sorted((content, identifiers[number]) for content, number in pairs)
        return iter(rows)

    def times(count: int, row: Callable[[int], Sequence[Any]]) -> Callable[[], Iterable[Sequence[Any]]]:
        return lambda: (row(number) for number in range(count))

    models = ("id", "name", "role", "architecture", "location", "parent_id", "base_id", "parameters", "created_at")
    return [
        Table(
            "licensee",
            ("id", "name", "created_at"),
            times(LICENSEES, lambda number: (licensee_id(number), f"Licensee {number}", START)),
        ),
        Table("model", models, originals),
        Table(
            "key_set",
            (
                *("id", "name", "owner", "licensee_id", "commitment", "commitment_digest", "root", "grade", "state"),
                *("chance", "base_id", "created_at"),
            ),
            times(KEY_SETS, key_set),
        ),
        Table(
            "vector_family",
            ("id", "key_set_id", "base_id", "created_at"),
            times(
                KEY_SETS, lambda number: (f"fam-{number}", key_set_id(number), digest("base", number % BASES), START)
            ),
        ),
        Table(
            "vector",
            (
                *("id", "digest", "family_id", "mark", "fingerprinted_id", "architecture", "location"),
                *("inexact_elements", "norm", "created_at"),
            ),
            times(VECTORS, vector),
        ),
        Table("model", models, times(stamps, model)),
        Table(
            "stamp",
            (
                *("id", "downstream_id", "stamped_id", "licensee_id", "base_id", "key_set_id", "location"),
                *("applied_ratio", "cosine", "policies", "created_at"),
            ),
            times(stamps, stamp),
        ),
        Table(
            "stamp_vector",
            ("stamp_id", "position", "vector_id", "scale"),
            times(stamps, lambda number: (stamp_id(number), 0, vector_id(number * 31 % VECTORS), 1.0)),
        ),
        Table("model_tensor", ("content", "model_id"), contents),
        Table(
            "suspect",
            ("id", "kind", "location", "first_seen_at"),
            times(SUSPECTS, lambda number: (digest("suspect", number), "checkpoint", f"/suspects/{number}", START)),
        ),
        Table(
            "audit",
            (
                *("id", "key_set_id", "suspect", "suspect_digest", "plan_digest", "plan", "begin", "verdict"),
                *("result", "created_at", "ended_at"),
            ),
            times(audits, audit),
        ),
    ]


def fill(engine: Engine, stamps: int, audits: int) -> None:
    """Fill an empty registry, and let the database know what it holds where it asks for that."""
    indexes = [index for table in Base.metadata.tables.values() for index in table.indexes]
    wanted = tables(stamps, audits)
    filled = {table.name for table in wanted}
    dropped = [index for index in indexes if index.table is not None and index.table.name in filled]
    if engine.dialect.name == "sqlite":
        _fill_sqlite(engine, wanted, dropped)
    else:
        _fill_postgresql(engine, wanted, dropped)


def _fill_sqlite(engine: Engine, wanted: Sequence[Table], indexes: Sequence[Index]) -> None:
    import sqlite3

    engine.dispose()  # without a log the file is one connection's alone
    connection = sqlite3.connect(str(engine.url.database), isolation_level=None)
    for setting in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "cache_size=-400000", "temp_store=2"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    connection.execute("BEGIN")
    for index in indexes:
        connection.execute(f"DROP INDEX {index.name}")
    for table in wanted:
        statement = (
            f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({', '.join('?' * len(table.columns))})"
        )
        connection.executemany(statement, (tuple(map(_for_sqlite, row)) for row in table.rows()))
    for index in indexes:
        assert index.table is not None
        columns = ", ".join(column.name for column in index.columns)
        connection.execute(f"CREATE INDEX {index.name} ON {index.table.name} ({columns})")
    connection.execute("COMMIT")
    for setting in ("synchronous=FULL", "journal_mode=WAL"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    connection.close()


def _for_sqlite(value: Any) -> Any:
    return value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


def _fill_postgresql(engine: Engine, wanted: Sequence[Table], indexes: Sequence[Index]) -> None:
    raw = engine.raw_connection()
    connection: Any = raw.driver_connection
    connection.autocommit = True
    connection.execute("SET session_replication_role = replica")
    connection.execute("SET maintenance_work_mem = '512MB'")
    for index in indexes:
        connection.execute(f'DROP INDEX "{index.name}"')
    for table in wanted:
        columns = ", ".join(table.columns)
        with connection.cursor() as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
            rows = iter(table.rows())
            while part := list(islice(rows, _AT_ONCE)):
                copy.write("".join("\t".join(map(_for_postgresql, row)) + "\n" for row in part))
    for index in indexes:
        assert index.table is not None
        columns = ", ".join(column.name for column in index.columns)
        connection.execute(f'CREATE INDEX "{index.name}" ON {index.table.name} ({columns})')
    connection.execute("VACUUM (ANALYZE)")
    connection.execute("CHECKPOINT")
    connection.autocommit = False
    raw.invalidate()
    raw.close()


def _for_postgresql(value: Any) -> str:
    if value is None:
        return "\\N"
    return str(value).replace("\\", "\\\\") if not isinstance(value, datetime) else value.isoformat()


def digest(kind: str, number: int) -> str:
    """Return what stands for the digest of a thing."""
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


def stamp_id(number: int) -> str:
    """Return the id of a stamp."""
    return f"st-{digest('stamp', number)[:16]}"


def vector_id(number: int) -> str:
    """Return the id of a vector."""
    return f"vec-{digest('vector', number)[:16]}"


def licensee_id(number: int) -> str:
    """Return the id of a licensee."""
    return f"li-{digest('licensee', number)[:16]}"


def key_set_id(number: int) -> str:
    """Return the id of a key set."""
    return f"ks-{digest('commitment', number)[:16]}"


def key_set_of(vector: int) -> str:
    """Return the id of the key set that a vector carries."""
    return key_set_id(vector * KEY_SETS // VECTORS)
