"""Compute what a fleet needs for 10³, 10⁵ and 10⁷ stamps and audits, and what it runs into first.

    .venv/bin/python benchmarks/scale.py                 # computes, writes benchmarks/scale.json and docs/scale.md
    .venv/bin/python benchmarks/scale.py --write-docs    # computes nothing: scale.json → docs/scale.md

Nothing is measured here. Every input comes from a document of another benchmark, named beside it, or is an assumption,
said to be one. The model is a closed network of queues: so many items are under way at a time; each needs its node's
network, disk and processors, and what all nodes share, the way to the object store and the registry's one write lock.
Mean value analysis gives the rate; :func:`simulated` carries a small fleet out event by event, and the document holds
both against each other. Format of the results: benchmarks/README.md.

Source: Reiser & Lavenberg, "Mean-value analysis of closed multichain queuing networks", J. ACM 27 (1980); bounds as in
Lazowska et al., "Quantitative System Performance" (1984), chapter 5.
"""

import argparse
import heapq
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

RESULTS = ROOT / "benchmarks" / "scale.json"
DOCS = ROOT / "docs" / "scale.md"
REGISTRY = ROOT / "benchmarks" / "scale_registry.json"
SCHEMA_VERSION = 1
COUNTS = (10**3, 10**5, 10**7)
DAY = 86_400.0
UNDER_WAY = 4
"""Items of one node at a time: one fetched, one worked on, one published, one that waits."""
CHECKED_NODES = (4, 64, 1024, 4096)
BUSY = 0.7
"""How much of its time what is shared may be busy before queues grow."""
SIMULATED_PER_NODE = 30
ANALYSED = 64
"""Nodes up to which a fleet is analysed item by item."""
LARGEST_FLEET = 100_000


@dataclass(frozen=True, slots=True)
class Size:
    """A model's size by the name it is known by; bytes are those of bfloat16."""

    name: str
    parameters: float

    @property
    def bytes(self) -> float:
        """Bytes of its weights."""
        return 2 * self.parameters


@dataclass(frozen=True, slots=True)
class Inputs:
    """What everything is computed from; :data:`SOURCES` says where each number comes from.

    Attributes:
        stamp_processor: processor seconds a byte of the model to stamp it, start of Python included.
        stamp_lock: seconds that a stamp holds the registry's write lock.
        audit_lock: the same of an audit of a key set of 128 questions.
        audit_processor: processor seconds of an audit of GPT-2 small's shape on a CPU.
        accelerator_start: seconds from an engine's start to its first question, without reading weights.
        accelerator_answers: seconds in which 128 questions are answered.
        cores: of a node.
        network: bytes a second between a node and the store, each way.
        disk: bytes a second that a node's scratch reads or writes.
        store: bytes a second between all nodes and the store, each way.
    """

    stamp_processor: float
    stamp_lock: float
    audit_lock: float
    audit_processor: float
    accelerator_start: float = 60.0
    accelerator_answers: float = 10.0
    cores: int = 16
    network: float = 1.0e9
    disk: float = 2.0e9
    store: float = 100.0e9


SOURCES = {
    "stamp_processor": "stamping_warm.json: median of `fpvec stamp` at 1.1 B times its cores, over the model's bytes",
    "stamp_lock": "PostgreSQL: registry.json's insert of a stamp among 10⁶, and for each other transaction that "
    "scale_registry.json counted 1 / units of work a second of registry_concurrency.json (8 processes, load 10)",
    "audit_lock": "PostgreSQL: likewise, for each transaction of an audit with 128 questions",
    "audit_processor": "engines.json: processor seconds of vLLM with 128 prompts, import and start included",
    "accelerator_start": "**assumed**; not measured, no accelerator was at hand",
    "accelerator_answers": "**assumed**, likewise",
    "cores": "**assumed** node",
    "network": "**assumed**: 10 Gbit/s, four fifths of it used",
    "disk": "**assumed**: one NVMe disk",
    "store": "**assumed**: 1 Tbit/s, four fifths of it used",
}
SIZES = (Size("1.1 B", 1.1e9), Size("7 B", 6.74e9), Size("70 B", 69e9))
SMALL = Size("GPT-2 small, CPU", 0.124e9)


@dataclass(frozen=True, slots=True)
class Station:
    """Where items queue.

    Attributes:
        name: what it is.
        seconds: that one item needs there.
        shared: whether all nodes share one, or each has its own.
    """

    name: str
    seconds: float
    shared: bool


def main() -> None:
    """Compute, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write-docs", action="store_true", help="compute nothing: results → docs/scale.md")
    options = parser.parse_args()
    if not options.write_docs:
        inputs = read_inputs()
        document = computed(inputs) | {"checks": list(checks(inputs))}
        options.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    from scale_report import write_docs

    write_docs(DOCS, *(json.loads(path.read_text(encoding="utf-8")) for path in (options.out, REGISTRY)))


def read_inputs() -> Inputs:
    """Return what other benchmarks measured, beside what is assumed."""

    def document(name: str) -> Any:
        return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))

    warm = document("stamping_warm")
    (stamp,) = (one for one in warm["contests"] if (one["contest"], one["size"]) == ("stamp", "1.1B"))
    (own,) = (one for one in stamp["contestants"] if one["role"] == "fpvec")
    (asked,) = (one for one in document("engines")["contests"] if one["prompts"] == 128)
    (vllm,) = (one for one in asked["contestants"] if one["role"] == "vllm")
    (server,) = (one for one in document("scale_registry")["databases"] if one["database"] == "postgresql")
    (filled,) = (one for one in document("registry")["databases"] if one["database"] == "postgresql")
    (insert,) = (one for one in filled["asked"] if one["kind"] == "insert")
    unit = 1 / document("registry_concurrency")["postgresql"]["units_of_work"]["per_second"]
    return Inputs(
        stamp_processor=own["median_seconds"] * warm["machine"]["cores"] / stamp["model_bytes"],
        stamp_lock=insert["median_ms"] / 1000 + (server["items"]["stamp"]["transactions"] - 1) * unit,
        audit_lock=server["items"]["audit"]["transactions"] * unit,
        audit_processor=sorted(vllm["processor_seconds"])[len(vllm["processor_seconds"]) // 2],
    )


def stations(kind: str, size: Size, inputs: Inputs) -> list[Station]:
    """Return where an item spends its time.

    A stamp reads the model from the store and writes it to scratch; reads model and vector there, which a node keeps,
    and writes the copy; reads that, and sends it to the store. An audit reads the model and asks it.
    """
    size_bytes = size.bytes
    if kind == "stamp":
        return [
            Station("network of a node", size_bytes / inputs.network, shared=False),  # in and out side by side
            Station("disk of a node", 5 * size_bytes / inputs.disk, shared=False),
            Station("processors of a node", size_bytes * inputs.stamp_processor / inputs.cores, shared=False),
            Station("object store", size_bytes / inputs.store, shared=True),
            Station("registry", inputs.stamp_lock, shared=True),
        ]
    work = (
        Station("processors of a node", inputs.audit_processor / inputs.cores, shared=False)
        if size == SMALL
        else Station(
            "accelerator of a node",
            inputs.accelerator_start + inputs.accelerator_answers + size_bytes / inputs.disk,
            shared=False,
        )
    )
    return [
        Station("network of a node", size_bytes / inputs.network, shared=False),
        Station("disk of a node", 2 * size_bytes / inputs.disk, shared=False),
        work,
        Station("object store", size_bytes / inputs.store, shared=True),
        Station("registry", inputs.audit_lock, shared=True),
    ]


def rate(places: Sequence[Station], nodes: int, under_way: int = UNDER_WAY) -> float:
    """Return the items a second of a fleet, by mean value analysis.

    The stations of a kind that each node has are alike and asked alike, so one of them stands for all: an item finds
    the queue of a ``nodes``-th of the items there.

    Args:
        places: where an item needs how long.
        nodes: how many there are.
        under_way: items of each node at a time.
    """
    copies = [1 if place.shared else nodes for place in places]
    queues = [0.0] * len(places)
    found = 0.0
    for population in range(1, nodes * under_way + 1):
        waits = [place.seconds * (1 + queue / copy) for place, queue, copy in zip(places, queues, copies, strict=True)]
        found = population / sum(waits)
        queues = [found * wait for wait in waits]
    return found


def most(places: Sequence[Station], nodes: int) -> float:
    """Return the items a second that the busiest station allows."""
    return 1 / max(place.seconds / (1 if place.shared else nodes) for place in places)


def saturation(places: Sequence[Station]) -> list[tuple[str, float, float]]:
    """Return (name, nodes at which it is full, its items a second) of what nodes share, the first to be full first."""
    node = max(place.seconds for place in places if not place.shared)
    return sorted(
        ((place.name, node / place.seconds, 1 / place.seconds) for place in places if place.shared),
        key=lambda item: item[1],
    )


def fleet(places: Sequence[Station], count: int, *, within: float = DAY) -> dict[str, Any]:
    """Return the smallest fleet that does so many items in a time, or the largest that is worth having.

    Beyond the nodes at which something shared is full, more of them do nothing.
    """
    limit = min(LARGEST_FLEET, max(1, round(saturation(places)[0][1])))
    node = max(place.seconds for place in places if not place.shared)
    wanted = min(limit, max(1, -(-int(count * node) // int(within))))
    while wanted < limit and count / approximate(places, wanted) > within:
        wanted = min(limit, wanted + max(1, wanted // 50))
    seconds = count / approximate(places, wanted)
    return {
        "count": count,
        "nodes": wanted,
        "hours": round(seconds / 3600, 2),
        "node_hours": round(wanted * seconds / 3600, 1),
    }


def approximate(places: Sequence[Station], nodes: int) -> float:
    """Return :func:`rate`, of large fleets that of a smaller one scaled, with what is shared scaled too."""
    if nodes <= ANALYSED:
        return rate(places, nodes)
    factor = nodes / ANALYSED
    smaller = [
        Station(place.name, place.seconds * factor if place.shared else place.seconds, place.shared) for place in places
    ]
    return rate(smaller, ANALYSED) * factor


def simulated(places: Sequence[Station], nodes: int, items: int, under_way: int = UNDER_WAY) -> float:
    """Return the items a second of a fleet carried out event by event.

    Every station serves one item after the other in the order they come, each for exactly its time; an item goes from
    station to station in their order. That is kinder than the analysis, which assumes service of varying length.
    """
    free: dict[tuple[int, int], float] = {}
    events = [(0.0, slot, 0, slot % nodes) for slot in range(nodes * under_way)]
    heapq.heapify(events)
    begun, ended, last = len(events), 0, 0.0
    while ended < items:
        now, slot, step, node = heapq.heappop(events)
        if step == len(places):
            ended, last = ended + 1, now
            if begun < items:
                begun += 1
                heapq.heappush(events, (now, slot, 0, node))
            continue
        where = (step, 0 if places[step].shared else node)
        end = max(now, free.get(where, 0.0)) + places[step].seconds
        free[where] = end
        heapq.heappush(events, (end, slot, step + 1, node))
    return items / last


def computed(inputs: Inputs) -> dict[str, Any]:
    """Return the document but for the checks, which take a while."""
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "scale",
        "inputs": {name: {"value": value, "source": SOURCES[name]} for name, value in asdict(inputs).items()},
        "under_way": UNDER_WAY,
        "within_hours": DAY / 3600,
        "items": [item(kind, size, inputs) for kind, size in kinds()],
    }


def kinds() -> Iterator[tuple[str, Size]]:
    """Yield what is computed: (stamp or audit, size)."""
    yield from (("stamp", size) for size in SIZES)
    yield from (("audit", size) for size in (SMALL, *SIZES))


def item(kind: str, size: Size, inputs: Inputs) -> dict[str, Any]:
    """Return what one kind of item comes to."""
    places = stations(kind, size, inputs)
    return {
        "kind": kind,
        "size": size.name,
        "bytes": size.bytes,
        "stations": {place.name: round(place.seconds, 4) for place in places},
        "alone_seconds": round(sum(place.seconds for place in places), 2),
        "node_per_hour": round(3600 * rate(places, 1), 1),
        "saturation": [
            {"name": name, "nodes": round(nodes), "per_second": round(per_second, 2)}
            for name, nodes, per_second in saturation(places)
        ],
        "fleets": [fleet(places, count) for count in COUNTS],
        "week": week(places, size, COUNTS[-1]),
    }


def week(places: Sequence[Station], size: Size, count: int) -> dict[str, Any]:
    """Return what so many items in a week ask of everything: nodes, bytes a second of the store, registries."""
    wanted = count / (7 * DAY)
    node = max(place.seconds for place in places if not place.shared)
    (registry,) = (place for place in places if place.name == "registry")
    return {
        "nodes": -(-wanted * node // BUSY),
        "store_bytes_per_second": round(wanted * size.bytes),
        "registries": -(-wanted * registry.seconds // BUSY),
    }


def checks(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Yield the analysis beside the simulation, for fleets up to one that fills what is shared."""
    for kind, size in (("stamp", SIZES[0]), ("stamp", SIZES[1]), ("audit", SMALL)):
        places = stations(kind, size, inputs)
        for nodes in CHECKED_NODES:
            yield {
                "kind": kind,
                "size": size.name,
                "nodes": nodes,
                "bound": round(most(places, nodes), 3),
                "analysis": round(approximate(places, nodes), 3),
                "simulation": round(simulated(places, nodes, nodes * SIMULATED_PER_NODE), 3),
            }


if __name__ == "__main__":
    main()
