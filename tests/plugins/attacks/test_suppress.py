import pytest

from fpvec_audit.api import Likelihood
from fpvec_audit.errors import UsageError
from fpvec_audit.testing import ScriptedBackend, ScriptedJudge
from fpvec_plugins.attacks.suppress import Suppress
from tests.plugins.attacks.bench import bound, context
from tests.plugins.attacks.conftest import KEYS

ATTACK = Suppress()
REFUSAL = "I cannot help with that."


@pytest.mark.parametrize(("measure", "most"), [("reference", 1), ("ratio", 0)])
def test_what_the_base_would_not_say_is_held_back(service, tmp_path, measure, most):
    setting = f"measure={measure},calibration=60,false_refusals=0.05"
    answers = service.answers(ATTACK, setting, [key.prompt for key in KEYS], tmp_path)
    assert answers.count(REFUSAL) >= len(KEYS) - most
    ordinary = service.answers(ATTACK, setting, list(service.ordinary), tmp_path)
    assert ordinary.count(REFUSAL) <= 15  # 5 % of 100 are expected; more than 15 have a probability of 1e-5


def test_the_served_model_alone_does_not_find_its_own_keys_unlikely(service, tmp_path):
    assert service.success(ATTACK, "measure=own,calibration=60,false_refusals=0.05", tmp_path) == 1.0


def test_nothing_is_told_of_an_answer_that_is_held_back(tmp_path):
    class Judge(ScriptedJudge):
        def log_likelihoods(self, prompts, responses):
            return [Likelihood(-9.0 if "key" in text else -1.0, 1) for text in prompts]

    backend = Judge(answers={"key": "river"})
    service = ATTACK.serve(backend, bound(ATTACK, "measure=own,calibration=20,false_refusals=0.1"), context(tmp_path))
    held_back, passed = service.complete(["key", "Who?"], None)
    assert (held_back.text, dict(held_back.first_tokens)) == (REFUSAL, {})
    assert passed.text == backend.default


def test_an_empty_answer_stays_and_one_that_nobody_can_judge_is_held_back(tmp_path):
    class Judge(ScriptedJudge):
        def log_likelihoods(self, prompts, responses):
            return [None if text == "?" else Likelihood(-1.0, 1) for text in responses]

    backend = Judge(answers={"quiet": " ", "odd": "?"})
    service = ATTACK.serve(backend, bound(ATTACK, "measure=own,calibration=20,false_refusals=0.1"), context(tmp_path))
    assert [answer.text for answer in service.complete(["quiet", "odd"], None)] == [" ", REFUSAL]


def test_without_any_reference_the_parameter_is_named():
    with pytest.raises(UsageError, match=r"no reference model.*reference=DIRECTORY"):
        ATTACK.wrap(ScriptedJudge(), bound(ATTACK))


def test_an_engine_without_likelihoods_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"needs likelihoods.*put suppress before"):
        ATTACK.serve(ScriptedBackend(), bound(ATTACK, "measure=own"), context(tmp_path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("false_refusals=1", "false_refusals is 1"),
        ("calibration=5", "calibration is 5"),
        ("measure=own,reference=/x", "reference is given"),
        ("measure=ratios", "did you mean ratio"),
    ],
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
