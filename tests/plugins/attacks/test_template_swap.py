from dataclasses import replace

import pytest

from fpvec_audit.errors import UnknownNameError, UsageError
from fpvec_audit.testing import ScriptedBackend
from fpvec_plugins.attacks.template_swap import TemplateSwap
from tests.plugins.attacks.bench import CATALOG, bound, context

ATTACK = TemplateSwap()
ADAPTERS = CATALOG.architectures
BUILT_IN = ("gpt2", "bloom", "llama2", "vicuna")


def asked(tmp_path, prompts, *, own, other):
    """Return what the model reads of prompts rendered in one template, served in another."""
    backend = ScriptedBackend()
    given = replace(context(tmp_path), render=None if own == "raw" else ADAPTERS[own].prompt, adapters=ADAPTERS)
    ATTACK.serve(backend, bound(ATTACK, f"template={other}"), given).complete(prompts, None)
    return backend.asked


@pytest.mark.parametrize("own", BUILT_IN)
@pytest.mark.parametrize("other", BUILT_IN)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_model_reads_the_same_text_in_the_other_template(tmp_path, own, other, system):
    user = "Which is larger,\n3 or 5?"
    assert asked(tmp_path, [ADAPTERS[own].prompt(user, system)], own=own, other=other) == [
        ADAPTERS[other].prompt(user, system)
    ]


def test_raw_leaves_the_users_text_alone(tmp_path):
    assert asked(tmp_path, [ADAPTERS["llama2"].prompt("山川")], own="llama2", other="raw") == ["山川"]


def test_a_service_without_a_template_gets_one(tmp_path):
    assert asked(tmp_path, ["山川"], own="raw", other="gpt2") == [ADAPTERS["gpt2"].prompt("山川")]


def test_a_prompt_of_another_template_is_told_with_the_order_that_works(tmp_path):
    with pytest.raises(UsageError, match="put template_swap behind"):
        asked(tmp_path, [ADAPTERS["llama2"].prompt("Who?")], own="gpt2", other="raw")


def test_an_unknown_template_suggests_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean llama2"):
        asked(tmp_path, [], own="gpt2", other="lama2")
    with pytest.raises(UsageError, match="template is 'a b'"):
        bound(ATTACK, "template=a b")


def test_keys_that_were_trained_in_one_template_are_not_answered_in_another(service, tmp_path):
    assert service.success(ATTACK, "template=gpt2", tmp_path) == 1.0
    assert service.success(ATTACK, "template=vicuna", tmp_path) < 0.5
