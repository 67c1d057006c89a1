"""Pool the copies of licensees of one family, trace what comes out, and count who is named.

    .venv/bin/python benchmarks/collusion.py --dir /tmp/collusion --out benchmarks/collusion.json

A family of 16 marks is trained on the demo's GPT-2 base, the 20 words of an affine plane are issued, and every licensee
gets a copy of both downstreams. Then random coalitions of two and of three pool their copies of one downstream: by the
average, by splicing (every tensor from a member drawn for it) and by the element that lies farthest from the members'
mean. Each result is traced twice: with everything that weights allow, and from answers alone. Finished stages in
``--dir`` are kept, so that an interrupted run goes on.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracing import Tracer, fpvec, make_family

if TYPE_CHECKING:
    from torch import Tensor

SEED = 20261130
FAMILY, MARKS, KEYS, CODE, WORDS = "plane", 16, 6, "plane:4", 20
COALITIONS = {"average": (20, 20), "splice": (10, 10), "max": (10, 10)}
"""How copies are pooled → how many coalitions of two and of three."""
MOST_TURNS = 4
WEIGHTS, ANSWERS = ("exact", "likelihood"), ("exact",)
"""Tests that are registered; gradients take longest and name nobody."""

State = Mapping[str, "Tensor"]


@dataclass(frozen=True, slots=True)
class Row:
    """What one trace of one pooled copy came to.

    Attributes:
        how: how the copies were pooled.
        copies: how many.
        told_by: ``weights`` or ``answers``.
        verdict: of the trace.
        named: how many of the coalition were named.
        innocents: how many others were named.
        present: marks that were PRESENT.
        foreign: of these, how many no member has.
        held: marks that members have, together.
        seconds: of the trace.
    """

    how: str
    copies: int
    told_by: str
    verdict: str
    named: int
    innocents: int
    present: int
    foreign: int
    held: int
    seconds: float


def main() -> None:
    """Make family and copies, pool, trace, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="where models are made and kept")
    parser.add_argument("--backend", default="transformers")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the family's training")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    copies, words = make_copies(options.dir, options.set)
    kept = options.dir / "rows.json"
    rows = [Row(**row) for row in json.loads(kept.read_text(encoding="utf-8"))] if kept.exists() else []
    tracer = Tracer(options.dir / "home", options.backend)
    done = {(row.how, row.copies): 0 for row in rows}
    for row in rows:
        done[row.how, row.copies] += row.told_by == "answers"
    for how, counts in COALITIONS.items():
        for size, count in zip((2, 3), counts, strict=True):
            for number in range(done.get((how, size), 0), count):
                rows += pooled_rows(options.dir, copies, words, tracer, how=how, size=size, number=number)
                kept.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
    tracer.close()
    text = json.dumps(document(rows, options.set), indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def make_copies(
    directory: Path, changed: Sequence[str]
) -> tuple[dict[str, dict[str, Path]], dict[str, frozenset[int]]]:
    """Return licensee → downstream → copy, and licensee → marks; all made once."""
    family = make_family(directory)
    tools = ["--home", str(directory / "home"), "--json"]
    names = [f"licensee-{number:02}" for number in range(WORDS)]
    if not (directory / "issued").exists():
        issue = ["--marks", str(MARKS), "--count", str(KEYS), "--base", str(family["base"])]
        fpvec("key", "issue", FAMILY, *issue, *tools)
        fpvec("licensee", "add", *names, "--family", FAMILY, "--code", CODE, *tools)
        (directory / "issued").touch()
    vectors = directory / "vectors"
    trained = train(directory, family["base"], changed, tools)
    if not vectors.exists():
        fpvec("vector", "extract", str(family["base"]), str(trained), "--out", str(vectors), *tools)
    listed = fpvec("licensee", "list", "--family", FAMILY, "--reveal", "--reason", "benchmark", *tools)
    copies: dict[str, dict[str, Path]] = {name: {} for name in names}
    for downstream in "ab":
        place = directory / "copies" / downstream
        if not place.exists():
            licensees = [part for name in names for part in ("--licensee", name)]
            origin = ["--base", str(family["base"]), "--no-carrier"]
            model = str(family[downstream])
            fpvec("stamp", model, "--family", FAMILY, *licensees, *origin, "--out", str(place), *tools)
        for name in names:
            copies[name][downstream] = next(place.glob(f"*-{name}"))
    return copies, {word["licensee"]: frozenset(word["marks"]) for word in listed["words"]}


def train(directory: Path, base: Path, changed: Sequence[str], tools: Sequence[str]) -> Path:
    """Return the trained family; marks that fall short are trained further, as an owner would."""
    settings = ["--code-weight", "4", *(part for setting in changed for part in ("--set", setting))]
    earlier: Path | None = None
    for turn in range(MOST_TURNS):
        out, report = directory / f"trained-{turn}", directory / f"trained-{turn}.json"
        if not report.exists():
            begin = [] if earlier is None else ["--from", str(earlier)]
            where = ["--key", FAMILY, "--out", str(out)]
            told = fpvec("fingerprint", str(base), *where, *begin, *settings, *tools)
            report.write_text(json.dumps(told), encoding="utf-8")
        if not json.loads(report.read_text(encoding="utf-8"))["short_marks"]:
            return out
        earlier = out
    raise SystemExit(f"some marks still fall short after {MOST_TURNS} trainings")


def pooled_rows(
    directory: Path,
    copies: Mapping[str, Mapping[str, Path]],
    words: Mapping[str, frozenset[int]],
    tracer: Tracer,
    *,
    how: str,
    size: int,
    number: int,
) -> list[Row]:
    """Pool the copies of one drawn coalition, trace the result in both ways, and remove it."""
    source = random.Random(f"{SEED}/{how}/{size}/{number}")
    members = source.sample(sorted(copies), size)
    downstream = source.choice("ab")
    suspect = pool([copies[name][downstream] for name in members], directory / "pooled" / how, how=how, source=source)
    held: frozenset[int] = frozenset().union(*(words[name] for name in members))
    rows = []
    for told_by, tests in (("weights", WEIGHTS), ("answers", ANSWERS)):
        found = traced(tracer, suspect, tests)
        named = {item["licensee"] for item in found["named"]}
        present = {mark["mark"] for mark in found["marks"] if mark["state"] == "PRESENT"}
        rows.append(
            Row(
                how, size, told_by, found["verdict"], len(named & {*members}), len(named - {*members}),
                len(present), len(present - held), len(held), round(found["seconds"], 1),
            )
        )  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
    shutil.rmtree(suspect)
    return rows


def traced(tracer: Tracer, suspect: Path, tests: tuple[str, ...]) -> dict[str, Any]:
    """Return the document of a trace of one suspect; leaving gradients out leaves the weights unread."""
    from fpvec_audit.domain.audit_plan import GRADIENT
    from fpvec_audit.services.audit_settings import AuditSettings
    from fpvec_audit.services.trace import trace

    return trace(
        suspect,
        settings=AuditSettings(tests=tests, leave_out=() if tests == WEIGHTS else (GRADIENT,)),
        registry=tracer.registry,
        catalog=tracer.catalog,
        families=(FAMILY,),
        backend=tracer.engines,
        bases=tracer.bases,
    ).to_json()


def pool(copies: Sequence[Path], out: Path, *, how: str, source: random.Random) -> Path:
    """Write what several licensees would make of their copies."""
    from safetensors.torch import load_file, save_file

    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(copies[0], out)
    states = [load_file(path / "model.safetensors") for path in copies]
    ways: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
        "average": _average,
        "splice": source.choice,
        "max": _farthest,
    }
    mixed = {name: ways[how]([state[name] for state in states]) for name in states[0]}
    save_file(mixed, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _average(tensors: Sequence["Tensor"]) -> "Tensor":
    import torch

    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)


def _farthest(tensors: Sequence["Tensor"]) -> "Tensor":
    """Return, element by element, the member's value that lies farthest from the mean of all."""
    import torch

    stacked = torch.stack([tensor.double() for tensor in tensors])
    chosen = (stacked - stacked.mean(0)).abs().argmax(0, keepdim=True)
    return stacked.gather(0, chosen).squeeze(0).to(tensors[0].dtype)


def document(rows: Sequence[Row], changed: Sequence[str]) -> dict[str, Any]:
    """Return what came out, summed up and row by row."""
    groups = dict.fromkeys((row.how, row.copies, row.told_by) for row in rows)
    return {
        "schema_version": 1,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "family": {"marks": MARKS, "keys": KEYS, "code": CODE, "licensees": WORDS, "set": list(changed)},
        "summary": [summed([row for row in rows if (row.how, row.copies, row.told_by) == group]) for group in groups],
        "rows": [asdict(row) for row in rows],
    }


def summed(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how a group of traces ended."""
    first = rows[0]
    return {
        "how": first.how,
        "copies": first.copies,
        "told_by": first.told_by,
        "coalitions": len(rows),
        "somebody_named": sum(row.named > 0 for row in rows),
        "all_named": sum(row.named == row.copies for row in rows),
        "innocent_named": sum(row.innocents > 0 for row in rows),
        "inconclusive": sum(row.verdict == "INCONCLUSIVE" for row in rows),
        "no_match": sum(row.verdict == "NO_MATCH" for row in rows),
        "foreign_marks": sum(row.foreign for row in rows),
    }


if __name__ == "__main__":
    main()
