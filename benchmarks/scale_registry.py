"""Measure what one item costs the registry, and how much registry and ledger take when they are all that is asked.

    .venv/bin/python benchmarks/scale_registry.py

Four questions, on SQLite and on PostgreSQL with the settings it ships with (fsync on). What do a stamp and an audit
write: transactions, seconds that the write lock is held, ledger entries, bytes? How many ledger entries a second go in
when 1, 10, 100 or 1,000 share a transaction, and how many does a verification walk? How many go in when there are
several chains, each with writers and a lock of its own, under one anchor? How many stamps a second go into a registry
that has a million already? Chains are a prototype: each is a whole ledger of the program's own in a database of its
own, and the anchor is an entry with the Merkle root of their heads. Format of the results: benchmarks/README.md.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "benchmarks")]

from registry import clocked, describe, digest, fill, manifest_of, say, size_of, vector_id, version_of  # noqa: E402
from side_by_side import Spent, side_by_side  # noqa: E402

RESULTS = ROOT / "benchmarks" / "scale_registry.json"
BATCHES = (1, 10, 100, 1000)
CHAINS = (1, 2, 4, 8)
ITEMS = 20
"""Stamps, and audits, whose writes are counted."""
CONTENT = {
    "downstream": "d" * 64,
    "licensee": "Licensee 17",
    "stamped": "e" * 64,
    "vectors": [["vec-0123456789abcdef", "1.0"]],
}
"""About what the entry of a stamp says."""

NewDatabase = Callable[[], str]


def main() -> None:
    """Measure, write after each part."""
    options = parse_options()
    document = described(options)
    if options.add:
        document["databases"] = json.loads(options.out.read_text(encoding="utf-8"))["databases"]
    for name, opened in (("sqlite", sqlite), ("postgresql", postgresql)):
        if name not in options.only:
            continue
        own = next((one for one in document["databases"] if one["database"] == name), None)
        if own is None:
            own = {"database": name}
            document["databases"].append(own)
        with opened() as fresh:
            for part in options.parts:
                load = round(os.getloadavg()[0], 2)
                own |= PARTS[part](fresh, options)
                own["load"] = own.get("load", {}) | {part: load}  # of the minute before
                say(f"{name}: {own}")
                write(options.out, document)


def write(out: Path, document: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(out)


def parse_options() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stamps", type=int, default=1_000_000, help="how many a registry has when more go in")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long each turn is")
    parser.add_argument("--only", nargs="+", default=["sqlite", "postgresql"], metavar="DATABASE")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--add", action="store_true", help="keep what the results have of other databases and parts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def described(options: argparse.Namespace) -> dict[str, Any]:
    """Return the document with everything but measurements."""
    options.audits, options.runs = 0, 0
    found = describe(options) | {"benchmark": "scale_registry", "content_bytes": len(json.dumps(CONTENT))}
    found["command"] = f"python benchmarks/scale_registry.py --stamps {options.stamps} --seconds {options.seconds:g}"
    del found["audits"]
    return found


@contextmanager
def sqlite() -> Iterator[NewDatabase]:
    """Give what makes a new file."""
    with tempfile.TemporaryDirectory() as place:
        numbers = iter(range(1000))
        yield lambda: f"sqlite:///{place}/registry-{next(numbers)}.db"


@contextmanager
def postgresql() -> Iterator[NewDatabase]:
    """Give what makes a new database on a server with the settings it ships with."""
    from tests.postgresql import running_server

    with running_server(options=()) as server:
        yield server.fresh


# What an item writes


def items(fresh: NewDatabase, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a stamp and an audit write: of tiny models, since that does not depend on the model's size."""
    from tests.registry.many_processes import prepared

    with tempfile.TemporaryDirectory() as place:
        work = prepared(fresh(), Path(place))
        with work.opened() as registry:
            found = {kind: counted(registry, work, kind) for kind in ("stamp", "audit")}
            return {"version": version_of(registry), "items": found}


def counted(registry: Any, work: Any, kind: str) -> dict[str, Any]:
    """Return medians over items of one kind, after one that is not counted; bytes, which come in pages, as a mean."""
    tell = Writes(registry)
    carry_out(registry, work, kind, -1)
    totals = [tell.totals()]
    for number in range(ITEMS):
        carry_out(registry, work, kind, number)
        totals.append(tell.totals())
    each = [{name: after[name] - before[name] for name in after} for before, after in pairwise(totals)]
    found = {name: round(statistics.median(one[name] for one in each), 4) for name in each[0]}
    return found | {"bytes": round(sum(one["bytes"] for one in each) / ITEMS)}


def carry_out(registry: Any, work: Any, kind: str, number: int) -> None:
    """Stamp a copy for a new licensee, or audit it with an engine that says nothing."""
    from fpvec_audit.catalog import load_catalog
    from fpvec_audit.domain.keys import KeySetSpecification
    from fpvec_audit.services.audit import audit
    from fpvec_audit.services.audit_settings import checked_settings
    from fpvec_audit.services.keys import issue_key_set
    from fpvec_audit.services.stamp import stamp_models
    from tests.registry.many_processes import Silent

    tools = {"registry": registry, "catalog": load_catalog()}
    copy = work.place / f"copy-{number}"
    if kind == "stamp":
        stamp_models([work.place / "chat"], vectors=[work.vector], out=copy, licensees=[f"licensee-{number}"], **tools)
        return
    if number < 0:
        issue_key_set("keys", registry=registry, specification=KeySetSpecification(issued=32, decoys=96))
    audit(copy, key_set="keys", settings=checked_settings(), backend=Silent(), **tools)


class Writes:
    """Counts the transactions of a registry that hold its write lock, and how long they do.

    Args:
        registry: which.
    """

    def __init__(self, registry: Any) -> None:
        from sqlalchemy import event

        from fpvec_audit.registry.database import READING

        self._registry = registry
        self._transactions, self._held, self._worked = 0, 0.0, 0.0
        self._began: tuple[float, float] | None = None

        def begin(connection: Any) -> None:
            reads = connection.get_execution_options().get(READING)
            self._began = None if reads else (time.perf_counter(), time.process_time())

        def end(_: Any) -> None:
            if self._began is not None:
                self._transactions += 1
                self._held += time.perf_counter() - self._began[0]
                self._worked += time.process_time() - self._began[1]
                self._began = None

        event.listen(registry.engine, "begin", begin)
        event.listen(registry.engine, "checkin", lambda *_: end(None))  # when the commit is through

    def totals(self) -> dict[str, float]:
        """Return what has been written so far."""
        from sqlalchemy import text

        with self._registry.snapshot() as uow:
            entries = uow.ledger.head().serial
            size = size_of(self._registry)
            if self._registry.engine.dialect.name == "sqlite":  # with what is still in its log
                size = uow.session.execute(
                    text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
                )
                size = size.scalar_one()
        return {
            "transactions": self._transactions,
            "lock_seconds": self._held,
            "lock_processor_seconds": self._worked,
            "ledger_entries": entries,
            "bytes": size,
        }


# Ledger entries a second


def ledger(fresh: NewDatabase, options: argparse.Namespace) -> dict[str, Any]:
    """Return how many entries a second go into one ledger, so many a transaction, and how many are verified."""
    from fpvec_audit.registry.unit_of_work import open_registry

    open_registry(url := fresh()).close()
    rates = [{"batch": batch} | appended([url], batch, options.seconds) for batch in BATCHES]
    return {"ledger": rates, "walked_per_second": walked(url)}


def chains(fresh: NewDatabase, options: argparse.Namespace) -> dict[str, Any]:
    """Return what several chains come to, one process each, and what an anchor over them costs."""
    from fpvec_audit.registry.unit_of_work import open_registry

    found, urls = [], [fresh() for _ in range(max(CHAINS))]
    for url in urls:
        open_registry(url).close()
    for count in CHAINS:
        for batch in (1, 100):
            rates = appended(urls[:count], batch, options.seconds)
            found.append({"chains": count, "batch": batch} | rates | {"anchor_ms": anchored(urls[:count], fresh)})
    return {"chains": found}


def appended(urls: Sequence[str], batch: int, seconds: float) -> dict[str, Any]:
    """Append entries to each ledger from a process of its own, and return what that came to together."""
    context = get_context("fork")
    gate, answers = context.Barrier(len(urls)), context.Queue()
    return side_by_side(context, len(urls), append, *((url, batch, seconds, gate, answers) for url in urls))


def walked(url: str) -> float:
    """Return how many entries a second are verified, one after the other."""
    from fpvec_audit.registry.unit_of_work import open_registry

    with open_registry(url) as registry, registry.snapshot() as uow:
        head = uow.ledger.head()
        assert head is not None
        seconds = clocked(lambda: held(uow.ledger.verify() is None))
    return round(head.serial / seconds, 1)


def held(law: bool) -> None:
    """Stop where what must be so is not."""
    assert law


def append(url: str, batch: int, seconds: float, gate: Any, answers: Any) -> None:
    """Append entries for some seconds, so many a transaction."""
    from fpvec_audit.registry.unit_of_work import open_registry

    def work(uow: Any) -> None:
        for number in range(batch):
            uow.ledger.append("benchmark.made", f"item-{spent.done + number}", CONTENT)

    with open_registry(url) as registry:
        Spent().time(registry, 1, lambda uow: uow.ledger.append("benchmark.begun", "rehearsal", CONTENT))
        spent = Spent()
        gate.wait()
        while spent.seconds < seconds:
            spent.time(registry, batch, work)
        answers.put(spent)


def anchored(urls: Sequence[str], fresh: NewDatabase) -> float:
    """Return the milliseconds of one anchor: the heads of all chains read, their root appended to another ledger."""
    from fpvec_audit.domain.merkle import leaf_hash, merkle_root
    from fpvec_audit.registry.unit_of_work import open_registry

    def heads() -> list[str]:
        found = []
        for registry in opened:
            with registry.snapshot() as uow:
                head = uow.ledger.head()
            assert head is not None
            found.append(head.digest)
        return found

    def anchor() -> None:
        leaves = heads()
        root = merkle_root([leaf_hash(bytes.fromhex(leaf)) for leaf in leaves]).hex()
        with above.unit_of_work() as uow:
            uow.ledger.append("benchmark.anchored", "chains", {"heads": leaves, "root": root})

    with ExitStack() as stack:
        above = stack.enter_context(open_registry(fresh()))
        opened = [stack.enter_context(open_registry(url)) for url in urls]
        anchor()
        return round(1000 * sorted(clocked(anchor) for _ in range(9))[4], 2)


# Stamps a second, with a million in the registry


def stamps(fresh: NewDatabase, options: argparse.Namespace) -> dict[str, Any]:
    """Return how many stamps a second go in, one or several a transaction, from one process or several."""
    from fpvec_audit.registry.unit_of_work import open_registry

    found = []
    for rows, cases in ((1000, [(1, 1), (1, 100)]), (options.stamps, [(1, 1), (1, 10), (1, 100), (4, 1)])):
        with open_registry(url := fresh()) as registry:
            fill(registry.engine, rows, 10)
        for processes, batch in cases:
            context = get_context("fork")
            gate, answers = context.Barrier(processes), context.Queue()
            rates = side_by_side(context, processes, record, (url, batch, options.seconds, gate, answers))
            found.append({"rows": rows, "processes": processes, "batch": batch} | rates)
    return {"stamps": found}


def record(url: str, batch: int, seconds: float, gate: Any, answers: Any) -> None:
    """Record stamps with models and manifests of their own for some seconds, so many a transaction."""
    from fpvec_audit.registry.unit_of_work import open_registry

    def work(uow: Any) -> None:
        for model, manifest, stamp in ready:
            uow.models.add(model, manifest=manifest)
            uow.stamps.add(stamp)

    with open_registry(url) as registry:
        ready = [stamp_of(time.time_ns())]
        Spent().time(registry, 1, work)  # a rehearsal
        spent, number = Spent(), time.time_ns()  # copies that nobody else puts in
        gate.wait()
        while spent.seconds < seconds:
            ready = [stamp_of(number + spent.done + place) for place in range(batch)]  # not timed: a stamp makes these
            spent.time(registry, batch, work)
        answers.put(spent)


def stamp_of(number: int) -> tuple[Any, Any, Any]:
    """Return a stamped model, its manifest, and the stamp it came from."""
    from fpvec_audit.domain.records import ModelRecord, ModelRole, StampRecord

    manifest = manifest_of(number)
    now = datetime.now(UTC)
    model = ModelRecord(
        id=manifest.digest,
        name=f"inserted-{number}",
        role=ModelRole.STAMPED,
        architecture="llama2",
        location=f"/inserted/{number}",
        parent=digest("downstream", 0),
        parameters=7_000_000_000,
        created_at=now,
    )
    stamp = StampRecord(
        id=f"st-{digest('inserted', number)[:16]}",
        downstream=digest("downstream", 0),
        stamped=model.id,
        vectors=((vector_id(number % 1000), 1.0),),
        licensee=f"Licensee {number}",
        location=model.location,
        applied_ratio=0.99,
        cosine=0.999,
        policies={"vocabulary": "refuse"},
        created_at=now,
    )
    return model, manifest, stamp


PARTS = {"items": items, "ledger": ledger, "chains": chains, "stamps": stamps}


if __name__ == "__main__":
    main()
