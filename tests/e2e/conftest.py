"""One GPT-2 demo, told by an installed wheel, serves every slow test."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A fresh environment with our wheel that also sees this one's heavy libraries."""
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = place.glob("*.whl")
    venv.create(place / "environment", with_pip=False)
    python = place / "environment" / "bin" / "python"
    (site,) = (place / "environment" / "lib").glob("python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
    )
    (site / "heavy.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return place / "environment" / "bin" / "fpvec"


def run_fpvec(program, *arguments, cwd):
    """Run the installed console script as a user would, from another directory."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FPVEC_", "PYTHON"))}
    return subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Demo:
    """A finished demo: its home and the document it printed."""

    home: Path
    document: dict[str, Any]


@pytest.fixture(scope="session")
def demo(installed, tmp_path_factory):
    """Tell the GPT-2 story once, with vLLM where it imports."""
    place = tmp_path_factory.mktemp("demo")
    done = run_fpvec(installed, "demo", "--arch", "gpt2", "--home", "home", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return Demo(place / "home", json.loads(done.stdout))
