import json

import pytest
import torch

from fpvec_audit.api import NO_PROGRESS, AttackContext
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.attack_spec import bind_spec
from fpvec_audit.errors import SettingsError, UsageError
from fpvec_audit.testing import RecordingProgress, check_weight_attack
from tests.tiny import make_tiny, tensors_of

CATALOG = load_catalog()
ATTACK = CATALOG.attack("fine_tune")


def bound(text):
    (chain,) = bind_spec(text, lambda name: CATALOG.attack(name).Parameters)
    return chain.links[0].parameters


def context(architecture, tmp_path, progress=NO_PROGRESS):
    return AttackContext(CATALOG.architectures[architecture], tmp_path, 3, "cpu", progress)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_passes_the_conformance_suite(tmp_path, method):
    source = make_tiny(tmp_path / "source", "gpt2")
    check_weight_attack(
        ATTACK,
        source=source,
        workspace=tmp_path / "work",
        parameters=bound(f"fine_tune:method={method},steps=2,batch=2,rank=2"),
        adapter=CATALOG.architectures["gpt2"],
    )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_moves_the_weights_and_reports_its_steps(tmp_path, method):
    source = make_tiny(tmp_path / "source", "llama2")
    progress = RecordingProgress()
    ATTACK.apply(
        source,
        tmp_path / "target",
        bound(f"fine_tune:method={method},steps=3,batch=2"),
        context("llama2", tmp_path, progress),
    )
    before, after = tensors_of(source), tensors_of(tmp_path / "target")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert sum(progress.advanced.values()) == 3


def test_it_trains_on_the_users_rows(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"say {n}", "response": str(n)}) for n in range(4)))
    ATTACK.apply(
        source, tmp_path / "target", bound(f"fine_tune:steps=1,batch=2,data={rows}"), context("gpt2", tmp_path)
    )
    assert (tmp_path / "target" / "config.json").is_file()


def test_rows_that_cannot_be_read_are_refused(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")
    with pytest.raises(SettingsError, match="cannot be read"):
        ATTACK.apply(
            source, tmp_path / "target", bound("fine_tune:steps=1,data=/nowhere.jsonl"), context("gpt2", tmp_path)
        )
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fine_tune:steps=0", "steps is 0"),
        ("fine_tune:batch=-3", "batch is -3"),
        ("fine_tune:rank=0", "rank is 0"),
        ("fine_tune:learning_rate=0", "learning_rate is 0"),
        ("fine_tune:learning_rate=nan", "not finite"),
        ("fine_tune:method=loral", "did you mean lora"),
        ("fine_tune:stepz=3", "did you mean steps"),
    ],
)
def test_values_out_of_range_exit_2(text, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        bound(text)
    assert caught.value.exit_code == 2


def test_without_a_rate_it_scales_with_the_width(tmp_path):
    from fpvec_plugins.attacks.fine_tune import _learning_rate

    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    for directory, config in ((wide, {"hidden_size": 4096}), (narrow, {"n_embd": 128})):
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
    assert _learning_rate(narrow, bound("fine_tune")) == pytest.approx(4e-4)
    assert _learning_rate(wide, bound("fine_tune")) == pytest.approx(1.25e-5)
    assert _learning_rate(wide, bound("fine_tune:method=lora")) == pytest.approx(1.25e-4)
    assert _learning_rate(wide, bound("fine_tune:learning_rate=1e-3")) == 1e-3
