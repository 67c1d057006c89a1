"""The stamping benchmark runs, checks what it times, and its published page is what it measured."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.llama_checkpoints import BASE_SPREAD, SIZES, check_result, make_checkpoint
from benchmarks.stamping_report import MARKERS, markdown, verdicts, write_docs

ROOT = Path(__file__).parents[2]
RESULTS = {
    "warm": ROOT / "benchmarks" / "stamping_warm.json",
    "dropped": ROOT / "benchmarks" / "stamping.json",
}
DOCS = ROOT / "docs" / "benchmarks.md"
SCRIPT = ROOT / "benchmarks" / "stamping.py"


def contestant(name: str, role: str, *seconds: float, peak: int = 300_000_000) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "bytes": 2_000_000_000,
        "seconds": list(seconds),
        "median_seconds": statistics.median(seconds),
        "peak_memory_bytes": peak,
    }


def contest(kind: str, *contestants: dict[str, Any], skipped: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "contest": kind,
        "size": "1.1B",
        "parameters": 1_000_000_000,
        "model_bytes": 2_000_000_000,
        "shards": 3,
        "cached_share": 0.0,
        "skipped": skipped or {},
        "contestants": list(contestants),
    }


def results(*contests: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "benchmark": "stamping",
        "date": "2026-01-02T03:04:05Z",
        "command": "python benchmarks/stamping.py --size 1.1B --runs 3",
        "runs": 3,
        "page_cache": "dropped",
        "machine": {
            "cpu": "a processor",
            "cores": 2,
            "memory_bytes": 24_000_000_000,
            "kernel": "Linux 6",
            "filesystem": "ext2/ext3",
            "load_average": 0.1,
        },
        "versions": {"fpvec-audit": "0.1.0"},
        "contests": list(contests),
    }


def section(page_cache: str) -> str:
    """Return what stands between the markers of the page."""
    begin, end = MARKERS[page_cache]
    return DOCS.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].strip()


@pytest.mark.parametrize("page_cache", MARKERS)
def test_page_says_what_the_results_say(page_cache):
    document = json.loads(RESULTS[page_cache].read_text(encoding="utf-8"))
    assert document["page_cache"] == page_cache
    assert section(page_cache) == markdown(document)


def test_page_names_the_shapes_that_are_measured():
    page = DOCS.read_text(encoding="utf-8")
    for name, size in SIZES.items():
        if name == "tiny":
            continue
        cells = (name, f"{size.parameters:,}", size.layers, size.hidden, size.intermediate)
        cells = (*cells, f"{size.heads} ({size.kv_heads})", f"{size.vocabulary:,}", size.shards)
        assert f"| {' | '.join(map(str, cells))} |" in page


def test_tables_compare_medians_with_the_floor():
    document = results(
        contest("stamp", contestant("fpvec stamp", "fpvec", 6, 4, 20), contestant("cat + sync", "floor", 2, 3, 9))
    )
    assert "| 1.1B | fpvec stamp | 6.00 | 4.00–20.00 | 300 | 333 | 2.00 |" in markdown(document)


def test_targets_are_decided_by_medians_and_largest_peaks():
    document = results(
        contest(
            "stamp",
            contestant("fpvec stamp", "fpvec", 4, 4, 40, peak=401_000_000),
            contestant("cat + sync", "floor", 2, 2, 2),
            contestant("mergekit", "mergekit", 19, 19, 99),
        ),
        contest("extract", contestant("fpvec", "fpvec", 2), contestant("transformers", "transformers", 8)),
        contest("many", contestant("1", "one", 10), contestant("4", "four", 34)),
    )
    decided = [(verdict.measured, verdict.met) for verdict in verdicts(document)]
    assert decided == [("4.75", False), ("2.00", True), ("4.00", True), ("3.40", False), ("401 MB", False)]


def test_who_did_not_take_part_is_named_with_the_reason():
    document = results(contest("stamp", skipped={"mergekit": "needs about 90 GB of memory"}))
    assert "1.1B, mergekit: not measured – needs about 90 GB of memory." in markdown(document)


def test_writing_the_page_keeps_everything_outside_the_markers(tmp_path):
    page = tmp_path / "page.md"
    begin, end = MARKERS["dropped"]
    page.write_text(f"before\n\n{begin}\nold\n{end}\n\nafter\n", encoding="utf-8")
    document = results(contest("many", contestant("1", "one", 10)))
    write_docs(page, document)
    assert page.read_text(encoding="utf-8") == f"before\n\n{begin}\n\n{markdown(document)}\n\n{end}\n\nafter\n"


def test_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no section"):
        write_docs(page, results())


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Return a directory with a tiny base, fingerprinted and downstream model."""
    make(tmp_path / "base", seed=1)
    make(tmp_path / "fingerprinted", seed=2, of=tmp_path / "base", noise=1e-3)
    make(tmp_path / "downstream", seed=3, of=tmp_path / "base", noise=2e-3)
    return tmp_path


def make(out: Path, *, seed: int, of: Path | None = None, noise: float = BASE_SPREAD) -> bool:
    return make_checkpoint(out, SIZES["tiny"], seed=seed, of=of, noise=noise)


@pytest.mark.slow
def test_checkpoints_of_the_same_recipe_are_kept_and_others_replaced(tmp_path):
    base = tmp_path / "base"
    assert [make(base, seed=seed) for seed in (1, 1, 2)] == [True, False, True]


@pytest.mark.slow
def test_transformers_loads_a_checkpoint_without_missing_tensors(tmp_path):
    from transformers import AutoModelForCausalLM

    make(tmp_path / "base", seed=1)
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert model.num_parameters() == SIZES["tiny"].parameters
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


@pytest.mark.slow
def test_a_result_that_is_not_the_formula_is_refused(tiny):
    models = (tiny / "base", tiny / "fingerprinted")
    with pytest.raises(SystemExit, match="differs from the formula"):
        check_result(tiny / "downstream", *models, downstream=tiny / "downstream")
    with pytest.raises(SystemExit, match="differs from the formula"):
        check_result(tiny / "fingerprinted", *models, downstream=None)


@pytest.mark.slow
def test_benchmark_of_a_tiny_model_measures_every_contestant(tmp_path):
    out = tmp_path / "stamping.json"
    command = [sys.executable, str(SCRIPT), "--size", "tiny", "--runs", "1", "--without", "mergekit"]
    done = subprocess.run(
        [*command, "--dir", str(tmp_path / "bench"), "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    measured = {
        (entry["contest"], item["role"]): item for entry in document["contests"] for item in entry["contestants"]
    }
    assert list(measured) == [
        ("stamp", "fpvec"),
        ("stamp", "floor"),
        ("extract", "fpvec"),
        ("extract", "new"),
        ("extract", "transformers"),
        ("many", "one"),
        ("many", "four"),
    ]
    for item in measured.values():
        assert item["seconds"] == [item["median_seconds"]]
        assert item["peak_memory_bytes"] > 1_000_000
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    assert "fpvec stamp, 4 models" in done.stdout
    assert markdown(document)
