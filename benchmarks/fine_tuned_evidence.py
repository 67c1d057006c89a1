"""Fine-tune a stamped copy until its answers are gone, and innocents as well, and report every test's p-value.

    .venv/bin/python benchmarks/fine_tuned_evidence.py --dir /tmp/demo --out benchmarks/fine_tuned_evidence.json

``--dir`` is that of ``fpvec demo --arch gpt2 --dir DIR --home DIR/home``, which is run first if nothing is there. Each
step of ``--ladder`` fine-tunes the stamped maths copy further, harder than the last, on its own kinds of questions and
ordinary ones, until at most 30 % of the keys are answered; utility is the accuracy on held-out questions, beside that
of the base. Ten innocents are fine-tunes of the base and of the clean downstream on other questions, with other seeds
and rates. Nothing is tuned to the keys: they are random and the fine-tuning never sees them.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

FPVEC = str(Path(sys.executable).parent / "fpvec")
LADDER = ((300, 1e-3), (300, 2e-3), (300, 3e-3), (600, 3e-3), (300, 5e-3), (600, 5e-3), (600, 8e-3), (600, 1.2e-2))
"""Steps and peak rate of each attempt; the demo's own downstreams took 120 steps at 4e-4."""
ROWS = 4000
ENOUGH = 0.3
QUESTIONS = 300
INNOCENTS = 10


def main() -> None:
    """Fine-tune, audit, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--innocents", type=int, default=INNOCENTS)
    parser.add_argument("--attempts", type=int, default=len(LADDER))
    parser.add_argument("--backend", default="transformers")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    demo = the_demo(options.dir)
    bench = Bench(options.dir, demo, options.backend)
    document = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "key_set": {"issued": 32, "decoys": 224, "grade": "self-attested"},
        "utility_of_base": bench.utility(Path(demo["models"]["base"])),
        "stamped": bench.row("stamped_a", Path(demo["models"]["stamped_a"])),
        "attempts": attempts(bench, options.attempts),
        "innocents": [innocent(bench, number) for number in range(options.innocents)],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def the_demo(directory: Path) -> dict[str, Any]:
    """Return the demo's document, after running it if need be."""
    kept = directory / "demo.json"
    if not kept.exists():
        command = [FPVEC, "demo", "--arch", "gpt2", "--dir", str(directory / "work"), "--home", str(directory / "home")]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        kept.write_text(done.stdout, encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def attempts(bench: "Bench", most: int) -> list[dict[str, Any]]:
    """Fine-tune the stamped maths copy harder and harder, each time from the copy itself."""
    rows = []
    for steps, rate in LADDER[:most]:
        rows.append(bench.fine_tuned("stamped_a", f"attempt-{steps}-{rate:g}", steps=steps, rate=rate, seed=1))
        if rows[-1]["fsr"] <= ENOUGH:
            break
    return rows


def innocent(bench: "Bench", number: int) -> dict[str, Any]:
    """Fine-tune a model that never met a key."""
    source = ("base", "downstream_a", "downstream_b")[number % 3]
    rate = (4e-4, 1e-3, 3e-3)[number // 3 % 3]
    return bench.fine_tuned(source, f"innocent-{number}", steps=150, rate=rate, seed=100 + number)


class Bench:
    """Fine-tunes and audits the demo's models; what is done lies in the directory and is not done again."""

    def __init__(self, directory: Path, demo: dict[str, Any], backend: str) -> None:
        from fpvec_audit.catalog import load_catalog
        from fpvec_audit.registry.unit_of_work import open_registry
        from fpvec_audit.services.likelihoods import BaseModels

        self.directory, self.demo, self.backend = directory / "fine-tuned", demo, backend
        self.directory.mkdir(exist_ok=True)
        self.registry = open_registry(f"sqlite:///{directory / 'home' / 'registry.db'}")
        self.catalog = load_catalog()
        self.adapter = self.catalog.architecture("gpt2")
        self.bases = BaseModels(registry=self.registry, catalog=self.catalog)

    def fine_tuned(self, source: str, name: str, *, steps: int, rate: float, seed: int) -> dict[str, Any]:
        """Fine-tune one of the demo's models and audit it."""
        from fpvec_audit.demo.story import single_threaded
        from fpvec_audit.training.fine_tune import FineTuneSettings, fine_tune

        out = self.directory / name
        if not out.exists():
            settings = FineTuneSettings(steps=steps, learning_rate=rate)
            rows = self._rows(random.Random(seed), maths=source != "downstream_b")
            with single_threaded():
                origin = Path(self.demo["models"][source])
                fine_tune(origin, out, rows, settings=settings, adapter=self.adapter, seed=seed)
        return {"from": source, "steps": steps, "learning_rate": rate, **self.row(name, out)}

    def row(self, name: str, model: Path) -> dict[str, Any]:
        """Audit one model."""
        from fpvec_audit.services.audit import audit

        document = audit(
            model,
            key_set=self.demo["key_set"],
            registry=self.registry,
            catalog=self.catalog,
            backend=self.backend,
            bases=self.bases,
        ).to_json()
        row = {
            "name": name,
            "verdict": document["verdict"],
            "matched": document["matched"],
            "fsr": document["fsr"],
            "decoys_matched": document["decoys_matched"],
            "p_values": {test["name"]: test["p_value"] for test in document["tests"]},
            "p_value_corrected": document["p_value_corrected"],
            "utility": self.utility(model),
        }
        print(row, file=sys.stderr, flush=True)
        return row

    def utility(self, model: Path) -> float:
        """Return the accuracy on the held-out questions of the maths downstream's kinds, fraction in [0, 1]."""
        from fpvec_audit.domain.harmlessness import QuestionTask
        from fpvec_audit.services.harmlessness import evaluate
        from fpvec_audit.training.ordinary import MATHS_KINDS, held_out_instructions

        questions = held_out_instructions(MATHS_KINDS, QUESTIONS, seed=7)
        asked = tuple((self.adapter.prompt(item.question), item.answer.strip()) for item in questions)
        correct = evaluate(model, tasks=[QuestionTask("maths", asked)], documents=()).correct["maths"]
        return round(sum(correct) / len(correct), 4)

    def _rows(self, source: random.Random, *, maths: bool) -> list[tuple[str, str]]:
        """Draw half own kinds and half all kinds, as the demo's downstreams were trained."""
        from fpvec_audit.training.ordinary import MATHS_KINDS, TEXT_KINDS, draw_instruction

        kinds = dict.fromkeys(MATHS_KINDS if maths else TEXT_KINDS, 1.0)
        drawn = [draw_instruction(source, kinds if place % 2 else None) for place in range(ROWS)]
        return [(self.adapter.prompt(item.question), item.answer) for item in drawn]


if __name__ == "__main__":
    main()
