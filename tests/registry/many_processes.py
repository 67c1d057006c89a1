"""Many processes at work on one registry at once, some of them killed; what they confirmed is held against it.

Every worker issues a key set, stamps one tiny model and audits it, round after round, through the services, and writes
a line to its pipe after each. A killed worker is replaced by one that goes on behind the last line. The benchmark
``benchmarks/registry_concurrency.py`` does the same with more rounds.
"""

import os
import random
import select
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.ports import BackendDescription, Completion
from fpvec_audit.domain.records import JobState
from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import UnknownNameError
from fpvec_audit.registry.master_key import KeyFile
from fpvec_audit.registry.unit_of_work import Registry, open_registry
from fpvec_audit.services.audit import audit
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.jobs import list_jobs
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.models import register_model
from fpvec_audit.services.stamp import stamp_models
from tests.tiny import make_tiny, perturb

KINDS = ("issue", "stamp", "audit")
PATIENCE = 300
"""Seconds without any progress after which there is a deadlock."""
_SMALL = KeySetSpecification(issued=4, decoys=12)


@dataclass(frozen=True)
class Work:
    """What all workers share.

    Attributes:
        url: the registry.
        place: directory of models and copies.
        vector: id of the vector that every copy gets.
    """

    url: str
    place: Path
    vector: str

    def opened(self) -> Registry:
        """Open the registry, as every worker does by itself."""
        return open_registry(self.url, master_key=KeyFile(self.place / "vault.key"), actor="worker")


@dataclass
class Done:
    """What came of it.

    Attributes:
        confirmed: (worker, round, kind) → id.
        kills: how many workers were killed.
        seconds: how long it took.
    """

    confirmed: dict[tuple[int, int, str], str] = field(default_factory=dict)
    kills: int = 0
    seconds: float = 0.0


class Silent:
    """An engine whose only model says nothing, so that an audit costs what the registry costs."""

    fallback = ""
    description = BackendDescription("transformers", "silent", "silent", "1", deterministic=True)

    def warm_up(self) -> None:
        """Nothing to prepare."""

    def open(self, model):
        return self

    def complete(self, prompts, sampling):
        return [Completion("") for _ in prompts]

    def close(self) -> None:
        """Nothing to close."""


def prepared(url: str, place: Path) -> Work:
    """Make the tiny model, its fingerprint vector and the downstream model, and record them."""
    catalog, work = load_catalog(), Work(url, place, "")
    with work.opened() as registry:
        base = make_tiny(place / "base", "gpt2")
        fingerprinted = perturb(base, place / "fingerprinted", exact=True)
        tools = {"registry": registry, "catalog": catalog}
        vector = extract_vector(base, fingerprinted, out=place / "vector", **tools).vector_id
        register_model(perturb(base, place / "chat", seed=2), parent="base", **tools)
    return Work(url, place, vector)


def work_through(work: Work, number: int, rounds: int, skip: int, confirm: Callable[[str], None]) -> None:
    """Do all rounds of one worker but the operations that were confirmed before."""
    catalog, copy = load_catalog(), work.place / f"copy-{number}"
    operations = [(turn, kind) for turn in range(rounds) for kind in KINDS][skip:]
    with work.opened() as registry:
        for turn, kind in operations:
            name = f"key-{number}-{turn}"
            if kind == "issue":
                identifier = _issued(name, registry)
            elif kind == "stamp":
                if copy.exists() and not _copy_is_of(copy, name, registry):
                    shutil.rmtree(copy)
                (stamped,) = stamp_models(
                    [work.place / "chat"],
                    vectors=[work.vector],
                    out=copy,
                    licensees=[name],
                    registry=registry,
                    catalog=catalog,
                )
                identifier = stamped.stamp_id
            else:
                settings = checked_settings()
                found = audit(
                    copy, key_set=name, registry=registry, catalog=catalog, settings=settings, backend=Silent()
                )
                identifier = found.audit_id
            confirm(f"{turn} {kind} {identifier}")


def _issued(name: str, registry: Registry) -> str:
    with suppress(UnknownNameError), registry.snapshot() as uow:
        return uow.key_sets.get(name).id  # recorded just before the one that was killed could say so
    return issue_key_set(name, registry=registry, specification=_SMALL).record.id


def _copy_is_of(copy: Path, name: str, registry: Registry) -> bool:
    with suppress(UnknownNameError), registry.snapshot() as uow:
        return bool(uow.stamps.select(Selection({"licensee": name}, limit=1)))
    return False  # nothing was ever issued to a licensee of that name


def work_together(work: Work, *, processes: int, rounds: int, kills: int, seed: int = 0) -> Done:
    """Let processes work side by side, and kill some at random moments.

    Raises:
        AssertionError: a worker failed, or nothing went on for a long time.
    """
    started, done, chance = time.monotonic(), Done(), random.Random(seed)
    total = processes * rounds * len(KINDS)
    moments = set(chance.sample(range(processes, total - processes), kills))
    workers = {number: _Worker(work, number, rounds, 0) for number in range(processes)}
    try:
        while workers:
            before = len(done.confirmed)
            for number in _ready(workers):
                if workers[number].read(done):
                    workers.pop(number).end()
            for _ in moments.intersection(range(before, len(done.confirmed))):
                number = chance.choice(sorted(workers))
                replacement = workers.pop(number).killed(done)
                done.kills += 1
                if replacement is not None:
                    workers[number] = replacement
    finally:
        for worker in workers.values():
            worker.kill()
    done.seconds = time.monotonic() - started
    return done


def _ready(workers: dict[int, "_Worker"]) -> list[int]:
    """Wait until workers say something, and return which."""
    pipes = {worker.pipe: number for number, worker in workers.items()}
    ready, _, _ = select.select(list(pipes), [], [], PATIENCE)
    assert ready, f"nothing went on for {PATIENCE} seconds"
    return [pipes[pipe] for pipe in ready]


class _Worker:
    """A process of its own, forked from one that has imported everything."""

    def __init__(self, work: Work, number: int, rounds: int, skip: int) -> None:
        self.work, self.number, self.rounds = work, number, rounds
        self.pipe, writing = os.pipe()
        self.process = os.fork()
        if not self.process:
            os.close(self.pipe)
            _become(work, number, rounds, skip, writing)
        os.close(writing)
        self._rest = b""

    def read(self, done: Done) -> bool:
        """Take what it confirmed, and return whether it has ended."""
        content = os.read(self.pipe, 1 << 16)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            turn, kind, *rest = line.decode().split(" ", 2)
            assert turn != "failed", f"worker {self.number}: {rest}"
            place = (self.number, int(turn), kind)
            assert place not in done.confirmed, f"{place} twice"
            done.confirmed[place] = rest[0]
        return not content

    def killed(self, done: Done) -> "_Worker | None":
        """Kill it, and return one that goes on where it was; None where nothing is left to do."""
        self.kill()
        while not self.read(done):
            pass
        os.close(self.pipe)
        skip = sum(number == self.number for number, _, _ in done.confirmed)
        if skip == self.rounds * len(KINDS):
            return None
        return _Worker(self.work, self.number, self.rounds, skip)

    def kill(self) -> None:
        """Kill it."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)

    def end(self) -> None:
        """Wait for a process that has closed its pipe."""
        os.close(self.pipe)
        _, status = os.waitpid(self.process, 0)
        assert os.waitstatus_to_exitcode(status) == 0, f"worker {self.number} failed"


def _become(work: Work, number: int, rounds: int, skip: int, writing: int) -> None:
    code = 1
    try:
        work_through(work, number, rounds, skip, lambda line: os.write(writing, f"{line}\n".encode()) and None)
        code = 0
    except BaseException:  # noqa: BLE001 - the other process tells
        os.write(writing, f"failed - {traceback.format_exc()[-3000:]!r}\n".encode())
    finally:
        os._exit(code)


def hold_against(registry: Registry, done: Done, *, processes: int, rounds: int) -> None:
    """Check that everything confirmed is in the registry, once, and nothing else but what the killed had begun.

    Raises:
        AssertionError: something is lost, there twice, or stuck.
    """
    by_kind = {kind: [value for (_, _, of), value in done.confirmed.items() if of == kind] for kind in KINDS}
    assert {kind: len(values) for kind, values in by_kind.items()} == dict.fromkeys(KINDS, processes * rounds)
    with registry.snapshot() as uow:
        assert uow.ledger.verify() is None
        events = Counter((entry.event, entry.subject) for entry in uow.ledger.entries())
        key_sets, stamps, audits = uow.key_sets.list(), uow.stamps.list(), uow.audits.list()
    assert sorted(record.id for record in key_sets) == sorted(by_kind["issue"])
    assert sorted(record.id for record in stamps) == sorted(by_kind["stamp"])
    for event, identifiers in (
        ("key_set.issued", by_kind["issue"]),
        ("stamp.made", by_kind["stamp"]),
        ("audit.planned", by_kind["audit"]),
        ("audit.finished", by_kind["audit"]),
    ):
        assert {events[event, identifier] for identifier in identifiers} == {1}, event
    finished = {record.id for record in audits if record.ended_at is not None}
    assert len(set(by_kind["audit"])) == processes * rounds
    assert set(by_kind["audit"]) <= finished
    assert len(audits) - processes * rounds <= done.kills, "an audit more than those that the killed had begun"
    for event, recorded in (("key_set.issued", key_sets), ("stamp.made", stamps), ("audit.planned", audits)):
        assert sum(count for (name, _), count in events.items() if name == event) == len(recorded), event
    states = Counter(job.state for job in list_jobs(registry=registry))
    assert states[JobState.RUNNING] == 0, "a job is stuck"
    assert states[JobState.FAILED] == 0
    assert states[JobState.INTERRUPTED] <= done.kills
