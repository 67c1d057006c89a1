"""Time look-ups, lists, identification and inserts in a registry with a million stamps, on SQLite and on PostgreSQL.

    .venv/bin/python benchmarks/registry.py

Each figure stands beside a bare SELECT or INSERT through the driver on the same database in the same run. PostgreSQL is
a server of its own with the settings it ships with (fsync on). Format of the results: benchmarks/README.md.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from registry_fill import DOWNSTREAMS, LICENSEES, OWNERS, START, VECTORS, digest, fill, stamp_id, vector_id  # noqa: E402

RESULTS = ROOT / "benchmarks" / "registry.json"
DOCS = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- benchmarks/registry.py: begin; do not edit by hand -->"
END = "<!-- benchmarks/registry.py: end -->"
SCHEMA_VERSION = 1
TENSORS = 300
COPIES = 100
"""Copies whose manifests are recorded by the program; their inserts are what is timed."""
PAGE = 51
"""Rows of a first page, and the one that tells whether more follow."""
LIMITS = {"lookup": 20.0, "list": 20.0, "identify": 300.0, "insert": 10.0}
"""Milliseconds, in the median; inserts on SQLite alone."""


def main() -> None:
    """Measure, print, write."""
    options = parse_options()
    if options.write_docs:
        write_docs(DOCS, json.loads(options.out.read_text(encoding="utf-8")))
        return
    document = describe(options)
    for database, opened in (("sqlite", sqlite), ("postgresql", postgresql)):
        if database in options.only:
            with opened(options.keep) as url:
                document["databases"].append(measure(database, url, options))
    part = options.out.with_name(options.out.name + ".part")
    part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(options.out)
    print(markdown(document))


def parse_options() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stamps", type=int, default=1_000_000)
    parser.add_argument("--audits", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=50, help="measurements of each question")
    parser.add_argument("--only", nargs="+", default=["sqlite", "postgresql"], metavar="DATABASE")
    parser.add_argument("--keep", type=Path, help="SQLite's file: filled if it is not there, and kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write-docs", action="store_true", help="measure nothing: results → docs/benchmarks.md")
    return parser.parse_args()


@contextmanager
def sqlite(kept: Path | None) -> Iterator[str]:
    """Give the URL of a registry in a new file, or in one that is kept."""
    if kept is not None:
        yield f"sqlite:///{kept.resolve()}"
        return
    with tempfile.TemporaryDirectory() as place:
        yield f"sqlite:///{place}/registry.db"


@contextmanager
def postgresql(_kept: Path | None) -> Iterator[str]:
    """Give the URL of an empty database on a server with the settings it ships with."""
    from tests.postgresql import running_server

    with running_server(options=()) as server:
        yield server.fresh()


def measure(database: str, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fill a registry and ask it everything."""
    from fpvec_audit.registry.unit_of_work import open_registry

    with open_registry(url) as registry:
        began = time.monotonic()
        with registry.snapshot() as uow:
            filled = uow.models.find(digest("stamped", options.stamps - 1)) is not None
        if not filled:
            fill(registry.engine, options.stamps, options.audits)
        seconds = time.monotonic() - began
        say(f"{database}: filled in {seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
        inserts, manifests = time_inserts(registry)
        asked = [inserts]
        for kind, name, question, bare in questions(registry, options, manifests):
            asked.append(timed(registry, options.runs, kind=kind, name=name, question=question, bare=bare))
        for entry in asked:
            say(f"{database}: {entry['name']}: {entry['median_ms']:.2f} ms (bare {entry['bare_median_ms']:.2f})")
        return {
            "database": database,
            "version": version_of(registry),
            "fill_seconds": round(seconds, 1),
            "bytes": size_of(registry),
            "asked": asked,
        }


def timed(
    registry: Any,
    runs: int,
    *,
    kind: str,
    name: str,
    question: Callable[[int], Any],
    bare: tuple[str, Callable[[int], Any]],
) -> dict[str, Any]:
    """Ask one question many times, each time about something else, in turns with the bare statement."""
    statement, value = bare
    seconds, floor = [], []
    with driver(registry) as run:
        for number in range(-2, runs):  # two rehearsals, which are not counted
            once = clocked(lambda number=number: question(number % runs))
            least = clocked(lambda number=number: run(statement, value(number % runs)))
            if number >= 0:
                seconds.append(once)
                floor.append(least)
    return entry(kind, name, seconds, floor)


def entry(kind: str, name: str, seconds: list[float], floor: list[float]) -> dict[str, Any]:
    """Return what the results say of one question."""
    return {
        "kind": kind,
        "name": name,
        "runs": len(seconds),
        "median_ms": round(1000 * statistics.median(seconds), 3),
        "worst_ms": round(1000 * max(seconds), 3),
        "bare_median_ms": round(1000 * statistics.median(floor), 3),
        "bare_worst_ms": round(1000 * max(floor), 3),
    }


def questions(registry: Any, options: argparse.Namespace, manifests: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield (kind, name, question, bare statement) for everything but inserts."""
    from fpvec_audit.domain.manifest import Manifest
    from fpvec_audit.domain.selection import Selection
    from fpvec_audit.services.models import list_models
    from fpvec_audit.services.recognition import look_up
    from fpvec_audit.services.recorded_stamps import list_stamps
    from fpvec_audit.services.suspects_met import list_audits

    draw = random.Random(0)
    some = [draw.randrange(options.stamps) for _ in range(options.runs)]
    by_id = "SELECT name, role, location FROM model WHERE id = ?"

    def looked(ask: Callable[[Any, int], Any]) -> Callable[[int], Any]:
        def question(number: int) -> Any:
            with registry.snapshot() as uow:
                return ask(uow, some[number])

        return question

    bare_model = (by_id, lambda number: (digest("stamped", some[number]),))
    yield "lookup", "a model by digest", looked(lambda uow, n: uow.models.get(digest("stamped", n))), bare_model
    yield (
        "lookup",
        "by 12 characters of it",
        looked(lambda uow, n: uow.models.get(digest("stamped", n)[:12])),
        bare_model,
    )
    yield "lookup", "by name", looked(lambda uow, n: uow.models.get(f"copy-{n}")), bare_model
    yield "lookup", "its stamps", looked(lambda uow, n: uow.stamps.of_model(digest("stamped", n))), bare_model
    yield "lookup", "a stamp by 12 characters", looked(lambda uow, n: uow.stamps.get(stamp_id(n)[:15])), bare_model

    def listed(fetch: Any, order: str = "created", **where: Callable[[int], str]) -> Callable[[int], Any]:
        def question(number: int) -> Any:
            wanted = {name: value(some[number]) for name, value in where.items()}
            selection = Selection(where=wanted, sort=order, limit=PAGE)
            return fetch(registry=registry, selection=selection)

        return question

    def page(table: str, condition: str, value: Callable[[int], Any]) -> tuple[str, Callable[[int], Any]]:
        statement = f"SELECT * FROM {table} WHERE {condition} ORDER BY created_at, id LIMIT {PAGE}"
        return statement, lambda number: (value(some[number]),)

    from registry_fill import key_set_id, licensee_id

    few = lambda n: 1 + n % (LICENSEES - 1)  # noqa: E731
    of_licensee = page("stamp", "licensee_id = ?", lambda n: licensee_id(few(n)))
    for name, where in {
        "of a licensee": {"licensee": lambda n: f"Licensee {few(n)}"},
        "of the licensee with a tenth": {"licensee": lambda _: "Licensee 0"},
        "of a base": {"base": lambda n: f"base-{n % 5}"},
        "of a downstream model": {"downstream": lambda n: f"downstream-{n % DOWNSTREAMS}"},
        "of a key set": {"key": lambda n: f"keys-{n % 200}"},
        "of an owner": {"owner": lambda n: f"Owner {n % OWNERS}"},
        "of a vector": {"vector": lambda n: vector_id(n % VECTORS)},
    }.items():
        yield "list", f"stamps {name}", listed(list_stamps, **where), of_licensee
    newest = page("stamp", "created_at > ?", lambda _: START.isoformat(sep=" ")[:19])
    yield "list", "the newest stamps", listed(list_stamps, "-created"), newest

    def deep(number: int) -> Any:
        return list_stamps(registry=registry, selection=Selection(limit=PAGE, after=stamp_id(some[number])))

    yield "list", "a page from the middle", deep, newest
    of_role = page("model", "role = ?", lambda _: "stamped")
    yield "list", "models of a role", listed(list_models, role=lambda _: "stamped"), of_role
    yield "list", "models of a base", listed(list_models, base=lambda n: f"base-{n % 5}"), of_role
    yield "list", "models by name", listed(list_models, "name"), of_role
    of_keys = page("audit", "key_set_id = ?", lambda n: key_set_id(n % 200))
    yield "list", "audits with a verdict", listed(list_audits, verdict=lambda _: "MATCH"), of_keys
    yield "list", "audits with a key set", listed(list_audits, key=lambda n: f"keys-{n % 200}"), of_keys
    yield "list", "audits of an owner", listed(list_audits, owner=lambda n: f"Owner {n % OWNERS}"), of_keys

    shared = ("SELECT model_id FROM model_tensor WHERE content = ?", lambda number: (some[number],))

    def identified(part: Callable[[Any], Manifest], expected: int) -> Callable[[int], Any]:
        parts = [part(manifest) for manifest in manifests]

        def question(number: int) -> Any:
            matches, _ = look_up(parts[number % len(parts)], registry=registry)
            assert len(matches) >= expected, "a model was not recognised"
            return matches

        return question

    yield "identify", "a whole copy", identified(lambda manifest: manifest, 1), shared
    third = TENSORS // 3
    yield "identify", "a third of its tensors", identified(lambda found: Manifest(found.tensors[:third]), 1), shared
    yield "identify", "two thirds retrained", identified(lambda found: retrained(found, third), 1), shared
    only = identified(lambda found: Manifest(tuple(t for t in found.tensors if t.name == "embedding")), 1)
    yield "identify", "a tensor of all copies", only, shared
    strange = identified(lambda found: retrained(found, 0), 0)
    yield "identify", "a stranger", strange, shared


def time_inserts(registry: Any) -> tuple[dict[str, Any], list[Any]]:
    """Record copies with manifests of their own, one transaction each, in turns with a bare INSERT."""
    from fpvec_audit.domain.records import ModelRecord, ModelRole, StampRecord

    begin = time.time_ns()  # copies that no run before has put in
    manifests = [manifest_of(begin + number) for number in range(COPIES)]
    seconds, floor = [], []
    statement = "INSERT INTO registry_fact (name, value) VALUES (?, ?)"
    with driver(registry) as run:
        for number, manifest in enumerate(manifests):
            model = ModelRecord(
                id=manifest.digest,
                name=f"inserted-{begin + number}",
                role=ModelRole.STAMPED,
                architecture="llama2",
                location=f"/inserted/{number}",
                parent=digest("downstream", 0),
                parameters=7_000_000_000,
                created_at=registry.clock(),
            )
            stamp = StampRecord(
                id=f"st-{digest('inserted', begin + number)[:16]}",
                downstream=digest("downstream", 0),
                stamped=model.id,
                vectors=((vector_id(number % VECTORS), 1.0),),
                licensee=f"Licensee {number}",
                location=model.location,
                applied_ratio=0.99,
                cosine=0.999,
                policies={"vocabulary": "refuse"},
                created_at=registry.clock(),
            )

            def insert(model: Any = model, stamp: Any = stamp, manifest: Any = manifest) -> None:
                with registry.unit_of_work() as uow:
                    uow.models.add(replace(model, name=uow.models.free_name(model.name)), manifest=manifest)
                    uow.stamps.add(stamp)

            seconds.append(clocked(insert))
            floor.append(clocked(lambda number=number: run(statement, (f"benchmark {begin + number}", "x"))))
    name = f"a stamp: model, manifest of {TENSORS} tensors, sketch, stamp, ledger, commit"
    return entry("insert", name, seconds, floor), manifests


def manifest_of(number: int) -> Any:
    """Return a manifest of a copy; all copies share the embedding, which stamping left alone."""
    from fpvec_audit.domain.manifest import Manifest, TensorDigest

    names = ["embedding", *(f"layers.{layer}.{part}" for layer in range(TENSORS // 10) for part in range(10))][:TENSORS]
    return Manifest.of(
        TensorDigest(
            name,
            "BF16",
            (4096, 4096),
            hashlib.sha256(f"{name} {0 if name == 'embedding' else number}".encode()).hexdigest(),
        )
        for name in names
    )


def retrained(manifest: Any, kept: int) -> Any:
    """Return a manifest of which only so many tensors are what they were."""
    from fpvec_audit.domain.manifest import Manifest

    changed = (
        replace(item, sha256=hashlib.sha256(item.sha256.encode()).hexdigest()) for item in manifest.tensors[kept:]
    )
    return Manifest((*manifest.tensors[:kept], *changed))


@contextmanager
def driver(registry: Any) -> Iterator[Callable[[str, Any], Any]]:
    """Give what runs one statement through the driver and commits."""
    raw = registry.engine.raw_connection()
    connection: Any = raw.driver_connection
    postgresql = registry.engine.dialect.name == "postgresql"
    if postgresql:
        connection.autocommit = True

    def run(statement: str, values: Any) -> Any:
        cursor = connection.execute(statement.replace("?", "%s") if postgresql else statement, values)
        return cursor.fetchall() if cursor.description else None

    try:
        yield run
    finally:
        raw.invalidate()
        raw.close()


def clocked(work: Callable[[], Any]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def version_of(registry: Any) -> str:
    """Return the version of the database."""
    with registry.engine.connect() as connection:
        if registry.engine.dialect.name == "sqlite":
            return f"SQLite {connection.exec_driver_sql('SELECT sqlite_version()').scalar_one()}"
        return f"PostgreSQL {connection.exec_driver_sql('SHOW server_version').scalar_one()}".split(" (")[0]


def size_of(registry: Any) -> int:
    """Return the bytes of the database."""
    if registry.engine.dialect.name == "sqlite":
        return Path(registry.engine.url.database).stat().st_size
    with registry.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return the document with everything but measurements."""
    from stamping import memory, processor, versions

    command = ["python", "benchmarks/registry.py", "--stamps", str(options.stamps), "--audits", str(options.audits)]
    command += ["--runs", str(options.runs), "--only", *options.only]
    names = ("fpvec-audit", "commit", "python")
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "registry",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": shlex.join(command),
        "stamps": options.stamps,
        "audits": options.audits,
        "tensors": TENSORS,
        "machine": {
            "cpu": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": memory("MemTotal"),
            "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
            "load_average": round(os.getloadavg()[0], 2),
        },
        "versions": {name: value for name, value in versions(None).items() if name in names},
        "databases": [],
    }


def markdown(document: Mapping[str, Any]) -> str:
    """Return the generated section of the page."""
    machine, versions = document["machine"], document["versions"]
    lines = [
        f"Measured on {document['date'][:10]} with `{document['command']}`: {document['stamps']:,} stamps of as many "
        f"models, {document['audits']:,} audits. {machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, load "
        f"{machine['load_average']:.2f} at the start. Versions: "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + ".",
    ]
    verdicts = []
    for database in document["databases"]:
        lines += [
            "",
            f"### {database['version']}",
            "",
            f"{database['bytes'] / 1e9:.1f} GB, filled in {database['fill_seconds']:.0f} s.",
            "",
            "| what is asked | median, ms | worst, ms | bare statement, median ms | worst, ms |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {asked['kind']}: {asked['name']} | {asked['median_ms']:.2f} | {asked['worst_ms']:.2f} | "
            f"{asked['bare_median_ms']:.2f} | {asked['bare_worst_ms']:.2f} |"
            for asked in database["asked"]
        ]
        verdicts += [verdict(database, kind) for kind in LIMITS if kind != "insert" or database["database"] == "sqlite"]
    return "\n".join([*lines, "", *verdicts])


def verdict(database: Mapping[str, Any], kind: str) -> str:
    """Return the sentence on one limit."""
    worst = max((asked for asked in database["asked"] if asked["kind"] == kind), key=lambda asked: asked["median_ms"])
    met = "met" if worst["median_ms"] <= LIMITS[kind] else "**missed**"
    return (
        f"* {database['version']}, {kind} in at most {LIMITS[kind]:g} ms: {worst['median_ms']:.1f} ms in the slowest "
        f"case ({worst['name']}), {met}."
    )


def write_docs(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the generated section of a page.

    Raises:
        SystemExit: the page has no such section.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no section between {BEGIN!r} and {END!r}: put both lines where it belongs")
    path.write_text(f"{before}{BEGIN}\n\n{markdown(document)}\n\n{END}{after}", encoding="utf-8")


def say(text: str) -> None:
    """Tell how far it has come."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
