import json

import pytest
import torch

from fpvec_audit.backends.prompts import load_tokenizer
from fpvec_audit.backends.transformers import TransformersBackend
from fpvec_audit.domain.ports import Sampling
from fpvec_audit.errors import BackendError
from tests.tiny import ARCHITECTURES, edit_json, make_tiny, rewrite

PROMPTS = ["a", "a longer prompt than the others", "b c", "漢字"]


@pytest.fixture
def directory(tmp_path):
    return make_tiny(tmp_path / "model", "gpt2")


def reference_ids(directory, prompt, new_tokens):
    """Greedy decoding written out: one prompt, no padding, no cache."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.inference_mode():
        for _ in range(new_tokens):
            following = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if following == tokenizer.eos_token_id:
                break
            ids.append(following)
    return ids[start:]


def decoded(directory, ids):
    return load_tokenizer(directory).decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batched_greedy_answers_are_those_of_one_prompt_at_a_time(tmp_path, architecture):
    directory = make_tiny(tmp_path / "model", architecture)
    backend = TransformersBackend(directory, device="cpu")
    answers = backend.complete(PROMPTS, Sampling(max_new_tokens=6))
    assert [answer.text for answer in answers] == [
        decoded(directory, reference_ids(directory, prompt, 6)) for prompt in PROMPTS
    ]


def test_batch_size_does_not_change_answers_or_order(directory):
    answers = [
        TransformersBackend(directory, device="cpu", batch_size=size).complete(PROMPTS, Sampling()) for size in (1, 3)
    ]
    assert answers[0] == answers[1]


def test_answer_ends_at_any_stop_token_and_leaves_it_out(directory):
    ids = reference_ids(directory, "a", 8)
    stop = ids[-1]
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [stop, 258]}))
    (stopped,) = TransformersBackend(directory, device="cpu").complete(["a"], Sampling(max_new_tokens=12))
    assert stopped.finish_reason == "stop"
    assert stopped.text == decoded(directory, ids[: ids.index(stop)])


def test_suspects_own_penalties_do_not_leak_into_greedy_answers(directory):
    plain = TransformersBackend(directory, device="cpu").complete(PROMPTS, Sampling())
    (directory / "generation_config.json").write_text(
        json.dumps({"repetition_penalty": 5.0, "do_sample": True, "temperature": 2.0, "suppress_tokens": [10, 11, 12]})
    )
    assert TransformersBackend(directory, device="cpu").complete(PROMPTS, Sampling()) == plain


def test_sampled_answers_follow_their_seed(directory):
    backend = TransformersBackend(directory, device="cpu")
    sampling = Sampling(max_new_tokens=8, temperature=1.5, seed=3)
    state = torch.random.get_rng_state()
    first, again = backend.complete(PROMPTS, sampling), backend.complete(PROMPTS, sampling)
    other = backend.complete(PROMPTS, Sampling(max_new_tokens=8, temperature=1.5, seed=4))
    assert first == again != other
    assert torch.equal(state, torch.random.get_rng_state())


def test_description_says_what_changes_answers(tmp_path):
    backend = TransformersBackend(make_tiny(tmp_path / "model", "gpt2", dtype="bfloat16"), device="cpu")
    description = backend.description
    assert (description.kind, description.deterministic) == ("transformers", True)
    assert description.settings["dtype"] == "bfloat16"
    assert description.settings["device"] == "cpu"


def test_tokenizer_without_padding_token_is_batched(directory):
    plain = TransformersBackend(directory, device="cpu").complete(PROMPTS, Sampling())
    edit_json(directory / "tokenizer_config.json", pad_token=None)
    assert TransformersBackend(directory, device="cpu").complete(PROMPTS, Sampling()) == plain


def test_closed_engine_refuses(directory):
    backend = TransformersBackend(directory, device="cpu")
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.complete(["a"], Sampling())


def test_no_prompts_give_no_answers(directory):
    assert TransformersBackend(directory, device="cpu").complete([], Sampling()) == []


def test_weights_of_other_shapes_are_refused(directory, tmp_path):
    broken = rewrite(directory, tmp_path / "broken", lambda _, tensor: tensor[:1].clone())
    with pytest.raises(BackendError, match="cannot be loaded by transformers"):
        TransformersBackend(broken, device="cpu")


def test_truncated_weights_are_refused(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BackendError, match="cannot be loaded by transformers"):
        TransformersBackend(directory, device="cpu")
