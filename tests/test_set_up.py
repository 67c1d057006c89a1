"""What ``make setup`` promised: an environment in which everything imports, and nothing done twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECEIPT = ROOT / ".venv" / "fpvec-set-up.json"
ours = pytest.mark.skipif(
    not RECEIPT.exists() or Path(sys.prefix) != ROOT / ".venv", reason="not running in the environment of make setup"
)


@ours
def test_set_up_ended_where_vllm_imports():
    """It tried; that vLLM imports still is what tests/backends/test_vllm_engine.py begins with."""
    assert json.loads(RECEIPT.read_text(encoding="utf-8"))["vllm"] is True


@ours
def test_a_second_set_up_does_nothing():
    before = RECEIPT.stat().st_mtime_ns
    command = [sys.executable, str(ROOT / "scripts" / "set_up.py"), "--extra", "test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert RECEIPT.stat().st_mtime_ns == before
