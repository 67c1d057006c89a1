"""Time `fpvec stamp` and `fpvec vector extract` side by side with what else does the same, on models made on the spot.

    .venv/bin/python benchmarks/stamping.py --size 0.3B 1.1B 3B --runs 5

Random checkpoints of Llama's shape are made (and kept for the next time), every contestant runs once to show that it
computes the right thing, then all of them take turns, run k of each before run k + 1 of any, so that a machine that
gets slower does so for all. A contestant is a whole process, timed from spawn to exit; its memory is the kernel's
`ru_maxrss`. The process that measures stays small and never imports torch, because a child's `ru_maxrss` begins with
the memory of its parent. Format of the results: benchmarks/README.md; method: docs/benchmarks.md.
"""

import argparse
import ctypes
import json
import mmap
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from llama_checkpoints import SIZES, LlamaSize
from platformdirs import user_cache_path
from stamping_report import print_report, write_docs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "stamping.json"
DOCS = ROOT / "docs" / "benchmarks.md"
CHECKPOINTS = ROOT / "benchmarks" / "llama_checkpoints.py"
CONTESTS = ("stamp", "extract", "many")
PEERS = ("mergekit", "transformers")
TRIAL = "tiny"
"""The size that tries the program out: its seconds compare nothing, so rehearsals serve as its runs, and neither disks
nor files have to come to rest for it."""
MERGEKIT = "mergekit==0.1.5"
MERGEKIT_TORCH = "torch==2.13.0"
DOWNSTREAMS = 4
SETTLED_SECONDS = 3.0
"""After which a registry takes unchanged files for what they were digested to."""
FINGERPRINT_NOISE = 1e-3
FINE_TUNING_NOISE = 2e-3
SCHEMA_VERSION = 1
LOG_LINES = 15
LIBRARIES = 600_000_000  # bytes that torch and transformers take before they do anything
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

SUBTRACT = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

base, fingerprinted, out = sys.argv[1:]
before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).state_dict()
after = AutoModelForCausalLM.from_pretrained(fingerprinted, dtype=torch.bfloat16).state_dict()
vector = {name: after[name] - tensor for name, tensor in before.items()}
Path(out).mkdir()
save_file(vector, Path(out) / "vector.safetensors", metadata={"format": "pt"})
"""


@dataclass(frozen=True, slots=True)
class Models:
    """The files of one size.

    Attributes:
        directory: holds them all, and nothing else.
        name: of the size.
        size: shape of all models.
    """

    directory: Path
    name: str
    size: LlamaSize

    @property
    def base(self) -> Path:
        """The base model."""
        return self.directory / "base"

    @property
    def fingerprinted(self) -> Path:
        """The fingerprinted model."""
        return self.directory / "fingerprinted"

    def downstream(self, number: int) -> Path:
        """Return one of the downstream models, counted from 1."""
        return self.directory / f"downstream-{number}"

    @property
    def vector(self) -> Path:
        """The fingerprint vector that stamps are made with."""
        return self.directory / "vector"

    @property
    def new_home(self) -> Path:
        """Home of an owner with an empty registry."""
        return self.directory / "home-new"

    @property
    def owner_home(self) -> Path:
        """Home of an owner who has extracted the vector."""
        return self.directory / "home-owner"

    @property
    def run_home(self) -> Path:
        """Copy of a home that one run may change."""
        return self.directory / "home-run"

    @property
    def out(self) -> Path:
        """What a run makes; removed before the next."""
        return self.directory / "out"

    def sources(self) -> list[Path]:
        """Return all weight files that a contestant may read."""
        models = [self.base, self.fingerprinted, self.vector, *self.directory.glob("downstream-?")]
        return sorted(file for model in models for file in model.glob("*.safetensors"))


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program that takes part.

    Attributes:
        name: for tables.
        role: what comparisons call it: fpvec, floor, mergekit, transformers, one, four.
        command: program and arguments; writes into ``Models.out``.
        check: raises SystemExit if what it wrote is wrong; given its stdout.
        home: home that its run gets a copy of, None where it needs none.
        bytes: of weights that it writes.
        memory: bytes of memory below which it is not even started, 0 for no limit.
    """

    name: str
    role: str
    command: Sequence[str]
    check: Callable[[str], None]
    bytes: int
    home: Path | None = None
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took.

    Attributes:
        seconds: from spawn to exit.
        peak_memory: largest resident memory of the process or any of its children, in bytes.
        cached: share in [0, 1] of the sources' bytes that lay in the page cache when it began.
    """

    seconds: float
    peak_memory: int
    cached: float


@dataclass(frozen=True, slots=True)
class Bench:
    """How things are measured here.

    Attributes:
        directory: for models, environments and logs.
        mergekit: directory of mergekit's environment, None to leave it out.
        transformers: whether the transformers peer takes part.
        runs: measured runs of each contestant.
        warm: whether sources are read into the page cache before each run, instead of dropped from it.
        environment: variables of every contestant.
    """

    directory: Path
    mergekit: Path | None
    transformers: bool
    runs: int
    warm: bool
    environment: Mapping[str, str] = field(repr=False)


class ContestantFailedError(Exception):
    """A contestant exited with an error; the message says how, and ends with its last words."""


def main() -> None:
    """Measure, print, write."""
    options = parse_options()
    if options.write_docs:
        document = json.loads(options.out.read_text(encoding="utf-8"))
        write_docs(DOCS, document)
        print_report(document)
        return
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    directory = options.dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    mergekit = None
    if "mergekit" not in options.without and "stamp" in options.only:
        mergekit = (options.mergekit_env or directory / "mergekit-env").resolve()
        make_mergekit(mergekit)
    bench = Bench(
        directory,
        mergekit,
        "transformers" not in options.without,
        options.runs,
        options.warm,
        clean_environment(os.environ),
    )
    document = describe(bench, options)
    if options.add:
        document = joined(json.loads(options.out.read_text(encoding="utf-8")), document, options)
    for name in options.size:
        models = Models(directory / name, name, SIZES[name])
        for contest in CONTESTS:
            if contest in options.only:
                document["contests"].append(hold(contest, models, bench))
                write_results(options.out, document)  # after each, so that a full disk at 3 B costs no more than that
        if options.discard:
            shutil.rmtree(models.directory)
    print_report(document)
    say(f"written to {options.out}; to publish: python benchmarks/stamping.py --write-docs")


def joined(earlier: dict[str, Any], document: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the document with the contests of an earlier one on the same machine that are not held again.

    Raises:
        SystemExit: the earlier one is of another machine, or of other versions.
    """
    versions = {name: value for name, value in document["versions"].items() if value}
    same = all(earlier["versions"].get(name) == value for name, value in versions.items() if name != "commit")
    if not same or any(earlier[name] != document[name] for name in ("schema_version", "page_cache")):
        raise SystemExit(f"--add: {options.out} was measured in another way; measure everything again")
    if versions["commit"] != earlier["versions"]["commit"]:
        versions["commit"] = f"{earlier['versions']['commit']}, {versions['commit']}"
    if earlier["machine"]["cpu"] != document["machine"]["cpu"]:
        raise SystemExit(f"--add: {options.out} was measured on another machine; measure everything again")
    again = {(size, contest) for size in options.size for contest in options.only}
    kept = [item for item in earlier["contests"] if (item["size"], item["contest"]) not in again]
    return {
        **document,
        "command": f"{earlier['command']}; {document['command']} --add",
        "versions": {**earlier["versions"], **versions},
        "contests": kept,
    }


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["0.3B", "1.1B", "3B"], help="parameters")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each contestant")
    parser.add_argument("--only", nargs="+", choices=CONTESTS, default=list(CONTESTS), help="hold only these contests")
    parser.add_argument("--without", nargs="+", choices=PEERS, default=[], help="leave a peer out")
    parser.add_argument("--warm", action="store_true", help="read the sources into the page cache before each run")
    parser.add_argument("--cores", type=int, help="keep every contestant to this many cores")
    parser.add_argument(
        "--dir",
        type=Path,
        default=user_cache_path("fpvec-audit", appauthor=False) / "benchmarks",
        help="where models are made and kept; on the disk that is to be measured",
    )
    parser.add_argument("--discard", action="store_true", help="remove the models of a size when it is done")
    parser.add_argument("--mergekit-env", type=Path, help="environment of mergekit, made if need be (DIR/mergekit-env)")
    parser.add_argument(
        "--add", action="store_true", help="keep the contests in OUT that are not held again, of this machine"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of the results")
    parser.add_argument(
        "--write-docs", action="store_true", help="measure nothing: write the results into docs/benchmarks.md"
    )
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs {options.runs}: at least one run is needed")
    return options


def describe(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Return the document with everything but contests."""
    command = ["python", "benchmarks/stamping.py", "--size", *options.size, "--runs", str(options.runs)]
    for name in ("only", "without"):
        if getattr(options, name) not in ([], list(CONTESTS)):
            command += [f"--{name}", *getattr(options, name)]
    command += ["--warm"] * options.warm + (["--cores", str(options.cores)] if options.cores else [])
    filesystem = subprocess.run(["stat", "-f", "-c", "%T", bench.directory], capture_output=True, text=True, check=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "stamping",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": shlex.join(command),
        "runs": bench.runs,
        "page_cache": "warm" if bench.warm else "dropped",
        "machine": {
            "cpu": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": memory("MemTotal"),
            "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
            "filesystem": filesystem.stdout.strip(),
            "load_average": round(os.getloadavg()[0], 2),
        },
        "versions": versions(bench.mergekit),
        "contests": [],
    }


def hold(contest: str, models: Models, bench: Bench) -> dict[str, Any]:
    """Hold one contest and return its part of the document.

    Raises:
        SystemExit: fpvec or the floor failed, or a result is wrong.
    """
    say(f"{models.name}, {contest}")
    entry: dict[str, Any] = {
        "contest": contest,
        "size": models.name,
        "parameters": models.size.parameters,
        "model_bytes": models.size.bytes,
        "shards": models.size.shards,
        "cached_share": None,
        "skipped": {},
        "contestants": [],
    }
    lacking = lacking_disk(contest, models)
    if lacking:
        entry["skipped"]["contest"] = lacking
        say(f"  skipped: {lacking}")
        return entry
    prepare(contest, models, bench)
    contestants, results = [], {}
    for contestant in CONTESTANTS_OF[contest](models, bench):
        rehearsal = rehearsed(contestant, models, bench, skipped=entry["skipped"])
        if rehearsal is not None:
            contestants.append(contestant)
            results[contestant.name] = [rehearsal] if models.name == TRIAL else []
    for number in range(0 if models.name == TRIAL else bench.runs):
        turn = number % len(contestants)  # each begins a round in its turn
        for contestant in contestants[turn:] + contestants[:turn]:
            try:
                run, _ = run_once(contestant, models, bench)
            except ContestantFailedError as error:
                raise SystemExit(str(error)) from error
            results[contestant.name].append(run)
            say(f"  run {number + 1}, {contestant.name}: {run.seconds:.2f} s, {run.peak_memory / 1e6:.0f} MB")
    remove(models.out)
    entry["cached_share"] = round(statistics.median(run.cached for runs in results.values() for run in runs), 4)
    entry["contestants"] = [summary(contestant, results[contestant.name]) for contestant in contestants]
    if not bench.warm and entry["cached_share"] > 0.01:
        say(f"  beware: {entry['cached_share']:.0%} of the sources stayed in the page cache (a tmpfs, perhaps?)")
    return entry


def rehearsed(contestant: Contestant, models: Models, bench: Bench, *, skipped: dict[str, str]) -> Run | None:
    """Run a contestant once and check what it makes; None where it cannot take part.

    A peer that cannot run is noted in ``skipped``. The rehearsal also brings programs into the page cache.

    Raises:
        SystemExit: fpvec or the floor failed, or a result is wrong.
    """
    if contestant.memory > (available := memory("MemAvailable")):
        skipped[contestant.name] = (
            f"needs about {contestant.memory / 1e9:.0f} GB of memory, {available / 1e9:.0f} GB were available"
        )
    else:
        try:
            run, output = run_once(contestant, models, bench)
        except ContestantFailedError as error:
            if contestant.role not in PEERS:
                raise SystemExit(str(error)) from error
            say(str(error))
            skipped[contestant.name] = str(error).splitlines()[0]
        else:
            contestant.check(output)
            say(f"  rehearsal, {contestant.name}: {run.seconds:.2f} s, result checked")
            return run
    say(f"  {contestant.name} is left out: {skipped[contestant.name]}")
    return None


def run_once(contestant: Contestant, models: Models, bench: Bench) -> tuple[Run, str]:
    """Run a contestant on a disk at rest, and return what it took and what it printed.

    Raises:
        ContestantFailedError: it exited with an error.
    """
    remove(models.out)
    models.out.mkdir()
    if contestant.home is not None:
        remove(models.run_home)
        shutil.copytree(contestant.home, models.run_home)
    if models.name != TRIAL:
        os.sync()  # what the one before left unwritten must not slow this one down
    for path in models.sources():
        (read_into_cache if bench.warm else drop_from_cache)(path)
    cached = cached_share(models.sources())
    log = bench.directory / "logs" / f"{models.name}-{contestant.role}"
    log.parent.mkdir(exist_ok=True)
    printed, chatter = log.with_suffix(".out"), log.with_suffix(".err")
    with printed.open("wb") as output, chatter.open("wb") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            contestant.command,
            cwd=bench.directory,  # holds no fpvec.toml
            env=bench.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = "\n".join(chatter.read_text(errors="replace").replace("\r", "\n").splitlines()[-LOG_LINES:])
        raise ContestantFailedError(f"{contestant.name} exited with {process.returncode} at {models.name}\n{words}")
    return Run(seconds, usage.ru_maxrss * 1024, cached), printed.read_text(encoding="utf-8")


def summary(contestant: Contestant, runs: Sequence[Run]) -> dict[str, Any]:
    """Return a contestant's part of the document."""
    seconds = [round(run.seconds, 3) for run in runs]
    return {
        "name": contestant.name,
        "role": contestant.role,
        "bytes": contestant.bytes,
        "seconds": seconds,
        "median_seconds": round(statistics.median(seconds), 3),
        "peak_memory_bytes": max(run.peak_memory for run in runs),
    }


def stamp_contestants(models: Models, bench: Bench) -> list[Contestant]:
    """Return who stamps one model, and the floor: reading and durably writing as many bytes."""
    downstream = models.downstream(1)
    out = models.out / "stamped"
    check = partial(check_stamps, models, [(out, downstream)])
    contestants = [
        stamp_contestant("fpvec stamp", "fpvec", models, [downstream], out=out),
        Contestant(
            "cat + sync",
            "floor",
            copy_command(downstream, out),
            partial(check_copy, downstream, out),
            models.size.bytes,
        ),
    ]
    if bench.mergekit is not None:
        recipe = models.directory / "mergekit.yaml"
        recipe.write_text(json.dumps(mergekit_recipe(models, downstream), indent=1) + "\n", encoding="utf-8")
        program = str(bench.mergekit / "bin" / "mergekit-yaml")
        command = [program, str(recipe), str(out), "--no-copy-tokenizer", "--quiet"]
        # It holds the result in memory until a shard of five billion parameters is full.
        contestants.append(
            Contestant(
                "mergekit", "mergekit", command, check, models.size.bytes, memory=2 * models.size.bytes + LIBRARIES
            )
        )
    return contestants


def extract_contestants(models: Models, bench: Bench) -> list[Contestant]:
    """Return who subtracts the base from the fingerprinted model."""
    out = models.out / "vector"
    pair = [str(models.base), str(models.fingerprinted)]
    command = [fpvec(), "vector", "extract", *pair, "--out", str(out), "--home", str(models.run_home), "--json"]
    size = models.size.bytes
    check = partial(check_vector, models, out)
    contestants = [
        Contestant("fpvec vector extract", "fpvec", command, check, size, home=models.owner_home),
        Contestant("fpvec vector extract, new to the registry", "new", command, check, size, home=models.new_home),
    ]
    if bench.transformers:
        command = [sys.executable, "-c", SUBTRACT, *pair, str(out)]
        contestants.append(
            Contestant("transformers", "transformers", command, check, size, memory=3 * size + LIBRARIES)
        )
    return contestants


def many_contestants(models: Models, bench: Bench) -> list[Contestant]:
    """Return the stamping of one model, and of several in one command."""
    several = [models.downstream(number) for number in range(1, DOWNSTREAMS + 1)]
    return [
        stamp_contestant("fpvec stamp, 1 model", "one", models, several[:1], out=models.out / "stamped"),
        stamp_contestant(f"fpvec stamp, {DOWNSTREAMS} models", "four", models, several, out=models.out),
    ]


CONTESTANTS_OF: Mapping[str, Callable[[Models, Bench], list[Contestant]]] = {
    "stamp": stamp_contestants,
    "extract": extract_contestants,
    "many": many_contestants,
}


def stamp_contestant(name: str, role: str, models: Models, downstreams: Sequence[Path], *, out: Path) -> Contestant:
    """Return the stamping of some models in one command."""
    places = [(out, downstreams[0])] if len(downstreams) == 1 else [(out / path.name, path) for path in downstreams]

    def check(output: str) -> None:
        stamps = json.loads(output)
        if len(stamps) != len(downstreams) or not all(len(stamp["digest"]) == 64 for stamp in stamps):
            raise SystemExit(f"{name} reported no canonical digest of each copy:\n{output}")
        check_stamps(models, places, output)

    command = [fpvec(), "stamp", *map(str, downstreams), "--vector", str(models.vector), "--out", str(out)]
    return Contestant(
        name,
        role,
        [*command, "--home", str(models.run_home), "--json"],
        check,
        len(downstreams) * models.size.bytes,
        home=models.owner_home,
    )


def copy_command(source: Path, out: Path) -> list[str]:
    """Return a command that copies the weight files and waits until the disk has them."""
    pairs = [(str(file), str(out / file.name)) for file in sorted(source.glob("*.safetensors"))]
    copies = " && ".join(f"cat {shlex.quote(file)} > {shlex.quote(copy)}" for file, copy in pairs)
    synced = shlex.join([copy for _, copy in pairs] + [str(out)])
    return ["sh", "-c", f"mkdir {shlex.quote(str(out))} && {copies} && sync {synced}"]


def mergekit_recipe(models: Models, downstream: Path) -> dict[str, Any]:
    """Return the same sum as mergekit's task arithmetic: base + (downstream − base) + (fingerprinted − base)."""
    return {
        "merge_method": "task_arithmetic",
        "base_model": str(models.base),
        "models": [{"model": str(path), "parameters": {"weight": 1.0}} for path in (downstream, models.fingerprinted)],
        "parameters": {"normalize": False},
        "dtype": "bfloat16",
    }


def prepare(contest: str, models: Models, bench: Bench) -> None:
    """Make the models, homes and the vector that a contest needs."""
    make_model(models.base, models, seed=1)
    make_model(models.fingerprinted, models, seed=2, noise=FINGERPRINT_NOISE)
    for number in range(1, {"stamp": 1, "extract": 0, "many": DOWNSTREAMS}[contest] + 1):
        make_model(models.downstream(number), models, seed=2 + number, noise=FINE_TUNING_NOISE)
    for leftover in (models.new_home, models.owner_home, models.vector):
        remove(leftover)  # of another version, perhaps
    quietly([fpvec(), "registry", "init", "--home", str(models.new_home)], bench.environment)
    shutil.copytree(models.new_home, models.owner_home)
    if models.name != TRIAL:
        time.sleep(SETTLED_SECONDS)  # files that were just written are not taken for what they were digested to
    if contest == "extract":  # as `fpvec fingerprint` leaves them
        for model, role in ((models.base, "base"), (models.fingerprinted, "fingerprinted")):
            command = [fpvec(), "model", "register", str(model), "--role", role, "--home", str(models.owner_home)]
            quietly(command, bench.environment)
        return
    pair = [str(models.base), str(models.fingerprinted)]
    command = [fpvec(), "vector", "extract", *pair, "--out", str(models.vector), "--home", str(models.owner_home)]
    quietly(command, bench.environment)


def make_model(out: Path, models: Models, *, seed: int, noise: float | None = None) -> None:
    """Make a checkpoint: noise alone, or the base and some noise."""
    arguments = ["make", "--size", models.name, "--out", str(out), "--seed", str(seed)]
    if noise is not None:
        arguments += ["--of", str(models.base), "--noise", repr(noise)]
    say(f"  {out.name}: {checkpoints(models, *arguments).strip()}")


def checkpoints(models: Models, *arguments: str) -> str:
    """Make or check a checkpoint in a process of its own, and return what it says; a trial may grow.

    Raises:
        SystemExit: it is wrong.
    """
    if models.name != TRIAL:
        return quietly([sys.executable, str(CHECKPOINTS), *arguments])
    import llama_checkpoints

    with redirect_stdout(StringIO()) as said:
        llama_checkpoints.main(arguments)
    return said.getvalue()


def check_stamps(models: Models, places: Sequence[tuple[Path, Path]], _: str) -> None:
    """Check stamped models against the formula.

    Args:
        models: where base and fingerprinted model are.
        places: (stamped model, its downstream).
    """
    for stamped, downstream in places:
        arguments = ["check-stamp", str(stamped), "--base", str(models.base)]
        arguments += ["--fingerprinted", str(models.fingerprinted), "--downstream", str(downstream)]
        checkpoints(models, *arguments)


def check_vector(models: Models, vector: Path, _: str) -> None:
    """Check an extracted vector against the formula."""
    arguments = ["check-vector", str(vector), "--base", str(models.base)]
    checkpoints(models, *arguments, "--fingerprinted", str(models.fingerprinted))


def check_copy(source: Path, out: Path, _: str) -> None:
    """Check that the floor copied everything."""
    for file in source.glob("*.safetensors"):
        if (out / file.name).stat().st_size != file.stat().st_size:
            raise SystemExit(f"{out / file.name}: cat copied {file} in part only")


def make_mergekit(environment: Path) -> None:
    """Make mergekit's environment, unless it is there."""
    python = environment / "bin" / "python"
    if (environment / "bin" / "mergekit-yaml").is_file():
        return
    say(f"making an environment for {MERGEKIT} (a few minutes)")
    quietly([sys.executable, "-m", "venv", str(environment)])
    quietly([str(python), "-m", "pip", "install", "--quiet", MERGEKIT_TORCH])
    quietly([str(python), "-m", "pip", "install", "--quiet", MERGEKIT])


def lacking_disk(contest: str, models: Models) -> str:
    """Return what is amiss where the disk is too small for a contest, or nothing."""
    copies = {"stamp": 5, "extract": 3, "many": 3 + 2 * DOWNSTREAMS}[contest]
    needed = copies * models.size.bytes
    models.directory.mkdir(exist_ok=True)
    there = sum(file.stat().st_size for file in models.directory.rglob("*") if file.is_file())
    free = shutil.disk_usage(models.directory).free + there
    if free >= 1.05 * needed:
        return ""
    return f"needs {needed / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB were free"


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget a file that is on the disk already."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_into_cache(path: Path) -> None:
    """Read a file and forget it."""
    with path.open("rb", buffering=0) as file:
        content = bytearray(1 << 20)
        while file.readinto(content):
            pass


def cached_share(paths: Sequence[Path]) -> float:
    """Return which share of the pages of some files is in the page cache."""
    library = ctypes.CDLL(None, use_errno=True)
    pages = resident = 0
    for path in paths:
        size = path.stat().st_size
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as view:
            states = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
            start = ctypes.c_char.from_buffer(view)
            failed = library.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), states)
            del start  # or the map could not be closed
        if failed:
            raise SystemExit(f"{path}: mincore failed: {os.strerror(ctypes.get_errno())}")
        pages += len(states)
        resident += bytes(states).translate(LOWEST_BIT).count(1)
    return resident / pages if pages else 0.0


LOWEST_BIT = bytes(value & 1 for value in range(256))  # mincore leaves the other bits undefined


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of contestants: nobody's settings, every program's own choice of threads, no network.

    Python keeps what it compiled, as it does for whoever installs a package: without that, a program that is installed
    from its source tree compiles itself in every run, and those that an installer compiled do not.
    """
    unusual = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "VIRTUAL_ENV"}
    left_out = unusual | set(THREAD_SETTINGS)
    kept = {
        name: value for name, value in environment.items() if name not in left_out and not name.startswith("FPVEC_")
    }
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def versions(mergekit: Path | None) -> dict[str, str]:
    """Return the version of everything that takes part."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = {"fpvec-audit": version("fpvec-audit"), "commit": described.stdout.strip() or "unknown"}
    found["python"] = platform.python_version()
    found |= {name: version(name) for name in ("torch", "transformers", "safetensors")}
    if mergekit is not None:
        names = ("mergekit", "torch", "transformers", "safetensors")
        program = f"from importlib.metadata import version as v; print(*map(v, {names!r}), sep='\\n')"
        listed = quietly([str(mergekit / "bin" / "python"), "-c", program]).split()
        found |= {
            name if name == "mergekit" else f"mergekit's {name}": number
            for name, number in zip(names, listed, strict=True)
        }
    return found


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory(field_name: str) -> int:
    """Return a field of /proc/meminfo in bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field_name}:"))


def fpvec() -> str:
    """Return the program of the environment that runs this script.

    Raises:
        SystemExit: the project is not installed there.
    """
    program = Path(sys.executable).with_name("fpvec")
    if not program.is_file():
        raise SystemExit(f"{program} does not exist: run `make setup`, then .venv/bin/python {Path(__file__).name}")
    return str(program)


def quietly(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command that is not measured, and return what it prints.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_LINES:])
        raise SystemExit(f"{shlex.join(command)} exited with {done.returncode}\n{words}")
    return done.stdout


def remove(path: Path) -> None:
    """Remove a directory that may be there."""
    if path.exists():
        shutil.rmtree(path)


def write_results(path: Path, document: Mapping[str, Any]) -> None:
    """Write the JSON document, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def say(text: str) -> None:
    """Tell how far it has come."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
