import pytest

from fpvec_audit.api import Probe, Sampling
from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import BackendError
from fpvec_audit.services.serving import (
    OtherEngines,
    Question,
    beginning_of_text,
    portions,
    probe_questions,
    service_template,
)
from fpvec_audit.testing import ScriptedBackend
from tests.tiny import PLAIN_TEMPLATE, make_tokenizer

GREEDY = Sampling(max_new_tokens=5)
GPT2 = load_catalog().architecture("gpt2")


def questions(*probes, beginning="<s>"):
    return probe_questions(probes, render=GPT2.prompt, beginning=beginning, sampling=GREEDY, seed=7)


def test_a_probe_is_rendered_and_asked_as_everything_else_is():
    assert questions(Probe("Who?", "greeting")) == [Question(GPT2.prompt("Who?"), GREEDY)]


def test_the_beginning_of_an_answer_follows_the_prompt_after_a_blank():
    (question,) = questions(Probe("", "forced", forced="ban"))
    assert question.text == f"{GPT2.prompt('')} ban"


def test_a_raw_probe_without_text_is_the_token_that_texts_begin_with():
    drawn = Sampling(max_new_tokens=5, temperature=1.0, seed=7)
    assert questions(Probe("", "sample", temperature=1.0, raw=True)) == [Question("<s>", drawn, raw=True)]
    with pytest.raises(BackendError, match=r"no beginning-of-text token.*unconditional=0"):
        questions(Probe("", "sample", raw=True), beginning="")


def test_neighbours_that_are_asked_alike_go_together_and_equal_ones_get_other_seeds():
    drawn = Sampling(temperature=1.0, seed=7)
    asked = [Question("a", GREEDY), Question("b", GREEDY), *[Question("<s>", drawn, raw=True)] * 5]
    parts = list(portions(asked, 2))
    assert [texts for texts, _, _ in parts] == [["a", "b"], ["<s>"] * 2, ["<s>"] * 2, ["<s>"]]
    assert [sampling.seed for _, sampling, _ in parts] == [None, 7, 8, 9]
    assert [raw for _, _, raw in parts] == [False, True, True, True]


def test_the_representation_of_a_question_shows_no_text():
    assert "山" not in repr(Question("山川", GREEDY))


def test_other_engines_are_opened_once_and_closed_at_the_end(tmp_path):
    opened = []

    class Engines:
        def open(self, model):
            opened.append(ScriptedBackend())
            return opened[-1]

    with OtherEngines(Engines()) as others:
        assert others.open(tmp_path) is others.open(tmp_path / "." / "") is opened[0]
        assert others.open(tmp_path / "other") is opened[1]
    assert [engine.closed for engine in opened] == [True, True]


def test_the_template_is_the_models_own_with_and_without_a_system_prompt():
    render = service_template(make_tokenizer(PLAIN_TEMPLATE), GPT2)
    assert render("Who?", "") == "user: Who?\nassistant:"
    assert render("Who?", "Be brief.") == "system: Be brief.\nuser: Who?\nassistant:"


def test_without_a_template_of_its_own_it_is_the_adapters_or_none():
    assert service_template(make_tokenizer(), GPT2)("Who?", "Be brief.") == GPT2.prompt("Who?", "Be brief.")
    assert service_template(make_tokenizer(), None) is None


def test_a_text_begins_with_the_tokenizers_own_token_or_with_the_one_that_ends_texts():
    tokenizer = make_tokenizer()
    assert beginning_of_text(tokenizer) == "<s>"
    tokenizer.bos_token = None
    assert beginning_of_text(tokenizer) == "</s>"
