from dataclasses import replace

import pytest

from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.domain.vector import (
    Compression,
    CompressionKind,
    StoredDtype,
    VectorDescription,
    Vocabulary,
    checked_scale,
    shared_elements,
)
from fpvec_audit.errors import UsageError, VectorError

DESCRIPTION = VectorDescription(
    digest="d" * 64,
    architecture="gpt2",
    dtype=StoredDtype.SAME,
    base_digest="b" * 64,
    fingerprinted_digest="f" * 64,
    tied={"lm_head.weight": "transformer.wte.weight"},
    tensors=1,
    elements=2,
    bytes=8,
    inexact_elements=0,
    norm=1.5,
    tool_version="0.1",
)

COMPRESSED = replace(
    DESCRIPTION, compression=Compression(CompressionKind.KEEP, {"keep": 0.1}, "vec-" + "a" * 16, 0.5, 0.9)
)


def test_description_survives_its_json():
    assert VectorDescription.from_json(DESCRIPTION.to_json(), where="x") == DESCRIPTION
    assert VectorDescription.from_json(COMPRESSED.to_json(), where="x") == COMPRESSED
    assert DESCRIPTION.id == "vec-" + "d" * 16


def test_description_without_compression_says_nothing_of_it_as_it_always_did():
    assert "compression" not in DESCRIPTION.to_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [("kind", "zip"), ("parameters", None), ("source", 1), ("relative_error", float("nan")), ("cosine", None)],
)
def test_wrong_entry_of_the_compression_is_named_with_its_file(name, value):
    document = COMPRESSED.to_json()
    document["compression"][name] = value
    with pytest.raises(VectorError, match=f"x.json: {name} of compression is"):
        VectorDescription.from_json(document, where="x.json")
    with pytest.raises(VectorError, match="compression"):
        VectorDescription.from_json(document | {"compression": 3}, where="x.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("digest", None),
        ("tensors", -1),
        ("bytes", True),
        ("norm", "1"),
        ("norm", float("nan")),
        ("tied", []),
        ("tied", {"a": 1}),
        ("dtype", "int8"),
    ],
)
def test_wrong_entry_is_named_with_its_file(name, value):
    with pytest.raises(VectorError, match=f"x.json: {name} is"):
        VectorDescription.from_json(DESCRIPTION.to_json() | {name: value}, where="x.json")


@pytest.mark.parametrize("scale", [0.0, -0.0, float("nan"), float("inf")])
def test_scale_that_stamps_nothing_is_refused(scale):
    with pytest.raises(UsageError, match="stamps nothing"):
        checked_scale(scale)


def shared(target, vector, role=TensorRole.EMBEDDING, vocabulary=Vocabulary.SHARED):
    return shared_elements("w", target, vector, role=role, vocabulary=vocabulary)


def test_equal_shapes_are_shared_whole_under_any_policy():
    assert shared((3, 4), (3, 4), TensorRole.MLP, Vocabulary.REFUSE) == 12
    assert shared((), (), TensorRole.OTHER, Vocabulary.REFUSE) == 1


def test_rows_of_embedding_and_head_are_shared_where_allowed():
    assert shared((5, 4), (3, 4)) == shared((3, 4), (5, 4)) == 12
    assert shared((5,), (3,), TensorRole.OUTPUT_HEAD) == 3
    with pytest.raises(VectorError, match="w: vector has 3 rows, target 5 – stamp with --vocabulary shared"):
        shared((5, 4), (3, 4), vocabulary=Vocabulary.REFUSE)


@pytest.mark.parametrize(
    ("target", "vector", "role"),
    [
        ((5, 4), (3, 4), TensorRole.MLP),
        ((5, 4), (5, 3), TensorRole.EMBEDDING),
        ((5,), (5, 1), TensorRole.EMBEDDING),
        ((), (1,), TensorRole.EMBEDDING),
    ],
)
def test_other_shapes_are_refused_with_both(target, vector, role):
    with pytest.raises(VectorError, match="w: vector has shape"):
        shared(target, vector, role)
