"""What precision and gradient checkpointing do to a training, on a tiny model."""

from dataclasses import replace

import pytest
import torch

from fpvec_audit.errors import SettingsError
from fpvec_audit.progress import NO_PROGRESS
from fpvec_audit.training.checkpoint_files import load_for_training
from fpvec_audit.training.loop import StepBatches, mixed_precision, run_training
from fpvec_audit.training.loop_settings import LoopSettings
from fpvec_audit.training.objectives import CrossEntropy
from tests.tiny import make_tiny

LOOP = LoopSettings(steps=2, learning_rate=1e-3)


class Watching(CrossEntropy):
    """Cross-entropy that remembers in what the parts of the model computed."""

    def __init__(self):
        self.computed = []

    def backward(self, model, batch, *, step, backward):
        states = model.base_model(input_ids=batch["rows"]["input_ids"]).last_hidden_state
        self.computed.append(model.get_output_embeddings()(states).dtype)
        self.computed.append(next(model.parameters()).dtype)
        return super().backward(model, batch, step=step, backward=backward)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("loop") / "base", "llama2")


def trained(base, staging, loop, objective=None):
    model = load_for_training(base)
    ids = torch.arange(40).view(4, 10)
    batches = StepBatches(loop.steps, 0, lambda _step, _source: {"rows": {"input_ids": ids, "labels": ids}})
    with NO_PROGRESS.step("training") as step:
        run_training(
            model, batches, objective or CrossEntropy(), loop, staging=staging, seed=0, device="cpu", step=step
        )
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    ("precision", "computed"), [("auto", torch.float32), ("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_passes_compute_in_the_precision_and_weights_stay_float32(base, tmp_path, precision, computed):
    watching = Watching()
    parameters = trained(base, tmp_path, replace(LOOP, precision=precision), watching)
    assert watching.computed == [computed, torch.float32] * 2
    assert {value.dtype for value in parameters.values()} == {torch.float32}


def test_gradient_checkpointing_changes_memory_and_not_weights(base, tmp_path):
    plain = trained(base, tmp_path / "plain", LOOP)
    checkpointed = trained(base, tmp_path / "checkpointed", replace(LOOP, gradient_checkpointing=True))
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-7) for name in plain)


def test_auto_is_float32_on_a_cpu_however_large_the_model():
    with torch.device("meta"):
        large = torch.nn.Linear(20_000, 20_000)
    assert not mixed_precision(large, "auto", "cpu")
    assert mixed_precision(large, "bf16", "cpu")


def test_an_unknown_precision_is_refused():
    with pytest.raises(SettingsError, match="choose one of auto, float32, bf16"):
        replace(LOOP, precision="fp16")
