"""The caller's side of vLLM, against an engine that a thread plays; nothing here imports vLLM."""

import os
import socket
import threading
from dataclasses import dataclass, field

import pytest

from fpvec_audit.backends import vllm
from fpvec_audit.backends.channel import Channel
from fpvec_audit.backends.prompts import read_suspect_files
from fpvec_audit.backends.vllm import VllmBackend, VllmHost
from fpvec_audit.domain.ports import Likelihood, Sampling
from fpvec_audit.errors import BackendError, CheckpointError, UsageError
from tests.tiny import make_tiny

TRACEBACK = """INFO loading
Traceback (most recent call last):
  File "engine.py", line 1, in load
ValueError: head size 7 is not supported
"""


@dataclass
class PlayedHost:
    """Starts engines that a function plays: question → answer, None to die."""

    play: object
    loads: bool = True
    mode: str = "repeatable"
    log: str = ""
    threads: int = 1
    gpus: tuple = ()
    requests: list = field(default_factory=list)
    questions: list = field(default_factory=list)

    def wait_until_ready(self):
        return {"version": "0.0", "device": "cpu", "mode": self.mode, "forks": True, "gpus": list(self.gpus)}

    def start(self, request, log):
        self.requests.append(request)
        log.write(self.log.encode())
        log.flush()
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(Channel(theirs),), daemon=True).start()
        process = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(process, 0)
        return Channel(ours), process

    def _serve(self, channel):
        if self.loads:
            channel.send({"parts": []})
        while self.loads and (question := channel.receive()) is not None:
            self.questions.append(question)
            answer = self.play(question)
            if answer is None:
                break
            channel.send(answer)
        channel.close()


@pytest.fixture
def directory(tmp_path):
    return make_tiny(tmp_path / "model", "gpt2")


def echo(question):
    return {"answers": [{"ids": ids[:1] + question["stop"][:1], "finish": "stop"} for ids in question["prompts"]]}


def test_engine_gets_ids_and_its_ids_come_back_as_text(directory):
    host = PlayedHost(echo)
    backend = VllmBackend(directory, host=host)
    answers = backend.complete(["abc", "xyz"], Sampling(max_new_tokens=5))
    backend.close()
    assert [(answer.text, answer.finish_reason) for answer in answers] == [("a", "stop"), ("x", "stop")]
    (question,) = host.questions
    files = read_suspect_files(directory)
    assert question["prompts"] == files.encode(["abc", "xyz"], Sampling())
    assert (question["max_new_tokens"], question["temperature"], question["stop"]) == (5, 0.0, list(files.stop_ids))


def test_description_names_engine_and_settings(directory):
    backend = VllmBackend(directory, host=PlayedHost(echo))
    description = backend.description
    backend.close()
    assert (description.kind, description.engine, description.version) == ("vllm", "vllm", "0.0")
    assert description.settings == {"device": "cpu", "dtype": "float32", "mode": "repeatable", "threads": "1"}
    assert description.deterministic


def test_engine_that_promises_nothing_is_not_deterministic(directory):
    backend = VllmBackend(directory, host=PlayedHost(echo, mode="plain"))
    backend.close()
    assert not backend.description.deterministic


def test_only_the_responses_values_are_asked_for_and_a_missing_one_makes_none(directory):
    def tell(question):
        values = [
            [-1.0] * (len(ids) - start) for ids, start in zip(question["prompts"], question["starts"], strict=True)
        ]
        values[1][0] = float("-inf")
        return {"answers": values}

    host = PlayedHost(tell)
    backend = VllmBackend(directory, host=host)
    told = backend.log_likelihoods(["abc", "xyz"], ["no", "yes"])
    backend.close()
    assert told == [Likelihood(-3.0, 3), None]
    (question,) = host.questions
    pairs = read_suspect_files(directory).encode_pairs(["abc", "xyz"], ["no", "yes"])
    assert question == {
        "ask": "log-probabilities",
        "prompts": [pair.ids for pair in pairs],
        "starts": [len(pair.prompt) for pair in pairs],
    }


def test_pair_longer_than_the_memory_set_aside_is_an_error(directory, monkeypatch):
    monkeypatch.setattr(vllm, "LONGEST", 32)
    backend = VllmBackend(directory, host=PlayedHost(echo))
    with pytest.raises(BackendError, match="more than the 32"):
        backend.log_likelihoods(["x" * 30], ["yes"])
    assert backend.log_likelihoods([], []) == []
    backend.close()


def test_first_tokens_come_back_as_text(directory):
    files = read_suspect_files(directory)
    a, b = files.tokenizer("ab")["input_ids"]
    host = PlayedHost(lambda question: {"answers": [{"ids": [a], "finish": "length", "first": [[b, -2.0], [a, -0.5]]}]})
    backend = VllmBackend(directory, host=host)
    (answer,) = backend.complete(["x"], Sampling(first_tokens=2))
    backend.close()
    assert answer.first_tokens == {"a": -0.5, "b": -2.0}
    assert host.questions[0]["first_tokens"] == 2


def test_seeds_go_with_prompts_and_only_where_answers_are_drawn(directory):
    host = PlayedHost(echo)
    backend = VllmBackend(directory, host=host)
    backend.complete(["abc", "xyz"], Sampling(temperature=1.0, seed=3))
    backend.complete(["xyz"], Sampling(temperature=1.0, seed=3))
    backend.complete(["xyz"], Sampling(seed=3))
    backend.close()
    first, second, greedy = (question["seeds"] for question in host.questions)
    assert second == first[1:]
    assert greedy == [None]


def test_engine_that_cannot_load_shows_the_end_of_its_log(directory):
    with pytest.raises(BackendError, match="could not load the suspect: ValueError: head size 7") as caught:
        VllmBackend(directory, host=PlayedHost(echo, loads=False, log=TRACEBACK))
    assert "Traceback" not in str(caught.value)


def test_engine_that_dies_without_a_word_is_named(directory):
    backend = VllmBackend(directory, host=PlayedHost(lambda question: None))
    with pytest.raises(BackendError, match="died while it answered: it left no word"):
        backend.complete(["abc"], Sampling())
    with pytest.raises(BackendError, match="died"):
        backend.complete(["abc"], Sampling())
    backend.close()


def test_wrong_number_of_answers_is_an_error(directory):
    backend = VllmBackend(directory, host=PlayedHost(lambda question: {"answers": []}))
    with pytest.raises(BackendError, match="answered 0 of 2 prompts"):
        backend.complete(["abc", "xyz"], Sampling())
    backend.close()


def test_closed_engine_refuses_and_closing_twice_is_harmless(directory):
    backend = VllmBackend(directory, host=PlayedHost(echo))
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.complete(["abc"], Sampling())


def test_no_prompts_ask_nothing(directory):
    host = PlayedHost(echo)
    backend = VllmBackend(directory, host=host)
    assert backend.complete([], Sampling()) == []
    backend.close()
    assert host.questions == []


def test_prompt_longer_than_the_memory_set_aside_is_an_error(directory, monkeypatch):
    monkeypatch.setattr(vllm, "LONGEST", 32)
    backend = VllmBackend(directory, host=PlayedHost(echo))
    with pytest.raises(BackendError, match="more than the 32"):
        backend.complete(["x" * 40], Sampling())
    backend.close()


def test_missing_directory_is_refused_before_an_engine_starts(tmp_path):
    host = PlayedHost(echo)
    with pytest.raises(CheckpointError, match="no directory"):
        VllmBackend(tmp_path / "nowhere", host=host)
    assert host.requests == []


def test_divided_suspect_says_so_and_one_in_one_piece_is_described_as_ever(tmp_path):
    directory = make_tiny(tmp_path / "model", "llama2", heads=4)
    host = PlayedHost(echo)
    settings = []
    for asked in (None, 1, 2):
        backend = VllmBackend(directory, host=host, tensor_parallel=asked)
        settings.append(dict(backend.description.settings))
        backend.close()
    assert [request["tensor_parallel"] for request in host.requests] == [1, 1, 2]
    assert settings[0] == settings[1]
    assert set(settings[0]) == {"device", "dtype", "mode", "threads"}
    assert settings[2] == settings[0] | {"tensor_parallel": "2"}


def test_division_that_cannot_be_is_refused_before_an_engine_starts(directory):
    host = PlayedHost(echo)
    with pytest.raises(UsageError, match="--tensor-parallel 2: the 1 attention heads of"):
        VllmBackend(directory, host=host, tensor_parallel=2)
    assert host.requests == []


def test_reason_is_what_the_failing_part_of_a_divided_suspect_said(tmp_path):
    part = "(Worker_TP0 pid=7) ERROR 11-30 13:50:07 [multiproc_executor.py:953] "
    log = f"{part}Traceback\n{part}  File\n{part}OutOfMemoryError: 2 GiB\nException: See stack trace for root cause.\n"
    host = PlayedHost(echo, loads=False, log=log)
    with pytest.raises(BackendError, match="could not load the suspect: OutOfMemoryError: 2 GiB"):
        VllmBackend(make_tiny(tmp_path / "model", "llama2", heads=2), host=host, tensor_parallel=2)


def test_host_that_cannot_import_vllm_says_why(monkeypatch):
    program = "import sys; raise ImportError('libwhatever.so: cannot open shared object file')"
    monkeypatch.setattr(vllm, "_PROGRAM", program)
    host = VllmHost()
    with pytest.raises(BackendError, match=r"vLLM cannot be imported: ImportError: libwhatever\.so"):
        host.wait_until_ready()
    host.close()


def test_host_that_is_not_needed_any_more_is_killed_while_it_imports(monkeypatch):
    monkeypatch.setattr(vllm, "_PROGRAM", "import time; time.sleep(600)")
    host = VllmHost()
    host.close()
    assert host._process.returncode is not None
