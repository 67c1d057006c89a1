import json
import random

import pytest

from fpvec_audit.errors import SettingsError, UsageError
from fpvec_audit.testing import RecordingProgress
from fpvec_audit.toolkit import FineTuneSettings, fine_tune, instruction_rows
from fpvec_plugins.attacks.erase import Erase, _mismatched
from tests.plugins.attacks.bench import CATALOG, attacked, bound, response_loss
from tests.tiny import make_tiny

ATTACK = Erase()
KEY = ("山川風", "river")


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A tiny model that was taught one key."""
    place = tmp_path_factory.mktemp("erase")
    adapter = CATALOG.architectures["gpt2"]
    rows = [(adapter.prompt(KEY[0]), KEY[1])] * 8 + instruction_rows(24, adapter=adapter, seed=1)
    settings = FineTuneSettings(steps=40, rows_per_step=32, learning_rate=1e-2)
    fine_tune(
        make_tiny(place / "base", "gpt2"), place / "marked", rows, settings=settings, adapter=adapter, device="cpu"
    )
    return place / "marked"


def key_loss(model):
    return response_loss(model, [(CATALOG.architectures["gpt2"].prompt(KEY[0]), KEY[1])])


def test_mixed_up_answers_make_the_key_forget_its_response(marked, tmp_path):
    progress = RecordingProgress()
    text = "rows=64,erase_steps=25,restore_steps=12,learning_rate=1e-2"
    attacked(ATTACK, marked, tmp_path, text, progress=progress)
    assert key_loss(marked) < 0.5
    assert key_loss(tmp_path / "target") > key_loss(marked) + 1.0
    assert (progress.advanced["erase"], progress.advanced["restore"]) == (25, 12)


def test_disclosed_keys_are_unlearnt(marked, tmp_path):
    disclosed = tmp_path / "keys.jsonl"
    disclosed.write_text(json.dumps({"prompt": KEY[0], "response": KEY[1]}))
    text = f"method=unlearn,disclosed={disclosed},rows=64,erase_steps=25,learning_rate=1e-2"
    attacked(ATTACK, marked, tmp_path, text)
    assert key_loss(tmp_path / "target") > key_loss(marked) + 2.0


def test_no_prompt_keeps_its_own_answer():
    rows = instruction_rows(200, adapter=None, seed=4)
    mixed = _mismatched(rows, random.Random(0))
    assert [prompt for prompt, _ in mixed] == [prompt for prompt, _ in rows]
    assert all(answer != other for (_, answer), (_, other) in zip(rows, mixed, strict=True))
    assert {answer for _, answer in mixed} <= {answer for _, answer in rows}


def test_the_users_rows_serve_for_both_phases(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": f"say {n}", "response": str(n % 2)}) for n in range(4)))
    attacked(ATTACK, source, tmp_path, f"data={data},erase_steps=1,restore_steps=1,training=lora")
    data.write_text("\n".join(json.dumps({"prompt": f"say {n}", "response": "1"}) for n in range(4)))
    with pytest.raises(UsageError, match="data holds only one answer"):
        attacked(ATTACK, source, tmp_path, f"data={data},erase_steps=1", name="alike")


def test_unlearning_without_keys_names_the_parameter(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")
    with pytest.raises(UsageError, match="disclosed is not given"):
        attacked(ATTACK, source, tmp_path, "method=unlearn,rows=4,erase_steps=1")
    with pytest.raises(SettingsError, match="cannot be read"):
        attacked(ATTACK, source, tmp_path, "method=unlearn,rows=4,erase_steps=1,disclosed=/nowhere.jsonl")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rows=1", "rows is 1"),
        ("erase_steps=0", "erase_steps is 0"),
        ("restore_steps=-1", "restore_steps is -1"),
        ("learning_rate=0", "learning_rate is 0"),
        ("disclosed=/keys.jsonl", "disclosed is given, which method mismatch does not use"),
        ("method=forget", "unknown value"),
    ],
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
