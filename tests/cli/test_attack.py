import json

import pytest

from fpvec_audit.cli.main import run
from fpvec_audit.domain.records import JobState
from fpvec_audit.domain.robustness import AttackCell, AttackOutcome, RobustnessReport
from fpvec_audit.services import robustness


@pytest.fixture
def attack(home, capsys):
    def call(*arguments):
        code = run(["attack", *map(str, arguments), "--home", str(home), "--json"])
        return code, capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--suite", "quik"], "did you mean quick?"),
        (["--attack", "prun"], "did you mean prune"),
        (["--attack", "prune:ration=1"], "did you mean ratio"),
        (["--attack", "prune:ratio=2"], "give a fraction above 0 and below 1"),
        (["--attack", "prune", "--time-limit", "0"], "a time limit of 0 s"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(attack, tmp_path, options, told):
    code, output = attack("run", tmp_path / "nowhere", "--key", "acme", *options)
    assert (code, output.out) == (2, "")
    assert told in output.err


@pytest.mark.parametrize(
    ("states", "code"), [((JobState.FAILED,) * 2, 4), ((JobState.FAILED, JobState.SUCCEEDED), 0)], ids=str
)
def test_a_run_fails_only_if_every_cell_did(attack, tmp_path, monkeypatch, states, code):
    cells = tuple(
        AttackCell(number, "noise", {}, "weight", state, 1.0, AttackOutcome())
        for number, state in enumerate(states, start=1)
    )
    given = {}

    def run_attacks(stamped, *, key_set, options, tools):
        given.update(key_set=key_set, options=options)
        return RobustnessReport(str(stamped), "ab", "ks", 0, cells)

    monkeypatch.setattr(robustness, "run_attacks", run_attacks)
    got, output = attack("run", tmp_path, "--key", "acme", "--suite", "quick", "--attack", "noise", "--resume")
    assert got == code
    assert len(json.loads(output.out)["cells"]) == 2
    options = given["options"]
    assert (options.suite, list(options.specs), options.resume) == ("quick", ["noise"], True)
    assert options.cache_bytes == 20 * 10**9


def test_kept_copies_are_removed(attack, home):
    entry = home / "cache" / "attacks" / "aa"
    entry.mkdir(parents=True)
    (entry / "weights").write_bytes(bytes(5000))
    code, output = attack("clean")
    assert code == 0
    cleared = json.loads(output.out)
    assert (cleared["removed"], cleared["in_use"]) == (1, 0)
    assert cleared["bytes_freed"] >= 5000
    assert not entry.exists()
