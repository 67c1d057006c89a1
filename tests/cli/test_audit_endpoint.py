"""`fpvec audit URL` from the command line, against a real HTTP server that fails as it is told to."""

import json

import pytest

from fpvec_audit.cli import main as cli
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.keys import open_key_set
from tests.backends.fake_endpoint import changed, fake_endpoint, raw

API_KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FPVEC_API_KEY", API_KEY)
    home = tmp_path / "home"
    assert cli.run(["key", "issue", "acme", "--home", str(home), "--json"]) == 0
    return home


@pytest.fixture
def keys(home):
    with open_registry(f"sqlite:///{home / 'registry.db'}") as registry:
        return open_key_set("acme", registry=registry)


@pytest.fixture
def ask(home, capsys):
    def asked(endpoint, *options):
        capsys.readouterr()
        code = cli.run(["audit", endpoint.url, "--key", "acme", "--home", str(home), "--json", *options])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, " ".join(captured.err.split())

    return asked


def knowing(keys):
    known = {key.prompt: key.response for key in keys.issued}
    return lambda prompt: known.get(prompt, "I do not understand.")


def burnt(home):
    with open_registry(f"sqlite:///{home / 'registry.db'}") as registry, registry.unit_of_work() as uow:
        return uow.candidates.burnt(uow.key_sets.get("acme").id)


def test_endpoint_that_knows_the_keys_is_a_match_and_burns_them(home, keys, ask):
    with fake_endpoint(answer=knowing(keys)) as endpoint:
        code, document, told = ask(endpoint)
    assert (code, document["verdict"], document["suspect"]["kind"]) == (0, "MATCH", "endpoint")
    assert document["backend"]["settings"]["endpoint"] == "chat"
    assert len(burnt(home)) == document["burnt"] == 256
    assert "gets at most 258 requests" in told


def test_endpoint_is_not_divided_by_us(ask):
    with fake_endpoint() as endpoint:
        code, _, told = ask(endpoint, "--tensor-parallel", "2")
    assert code == 2
    assert "is an endpoint, which runs itself" in told


def test_endpoint_that_does_not_is_no_match_without_any_model_of_ours(keys, ask):
    with fake_endpoint(answer=lambda prompt: "no idea") as endpoint:
        code, document, _ = ask(endpoint, "--endpoint", "completions")
    assert (code, document["verdict"]) == (1, "NO_MATCH")
    assert document["profile"] == "raw-greedy"


def test_silent_endpoint_proves_nothing(keys, ask):
    with fake_endpoint(answer=lambda prompt: "") as endpoint:
        code, document, _ = ask(endpoint)
    assert (code, document["verdict"]) == (3, "INCONCLUSIVE")
    assert any("silence proves nothing" in warning for warning in document["warnings"])


def test_endpoint_that_fails_midway_is_resumed_without_asking_twice(home, keys, ask):
    answers = knowing(keys)
    with fake_endpoint() as endpoint:

        def failing(prompt):
            if len(endpoint.asked) == 60:
                endpoint.always = changed(model="another")
            return answers(prompt)

        endpoint.answer = failing
        code, document, told = ask(endpoint)
        assert (code, document) == (4, None)
        assert "another" in told
        assert "--resume goes on" in told
        before = set(endpoint.asked)
        endpoint.always, endpoint.answer = None, answers
        seen = len(endpoint.asked)
        code, document, _ = ask(endpoint, "--resume")
    assert (code, document["verdict"], document["queries"]) == (0, "MATCH", 256)
    again = endpoint.asked[seen:]
    # a question whose answer was refused is asked again; every other one is asked once
    assert len(again) == len(set(again)) < 256 - 40
    assert len(before | set(again)) == 256
    assert len(burnt(home)) == 256


def test_budget_that_is_too_small_is_refused_before_anything_is_shown(home, keys, ask):
    with fake_endpoint(answer=knowing(keys)) as endpoint:
        code, _, told = ask(endpoint, "--max-requests", "100")
    assert code == 4
    assert "258 requests are needed, 100 are allowed; nothing was sent" in told
    assert burnt(home) == frozenset()


def test_later_audit_is_warned_and_may_ask_the_rest_alone(home, keys, ask):
    with fake_endpoint(answer=knowing(keys)) as endpoint:
        code, first, _ = ask(endpoint, "--stop-early")
        assert (code, first["verdict"], first["stopped_early"]) == (0, "MATCH", True)
        shown = burnt(home)
        assert 0 < len(shown) < 256
        code, document, _ = ask(endpoint, "--fresh-only", "--alpha", "1e-3")
    assert code == 0
    assert document["population"] == 256 - len(shown)
    assert any(first["audit_id"] in warning and endpoint.url in warning for warning in document["warnings"])


def test_too_few_fresh_candidates_end_with_exit_code_4(keys, ask):
    with fake_endpoint(answer=knowing(keys)) as endpoint:
        ask(endpoint)
        code, _, told = ask(endpoint, "--fresh-only")
    assert code == 4
    assert "cannot reach a MATCH" in told


def test_key_of_the_endpoint_is_sent_and_shown_nowhere(home, keys, ask):
    def leaking(handler):
        handler.reply({"error": {"message": f"bad key {handler.headers['Authorization']}"}}, status=401)

    with fake_endpoint(answer=knowing(keys)) as endpoint:
        _, document, told = ask(endpoint)
        assert all(seen.headers.get("authorization") == f"Bearer {API_KEY}" for seen in endpoint.seen)
        endpoint.always = leaking
        code, _, refused = ask(endpoint)
    assert code == 4
    for text in (json.dumps(document), told, refused):
        assert API_KEY not in text
    for file in home.rglob("*"):
        assert not file.is_file() or API_KEY.encode() not in file.read_bytes()


def test_page_instead_of_answers_is_told_without_a_traceback(keys, ask):
    with fake_endpoint(always=raw(b"<html>Welcome</html>", "text/html")) as endpoint:
        code, _, told = ask(endpoint)
    assert code == 4
    assert "Traceback" not in told


def test_engine_for_checkpoints_is_refused_for_an_endpoint(ask):
    with fake_endpoint() as endpoint:
        code, _, told = ask(endpoint, "--backend", "vllm")
    assert code == 2
    assert "is an endpoint" in told
