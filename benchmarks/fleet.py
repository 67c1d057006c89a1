"""What a fleet costs beside a plain loop, how much memory its driver takes, and what it survives.

    .venv/bin/python benchmarks/fleet.py overhead noop faults away attacks --out benchmarks/fleet.json

* ``overhead``: the same stamps, each with a wait behind it so that an item takes as long as was asked for, in a loop of
  one process and as a run on Ray with one worker. Ray's start is told apart, since a run has one.
* ``noop``: items that do nothing, from a manifest through registry, driver and Ray; the driver's peak memory is that
  of a process of its own.
* ``faults``: a cluster of two nodes on loopback and PostgreSQL; stamps and audits of tiny models, while a node is
  killed and the driver is killed and resumed. Then everything is held against single commands and against the ledger.
* ``away``: PostgreSQL crashes amid a run of stamps and amid one of audits, and is back a minute later.
* ``attacks``: the driver of attacks is killed and resumed; every cell must be carried out once.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from benchmarks.own_memory import output_of  # noqa: E402
from fpvec_audit.catalog import load_catalog  # noqa: E402
from fpvec_audit.domain.fleet import FleetAction  # noqa: E402
from fpvec_audit.fleet.actions import WorkerBench  # noqa: E402
from fpvec_audit.fleet.cluster import ray_cluster  # noqa: E402
from fpvec_audit.fleet.driver import Driver, Manner  # noqa: E402
from fpvec_audit.fleet.outcome import Ending, Outcome, Task  # noqa: E402
from fpvec_audit.fleet.runs import record_run, run_report  # noqa: E402
from fpvec_audit.fleet.sources import Source  # noqa: E402
from fpvec_audit.fleet.watching import Watch  # noqa: E402
from fpvec_audit.fleet.worker import work  # noqa: E402
from fpvec_audit.services.extract import extract_vector  # noqa: E402
from fpvec_audit.services.models import register_model  # noqa: E402
from fpvec_audit.settings import Settings, handed_down  # noqa: E402
from tests.tiny import make_tiny, perturb  # noqa: E402


def main() -> None:
    """Measure what was asked for and write the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=["overhead", "noop", *FAULTS, "noop-alone"])
    parser.add_argument("--items", type=int, default=15, help="items of the overhead")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long such an item takes at least")
    parser.add_argument("--noops", type=int, default=100_000)
    parser.add_argument("--stamps", type=int, default=64)
    parser.add_argument("--audits", type=int, default=32)
    parser.add_argument("--out", type=Path, help="JSON file, completed where it exists")
    options = parser.parse_args()
    if options.parts == ["noop-alone"]:
        print(json.dumps(noop(options.noops)))
        return
    document: dict[str, Any] = {"benchmark": "fleet", "schema_version": 1}
    if options.out and options.out.exists():
        document |= json.loads(options.out.read_text(encoding="utf-8"))
    document["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    for part in options.parts:
        load = os.getloadavg()[0]
        if part == "overhead":
            found = overhead(options.items, options.seconds)
        elif part == "noop":
            found = json.loads(output_of(Path(__file__), "noop-alone", "--noops", str(options.noops)).splitlines()[-1])
        else:
            found = FAULTS[part](options)
        document[part] = found | {"load_average": load}
        print(part, json.dumps(document[part], indent=2))
    if options.out:
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def overhead(items: int, seconds: float) -> dict[str, Any]:
    """Stamp the same models in a loop and as a run."""
    with tempfile.TemporaryDirectory(prefix="fpvec-fleet-") as place:
        settings = Settings(home=Path(place) / "home", device="cpu", backend="transformers")
        bench = WorkerBench(settings)
        tools = {"registry": bench.registry, "catalog": load_catalog()}
        base = make_tiny(Path(place) / "base", "gpt2")
        vector = extract_vector(
            base, perturb(base, Path(place) / "fp", exact=True), out=Path(place) / "vector", **tools
        ).vector_id
        models = [perturb(base, Path(place) / f"m{number}", seed=100 + number) for number in range(items + 1)]
        for model in models:
            register_model(model, parent="base", **tools)
        carry_out = waiting(seconds)
        with handed_down(settings, {}):
            carry_out(_task(models[0], Path(place) / "loop", vector))  # loads what is loaded once
            started = time.perf_counter()
            for model in models[1:]:
                assert carry_out(_task(model, Path(place) / "loop", vector)).ending is Ending.DONE
            loop = time.perf_counter() - started
        manifest = Path(place) / "models.csv"
        manifest.write_text("downstream\n" + "".join(f"{model}\n" for model in models[1:]))
        first = Path(place) / "first.csv"
        first.write_text(f"downstream\n{models[0]}\n")
        begun = time.perf_counter()
        with ray_cluster("local", settings=settings, carry_out=carry_out) as cluster:
            start = time.perf_counter() - begun
            _drive(first, place, vector, bench, cluster)
            fleet, report = _drive(manifest, place, vector, bench, cluster)
        assert report.whole, report.to_json()
    return {
        "items": items,
        "seconds_of_an_item": seconds,
        "loop_seconds": loop,
        "fleet_seconds": fleet,
        "overhead": fleet / loop - 1,
        "ray_start_seconds": start,
    }


def waiting(seconds: float) -> Any:
    """Return what carries a task out and then waits until it has taken so long."""

    def carry_out(task: Task) -> Outcome:
        started = time.perf_counter()
        outcome = work(task)
        time.sleep(max(0.0, seconds - (time.perf_counter() - started)))
        return outcome

    return carry_out


def noop(items: int) -> dict[str, Any]:
    """Drive items that do nothing, and tell the peak memory of this process."""
    with tempfile.TemporaryDirectory(prefix="fpvec-fleet-") as place:
        settings = Settings(home=Path(place) / "home")
        bench = WorkerBench(settings)
        manifest = Path(place) / "models.csv"
        with manifest.open("w") as file:
            file.write("downstream\n")
            file.writelines(f"/models/m{number}\n" for number in range(items))
        started = time.perf_counter()
        source = Source(FleetAction.STAMP, {"vector": ["vec-0"], "into": "/release"}, manifest)
        run, _ = record_run(source, registry=bench.registry)
        recorded = time.perf_counter() - started
        with ray_cluster("local", settings=settings, carry_out=nothing) as cluster:
            started = time.perf_counter()
            Driver(run, bench.registry, cluster, Manner(in_flight=200), Watch(run)).drive()
            seconds = time.perf_counter() - started
        report = run_report(run.id, registry=bench.registry)
    assert report.whole, report.to_json()
    return {
        "items": items,
        "record_seconds": recorded,
        "drive_seconds": seconds,
        "items_per_second": items / seconds,
        "driver_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def nothing(task: Task) -> Outcome:
    """Do nothing."""
    return Outcome(Ending.DONE, "made", f"st-{task.number}", node="here")


@contextmanager
def _server() -> Iterator[tuple[Path, Any]]:
    """Give a directory to work in, and PostgreSQL."""
    from tests.postgresql import running_server

    with tempfile.TemporaryDirectory(prefix="fpvec-fleet-") as place, running_server() as server:
        yield Path(place), server


def faults(options: argparse.Namespace) -> dict[str, Any]:
    """Kill a node and the driver, resume, and hold the results against single commands and the ledger."""
    from tests.fleet.survival import survive

    with _server() as (place, server):
        return survive(place, server.with_schema(), stamps=options.stamps, audits=options.audits)


def away(options: argparse.Namespace) -> dict[str, Any]:
    """Let the registry's server crash amid runs, and come back a minute later."""
    from tests.fleet.registry_away import outlast

    with _server() as (place, server):
        return outlast(place, server, stamps=24, audits=8, seconds=60.0)


def attacks(options: argparse.Namespace) -> dict[str, Any]:
    """Kill and resume a driver of attacks, and count the cells."""
    from tests.fleet.attacks_resumed import resume_attacks

    with _server() as (place, server):
        return resume_attacks(place, server.with_schema(), models=4)


FAULTS = {"faults": faults, "away": away, "attacks": attacks}


def _task(model: Path, out: Path, vector: str) -> Task:
    return Task("fr-0", 1, "stamp", {"downstream": str(model), "out": str(out / model.name), "vector": [vector]}, 1)


def _drive(manifest: Path, place: str, vector: str, bench: WorkerBench, cluster: Any) -> tuple[float, Any]:
    source = Source(FleetAction.STAMP, {"vector": [vector], "into": f"{place}/fleet"}, manifest)
    run, _ = record_run(source, registry=bench.registry)
    started = time.perf_counter()
    Driver(run, bench.registry, cluster, Manner(in_flight=1), Watch(run)).drive()
    return time.perf_counter() - started, run_report(run.id, registry=bench.registry)


if __name__ == "__main__":
    main()
