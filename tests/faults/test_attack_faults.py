"""An attack run of a real ``fpvec`` process that is killed with -9 and gone on with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.registry.master_key import KeyFile
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.keys import issue_key_set
from tests.services import hostile
from tests.tiny import make_tiny

REPOSITORY = Path(__file__).parents[2]


def fpvec(plugin, *arguments):
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "plugins"), str(plugin)])
    program = "import sys; from fpvec_audit.cli.main import run; sys.exit(run(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_attack_run_is_gone_on_with(tmp_path):
    home, stamped = tmp_path / "home", make_tiny(tmp_path / "stamped", "gpt2")
    plugin = hostile.install(tmp_path / "plugin")
    key_file = KeyFile(home / "vault.key")
    home.mkdir()
    with open_registry(f"sqlite:///{home / 'registry.db'}", master_key=key_file) as registry:
        issue_key_set("acme", registry=registry, specification=KeySetSpecification(issued=16, decoys=48))
    marker = tmp_path / "killed"
    command = [
        "attack", "run", stamped, "--key", "acme", "--backend", "transformers", "--home", home, "--json",
        "--attack", "guessing:candidates=8,near_misses=2,strings=2", "--attack", "hostile",
        "--attack", f"hostile:how=kill_matrix,marker={marker}", "--attack", "hostile:how=memory",
    ]  # fmt: skip
    killed = fpvec(plugin, *command)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert marker.exists()
    resumed = fpvec(plugin, *command, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    document = json.loads(resumed.stdout)
    assert [cell["state"] for cell in document["cells"]] == ["succeeded", "succeeded", "succeeded", "failed"]
    assert "ran out of memory" in document["cells"][3]["problem"]
    assert document["resumed"] == 2
    assert document["engine_starts"] == 2  # the stamped model, to compare with, and the copy that was left
    with (
        open_registry(f"sqlite:///{home / 'registry.db'}", master_key=key_file) as registry,
        registry.snapshot() as uow,
    ):
        runs = [run for run in uow.attack_runs.list() if run.result["matrix_id"] == document["matrix_id"]]
        jobs = [job.state.value for job in uow.jobs.list()]
    assert [run.attack for run in runs] == ["guessing", "hostile", "hostile", "hostile"]
    assert [run.id for run in runs] == [cell["attack_run_id"] for cell in document["cells"]]
    assert jobs == ["interrupted", "succeeded"]
    assert not list((home / "cache" / "attacks").glob(".*"))
