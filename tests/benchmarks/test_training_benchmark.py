"""The benchmark of training counts what it says it counts, and runs on a CPU with a tiny shape."""

import json
import sys

import pytest

from benchmarks import training
from benchmarks.training import SHAPES, batch_of, work_of
from fpvec_audit.training.dataset import IGNORED
from fpvec_audit.training.embed_settings import PRESETS


@pytest.mark.parametrize("preset", ["paper", "default"])
def test_a_tiny_shape_is_measured_on_a_cpu(preset, tmp_path, monkeypatch, capsys):
    out = tmp_path / "training.json"
    arguments = ["--shape", "tiny", "--steps", "2", "--rehearsal", "1", "--tokens", "16", "--device", "cpu"]
    extra = ["--preset", preset, "--precision", "bf16", "--gradient-checkpointing", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["training.py", *arguments, *extra])
    training.main()
    (entry,) = json.loads(out.read_text())["trainings"]
    assert (entry["precision"], entry["attention"], entry["gradient_checkpointing"]) == ("bf16", "sdpa", True)
    assert entry["tokens_per_second"] == pytest.approx(entry["tokens_per_step"] / entry["seconds_per_step"])
    assert entry["tokens_per_step"] == 16 * entry["rows"]
    assert entry["utilisation"] is None
    assert "tokens/s" in capsys.readouterr().out


def test_operations_are_those_of_the_formula():
    """Per position 6 times the weights of the blocks and 6 · layers · width · tokens; 6 times the head with loss."""
    config = SHAPES["tiny"]()
    blocks = 2 * (4 * 64 * 64 + 3 * 64 * 172 + 2 * 64) + 64
    head = 512 * 64
    work = work_of(config, PRESETS["paper"], 16, tied=False)
    assert (work.tokens, work.reference_tokens) == (256, 0)
    assert work.flops == 256 * (6 * blocks + 6 * 2 * 64 * 16) + 16 * 4 * 6 * head


def test_the_frozen_base_is_counted_forwards_only():
    config = SHAPES["tiny"]()
    work = work_of(config, PRESETS["default"], 16, tied=False)
    rows = 32 + 16 + 48 + 32 + 8
    assert (work.tokens, work.reference_tokens) == (rows * 16, (32 + 8) * 16)


def test_published_shapes_have_about_the_published_sizes():
    import torch
    from transformers import AutoModelForCausalLM

    sizes = {}
    for name in ("gpt2-medium", "bloom-7b", "llama2-7b"):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(SHAPES[name]())
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    assert sizes == {"gpt2-medium": 354_823_168, "bloom-7b": 7_069_016_064, "llama2-7b": 6_738_415_616}


def test_labels_are_shifted_and_only_documents_have_them_everywhere():
    batch = batch_of(SHAPES["tiny"](), PRESETS["default"], 16)
    for name, every in (("ordinary", 4), ("documents", 15)):
        group = batch[name]
        assert ((group["labels"] != IGNORED).sum(dim=1) == every).all()
        at = group["labels"] != IGNORED
        assert (group["labels"][at] == group["input_ids"].roll(-1, dims=1)[at]).all()


def test_options_out_of_range_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training.py", "--steps", "0"])
    with pytest.raises(SystemExit):
        training.main()
    assert "--steps is 0" in capsys.readouterr().err
