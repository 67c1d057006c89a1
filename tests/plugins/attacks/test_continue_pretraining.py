import pytest
import torch

from fpvec_audit.errors import CheckpointError, SettingsError, UsageError
from fpvec_audit.testing import RecordingProgress
from fpvec_plugins.attacks.continue_pretraining import ContinuePretraining
from tests.plugins.attacks.bench import attacked, bound, context, response_loss
from tests.tiny import make_tiny, rewrite, tensors_of

ATTACK = ContinuePretraining()
TEXT = "To be, or not to be, that is the question. "


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 8)
    return path


@pytest.mark.parametrize(("method", "rate", "gain"), [("full", 5e-3, 2.0), ("lora", 2e-2, 0.3)])
def test_the_users_text_becomes_more_likely(tmp_path, text, method, rate, gain):
    source = make_tiny(tmp_path / "source", "gpt2")
    progress = RecordingProgress()
    after = attacked(
        ATTACK,
        source,
        tmp_path,
        f"method={method},steps=30,batch=4,tokens=32,learning_rate={rate},data={text}",
        progress=progress,
    )
    assert progress.advanced["pre-training"] == 30
    assert after.keys() == tensors_of(source).keys()
    rows = [("To be,", "or not to be, that is the question.")]
    assert response_loss(tmp_path / "target", rows) < response_loss(source, rows) - gain


def test_without_a_file_the_packages_own_documents_are_learnt(tmp_path, few_documents):
    source = make_tiny(tmp_path / "source", "llama2")
    after = attacked(ATTACK, source, tmp_path, "steps=2,batch=1,tokens=16", architecture="llama2")
    assert any(not torch.equal(after[name], tensor) for name, tensor in tensors_of(source).items())


def test_windows_are_no_longer_than_the_models_context(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")  # 256 positions
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 20)
    attacked(ATTACK, source, tmp_path, f"steps=1,batch=1,tokens=500,data={long}")


def test_a_file_that_cannot_be_read_or_is_empty_is_refused(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")
    (tmp_path / "empty.txt").write_text(" \n")
    for path, reason in (("/nowhere.txt", "cannot be read"), (tmp_path / "empty.txt", "holds no text")):
        with pytest.raises(SettingsError, match=reason):
            attacked(ATTACK, source, tmp_path, f"steps=1,data={path}")
    assert not (tmp_path / "target").exists()


def test_a_broken_model_is_refused_before_the_first_step(tmp_path, text):
    source = rewrite(
        make_tiny(tmp_path / "made", "gpt2"),
        tmp_path / "source",
        lambda name, tensor: tensor * float("nan") if "ln_f" in name else tensor,
    )
    with pytest.raises(CheckpointError, match=r"ln_f.* not finite"):
        ATTACK.apply(source, tmp_path / "target", bound(ATTACK, f"steps=1,data={text}"), context(tmp_path, "gpt2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source", "staging", "text.txt"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("steps=0", "steps is 0"),
        ("batch=0", "batch is 0"),
        ("tokens=1", "tokens is 1"),
        ("learning_rate=2", "learning_rate is 2"),
    ],
)
def test_values_out_of_range_are_refused(given, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, given)
