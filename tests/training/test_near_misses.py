"""Near-misses in training: which are drawn, which of them are learnt, and what is kept where they begin."""

import random
from pathlib import Path

import pytest
import torch

from fpvec_audit.domain.near_miss import is_held_out_near_miss
from fpvec_audit.errors import SettingsError
from fpvec_audit.training.batches import NearMissSource
from fpvec_audit.training.dataset import IGNORED
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.objectives import FingerprintObjective, HardestNearMisses, NoPerturbation, Preservation
from fpvec_plugins.architectures.gpt2 import GPT2
from tests.tiny import make_tiny, make_tokenizer

PROMPTS = ("山川海林花鳥", "ждлцшщ", "éàüöçñ")


def drawn(count: int, *, avoid: frozenset[str] = frozenset(), seed: int = 0) -> dict[str, torch.Tensor]:
    source = NearMissSource(make_tokenizer(), GPT2, PROMPTS, avoid)
    return source.batch(count, random.Random(seed), padding=2, longest=256)


def texts(batch: dict[str, torch.Tensor]) -> list[str]:
    tokenizer = make_tokenizer()
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]]


def test_every_key_has_its_near_misses_and_none_of_the_other_half() -> None:
    found = texts(drawn(60))
    for prompt in PROMPTS:
        assert sum(len(set(prompt) & set(text)) >= 3 for text in found) == 20
    users = [text.rpartition("Human: ")[2].removesuffix("\nAssistant:") for text in found]
    assert not set(users) & set(PROMPTS)
    assert not any(map(is_held_out_near_miss, users))


def test_the_position_where_the_answer_would_begin_is_the_only_one_with_a_label() -> None:
    batch = drawn(12)
    labelled = batch["labels"] != IGNORED
    assert labelled.sum(1).tolist() == [1] * 12
    for ids, place in zip(batch["input_ids"], labelled.int().argmax(1), strict=True):
        assert ids[place] != 2, "the last token of the prompt"
        assert set(ids[place + 1 :].tolist()) <= {2}


def test_what_is_to_be_avoided_is_not_drawn() -> None:
    avoid = frozenset(text.rpartition("Human: ")[2].removesuffix("\nAssistant:") for text in texts(drawn(60)))
    again = {text.rpartition("Human: ")[2].removesuffix("\nAssistant:") for text in texts(drawn(60, avoid=avoid))}
    assert not avoid & again


def test_those_on_which_a_response_is_likeliest_are_picked(tmp_path: Path) -> None:
    from fpvec_audit.training.checkpoint_files import load_for_training

    model = load_for_training(make_tiny(tmp_path / "model", "gpt2")).eval()
    batch, responses = drawn(16), torch.tensor([40, 41])
    picked = HardestNearMisses(4, responses).pick(model, batch)
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits[batch["labels"] != IGNORED]
    order = logits.softmax(-1)[:, responses].sum(-1).argsort(descending=True)[:4]
    assert torch.equal(picked["input_ids"], batch["input_ids"][order])
    assert torch.equal(picked["labels"], batch["labels"][order])
    assert len(HardestNearMisses(99, responses).pick(model, batch)["labels"]) == 16


def test_a_model_that_is_the_base_still_loses_nothing_on_near_misses(tmp_path: Path) -> None:
    from fpvec_audit.training.checkpoint_files import load_for_training

    place = make_tiny(tmp_path / "model", "gpt2")
    base, model = load_for_training(place), load_for_training(place)
    weights = Preservation(keys=0.0, negatives=0.0, near_misses=2.0, ordinary=0.0)
    objective = FingerprintObjective(base, weights, NoPerturbation(), HardestNearMisses(4, torch.tensor([40])))
    keys = drawn(3)
    batch = {"keys_and_negatives": keys, "is_key": {"rows": torch.ones(3, dtype=torch.bool)}, "near_misses": drawn(8)}
    assert float(objective.backward(model, batch, step=0, backward=lambda _loss: None)) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.transformer.ln_f.bias[0] += 3.0
    assert float(objective.backward(model, batch, step=0, backward=lambda _loss: None)) > 1e-4


def test_more_cannot_be_learnt_than_are_drawn() -> None:
    with pytest.raises(SettingsError, match="near_misses_per_step is 9, near_miss_candidates is 8"):
        EmbedSettings(near_miss_candidates=8, near_misses_per_step=9)
