"""Run the demo of every architecture with fresh keys and summarise what came out.

    .venv/bin/python benchmarks/demo_families.py --runs 2 --out benchmarks/demo_families.json

Each run issues a new random key set, so the figures say how the method does on keys that nobody tuned for. Bases and
downstreams are trained in the first run of an architecture and kept; seconds are wall time on whatever machine this is.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARCHITECTURES = ("gpt2", "llama2", "bloom", "vicuna")
SUSPECTS = ("base", "downstream_a", "downstream_b", "fingerprinted", "stamped_a", "stamped_b")


def main() -> None:
    """Run, collect, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="only these (repeatable)")
    parser.add_argument("--runs", type=int, default=1, help="runs per architecture, each with fresh keys")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--home", type=Path, help="keep the families here (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = options.home or Path(temporary)
        rows = [
            run(architecture, number, home=home, backend=options.backend)
            for architecture in options.arch or ARCHITECTURES
            for number in range(options.runs)
        ]
    document = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "runs": rows}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def run(architecture: str, number: int, *, home: Path, backend: str) -> dict[str, object]:
    """Run one demo and return its figures."""
    command = [str(Path(sys.executable).parent / "fpvec"), "demo", "--arch", architecture, "--backend", backend]
    command += ["--home", str(home / architecture), "--json", *(["--fresh-keys"] if number else [])]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}")
    row = {
        "architecture": architecture,
        "run": number,
        "seconds": round(seconds, 1),
        **figures(json.loads(done.stdout)),
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def figures(document: dict) -> dict[str, object]:
    """Pick what the method is judged by."""
    audits = document["audits"]
    return {
        "stages": {stage["name"]: round(stage["seconds"], 1) for stage in document["stages"]},
        "matched": {name: f"{audits[name]['matched']}/{audits[name]['issued']}" for name in SUSPECTS},
        "verdicts": {name: audits[name]["verdict"] for name in SUSPECTS},
        "decoys_matched": {name: audits[name]["decoys_matched"] for name in SUSPECTS},
        "false_triggers_on_decoys": {name: audits[name].get("false_triggers") for name in SUSPECTS},
        "learning": document["learning"],
        "harmlessness": {
            name: {"accuracy": harm["difference"]["accuracy"], "perplexity_ratio": harm["perplexity_ratio"]}
            for name, harm in document["harmlessness"].items()
        },
        "attacks": [
            {key: cell.get(key) for key in ("name", "parameters", "fsr_before", "fsr_after", "rates", "utility_after")}
            for cell in document["attacks"]
        ],
    }


if __name__ == "__main__":
    main()
