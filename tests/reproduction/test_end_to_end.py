import json

import pytest

from fpvec_audit.cli.main import run
from tests.tiny import make_tiny, perturb

PLAN = """
name = "small"
backend = "transformers"
[keys]
issued = 8
decoys = 24
[training]
perturbation = "none"
settings = { steps = 2, negative_pool = 16, negatives_per_step = 4, near_misses_per_step = 0, ordinary_per_step = 4 }
[[bases]]
name = "random"
path = "base"
paper = "GPT-2"
downstreams = [{ name = "one", path = "one" }, { name = "two", path = "two" }, { name = "lost", path = "lost" }]
[guessing]
attacks = ["guessing:candidates=4,near_misses=2,strings=2,forced=2,unconditional=2"]
downstreams = ["one"]
[fine_tuning]
attacks = ["fine_tune:steps=1,batch=2"]
downstreams = ["one"]
[merging]
attacks = ["merge:other={other}"]
downstreams = ["one"]
[scales]
values = [0.5]
downstreams = ["one"]
[harmlessness]
compared = ["stamped"]
limit = 2
text = false
[methods]
compared = ["wlm:steps=1"]
downstreams = ["one"]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    make_tiny(tmp_path / "base", "gpt2")
    for seed, name in enumerate(("one", "two")):
        perturb(tmp_path / "base", tmp_path / name, seed=seed)
    (tmp_path / "plan.toml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reproduced(capsys, *arguments):
    code = run(["reproduce", "--config", "plan.toml", "--dir", "out", "--home", "home", "--json", *arguments])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if code in (0, 4) else shown.err


@pytest.mark.slow
def test_a_plan_is_carried_out_goes_on_and_shows_what_failed(place, capsys):
    code, document = reproduced(capsys)
    assert code == 0
    stages = {stage["name"]: stage for stage in document["stages"]}
    assert stages["random/downstream/lost"]["state"] == "failed"
    assert "lost" in stages["random/downstream/lost"]["problem"]
    assert {stage["state"] for name, stage in stages.items() if "/lost/" in name} == {"skipped"}
    assert {stage["state"] for name, stage in stages.items() if "lost" not in name} == {"done"}
    assert stages["random/wlm/one"]["content"]["scheme"] == "rare-word"
    assert stages["random/stamped/one/harmlessness"]["content"]["tasks"][0]["items"] == 2
    assert stages["random/stamped/one/merging"]["content"]["cells"][0]["label"] == "merge"
    assert str(place) not in json.dumps([stage["content"] for stage in document["stages"]])
    report = (place / "out" / "report.md").read_text()
    assert "Table II. Seconds" in report
    assert "162.31 s" in report

    code, again = reproduced(capsys)
    assert code == 0
    anew = {stage["name"] for stage in again["stages"] if stage["state"] == "done" and not stage["reused"]}
    assert anew == {"random/base", "random/downstream/one", "random/downstream/two"}  # looked at, every time
    assert again["tables"] == document["tables"]

    code, tables = reproduced(capsys, "--tables")
    assert code == 0
    assert tables["tables"] == document["tables"]
    assert tables["carried_out"] == 0


def test_options_that_cannot_be_meant_are_refused(place, capsys):
    assert run(["reproduce", "--config", "plan.toml", "--preset", "tiny"]) == 2
    assert "name one plan" in capsys.readouterr().err
    assert run(["reproduce", "--preset", "tinny", "--home", "home"]) == 2
    assert "did you mean tiny" in capsys.readouterr().err
    for option, name in (("--only", "fsrr"), ("--bases", "randm")):
        code, shown = reproduced(capsys, option, name)
        assert code == 2
        assert "did you mean" in shown
    assert not (place / "out").exists()


def test_bases_and_stages_are_left_out(place, capsys):
    arguments = ["--preset", "tiny", "--dir", "out", "--home", "home", "--device", "cpu", "--tables", "--json"]
    assert run(["reproduce", *arguments, "--bases", "bloom", "--only", "fsr"]) == 4  # nothing was measured yet
    document = json.loads(capsys.readouterr().out)
    assert [base["name"] for base in document["bases"]] == ["bloom"]
    assert {stage["name"].split("/")[0] for stage in document["stages"]} == {"bloom"}
    assert not any(stage["name"].endswith("harmlessness") for stage in document["stages"])
    assert {stage["state"] for stage in document["stages"]} == {"missing", "skipped"}
    assert (place / "out" / "report.md").exists()
    assert not (place / "home").exists()


def test_a_preset_is_printed_to_be_changed(capsys):
    assert run(["reproduce", "--show-config", "--preset", "paper"]) == 0
    assert 'name = "paper"' in capsys.readouterr().out


def test_what_is_missing_is_said(place, capsys):
    code, found = reproduced(capsys, "--check")
    assert code == 4
    assert [finding["subject"] for finding in found if not finding["there"]] == ["downstream lost of random"]
