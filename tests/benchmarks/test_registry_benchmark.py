"""The benchmark of the registry judges by its slowest case, and its page is what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.registry import BEGIN, END, entry, markdown, write_docs

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "registry.json"
DOCS = ROOT / "docs" / "benchmarks.md"


def document(*, page=5.0, insert=5.0):
    asked = [
        entry("insert", "a stamp", [insert / 1000] * 3, [0.001]),
        entry("lookup", "by digest", [0.001], [0.001]),
        entry("list", "quick", [0.001], [0.001]),
        entry("list", "slow", [page / 1000, page / 1000, 1.0], [0.001]),
        entry("identify", "a part", [0.1], [0.001]),
    ]
    database = {"database": "sqlite", "version": "SQLite 3", "fill_seconds": 1.0, "bytes": 10, "asked": asked}
    return {
        "schema_version": 1,
        "benchmark": "registry",
        "date": "2026-01-02T03:04:05Z",
        "command": "python benchmarks/registry.py",
        "stamps": 10,
        "audits": 1,
        "machine": {"cpu": "a processor", "cores": 2, "kernel": "Linux 6", "load_average": 0.1},
        "versions": {"python": "3"},
        "databases": [database, database | {"database": "postgresql", "version": "PostgreSQL 15"}],
    }


def test_slowest_case_decides_by_its_median():
    text = markdown(document(page=21.0))
    assert "SQLite 3, list in at most 20 ms: 21.0 ms in the slowest case (slow), **missed**." in text
    assert "SQLite 3, identify in at most 300 ms: 100.0 ms in the slowest case (a part), met." in text


def test_inserts_are_judged_on_sqlite_alone():
    text = markdown(document(insert=11.0))
    assert "SQLite 3, insert in at most 10 ms: 11.0 ms in the slowest case (a stamp), **missed**." in text
    assert "PostgreSQL 15, insert" not in text


def test_page_holds_what_was_measured(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    write_docs(copy, json.loads(RESULTS.read_text(encoding="utf-8")))
    section = copy.read_text(encoding="utf-8").removeprefix("before\n").removesuffix("\nafter\n")
    assert section in DOCS.read_text(encoding="utf-8")


@pytest.mark.slow
def test_benchmark_of_a_small_registry_asks_everything(tmp_path):
    out = tmp_path / "registry.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "registry.py"), "--stamps", "300", "--audits", "50"]
    done = subprocess.run(
        [*command, "--runs", "2", "--only", "sqlite", "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (database,) = json.loads(out.read_text(encoding="utf-8"))["databases"]
    assert {asked["kind"] for asked in database["asked"]} == {"insert", "lookup", "list", "identify"}
