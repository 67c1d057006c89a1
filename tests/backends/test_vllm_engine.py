"""Real engines; an engine of the host that they share starts in about two seconds."""

import os
import select
import signal
import subprocess
import sys
import textwrap

import pytest

from fpvec_audit.backends import open_backend, vllm_problem
from fpvec_audit.domain.ports import Sampling
from fpvec_audit.errors import BackendError
from tests.tiny import ARCHITECTURES, edit_json, make_tiny, rewrite

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

PROMPTS = ["a", "a longer prompt than the others", "b c", "漢字", *(f"number {number}" for number in range(70))]
RESPONSES = ["yes", "no more", "漢", "a longer response", *(f"answer {number}" for number in range(70))]


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def ends(process):
    """Wait until a process that is not our child is gone."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    gone = bool(select.select([descriptor], [], [], 30)[0])
    os.close(descriptor)
    return gone


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_engines_give_the_same_greedy_answers_and_likelihoods(tmp_path, engines, architecture):
    """Both compute in float32 and add up in other orders: two layers make log-probabilities differ by about 1e-6.

    1e-4 a token leaves room for processors that round otherwise, and is far below what tells two answers apart.
    """
    directory = make_tiny(tmp_path / "model", architecture)
    texts, firsts, likelihoods = [], [], []
    for backend in (engines.open(directory), open_backend("transformers", directory, device="cpu")):
        answers = backend.complete(PROMPTS, Sampling(max_new_tokens=4, first_tokens=30))
        texts.append([answer.text for answer in answers])
        firsts.append([answer.first_tokens for answer in answers])
        likelihoods.append(backend.log_likelihoods(PROMPTS, RESPONSES))
        backend.close()
    assert texts[0] == texts[1]
    for ours, theirs in zip(*likelihoods, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.per_token == pytest.approx(theirs.per_token, abs=1e-4)
    for ours, theirs in zip(*firsts, strict=True):
        shared = set(ours) & set(theirs)
        assert len(shared) >= max(len(ours), len(theirs)) - 1  # the last place may be a tie
        assert [ours[text] for text in shared] == pytest.approx([theirs[text] for text in shared], abs=1e-4)


def test_same_call_gives_the_same_bits_and_company_changes_no_answer(tmp_path, engines):
    directory = make_tiny(tmp_path / "model", "gpt2")
    greedy = Sampling(max_new_tokens=8, first_tokens=5)
    drawn = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9, seed=5)
    seen = []
    for _ in range(2):
        backend = engines.open(directory)
        assert backend.description.deterministic
        for _ in range(2):
            seen.append(
                (
                    backend.complete(PROMPTS, greedy),
                    backend.complete(PROMPTS, drawn),
                    backend.log_likelihoods(PROMPTS, RESPONSES),
                )
            )
        alone = [backend.complete([prompt], drawn)[0].text for prompt in reversed(PROMPTS[:9])]
        backend.close()
        assert [answer.text for answer in seen[-1][1][:9]] == list(reversed(alone))
    assert all(again == seen[0] for again in seen[1:])


def test_more_prompts_than_fit_in_one_batch_draw_their_answers(tmp_path, engines):
    backend = engines.open(make_tiny(tmp_path / "model", "gpt2"))
    prompts = [f"{number} {'word ' * (3 + number % 7)}" for number in range(120)]
    drawn = backend.complete(prompts, Sampling(max_new_tokens=2, temperature=0.7, top_p=0.95, seed=1))
    assert len(drawn) == len(prompts)
    backend.close()


def test_engines_live_side_by_side_and_end_when_closed(tmp_path, engines):
    directory = make_tiny(tmp_path / "model", "gpt2")
    first, second = engines.open(directory), engines.open(directory)
    assert first.process != second.process
    assert first.complete(PROMPTS, Sampling()) == second.complete(PROMPTS, Sampling())
    first.close()
    assert not is_alive(first.process)
    assert second.complete(["a"], Sampling())
    second.close()


def test_engine_that_cannot_load_says_what_vllm_said(tmp_path, engines):
    directory = make_tiny(tmp_path / "model", "gpt2")
    broken = rewrite(directory, tmp_path / "broken", lambda _, tensor: tensor[:1].clone())
    with pytest.raises(BackendError, match=r"could not load the suspect: .*Error"):
        engines.open(broken)


def test_shape_without_a_kernel_shows_while_the_suspect_loads(tmp_path, engines):
    directory = make_tiny(tmp_path / "model", "gpt2", heads=4)
    with pytest.raises(BackendError, match=r"could not load the suspect: RuntimeError: .*head_dim=8"):
        engines.open(directory)


def test_killed_engine_is_an_error_and_its_host_goes_on(tmp_path, engines):
    directory = make_tiny(tmp_path / "model", "gpt2")
    backend = engines.open(directory)
    os.kill(backend.process, signal.SIGKILL)
    with pytest.raises(BackendError, match="died"):
        backend.complete(["a"], Sampling())
    backend.close()
    again = engines.open(directory)
    assert again.complete(["a"], Sampling())
    again.close()


def test_stop_tokens_and_seeds_are_honoured(tmp_path, engines):
    directory = make_tiny(tmp_path / "model", "llama2")
    backend = engines.open(directory)
    sampling = Sampling(max_new_tokens=8, temperature=1.5, seed=3)
    first, again = backend.complete(PROMPTS, sampling), backend.complete(PROMPTS, sampling)
    assert [answer.text for answer in first] == [answer.text for answer in again]
    backend.close()
    edit_json(directory / "generation_config.json", eos_token_id=list(range(259)))
    stopping = engines.open(directory)
    (answer,) = stopping.complete(["a"], Sampling(max_new_tokens=8))
    stopping.close()
    assert (answer.text, answer.finish_reason) == ("", "stop")


def test_bare_script_needs_no_main_guard_and_takes_its_engine_along_when_killed(tmp_path):
    directory = make_tiny(tmp_path / "model", "gpt2")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal
            from fpvec_audit.backends import open_backend
            from fpvec_audit.domain.ports import Sampling
            print("started", flush=True)
            backend = open_backend("vllm", {str(directory)!r})
            assert len(backend.complete(["a"], Sampling())) == 1
            print(backend.process, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    started, process = ended.stdout.split()  # once each: nothing imported the script again
    assert started == "started"
    assert ends(int(process))


def test_doctor_finds_vllm_usable():
    assert vllm_problem() == ""
