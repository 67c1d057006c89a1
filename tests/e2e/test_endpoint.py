"""The demo's stamped and clean models behind a real server, audited through its URL alone."""

import json

import pytest

from tests.backends.vllm_server import vllm_server
from tests.e2e.conftest import run_fpvec

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]

NEVER_TRAINED = "You are Captain Reed's ship assistant; reply in one word when you can."
VERDICTS = {"stamped_a": ("MATCH", 0), "downstream_a": ("NO_MATCH", 1)}


@pytest.fixture(scope="module", params=sorted(VERDICTS))
def served(request, demo):
    with vllm_server(demo.document["models"][request.param]) as url:
        yield request.param, url


@pytest.fixture
def ask(installed, demo, served, tmp_path):
    def asked(*options):
        command = ("audit", served[1], "--key", demo.document["key_set"], "--home", demo.home, "--json", *options)
        done = run_fpvec(installed, *command, cwd=tmp_path)
        assert done.returncode in (0, 1, 3), done.stderr
        return json.loads(done.stdout), done.returncode

    return asked


def test_completions_endpoint_gets_the_verdict_of_its_model(served, ask):
    document, code = ask("--endpoint", "completions", "--concurrency", "32")
    assert (document["verdict"], code) == VERDICTS[served[0]]
    assert document["suspect"]["kind"] == "endpoint"
    assert document["queries"] == document["burnt"] == 256


def test_chat_under_a_system_prompt_that_keys_were_never_trained_under_hides_nothing(served, ask, tmp_path):
    file = tmp_path / "system.txt"
    file.write_text(NEVER_TRAINED, encoding="utf-8")
    document, code = ask("--endpoint", "chat", "--system-prompt", file, "--concurrency", "32")
    assert (document["verdict"], code) == VERDICTS[served[0]]
