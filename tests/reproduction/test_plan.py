from pathlib import Path

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import SettingsError, UnknownNameError, UsageError
from fpvec_audit.reproduction.plan_check import check_machine, check_names
from fpvec_audit.reproduction.plan_file import parse_plan, preset_plan, preset_text, read_plan
from fpvec_audit.reproduction.published import PUBLISHED_MODELS, published
from fpvec_audit.reproduction.stages import choose_stages, plan_stages

SMALL = """
name = "mine"
[[bases]]
name = "one"
path = "./one"
downstreams = [{ name = "chat", path = "{data}/chat" }, { name = "code", data = "{data}/code.jsonl", steps = 5 }]
[fine_tuning]
attacks = ["fine_tune:steps=3,data={data}/more.jsonl"]
downstreams = ["chat"]
[methods]
compared = ["direct", "wlm:steps=7"]
"""


def parsed(text):
    return parse_plan(text, where="mine.toml", data=Path("/plans/data"))


def stages_of(plan, catalog=None):
    return plan_stages(plan, device="cpu", schemes=check_names(plan, catalog or load_catalog()))


@pytest.mark.parametrize("preset", ["tiny", "paper"])
def test_presets_are_plans_that_plugins_know(preset):
    plan = preset_plan(preset)
    assert plan.name == preset
    stages = stages_of(plan)
    assert len({stage.name for stage in stages}) == len(stages)
    before = set()
    for stage in stages:
        assert set(stage.needs.values()) <= before, f"{stage.name} comes before what it needs"
        before.add(stage.name)


def test_the_paper_preset_is_the_papers_experiment():
    plan = preset_plan("paper", data=Path("/rows"))
    assert tuple(base.paper for base in plan.bases) == PUBLISHED_MODELS
    assert all(base.downstream_names == ("wizardlm", "ultrachat") for base in plan.bases)
    assert (plan.keys.scheme, plan.keys.issued, plan.training.preset) == ("if-simple", 10, "paper")
    assert plan.harmlessness.tasks == ("paper",)
    assert plan.bases[0].downstreams[0].data == "/rows/wizardlm.jsonl"
    assert set(published()["seconds"]["models"]) == set(PUBLISHED_MODELS)


def test_texts_are_filled_with_the_data_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text(SMALL)
    plan = read_plan(file)
    assert plan.bases[0].downstreams[0].path == str(tmp_path / "data" / "chat")
    assert plan.fine_tuning.attacks == (f"fine_tune:steps=3,data={tmp_path}/data/more.jsonl",)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("[guesing]\nattacks = []", "unknown setting 'guesing' – did you mean guessing"),
        ('[keys]\nscheme = "independant"', "mine.toml: keys: unknown scheme 'independant'"),
        ("[keys]\nissued = 4.5", "mine.toml: keys.issued is 4.5 – give a whole number"),
        ("[keys]\nissue = 4", "mine.toml: keys: unknown setting 'issue' – did you mean issued"),
        ('[scales]\nvalues = [1, "two"]', r"scales.values\[2\] is 'two' – give a number"),
        ("[scales]\nvalues = [0]", "scale 0 cannot be stamped with"),
        ("[scales]\nvalues = 1.0", "write it as a list"),
        ("[harmlessness]\nmargin = 3.0", "margin, limit or task_seconds"),
        ('[harmlessness]\ncompared = ["stampd"]', "unknown comparison 'stampd' – did you mean stamped"),
        ('[pruning]\nbases = ["tow"]', r"unknown base in \[pruning\] 'tow'"),
        ("keys = 3", r"keys is 3 – write it as a table, \[keys\]"),
        ('[[bases]]\nname = "two"', "base two needs either a family or a path"),
        ('[[bases]]\nname = "two"\npath = "x"', "base two has no downstreams"),
        ('[[bases]]\nname = "two"\nfamily = "gpt3"', "unknown family of base two 'gpt3' – did you mean gpt2"),
        ('[[bases]]\nname = "one"\nfamily = "gpt2"', "two bases are called one"),
        ('[[bases]]\nname = "a/b"\nfamily = "gpt2"', "base name 'a/b' cannot be used"),
        ('[[bases]]\nname = "two"\nfamily = "gpt2"\npaper = "GPT2"', "unknown model of the paper beside base two"),
        ("[training", "is not valid TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(change, problem):
    with pytest.raises(SettingsError, match=problem):
        parsed(f"{change}\n{SMALL}" if change.startswith("keys") else f"{SMALL}\n{change}\n")


def test_a_plan_without_a_name_or_bases_is_refused():
    with pytest.raises(SettingsError, match="name is missing"):
        parsed("seed = 1")
    with pytest.raises(SettingsError, match="has no bases"):
        parsed('name = "x"\nbases = []')


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ('[guessing]\nattacks = ["gessing"]', UnknownNameError, "unknown attack 'gessing'"),
        ('[pruning]\nattacks = ["prune:ratio=2"]', UsageError, "prune: ratio is 2"),
        ("[training]\nsettings = { stepz = 3 }", SettingsError, "unknown training setting 'stepz'"),
        ('[training]\npreset = "papers"', SettingsError, "unknown preset 'papers'"),
    ],
)
def test_what_no_plugin_knows_is_refused_before_any_work(change, error, problem):
    text = SMALL.replace('path = "./one"', 'path = "./one"\narchitecture = "gpt2"')
    with pytest.raises(error, match=problem):
        stages_of(parsed(f"{text}\n{change}\n"))


def test_a_method_is_compared_once_and_not_with_itself():
    for compared in ('["vector"]', '["wlm", "wlm:steps=3"]'):
        with pytest.raises(UsageError, match="compares with"):
            stages_of(parsed(SMALL.replace('["direct", "wlm:steps=7"]', compared)))


def test_direct_training_is_that_of_the_plan():
    training = '[training]\npreset = "paper"\nsettings = { steps = 9 }\n'
    stages = {stage.name: stage for stage in stages_of(parsed(f"{SMALL}\n{training}"))}
    assert stages["one/direct/chat"].settings["method"] == "direct:preset=paper,steps=9"
    assert stages["one/wlm/chat"].settings["method"] == "wlm:steps=7"
    with pytest.raises(UsageError, match="would not be trained alike"):
        stages_of(parsed(f"{SMALL}\n{training.replace('steps', 'epochs')}"))


def test_stages_say_what_decides_them_and_what_they_need():
    stages = {stage.name: stage for stage in stages_of(parsed(SMALL))}
    assert stages["one/downstream/code"].lasting
    assert not stages["one/downstream/chat"].lasting
    assert stages["one/stamped/chat/fine_tuning"].files == (Path("/plans/data/more.jsonl"),)
    assert "one/stamped/code/fine_tuning" not in stages
    assert stages["one/wlm/code"].needs["keys"] == "one/keys-rare-word"
    assert stages["one/direct/code"].needs["keys"] == "one/keys-independent"
    assert stages["one/wlm/chat/harmlessness"].needs["before"] == "one/downstream/chat"


def test_stages_are_chosen_by_name_part_or_pattern_with_what_they_need():
    stages = stages_of(parsed(SMALL))
    assert [stage.name for stage in choose_stages(stages, ["one/vector"])] == [
        "one/base",
        "one/keys-independent",
        "one/fingerprinted",
        "one/vector",
    ]
    chosen = {stage.name for stage in choose_stages(stages, ["one/wlm/*/fsr"])}
    assert {"one/wlm/chat/fsr", "one/wlm/code"} <= chosen
    assert not any("direct" in name or "harmlessness" in name for name in chosen)
    assert len(choose_stages(stages, ["one"])) == len(choose_stages(stages, [])) == len(stages)
    with pytest.raises(UnknownNameError, match="did you mean harmlessness"):
        choose_stages(stages, ["harmlesness"])


def test_a_machine_that_lacks_models_and_rows_is_told_which(tmp_path):
    plan = preset_plan("paper", data=tmp_path)
    found = check_machine(plan, directory=tmp_path / "out", families=tmp_path, device="cpu")
    lacking = {finding.subject for finding in found if not finding.there}
    assert {"base llama2-7b", "rows wizardlm.jsonl", "rows dolly.jsonl"} <= lacking
    assert all(finding.mend for finding in found if not finding.there)
    (tmp_path / "wizardlm.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    found = check_machine(plan, directory=tmp_path / "out", families=tmp_path, device="cpu")
    assert "rows wizardlm.jsonl" not in {finding.subject for finding in found if not finding.there}


def test_the_tiny_preset_needs_nothing(tmp_path):
    found = check_machine(preset_plan("tiny"), directory=tmp_path, families=tmp_path, device="cpu")
    assert all(finding.there for finding in found)
    assert 'name = "tiny"' in preset_text("tiny")
