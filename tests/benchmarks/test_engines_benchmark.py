"""The benchmark of engines multiplies samples up rightly, and its published page is what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import engines
from benchmarks.engines import BEGIN, END, NAMES, Run, joined, make_prompts, markdown, summary, write_docs

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "engines.json"
DOCS = ROOT / "docs" / "benchmarks.md"


def contest(count, seconds):
    return {
        "prompts": count,
        "contestants": [
            {
                "name": NAMES[role],
                "role": role,
                "asked": 16,
                "scaled": role != "vllm",
                "seconds": [median],
                "median_seconds": median,
                "start_seconds": [5.0],
                "processor_seconds": [7.0],
                "same_answers_as_vllm": 1.0,
            }
            for role, median in seconds.items()
        ],
    }


def document(*contests):
    return {
        "schema_version": 1,
        "benchmark": "engines",
        "date": "2026-01-02T03:04:05Z",
        "command": "python benchmarks/engines.py",
        "runs": 1,
        "threads": 2,
        "new_tokens": 15,
        "suspect": "a suspect",
        "machine": {"cpu": "a processor", "cores": 2, "kernel": "Linux 6", "load_average": 0.1},
        "versions": {"torch": "1"},
        "contests": list(contests),
    }


SECONDS = {"vllm": 10.0, "batched": 20.0, "one": 60.0, "one-asleep": 40.0}


def test_page_says_what_was_met_missed_and_multiplied_up():
    text = markdown(document(contest(128, SECONDS)))
    assert "faster than one at a time: 6.00 times, met." in text
    assert "threads that sleep: 4.00 times, **missed**." in text
    assert text.count("16, multiplied up") == 3


def test_answers_are_compared_prompt_by_prompt():
    runs = [Run(2.0, 1.0, 1.5, {"a": "x", "b": "y"}), Run(4.0, 1.0, 1.5, {"c": "z", "a": "other"})]
    told = summary("one", runs, count=3, reference={"a": "x", "b": "y", "c": "z"})
    assert (told["median_seconds"], told["asked"], told["scaled"]) == (3.0, 2, True)
    assert told["same_answers_as_vllm"] == 0.75


def test_only_the_seconds_between_loading_and_ending_are_multiplied_up(tmp_path, monkeypatch):
    told = {"loaded": 103.0, "answered": 105.0, "start_processor": 1.0, "processor": 4.0, "answers": ["x", "y"]}
    clock = iter([100.0, 106.0])
    monkeypatch.setattr(engines.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
        engines.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, stdout=json.dumps(told), stderr=""),
    )
    run = engines.run_once("one", ["a", "b"], tmp_path, 2, count=10)
    assert (run.seconds, run.start_seconds, run.processor_seconds) == (14.0, 3.0, 16.0)


def test_another_size_is_added_and_the_same_size_replaced():
    both = joined(document(contest(128, SECONDS)), document(contest(1000, SECONDS)))
    assert [entry["prompts"] for entry in both["contests"]] == [128, 1000]
    again = joined(both, document(contest(128, SECONDS | {"vllm": 9.0})))
    assert again["contests"][0]["contestants"][0]["median_seconds"] == 9.0


def test_prompts_are_always_the_same():
    assert make_prompts(3) == make_prompts(5)[:3]
    assert all(85 <= len(prompt) <= 95 for prompt in make_prompts(50))


def test_page_holds_what_was_measured(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    write_docs(copy, results)
    section = copy.read_text(encoding="utf-8").removeprefix("before\n").removesuffix("\nafter\n")
    assert section in DOCS.read_text(encoding="utf-8")


@pytest.mark.slow
def test_benchmark_of_a_tiny_suspect_measures_every_contestant(tmp_path):
    out = tmp_path / "engines.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "engines.py"), "--tiny", "--prompts", "4", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (held,) = json.loads(out.read_text(encoding="utf-8"))["contests"]
    assert [item["role"] for item in held["contestants"]] == list(NAMES)
    assert all(item["same_answers_as_vllm"] == 1.0 for item in held["contestants"])
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
