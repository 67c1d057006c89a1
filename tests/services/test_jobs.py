"""Jobs that are alive, die, and are asked to end: real processes, on both databases."""

import logging
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from fpvec_audit.domain.records import JobRecord, JobState
from fpvec_audit.errors import OperationError, RegistryError, UsageError
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services import heartbeat, jobs
from fpvec_audit.services.jobs import cancel_job, list_jobs, recorded_job, resumption, show_job
from tests.registry.conftest import file, url  # noqa: F401 - fixtures

WORK = """
import signal, sys, threading
from pathlib import Path
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services import heartbeat
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.tensors.staging import staged_directory

url, out, deaf = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "deaf"
signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.default_int_handler)
with open_registry(url) as registry:
    try:
        with recorded_job(registry, "stamp", {}), staged_directory(out, 0) as staging:
            (staging / "half").write_text("half")
            print("working", flush=True)
            while True:
                threading.Event().wait(0.2 if deaf else 600)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def registry(url):  # noqa: F811
    with open_registry(url) as registry:
        yield registry


@pytest.fixture
def work(url, tmp_path):  # noqa: F811
    """Start a process that works in a staging directory until it is told to end."""
    begun = []

    def started(manner="hearing"):
        command = [sys.executable, "-c", WORK, url, str(tmp_path / "out" / "made"), manner]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout.readline() == "working\n"
        return process

    yield started
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def test_job_whose_process_was_killed_is_interrupted_for_whoever_looks(registry, work):
    process = work()
    (job,) = list_jobs(registry=registry)
    assert (job.state, job.process) == (JobState.RUNNING, process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert show_job(job.id, registry=registry).state is JobState.INTERRUPTED


@pytest.mark.parametrize("manner", ["hearing", "deaf"])
def test_job_is_ended_from_another_process_and_leaves_nothing(registry, work, tmp_path, manner):
    """Also where Ctrl-C is ignored, as in what a shell without job control starts in the background."""
    process = work(manner)
    (job,) = list_jobs(registry=registry)
    ended = cancel_job(job.id, registry=registry, patience=60)
    assert ended.state is JobState.CANCELLED
    assert ended.heartbeat_at > job.heartbeat_at
    assert process.wait() == 130
    assert list(tmp_path.glob("out/**/*")) == []


@pytest.fixture
def quick(monkeypatch):
    """Beat all the time."""
    monkeypatch.setattr(jobs, "Heartbeat", lambda registry, job: heartbeat.Heartbeat(registry, job, every=0.01))


def test_job_that_does_not_hear_in_time_is_told_so_and_ends_later(registry, quick):
    def work():
        with recorded_job(registry, "stamp", {}) as job:
            seconds = iter(range(9))
            with pytest.raises(OperationError, match="has not done so within 0 s"):
                cancel_job(job.id, registry=registry, patience=0, sleep=lambda _: None, timer=seconds.__next__)
            threading.Event().wait(60)

    with pytest.raises(KeyboardInterrupt):
        work()
    (job,) = list_jobs(registry=registry)
    assert job.state is JobState.CANCELLED
    with pytest.raises(UsageError, match="was cancelled"):
        cancel_job(job.id, registry=registry, patience=0)


def test_work_goes_on_though_its_heart_cannot_be_heard(registry, quick, monkeypatch, caplog):
    beaten = threading.Event()

    def failing(*_):
        if len(caplog.records):
            beaten.set()
        raise RegistryError("the registry is away")

    monkeypatch.setattr("fpvec_audit.registry.repositories.jobs.JobRepository.beat", failing)
    with caplog.at_level(logging.WARNING), recorded_job(registry, "stamp", {}) as job:
        assert beaten.wait(60)
    assert show_job(job.id, registry=registry).state is JobState.SUCCEEDED
    assert sum("cannot say that it is alive" in record.message for record in caplog.records) == 1


def test_short_work_has_no_heartbeat_at_all(registry):
    with recorded_job(registry, "stamp", {}) as job:
        pass
    assert show_job(job.id, registry=registry).heartbeat_at == job.heartbeat_at


def interrupted(registry, tmp_path, command) -> JobRecord:
    with registry.unit_of_work() as uow:
        job = uow.jobs.start(command[0] if command else "stamp", {}, command=command, directory=str(tmp_path))
        uow.jobs.finish(job.id, JobState.CANCELLED, {})
    return replace(job, state=JobState.CANCELLED)


def test_command_of_a_job_is_resumed_where_it_was_given(registry, tmp_path):
    job = interrupted(registry, tmp_path, ["stamp", "./chat", "--out", "o"])
    found = resumption(job.id, registry=registry)
    assert (found.arguments, found.directory) == (("stamp", "./chat", "--out", "o", "--resume"), tmp_path)
    again = interrupted(registry, tmp_path, ["stamp", "./chat", "--resume"])
    assert resumption(again.id, registry=registry).arguments == again.command


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["trace", "./chat"], "begun by `fpvec trace`, which cannot go on"),
        ([], "begun by no command"),
        (["audit", "https://ann:***@host/v1"], "held a secret, which is not recorded"),
    ],
)
def test_job_that_no_recorded_command_can_go_on_with_is_refused(registry, tmp_path, command, told):
    job = interrupted(registry, tmp_path, command)
    with pytest.raises(UsageError, match=told):
        resumption(job.id, registry=registry)


def test_job_that_runs_or_was_begun_in_a_directory_that_is_away_is_not_resumed(registry, tmp_path):
    with recorded_job(registry, "stamp", {}) as job, pytest.raises(UsageError, match="is running"):
        resumption(job.id, registry=registry)
    with pytest.raises(UsageError, match="has succeeded"):
        resumption(job.id, registry=registry)
    away = interrupted(registry, tmp_path / "away", ["stamp", "./chat"])
    with pytest.raises(UsageError, match="is not here"):
        resumption(away.id, registry=registry)
