import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fpvec_audit.errors import OutputError, TrainingError
from fpvec_audit.progress import NO_PROGRESS
from fpvec_audit.reproduction import run as running
from fpvec_audit.reproduction.run import Run, collect, run_bases
from fpvec_audit.reproduction.stage_store import StageResult, StageState, StageStore
from fpvec_audit.reproduction.stages import Stage

SHOP = SimpleNamespace(progress=NO_PROGRESS, registry=SimpleNamespace(redaction=SimpleNamespace(text=str)))
LINE = (("base", {}), ("vector", {"model": "base"}), ("stamp", {"vector": "vector"}), ("other", {"model": "base"}))
"""A line of stages, and one beside it."""


def stages(**settings):
    return tuple(
        Stage(
            name=f"one/{name}",
            kind=name,
            settings=settings.get(name, {}),
            needs={role: f"one/{need}" for role, need in needs.items()},
        )
        for name, needs in LINE
    )


@pytest.fixture
def done(monkeypatch):
    """Let stages do next to nothing: what they make is named by their settings."""
    seen = []

    def work(kind):
        def make(_shop, settings, place, _needed):
            seen.append(kind)
            if settings.get("fails"):
                raise TrainingError("no loss")
            place.mkdir(parents=True, exist_ok=True)
            return f"{kind} {settings.get('made', '')}", {"path": str(place)}

        return make

    monkeypatch.setattr(running, "WORK", {name: work(name) for name, _ in LINE})
    return seen


@pytest.fixture
def store(tmp_path):
    return StageStore(tmp_path / "out")


def carried_out(store, asked, **options):
    return {result.name.removeprefix("one/"): result for result in Run(store, SHOP).carry_out(asked, **options)}


def test_what_was_done_is_not_done_again(done, store):
    carried_out(store, stages())
    assert done == ["base", "vector", "stamp", "other"]
    results = carried_out(store, stages())
    assert len(done) == 4
    assert all(result.reused and result.done for result in results.values())


def test_a_changed_setting_repeats_what_depends_on_it_and_nothing_else(done, store):
    carried_out(store, stages())
    done.clear()
    carried_out(store, stages(vector={"made": "otherwise"}))
    assert done == ["vector", "stamp"]


def test_a_repeated_stage_that_makes_the_same_repeats_nothing_after_it(done, store):
    asked = stages()
    carried_out(store, asked)
    done.clear()
    carried_out(store, asked, again=[asked[1]])
    assert done == ["vector"]


def test_a_model_that_was_removed_is_made_again(done, store):
    results = carried_out(store, stages())
    Path(results["vector"].content["path"]).rmdir()
    done.clear()
    carried_out(store, stages())
    assert done == ["vector"]


def test_a_failure_skips_what_needs_it_and_is_tried_again(done, store):
    results = carried_out(store, stages(vector={"fails": True}))
    assert [result.state for result in results.values()] == ["done", "failed", "skipped", "done"]
    assert results["vector"].problem == "no loss"
    assert results["stamp"].problem == "needs one/vector, which is failed"
    done.clear()
    carried_out(store, stages(vector={"fails": True}))
    assert done == ["vector"]


def test_a_machine_that_is_too_small_fails_a_stage_and_a_bug_ends_the_run(monkeypatch, store):
    class OutOfMemoryError(RuntimeError):
        pass

    for error in (OutOfMemoryError("80 GiB"), OSError("no disk"), MemoryError()):

        def fail(*_arguments, error=error):
            raise error

        monkeypatch.setattr(running, "WORK", dict.fromkeys(running.WORK, fail))
        (result,) = Run(store, SHOP).carry_out([Stage(name="one/base", kind="base")])
        assert result.state is StageState.FAILED
        assert result.problem

    def break_down(*_arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(running, "WORK", dict.fromkeys(running.WORK, break_down))
    with pytest.raises(RuntimeError, match="a bug"):
        Run(store, SHOP).carry_out([Stage(name="one/base", kind="base")])


def test_what_is_there_is_told_without_doing_anything(done, store):
    carried_out(store, stages()[:2])
    done.clear()
    states = [result.state for result in collect(stages(), store)]
    assert states == ["done", "done", "missing", "missing"]
    states = [result.state for result in collect(stages(vector={"made": "x"}), store)]
    assert states == ["done", "missing", "skipped", "missing"]
    assert not done


def test_files_decide_by_their_contents(done, store, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("one")
    asked = [Stage(name="one/base", kind="base", files=(rows,))]
    for text in ("one", "one", "two"):
        rows.write_text(text)
        Run(store, SHOP).carry_out(asked)
    assert done == ["base", "base"]


def test_a_result_that_cannot_be_read_counts_as_none(store):
    result = StageResult("one/base", "k", StageState.DONE, "id", {"a": 1})
    store.keep(result)
    found = store.find("one/base")
    assert (found.identity, found.content, found.reused) == ("id", {"a": 1}, True)
    file = store.directory / "stages" / "one" / "base.json"
    for text in ("{", "[]", json.dumps({"schema": 99})):
        file.write_text(text)
        assert store.find("one/base") is None


def test_two_processes_do_not_work_on_one_base(done, store):
    with store.alone("one"), pytest.raises(OutputError, match="another process works on one"):
        run_bases(stages(), store=store, shop=SHOP)
    assert not done
    assert len(run_bases(stages(), store=store, shop=SHOP)) == 4


KILLED = """\
import os, signal, sys
from pathlib import Path
from tests.reproduction import test_run as here
from fpvec_audit.reproduction import run as running

def work(kind):
    def make(_shop, _settings, place, _needed):
        place.mkdir(parents=True)
        if kind == "stamp":
            (place / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        return kind, {"path": str(place)}
    return make

running.WORK = {name: work(name) for name, _ in here.LINE}
running.Run(here.StageStore(Path(sys.argv[1])), here.SHOP).carry_out(here.stages())
"""


def test_a_killed_run_goes_on_where_it_stopped(monkeypatch, store):
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / "plugins")])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(store.directory)], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    seen = []

    def make(_shop, _settings, place, _needed):
        seen.append(place)
        return place.name, {}

    monkeypatch.setattr(running, "WORK", {name: make for name, _ in LINE})
    results = carried_out(store, stages())
    assert [result.reused for result in results.values()] == [True, True, False, False]
    assert all(result.done for result in results.values())
    assert (seen[0] / "half").read_text() == "half"  # the stage itself clears its place
