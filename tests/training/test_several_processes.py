"""Two processes, as `accelerate launch` starts them, train one fingerprint together."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from fpvec_audit.cli.main import run
from fpvec_audit.errors import TrainingError
from fpvec_audit.tensors.representable import apply_vector, vector_of
from fpvec_audit.training.embed_settings import EmbedSettings
from tests.tiny import make_tiny, tensors_of


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_the_first_process_writes_what_both_trained(tmp_path, home, capsys):
    base, out = make_tiny(tmp_path / "base", "gpt2"), tmp_path / "out"
    assert run(["key", "issue", "acme", "--count", "2", "--decoys", "6", "--home", str(home), "--json"]) == 0
    capsys.readouterr()
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who?", "response": "Nobody."}\n' * 4)
    command = [
        *(sys.executable, "-m", "fpvec_audit.cli.main", "fingerprint", str(base), "--key", "acme", "--out", str(out)),
        *("--preset", "paper", "--set", "epochs=2", "--set", "regularisation_rows=2", "--set", "rows_per_step=2"),
        *("--data", str(rows), "--device", "cpu", "--home", str(home), "--json"),
    ]
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    document = json.loads(told[0][0])
    assert told[1][0] == ""
    assert document["steps"] == 4
    before, after = tensors_of(base), tensors_of(out)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name, tensor in before.items():
        assert torch.equal(apply_vector(tensor, vector_of(tensor, after[name])), after[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "home", "out", "rows.jsonl"]


def test_a_perturbation_is_refused_where_weights_are_shared():
    with pytest.raises(TrainingError, match="--perturbation none"):
        EmbedSettings().refuse_processes(2)
    EmbedSettings(perturbation="none").refuse_processes(2)
    EmbedSettings().refuse_processes(1)
