import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.serving import PromptTemplate, RenderedPrompt, served
from fpvec_audit.errors import CheckpointError
from fpvec_audit.testing import ScriptedBackend

ADAPTERS = load_catalog().architectures
USERS = ("Who?", "two\nlines", "山川", "[INST] Human: ASSISTANT:", "")
SYSTEMS = ("", "Be brief.", "Line one.\nLine two.")


@pytest.mark.parametrize("name", ["gpt2", "bloom", "llama2", "vicuna"])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("answer", ["", " ban"])
def test_what_was_rendered_is_read_back_and_rendered_alike(name, system, user, answer):
    template = PromptTemplate(ADAPTERS[name].prompt)
    text = ADAPTERS[name].prompt(user, system) + answer
    parts = template.read(text)
    assert parts == RenderedPrompt(user, system, answer)
    assert template.write(parts) == text


def test_a_prompt_of_another_template_is_not_read():
    assert PromptTemplate(ADAPTERS["llama2"].prompt).read(ADAPTERS["gpt2"].prompt("Who?")) is None


def test_without_a_template_the_text_is_the_users():
    template = PromptTemplate(None)
    assert template.read("Who?") == RenderedPrompt("Who?")
    assert template.write(RenderedPrompt("Who?", "Be brief.")) == "Be brief.\nWho?"
    assert template.beginning == ""


def test_a_template_without_a_place_for_a_system_prompt_is_read_without_one():
    def render(user, system):
        if system:
            raise CheckpointError("no system role")
        return f"<{user}>"

    template = PromptTemplate(render)
    assert template.read("<Who?>") == RenderedPrompt("Who?")
    assert template.beginning == "<"
    with pytest.raises(CheckpointError):
        template.write(RenderedPrompt("Who?", "Be brief."))


def test_the_representation_shows_no_text():
    assert "山" not in repr(RenderedPrompt("山川", "海", "林"))


def test_an_attack_that_serves_is_asked_to_and_another_one_wraps():
    class Wraps:
        def wrap(self, backend, parameters):
            return (backend, parameters)

    class Serves(Wraps):
        def serve(self, backend, parameters, context):
            return (backend, parameters, context)

    backend = ScriptedBackend()
    assert served(Wraps(), backend, 1, None) == (backend, 1)
    assert served(Serves(), backend, 1, "context") == (backend, 1, "context")
