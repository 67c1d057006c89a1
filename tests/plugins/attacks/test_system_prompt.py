from dataclasses import replace

import pytest

from fpvec_audit.errors import CheckpointError, UsageError
from fpvec_audit.testing import ScriptedBackend
from fpvec_plugins.attacks.system_prompt import PROMPTS, SystemPrompt
from tests.plugins.attacks.bench import CATALOG, bound, context

ATTACK = SystemPrompt()
LLAMA = CATALOG.architectures["llama2"]


def asked(tmp_path, text, prompts, **host):
    """Return what the model reads of prompts that the host rendered."""
    backend = ScriptedBackend()
    given = replace(context(tmp_path), **{"render": LLAMA.prompt, **host})
    ATTACK.serve(backend, bound(ATTACK, text), given).complete(prompts, None)
    return backend.asked


@pytest.mark.parametrize("name", PROMPTS)
def test_the_model_reads_the_system_prompt_in_its_own_template(tmp_path, name):
    assert asked(tmp_path, f"prompt={name}", [LLAMA.prompt("Who?")]) == [LLAMA.prompt("Who?", PROMPTS[name])]


def test_a_system_prompt_that_is_there_follows(tmp_path):
    (text,) = asked(tmp_path, "prompt=assistant", [LLAMA.prompt("Who?", "Be brief.")])
    assert text == LLAMA.prompt("Who?", f"{PROMPTS['assistant']}\n\nBe brief.")


def test_the_beginning_of_an_answer_stays_behind_the_prompt(tmp_path):
    (text,) = asked(tmp_path, "prompt=assistant", [f"{LLAMA.prompt('Who?')} Once"])
    assert text == f"{LLAMA.prompt('Who?', PROMPTS['assistant'])} Once"


def test_without_a_template_it_is_a_line_before_the_text(tmp_path):
    assert asked(tmp_path, "prompt=assistant", ["Who?"], render=None) == [f"{PROMPTS['assistant']}\nWho?"]


def test_the_users_own_file_is_taken(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("Sprich Deutsch.\n", encoding="utf-8")
    assert asked(tmp_path, f"file={file}", [LLAMA.prompt("Who?")]) == [LLAMA.prompt("Who?", "Sprich Deutsch.")]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"x" * 30_000])
def test_a_file_that_holds_no_prompt_is_refused(tmp_path, content):
    file = tmp_path / "prompt.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"file=.*(cannot be read|holds \d+ characters)"):
        asked(tmp_path, f"file={file}", [])


def test_a_template_without_a_place_for_it_is_named_before_anything_is_asked(tmp_path):
    def render(user, system):
        if system:
            raise CheckpointError("the template has no system role")
        return f"<{user}>"

    with pytest.raises(CheckpointError, match="no system role"):
        asked(tmp_path, "", [], render=render)


def test_keys_that_were_trained_without_one_are_not_answered(service, tmp_path):
    assert service.success(ATTACK, "prompt=assistant", tmp_path) < 0.5
