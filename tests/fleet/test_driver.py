"""The driver on clusters that are functions: what is tried again, what is set aside, what is recorded when."""

from dataclasses import replace

import pytest

from fpvec_audit.domain.fleet import FleetAction, ItemState, RunState
from fpvec_audit.domain.records import JobState
from fpvec_audit.errors import RegistryAwayError, RegistryError, UsageError
from fpvec_audit.fleet import driver as driving
from fpvec_audit.fleet.capacity import Machine
from fpvec_audit.fleet.driver import Driver, Manner
from fpvec_audit.fleet.outcome import Ending, Outcome
from fpvec_audit.fleet.runs import cancel_run, record_run, run_report, run_to_resume
from fpvec_audit.fleet.sizing import Sizing
from fpvec_audit.fleet.sources import Source
from fpvec_audit.fleet.watching import Watch
from tests.fleet.clusters import InProcess, Time, done

OPTIONS = {"vector": ["vec-1"], "into": "/release"}


@pytest.fixture
def run(tmp_path, registry):
    return run_of(tmp_path, registry, 5)


def run_of(tmp_path, registry, count, **options):
    manifest = tmp_path / "models.csv"
    manifest.write_text("downstream\n" + "".join(f"/models/m{number}\n" for number in range(1, count + 1)))
    recorded, _ = record_run(Source(FleetAction.STAMP, OPTIONS, manifest), registry=registry, **options)
    return recorded


def drive(run, registry, cluster, *, manner=None, told=None):
    watch = Watch(run, tell=(told if told is not None else []).append)
    time = Time()
    return Driver(run, registry, cluster, manner or Manner(), watch, timer=time, sleep=time.sleep).drive()


def items(registry, run):
    with registry.snapshot() as uow:
        return uow.fleets._items(run.id, ItemState.DONE, after=0, limit=None)


def failing(numbers, outcome):
    return lambda task: outcome if task.number in numbers else done(task)


def test_every_item_is_done_once_and_the_run_ends(run, registry):
    cluster = InProcess(done)
    ended = drive(run, registry, cluster)
    assert ended.state is RunState.ENDED
    assert [(item.number, item.attempts, item.result) for item in items(registry, run)] == [
        (number, 1, f"st-{number}") for number in range(1, 6)
    ]
    assert sorted(task.content["out"] for task in cluster.tasks) == [f"/release/m{number}" for number in range(1, 6)]
    report = run_report(run.id, registry=registry)
    assert report.whole
    assert report.to_json()["outcomes"] == {"made": 5}
    assert report.driver.state is JobState.SUCCEEDED


def test_tasks_carry_what_holds_for_the_item_and_nothing_else(run, registry):
    cluster = InProcess(done)
    drive(run, registry, cluster)
    assert cluster.tasks[0].content == {"downstream": "/models/m1", "out": "/release/m1", "vector": ["vec-1"]}


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.LOST])
def test_poison_is_tried_a_stated_number_of_times_and_set_aside_while_the_rest_goes_on(run, registry, ending):
    told = []
    cluster = InProcess(failing({2}, Outcome(ending, error="it died", node="node")))
    drive(run, registry, cluster, told=told)
    assert [task.attempt for task in cluster.tasks if task.number == 2] == [1, 2, 3]
    report = run_report(run.id, registry=registry)
    assert (report.totals.count(ItemState.DONE), report.totals.count(ItemState.SET_ASIDE)) == (4, 1)
    (failure,) = report.to_json()["failures"]
    assert (failure["line"], failure["attempts"], failure["error"]) == (3, 3, "it died")
    assert told == ["set aside: line 3, after 3 attempts: it died"]
    assert not report.whole


def test_what_cannot_be_meant_is_not_tried_again(run, registry):
    cluster = InProcess(failing({2}, Outcome(Ending.REFUSED, error="unknown vector")))
    drive(run, registry, cluster)
    assert len(cluster.tasks) == 5


def test_item_that_fails_once_is_done_at_last(run, registry):
    cluster = InProcess(lambda task: done(task) if task.attempt > 1 else Outcome(Ending.FAILED, error="once"))
    drive(run, registry, cluster)
    assert {item.attempts for item in items(registry, run)} == {2}
    assert {item.error for item in items(registry, run)} == {""}


def test_no_more_than_a_few_items_are_in_flight(tmp_path, registry):
    cluster = InProcess(done)
    drive(run_of(tmp_path, registry, 30), registry, cluster, manner=Manner(in_flight=3))
    assert (cluster.most, len(cluster.tasks)) == (3, 30)
    other = tmp_path / "other"
    other.mkdir()
    cluster = InProcess(done)
    drive(run_of(other, registry, 30), registry, cluster)
    assert cluster.most == 4  # twice the processors


def test_items_are_fetched_page_by_page(tmp_path, registry, monkeypatch):
    monkeypatch.setattr(driving, "PAGE", 4)
    cluster = InProcess(done)
    drive(run_of(tmp_path, registry, 9), registry, cluster)
    assert sorted(task.number for task in cluster.tasks) == list(range(1, 10))


def test_item_that_no_node_has_the_memory_for_is_set_aside_at_once(run, registry):
    cluster = InProcess(done, memory=10**9)
    drive(run, registry, cluster, manner=Manner(Sizing(memory=2 * 10**9)))
    assert cluster.tasks == []
    assert "the largest node has 1.0 GB" in run_report(run.id, registry=registry).failures[0].error


def audits(tmp_path, registry, sizes):
    """Return a run that audits models of so many bytes each."""
    lines = ["suspect"]
    for number, size in enumerate(sizes, start=1):
        model = tmp_path / f"m{number}"
        model.mkdir()
        with (model / "model.safetensors").open("wb") as file:
            file.truncate(size)
        lines.append(str(model))
    (tmp_path / "suspects.csv").write_text("\n".join(lines))
    return record_run(Source(FleetAction.AUDIT, {"key": "acme"}, tmp_path / "suspects.csv"), registry=registry)[0]


def test_model_that_takes_several_gpus_is_divided_and_one_that_no_node_holds_is_set_aside_at_once(tmp_path, registry):
    run = audits(tmp_path, registry, [10**9, 6 * 10**10, 10**12])
    cluster = InProcess(done, memory=10**13, machines=(Machine("a", "n1", 8, 8 * 10**10), Machine("b", "n2")))
    drive(run, registry, cluster)
    assert [(task.number, task.tensor_parallel, task.device) for task in cluster.tasks] == [
        (1, None, None),
        (2, 4, None),
    ]
    (failure,) = run_report(run.id, registry=registry).failures
    assert (failure.line, failure.attempts) == (4, 1)
    assert "fit the GPUs of no node" in failure.error
    assert "a 8 of 80.0 GB, b none" in failure.error


def test_registry_that_is_away_for_workers_costs_no_attempt(run, registry):
    away = [Outcome(Ending.AWAY, error="it does not answer")] * 7
    cluster = InProcess(lambda task: away.pop() if away else done(task))
    told = []
    drive(run, registry, cluster, told=told)
    assert {item.attempts for item in items(registry, run)} == {1}
    assert sum("away for workers" in sentence for sentence in told) == 1


class Away:
    """A registry that does not answer for a while, after the run has begun."""

    def __init__(self, registry):
        self.registry, self.away = registry, 0

    def __getattr__(self, name):
        return getattr(self.registry, name)

    def unit_of_work(self):
        return self._or_away(self.registry.unit_of_work)

    def snapshot(self):
        return self._or_away(self.registry.snapshot)

    def _or_away(self, unit):
        if self.away > 0:
            self.away -= 1
            raise RegistryAwayError("the registry does not answer")
        return unit()


def test_registry_that_is_away_for_the_driver_is_tried_again_and_nothing_is_lost(tmp_path, registry, monkeypatch):
    monkeypatch.setattr(driving, "RECORD_ITEMS", 1)
    run, gone = run_of(tmp_path, registry, 5), Away(registry)

    def carry_out(task):
        gone.away = 3 if task.number == 2 else gone.away
        return done(task)

    told = []
    drive(run, gone, InProcess(carry_out), told=told)
    assert run_report(run.id, registry=registry).whole
    assert sum("is away, and is tried again" in sentence for sentence in told) == 1


def test_driver_gives_up_on_a_registry_that_stays_away(run, registry, monkeypatch):
    monkeypatch.setattr(driving, "RECORD_ITEMS", 1)
    gone = Away(registry)

    def carry_out(task):
        gone.away = 10**9
        return done(task)

    with pytest.raises(RegistryError):
        drive(run, gone, InProcess(carry_out))


def interrupted_after_two():
    """A cluster on which Ctrl-C comes when two items are done and others are under way."""

    def interrupt():
        if len(cluster.tasks) - len(cluster.waiting) == 2 and not cluster.stopped:
            cluster.stopped = True
            raise KeyboardInterrupt

    cluster = InProcess(done, on_wait=interrupt)
    cluster.stopped = False
    return cluster


def test_ctrl_c_lets_what_is_under_way_end_and_begins_nothing(tmp_path, registry):
    run = run_of(tmp_path, registry, 9)
    with pytest.raises(KeyboardInterrupt):
        drive(run, registry, cluster := interrupted_after_two())
    handed_out = len(cluster.tasks)
    assert 2 < handed_out < 9
    totals = run_report(run.id, registry=registry).totals
    assert (totals.count(ItemState.DONE), totals.count(ItemState.QUEUED)) == (handed_out, 9 - handed_out)


def test_run_of_which_nothing_is_left_after_ctrl_c_has_ended(tmp_path, registry):
    run = run_of(tmp_path, registry, 4)
    with pytest.raises(KeyboardInterrupt):
        drive(run, registry, interrupted_after_two())
    report = run_report(run.id, registry=registry)
    assert (report.state, report.whole) == ("ended", True)


def test_run_is_cancelled_once_and_one_that_has_ended_stays_so(run, registry):
    with pytest.raises(KeyboardInterrupt):
        drive(run, registry, interrupted_after_two())
    with registry.unit_of_work() as uow:
        uow.fleets.end(run.id, RunState.STOPPED)
    assert cancel_run(run.id, registry=registry, patience=1).state == "cancelled"
    with pytest.raises(UsageError, match="was cancelled before"):
        cancel_run(run.id, registry=registry, patience=1)
    drive(run, registry, InProcess(done))
    with pytest.raises(UsageError, match="has ended"):
        cancel_run(run.id, registry=registry, patience=1)


def test_what_does_not_end_after_ctrl_c_is_interrupted_and_waits(run, registry, monkeypatch):
    monkeypatch.setattr(driving, "GRACE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        drive(run, registry, interrupted_after_two())
    report = run_report(run.id, registry=registry)
    assert (report.totals.count(ItemState.DONE), report.totals.count(ItemState.QUEUED)) == (2, 3)
    assert report.state == "stopped"
    assert report.driver.state is JobState.CANCELLED
    again = InProcess(done)
    drive(run_to_resume(run.id, registry=registry), registry, again)
    assert len(again.tasks) == 3
    assert {task.attempt for task in again.tasks} == {1}
    assert run_report(run.id, registry=registry).whole


def test_lost_driver_is_told_and_its_items_are_handed_out_again(run, registry):
    with registry.unit_of_work() as uow:
        job = uow.jobs.start("fleet", {})
        uow.fleets.drive(run.id, job=job.id)
        waiting = uow.fleets.queued(run.id, after=0, limit=9)
        uow.fleets.record(run.id, [replace(waiting[0], state=ItemState.RUNNING)])
    with pytest.raises(UsageError, match="drives run"):
        run_to_resume(run.id, registry=registry)
    with registry.unit_of_work() as uow:
        uow.jobs.finish(job.id, JobState.INTERRUPTED, {})
    assert run_report(run.id, registry=registry).state == "lost"
    cluster = InProcess(done)
    drive(run_to_resume(run.id, registry=registry), registry, cluster)
    assert len(cluster.tasks) == 5


def test_what_was_set_aside_is_tried_once_more_on_request(run, registry):
    drive(run, registry, InProcess(failing({2}, Outcome(Ending.REFUSED, error="no"))))
    with pytest.raises(UsageError, match="1 set aside"):
        run_to_resume(run.id, registry=registry)
    drive(run_to_resume(run.id, registry=registry, try_again=True), registry, InProcess(done))
    assert run_report(run.id, registry=registry).whole


def test_ledger_tells_of_the_run_and_not_of_its_items(run, registry):
    drive(run, registry, InProcess(done))
    with registry.snapshot() as uow:
        told = [entry for entry in uow.ledger.entries() if entry.event.startswith("fleet.")]
        assert uow.ledger.verify() is None
    assert [entry.event for entry in told] == ["fleet.begun", "fleet.ended"]
    assert told[0].content["items"] == 5
    assert told[1].content["items"] == {"done": 5}
