import sys
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from fpvec_audit.cli import reproduce_jobs
from fpvec_audit.cli.reproduce_jobs import Child, work_side_by_side
from fpvec_audit.progress import NO_PROGRESS
from fpvec_audit.reproduction.stages import Stage


@pytest.fixture
def bench(settings, monkeypatch):
    monkeypatch.setattr(reproduce_jobs, "POLL_SECONDS", 0.02)
    said = []
    return SimpleNamespace(
        settings=settings,
        device="cpu",
        registry=SimpleNamespace(close=lambda: None),
        progress=NO_PROGRESS,
        say=said.append,
        said=said,
    )


@dataclass(frozen=True, slots=True)
class Scripted:
    """Starts processes that run a piece of Python, given the name of the base."""

    place: Path
    code: str

    def command(self, base, bench, *, one_thread):
        return [sys.executable, "-c", self.code, base, str(self.place)]


def test_a_process_works_on_one_base_with_all_that_was_asked_for(tmp_path, bench):
    child = Child(None, Path("mine.toml"), Path("rows"), tmp_path, "vllm", ("fsr", "guessing"), ("vector",))
    command = child.command("gpt2", bench, one_thread=False)
    options = command[command.index("reproduce") + 1 :]
    pairs = [("--config", "mine.toml"), ("--bases", "gpt2"), ("--dir", str(tmp_path)), ("--backend", "vllm")]
    pairs += [("--home", str(bench.settings.home)), ("--only", "fsr"), ("--only", "guessing"), ("--again", "vector")]
    assert set(pairs) <= set(pairwise(options))
    assert "--preset" not in options
    assert "--registry" not in options
    assert "OMP_NUM_THREADS=1" in child.command("gpt2", bench, one_thread=True)


COUNT = """\
import sys, time
from pathlib import Path
base, place = sys.argv[1], Path(sys.argv[2])
mark = place / f"{base}.running"
mark.touch()
print(len(list(place.glob("*.running"))), file=sys.stderr)
time.sleep(0.3)
mark.unlink()
sys.exit(70 if base == "b" else 0)
"""


def test_so_many_run_at_a_time_and_one_that_breaks_is_told(tmp_path, bench):
    stages = [Stage(name=f"{base}/base", kind="base") for base in "abcd"]
    work_side_by_side(Scripted(tmp_path, COUNT), "abcd", stages, jobs=2, bench=bench)
    logs = {file.stem: file.read_text().strip() for file in (tmp_path / "logs").iterdir()}
    assert set(logs) == set("abcd")
    assert set(logs.values()) <= {"1", "2"}
    assert bench.said == [f"warning: b ended with exit code 70; {tmp_path / 'logs' / 'b'}.log says why"]


def test_an_interruption_waits_for_what_runs(tmp_path, bench):
    def interrupt(_text):
        raise KeyboardInterrupt

    bench.progress = SimpleNamespace(step=lambda *_arguments: nullcontext(SimpleNamespace(note=interrupt)))
    stages = [Stage(name="a/base", kind="base")]
    with pytest.raises(KeyboardInterrupt):
        work_side_by_side(Scripted(tmp_path, COUNT), ["a"], stages, jobs=2, bench=bench)
    assert (tmp_path / "logs" / "a.log").read_text().strip() == "1"
    assert not list(tmp_path.glob("*.running"))
