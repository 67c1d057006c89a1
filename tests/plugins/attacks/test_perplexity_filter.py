import json
from dataclasses import replace

import pytest

from fpvec_audit.errors import UsageError
from fpvec_audit.testing import ScriptedBackend, ScriptedJudge
from fpvec_plugins.attacks.perplexity_filter import PerplexityFilter
from fpvec_plugins.serving import threshold_at
from tests.plugins.attacks.bench import bound, context
from tests.plugins.attacks.conftest import KEYS

ATTACK = PerplexityFilter()
REFUSAL = "I cannot help with that."


@pytest.mark.parametrize("judge", ["reference", "served"])
def test_keys_are_refused_and_ordinary_questions_are_answered(service, tmp_path, judge):
    setting = f"judge={judge},calibration=60,false_refusals=0.05"
    refused = service.answers(ATTACK, setting, [key.prompt for key in KEYS], tmp_path)
    assert refused == [REFUSAL] * len(KEYS)
    answers = service.answers(ATTACK, setting, list(service.ordinary), tmp_path)
    assert answers.count(REFUSAL) <= 15  # 5 % of 100 are expected; more than 15 have a probability of 1e-5


def test_without_a_price_nothing_is_refused(service, tmp_path):
    assert service.success(ATTACK, "calibration=20,false_refusals=0", tmp_path) == 1.0


def test_the_threshold_refuses_at_most_the_stated_fraction():
    scores = [float(number) for number in range(99)]
    assert threshold_at(scores, 0.05) == 4.0  # k = 5 of 100: five scores of 99 at or below, four below
    assert threshold_at(scores, 0.0) == threshold_at(scores, 0.009) == float("-inf")


def test_what_is_refused_is_never_shown_to_the_model(tmp_path):
    class Judge(ScriptedJudge):
        def log_likelihoods(self, prompts, responses):
            told = super().log_likelihoods(prompts, responses)
            return [None if "山" in text else value for text, value in zip(responses, told, strict=True)]

    backend = ScriptedBackend()
    host = replace(context(tmp_path), open_engine=lambda _model: Judge(), base=tmp_path)
    service = ATTACK.serve(backend, bound(ATTACK, "calibration=20,false_refusals=0.1"), host)
    answers = service.complete(["山川", "Who?"], None)
    assert [answer.text for answer in answers] == [REFUSAL, backend.default]
    assert backend.asked == ["Who?"]


def test_the_threshold_is_set_on_the_users_own_questions(service, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": key.prompt, "response": "x"}) for key in KEYS * 10))
    assert service.success(ATTACK, f"data={data},false_refusals=0.05", tmp_path) == 1.0
    data.write_text(json.dumps({"prompt": "one", "response": "x"}))
    with pytest.raises(UsageError, match="which 1 ordinary questions cannot tell from 0"):
        service.success(ATTACK, f"data={data}", tmp_path)


def test_without_any_reference_the_parameter_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no reference model.*reference=DIRECTORY"):
        ATTACK.wrap(ScriptedJudge(), bound(ATTACK))


def test_an_engine_without_likelihoods_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"needs likelihoods.*put perplexity_filter before"):
        ATTACK.serve(ScriptedBackend(), bound(ATTACK, "judge=served"), context(tmp_path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("false_refusals=1", "false_refusals is 1"),
        ("false_refusals=-0.1", "false_refusals is -0.1"),
        ("calibration=19", "calibration is 19"),
        ("calibration=98", "which 98 ordinary questions cannot tell from 0 – give at least 99"),
        ("judge=served,reference=/x", "reference is given"),
    ],
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
