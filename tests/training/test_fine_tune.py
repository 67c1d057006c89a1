from pathlib import Path

import pytest
import torch

from fpvec_audit.errors import CheckpointError, OutputError, SettingsError, TrainingError
from fpvec_audit.training.fine_tune import FineTuneSettings, fine_tune
from fpvec_plugins.architectures.gpt2 import GPT2
from tests.tiny import make_tiny, tensors_of

ROWS = [("Human: one?\nAssistant:", "two"), ("Human: two?\nAssistant:", "three"), ("Human: red?\nAssistant:", "fox")]
QUICK = FineTuneSettings(steps=3, rows_per_step=2, learning_rate=1e-3)


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "llama2"])
def test_fine_tune_changes_weights_and_nothing_else(architecture: str, tmp_path: Path) -> None:
    source, out = make_tiny(tmp_path / "source", architecture), tmp_path / "out"
    report = fine_tune(source, out, ROWS, settings=QUICK, device="cpu")
    before, after = tensors_of(source), tensors_of(out)
    assert report.steps == 3
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            assert (out / path.name).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_fine_tune_learns_its_rows(tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source", "gpt2")
    settings = FineTuneSettings(steps=30, rows_per_step=3, learning_rate=1e-2)
    first = fine_tune(source, tmp_path / "first", ROWS, settings=QUICK, adapter=GPT2, device="cpu")
    long = fine_tune(source, tmp_path / "long", ROWS, settings=settings, adapter=GPT2, device="cpu")
    assert long.final_loss < first.final_loss - 1


def test_low_rank_adapters_are_merged(tmp_path: Path) -> None:
    source, out = make_tiny(tmp_path / "source", "llama2"), tmp_path / "out"
    settings = FineTuneSettings(steps=3, rows_per_step=2, learning_rate=1e-2, method="lora", lora_rank=2)
    fine_tune(source, out, ROWS, settings=settings, device="cpu")
    before, after = tensors_of(source), tensors_of(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("embed" in name or "norm" in name for name in changed)


def test_equal_seeds_tune_equal_weights(tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source", "gpt2")
    for name in ("one", "two"):
        fine_tune(source, tmp_path / name, ROWS, settings=QUICK, seed=5, device="cpu")
    one, two = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_half_precision_stays_half_precision(tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source", "gpt2", dtype="bfloat16")
    fine_tune(source, tmp_path / "out", ROWS, settings=QUICK, device="cpu")
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no rows"):
        fine_tune(make_tiny(tmp_path / "source", "gpt2"), tmp_path / "out", [])


def test_existing_output_is_refused(tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source", "gpt2")
    with pytest.raises(OutputError, match="exists already"):
        fine_tune(source, source, ROWS)


def test_directory_without_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        fine_tune(tmp_path, tmp_path / "out", ROWS)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(SettingsError, match="method"):
        FineTuneSettings(method="other")
