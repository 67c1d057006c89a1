"""A real vLLM engine behind lm-eval, beside lm-eval's own class for transformers."""

from types import SimpleNamespace

import pytest

from fpvec_audit.services.lm_eval_models import serve_transformers, serve_vllm
from tests.tiny import make_tiny

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

PAIRS = [("Human: say one\nAssistant:", " one"), ("", "a text without context"), ("end with a space ", "and go on")]
TEXTS = ["short", "a text that is longer than the window of two hundred and fifty-six bytes, " * 5]
UNTIL = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}


def requests(arguments):
    return [SimpleNamespace(args=argument) for argument in arguments]


def test_both_engines_give_lm_eval_the_same_answers(tmp_path, engines):
    directory = make_tiny(tmp_path / "model", "gpt2")
    ours = serve_vllm(directory, engines=engines)
    theirs = serve_transformers(directory)
    told = []
    for served in (ours, theirs):
        pairs = served.model.loglikelihood(requests(PAIRS))
        texts = served.model.loglikelihood_rolling(requests([(text,) for text in TEXTS]))
        answers = served.model.generate_until(requests([(prompt or "x", UNTIL) for prompt, _ in PAIRS]))
        told.append((pairs, texts, answers))
        served.close()
    assert [value for value, _ in told[0][0]] == pytest.approx([value for value, _ in told[1][0]], abs=1e-3)
    assert [greedy for _, greedy in told[0][0]] == [greedy for _, greedy in told[1][0]]
    assert told[0][1][0] == pytest.approx(told[1][1][0], abs=1e-3)
    # windows differ by one token, which vLLM keeps for an answer
    assert told[0][1][1] == pytest.approx(told[1][1][1], rel=0.02)
    assert told[0][2] == told[1][2]
    assert ours.identity != theirs.identity
