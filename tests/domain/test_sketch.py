"""What is done to a model at once does not take all of its counted tensors."""

import hashlib
from dataclasses import replace

import pytest

from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.sketch import COUNTED, numbers, sketch

LAYERS = 24
PARTS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")


def tensor(name, *, shape=(64, 64), seed=""):
    return TensorDigest(name, "BF16", shape, hashlib.sha256(f"{name}{seed}".encode()).hexdigest())


def model(*, layers=LAYERS):
    tensors = [
        tensor("embed.weight", shape=(1000, 64)),
        tensor("head.weight", shape=(1000, 64)),
        tensor("norm", shape=(64,)),
    ]
    for layer in range(layers):
        tensors += [tensor(f"layers.{layer}.{part}.weight") for part in PARTS]
        tensors.append(tensor(f"layers.{layer}.norm.weight", shape=(64,)))
    return Manifest.of(tensors)


def changed(manifest, wanted):
    return Manifest(
        tuple(replace(found, sha256="0" * 64) if wanted(found.name) else found for found in manifest.tensors)
    )


def shared(manifest, other):
    return set(sketch(manifest)) & set(numbers(other))


def test_eight_matrices_count_embedding_and_head_among_them():
    counted = set(sketch(model()))
    assert len(counted) == COUNTED
    names = {found.name for found in model().tensors if set(numbers(Manifest((found,)))) & counted}
    assert {"embed.weight", "head.weight"} < names
    assert not any("norm" in name for name in names)
    assert len({name.split(".", 2)[-1] for name in names}) >= 7


@pytest.mark.parametrize("first", range(LAYERS - 5))
def test_a_quarter_of_the_layers_in_a_row_holds_a_counted_tensor(first):
    here = [found for found in model().tensors if found.name.startswith("layers.")]
    part = Manifest(tuple(found for found in here if first <= int(found.name.split(".")[1]) < first + 6))
    assert shared(model(), part)


@pytest.mark.parametrize("kind", ["layers.", "attn", "mlp", "embed", *PARTS])
def test_retraining_a_kind_of_tensors_leaves_counted_ones(kind):
    assert shared(model(), changed(model(), lambda name: kind in name))


def test_names_do_not_matter():
    renamed = Manifest.of(replace(found, name=f"transformer.h.{found.name}") for found in model().tensors)
    assert set(sketch(model())) <= set(numbers(renamed))


def test_small_model_counts_all_it_has():
    small = Manifest.of([tensor("a.weight"), tensor("b", shape=(3,))])
    assert set(sketch(small)) == set(numbers(small))
    assert sketch(Manifest(())) == ()


def test_tensors_of_equal_content_count_once():
    same = [TensorDigest(f"layers.{place}.x", "F32", (2, 2), "ab" * 32) for place in range(20)]
    assert len(sketch(Manifest.of(same))) == 1
