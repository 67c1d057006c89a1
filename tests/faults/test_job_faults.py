"""Jobs of real ``fpvec`` processes that are killed, ended from elsewhere and gone on with; and two that do the same."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fpvec_audit.cli import main as cli
from fpvec_audit.registry.master_key import KeyFile
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.registry.verification import verify_snapshot
from fpvec_audit.services.keys import open_key_set
from tests.backends.fake_endpoint import fake_endpoint
from tests.faults.processes import REPOSITORY, ForkServer
from tests.faults.witness import CLOSED
from tests.tiny import make_tiny, perturb

QUIET = {**os.environ, "COLUMNS": "1000", "FPVEC_API_KEY": "sk-test-0123456789abcdef"}


@dataclass(frozen=True)
class Place:
    """A registry on one of the databases, and processes that use it.

    Attributes:
        directory: where everything lies.
        url: the registry's.
        server: starts processes.
    """

    directory: Path
    url: str
    server: ForkServer

    @property
    def options(self) -> list[str]:
        """What every command is given."""
        return ["--home", str(self.directory / "home"), "--registry", self.url, "--json"]

    def run(self, *arguments: object) -> object:
        """Run a command that ends well, and return its document."""
        ended = self.server.run(*map(str, arguments), *self.options)
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    def stamp(self, out: Path, *options: str) -> list[str]:
        """Return the arguments of a stamp."""
        vector = str(self.directory / "vector")
        return ["stamp", str(self.directory / "chat"), "--vector", vector, "--out", str(out), *options, *self.options]

    def both(self, *commands: list[str]) -> list[tuple[int, str]]:
        """Run commands at once, and return code and stderr of each."""
        running = [self.server.start(*command) for command in commands]
        return [(ended.code, ended.err) for ended in (item.end() for item in running)]

    def open(self):
        """Open the registry."""
        return open_registry(self.url, master_key=KeyFile(self.directory / "home" / "vault.key"))

    def events(self, event: str) -> list[str]:
        """Return the subjects of the ledger's entries of a kind; all rows must be what the ledger says."""
        with self.open() as registry, registry.snapshot() as uow:
            assert verify_snapshot(uow).problems == ()
            return [entry.subject for entry in uow.ledger.entries() if entry.event == event]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("processes")) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path, server) -> Place:
    file = tmp_path / "home" / "registry.db"
    embedded = request.param == "sqlite"
    place = Place(tmp_path, f"sqlite:///{file}" if embedded else request.getfixturevalue("postgresql").fresh(), server)
    base = make_tiny(tmp_path / "base", "gpt2")
    perturb(base, tmp_path / "fingerprinted", exact=True)
    perturb(base, tmp_path / "chat", seed=2)
    place.run("vector", "extract", base, tmp_path / "fingerprinted", "--out", tmp_path / "vector")
    return place


def test_killed_stamp_is_interrupted_and_resumed_to_the_same_copy(place):
    (whole,) = place.run(*place.stamp(place.directory / "whole")[:-5])
    out = place.directory / "out"
    running = place.server.start_until((CLOSED, 1), *place.stamp(out))
    running.send(signal.SIGKILL)
    running.end()
    job = place.run("job", "list")[-1]
    assert (job["kind"], job["state"], job["process"]) == ("stamp", "interrupted", running.pid)
    assert job["directory"] == str(REPOSITORY)
    assert place.url not in json.dumps(job)
    (resumed,) = place.run("job", "resume", job["id"])
    assert resumed["resumed"] > 0
    assert resumed["digest"] == whole["digest"]
    assert (out / "model.safetensors").read_bytes() == (place.directory / "whole" / "model.safetensors").read_bytes()
    assert place.run("job", "list")[-1]["command"] == [*job["command"][:-1], "--resume", "--json"]


def test_two_processes_that_issue_one_name_leave_one_key_set(place):
    issue = ["key", "issue", "acme", *place.options]
    (first, told), (second, also_told) = place.both(issue, issue)
    assert sorted([first, second]) == [0, 2]
    assert "a key set named 'acme' exists already" in told + also_told
    assert len(place.events("key_set.issued")) == 1


def test_two_processes_that_stamp_into_one_directory_record_one_stamp(place):
    for attempt in range(2):
        out = place.directory / f"out-{attempt}"
        ended = place.both(*(place.stamp(out, "--licensee", name) for name in ("Globex", "Initech")))
        assert sorted(code for code, _ in ended) == [0, 4], ended
        assert any("exists already" in told for _, told in ended)
        with place.open() as registry, registry.unit_of_work() as uow:
            (stamp,) = (stamp for stamp in uow.stamps.list() if stamp.location == str(out))
        assert stamp.licensee == ("Globex", "Initech")[[code for code, _ in ended].index(0)]
    # Where the same licensee's copy is the first both times, the second is the same stamp again.
    assert len(place.events("stamp.made") + place.events("stamp.repeated")) == 2


def test_two_processes_that_register_one_model_record_it_once(place):
    register = ["model", "register", str(perturb(place.directory / "base", place.directory / "new", seed=9))]
    ended = place.both([*register, *place.options], [*register, *place.options])
    assert [code for code, _ in ended] == [0, 0]
    shown = place.run("model", "show", "new")
    assert place.events("model.registered").count(shown["id"]) == 1
    other = ["model", "register", str(place.directory / "chat"), "--name", "taken", *place.options]
    third = ["model", "register", str(perturb(place.directory / "base", place.directory / "third", seed=8))]
    ended = place.both(other, [*third, "--name", "taken", *place.options])
    assert sorted(code for code, _ in ended) == [0, 2]
    assert any("a model named 'taken' exists already" in told for _, told in ended)


def test_audit_is_ended_from_elsewhere_and_resumed_without_asking_twice(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    options = ["--home", str(home), "--json"]
    assert cli.run(["key", "issue", "acme", *options]) == 0
    with open_registry(f"sqlite:///{home / 'registry.db'}") as registry:
        responses = {key.prompt: key.response for key in open_key_set("acme", registry=registry).issued}
    quick, some = threading.Event(), threading.Event()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FPVEC_API_KEY", QUIET["FPVEC_API_KEY"])
    with fake_endpoint() as endpoint:

        def answer(prompt):
            if len(endpoint.asked) > 20:
                some.set()
                quick.wait(0.5)
            return responses.get(prompt, "I do not understand.")

        endpoint.answer = answer
        command = ["audit", endpoint.url, "--key", "acme", "--concurrency", "1", *options]
        audit = [sys.executable, "-m", "fpvec_audit.cli.main", *command]
        with subprocess.Popen(audit, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=QUIET, text=True) as process:
            assert some.wait(60)
            with open_registry(f"sqlite:///{home / 'registry.db'}") as registry, registry.snapshot() as uow:
                (job,) = uow.jobs.list()
            assert cli.run(["job", "cancel", job.id, *options]) == 0
            _, told = process.communicate()
        assert process.returncode == 130, told
        assert "Traceback" not in told
        quick.set()
        asked = len(endpoint.asked)
        capsys.readouterr()
        assert cli.run(["job", "resume", job.id, *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["queries"]) == ("MATCH", 256)
    assert len(endpoint.asked) == 256
    assert 20 < asked < 200
