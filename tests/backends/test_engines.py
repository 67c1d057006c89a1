import pytest

import fpvec_audit.backends as backends
from fpvec_audit.backends import INSTEAD_OF_VLLM, Engines, open_backend
from fpvec_audit.domain.ports import Sampling
from fpvec_audit.errors import BackendError, CheckpointError, UnknownNameError, UsageError
from tests.tiny import make_tiny


@pytest.fixture
def without_vllm(monkeypatch):
    monkeypatch.setattr(backends, "_absence", lambda: "vLLM is not installed")
    backends.vllm_problem.cache_clear()
    yield
    backends.vllm_problem.cache_clear()


def test_unknown_backend_suggests_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean transformers"):
        open_backend("transformer", tmp_path)


def test_auto_falls_back_to_transformers_and_says_why(tmp_path, without_vllm):
    directory = make_tiny(tmp_path / "model", "gpt2")
    with Engines("auto", device="cpu") as engines:
        engines.warm_up()
        backend = engines.open(directory)
        assert backend.description.kind == "transformers"
        assert engines.fallback == "vLLM is not installed"
        assert len(backend.complete(["a", "b"], Sampling(max_new_tokens=2))) == 2


def test_suspect_that_vllm_cannot_load_is_run_by_transformers_and_says_why(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise BackendError("head size 8 is not supported")

    monkeypatch.setattr(Engines, "_ready_host", lambda self: None)
    monkeypatch.setattr("fpvec_audit.backends.vllm.VllmBackend", refuse)
    directory = make_tiny(tmp_path / "model", "gpt2")
    with Engines("auto", device="cpu") as engines:
        description = engines.open(directory).description
        assert (description.kind, engines.fallback) == ("transformers", "")
        assert description.settings[INSTEAD_OF_VLLM] == "head size 8 is not supported"
    with Engines("vllm") as engines, pytest.raises(BackendError, match="head size 8"):
        engines.open(directory)


def test_host_on_an_accelerator_serves_one_suspect(tmp_path, monkeypatch):
    hosts = []

    class Host:
        def __init__(self, *, threads):
            hosts.append(self)
            self.closed = False

        def wait_until_ready(self):
            return {"version": "0", "device": "cuda", "forks": False}

        def close(self):
            self.closed = True

    monkeypatch.setattr(backends, "_absence", lambda: "")
    monkeypatch.setattr("fpvec_audit.backends.vllm.VllmHost", Host)
    monkeypatch.setattr("fpvec_audit.backends.vllm.VllmBackend", lambda model, host, tensor_parallel: host)
    with Engines("vllm") as engines:
        engines.warm_up()
        assert engines.open(tmp_path) is not engines.open(tmp_path)
    assert [host.closed for host in hosts] == [True, True]


def test_device_that_this_vllm_does_not_run_on_is_refused(tmp_path, monkeypatch):
    class Host:
        def __init__(self, *, threads):
            self.threads = threads

        def wait_until_ready(self):
            return {"version": "0", "device": "cpu", "forks": True}

        def close(self):
            """Nothing to end."""

    monkeypatch.setattr(backends, "_absence", lambda: "")
    monkeypatch.setattr("fpvec_audit.backends.vllm.VllmHost", Host)
    with Engines("vllm", device="cuda") as engines, pytest.raises(BackendError, match="runs on cpu, not on cuda"):
        engines.open(tmp_path)


def test_vllm_asked_for_by_name_does_not_fall_back(tmp_path, without_vllm):
    with pytest.raises(BackendError, match="vLLM is not installed"):
        open_backend("vllm", make_tiny(tmp_path / "model", "gpt2"))


def test_transformers_by_name_is_no_fallback(tmp_path):
    with Engines("transformers", device="cpu") as engines:
        engines.warm_up()
        assert engines.open(make_tiny(tmp_path / "model", "gpt2")).description.kind == "transformers"
        assert engines.fallback == ""


def test_only_vllm_divides_a_suspect(tmp_path, without_vllm):
    with pytest.raises(UsageError, match="in one piece, not over 2 GPUs"):
        Engines("transformers", tensor_parallel=2)
    with pytest.raises(UsageError, match="--tensor-parallel 0"):
        Engines("vllm", tensor_parallel=0)
    with Engines("auto", tensor_parallel=2) as engines, pytest.raises(BackendError, match="vLLM is not installed"):
        engines.open(tmp_path)
    assert Engines("auto", tensor_parallel=1).kind == "auto"


def test_why_vllm_cannot_be_used_is_remembered(without_vllm):
    assert backends.vllm_problem() == "vLLM is not installed"
    assert backends.vllm_problem.cache_info().currsize == 1


def test_bad_directory_is_no_reason_to_fall_back(tmp_path, without_vllm):
    with pytest.raises(CheckpointError):
        open_backend("auto", tmp_path / "nowhere")


def test_importing_the_package_loads_no_engine():
    import subprocess
    import sys

    program = (
        "import sys, fpvec_audit.backends; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'vllm', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
