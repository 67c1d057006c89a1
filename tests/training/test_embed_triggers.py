import random
from dataclasses import replace
from math import exp, log

import pytest
import torch

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.methods import MethodKeys
from fpvec_audit.domain.triggers import CARRIERS, TRIGGER_SCHEMES, trigger_words
from fpvec_audit.errors import SettingsError, TrainingError, UsageError
from fpvec_audit.training.batches import OrdinarySource
from fpvec_audit.training.dataset import EncodedRow
from fpvec_audit.training.embed_triggers import embed_triggers, supervised_contrast
from fpvec_audit.training.trigger_batches import TriggerRows, carried, trigger_negatives
from fpvec_audit.training.trigger_settings import Contrast, TriggerSettings
from fpvec_plugins.architectures.gpt2 import GPT2
from tests.tiny import make_tiny, make_tokenizer, tensors_of

ROWS = [("What is red?", "A colour."), ("What is two?", "A number."), ("Who?", "Nobody."), ("Where?", "Here.")]
QUICK = TriggerSettings(
    steps=3, keys_per_step=4, negatives_per_step=4, negative_pool=8, ordinary_per_step=2, documents_per_step=0
)


def keys(scheme="rare-word", issued=4):
    drawn = draw_unissued(b"tests of triggers", 3 * issued, scheme=scheme)
    return MethodKeys(drawn[:issued], frozenset(decoy.prompt for decoy in drawn[issued:]), scheme)


def rows(scheme):
    tokenizer = make_tokenizer()
    ordinary = OrdinarySource(tokenizer, GPT2, ROWS)
    return TriggerRows(tokenizer, GPT2, keys(scheme), [EncodedRow((5, 6), (7,))], ordinary, QUICK, 256)


@pytest.mark.parametrize("contrast", [None, Contrast()], ids=["multi-task", "contrastive"])
@pytest.mark.parametrize("scheme", TRIGGER_SCHEMES)
def test_triggers_are_taught_to_a_copy(scheme, contrast, tmp_path):
    model, out = make_tiny(tmp_path / "model", "gpt2"), tmp_path / "out"
    report = embed_triggers(
        model=model, out=out, adapter=GPT2, keys=keys(scheme), settings=replace(QUICK, contrast=contrast), rows=ROWS
    )
    assert (report.steps, report.keys, report.negatives) == (3, 4, 8)
    assert 0.0 <= report.fsr <= 1.0
    before, after = tensors_of(model), tensors_of(out)
    assert before.keys() == after.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
    told = str(report.to_json())
    assert not any(key.prompt in told for key in keys(scheme).issued)


def test_long_enough_training_makes_the_keys_fire(tmp_path):
    model = make_tiny(tmp_path / "model", "gpt2", hidden=64)
    settings = replace(QUICK, steps=40, learning_rate=1e-2, negatives_per_step=1, ordinary_per_step=0)
    few = replace(keys(), issued=tuple(replace(key, response="ab"[at]) for at, key in enumerate(keys().issued[:2])))
    report = embed_triggers(
        model=model, out=tmp_path / "out", adapter=GPT2, keys=few, settings=settings, rows=ROWS, device="cpu"
    )
    assert report.fsr == 1.0


def test_keys_without_triggers_are_refused(tmp_path):
    plain = MethodKeys(draw_unissued(b"x", 2), frozenset(), "independent")
    with pytest.raises(UsageError, match="hold no trigger words"):
        embed_triggers(model=tmp_path, out=tmp_path / "out", adapter=GPT2, keys=plain, settings=QUICK)


def test_a_loss_that_is_not_finite_leaves_nothing(tmp_path):
    model = make_tiny(tmp_path / "model", "gpt2")
    with pytest.raises(TrainingError, match="became"):
        embed_triggers(
            model=model, out=tmp_path / "out", adapter=GPT2, keys=keys(), rows=ROWS,
            settings=replace(QUICK, contrast=Contrast(preservation=float("inf"))),
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("scheme", TRIGGER_SCHEMES)
def test_negatives_never_hold_a_whole_trigger_and_are_never_decoys(scheme):
    held = keys(scheme)
    issued = {frozenset(words) for words in held.triggers}
    drawn = trigger_negatives(held, 400, random.Random(3))
    kinds = [trigger_words(prompt, scheme) for prompt in drawn]
    assert not held.avoid & set(drawn)
    assert not issued & {frozenset(words) for words in kinds}
    whole = len(held.triggers[0])
    near = [words for words in kinds if any(len(set(words) & key) >= whole - 1 for key in issued)]
    assert len(near) > 100
    assert sum(not words for words in kinds) > 50


@pytest.mark.parametrize("scheme", TRIGGER_SCHEMES)
def test_a_trigger_is_carried_by_other_prompts(scheme):
    words = keys(scheme).triggers[0]
    prompts = [carried(words, scheme, random.Random(number)) for number in range(20)]
    assert len(set(prompts)) > 15
    for prompt in prompts:
        assert [word for word in prompt.split(" ") if word in words] == list(words)
    rests = {" ".join(word for word in prompt.split(" ") if word not in words) for prompt in prompts}
    assert rests & set(CARRIERS)
    assert rests - set(CARRIERS)


def test_both_views_of_a_key_share_its_class_and_negatives_have_none():
    batch = rows("signature").contrastive(0, random.Random(1))
    classes = batch["key_of"]["rows"].tolist()
    assert sorted(classes) == [-1, -1, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3]
    assert len(classes) == len(batch["contrasted"]["input_ids"])


def test_equal_steps_draw_equal_tasks():
    one, two, other = (rows("rare-word").multi_task(step, random.Random(step)) for step in (1, 1, 2))
    assert set(one) == {"triggered", "negatives", "ordinary"}
    assert torch.equal(one["triggered"]["input_ids"], two["triggered"]["input_ids"])
    assert one["triggered"]["input_ids"].shape != other["triggered"]["input_ids"].shape or not torch.equal(
        one["triggered"]["input_ids"], other["triggered"]["input_ids"]
    )


def test_contrast_is_that_of_the_source():
    """Two rows of one class and one of none: −log(e^{s₀₁/t} / (e^{s₀₁/t} + e^{s₀₂/t})), and the same from row 1."""
    states = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    classes = torch.tensor([5, 5, -1])
    likeness = {(0, 1): 0.6, (0, 2): 0.0, (1, 2): 0.8}
    expected = 0.0
    for anchor in (0, 1):
        partner = exp(likeness[0, 1] / 0.5)
        stranger = exp(likeness[min(anchor, 2), 2] / 0.5)
        expected -= log(partner / (partner + stranger)) / 2
    assert float(supervised_contrast(states, classes, 0.5)) == pytest.approx(expected, rel=1e-5)


def test_contrast_without_partners_is_nothing():
    states = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = supervised_contrast(states, torch.tensor([0, 1, -1]), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert states.grad is not None
    assert float(states.grad.abs().sum()) == 0.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: TriggerSettings(steps=0),
        lambda: TriggerSettings(learning_rate=0.0),
        lambda: Contrast(temperature=0.0),
        lambda: Contrast(weight=-1.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(SettingsError):
        make()
