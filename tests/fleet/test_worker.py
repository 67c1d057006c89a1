"""What a worker does to one model, in this process: the services' own work, once, however often it is tried."""

import shutil
from dataclasses import replace

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import OperationError, RegistryAwayError
from fpvec_audit.fleet import actions, worker
from fpvec_audit.fleet.actions import WorkerBench
from fpvec_audit.fleet.outcome import Ending, Task
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.models import register_model
from fpvec_audit.services.stamp import stamp_models
from tests.tiny import make_tiny, perturb


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture(autouse=True)
def bench(settings, registry, monkeypatch):
    own = WorkerBench(settings)
    own.registry = registry
    monkeypatch.setattr(worker, "_own_bench", lambda: own)
    return own


@pytest.fixture
def stamped(tmp_path, registry, catalog):
    """Task of a stamp that can be made."""
    tools = {"registry": registry, "catalog": catalog}
    base = make_tiny(tmp_path / "base", "gpt2")
    fingerprinted = perturb(base, tmp_path / "fp", exact=True)
    vector = extract_vector(base, fingerprinted, out=tmp_path / "vector", **tools).vector_id
    downstream = perturb(base, tmp_path / "chat", seed=2)
    register_model(downstream, parent="base", **tools)
    said = {"downstream": str(downstream), "out": str(tmp_path / "out"), "vector": [vector], "licensee": "Globex"}
    return Task("fr-1", 1, "stamp", said, 1)


@pytest.mark.parametrize(("action", "service"), [("audit", "audit_once.audit_once"), ("trace", "trace.trace")])
def test_engine_runs_where_the_driver_says_unless_the_item_does(monkeypatch, action, service):
    asked = []

    def serve(*_, device, tensor_parallel, **__):
        asked.append((device, tensor_parallel))
        raise OperationError("seen")

    monkeypatch.setattr(f"fpvec_audit.services.{service}", serve)
    task = Task("fr-1", 1, action, {"suspect": "/models/m", "key": "acme"}, 1, device="cuda:1", tensor_parallel=4)
    for content in (task.content, task.content | {"device": "cuda"}):
        assert worker.work(replace(task, content=content)).error.startswith("seen")
    worker.work(replace(task, device=None, tensor_parallel=None))
    assert asked == [("cuda:1", 4), ("cuda", 4), ("cpu", None)]  # the last is what this machine's settings say


def test_stamp_is_what_the_single_command_makes_and_is_recognised(tmp_path, registry, catalog, stamped):
    first, second = worker.work(stamped), worker.work(stamped)
    assert (first.ending, first.outcome) == (Ending.DONE, "made"), first.error
    assert (second.outcome, second.result) == ("already", first.result)
    shutil.move(tmp_path / "out", tmp_path / "fleet")
    said = stamped.content
    stamp_models(
        [tmp_path / "chat"], vectors=said["vector"], out=tmp_path / "out", licensees=["Globex"], registry=registry,
        catalog=catalog,
    )  # fmt: skip
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "fleet" / file.name).read_bytes(), file.name
    with registry.snapshot() as uow:
        assert len(uow.stamps.list()) == 1


def test_stamp_of_what_lies_elsewhere_is_recorded_where_it_lies_and_leaves_scratch_as_it_was(
    tmp_path, registry, stamped, bench
):
    places = {name: f"file://{stamped.content[name]}" for name in ("downstream", "out")}
    said = stamped.content | places | {"vector": [f"file://{tmp_path / 'vector'}:0.5"]}
    first = worker.work(Task("fr-1", 1, "stamp", said, 1))
    assert (first.ending, first.outcome) == (Ending.DONE, "made"), first.error
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in (tmp_path / "chat").iterdir()}
    with registry.snapshot() as uow:
        (stamp,) = uow.stamps.list()
        assert (stamp.location, stamp.vectors[0][1]) == (said["out"], 0.5)
        assert uow.models.find(stamp.stamped).location == said["out"]
        assert uow.models.find(stamp.downstream).location == said["downstream"]
    left = {entry.name for entry in bench.settings.scratch_directory.glob("*/*") if entry.is_dir()}
    assert left == {"vector"}  # it is kept for the next item
    again = worker.work(Task("fr-1", 1, "stamp", said, 2))
    assert (again.ending, again.result) == (Ending.DONE, first.result), again.error
    with registry.snapshot() as uow:
        assert len(uow.stamps.list()) == 1


def test_place_that_holds_something_else_is_not_written_over(tmp_path, stamped):
    shutil.copytree(tmp_path / "base", tmp_path / "out")
    outcome = worker.work(Task("fr-1", 1, "stamp", {**stamped.content, "out": f"file://{tmp_path / 'out'}"}, 1))
    assert outcome.ending is Ending.FAILED
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "base/model.safetensors").read_bytes()


def test_scratch_without_room_is_told_in_bytes_and_nothing_is_left(stamped, bench):
    bench.settings = replace(bench.settings, scratch_size="1 kB")
    said = stamped.content | {"downstream": f"file://{stamped.content['downstream']}"}
    outcome = worker.work(Task("fr-1", 1, "stamp", said, 1))
    assert outcome.ending is Ending.FAILED
    assert "bytes" in outcome.error
    assert not list(bench.settings.scratch_directory.glob("*/*"))


@pytest.mark.parametrize(
    ("change", "ending", "problem"),
    [
        ({"downstream": "/nowhere"}, Ending.FAILED, "/nowhere"),
        ({"vector": ["vec-none"]}, Ending.REFUSED, "vec-none"),
    ],
)
def test_failure_is_told_with_what_to_do(stamped, change, ending, problem):
    outcome = worker.work(Task("fr-1", 1, "stamp", {**stamped.content, **change}, 1))
    assert outcome.ending is ending
    assert problem in outcome.error
    assert outcome.node


def test_registry_that_is_away_is_no_failure(monkeypatch, stamped):
    def away(task, bench):
        raise RegistryAwayError("the registry does not answer")

    monkeypatch.setattr(worker, "carry_out", away)
    assert worker.work(stamped).ending is Ending.AWAY


def test_bug_is_told_without_prompts(monkeypatch, stamped, bench):
    bench.registry.redaction.know(["a secret prompt"])

    def broken(task, bench):
        raise ValueError("a secret prompt was odd")

    monkeypatch.setitem(actions._ACTIONS, "stamp", broken)
    outcome = worker.work(stamped)
    assert outcome.ending is Ending.FAILED
    assert "bug" in outcome.error
    assert "secret" not in outcome.error
