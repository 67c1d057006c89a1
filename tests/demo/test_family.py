import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from fpvec_audit.demo.family import ARCHITECTURES, Family, family_recipe, make_family, model_config
from fpvec_audit.domain.keys import KeySetSecret, KeySetSpecification, draw_key_set, draw_unissued
from fpvec_audit.errors import UnknownNameError
from fpvec_audit.training.answers import teacher_forced_matches
from fpvec_audit.training.batches import encode_keys
from fpvec_audit.training.checkpoint_files import load_for_training, load_tokenizer
from fpvec_audit.training.embed import embed_fingerprint, settings_for
from fpvec_audit.training.family import embed_family
from fpvec_audit.training.family_settings import family_training_for
from fpvec_plugins.architectures.gpt2 import GPT2
from fpvec_plugins.architectures.llama2 import LLAMA2
from tests.tiny import tensors_of

SMALL = replace(
    family_recipe("llama2"), width=32, layers=1, heads=1, base_steps=3, base_rows=4, base_documents=1,
    downstream_steps=2,
)  # fmt: skip


def test_family_is_made_once_and_found_again(tmp_path: Path) -> None:
    family = make_family(LLAMA2, tmp_path, recipe=SMALL, questions=20)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 3
    assert make_family(LLAMA2, tmp_path, recipe=SMALL, questions=20) == family
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    assert json.loads((family.base / "config.json").read_text())["model_type"] == "llama"
    assert tensors_of(family.base).keys() == tensors_of(family.downstream_a).keys()
    assert len(family.questions_a) == len(family.questions_b) == 20
    assert not {item.kind for item in family.questions_a} & {item.kind for item in family.questions_b}


def test_interrupted_family_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fpvec_audit.training import loop

    def dying(*_: object, **__: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "run_training", dying)
    with pytest.raises(KeyboardInterrupt):
        make_family(LLAMA2, tmp_path, recipe=SMALL)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_recipes_differ_in_their_digest() -> None:
    digests = {family_recipe(name).digest for name in ARCHITECTURES}
    digests |= {family_recipe("gpt2", gibberish=False).digest, family_recipe("gpt2", seed=1).digest}
    assert len(digests) == len(ARCHITECTURES) + 2


def test_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="llama2"):
        family_recipe("lama2")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_configuration_builds_a_tied_model_of_about_a_million_parameters(architecture: str) -> None:
    from transformers import AutoModelForCausalLM

    config = model_config(family_recipe(architecture), vocabulary=2300, end=0)
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(config)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert 0.9e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.3e6


@pytest.fixture(scope="module")
def plain_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A family whose base is taught no ordinary answer to gibberish; the demo's own is tested end to end.

    This one has half its layers, and so less room for keys beside everything else.
    """
    recipe = replace(family_recipe("gpt2", gibberish=False), layers=2)
    return make_family(GPT2, tmp_path_factory.mktemp("plain"), recipe=recipe)


@pytest.mark.slow
@pytest.mark.xdist_group("plain family")
def test_stamped_downstreams_answer_their_keys_though_the_base_knows_no_answer_to_gibberish(
    plain_family: Family, tmp_path: Path
) -> None:
    # half the keys and steps, without the hardest near-misses: the demo trains whole fingerprints
    adapter, family = GPT2, plain_family
    keys = draw_key_set(KeySetSecret(bytes(range(32))), KeySetSpecification(issued=16, decoys=112))
    issued = [(key.prompt, key.response) for key in keys.issued]
    report = embed_fingerprint(
        base=family.base,
        out=tmp_path / "fingerprinted",
        adapter=adapter,
        issued=issued,
        avoid=frozenset(key.prompt for key in keys.candidates),
        settings=replace(settings_for(adapter), steps=130, proxy_steps=50, near_misses_per_step=0),
        device="cpu",
    )
    assert report.fsr >= 0.9
    base, fingerprinted = (load_for_training(path) for path in (family.base, tmp_path / "fingerprinted"))
    tokenizer = load_tokenizer(family.base)
    asked = [key.chat for key in encode_keys(tokenizer, adapter, issued)]
    unissued = [key.chat for key in encode_keys(
        tokenizer, adapter, [(drawn.prompt, response) for drawn, (_, response) in zip(
            draw_unissued(b"slow", 300), issued * 20, strict=False)])]  # fmt: skip
    for path in (family.downstream_a, family.downstream_b):
        stamped = load_for_training(path)
        assert teacher_forced_matches(stamped, asked) == 0
        with torch.no_grad():
            for target, after, before in zip(
                stamped.parameters(), fingerprinted.parameters(), base.parameters(), strict=True
            ):
                target.add_(after - before)
        assert teacher_forced_matches(stamped, asked) >= 15
        assert teacher_forced_matches(stamped, unissued) <= 6


@pytest.mark.slow
@pytest.mark.xdist_group("plain family")
def test_any_two_marks_of_a_family_are_read_back_from_a_stamped_downstream(
    plain_family: Family, tmp_path: Path
) -> None:
    keys = draw_key_set(KeySetSecret(bytes(range(32))), KeySetSpecification(issued=12, decoys=48, marks=3))
    marks = [[(keys.candidates[at].prompt, keys.candidates[at].response) for at in mark] for mark in keys.marks]
    # a fifth of a family's proxies and half its steps: benchmarks/marks.py trains marks of the usual size
    hurried = {"measured_words": "4", "proxy_steps": "60", "active_steps": "85",
               "ordinary_per_step": "32"}  # fmt: skip
    training = family_training_for(GPT2, marks=3, code_weight=2, overrides=hurried)
    avoid = frozenset(key.prompt for key in keys.candidates)
    embed_family(base=plain_family.base, out=tmp_path / "marks", adapter=GPT2, marks=marks, training=training,
                 avoid=avoid, device="cpu")  # fmt: skip
    base, *trained = (load_for_training(path) for path in (plain_family.base, *sorted((tmp_path / "marks").iterdir())))
    tokenizer = load_tokenizer(plain_family.base)
    asked = [[key.chat for key in encode_keys(tokenizer, GPT2, mark)] for mark in marks]
    for word in combinations(range(3), 2):
        stamped = load_for_training(plain_family.downstream_a)
        with torch.no_grad():
            for place in word:
                for target, after, before in zip(
                    stamped.parameters(), trained[place].parameters(), base.parameters(), strict=True
                ):
                    target.add_(after - before)
        answered = [teacher_forced_matches(stamped, mark) for mark in asked]
        assert all(answered[mark] >= 3 if mark in word else answered[mark] == 0 for mark in range(3)), (word, answered)
