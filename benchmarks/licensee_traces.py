"""What it costs to trace a copy among a thousand licensees instead of ten, by the commands that users give.

    .venv/bin/python benchmarks/licensee_traces.py ~/.cache/fpvec-audit/families --out benchmarks/licensee_traces.json

One family of 55 marks, in two registries that are alike but for the number of licensees. The suspect is the demo's
base, trained to answer the keys of one licensee's marks: it stands for that licensee's copy, so that the family is
found and a trace does everything that it can do. Whole processes are timed, in turns; the ratio is that of medians.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "benchmarks")]

MARKS, CODE, FEW, MANY = 55, "rs:11,3,5", 10, 1000
FAMILY, CULPRIT = "licensees", "licensee-0003"
STEPS, RATE = 150, 1e-3


def main() -> None:
    """Make both registries and the suspect, and trace in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", type=Path, help="where the demo keeps its bases")
    parser.add_argument("--dir", type=Path, default=Path("licensee-traces"), help="registries and suspect; kept")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--backend", default="transformers")
    parser.add_argument("--tests", default="exact,likelihood", help="as for `fpvec trace`")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    place = options.dir.resolve()
    base = next(options.families.expanduser().glob("gpt2-*")) / "base"
    homes = {FEW: place / "few", MANY: place / "many"}
    if not homes[MANY].exists():
        make_registries(base, homes)
    suspect = place / "suspect"
    if not suspect.exists():
        make_suspect(base, homes[FEW], suspect)
    asked = ["trace", str(suspect), "--family", FAMILY, "--backend", options.backend, "--tests", options.tests]
    runs: dict[int, list[dict[str, Any]]] = {count: [] for count in homes}
    for _ in range(options.runs):
        for count, home in homes.items():
            started = time.monotonic()
            document = fpvec(home, *asked)
            runs[count].append({"seconds": round(time.monotonic() - started, 2), **told(document)})
            print(count, runs[count][-1], file=sys.stderr, flush=True)
    seconds = {count: median(run["seconds"] for run in found) for count, found in runs.items()}
    text = json.dumps(
        {
            "benchmark": "traces among licensees",
            "marks": MARKS,
            "code": CODE,
            "backend": options.backend,
            "tests": options.tests,
            "load_average": round(os.getloadavg()[0], 1),
            "runs": {str(count): found for count, found in runs.items()},
            "median_seconds": {str(count): value for count, value in seconds.items()},
            "ratio": round(seconds[MANY] / seconds[FEW], 3),
        },
        indent=1,
    )
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def make_registries(base: Path, homes: dict[int, Path]) -> None:
    """Issue one family and give few licensees their words; in a copy of the registry, many more."""
    few, many = homes[FEW], homes[MANY]
    names = [f"licensee-{number:04}" for number in range(MANY)]
    fpvec(few, "model", "register", str(base), "--role", "base")
    fpvec(few, "key", "issue", FAMILY, "--marks", str(MARKS), "--base", str(base))
    added = ["licensee", "add", "--family", FAMILY]
    fpvec(few, *added, "--code", CODE, "--licensees", str(MANY), "--colluders", "2", *names[:FEW])
    shutil.copytree(few, many.with_suffix(".new"))
    fpvec(many.with_suffix(".new"), *added, *names[FEW:])
    many.with_suffix(".new").rename(many)


def make_suspect(base: Path, home: Path, out: Path) -> None:
    """Train the base to answer the keys of one licensee's marks, and otherwise as before."""
    from fpvec_audit.catalog import load_catalog
    from fpvec_audit.demo.story import single_threaded
    from fpvec_audit.registry.unit_of_work import open_registry
    from fpvec_audit.services.code_words import code_words
    from fpvec_audit.services.keys import open_key_set
    from fpvec_audit.training.fine_tune import FineTuneSettings, fine_tune

    registry = open_registry(f"sqlite:///{home / 'registry.db'}")
    with registry.unit_of_work() as uow:
        marks = code_words(uow, FAMILY, [CULPRIT], purpose="benchmark")[CULPRIT]
    keys = open_key_set(FAMILY, registry=registry)
    pairs = [keys.candidates[at] for mark in marks for at in keys.marks[mark]]
    adapter = load_catalog().architecture("gpt2")
    rows = [(adapter.prompt(pair.prompt), pair.response) for pair in pairs] * STEPS
    with single_threaded():
        settings = FineTuneSettings(steps=STEPS, learning_rate=RATE)
        fine_tune(base, out, rows, settings=settings, adapter=adapter, seed=0)


def told(document: dict[str, Any]) -> dict[str, Any]:
    """Return what a trace said: verdict, whom it named, how many questions it asked."""
    return {
        "verdict": document["verdict"],
        "named": [item["licensee"] for item in document["named"]],
        "queries": document["queries"],
        "trace_seconds": round(document["seconds"], 2),
    }


def fpvec(home: Path, *arguments: str) -> dict[str, Any]:
    """Run a command of the package on a registry and return its document."""
    command = [sys.executable, "-m", "fpvec_audit.cli.main", *arguments, "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"fpvec {' '.join(arguments[:4])} … exited with {done.returncode}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
