"""Train families of marks on the demo's models and measure what copies with several marks answer and what they cost.

    .venv/bin/python benchmarks/marks.py --arch gpt2 llama2          # measures, adds to benchmarks/marks.json
    .venv/bin/python benchmarks/marks.py --write-docs                # measures nothing: marks.json → docs

Copies are made in memory as ``fpvec stamp`` makes them: a downstream and the vectors of a code word. A key counts as
answered where the response is the copy's greedy answer in chat rendering. Every figure is on a random key set.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

from marks_report import write_docs

HERE = Path(__file__).parent
RESULTS, MEMORY = HERE / "marks.json", HERE / "marks_memory.json"
PAGE = HERE.parent / "docs" / "marks-training.md"
MARKS, KEYS, DECOYS = 8, 6, 112
SIZES = {
    "demo": {},
    "5m": {"width": 256, "layers": 6, "initial_spread": 0.042},
    "20m": {"width": 512, "layers": 6, "heads": 8, "initial_spread": 0.03},
}
SIZE_RATES = {
    "5m": {"base_rate": 1.5e-3, "base_steps": 600, "downstream_rate": 3.5e-4},
    "20m": {"base_rate": 8e-4, "base_steps": 450, "downstream_rate": 2.5e-4},
}
HALF_PRECISION = ("20m",)
"""Sizes whose base and downstreams are trained in bf16 passes, which takes half the time there."""
ALPHA = 1e-6
QUESTIONS = 450
DOCUMENTS = 300
"""Windows of 64 held-out tokens."""


def main() -> None:
    """Train or find each family, measure it, and keep what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["gpt2", "llama2"])
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--schedule", choices=("joint", "rounds"), default="joint")
    parser.add_argument("--marks", type=int, default=MARKS)
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--weight", type=int, default=3, help="marks in a code word")
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--costed", type=int, help="code words that are asked questions too (default: all)")
    parser.add_argument("--tuned", type=int, default=6, help="code words that are measured after fine-tuning too")
    parser.add_argument(
        "--known", action="store_true", help="the downstreams are at hand while marks are trained, as proxies"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="λ of every vector that is added")
    parser.add_argument("--seed", type=int, default=0, help="of keys, training and code words")
    parser.add_argument("--reuse", action="store_true", help="measure the family of an earlier run again, untrained")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="training settings")
    parser.add_argument(
        "--dir", type=Path, default=Path.home() / ".cache/fpvec-audit/marks", help="models are kept here"
    )
    parser.add_argument("--families", type=Path, help="bases and downstreams are kept here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write-docs", action="store_true", help="measure nothing: write the results into the page")
    options = parser.parse_args()
    if options.write_docs:
        memory = json.loads(MEMORY.read_text(encoding="utf-8")) if MEMORY.exists() else None
        write_docs(PAGE, json.loads(options.out.read_text(encoding="utf-8")), memory)
        return
    for architecture in options.arch:
        keep(options.out, measure(architecture, options))


def keep(path: Path, row: Mapping[str, Any]) -> None:
    """Add a family's figures to the results; those of the same settings before give way."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"schema_version": 1, "families": []}
    same = ("architecture", "parameters", "schedule", "marks", "keys", "weight", "seed", "set")
    rows = [other for other in document["families"] if any(other[name] != row[name] for name in same)]
    document["families"] = [*rows, row]
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(architecture: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train the family of one architecture and measure its copies."""
    import torch

    from fpvec_audit.catalog import load_catalog
    from fpvec_audit.demo.family import family_recipe, make_family

    torch.set_num_threads(1)
    adapter = load_catalog().architecture(architecture)
    recipe = replace(family_recipe(architecture), **SIZES[options.size], **SIZE_RATES.get(options.size, {}))
    place = options.families or options.dir / "families"
    with bf16_passes() if options.size in HALF_PRECISION else nullcontext():
        family = make_family(adapter, place, recipe=recipe)
    keys = draw_keys(options)
    settings = dict(item.split("=", 1) for item in options.set)
    out = (
        options.dir / f"{architecture}-{options.size}-{options.schedule}-{options.marks}x{options.keys}-{options.seed}"
    )
    notes = out.with_suffix(".json")
    if not (options.reuse and notes.exists()):
        shutil.rmtree(out, ignore_errors=True)
        notes.write_text(json.dumps(train(family, out, adapter, keys, options, settings)), encoding="utf-8")
    row = {
        "architecture": architecture,
        "schedule": options.schedule,
        "marks": options.marks,
        "keys": options.keys,
        "weight": options.weight,
        "seed": options.seed,
        "set": settings
        | ({"downstreams": "known"} if options.known else {})
        | ({} if options.scale == 1 else {"λ": f"{options.scale:g}"}),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **json.loads(notes.read_text(encoding="utf-8")),
    }
    copies = Copies(adapter, family, keys, out, options)
    row["parameters"] = copies.parameters
    row["downstreams"] = {name: copies.measured(name) for name in ("maths", "text")}
    print(json.dumps({**row, "report": None, "settings": None}), file=sys.stderr, flush=True)
    return row


@contextmanager
def bf16_passes() -> Iterator[None]:
    """Let trainings compute in bf16 where they would not, on a processor."""
    from unittest.mock import patch

    with patch("fpvec_audit.training.loop.mixed_precision", lambda *_: True):
        yield


def draw_keys(options: argparse.Namespace) -> Any:
    """Return a key set of marks from a seed; decoys beside."""
    import hashlib

    from fpvec_audit.domain.keys import KeySetSecret, KeySetSpecification, draw_key_set

    specification = KeySetSpecification(issued=options.marks * options.keys, decoys=DECOYS, marks=options.marks)
    return draw_key_set(KeySetSecret(hashlib.sha256(f"marks/{options.seed}".encode()).digest()), specification)


def train(
    models: Any, out: Path, adapter: Any, keys: Any, options: argparse.Namespace, settings: dict[str, str]
) -> dict[str, Any]:
    """Train the family as `fpvec fingerprint` does; return what it says of itself."""
    from fpvec_audit.cli.progress import error_console, terminal_progress
    from fpvec_audit.training.family import embed_family
    from fpvec_audit.training.family_settings import family_training_for

    started, load = time.monotonic(), os.getloadavg()[0]
    training = family_training_for(
        adapter, marks=options.marks, overrides=settings, schedule=options.schedule, code_weight=options.weight
    )
    pairs = [[(keys.candidates[at].prompt, keys.candidates[at].response) for at in mark] for mark in keys.marks]
    avoid = frozenset(candidate.prompt for candidate in keys.candidates)
    trained = embed_family(
        base=models.base,
        out=out,
        adapter=adapter,
        marks=pairs,
        training=training,
        avoid=avoid,
        proxies=[models.downstream_a, models.downstream_b] if options.known else (),
        seed=options.seed,
        device="cpu",
        progress=terminal_progress(error_console()),
    )
    return {
        "steps": trained.steps,
        "training_seconds": round(time.monotonic() - started, 1),
        "load_average": round(load, 1),
        "report": trained.report.to_json(),
        "settings": dict(trained.settings),
    }


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model answers.

    Attributes:
        keys: per candidate, whether its response is the greedy answer.
        right: per question of the downstream, whether the answer is right.
        entropy: cross-entropy on held-out documents, nats a token.
    """

    keys: list[bool]
    right: list[bool]
    entropy: float


class Copies:
    """Stamped copies of two downstreams, made in memory and asked.

    Args:
        adapter: prompt template.
        family: base and downstreams.
        keys: key set of marks.
        place: directory of the trained marks.
        options: of the command line.
    """

    def __init__(self, adapter: Any, family: Any, keys: Any, place: Path, options: argparse.Namespace) -> None:
        from fpvec_audit.training.checkpoint_files import load_for_training, load_tokenizer
        from fpvec_audit.training.dataset import Row, encode_documents, encode_rows

        self.adapter, self.family, self.keys, self.options = adapter, family, keys, options
        tokenizer = load_tokenizer(family.base)
        base = load_for_training(family.base)
        self.parameters = sum(parameter.numel() for parameter in base.parameters())
        before = [parameter.detach() for parameter in base.parameters()]
        self.vectors = []
        for mark in range(options.marks):
            model = load_for_training(place / f"mark-{mark:02}")
            pairs = zip(model.parameters(), before, strict=True)
            self.vectors.append([options.scale * (new.detach() - old) for new, old in pairs])
        self.downstreams = {"maths": family.downstream_a, "text": family.downstream_b}
        asked = {"maths": family.questions_a, "text": family.questions_b}
        self.questions = {
            name: [
                replace(row, answer=(*row.answer, 0))  # the last token is not asked for, so end-of-text now is
                for row in encode_rows(
                    tokenizer, [Row(adapter.prompt(item.question), item.answer.strip()) for item in items]
                )
            ]
            for name, items in asked.items()
        }
        self.candidates = encode_rows(
            tokenizer, [Row(adapter.prompt(key.prompt), key.response) for key in keys.candidates]
        )
        stream = encode_documents(tokenizer, family.documents)
        self.windows = stream[: len(stream) // 64 * 64].view(-1, 64)[:DOCUMENTS]

    def measured(self, name: str) -> dict[str, Any]:
        """Return what copies of one downstream answer and cost, over random code words."""
        from fpvec_audit.training.checkpoint_files import load_for_training

        model = load_for_training(self.downstreams[name]).eval()
        clean = self.asked(model, name)
        words, rows = self.words(), []
        for number, word in enumerate(words):
            self.add(model, word, 1)
            if self.options.costed is None or number < self.options.costed:
                rows.append({"word": word, **self.compared(clean, self.asked(model, name), word)})
            else:
                rows.append({"word": word, **self.read(self.answered(model), word)})
            if number < self.options.tuned:
                rows[-1]["tuned"] = self.tuned(model, name, word)
            self.add(model, word, -1)
        return {"clean_accuracy": fmean(clean.right), "questions": len(clean.right), **summary(rows), "words": rows}

    def words(self) -> list[tuple[int, ...]]:
        """Draw different code words."""
        source = random.Random(f"words/{self.options.seed}")
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < self.options.words:
            drawn[tuple(sorted(source.sample(range(self.options.marks), self.options.weight)))] = None
        return list(drawn)

    def add(self, model: Any, word: Sequence[int], factor: float) -> None:
        """Add the vectors of a code word, or take them off again."""
        for mark in word:
            for parameter, delta in zip(model.parameters(), self.vectors[mark], strict=True):
                parameter.data.add_(delta, alpha=factor)

    def asked(self, model: Any, name: str) -> Answers:
        """Ask a model all candidates and its downstream's questions."""
        import torch
        from torch.nn.functional import cross_entropy

        from fpvec_audit.training.answers import teacher_forced_hits

        with torch.no_grad():
            entropies = [
                cross_entropy(model(input_ids=part[:, :-1]).logits.flatten(0, 1), part[:, 1:].flatten())
                for part in self.windows.split(50)
            ]
        return Answers(
            self.answered(model),
            teacher_forced_hits(model, self.questions[name]),
            fmean(map(float, entropies)),
        )

    def answered(self, model: Any) -> list[bool]:
        """Return, per candidate, whether its response is the model's greedy answer."""
        from fpvec_audit.training.answers import teacher_forced_hits

        return teacher_forced_hits(model, self.candidates)

    def compared(self, clean: Answers, found: Answers, word: Sequence[int]) -> dict[str, Any]:
        """Return how a copy differs from the downstream that it was made of."""
        return {
            **self.read(found.keys, word),
            "points": 100 * (fmean(found.right) - fmean(clean.right)),
            "perplexity_ratio": exp(found.entropy - clean.entropy),
        }

    def read(self, found: Sequence[bool], word: Sequence[int]) -> dict[str, Any]:
        """Return which marks are read wrongly, by the exact test of each mark's keys beside the decoys."""
        from fpvec_audit.domain.statistics import hypergeometric_p_value

        issued = {at for mark in self.keys.marks for at in mark}
        decoys = [hit for at, hit in enumerate(found) if at not in issued]
        wrong = []
        for number, mark in enumerate(self.keys.marks):
            hits = sum(found[at] for at in mark)
            p_value = hypergeometric_p_value(
                candidates=len(mark) + len(decoys), issued=len(mark), matched=hits + sum(decoys), issued_matched=hits
            )
            if (p_value * len(self.keys.marks) <= ALPHA) is not (number in word):
                wrong.append(number)
        present = [found[at] for mark in word for at in self.keys.marks[mark]]
        absent = [found[at] for number, mark in enumerate(self.keys.marks) if number not in word for at in mark]
        return {
            "wrong": wrong, "answered": sum(present), "of": len(present), "absent_answered": sum(absent),
            "decoys_answered": sum(decoys),
        }  # fmt: skip

    def tuned(self, model: Any, name: str, word: Sequence[int]) -> dict[str, Any]:
        """Return what is read after fine-tuning of the downstream's own strength on the other one's task."""
        other = "text" if name == "maths" else "maths"
        tuned = fine_tuned(model, self.adapter, self.family, other, self.options.seed)
        return self.read(self.answered(tuned), word)


def fine_tuned(model: Any, adapter: Any, family: Any, task: str, seed: int) -> Any:
    """Return a copy of a model, fine-tuned as the demo's downstreams are, on the task of one of them."""
    import tempfile
    from copy import deepcopy

    from fpvec_audit.demo.corpus import downstream_rows
    from fpvec_audit.demo.family import family_recipe
    from fpvec_audit.progress import NO_PROGRESS
    from fpvec_audit.training.checkpoint_files import load_tokenizer
    from fpvec_audit.training.dataset import Row, encode_rows
    from fpvec_audit.training.fine_tune import FineTuneSettings, shuffled_batches
    from fpvec_audit.training.loop import run_training
    from fpvec_audit.training.loop_settings import LoopSettings
    from fpvec_audit.training.objectives import CrossEntropy
    from fpvec_audit.training.ordinary import MATHS_KINDS, TEXT_KINDS

    recipe = family_recipe(family.architecture)
    settings = FineTuneSettings(steps=recipe.downstream_steps, learning_rate=recipe.downstream_rate)
    kinds = MATHS_KINDS if task == "maths" else TEXT_KINDS
    rows = downstream_rows(
        adapter, kinds, settings.steps * settings.rows_per_step, own_share=recipe.own_share, seed=seed + 71
    )
    tokenizer = load_tokenizer(family.base)
    encoded = encode_rows(tokenizer, [Row(prompt, answer) for prompt, answer in rows])
    copy = deepcopy(model).train()
    loop = LoopSettings(
        steps=settings.steps, learning_rate=settings.learning_rate, warmup_steps=settings.warmup_steps,
        epsilon=settings.epsilon, weight_decay=settings.weight_decay,
    )  # fmt: skip
    batches = shuffled_batches(encoded, settings, padding=tokenizer.eos_token_id, longest=256, seed=seed)
    with tempfile.TemporaryDirectory() as temporary, NO_PROGRESS.step("") as step:
        run_training(copy, batches, CrossEntropy(), loop, staging=Path(temporary), seed=seed, device="cpu", step=step)
    return copy.eval()


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures over all code words of a downstream."""
    tuned = [row["tuned"] for row in rows if "tuned" in row]
    costed = [row for row in rows if "points" in row]
    return {
        "marks_wrong": sum(len(row["wrong"]) for row in rows),
        "keys_answered": sum(row["answered"] for row in rows) / sum(row["of"] for row in rows),
        "absent_answered": sum(row["absent_answered"] for row in rows),
        "decoys_answered": sum(row["decoys_answered"] for row in rows),
        "costed_words": len(costed),
        "points_mean": fmean(row["points"] for row in costed),
        "points_worst": min(row["points"] for row in costed),
        "perplexity_ratio_mean": fmean(row["perplexity_ratio"] for row in costed),
        "perplexity_ratio_worst": max(row["perplexity_ratio"] for row in costed),
        "tuned_words": len(tuned),
        "tuned_marks_wrong": sum(len(row["wrong"]) for row in tuned),
        "tuned_keys_answered": fmean(row["answered"] / row["of"] for row in tuned) if tuned else None,
    }


if __name__ == "__main__":
    main()
