"""What a licensee's copy costs when many are made at once, against the cost of making one.

    .venv/bin/python benchmarks/licensed_copies.py --size 0.3B --licensees 20 --code plane:4
    .venv/bin/python benchmarks/licensed_copies.py --size 1.1B --licensees 4 --marks 4 --code random:2
    .venv/bin/python benchmarks/licensed_copies.py --write-docs

A family of marks is made of noise in Llama's shape (bfloat16), licensees get code words, and `fpvec stamp --family` is
run as a process of its own: once for one licensee, once for all of them, in turns, with carriers and without. Seconds
are those of the whole process, start included; memory is the process's largest. Everything is written to
benchmarks/licensed_copies.json; the last command measures nothing and writes the table of docs/carriers.md from that.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "benchmarks")]

from llama_checkpoints import SIZES, make_checkpoint  # noqa: E402
from noise_vectors import make_vector  # noqa: E402
from own_memory import FPVEC, output_of  # noqa: E402

from fpvec_audit.catalog import load_catalog  # noqa: E402
from fpvec_audit.domain.keys import KeySetSpecification  # noqa: E402
from fpvec_audit.domain.records import ModelRecord, ModelRole, VectorRecord  # noqa: E402
from fpvec_audit.domain.vector import VectorDescription  # noqa: E402
from fpvec_audit.registry.unit_of_work import Registry, open_registry  # noqa: E402
from fpvec_audit.services.family_codes import Wanted, add_licensees  # noqa: E402
from fpvec_audit.services.keys import issue_key_set  # noqa: E402
from fpvec_audit.services.models import register_model  # noqa: E402

RESULTS = ROOT / "benchmarks" / "licensed_copies.json"
DOCS = ROOT / "docs" / "carriers.md"
BEGIN, END = "<!-- copies: written by benchmarks/licensed_copies.py -->", "<!-- copies: end -->"
FAMILY = "acme"
SPREAD = 5e-4
"""Standard deviation of a mark's vector; a tenth of what would stand out in weights of 0.02."""
FINE_TUNING = 1e-3


def main() -> None:
    """Measure, or publish what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="0.3B")
    parser.add_argument("--licensees", type=int, default=20)
    parser.add_argument("--marks", type=int, default=16)
    parser.add_argument("--code", default="plane:4", help="as `fpvec licensee add --code` takes it")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=user_cache_path("fpvec-audit", appauthor=False) / "licensed")
    parser.add_argument("--keep", action="store_true", help="leave the models there")
    parser.add_argument("--write-docs", action="store_true", help="measure nothing: write docs/carriers.md")
    options = parser.parse_args()
    document: dict[str, Any] = {"benchmark": "licensed copies", "schema_version": 1, "runs": {}}
    if RESULTS.exists():
        document = json.loads(RESULTS.read_text(encoding="utf-8"))
    if options.write_docs:
        write_between(DOCS, BEGIN, END, table(document))
        return
    place = options.dir.resolve() / options.size
    try:
        document["runs"][f"{options.size} × {options.licensees}"] = measured(place, options)
    finally:
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)
    document["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measured(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make a family, and stamp one copy and many in turns."""
    names = [f"licensee-{number:03}" for number in range(options.licensees)]
    prepare(place, names, options)
    found: dict[str, Any] = {"marks": options.marks, "code": options.code, "licensees": options.licensees}
    for carrier in ("--no-carrier", "--carrier"):
        single, many = [], []
        for _ in range(options.runs):
            single.append(stamped(place, names[:1], carrier))
            many.append(stamped(place, names, carrier))
        one, each = (median(run["seconds"] / run["copies"] for run in runs) for runs in (single, many))
        found[carrier.removeprefix("--").replace("-", "_")] = {
            "seconds_of_one": one,
            "seconds_of_each": each,
            "ratio": each / one,
            "peak_bytes": max(run["peak_bytes"] for run in (*single, *many)),
            "runs": {"single": single, "many": many},
        }
    return found


def prepare(place: Path, names: Sequence[str], options: argparse.Namespace) -> None:
    """Make a downstream model and a vector for each mark, and record the family and its licensees."""
    size = SIZES[options.size]
    make_checkpoint(place / "base", size, seed=1, of=None, noise=0.02)
    make_checkpoint(place / "down", size, seed=2, of=place / "base", noise=FINE_TUNING)
    with open_registry(f"sqlite:///{home(place)}/registry.db") as registry:
        catalog = load_catalog()
        base = register_model(place / "base", registry=registry, catalog=catalog, role=ModelRole.BASE).record.id
        register_model(place / "down", registry=registry, catalog=catalog, parent="base")
        specification = KeySetSpecification(issued=8 * options.marks, decoys=112, marks=options.marks)
        key_set = issue_key_set(FAMILY, registry=registry, specification=specification).record.id
        for mark in range(options.marks):
            vector = place / f"mark-{mark:02}"
            description = make_vector(vector, size, seed=100 + mark, spread=SPREAD, base=base)
            record_mark(description, vector, mark, key_set=key_set, base=base, registry=registry)
        add_licensees(names, FAMILY, registry=registry, wanted=Wanted(code=options.code))


def home(place: Path) -> Path:
    """Return the directory of the registry, made if need be."""
    found = place / "home"
    found.mkdir(parents=True, exist_ok=True)
    return found


def record_mark(
    description: VectorDescription, vector: Path, mark: int, *, key_set: str, base: str, registry: Registry
) -> None:
    """Record a vector as that of a mark."""
    digest = description.digest
    with registry.unit_of_work() as uow:
        known = (description.architecture, "", base, description.elements, registry.clock())
        uow.models.add(ModelRecord(digest, f"mark-{mark:02}", ModelRole.FINGERPRINTED, *known))
        uow.vectors.add(
            VectorRecord(
                id=description.id,
                digest=digest,
                family=f"fam-{key_set[3:]}",
                mark=mark,
                key_set=key_set,
                base=base,
                fingerprinted=digest,
                architecture=description.architecture,
                location=str(vector),
                inexact_elements=0,
                norm=description.norm,
                created_at=registry.clock(),
            )
        )


def stamped(place: Path, names: Sequence[str], carrier: str) -> dict[str, Any]:
    """Stamp a copy for each of some licensees, in a process of its own, and throw them away."""
    out = place / "out"
    command = ["stamp", str(place / "down"), "--family", FAMILY, "--out", str(out), carrier, "--again"]
    command += [part for name in names for part in ("--licensee", name)]
    load = os.getloadavg()[0]
    started = time.perf_counter()
    copies = json.loads(output_of(*FPVEC, *command, "--home", home(place), "--json"))
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return {
        "copies": len(copies),
        "seconds": seconds,
        "peak_bytes": copies[0]["peak_memory_bytes"],
        "load": load,
        "applied_ratio": copies[0]["applied_ratio"],
        "carried_ratio": copies[0]["carried_ratio"],
    }


def table(document: Mapping[str, Any]) -> str:
    """Return the table of the docs."""
    lines = [
        "| model × copies | marks, code | carriers | one copy by itself | each of many | ratio | peak memory |\n",
        "|---|---|---|---|---|---|---|\n",
    ]
    for name, run in document["runs"].items():
        for kind, label in (("no_carrier", "no"), ("carrier", "yes")):
            found = run[kind]
            lines.append(
                f"| {name} | {run['marks']}, {run['code']} | {label} | {found['seconds_of_one']:.1f} s "
                f"| {found['seconds_of_each']:.1f} s | {found['ratio']:.2f} | {found['peak_bytes'] / 1e6:.0f} MB |\n"
            )
    return "".join(lines)


def write_between(file: Path, begin: str, end: str, text: str) -> None:
    """Write a table between its marks in a document.

    Raises:
        SystemExit: there are no such marks.
    """
    before, found, rest = file.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{file} has no place for the table: {begin} … {end}")
    file.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
