"""Extraction and stamping against plain torch, over whatever a checkpoint may look like.

Models are drawn: dtypes (also mixed within a model), shapes, shard layouts, ties stored once or twice, prefixes,
buffers, vocabularies and position tables of other sizes, several targets, vectors, scales and skipped roles. Expected
results are computed on whole tensors with the formula of the documentation and nothing of the package.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.domain.vector import StoredDtype, Vocabulary
from fpvec_audit.tensors import blocks, kernels, writer
from fpvec_audit.tensors import stamp as stamping
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.digest import canonical_digest
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.stamp import StampCopy, foresee_stamp, write_stamps
from fpvec_audit.tensors.stamp_plan import ScaledVector, plan_stamp
from fpvec_audit.tensors.vector_files import read_vector
from tests.tiny import tensors_of, write_checkpoint

FORMATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
EMBEDDING, HEAD, POSITIONS = "transformer.wte.weight", "lm_head.weight", "transformer.wpe.weight"
ROLES = {EMBEDDING: TensorRole.EMBEDDING, POSITIONS: TensorRole.EMBEDDING, HEAD: TensorRole.OUTPUT_HEAD}


@st.composite
def shapes(draw):
    """Draw the parameters of a GPT-2-like model without its head: canonical name → shape."""
    width = draw(st.integers(1, 12))
    found = {EMBEDDING: (draw(st.integers(1, 30)), width), POSITIONS: (draw(st.integers(1, 20)), width)}
    for layer in range(draw(st.integers(0, 2))):
        body = f"transformer.h.{layer}."
        found[f"{body}ln_1.weight"] = (width,)
        found[f"{body}attn.c_attn.weight"] = (width, 3 * width)
        found[f"{body}mlp.c_fc.bias"] = (draw(st.sampled_from([0, 1, 4 * width])),)
    return found


@st.composite
def models(draw, shape, *, rows=None, positions=None, tied=None):
    """Draw a model over shapes: how it is stored, and its tensors by canonical name."""
    wanted = dict(shape)
    wanted[EMBEDDING] = (rows or wanted[EMBEDDING][0], wanted[EMBEDDING][1])
    wanted[POSITIONS] = (positions or wanted[POSITIONS][0], wanted[POSITIONS][1])
    ties = draw(st.booleans()) if tied is None else tied
    if not ties:
        wanted[HEAD] = wanted[EMBEDDING]
    common = draw(st.sampled_from(FORMATS))
    mixed = draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    tensors = {}
    for name, size in wanted.items():
        dtype = draw(st.sampled_from(FORMATS)) if mixed and draw(st.booleans()) else common
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        values[torch.rand(size, generator=generator) < 0.1] = -0.0
        tensors[name] = values.to(dtype)
    layout = {
        "shards": draw(st.integers(1, 3)),
        "prefix": draw(st.booleans()),
        "alias": ties and draw(st.booleans()),
        "buffers": draw(st.booleans()),
        "tied": ties,
    }
    return tensors, layout


def nudged(tensors, seed, size):
    """Move some numbers of a model by a little, and leave the others exactly alone."""
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * size
        noise[torch.rand(tensor.shape, generator=generator) < 0.3] = 0
        moved[name] = torch.where(noise == 0, tensor, (tensor.double() + noise).to(tensor.dtype))
    return moved


def stored(tensors, layout):
    """Return the tensors as a file has them."""
    found = dict(tensors)
    if layout["alias"]:
        found[HEAD] = found[EMBEDDING].clone()
    if layout["buffers"]:
        found["transformer.h.0.attn.bias"] = torch.tril(torch.ones(4, 4)).view(1, 1, 4, 4)
        found["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    return found if layout["prefix"] else {name.removeprefix("transformer."): value for name, value in found.items()}


def write(place: Path, tensors, layout):
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": layout["tied"]}
    (place / "x").parent.mkdir(parents=True)
    held = stored(tensors, layout)
    return write_checkpoint(place, held, config=config, shards=min(layout["shards"], len(held)))


def working(*tensors):
    return torch.float64 if torch.float64 in {tensor.dtype for tensor in tensors} else torch.float32


def plain_difference(one, two, dtype):
    wide = working(one, two)
    a, b = one.to(wide), two.to(wide)
    same = (a == b) & (torch.signbit(a) == torch.signbit(b))
    return torch.where(same, -torch.zeros_like(a), b - a).to(dtype)


def plain_sum(target, taus):
    """Return round(target + Σ scale · τ), rows that only one of them has left alone."""
    wide = working(target, *(tau for tau, _ in taus))
    change = torch.full(target.shape, -0.0, dtype=wide)
    for tau, scale in taus:
        rows = min(len(target), len(tau)) if target.dim() else None
        part = tau.to(wide) * scale
        if rows is None or target.shape == tau.shape:
            change += part
        else:
            change[:rows] += part[:rows]
    return (target.to(wide) + change).to(target.dtype)


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8)


def same(one, two):
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype
        and one[name].shape == two[name].shape
        and torch.equal(bits(one[name]), bits(two[name]))
        for name in one
    )


EXAMPLES = {"compiled": 60, "torch": 20}
"""Kernels → examples; that the sums of either are the plain ones bit for bit is tested in test_kernels as well."""


@pytest.fixture(params=EXAMPLES)
def drawn(request, monkeypatch):
    """Let the compiled loops do the work, or torch; return a function that checks a law on drawn examples."""
    if request.param == "torch":
        monkeypatch.setattr(kernels.native, "library", lambda: None)

    def hold(law):
        checked = settings(
            max_examples=EXAMPLES[request.param],
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        checked(given(data=st.data())(law))()

    return hold


def test_vector_is_the_plain_difference_and_its_losses_are_counted(tmp_path_factory, adapters, drawn):
    drawn(lambda data: check_difference(tmp_path_factory.mktemp("law"), adapters, data))


def check_difference(place, adapters, data):
    shape = data.draw(shapes())
    base, layout = data.draw(models(shape))
    other_layout = {
        **layout,
        **data.draw(st.fixed_dictionaries({"prefix": st.booleans(), "shards": st.integers(1, 3)})),
    }
    fingerprinted = nudged(base, data.draw(st.integers(0, 99)), data.draw(st.sampled_from([1e-3, 1.0])))
    dtype = data.draw(st.sampled_from(StoredDtype))
    if all(torch.equal(bits(base[name]), bits(fingerprinted[name])) for name in base):
        return  # refused, see test_delta
    paths = write(place / "base", base, layout), write(place / "fp", fingerprinted, other_layout)
    adapter = adapters["gpt2"]
    plan = plan_extraction(*(read_checkpoint(path) for path in paths), adapter, dtype=dtype)
    (place / "vector").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", data.draw(st.sampled_from([1, 7, 64, 1 << 18])))
        patch.setattr(writer, "WORTH_DIRECT", data.draw(st.sampled_from([0, 1 << 40])))
        description = write_vector(plan, place / "vector", tool_version="0").description
    expected = {
        name: plain_difference(base[name], value, torch.float32 if dtype is StoredDtype.FLOAT32 else value.dtype)
        for name, value in fingerprinted.items()
    }
    assert same(tensors_of(place / "vector"), expected)
    lost = 0
    for name, tau in expected.items():
        rebuilt = plain_sum(base[name].to(working(base[name], tau)), [(tau, 1.0)]).to(fingerprinted[name].dtype)
        wrong = bits(rebuilt).view(-1, rebuilt.itemsize) != bits(fingerprinted[name]).view(-1, rebuilt.itemsize)
        lost += int(wrong.any(dim=1).sum())
    assert description.inexact_elements == lost
    assert description.base_digest == canonical_digest(read_checkpoint(paths[0]), adapter)
    assert description.fingerprinted_digest == canonical_digest(read_checkpoint(paths[1]), adapter)
    assert description.digest == canonical_digest(read_vector(place / "vector").files, None)


def test_stamps_are_the_plain_sums_for_every_target_layout_and_choice_of_vectors(tmp_path_factory, adapters, drawn):
    drawn(lambda data: check_sum(tmp_path_factory.mktemp("law"), adapters["gpt2"], data))


def check_sum(place, adapter, data):
    shape = data.draw(shapes())
    vectors, scaled = [], []
    for number in range(data.draw(st.integers(1, 3))):
        base, layout = data.draw(models(shape, tied=True))
        fingerprinted = nudged(base, number, 1e-2)
        fingerprinted[EMBEDDING].view(-1)[0] += 1  # never nothing
        paths = (write(place / f"{kind}{number}", held, layout) for kind, held in (("b", base), ("f", fingerprinted)))
        plan = plan_extraction(*(read_checkpoint(path) for path in paths), adapter)
        (place / f"v{number}").mkdir()
        write_vector(plan, place / f"v{number}", tool_version="0")
        scale = data.draw(st.floats(0.0625, 4, width=32)) * data.draw(st.sampled_from([1, -1]))
        vectors.append((tensors_of(place / f"v{number}"), scale))
        scaled.append(ScaledVector(read_vector(place / f"v{number}"), scale))
    skip = data.draw(st.frozensets(st.sampled_from([TensorRole.OUTPUT_HEAD, TensorRole.NORM, TensorRole.MLP])))
    targets = []
    for number in range(data.draw(st.integers(1, 3))):
        rows, positions = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 20))
        tensors, layout = data.draw(models(shape, rows=rows, positions=positions))
        targets.append((tensors, layout, write(place / f"t{number}", tensors, layout)))
    chosen = st.lists(st.sampled_from(range(len(vectors))), min_size=1, unique=True)
    copies = [(target, own) for target in targets for own in data.draw(st.lists(chosen, min_size=1, max_size=2))]
    plans = [
        plan_stamp(
            read_checkpoint(path), [scaled[place] for place in own], adapter, vocabulary=Vocabulary.SHARED, skip=skip
        )
        for (_, _, path), own in copies
    ]
    for number in range(len(plans)):
        (place / f"o{number}").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", data.draw(st.sampled_from([1, 7, 64, 1 << 18])))
        patch.setattr(writer, "WORTH_DIRECT", data.draw(st.sampled_from([0, 1 << 40])))
        patch.setattr(stamping, "AT_ONCE", data.draw(st.integers(1, 5)))
        foreseen = [foresee_stamp(plan) for plan in plans]
        outcomes = write_stamps([StampCopy(plan, place / f"o{number}") for number, plan in enumerate(plans)])
    for number, ((tensors, layout, path), own) in enumerate(copies):
        expected = {}
        for name, tensor in tensors.items():
            taus = [(tau[EMBEDDING if name == HEAD else name], scale) for tau, scale in (vectors[item] for item in own)]
            kept = not tensor.is_floating_point() or role_of(adapter, name) in skip
            expected[name] = tensor if kept else plain_sum(tensor, taus)
        assert same(tensors_of(place / f"o{number}"), stored(expected, layout))
        assert outcomes[number].stamped_digest == canonical_digest(read_checkpoint(place / f"o{number}"), adapter)
        assert outcomes[number].target_digest == canonical_digest(read_checkpoint(path), adapter)
        assert foreseen[number].stamped == outcomes[number].stamped
        assert json.loads((place / f"o{number}" / "config.json").read_text())["model_type"] == "gpt2"


def role_of(adapter, name):
    assert ROLES.get(name, adapter.role(name)) is adapter.role(name)
    return adapter.role(name)
