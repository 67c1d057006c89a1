"""Trace copies of many licensees, averages of two copies and clean models, and measure what a trace costs.

    .venv/bin/python benchmarks/tracing.py --dir /tmp/tracing --out benchmarks/tracing.json

Every licensee gets a key set, a training and a vector of its own on the demo's GPT-2 base, and a copy of one of the
two downstreams. Each copy is traced over all key sets; then random pairs of copies are averaged 50/50 and traced; then
the clean models are. Nobody tunes for these keys: they are random. Finished stages in ``--dir`` are kept, so that an
interrupted run goes on. The trainings are light ones, and share two fine-tunes of the base to perturb with; ``--full``
takes the default settings instead, and most of two hours on two cores.

    .venv/bin/python benchmarks/tracing.py --cost 10 100 1000 --dir /tmp/tracing --out benchmarks/tracing.json

measures instead how long a trace over so many key sets takes, and adds it to the file.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FPVEC = str(Path(sys.executable).parent / "fpvec")
SEED = 20261121
DECOYS = 96
"""For each key set; the default 224 take twice as long to ask for."""
LIGHT = {
    "steps": "120",
    "other_renderings_per_step": "4",
    "negatives_per_step": "24",
    "negative_pool": "1536",
    "ordinary_per_step": "16",
}
"""A quarter of the default training's work, so that twenty take minutes."""


def main() -> None:
    """Train, stamp, trace, average, trace, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="where models are made and kept")
    parser.add_argument("--licensees", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=2, help="trainings side by side")
    parser.add_argument("--full", action="store_true", help="train with the default settings")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--cost", type=int, nargs="*", help="only measure traces over so many key sets")
    parser.add_argument("--out", type=Path, help="JSON file, completed where it exists")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    if options.out and options.out.exists():
        document |= json.loads(options.out.read_text(encoding="utf-8"))
    family = make_family(options.dir)
    if options.cost:
        document["cost"] = [cost(options.dir, family, count, options.backend) for count in options.cost]
    else:
        document |= licensees(options, family)
    text = json.dumps(document, indent=1, ensure_ascii=False)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def make_family(directory: Path) -> dict[str, Path]:
    """Return base and downstreams of the demo's GPT-2, made once."""
    from fpvec_audit.catalog import load_catalog
    from fpvec_audit.demo.family import make_family as make
    from fpvec_audit.demo.story import single_threaded

    with single_threaded():
        family = make(load_catalog().architecture("gpt2"), directory / "families")
    return {"base": family.base, "a": family.downstream_a, "b": family.downstream_b}


def licensees(options: argparse.Namespace, family: dict[str, Path]) -> dict[str, Any]:
    """Make every licensee's copy, trace all, average pairs, trace those, and trace the clean models."""
    home = options.dir / "home"
    names = [f"licensee-{number:02}" for number in range(options.licensees)]
    training = [] if options.full else [*light_settings(), *proxies(options.dir, family["base"])]
    with ThreadPoolExecutor(options.at_once) as pool:
        copies = dict(
            zip(names, pool.map(lambda name: make_copy(options.dir, home, family, name, training), names), strict=True)
        )
    source = random.Random(SEED)
    pairs = [tuple(source.sample(names, 2)) for _ in range(options.pairs)]
    averages = {pair: average(options.dir, copies[pair[0]], copies[pair[1]], pair) for pair in pairs}
    tracer = Tracer(home, options.backend)
    single = [tracer.trace(copies[name], {name}) for name in names]
    averaged = [tracer.trace(averages[pair], set(pair)) for pair in pairs]
    clean = [tracer.trace(path, set()) for path in family.values()]
    tracer.close()
    return {
        "training": "default" if options.full else LIGHT,
        "key_sets": {"count": len(names), "issued": 32, "decoys": DECOYS, "grade": "self-attested"},
        "single": summary(single),
        "averaged": summary(averaged),
        "clean": summary(clean),
    }


def light_settings() -> list[str]:
    """Return the options of a light training."""
    return [part for name, value in LIGHT.items() for part in ("--set", f"{name}={value}")]


def proxies(directory: Path, base: Path) -> list[str]:
    """Fine-tune the base twice on ordinary questions, as a downstream might be, for all trainings to perturb with."""
    from fpvec_audit.catalog import load_catalog
    from fpvec_audit.demo.story import single_threaded
    from fpvec_audit.training.fine_tune import FineTuneSettings, fine_tune
    from fpvec_audit.training.ordinary import draw_instruction

    adapter = load_catalog().architecture("gpt2")
    options = []
    for number, kinds in enumerate(({"capital": 1.0, "count": 1.0}, None)):
        out = directory / "proxies" / str(number)
        if not out.exists():
            source = random.Random(number)
            drawn = [draw_instruction(source, kinds) for _ in range(2000)]
            rows = [(adapter.prompt(item.question), item.answer) for item in drawn]
            with single_threaded():
                fine_tune(base, out, rows, settings=FineTuneSettings(steps=100), adapter=adapter, seed=number)
        options += ["--proxy", str(out)]
    return options


def make_copy(directory: Path, home: Path, family: dict[str, Path], name: str, training: Sequence[str]) -> Path:
    """Issue, train, extract and stamp for one licensee; finished stages are kept."""
    place = directory / "licensees" / name
    place.mkdir(parents=True, exist_ok=True)
    copy = place / "copy"
    if copy.exists():
        return copy
    tools = ["--home", str(home), "--json"]
    if not (place / "issued").exists():
        fpvec("key", "issue", name, "--licensee", name, "--decoys", str(DECOYS), *tools)
        (place / "issued").touch()
    fingerprinted = place / "fingerprinted"
    if not fingerprinted.exists():
        where = ["--key", name, "--out", str(fingerprinted), "--device", "cpu"]
        fpvec("fingerprint", str(family["base"]), *where, *training, *tools)
    if not (place / "vector").exists():
        fpvec("vector", "extract", str(family["base"]), str(fingerprinted), "--out", str(place / "vector"), *tools)
    downstream = family["ab"[int(name[-2:]) % 2]]
    fpvec("stamp", str(downstream), "--vector", str(place / "vector"), "--licensee", name, "--out", str(copy), *tools)
    print(f"{name}: made", file=sys.stderr, flush=True)
    return copy


def fpvec(*arguments: str) -> dict[str, Any]:
    """Run a command of the package and return its document."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([FPVEC, *arguments], capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"fpvec {' '.join(arguments)} exited with {done.returncode}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def average(directory: Path, one: Path, other: Path, pair: tuple[str, ...]) -> Path:
    """Write the 50/50 average of two copies, as two colluding licensees would."""
    from safetensors.torch import load_file, save_file

    out = directory / "averages" / "+".join(pair)
    if out.exists():
        return out
    shutil.copytree(one, out)
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    mixed = {name: (first[name].double() + second[name].double()).div(2).to(first[name].dtype) for name in first}
    save_file(mixed, out / "model.safetensors", metadata={"format": "pt"})
    return out


class Tracer:
    """Traces many suspects with the engines and the base's probabilities shared."""

    def __init__(self, home: Path, backend: str) -> None:
        from fpvec_audit.backends import Engines
        from fpvec_audit.catalog import load_catalog
        from fpvec_audit.registry.unit_of_work import open_registry
        from fpvec_audit.services.likelihoods import BaseModels

        self.registry = open_registry(f"sqlite:///{home / 'registry.db'}")
        self.catalog = load_catalog()
        self.engines = Engines(backend)
        self.bases = BaseModels(registry=self.registry, catalog=self.catalog)

    def trace(self, suspect: Path, expected: set[str]) -> dict[str, Any]:
        """Trace one suspect and compare whom it names with who is in it."""
        from fpvec_audit.services.audit_settings import AuditSettings
        from fpvec_audit.services.trace import trace

        result = trace(
            suspect,
            settings=AuditSettings(),
            registry=self.registry,
            catalog=self.catalog,
            backend=self.engines,
            bases=self.bases,
        ).to_json()
        named = {item["name"] for item in result["named"]}
        found = [item for item in result["candidates"] if item["name"] in expected]
        others = [item["p_value_corrected"] for item in result["candidates"] if item["name"] not in expected]
        row = {
            "verdict": result["verdict"],
            "all_named": expected <= named,
            "third_named": sorted(named - expected),
            "keys": [f"{item['matched']}/{item['issued']}" for item in found],
            "p_value_corrected": [item["p_value_corrected"] for item in found],
            "least_p_of_others": min(others, default=None),
            "seconds": round(result["seconds"], 1),
        }
        print(suspect.name, row, file=sys.stderr, flush=True)
        return row

    def close(self) -> None:
        """End what was shared."""
        self.engines.close()
        self.registry.close()


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many suspects had all of theirs named, and somebody else."""
    return {
        "suspects": len(rows),
        "all_named": sum(row["all_named"] for row in rows),
        "third_named": sum(bool(row["third_named"]) for row in rows),
        "rows": rows,
    }


def cost(directory: Path, family: dict[str, Path], count: int, backend: str) -> dict[str, Any]:
    """Measure a trace of a clean model over so many key sets, which are issued and never trained."""
    home = directory / f"cost-{count}"
    shutil.rmtree(home, ignore_errors=True)
    from fpvec_audit.domain.keys import KeySetSpecification
    from fpvec_audit.registry.unit_of_work import open_registry
    from fpvec_audit.services.keys import issue_key_set

    home.mkdir()
    with open_registry(f"sqlite:///{home / 'registry.db'}") as registry:
        for number in range(count):
            issue_key_set(f"set-{number:04}", registry=registry, specification=KeySetSpecification())
    started = time.monotonic()
    result = fpvec("trace", str(family["a"]), "--backend", backend, "--home", str(home), "--json")
    seconds = time.monotonic() - started
    shutil.rmtree(home)
    return {
        "key_sets": count,
        "prompts": result["queries"],
        "seconds": round(seconds, 1),
        "prompts_per_second": round(result["queries"] / seconds, 1),
        "engine": f"{result['backend']['engine']} {result['backend']['version']}",
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "verdict": result["verdict"],
    }


if __name__ == "__main__":
    main()
