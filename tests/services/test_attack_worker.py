"""Attacks on weights in real child processes: whatever a plugin does, its own cell says so."""

import sys
from pathlib import Path

import pytest

from fpvec_audit.domain.attack_spec import AttackLink, restored
from fpvec_audit.errors import PluginError
from fpvec_audit.services.attack_worker import AttackOrder, AttackWorker
from fpvec_audit.testing import RecordingProgress
from tests.services import hostile
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    place = hostile.install(tmp_path_factory.mktemp("hostile"))
    sys.path.append(str(place))
    try:
        import hostile_attack

        yield hostile_attack.Parameters
    finally:
        sys.path.remove(str(place))


@pytest.fixture(scope="module")
def worker(parameters):
    with AttackWorker(progress=RecordingProgress(), time_limit=60) as worker:
        yield worker


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("source") / "source", "gpt2")


def order(parameters, source, place, **settings):
    place.mkdir()
    return AttackOrder(
        link=AttackLink("hostile", parameters(**settings)), owner="hostile 1.0", source=source, place=place,
        adapter="gpt2", seed=1, device="cpu",
    )  # fmt: skip


def test_an_attack_is_carried_out_and_its_progress_is_told(parameters, worker, source, tmp_path, capfd):
    wanted = order(parameters, source, tmp_path / "place")
    worker.apply(wanted)
    assert (wanted.target / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert worker._progress.advanced == {"copying": 1.0}
    assert worker._progress.notes == ["half"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("refuse", "no data – give data=FILE"),
        ("memory", "ran out of memory: Unable to allocate 9 EiB"),
        ("leave", "asked to end the process .3."),
        ("vanish", "ended its process with code 7: native code says goodbye"),
        ("killed", "was killed by SIGKILL; the system may have run out of memory"),
        ("crash", "was killed by SIGSEGV"),
        ("nothing", "wrote no checkpoint"),
        ("broken", "holds NaN or Inf in "),
        ("missing", "hostile of hostile 1.0 failed: AttributeError"),
    ],
)
def test_what_goes_wrong_is_said_and_the_next_attack_works(parameters, worker, source, tmp_path, how, reason):
    with pytest.raises(PluginError, match=reason):
        worker.apply(order(parameters, source, tmp_path / "place", how=how))
    worker.apply(order(parameters, source, tmp_path / "next"))


def test_an_attack_that_never_comes_back_is_ended(parameters, worker, source, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_time_limit", 0.2)
    with pytest.raises(PluginError, match=r"took longer than 0.2 s and was ended – give it more with --time-limit"):
        worker.apply(order(parameters, source, tmp_path / "place", how="hang"))
    assert worker._host is None


def test_parameters_come_back_from_what_is_sent(parameters):
    given = parameters(how="copy", marker=Path("a,b=c"))
    assert restored(parameters, AttackLink("hostile", given).to_json()) == given
