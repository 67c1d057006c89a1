"""Stamping under faults: whatever happens to the process, its disk or its inputs, a target is whole or not there.

Every case is played with real processes, files and locks. Where a process is when something happens to it is known
from its witness (``witness``), never from a clock. All chance comes from ``SEED``, which is shown on failure.

How many bytes are written says nothing about how many lines the journal has, which another thread adds: what needs
lines stops at one. And whatever is to be met while it works stops by itself before it is done, as the test that is to
meet it may have to wait for a processor.
"""

import contextlib
import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.records import JobRecord, JobState
from fpvec_audit.errors import OutputError
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.jobs import list_jobs
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.verification import verify_registry
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.writer import WORTH_DIRECT
from tests.faults.processes import Ended, ForkServer, Running, Stop, start_script
from tests.faults.witness import CLOSED, DELETED, JOURNAL, MADE, MARK, NOTED, RENAMED, SYNCED, WRITTEN
from tests.tiny import perturb, write_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]  # a minute of processes; one bench for all of them

SEED = int(os.environ.get("FAULT_SEED", "20260102"))
KILLS = 20
BY_SCRIPT = range(2)
"""Kills, by number, of the installed script as it is started by its users; the others are forks that start sooner."""
SHARDS = 2
BEFORE_CLOSING: Stop = (CLOSED, 1)
"""Everything is written, and noted in the journal."""
BEFORE_RENAMING: Stop = (RENAMED, 1)
SOME_NOTED: Stop = (NOTED, 6)
"""The journal has five lines, and as good as all is still to be written."""


@dataclass(frozen=True)
class Bench:
    """Models of 33 MB, a vector, a registry, and what an undisturbed stamp makes of them.

    Attributes:
        place: where all of it lies: ``base``, ``fingerprinted``, ``chat``, ``vector``, ``whole`` and ``home``.
        server: starts processes.
        counts: events of the undisturbed stamp.
    """

    place: Path
    server: ForkServer
    counts: Counter[str]

    @property
    def chat(self) -> Path:
        return self.place / "chat"

    @property
    def whole(self) -> Path:
        return self.place / "whole"

    def order(
        self, out: Path, *options: str, chat: Path | None = None, vector: Path | None = None, scale: str = "1"
    ) -> list[str]:
        """Return the arguments of a stamp."""
        text = f"{vector or self.place / 'vector'}:{scale}"
        home = str(self.place / "home")
        return [
            "stamp",
            str(chat or self.chat),
            "--vector",
            text,
            "--out",
            str(out),
            "--home",
            home,
            "--json",
            *options,
        ]

    def run(self, out: Path, *options: str, **order: object) -> Ended:
        """Stamp."""
        return self.server.run(*self.order(out, *options, **order))  # type: ignore[arg-type]

    def leave(self, out: Path, stop: Stop) -> Path:
        """Stamp until a process is at an event, kill it there, and return the staging directory that is left."""
        kill(self.server.start_until(stop, *self.order(out)))
        (left,) = stagings(out)
        return left

    def jobs(self) -> list[JobRecord]:
        """Return the jobs of the registry, whose ledger must hold."""
        with open_registry(f"sqlite:///{self.place / 'home' / 'registry.db'}", create=False) as registry:
            assert verify_registry(registry=registry).valid
            return list(list_jobs(registry=registry))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("faults")
    base = llama_shaped(place / "base")
    perturb(base, place / "fingerprinted", exact=True)
    carried(perturb(base, place / "chat", seed=2))
    with ForkServer(place / "processes") as server:
        pair = place / "base", place / "fingerprinted"
        assert server.run("vector", "extract", *pair, "--out", place / "vector", "--home", place / "home").code == 0
        bench = Bench(place, server, Counter())
        undisturbed = bench.run(bench.whole)
        assert undisturbed.code == 0, undisturbed.err
        bench.counts.update(undisturbed.events)
        assert bench.counts[WRITTEN] > 60, "too short to be disturbed"
        assert bench.counts[RENAMED] == bench.counts[CLOSED] == 1
        assert not bench.counts[DELETED]
        sizes = sorted(file.stat().st_size for file in bench.chat.glob("*.safetensors"))
        assert sizes[0] < WORTH_DIRECT < sizes[1], "both ways of writing are to be disturbed"
        yield bench
    shutil.rmtree(place)  # a few hundred megabytes


@pytest.fixture(autouse=True)
def chance(request: pytest.FixtureRequest) -> random.Random:
    print(f"seed {SEED}; give another by FAULT_SEED")  # noqa: T201 - shown when the test fails
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return an empty directory for outputs; they are large, and removed at the end."""
    directory = tmp_path / "outputs"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """Give a file system with so much room."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def llama_shaped(directory: Path, *, hidden: int = 512, inner: int = 2048, rows: int = 8000) -> Path:
    """Write a bfloat16 checkpoint in a large and a small shard, of 33 MB with tensors of one block and of many."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    shapes = {"model.embed_tokens.weight": (rows, hidden)}
    for layer in range(2):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (hidden, hidden) for part in "qkvo"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": (hidden, inner)}
        shapes |= {f"{name}.{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (rows, hidden)}
    tensors = {name: (torch.randn(shape, generator=generator) * 0.05).bfloat16() for name, shape in shapes.items()}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    return write_checkpoint(directory, tensors, config=config, shards=SHARDS)


def carried(directory: Path, *, size: int = 3_000_000) -> Path:
    """Add files that are carried over: a large one, one in a directory, and one that nobody may write to."""
    (directory / "tokenizer.json").write_bytes(random.Random(SEED).randbytes(size))
    (directory / "original").mkdir()
    (directory / "original" / "params.json").write_text("{}")
    (directory / "LICENSE").write_text("free")
    for name in ("LICENSE", "model-00001-of-00002.safetensors"):
        (directory / name).chmod(0o444)
    return directory


def kill(running: Running) -> Ended:
    """Kill a process that cannot do anything about it."""
    running.send(signal.SIGKILL)
    return running.end()


def stagings(out: Path) -> list[Path]:
    """Return the staging directories of an output."""
    return sorted(out.parent.glob(f".{out.name}{MARK}*"))


def same(one: Path, other: Path) -> bool:
    """Say whether two directories hold the same names, modes and bytes."""
    return contents(one) == contents(other)


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        file.relative_to(directory).as_posix(): (file.stat().st_mode, b"" if file.is_dir() else file.read_bytes())
        for file in directory.rglob("*")
    }


def lines_of(staging: Path) -> int:
    """Return how many tensors a journal has; half a line, which a kill may leave, is none."""
    journal = staging / JOURNAL
    return journal.read_text().count("\n") - 1 if journal.exists() else 0


@dataclass(frozen=True)
class Moment:
    """When a process is killed, and what the next run does.

    Attributes:
        event: what is about to happen.
        count: how often it will have happened then.
        stop: where the process stops by itself; where that is the moment, it is killed exactly before the event, any
            other a little later, wherever it is by then.
        resume: whether the next run goes on with what is left.
    """

    event: str
    count: int
    stop: Stop | None
    resume: bool

    @property
    def exact(self) -> bool:
        return self.stop == (self.event, self.count)


def moments(bench: Bench, chance: random.Random) -> list[Moment]:
    """Return 20 moments, most of them while bytes are written."""

    def number(event: str, *, least: int = 1) -> int:
        return chance.randint(least, bench.counts[event] - (event == SYNCED))

    def either() -> bool:
        return chance.random() < 0.5

    last = bench.counts[SYNCED]  # that of the parent directory: the target stands there already
    found = [Moment(WRITTEN, number(WRITTEN), BEFORE_CLOSING, kill % 2 == 0) for kill in range(9)]
    for _ in range(3):
        noted = number(NOTED, least=2)
        found.append(Moment(NOTED, noted, (NOTED, noted) if either() else BEFORE_CLOSING, resume=True))
    found += [
        Moment(SYNCED, number(SYNCED), BEFORE_RENAMING, either()),
        Moment(MADE, 1, (MADE, 1), either()),
        Moment(CLOSED, 1, BEFORE_CLOSING, resume=True),
        Moment(CLOSED, 1, BEFORE_RENAMING, either()),
        Moment(RENAMED, 1, BEFORE_RENAMING, either()),
        Moment(RENAMED, 1, None, either()),
        Moment(SYNCED, last, (SYNCED, last), either()),
        Moment(SYNCED, last, None, either()),
    ]
    chance.shuffle(found)
    return found


def test_kill_at_any_moment_leaves_no_half_model_and_the_next_run_ends_the_same(bench, place, chance):
    counts: Counter[str] = Counter()
    chosen = moments(bench, chance)
    assert len(chosen) == KILLS
    for number, moment in enumerate(chosen):
        print(f"kill {number}: {moment}")  # noqa: T201
        out = place / "out"
        before = len(bench.jobs())
        script = place.parent / f"script-{number}" if number in BY_SCRIPT and not moment.exact else None
        killed = killed_at(bench, moment, script, out)
        assert killed.code in ({-signal.SIGKILL, 0} if moment.stop is None else {-signal.SIGKILL})
        job = judge_after_kill(bench, place, out, killed, before)
        counts.update([job.state.value, "whole" if out.exists() else "none"])
        judge_next_run(bench, place, out, resume=moment.resume, counts=counts)
        shutil.rmtree(out)
    print(dict(counts))  # noqa: T201
    assert counts["none"] >= 17
    assert counts["whole"] >= 1
    assert counts["resumed"] >= 4
    assert counts["removed"] >= 4


def killed_at(bench: Bench, moment: Moment, script: Path | None, out: Path) -> Ended:
    """Start a stamp – by the installed script, which takes its time, or by a fork – and kill it at a moment."""
    if moment.exact:
        return kill(bench.server.start_until((moment.event, moment.count), *bench.order(out)))
    if script is None:
        running = bench.server.start(*bench.order(out), stop=moment.stop)
    else:
        running = start_script(script, bench.order(out), stop=moment.stop)
    assert running.until(moment.event, moment.count)
    return kill(running)


def judge_after_kill(bench: Bench, place: Path, out: Path, killed: Ended, before: int) -> JobRecord:
    """Check what a killed process has left, and return its job."""
    left = stagings(out)
    assert set(place.iterdir()) == {*left, *([out] if out.exists() else [])}
    assert len(left) <= 1
    if out.exists():
        assert same(out, bench.whole)
        assert left == []
    (job,) = bench.jobs()[before:]
    if job.state is not JobState.INTERRUPTED:
        assert job.state is JobState.SUCCEEDED
        assert out.exists()
    if killed.code == 0:
        assert job.state is JobState.SUCCEEDED
    return job


def judge_next_run(bench: Bench, place: Path, out: Path, *, resume: bool, counts: Counter[str]) -> None:
    """Check that the next run ends well, with the result of an undisturbed one and nothing left."""
    left, there = stagings(out), out.exists()
    written = sum(lines_of(staging) for staging in left)
    again = bench.run(out, *(["--resume"] if resume else []))
    assert again.code == 0, again.err
    assert list(place.iterdir()) == [out]
    assert same(out, bench.whole)
    assert again.result["already"] is there
    assert again.result["resumed"] == (written if resume else 0)
    if again.result["resumed"]:
        counts["resumed"] += 1
    elif left and not resume:
        assert str(left[0]) in again.err
        assert "left by an interrupted run" in again.err
        counts["removed"] += 1
    assert there or bench.jobs()[-1].state is JobState.SUCCEEDED


def test_kill_while_a_leftover_is_removed_leaves_nothing_that_is_not_cleaned(bench, place):
    out = place / "out"
    left = bench.leave(out, (WRITTEN, 20))
    running = bench.server.start_until((DELETED, 1), *bench.order(out))
    next(left.glob("*.safetensors")).unlink()  # as far as the removal had come
    kill(running)
    assert bench.run(out, "--resume").code == 0
    assert list(place.iterdir()) == [out]
    assert same(out, bench.whole)


def test_kill_while_resuming_can_be_resumed(bench, place, chance):
    out = place / "out"
    left = bench.leave(out, SOME_NOTED)
    first = lines_of(left)
    assert first == SOME_NOTED[1] - 1
    running = bench.server.start(*bench.order(out, "--resume"), stop=BEFORE_CLOSING)
    assert running.until(WRITTEN, chance.randint(1, SHARDS + bench.counts[NOTED] - first))  # one for each that is left
    kill(running)
    assert stagings(out) == [left]
    second = lines_of(left)
    assert second >= first
    again = bench.run(out, "--resume")
    assert again.result["resumed"] == second
    assert same(out, bench.whole)


def test_everything_that_was_written_is_kept_on_resume_even_what_nobody_may_write_to(bench, place):
    out = place / "out"
    left = bench.leave(out, BEFORE_CLOSING)
    assert (left / "LICENSE").stat().st_mode & 0o222 == 0
    noted = lines_of(left)
    again = bench.run(out, "--resume")
    assert again.code == 0, again.err
    assert again.result["resumed"] == noted == bench.counts[NOTED]
    assert again.events.count(WRITTEN) == SHARDS  # the headers alone
    assert same(out, bench.whole)


def flip_a_byte(bench: Bench, left: Path, chance: random.Random) -> int:
    """Change one bit of a tensor that the journal says is written; return how many tensors are lost by it."""
    name = json.loads(chance.choice((left / JOURNAL).read_text().splitlines()[1:]))["tensor"]
    spec = read_checkpoint(bench.chat).tensors[name]
    position = chance.randrange(spec.start, spec.end)
    with (left / spec.file).open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))
    return 1


def cut_a_line(bench: Bench, left: Path, chance: random.Random) -> int:
    """Cut the journal in the middle of its last line."""
    journal = left / JOURNAL
    content = journal.read_bytes()
    last = content[:-1].rindex(b"\n") + 1
    journal.write_bytes(content[: chance.randrange(last + 1, len(content) - 2)])
    return 1


def zero_the_end(bench: Bench, left: Path, chance: random.Random) -> int:
    """Turn the last line into zeros, as a power cut may."""
    journal = left / JOURNAL
    content = journal.read_bytes()
    last = content[:-1].rindex(b"\n") + 1
    journal.write_bytes(content[:last] + bytes(len(content) - last))
    return 1


def shorten_a_file(bench: Bench, left: Path, chance: random.Random) -> int:
    """Take the end of a model file away, as a power cut may."""
    file = left / json.loads(chance.choice((left / JOURNAL).read_text().splitlines()[1:]))["file"]
    specs = read_checkpoint(bench.chat).tensors
    size = chance.randrange(file.stat().st_size)
    noted = [json.loads(line)["tensor"] for line in (left / JOURNAL).read_text().splitlines()[1:]]
    os.truncate(file, size)
    return sum(specs[name].file == file.name and specs[name].end > size for name in noted)


def remove_a_file(bench: Bench, left: Path, chance: random.Random) -> int:
    """Remove a model file."""
    file = left / json.loads((left / JOURNAL).read_text().splitlines()[1])["file"]
    file.unlink()
    return sum(json.loads(line)["file"] == file.name for line in (left / JOURNAL).read_text().splitlines()[1:])


def spoil_the_header(bench: Bench, left: Path, chance: random.Random) -> int:
    """Change a byte before the tensors: no digest covers it, it is written again."""
    with chance.choice(sorted(left.glob("*.safetensors"))).open("r+b") as file:
        file.seek(chance.randrange(8, 200))
        file.write(b"\xff")
    return 0


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut_a_line, zero_the_end, shorten_a_file, remove_a_file, spoil_the_header]
)
def test_resume_writes_again_what_was_damaged(bench, place, chance, damage):
    out = place / "out"
    left = bench.leave(out, (NOTED, chance.randint(2, bench.counts[NOTED])))
    noted = lines_of(left)
    lost = damage(bench, left, chance)
    again = bench.run(out, "--resume")
    assert again.code == 0, again.err
    assert again.result["resumed"] == noted - lost
    assert list(place.iterdir()) == [out]
    assert same(out, bench.whole)


def test_leftover_of_another_model_at_the_same_path_is_not_used(bench, place, chance):
    chat, out = place / "chat", place / "out"
    shutil.copytree(bench.chat, chat)
    kill(bench.server.start_until(SOME_NOTED, *bench.order(out, chat=chat)))
    (left,) = stagings(out)
    assert lines_of(left) > 0
    shard = chat / "model-00002-of-00002.safetensors"
    status = shard.stat()
    with shard.open("r+b") as file:  # the same size, and the same time of change as far as anyone can set it
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = bench.run(out, "--resume", chat=chat)
    assert (again.code, again.result["resumed"]) == (0, 0)
    assert str(left) in again.err
    fresh = bench.run(place / "fresh", chat=chat)
    assert fresh.code == 0, fresh.err
    assert same(out, place / "fresh")
    assert not same(out, bench.whole)


def test_leftover_of_another_order_is_not_used(bench, place):
    out = place / "out"
    left = bench.leave(out, SOME_NOTED)
    assert lines_of(left) > 0
    again = bench.run(out, "--resume", scale="0.5")
    assert (again.code, again.result["resumed"]) == (0, 0)
    assert str(left) in again.err
    assert list(place.iterdir()) == [out]
    assert not same(out, bench.whole)


def test_leftover_of_another_output_is_left_alone(bench, place):
    left = bench.leave(place / "other", (WRITTEN, 40))
    assert bench.run(place / "out", "--resume").code == 0
    assert {*place.iterdir()} == {left, place / "out"}


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_directory_in_which_a_process_works_is_neither_removed_nor_resumed(bench, place, chance, options):
    out = place / "out"
    stop = (WRITTEN, chance.randint(30, bench.counts[WRITTEN]))
    slow = bench.server.start_until(stop, *bench.order(out))
    (its_own,) = stagings(out)
    quick = bench.run(out, *options)
    assert (quick.code, quick.result["resumed"]) == (0, 0)
    assert {*place.iterdir()} == {its_own, out}
    slow.send(signal.SIGCONT)
    ended = slow.end()
    assert ended.code == 4
    assert "exists already" in ended.err
    assert list(place.iterdir()) == [out]
    assert same(out, bench.whole)
    assert [job.state for job in bench.jobs()[-2:]] == [JobState.FAILED, JobState.SUCCEEDED]


@pytest.mark.parametrize("leftover", [False, True])
@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_two_processes_at_once_make_one_whole_target(bench, place, options, leftover):
    for attempt in range(3):
        out = place / f"out-{attempt}"
        if leftover:
            bench.leave(out, SOME_NOTED)
        both = [bench.server.start(*bench.order(out, *options)) for _ in range(2)]
        ended = [running.end() for running in both]
        assert {item.code for item in ended} <= {0, 4}, [item.err for item in ended]
        assert 0 in {item.code for item in ended}, [item.err for item in ended]
        for item in ended:
            if item.code:
                assert "exists already" in item.err or "another process works in" in item.err
        assert same(out, bench.whole)
        assert stagings(out) == []
        shutil.rmtree(out)


@pytest.mark.parametrize("stopped", [False, True])
def test_interrupt_at_any_moment_of_writing_leaves_nothing(bench, place, chance, stopped):
    out = place / "deep" / "out"
    moment = (WRITTEN, chance.randint(1, bench.counts[WRITTEN] - 20))
    if stopped:
        running = bench.server.start_until(moment, *bench.order(out))
    else:
        running = bench.server.start(*bench.order(out), stop=BEFORE_CLOSING)
        assert running.until(*moment)
    running.send(signal.SIGINT)
    if bench.server.stops(running):
        running.send(signal.SIGCONT)
    ended = running.end()
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert list(place.iterdir()) == []
    assert bench.jobs()[-1].state is JobState.CANCELLED


def fill(disk: Path) -> Path:
    """Eat all the room of a file system."""
    eater = disk / "eater"
    with eater.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    assert shutil.disk_usage(disk).free == 0
    return eater


def test_disk_that_fills_up_while_writing_is_told_and_nothing_is_left(bench, tmp_path, chance):
    with small_disk(tmp_path / "disk", 48) as disk:
        out = disk / "deep" / "out"
        for _ in range(2):
            moment = (WRITTEN, chance.randint(4, bench.counts[WRITTEN] - 10))
            running = bench.server.start_until(moment, *bench.order(out))
            eater = fill(disk)
            running.send(signal.SIGCONT)
            ended = running.end()
            assert ended.code == 4
            assert f"{out}: the disk is full" in ended.err
            assert "Traceback" not in ended.err
            assert list(disk.iterdir()) == [eater]
            assert bench.jobs()[-1].state is JobState.FAILED
            eater.unlink()
        assert bench.run(out).code == 0
        assert same(out, bench.whole)


def test_killed_stamp_can_be_resumed_where_only_the_rest_has_room(bench, tmp_path, chance):
    with small_disk(tmp_path / "disk", 48) as disk:
        out = disk / "out"
        left = bench.leave(out, SOME_NOTED)
        noted = lines_of(left)
        assert noted > 0
        again = bench.run(out, "--resume")
        assert (again.code, again.result["resumed"]) == (0, noted)
        assert same(out, bench.whole)


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_killed_copies_can_be_made_again_where_only_they_have_room(bench, tmp_path, options):
    with small_disk(tmp_path / "disk", 88) as disk:  # two copies of 37 MB
        out = disk / "out"
        order = bench.order(out, "--licensee", "A", "--licensee", "B", *options)
        kill(bench.server.start_until((NOTED, 2 * bench.counts[NOTED]), *order))
        assert len(list(out.iterdir())) == 2
        again = bench.server.run(*order)
        assert again.code == 0, again.err
        assert {entry.name for entry in out.iterdir()} == {"chat-A", "chat-B"}
        assert same(out / "chat-A", bench.whole)
        assert same(out / "chat-B", bench.whole)


def test_file_that_may_not_grow_is_told_and_nothing_is_left(bench, place):
    ended = bench.server.run(*bench.order(place / "deep" / "out"), largest_file=6_000_000)
    assert ended.code == 4
    assert "the disk is full" in ended.err
    assert list(place.iterdir()) == []
    assert bench.jobs()[-1].state is JobState.FAILED


def test_room_is_checked_before_the_first_byte(bench, tmp_path):
    with small_disk(tmp_path / "disk", 30) as disk:
        ended = bench.run(disk / "deep" / "out")
        assert ended.code == 4
        needed = sum(file.stat().st_size for file in bench.whole.rglob("*") if file.is_file())
        assert f"bytes free, {needed} are needed" in ended.err
        assert not {MADE, WRITTEN} & {*ended.events}
        assert list(disk.iterdir()) == []
    assert bench.jobs()[-1].state is JobState.FAILED


def truncated(directory: Path, chance: random.Random) -> Path:
    """Cut one of the tensor files of a directory short, and return it."""
    file = chance.choice(sorted(directory.glob("*.safetensors")))
    os.truncate(file, chance.randrange(4096, file.stat().st_size // 3))
    return file


@pytest.mark.parametrize("which", ["chat", "vector"])
def test_source_that_is_truncated_while_it_is_read_is_named_and_nothing_is_left(bench, place, tmp_path, chance, which):
    copy = shutil.copytree(bench.place / which, tmp_path / which)
    order = bench.order(place / "deep" / "out", **{which: copy})
    moment = (WRITTEN, chance.randint(4, 8))  # less than a third of any file has been read by then
    running = bench.server.start_until(moment, *order)
    file = truncated(copy, chance)
    running.send(signal.SIGCONT)
    judge_truncation(bench, place, file, running.end(), bench.chat)
    shutil.rmtree(copy)


@pytest.mark.parametrize("which", ["base", "fingerprinted"])
def test_model_that_is_truncated_while_it_is_subtracted_is_named_and_nothing_is_left(
    bench, place, tmp_path, chance, which
):
    copy = shutil.copytree(bench.place / which, tmp_path / which)
    pair = {name: bench.place / name for name in ("base", "fingerprinted")} | {which: copy}
    out, home = place / "deep" / "vector", bench.place / "home"
    moment = (WRITTEN, chance.randint(4, 8))
    order = ("vector", "extract", *pair.values(), "--out", out, "--home", home, "--json")
    running = bench.server.start_until(moment, *order)
    file = truncated(copy, chance)
    running.send(signal.SIGCONT)
    judge_truncation(bench, place, file, running.end(), bench.chat)
    shutil.rmtree(copy)


def judge_truncation(bench: Bench, place: Path, file: Path, ended: Ended, model: Path) -> None:
    """Check that a command names the file that ended too early and a tensor in it, and has left nothing."""
    assert ended.code == 4
    assert ended.out == ""
    told = re.fullmatch(r"error: (.+) ended at byte (\d+), inside (\S+)\ntry: .+\n", ended.err)
    assert told is not None, ended.err
    assert Path(told[1]) == file
    assert int(told[2]) >= file.stat().st_size
    named = told[3]
    specs = read_checkpoint(model).tensors
    assert named in specs
    assert file.parent.name == "vector" or specs[named].file == file.name
    assert list(place.iterdir()) == []
    assert bench.jobs()[-1].state is JobState.FAILED


FAILURES = {
    "pwrite": errno.ENOSPC,
    "ftruncate": errno.ENOSPC,
    "fsync": errno.EIO,
    "mkdir": errno.ENOSPC,
    "open": errno.ENOSPC,
    "rename": errno.EACCES,
    "chmod": errno.EPERM,
    "unlink": errno.EIO,
}
"""System calls, and how each of them fails."""


@dataclass
class FailingCalls:
    """System calls on staging directories, one of which fails.

    Attributes:
        at: which of them, from 1; 0 for none.
        seen: how many were made.
        failed: the name of the one that failed.
    """

    at: int = 0
    seen: int = 0
    failed: str = ""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the calls in place of those of ``os``."""
        lock = threading.Lock()

        def failing(name: str) -> Any:
            call = getattr(os, name)

            def called(*arguments: Any, **options: Any) -> Any:
                if self._concerns(arguments[0]):
                    with lock:
                        self.seen += 1
                        if self.seen == self.at:
                            self.failed = name
                            raise OSError(FAILURES[name], os.strerror(FAILURES[name]))
                return call(*arguments, **options)

            return called

        for name in FAILURES:
            monkeypatch.setattr(os, name, failing(name))

    def _concerns(self, place: object) -> bool:
        path = Path(f"/proc/self/fd/{place}").readlink() if isinstance(place, int) else place
        return MARK in str(path)


def test_failure_of_any_system_call_leaves_no_half_model(tmp_path, registry, monkeypatch):
    base = llama_shaped(tmp_path / "base", hidden=8, inner=16, rows=40)
    tools = {"registry": registry, "catalog": load_catalog()}
    extract_vector(base, perturb(base, tmp_path / "tuned", exact=True), out=tmp_path / "vector", **tools)
    chat = carried(perturb(base, tmp_path / "chat", seed=2), size=1000)
    order = {"vectors": [str(tmp_path / "vector")], **tools}
    stamp_models([chat], out=tmp_path / "whole", **order)
    place = tmp_path / "outputs"
    place.mkdir()
    failed: Counter[str] = Counter()
    for at in itertools.count(1):
        calls = FailingCalls(at)
        with monkeypatch.context() as patch, contextlib.suppress(OutputError):
            calls.install(patch)
            stamp_models([chat], out=place / "out", **order)
            failed["nothing"] += 1  # as where a directory that is there already cannot be made
        print(f"call {at}: {calls.failed}")  # noqa: T201
        failed[calls.failed] += 1
        states = [job.state for job in list_jobs(registry=registry)]
        assert states.count(JobState.FAILED) == failed.total() - 2 * failed["nothing"]
        if (place / "out").exists():
            assert same(place / "out", tmp_path / "whole")
            shutil.rmtree(place / "out")
        assert list(place.iterdir()) == []
        with registry.unit_of_work() as uow:
            assert uow.ledger.verify() is None
        if not calls.failed:
            break
    assert failed.keys() >= {"pwrite", "ftruncate", "fsync", "mkdir", "rename", "chmod", "unlink"}
    assert failed.total() > 50
