"""Random checkpoints of Llama's shape, made with flat memory, and checks of what was computed from them.

`stamping.py` runs this as a process of its own, for two reasons: torch must not count towards the memory of whoever
measures (a child begins with its parent's peak), and a benchmark whose contestants compute different things would be
worth nothing.

    python benchmarks/llama_checkpoints.py make --size 1.1B --out base --seed 1
    python benchmarks/llama_checkpoints.py make --size 1.1B --out fingerprinted --seed 2 --of base --noise 1e-3
    python benchmarks/llama_checkpoints.py check-stamp OUT --base base --fingerprinted fingerprinted --downstream down
    python benchmarks/llama_checkpoints.py check-vector OUT --base base --fingerprinted fingerprinted

The checks take the first million elements of every eighth tensor and of the last, and compare them with the formula in
float32. What is allowed is what bfloat16 loses on the way: one unit in the last place, twice what a rounding takes, for
the result and for each of the intermediate differences.
"""

import argparse
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors.header import header_bytes, read_header

if TYPE_CHECKING:
    import torch

RECIPE_FILE = "benchmark_recipe.json"
RECIPE_VERSION = 1
INDEX_FILE = "model.safetensors.index.json"
METADATA = {"format": "pt"}
BYTES_PER_ELEMENT = 2  # bfloat16
BASE_SPREAD = 0.02
BLOCK = 4 << 20  # elements
POOL = 12 << 20  # elements; drawn once, read from shifting places, so that a checkpoint is made as fast as the disk
SAMPLE = 1 << 20  # elements
SAMPLE_EVERY = 8  # tensors
ULP = 2.0**-7  # relative to a power of two; rounding to bfloat16 takes at most half of it

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LlamaSize:
    """The dimensions of a Llama with an untied head.

    Attributes:
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width within the MLP.
        heads: query heads.
        kv_heads: key and value heads.
        vocabulary: rows of embedding and head.
        shards: files that the weights are spread over.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    shards: int

    def tensors(self) -> dict[str, Shape]:
        """Return all parameters in the order they are stored."""
        kv = self.hidden // self.heads * self.kv_heads
        layer = {
            "input_layernorm": (self.hidden,),
            "mlp.down_proj": (self.hidden, self.intermediate),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "post_attention_layernorm": (self.hidden,),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
        }
        layers = {
            f"model.layers.{number}.{name}.weight": shape
            for number in range(self.layers)
            for name, shape in layer.items()
        }
        table = (self.vocabulary, self.hidden)
        return {
            "model.embed_tokens.weight": table,
            **layers,
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": table,
        }

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    @property
    def bytes(self) -> int:
        """Bytes of all tensors in bfloat16."""
        return BYTES_PER_ELEMENT * self.parameters

    def files(self) -> dict[str, dict[str, Shape]]:
        """Return the tensors of each file, filled one after the other to an equal share."""
        share = self.parameters / self.shards
        groups: list[dict[str, Shape]] = [{}]
        filled = 0
        for name, shape in self.tensors().items():
            if filled >= share * len(groups):
                groups.append({})
            groups[-1][name] = shape
            filled += math.prod(shape)
        if len(groups) == 1:
            return {"model.safetensors": groups[0]}
        return {
            f"model-{number:05}-of-{len(groups):05}.safetensors": group for number, group in enumerate(groups, start=1)
        }

    def config(self) -> dict[str, Any]:
        """Return what transformers and mergekit want to know."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": self.hidden // self.heads,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": BASE_SPREAD,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 2048,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocabulary,
        }


SIZES = {
    "tiny": LlamaSize(2, 64, 128, heads=4, kv_heads=2, vocabulary=256, shards=2),
    "0.3B": LlamaSize(21, 1024, 2816, heads=16, kv_heads=4, vocabulary=32000, shards=1),
    "1.1B": LlamaSize(22, 2048, 5632, heads=32, kv_heads=4, vocabulary=32000, shards=3),
    "3B": LlamaSize(28, 3072, 8192, heads=24, kv_heads=8, vocabulary=32000, shards=3),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a checkpoint, or check a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make a checkpoint, unless the very same is there already")
    make.add_argument("--size", choices=SIZES, required=True)
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--seed", type=int, required=True)
    make.add_argument("--of", type=Path, help="checkpoint to add noise to")
    make.add_argument("--noise", type=float, default=BASE_SPREAD, help="standard deviation of the noise")
    for name in ("check-stamp", "check-vector"):
        check = commands.add_parser(name)
        check.add_argument("result", type=Path)
        check.add_argument("--base", type=Path, required=True)
        check.add_argument("--fingerprinted", type=Path, required=True)
        check.add_argument("--downstream", type=Path, required=name == "check-stamp")
    options = parser.parse_args(arguments)
    if options.command == "make":
        size = SIZES[options.size]
        made = make_checkpoint(options.out, size, seed=options.seed, of=options.of, noise=options.noise)
        print("made" if made else "kept from before")
    else:
        check_result(options.result, options.base, options.fingerprinted, downstream=options.downstream)


def make_checkpoint(out: Path, size: LlamaSize, *, seed: int, of: Path | None, noise: float) -> bool:
    """Write a checkpoint of noise, or of another one plus noise; it appears whole or not at all.

    Args:
        out: directory to make; one of the same recipe is kept, any other replaced.
        size: shape.
        seed: of the noise.
        of: checkpoint of the same size to add to, None for noise alone.
        noise: standard deviation.

    Returns:
        whether it was made, rather than kept.
    """
    recipe = {
        "version": RECIPE_VERSION,
        "size": repr(size),
        "seed": seed,
        "noise": noise,
        "of": None if of is None else json.loads((of / RECIPE_FILE).read_text(encoding="utf-8")),
    }
    if (out / RECIPE_FILE).is_file() and json.loads((out / RECIPE_FILE).read_text(encoding="utf-8")) == recipe:
        return False
    part = out.with_name(out.name + ".part")
    for leftover in (part, out):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    blocks = _noise(seed, noise)
    for name, tensors in size.files().items():
        _write_file(part / name, tensors, blocks, of=None if of is None else of / name)
    if size.shards > 1:
        weight_map = {tensor: name for name, tensors in size.files().items() for tensor in tensors}
        _write_json(part / INDEX_FILE, {"metadata": {"total_size": size.bytes}, "weight_map": weight_map})
    _write_json(part / "config.json", size.config())
    _write_json(part / RECIPE_FILE, recipe)
    part.rename(out)
    return True


def check_result(result: Path, base: Path, fingerprinted: Path, *, downstream: Path | None) -> None:
    """Compare a result with the formula: (downstream +) fingerprinted − base.

    Args:
        result: directory of safetensors, or one such file.
        base: base model.
        fingerprinted: fingerprinted model.
        downstream: downstream model, None if the result is the vector alone.

    Raises:
        SystemExit: tensors are missing, are in excess, or differ by more than rounding can explain.
    """
    results, bases, fingerprints = _places(result), _places(base), _places(fingerprinted)
    downstreams = None if downstream is None else _places(downstream)
    if results.keys() != bases.keys():
        odd = sorted(results.keys() ^ bases.keys())
        raise SystemExit(f"{result}: {len(odd)} tensors missing or in excess, such as {odd[0]}")
    names = sorted(results)
    for name in [*names[::SAMPLE_EVERY], names[-1]]:
        start, tuned = _elements(bases[name], name), _elements(fingerprints[name], name)
        wanted = tuned - start
        allowed = ULP * wanted.abs()
        if downstreams is not None:
            target = _elements(downstreams[name], name)
            wanted = target + wanted
            allowed = ULP * wanted.abs() + allowed + ULP * (target - start).abs()
        got = _elements(results[name], name)
        excess = float(((got - wanted).abs() - allowed).max())
        if not excess <= 0:  # NaN is an excess, too
            raise SystemExit(f"{result}: {name} differs from the formula by {excess:g} more than rounding explains")


def _noise(seed: int, spread: float) -> "Iterator[torch.Tensor]":
    """Yield endless blocks of float32 noise: (BLOCK,), each read from a random place of one pool."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator).mul_(spread)
    while True:
        offset = int(torch.randint(POOL - BLOCK + 1, (), generator=generator))
        yield pool[offset : offset + BLOCK]


def _write_file(path: Path, tensors: dict[str, Shape], blocks: "Iterator[torch.Tensor]", *, of: Path | None) -> None:
    """Write one safetensors file block by block; the blocks pay no heed to where a tensor ends."""
    import torch

    header = header_bytes({name: (Dtype.BF16, shape) for name, shape in tensors.items()}, METADATA)
    source = None if of is None else of.open("rb")
    with path.open("wb") as file:
        file.write(header)
        if source is not None:
            source.seek(len(header))  # same tensors, same header
        remaining = sum(math.prod(shape) for shape in tensors.values())
        while remaining:
            count = min(BLOCK, remaining)
            block = next(blocks)[:count]
            if source is not None:
                content = bytearray(source.read(BYTES_PER_ELEMENT * count))
                block = torch.frombuffer(content, dtype=torch.bfloat16).float().add_(block)
            file.write(block.to(torch.bfloat16).view(torch.uint8).numpy().data)
            remaining -= count
        file.flush()
        os.fsync(file.fileno())  # dirty pages cannot be dropped from the page cache before a run
    if source is not None:
        source.close()


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _places(path: Path) -> dict[str, Path]:
    """Return the file of every tensor."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {spec.name: file for file in files for spec in read_header(file).tensors}


def _elements(path: Path, name: str) -> "torch.Tensor":
    """Return the first elements of a tensor, flat, in float32."""
    import torch

    spec = next(spec for spec in read_header(path).tensors if spec.name == name)
    if spec.dtype is not Dtype.BF16:
        raise SystemExit(f"{path}: {name} is {spec.dtype.label}, not BF16")
    with path.open("rb") as file:
        file.seek(spec.start)
        content = bytearray(file.read(min(spec.end - spec.start, BYTES_PER_ELEMENT * SAMPLE)))
    return torch.frombuffer(content, dtype=torch.bfloat16).float()


if __name__ == "__main__":
    main()
