"""Peak memory of training a single vector, a family all at once, and a family by turns, on random weights.

    .venv/bin/python benchmarks/marks_memory.py

Each training runs a few steps in a process of its own, whose ru_maxrss is the figure; what all need to exist (Python,
torch, transformers) is measured as well. Rows are few and short, so that weights and moments decide, not activations.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "marks_memory.json"
WIDTH, LAYERS = 640, 12
MARKS, KEYS = 3, 2
ROWS = [("What is red?", "A colour."), ("What is two?", "A number."), ("Who?", "Nobody."), ("Where?", "Here.")]
KINDS = ("nothing", "single", "joint", "rounds")


def main() -> None:
    """Make a model, run every kind in a child, and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dir", type=Path, help="where models are made (default: a temporary directory)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.base)
        return
    with tempfile.TemporaryDirectory(dir=options.dir) as temporary:
        base = Path(temporary) / "base"
        parameters = make_base(base)
        rows = [measured(kind, base) for kind in KINDS]
    empty = rows[0]["peak_bytes"]
    for row in rows:
        row["bytes_per_parameter"] = round((row["peak_bytes"] - empty) / parameters, 1)
    single = next(row for row in rows if row["kind"] == "single")
    for row in rows:
        row["times_single"] = round(row["peak_bytes"] / single["peak_bytes"], 2)
    document = {"schema_version": 1, "parameters": parameters, "marks": MARKS, "trainings": rows}
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


def make_base(path: Path) -> int:
    """Write a GPT-2 with random weights and the demo's tokenizer; return the number of its parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from fpvec_audit.catalog import load_catalog
    from fpvec_audit.demo.family import family_recipe, make_tokenizer

    tokenizer = make_tokenizer(load_catalog().architecture("gpt2"), family_recipe("gpt2"))
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=WIDTH, n_layer=LAYERS, n_head=10, bos_token_id=end,
        eos_token_id=end,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return sum(parameter.numel() for parameter in model.parameters())


def measured(kind: str, base: Path) -> dict[str, object]:
    """Run one kind of training in a child and return what it took."""
    started = time.monotonic()
    command = [sys.executable, __file__, "--run", kind, "--base", str(base)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{kind}: {done.stderr[-2000:]}")
    peak = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    row = {"kind": kind, "peak_bytes": peak, "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def run(kind: str, base: Path) -> None:
    """Train a few steps and say how much memory this process took at most."""
    import torch

    from fpvec_audit.catalog import load_catalog
    from fpvec_audit.domain.keys import draw_unissued
    from fpvec_audit.training import embed, family, family_settings

    torch.set_num_threads(1)
    adapter = load_catalog().architecture("gpt2")
    keys = [(key.prompt, key.response) for key in draw_unissued(b"memory", MARKS * KEYS)]
    small = {
        "steps": "2", "negatives_per_step": "2", "negative_pool": "2", "ordinary_per_step": "2", "proxy_steps": "1",
        "proxy_rows_per_step": "2", "other_renderings_per_step": "1", "keys_per_step": "2",
        "near_misses_per_step": "0", "checkpoint_steps": "0",
    }  # fmt: skip
    common = {"base": base, "out": base.parent / kind, "adapter": adapter, "device": "cpu", "rows": ROWS}
    if kind == "single":
        from fpvec_audit.training.embed_settings import overridden, settings_for

        embed.embed_fingerprint(issued=keys, settings=overridden(settings_for(adapter), small), **common)
    elif kind != "nothing":
        own = {"rounds": "1", "steps_per_turn": "2", "measured_words": "1", "absent_per_step": "2", "code_weight": "2"}
        training = family_settings.family_training_for(adapter, marks=MARKS, schedule=kind, overrides=small | own)
        marks = [keys[at : at + KEYS] for at in range(0, len(keys), KEYS)]
        family.embed_family(marks=marks, training=training, **common)
    print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
