"""A node is killed in mid-item, the driver is killed and resumed: all is done, each once, as single commands do it."""

import time
from collections import Counter

from fpvec_audit.catalog import load_catalog
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.verification import verify_registry
from tests.fleet.ray_runs import Workplace, killed, two_nodes


def survive(place, url, *, stamps, audits):
    """Stamp and audit tiny models on two nodes while a node and the driver die; return what was measured.

    Args:
        place: directory to work in.
        url: of an empty registry on PostgreSQL.
        stamps: how many models are stamped.
        audits: how many of the copies are audited.
    """
    workplace, started = Workplace(place, url, stamps), time.perf_counter()
    try:
        with two_nodes(workplace) as (address, kill_node):
            where = ["--address", address, "--retries", "3"]
            manifest = workplace.manifest("models.csv", "downstream", workplace.models)
            process = workplace.start("stamp", manifest, "--vector", workplace.vector, "--out", place / "out", *where)
            run = until_done(workplace, process, stamps // 3)
            killed(process)
            report = resumed(workplace, run, where)
            assert report["done"] == stamps, report
            copies = [place / "out" / model.name for model in workplace.models[:audits]]
            manifest = workplace.manifest("copies.csv", "suspect", copies)
            options = ["--key", "acme", "--tests", "exact", "--backend", "transformers", *where]
            process = workplace.start("audit", manifest, *options)
            run = until_done(workplace, process, audits // 4)
            kill_node()
            until_done(workplace, process, audits // 2)
            killed(process)
            report = resumed(workplace, run, where)
            assert report["done"] == audits, report
        seconds = time.perf_counter() - started
        check(workplace, stamps=stamps, audits=audits)
        return {
            "stamps": stamps,
            "audits": audits,
            "seconds": seconds,
            "nodes": 2,
            "nodes_killed": 1,
            "drivers_killed": 2,
        }
    finally:
        workplace.close()


def until_done(workplace, process, count):
    """Read what a driver tells until so many items are done, and return the run's id."""
    run = ""
    for told in workplace.told(process):
        run = told.get("run", run)
        assert told["event"] != "report", f"it ended before anything was killed: {told}"
        if told.get("done", 0) >= count:
            return run
    raise AssertionError(f"the driver ended: {workplace.stderr()}")


def resumed(workplace, run, where):
    """Go on with a run and return its report; its driver is known for lost at once on its own machine."""
    code, report = workplace.finished(
        workplace.start("resume", run, *[item for item in where if item != "--retries"][:2])
    )
    assert code == 0, (report, workplace.stderr())
    return report


def check(workplace, *, stamps, audits):
    """Hold registry, ledger and outputs against what single commands make."""
    with workplace.registry() as registry:
        assert verify_registry(registry=registry).to_json()["valid"]
        with registry.snapshot() as uow:
            entries = uow.ledger.entries()
            made = Counter(entry.subject for entry in entries if entry.event == "stamp.made")
            finished = Counter(entry.subject for entry in entries if entry.event == "audit.finished")
            assert (len(made), set(made.values())) == (stamps, {1})
            assert (len(finished), set(finished.values())) == (audits, {1})
            assert (len(uow.stamps.list()), len(uow.audits.list())) == (stamps, audits)
            assert len({audit.suspect_digest for audit in uow.audits.list()}) == audits
        stamp_models(
            workplace.models, vectors=[workplace.vector], out=workplace.place / "single", registry=registry,
            catalog=load_catalog(),
        )  # fmt: skip
    for model in workplace.models:
        one, other = workplace.place / "out" / model.name, workplace.place / "single" / model.name
        names = sorted(file.name for file in one.iterdir())
        assert names == sorted(file.name for file in other.iterdir())
        for name in names:
            assert (one / name).read_bytes() == (other / name).read_bytes(), (model, name)
