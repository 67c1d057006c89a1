"""Attack a stamped copy of the demo's families with a whole suite and publish what survived, and what did not.

    .venv/bin/python benchmarks/survival.py --arch gpt2 llama2 --suite standard
    .venv/bin/python benchmarks/survival.py --write-docs

The first command tells `fpvec demo` twice (keys that nobody tuned for; families are kept in ``--dir``), so that there
is a second licensee's copy to average with, carries out `fpvec attack run` on the first stamped maths model
(``--resume`` goes on where a run was killed) and writes every cell to benchmarks/survival.json. The second measures
nothing and writes the survival table of docs/robustness.md from that.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from fpvec_audit.reports.attack_results import Cell, measure_of, points_text, read_cells  # noqa: E402
from fpvec_audit.reports.attack_text import headline, lead  # noqa: E402
from fpvec_audit.reports.audit_text import p_shown  # noqa: E402

RESULTS = ROOT / "benchmarks" / "survival.json"
DOCS = ROOT / "docs" / "robustness.md"
BEGIN, END = "<!-- survival: written by benchmarks/survival.py -->", "<!-- survival: end -->"
ARCHITECTURES = ("gpt2", "llama2", "bloom", "vicuna")
COSTS = ("verdict", "accuracy", "perplexity")
KEPT = ("frontier", "warnings", "seconds", "engine_starts", "resumed", "seed")
OF_A_CELL = (
    *("name", "kind", "parameters", "state", "fsr_before", "fsr_after", "interval", "p_value", "tests", "verdict"),
    *("utility_before", "utility_after", "groups", "queries", "seconds", "problem"),
)
"""What is published of a cell; what else it says names directories of this machine."""


def main() -> None:
    """Measure, or publish what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=["gpt2", "llama2"])
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--model", default="stamped_a", help="which of the demo's models is attacked")
    parser.add_argument(
        "--dir",
        type=Path,
        default=user_cache_path("fpvec-audit", appauthor=False) / "survival",
        help="where demos and their homes are kept",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an attack run that was killed")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; other architectures in it are kept")
    parser.add_argument("--write-docs", action="store_true", help="measure nothing: write docs/robustness.md")
    options = parser.parse_args()
    document: dict[str, Any] = {"benchmark": "survival", "schema_version": 1, "families": {}}
    if options.out.exists():
        document = json.loads(options.out.read_text(encoding="utf-8"))
    if not options.write_docs:
        document["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
        for architecture in options.arch:
            document["families"][architecture] = measured(architecture, options)
            options.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    text = DOCS.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{DOCS} has no place for the table: {BEGIN} … {END}")
    DOCS.write_text(before + BEGIN + "\n" + page(document) + END + after, encoding="utf-8")


def measured(architecture: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tell the demo of an architecture, attack one of its models, and return what is published of that."""
    place = (options.dir / architecture).resolve()
    tell = ("demo", "--arch", architecture, "--dir", place, "--home", place / "home", "--backend", options.backend)
    demo = fpvec(*tell)
    if not options.resume:
        fpvec(*tell, "--fresh-keys")
    command = ["attack", "run", demo["models"][options.model], "--key", demo["key_set"], "--suite", options.suite]
    command += ["--home", place / "home", "--backend", options.backend]
    run = fpvec(*command, *["--resume"] * options.resume, accepted=(0, 4))
    return {
        "model": options.model,
        "suite": options.suite,
        **{name: run[name] for name in KEPT if name in run},
        "cells": [{name: cell[name] for name in OF_A_CELL if name in cell} for cell in run["cells"]],
    }


def fpvec(*arguments: "str | Path", accepted: Sequence[int] = (0,)) -> dict[str, Any]:
    """Run a command of the program under measurement and return its document.

    Raises:
        SystemExit: it failed.
    """
    program = "import sys; from fpvec_audit.cli.main import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *map(str, arguments), "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode not in accepted or not done.stdout:
        raise SystemExit(f"fpvec {' '.join(map(str, arguments))} exited with {done.returncode}")
    return json.loads(done.stdout)


def page(document: Mapping[str, Any]) -> str:
    """Return the section of the docs."""
    return "".join(family(name, run) for name, run in document["families"].items())


def family(name: str, run: Mapping[str, Any]) -> str:
    """Return what became of one family's copy: the headline, a row for every attack, and the guesses."""
    cells = read_cells(run)
    measure = measure_of(cells)
    first, _ = headline(cells, measure)
    lines = [f"\n### {name}\n", f"\n**{first}** {' '.join(lead(cells, measure))}\n"]
    lines.append(
        f"\n`{run['model']}`, suite `{run['suite']}`: {len(cells)} cells, {run.get('engine_starts', '–')} "
        f"engine starts, {run['seconds']:.0f} s.\n\n"
    )
    lines.append(titles("attack", "FSR after", "95 % interval", "p, answers", "p, likelihood", *COSTS))
    lines += [row(cell) for cell in cells if not cell.guesses]
    guesses = [(cell, group) for cell in cells for group in cell.groups]
    if guesses:
        lines.append("\n" + titles("asked of", "guess", "asked", "false triggers", "rate", "95 % interval"))
    for cell, group in guesses:
        low, high = group["interval"]
        lines.append(
            f"| {cell.label} | {group['kind']} | {group['asked']} | {group['triggered']} | {100 * group['rate']:.2g} % "
            f"| {100 * low:.2g}–{100 * high:.2g} % |\n"
        )
    return "".join(lines)


def titles(*names: str) -> str:
    """Return the head of a table."""
    return f"| {' | '.join(names)} |\n{'|---' * len(names)}|\n"


def row(cell: Cell) -> str:
    """Return a row of the table: failures of the fingerprint stand out, failures of the attack say why."""
    if cell.fsr is None:
        return f"| {cell.label} | {cell.state}: {cell.problem} | | | | | | |\n"
    low, high = cell.interval or (0.0, 1.0)
    accuracy, perplexity = cell.cost("accuracy"), cell.cost("perplexity")
    return (
        f"| {cell.label} | {_loud(f'{100 * cell.fsr:.3g} %', cell.fsr < 0.25)} | {100 * low:.0f}–{100 * high:.0f} % "
        f"| {_p(cell.p_value)} | {_p(cell.likelihood)} | {_loud(cell.verdict or '–', cell.verdict != 'MATCH')} "
        f"| {'–' if accuracy is None else points_text(accuracy)} "
        f"| {'–' if perplexity is None else f'× {1 + perplexity:.3g}'} |\n"
    )


def _loud(text: str, loud: bool) -> str:
    return f"**{text}**" if loud else text


def _p(value: float | None) -> str:
    return "–" if value is None else p_shown(value)


if __name__ == "__main__":
    main()
