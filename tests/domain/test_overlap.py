import hashlib
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.overlap import Amount, overlap


def tensor(name, content, *, shape=(2, 3), dtype="BF16"):
    return TensorDigest(name, dtype, shape, hashlib.sha256(content.encode()).hexdigest())


BASE = Manifest.of([tensor("layers.2.a", "x"), tensor("layers.10.a", "y"), tensor("embed", "z", shape=(10, 3))])

manifests = st.lists(
    st.builds(tensor, st.text(min_size=1, max_size=3), st.sampled_from("xyz"), dtype=st.sampled_from(("BF16", "F32"))),
    unique_by=lambda found: found.name,
    max_size=8,
).map(Manifest.of)


def test_a_part_is_measured_in_tensors_parameters_and_bytes():
    found = overlap(Manifest((BASE.tensors[0],)), BASE)
    assert found.shared == Amount(1, 30, 60)
    assert (found.share, found.share_of_model) == (1.0, 60 / 84)
    assert (found.changed, found.added, found.missing) == ((), (), ("layers.2.a", "layers.10.a"))


def test_differences_follow_each_other_as_in_the_model():
    other = [replace(found, sha256="0" * 64) for found in BASE.tensors if found.name != "embed"]
    found = overlap(Manifest.of([*other, tensor("lora", "new")]), BASE)
    assert found.changed == ("layers.2.a", "layers.10.a")
    assert found.added == ("lora",)
    assert found.missing == ("embed",)
    assert found.share == 0


def test_other_names_are_seen_through():
    found = overlap(Manifest.of(replace(item, name=f"h.{item.name}") for item in BASE.tensors), BASE)
    assert (found.share, found.share_of_model, found.renamed) == (1.0, 1.0, 3)
    assert (found.changed, found.added, found.missing) == ((), (), ())


def test_equal_bytes_of_another_shape_or_dtype_are_another_tensor():
    assert overlap(Manifest.of([tensor("embed", "z", shape=(30,))]), BASE).changed == ("embed",)
    assert overlap(Manifest.of([tensor("embed", "z", shape=(10, 3), dtype="F16")]), BASE).changed == ("embed",)


@given(manifests)
def test_a_manifest_shares_everything_with_itself(manifest):
    found = overlap(manifest, manifest)
    assert found.shared == found.recorded == found.at_hand
    assert (found.renamed, found.changed, found.added, found.missing) == (0, (), (), ())


@given(manifests, manifests)
def test_what_is_shared_is_the_same_from_both_sides(one, other):
    there, back = overlap(one, other), overlap(other, one)
    assert there.shared == back.shared
    assert there.shared.tensors + len(there.changed) + len(there.added) == len(one.tensors)


@given(manifests)
def test_manifest_keeps_its_digest_in_the_form_that_is_stored(manifest):
    assert Manifest.digest_of(manifest.to_bytes()) == manifest.digest
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@given(st.text(), st.lists(st.integers(0, 10**12)))
def test_entry_is_canonical_json(name, shape):
    try:
        wanted = canonical_bytes([name, "F32", shape, "ab"])
    except UnicodeEncodeError:
        return
    assert TensorDigest(name, "F32", tuple(shape), "ab").to_bytes() == wanted + b"\n"
