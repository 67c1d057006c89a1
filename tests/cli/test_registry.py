"""``fpvec registry log|verify|anchor|accept-clock`` as a shell sees them."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from fpvec_audit.cli.main import run
from fpvec_audit.registry.unit_of_work import utc_now
from tests.registry.builders import fill, opened
from tests.registry.tampering import tamper


@pytest.fixture
def registry(home):
    with opened(home / "registry.db", clock=utc_now) as registry:
        fill(registry)
        yield registry


@pytest.fixture
def fpvec(home, registry, capsys):
    def call(*words, code=0):
        assert run([*words, "--home", str(home), "--json"]) == code
        return json.loads(capsys.readouterr().out or "null")

    return call


def test_verify_counts_what_it_compared(fpvec):
    shown = fpvec("registry", "verify")
    assert (shown["valid"], shown["problems"], shown["first_fault"]) == (True, [], None)
    assert shown["rows"]["stamp"] == 2


def test_verify_tells_what_does_not_fit_and_exits_4(fpvec, registry):
    tamper(registry, "DELETE FROM stamp WHERE id LIKE 'st-e%'")
    shown = fpvec("registry", "verify", code=4)
    assert any("stamp st-eeeeeeeeeeeeeeee is in the ledger" in problem for problem in shown["problems"])


def test_anchor_is_written_verified_and_missed_when_the_tail_is_cut(fpvec, registry, home, tmp_path):
    anchor = tmp_path / "a.json"
    made = fpvec("registry", "anchor", "--out", str(anchor), "--request", str(tmp_path / "r.json"))
    words = ("registry", "verify", "--anchor", str(anchor), "--signer", str(home / "signing.pub"))
    assert fpvec(*words)["anchors"][0]["digest"] == made["digest"]
    tamper(registry, f"DELETE FROM ledger WHERE serial = {made['serial']}", "DELETE FROM attack_run")
    assert "the ledger ends with entry" in "".join(fpvec(*words, code=4)["problems"])


def test_bad_anchor_is_told_without_a_traceback(home, registry, tmp_path, capsys):
    (tmp_path / "bad.json").write_text("no anchor")
    assert run(["registry", "verify", "--anchor", str(tmp_path / "bad.json"), "--home", str(home)]) == 4
    told = capsys.readouterr().err
    assert "bad.json" in told
    assert "Traceback" not in told


def test_log_shows_what_is_asked_for(fpvec):
    events = [entry["event"] for entry in fpvec("registry", "log", "--event", "audit", "--event", "attack.run")]
    assert events == ["audit.planned", "audit.begun", "audit.finished", "audit.planned", "attack.run"]
    assert [entry["event"] for entry in fpvec("registry", "log", "--subject", "st-e")] == [
        "stamp.made",
        "stamp.repeated",
    ]
    assert fpvec("registry", "log", "--since", "2999-01-01") == []
    fpvec("registry", "log", "--since", "yesterday", code=2)


def test_clock_is_accepted_once_an_entry_of_the_future_stands_in_the_way(fpvec, home):
    ahead = opened(home / "registry.db", clock=lambda: utc_now() + timedelta(days=1))
    with ahead, ahead.unit_of_work() as uow:
        uow.ledger.append("thing.done", "thing", {})
    assert fpvec("registry", "accept-clock")["accepted"]
    assert not fpvec("registry", "accept-clock")["accepted"]
    assert fpvec("registry", "verify")["valid"]


def test_log_follows_what_another_process_writes_until_it_is_interrupted(home, registry):
    command = [sys.executable, "-m", "fpvec_audit.cli.main", "registry", "log", "--follow", "--json", "--limit", "1"]
    with subprocess.Popen(
        [*command, "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        with registry.unit_of_work() as uow:
            written = uow.ledger.append("thing.done", "thing", {})
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert (second["serial"], second["digest"]) == (first["serial"] + 1, written.digest)
