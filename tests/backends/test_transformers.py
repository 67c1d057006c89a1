import json
import math

import pytest
import torch

from fpvec_audit.backends.prompts import load_tokenizer
from fpvec_audit.backends.transformers import TransformersBackend, _Draw
from fpvec_audit.domain.ports import LikelihoodBackend, Sampling
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


def test_drawn_answers_do_not_depend_on_batches_or_company(directory):
    sampling = Sampling(max_new_tokens=8, temperature=1.5, top_p=0.8, seed=3)
    together = TransformersBackend(directory, device="cpu").complete(PROMPTS, sampling)
    narrow = TransformersBackend(directory, device="cpu", batch_size=1)
    alone = [narrow.complete([prompt], sampling)[0] for prompt in reversed(PROMPTS)]
    assert [answer.text for answer in together] == [answer.text for answer in reversed(alone)]


def test_equal_prompts_of_one_call_are_drawn_apart(directory):
    sampling = Sampling(max_new_tokens=8, temperature=1.5, seed=3)
    answers = TransformersBackend(directory, device="cpu").complete(["a"] * 8, sampling)
    assert len({answer.text for answer in answers}) > 1


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(temperature=0.5), [0.725, 0.181, 0.065, 0.029]),
        (Sampling(temperature=1.0, top_p=0.7), [2 / 3, 1 / 3, 0.0, 0.0]),
    ],
)
def test_draws_follow_the_models_probabilities(sampling, expected):
    """4,000 draws: 0.04 is five standard deviations of a share of one half."""
    draw = _Draw(sampling, range(4000))
    scores = torch.tensor([0.5, 0.25, 0.15, 0.1]).log().repeat(4000, 1)
    shares = draw(torch.empty(0), scores).argmax(-1).bincount(minlength=4) / 4000
    assert shares.tolist() == pytest.approx(expected, abs=0.04)
    assert all(share == 0 for share, wanted in zip(shares.tolist(), expected, strict=True) if wanted == 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_likelihoods_are_those_of_one_pair_at_a_time(tmp_path, architecture):
    """Float32 over two layers: sums of about -40 differ by rounding only, far below 1e-3."""
    from transformers import AutoModelForCausalLM

    directory = make_tiny(tmp_path / "model", architecture)
    backend = TransformersBackend(directory, device="cpu", batch_size=3)
    responses = ["yes", "a longer response", "c", "漢"]
    told = backend.log_likelihoods(PROMPTS, responses)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = load_tokenizer(directory)
    for prompt, response, answer in zip(PROMPTS, responses, told, strict=True):
        first, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(f"{prompt} {response}")["input_ids"]
        with torch.inference_mode():
            values = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(values[at - 1, ids[at]]) for at in range(first, len(ids)))
        assert answer.tokens == len(ids) - first
        assert answer.total == pytest.approx(expected, abs=1e-3)


def test_model_without_sparing_head_tells_the_same_likelihoods(directory, monkeypatch):
    backend = TransformersBackend(directory, device="cpu")
    told = backend.log_likelihoods(PROMPTS, PROMPTS)
    forward = backend._model.forward
    monkeypatch.setattr(
        backend._model,
        "forward",
        lambda input_ids, attention_mask, use_cache: forward(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache
        ),
    )
    again = backend.log_likelihoods(PROMPTS, PROMPTS)
    assert [answer.total for answer in again] == pytest.approx([answer.total for answer in told], abs=1e-4)


def test_likelihood_that_is_no_number_is_none(directory, tmp_path):
    broken = rewrite(
        directory, tmp_path / "broken", lambda name, tensor: tensor * math.nan if "ln_f" in name else tensor
    )
    assert TransformersBackend(broken, device="cpu").log_likelihoods(["a"], ["b"]) == [None]


def test_engines_tell_likelihoods_by_the_port(directory):
    assert isinstance(TransformersBackend(directory, device="cpu"), LikelihoodBackend)
    assert TransformersBackend(directory, device="cpu").log_likelihoods([], []) == []


def test_first_tokens_come_with_their_probabilities_and_change_no_answer(directory):
    backend = TransformersBackend(directory, device="cpu", batch_size=3)
    plain = backend.complete(PROMPTS, Sampling(max_new_tokens=3))
    told = backend.complete(PROMPTS, Sampling(max_new_tokens=3, first_tokens=5))
    assert [answer.text for answer in told] == [answer.text for answer in plain]
    assert all(answer.first_tokens == {} for answer in plain)
    for answer in told:
        values = list(answer.first_tokens.values())
        assert 1 <= len(values) <= 5
        assert values == sorted(values, reverse=True)
        assert all(value < 0 for value in values)
    (every,) = backend.complete(["a"], Sampling(max_new_tokens=1, first_tokens=10_000))
    (likelihood,) = backend.log_likelihoods(["a"], [""])
    assert every.first_tokens[" "] == pytest.approx(likelihood.total, abs=1e-4)


def test_description_says_what_changes_answers(tmp_path):
    backend = TransformersBackend(make_tiny(tmp_path / "model", "gpt2", dtype="bfloat16"), device="cpu")
    description = backend.description
    assert (description.kind, description.deterministic) == ("transformers", True)
    assert description.settings["dtype"] == "bfloat16"
    assert description.settings["device"] == "cpu"
    assert description.settings["mode"] == "repeatable"


def test_tokenizer_without_padding_token_is_batched(directory):
    plain = TransformersBackend(directory, device="cpu").complete(PROMPTS, Sampling())
    edit_json(directory / "tokenizer_config.json", pad_token=None)
    assert TransformersBackend(directory, device="cpu").complete(PROMPTS, Sampling()) == plain


def test_closed_engine_refuses(directory):
    backend = TransformersBackend(directory, device="cpu")
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.complete(["a"], Sampling())
    with pytest.raises(BackendError, match="closed"):
        backend.log_likelihoods(["a"], ["b"])


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
