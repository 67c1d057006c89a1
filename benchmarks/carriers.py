"""Carriers in weights: how surely they are found, after what, and what they cost.

    .venv/bin/python benchmarks/carriers.py large --size 1.1B
    .venv/bin/python benchmarks/carriers.py demo --arch gpt2 --families DIR --vector DIR
    .venv/bin/python benchmarks/carriers.py --write-docs

`large` stamps a copy of a model of noise in Llama's shape (bfloat16) and reads 1,000 licensees' carriers from it, and
fewer from averages of such copies, from a pruned and from a quantised one; a timed reading is a process of its own.
Then 10,000 carriers that nobody was given are read from the copy. `demo` takes a family of the demo and one of its
vectors, and measures what carriers of several strengths cost there and what they survive. The results are written to
benchmarks/carriers.json, from which the last command makes the tables of docs/carriers.md.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "benchmarks")]

from carriers_report import DEMO, LARGE, demo_table, large_table, write_between  # noqa: E402
from llama_checkpoints import SIZES, make_checkpoint  # noqa: E402
from noise_vectors import make_vector  # noqa: E402
from own_memory import output_of  # noqa: E402

from fpvec_audit.catalog import load_catalog  # noqa: E402
from fpvec_audit.domain.carrier import DEFAULT_STRENGTH, CarrierSecret, spans_chosen  # noqa: E402
from fpvec_audit.domain.carrier_test import carrier_z, log10_p  # noqa: E402
from fpvec_audit.domain.checkpoint import Dtype  # noqa: E402
from fpvec_audit.domain.ports import ArchitectureAdapter, AttackContext  # noqa: E402
from fpvec_audit.progress import NO_PROGRESS  # noqa: E402
from fpvec_audit.tensors.blocks import Block, BlockMemory  # noqa: E402
from fpvec_audit.tensors.carrier import CopyCarriers  # noqa: E402
from fpvec_audit.tensors.carrier_reading import read_carriers  # noqa: E402
from fpvec_audit.tensors.digest import canonical_digest  # noqa: E402
from fpvec_audit.tensors.index import read_checkpoint  # noqa: E402
from fpvec_audit.tensors.kernels import BlockKernels  # noqa: E402
from fpvec_audit.tensors.recompute import recompute_checkpoint  # noqa: E402
from fpvec_audit.tensors.stamp import StampCopy, write_stamps  # noqa: E402
from fpvec_audit.tensors.stamp_plan import ScaledVector, plan_stamp  # noqa: E402
from fpvec_audit.tensors.vector_files import read_vector  # noqa: E402

if TYPE_CHECKING:
    import torch

RESULTS = ROOT / "benchmarks" / "carriers.json"
DOCS = ROOT / "docs" / "carriers.md"
SECRET = CarrierSecret(bytes(range(32)))
"""Published: this is a benchmark."""
COPIES = 10
SPREAD, FINE_TUNING = 5e-4, 1e-3
STRENGTHS = (0.02, 0.05, 0.1)


def main() -> None:
    """Measure, or publish what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-docs", action="store_true", help="measure nothing: write docs/carriers.md")
    commands = parser.add_subparsers(dest="command")
    large = commands.add_parser("large")
    large.add_argument("--size", choices=SIZES, default="1.1B")
    large.add_argument("--licensees", type=int, default=1000, help="whose carriers are read from the copy")
    large.add_argument("--few", type=int, default=20, help="whose carriers are read from everything else")
    large.add_argument("--wrong", type=int, default=10_000)
    large.add_argument("--wrong-share", type=float, default=0.05, help="share of the weights they are read from")
    large.add_argument("--strength", type=float, default=DEFAULT_STRENGTH)
    large.add_argument("--dir", type=Path, default=user_cache_path("fpvec-audit", appauthor=False) / "carriers")
    demo = commands.add_parser("demo")
    demo.add_argument("--arch", default="gpt2")
    demo.add_argument("--downstream", nargs="+", choices=["a", "b"], default=["a", "b"])
    demo.add_argument("--families", type=Path, required=True, help="directory of the demo's families")
    demo.add_argument("--vector", type=Path, required=True, help="vector that was extracted on such a family")
    demo.add_argument("--dir", type=Path, default=user_cache_path("fpvec-audit", appauthor=False) / "carriers-demo")
    read = commands.add_parser("read", help="one timed reading, for `large`")
    read.add_argument("reference", type=Path)
    read.add_argument("suspect", type=Path)
    read.add_argument("--licensees", type=int, required=True)
    options = parser.parse_args()
    document = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"benchmark": "carriers"}
    if options.write_docs:
        write_between(DOCS, LARGE, large_table(document))
        write_between(DOCS, DEMO, demo_table(document))
        return
    if options.command == "read":
        print(json.dumps(reading(options.reference, options.suspect, options.licensees)))
        return
    document["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    place = options.dir.resolve()
    if options.command == "large":
        found = document.setdefault("large", {}).setdefault(options.size, {"suspects": []})
        large_model(place / options.size, found, options, write=lambda: write_results(document))
    else:
        document.setdefault("demo", {})[options.arch] = demo_family(place / options.arch, options)
    shutil.rmtree(place, ignore_errors=True)
    write_results(document)


def write_results(document: Mapping[str, Any]) -> None:
    """Write what is measured so far."""
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def name_of(number: int) -> str:
    """Return a licensee's name."""
    return f"licensee-{number:03}"


def adapter_of(path: Path) -> ArchitectureAdapter:
    """Return the architecture of a checkpoint."""
    return load_catalog().architecture_for(read_checkpoint(path).description)


def scores(reference: Path, suspect: Path, ciphers: Sequence[bytes]) -> list[float]:
    """Return z of every carrier."""
    found = read_carriers(reference, suspect, adapter_of(suspect), ciphers)
    return [carrier_z(product, found.square) for product in found.products]


def reading(reference: Path, suspect: Path, licensees: int) -> dict[str, Any]:
    """Read the owner's carrier and all licensees' once, and say what that took."""
    started = time.perf_counter()
    load = os.getloadavg()[0]
    names = ["", *map(name_of, range(licensees))]
    owner, *found = scores(reference, suspect, [SECRET.key(name).cipher for name in names])
    ranking = sorted(range(licensees), key=lambda place: -found[place])
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time(),
        "load": load,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "owner": owner,
        "highest": [[name_of(place), found[place]] for place in ranking[: COPIES + 1]],
        "all": found,
    }


def stamp(downstream: Path, vector: Path, places: Mapping[str, Path], strength: float) -> None:
    """Make a copy with carriers for each of some licensees."""
    plan = plan_stamp(read_checkpoint(downstream), [ScaledVector(read_vector(vector), 1.0)], adapter_of(downstream))
    copies = []
    for name, place in places.items():
        place.mkdir(parents=True)
        keys = CopyCarriers((SECRET.key(""), SECRET.key(name)), strength) if strength else None
        copies.append(StampCopy(plan, place, carriers=keys))
    write_stamps(copies)


def attacked(source: Path, target: Path, attack: str, *, copies: Sequence[Path] = (), **parameters: Any) -> Path:
    """Let one of the attacks make a copy."""
    plugin = load_catalog().attacks[attack]
    staging = target.with_name(f"{target.name}.staging")
    staging.mkdir(parents=True)
    context = AttackContext(adapter_of(source), staging, 7, "cpu", NO_PROGRESS, copies=tuple(copies))
    plugin.apply(source, target, plugin.Parameters(**parameters), context)
    shutil.rmtree(staging)
    return target


def large_model(place: Path, found: dict[str, Any], options: argparse.Namespace, *, write: Callable[[], None]) -> None:
    """Measure on a model of noise what is not measured yet, and write down every reading as it comes."""
    size = SIZES[options.size]
    base, down, vector, copy = (place / name for name in ("base", "down", "vector", "copy"))
    make_checkpoint(base, size, seed=1, of=None, noise=0.02)
    make_checkpoint(down, size, seed=2, of=base, noise=FINE_TUNING)
    make_vector(vector, size, seed=3, spread=SPREAD, base=canonical_digest(read_checkpoint(base), adapter_of(base)))
    if not copy.exists():
        stamp(down, vector, {name_of(0): copy}, options.strength)
    found |= {"elements": size.parameters, "strength": options.strength}
    for label, carried, make in suspects(place, down, vector, copy, options.strength):
        made: Path | None = None
        for reference in (down, base) if label == "copy" else (down,):
            if any((row["suspect"], row["against"]) == (label, reference.name) for row in found["suspects"]):
                continue
            made = made or make()
            count = options.licensees if (label, reference) == ("copy", down) else options.few
            row = json.loads(output_of(__file__, "read", reference, made, "--licensees", str(count)))
            every = row.pop("all")
            row |= {"suspect": label, "against": reference.name, "carried": carried, "licensees": count}
            row |= {"smallest_own": min(every[:carried]), "largest_other": max(every[carried:])}
            found["suspects"].append(row)
            write()
        if made not in (None, copy):
            shutil.rmtree(place / "attacked")
    if "wrong" not in found:
        found["wrong"] = wrong_carriers(down, copy, options)
        write()


def wrong_carriers(down: Path, copy: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Read carriers that nobody was given from a copy, in a keyed share of its weights."""
    wrong = [CarrierSecret(number.to_bytes(32, "big")).key("").cipher for number in range(1, options.wrong + 1)]
    before = time.process_time()
    chosen = spans_chosen(SECRET, options.wrong_share)
    read = read_carriers(down, copy, adapter_of(copy), wrong, chosen=chosen)
    highest = max(carrier_z(product, read.square) for product in read.products)
    return {
        "carriers": len(wrong),
        "elements": read.elements,
        "largest_z": highest,
        "smallest_log10_p": log10_p(highest),
        "processor_seconds": time.process_time() - before,
    }


def suspects(
    place: Path, down: Path, vector: Path, copy: Path, strength: float
) -> "Iterator[tuple[str, int, Callable[[], Path]]]":
    """Yield (what it is, how many licensees' copies are in it, what makes it)."""
    made = place / "attacked"
    shutil.rmtree(made, ignore_errors=True)
    yield "copy", 1, lambda: copy
    for number in (2, 5, 10):
        names = [name_of(place) for place in range(number)]
        yield f"average of {number}", number, partial(average, down, vector, made, names, strength)
    pruned: dict[str, Any] = {"method": "magnitude", "ratio": 0.3}
    yield "30 % pruned by magnitude", 1, partial(attacked, copy, made, "prune", **pruned)
    yield "int8 and back", 1, partial(attacked, copy, made, "quantise", format="int8")


def average(down: Path, vector: Path, target: Path, names: Sequence[str], strength: float) -> Path:
    """Write the average of licensees' copies, without writing the copies: ten of them would fill a disk."""
    kernels = BlockKernels()
    carriers = [CopyCarriers((SECRET.key(""), SECRET.key(name)), strength) for name in names]

    def compute(name: str, values: "torch.Tensor", others: "Sequence[torch.Tensor]") -> "torch.Tensor":
        tau = block_of(others[0].bfloat16())
        plain = (values + others[0]).bfloat16()
        total = values.new_zeros(values.numel())
        for own in carriers:
            copy = block_of(plain)
            kernels.carry(copy, [(tau, 1.0)], 0, own.of(name))
            total += copy.torch()
        return (total / len(carriers)).view_as(values)

    recompute_checkpoint(down, target, compute, others=[vector], adapter=adapter_of(down))
    return target


def block_of(tensor: "torch.Tensor") -> Block:
    """Return the elements of a bfloat16 tensor in memory of their own."""
    block = BlockMemory().block(Dtype.BF16, tensor.numel())
    block.torch().copy_(tensor.reshape(-1))
    return block


def demo_family(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure on a family of the demo: every strength from nothing on."""
    from fpvec_audit.demo.family import family_recipe, make_family
    from fpvec_audit.domain.harmlessness import QuestionTask
    from fpvec_audit.services.harmlessness import evaluate

    shutil.rmtree(place, ignore_errors=True)
    adapter = load_catalog().architecture(options.arch)
    family = make_family(adapter, options.families, recipe=family_recipe(options.arch))
    rows: list[dict[str, Any]] = []
    both = {"a": (family.downstream_a, family.questions_a), "b": (family.downstream_b, family.questions_b)}
    for down, questions in (both[letter] for letter in options.downstream):
        asked = tuple((adapter.prompt(item.question), item.answer.strip()) for item in questions)
        task = QuestionTask("own", asked)
        for strength in (0.0, *STRENGTHS):
            own = place / down.name / f"{strength}"
            copies = {name_of(number): own / f"copy-{number}" for number in range(COPIES if strength else 1)}
            stamp(down, options.vector, copies, strength)
            first = copies[name_of(0)]
            measured = evaluate(first, tasks=[task], documents=family.documents)
            row: dict[str, Any] = {
                "downstream": down.name,
                "strength": strength,
                "questions": len(questions),
                "accuracy": measured.accuracy,
                "perplexity": measured.perplexity,
            }
            if strength:
                trained = strength == DEFAULT_STRENGTH
                row["z"] = dict(survived(own, down, list(copies.values()), family.base, trained=trained))
            rows.append(row)
            print(row, flush=True)
    return {"parameters": read_checkpoint(family.base).parameters, "rows": rows}


def survived(
    own: Path, down: Path, copies: Sequence[Path], base: Path, *, trained: bool
) -> Iterator[tuple[str, float]]:
    """Yield (what became of a copy, smallest z of the carriers in it) against the downstream, and other z's."""
    ciphers = [SECRET.key(name_of(number)).cipher for number in range(1000)]
    every = scores(down, copies[0], ciphers)
    yield "copy", every[0]
    yield "largest of 999 others", max(every[1:])
    yield "owner", scores(down, copies[0], [SECRET.key("").cipher])[0]
    yield "copy, against the base", scores(base, copies[0], ciphers[:1])[0]
    for label, attack, carried, parameters in (
        ("average of 2", "average", 2, {}),
        ("average of 5", "average", 5, {}),
        ("average of 10", "average", 10, {}),
        ("bfloat16 and back", "cast", 1, {"dtype": "bfloat16"}),
        ("float16 and back", "cast", 1, {"dtype": "float16"}),
        ("int8 and back", "quantise", 1, {"format": "int8", "tensors": "all"}),
        ("int4 and back", "quantise", 1, {"format": "int4", "tensors": "all"}),
        ("30 % pruned by magnitude", "prune", 1, {"method": "magnitude", "ratio": 0.3, "tensors": "all"}),
        ("fine-tuned like a downstream", "fine_tune", 1, {}),
        ("fine-tuned, 300 steps at 1e-3", "fine_tune", 1, {"steps": 300, "learning_rate": 1e-3}),
    ):
        if attack == "fine_tune" and not trained:
            continue  # takes long, and one strength shows it
        made = attacked(copies[0], own / "attacked", attack, copies=copies[1:carried], **parameters)
        yield label, min(scores(down, made, ciphers[:carried]))
        shutil.rmtree(made)


if __name__ == "__main__":
    main()
