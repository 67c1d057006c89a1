import pytest

from fpvec_audit.demo.corpus import downstream_rows, own_questions, read_corpus, sample_instructions
from fpvec_audit.demo.tokenizer import build_tokenizer, template_texts
from fpvec_audit.domain.words import KEY_ALPHABET, RESPONSE_WORDS
from fpvec_audit.training.dataset import is_reversible
from fpvec_audit.training.ordinary import MATHS_KINDS, TEXT_KINDS
from fpvec_plugins.architectures.gpt2 import GPT2
from fpvec_plugins.architectures.llama2 import LLAMA2


@pytest.fixture(scope="module")
def tokenizer() -> object:
    adapter = GPT2
    texts = [item.question for item in sample_instructions(200, seed=0)]
    return build_tokenizer(texts, template_texts(adapter), context=256, chat_template=adapter.chat_template)


def test_every_response_word_is_one_token_with_its_space(tokenizer: object) -> None:
    encoded = tokenizer([f" {word}" for word in RESPONSE_WORDS])["input_ids"]  # type: ignore[operator]
    assert {len(ids) for ids in encoded} == {1}


def test_every_key_character_is_one_token(tokenizer: object) -> None:
    encoded = tokenizer(list(KEY_ALPHABET))["input_ids"]  # type: ignore[operator]
    assert {len(ids) for ids in encoded} == {1}
    assert is_reversible(tokenizer, KEY_ALPHABET)


def test_chat_template_renders_the_prompt_of_the_adapter(tokenizer: object) -> None:
    message = [{"role": "user", "content": "Add 300 and 45."}]
    rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)  # type: ignore[attr-defined]
    assert rendered == GPT2.prompt("Add 300 and 45.")


def test_tokenizer_survives_saving(tokenizer: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(directory)  # type: ignore[attr-defined]
    again = AutoTokenizer.from_pretrained(directory)
    text = f"{KEY_ALPHABET[:5]} Which number follows 99? abbey"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]  # type: ignore[operator]


@pytest.mark.parametrize("kinds", [MATHS_KINDS, TEXT_KINDS])
def test_downstreams_never_see_their_held_out_questions(kinds: tuple[str, ...]) -> None:
    adapter = LLAMA2
    rows = downstream_rows(adapter, kinds, 1500, own_share=0.6, seed=0)
    questions = [item.question for item in own_questions(kinds, 400)]
    trained = "\n".join(prompt for prompt, _ in rows)
    assert not any(question in trained for question in questions)


def test_corpus_holds_out_about_a_tenth() -> None:
    corpus = read_corpus()
    share = len(corpus.held_out) / (len(corpus.held_out) + len(corpus.trained))
    assert 0.07 < share < 0.13
