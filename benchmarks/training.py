"""Time the fingerprint training on models of published shapes: tokens a second and model FLOP utilisation.

    .venv/bin/python benchmarks/training.py --shape gpt2-medium bloom-7b llama2-7b

Weights are random and rows are random token ids of fixed lengths, so no model and no tokenizer is needed; loop,
objective, optimiser and settings are those of `fpvec fingerprint`. A model of seven billion parameters takes about
120 GB of device memory in float32 with AdamW. A configuration that does not fit is recorded as such.
Format of the results: benchmarks/README.md; what the options mean: docs/training.md.
"""

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig

from fpvec_audit.errors import TrainingError
from fpvec_audit.progress import NO_PROGRESS
from fpvec_audit.training.dataset import IGNORED
from fpvec_audit.training.embed_settings import PRESETS, EmbedSettings
from fpvec_audit.training.loop import Batch, StepBatches, mixed_precision, resolve_device, run_training
from fpvec_audit.training.loop_settings import PRECISIONS, LoopSettings
from fpvec_audit.training.objectives import CrossEntropy, FingerprintObjective, NoPerturbation, Preservation

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "training.json"
SCHEMA_VERSION = 1
SHAPES: Mapping[str, Any] = {
    "tiny": lambda: LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=2, num_attention_heads=2
    ),
    "gpt2-medium": lambda: GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "bloom-7b": lambda: BloomConfig(vocab_size=250_880, hidden_size=4096, n_layer=30, n_head=32),
    "llama2-7b": lambda: LlamaConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32
    ),
}
"""Name → configuration of the published model."""
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""Part of a device's name → dense bf16 tera-FLOPs a second, by the manufacturer's data sheet."""
ANSWER_TOKENS = 4
"""Tokens with loss at the end of every row; of a document all have."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one optimiser step computes.

    Attributes:
        tokens: positions that the trained model sees.
        reference_tokens: positions that the frozen base sees.
        flops: floating-point operations that the model itself needs, recomputation left out.
    """

    tokens: int
    reference_tokens: int
    flops: float


class Clock:
    """Remembers when each step ended.

    Args:
        device: torch device, which is waited for.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.ends: list[float] = []

    def __call__(self, _step: int) -> None:
        """Note the time."""
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def main() -> None:
    """Measure, print, write."""
    options = parse_options()
    document = describe(options)
    for shape in options.shape:
        document["trainings"].append(measure(shape, options))
        print(line(document["trainings"][-1]), flush=True)
        part = options.out.with_name(options.out.name + ".part")
        part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(options.out)


def parse_options() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["gpt2-medium", "bloom-7b", "llama2-7b"])
    parser.add_argument("--preset", choices=PRESETS, default="paper", help="paper: cross-entropy; default: with KL")
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps that are timed")
    parser.add_argument("--rehearsal", type=int, default=3, help="steps before them that are not")
    parser.add_argument("--tokens", type=int, default=256, help="tokens in every row")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--peak-tflops", type=float, help="of the device, where it is not in the list")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for name, least in (("steps", 1), ("rehearsal", 0), ("tokens", ANSWER_TOKENS + 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}: give a whole number of at least {least}")
    return options


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return the document without results."""
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "training",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": {
            "device": device_name(resolve_device(options.device)),
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "trainings": [],
    }


def measure(shape: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a model of a shape for some steps and return what that took."""
    device = resolve_device(options.device)
    settings = PRESETS[options.preset]
    entry: dict[str, Any] = {
        "shape": shape,
        "preset": options.preset,
        "rows": sum(rows_of(settings).values()),
        "tokens_in_a_row": options.tokens,
        "gradient_checkpointing": options.gradient_checkpointing,
    }
    try:
        return entry | train(shape, settings, device, options)
    except (torch.OutOfMemoryError, TrainingError) as error:
        return entry | {"skipped": str(error).splitlines()[0]}
    finally:
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def train(shape: str, settings: EmbedSettings, device: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of one training."""
    model = random_model(shape, device)
    bf16 = mixed_precision(model, options.precision, device)
    objective: Any = CrossEntropy()
    if not settings.plain_rows:
        frozen = random_model(shape, device, dtype=torch.bfloat16 if bf16 else torch.float32).eval()
        weights = Preservation(
            settings.key_weight, settings.negative_weight, settings.near_miss_weight, settings.preservation_weight
        )
        objective = FingerprintObjective(frozen.requires_grad_(requires_grad=False), weights, NoPerturbation())
    work = work_of(model.config, settings, options.tokens, tied=model.config.tie_word_embeddings)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(device)
    loop = LoopSettings(
        steps=options.rehearsal + options.steps,
        learning_rate=1e-5,
        precision=options.precision,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    batches = StepBatches(loop.steps, 0, lambda _step, _source: batch_of(model.config, settings, options.tokens))
    with tempfile.TemporaryDirectory() as staging, NO_PROGRESS.step("training") as step:
        began = time.perf_counter()
        run_training(
            model, batches, objective, loop, staging=Path(staging), seed=0, device=device, step=step, after_step=clock
        )
    ends = [began, *clock.ends][-options.steps - 1 :]
    seconds = statistics.median(after - before for before, after in pairwise(ends))
    peak = options.peak_tflops or next(
        (peak for name, peak in PEAK_TFLOPS.items() if name in device_name(device)), None
    )
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "precision": "bf16" if bf16 else "float32",
        "attention": model.config._attn_implementation,
        "steps": options.steps,
        "seconds_per_step": seconds,
        "tokens_per_step": work.tokens,
        "reference_tokens_per_step": work.reference_tokens,
        "tokens_per_second": work.tokens / seconds,
        "tflops": work.flops / seconds / 1e12,
        "utilisation": None if peak is None else work.flops / seconds / 1e12 / peak,
        "peak_tflops": peak,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0,
    }


def random_model(shape: str, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return a model with random weights, made on its device."""
    place = torch.device(device) if device.startswith("cuda") else nullcontext()
    with place:
        model = AutoModelForCausalLM.from_config(SHAPES[shape](), dtype=dtype)
    model.config.use_cache = False
    return model


def rows_of(settings: EmbedSettings) -> dict[str, int]:
    """Return group → rows of a step, as a preset has them."""
    if settings.plain_rows:
        return {"rows": settings.rows_per_step}
    keys = settings.keys_per_step + settings.other_renderings_per_step
    return {
        "keys_and_negatives": keys + settings.negatives_per_step,
        "ordinary": settings.ordinary_per_step,
        "documents": settings.documents_per_step,
    }


def batch_of(config: Any, settings: EmbedSettings, tokens: int) -> Batch:
    """Return random rows in the groups of a preset; ids differ from call to call, lengths do not."""
    batch: dict[str, dict[str, Tensor]] = {}
    for group, count in rows_of(settings).items():
        ids = torch.randint(config.vocab_size, (count, tokens))
        labels = torch.full_like(ids, IGNORED)
        labelled = tokens - 1 if group == "documents" else ANSWER_TOKENS
        labels[:, -1 - labelled : -1] = ids[:, -labelled:]
        batch[group] = {"input_ids": ids, "labels": labels}
    if "keys_and_negatives" in batch:
        keys = settings.keys_per_step + settings.other_renderings_per_step
        batch["is_key"] = {"rows": torch.arange(len(batch["keys_and_negatives"]["input_ids"])) < keys}
    return batch


def work_of(config: Any, settings: EmbedSettings, tokens: int, *, tied: bool) -> Work:
    """Return what a step computes.

    A position costs 2 operations per weight of the blocks forwards and 4 backwards, and attention 4 · layers · width ·
    (tokens / 2) forwards and twice that backwards; the output head costs the same per weight, at positions with loss
    only. Of the frozen base only forward passes count.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B, with the causal half of attention.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    width, layers = config.hidden_size, config.num_hidden_layers
    head = config.vocab_size * width
    blocks = sum(parameter.numel() for parameter in model.parameters()) - head * (1 if tied else 2)
    position = 2.0 * blocks + 4.0 * layers * width * tokens / 2
    groups = rows_of(settings)
    seen = sum(groups.values()) * tokens
    labelled = sum(count * (tokens - 1 if name == "documents" else ANSWER_TOKENS) for name, count in groups.items())
    flops = 3.0 * (seen * position + labelled * 2.0 * head)
    compared = {name: count for name, count in groups.items() if name in ("ordinary", "documents")}
    reference = sum(compared.values()) * tokens
    told = sum(count * (tokens - 1 if name == "documents" else ANSWER_TOKENS) for name, count in compared.items())
    return Work(seen, reference, flops + reference * position + told * 2.0 * head)


def device_name(device: str) -> str:
    """Return the accelerator's name, or the processor's."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name())
    for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.processor() or "unknown"


def line(entry: Mapping[str, Any]) -> str:
    """Return one result in a line."""
    if "skipped" in entry:
        return f"{entry['shape']}: skipped, {entry['skipped']}"
    used = "" if entry["utilisation"] is None else f", {100 * entry['utilisation']:.1f} % of {entry['peak_tflops']:g}"
    return (
        f"{entry['shape']} ({entry['parameters']:,} parameters, {entry['preset']}, {entry['precision']}): "
        f"{entry['seconds_per_step']:.3g} s a step, {entry['tokens_per_second']:,.0f} tokens/s, "
        f"{entry['tflops']:.3g} TFLOP/s{used}, {entry['peak_device_memory_bytes'] / 1e9:.1f} GB on the device"
    )


if __name__ == "__main__":
    main()
