"""The endpoint backend against vLLM's own server: one start for all of these tests."""

import pytest

from fpvec_audit.backends.api import ApiBackend
from fpvec_audit.backends.transformers import TransformersBackend
from fpvec_audit.domain.ports import Sampling
from fpvec_audit.errors import BackendError
from tests.backends.vllm_server import SERVED, vllm_server
from tests.tiny import PLAIN_TEMPLATE, make_tiny, make_tokenizer, rewrite

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]  # one host for all servers

PROMPTS = ["a", "a longer prompt than the others", "b c", "漢字", *(f"number {number}" for number in range(20))]
GREEDY = Sampling(max_new_tokens=6)
SYSTEM = "Answer in one word."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a model whose likely tokens are printable ASCII: servers hold back bytes that are no whole character."""
    directory = tmp_path_factory.mktemp("served")
    random = make_tiny(directory / "random", "gpt2", tied=False)
    vocabulary = make_tokenizer().get_vocab()
    printable = [number for token, number in vocabulary.items() if len(token) == 1 and "!" <= token <= "~"]

    def keep_printable(name, tensor):
        if not name.endswith("lm_head.weight"):
            return tensor
        kept = tensor.new_zeros(tensor.shape)
        kept[printable] = tensor[printable]
        return kept

    return rewrite(random, directory / "model", keep_printable)


@pytest.fixture(scope="module")
def url(model):
    with vllm_server(model, chat_template=PLAIN_TEMPLATE) as served:
        yield served


@pytest.fixture
def connect(url):
    opened = []

    def open_one(endpoint, **settings):
        opened.append(ApiBackend(url, **({"model": None, "timeout": 120} | settings), endpoint=endpoint))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


@pytest.fixture(scope="module")
def local(model):
    backend = TransformersBackend(model, device="cpu")
    yield backend
    backend.close()


def texts(answers):
    return [answer.text for answer in answers]


def test_completions_are_those_of_the_model_itself(connect, local):
    backend = connect("completions")
    answers = backend.complete(PROMPTS, GREEDY)
    assert texts(answers) == texts(local.complete(PROMPTS, GREEDY))
    assert backend.model == SERVED
    assert backend.description.version == "uvicorn"
    assert backend.requests_sent == len(PROMPTS) + 2
    assert backend.prompt_tokens > len(PROMPTS)
    assert 0 < backend.completion_tokens <= 6 * (len(PROMPTS) + 1)


def test_chat_goes_through_the_template_and_system_prompt_of_the_server(connect, local):
    rendered = [f"system: {SYSTEM}\nuser: {prompt}\nassistant:" for prompt in PROMPTS]
    answers = connect("chat", system_prompt=SYSTEM).complete(PROMPTS, GREEDY)
    assert texts(answers) == texts(local.complete(rendered, GREEDY))


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_first_tokens_are_told_and_the_likeliest_was_taken(connect, endpoint):
    backend = connect(endpoint)
    answers = backend.complete(PROMPTS, Sampling(max_new_tokens=1, first_tokens=50))
    assert backend.description.settings["first_tokens"] == "20"  # vLLM tells no more
    for answer in answers:
        assert len(answer.first_tokens) == 20
        assert all(value < 0 for value in answer.first_tokens.values())
        assert answer.text == max(answer.first_tokens, key=answer.first_tokens.__getitem__)


def test_sampled_answers_repeat_with_their_seed(connect):
    backend = connect("completions", concurrency=1)
    first, again, other = (
        texts(backend.complete(PROMPTS[:6], Sampling(max_new_tokens=8, temperature=1.5, seed=seed)))
        for seed in (3, 3, 4)
    )
    assert first == again != other


def test_prompt_longer_than_the_context_window_is_an_error_that_hides_it(connect):
    backend = connect("completions")
    prompt = "secret " * 100
    with pytest.raises(BackendError, match=r"HTTP 400.*context") as raised:
        backend.complete([prompt], GREEDY)
    assert "secret" not in str(raised.value)


def test_model_that_is_not_served_is_an_error_naming_the_one_that_is(connect):
    with pytest.raises(BackendError, match=f"served are: {SERVED}"):
        connect("completions", model="gpt-4")
