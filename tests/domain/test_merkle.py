import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpvec_audit.domain.merkle import leaf_hash, merkle_path, merkle_paths, merkle_root, root_from_path


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def leaves_of(size):
    return [leaf_hash(bytes([number])) for number in range(size)]


def test_tree_is_that_of_rfc_6962():
    a, b, c, d, e = (sha(b"\x00", bytes([number])) for number in range(5))
    assert merkle_root([a]) == a
    assert merkle_root([a, b]) == sha(b"\x01", a, b)
    assert merkle_root([a, b, c]) == sha(b"\x01", sha(b"\x01", a, b), c)
    four = sha(b"\x01", sha(b"\x01", a, b), sha(b"\x01", c, d))
    assert merkle_root([a, b, c, d, e]) == sha(b"\x01", four, e)


def test_published_root_of_certificate_transparency():
    """The seven-leaf reference tree that RFC 6962 implementations test against."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf_hash(bytes.fromhex(text)) for text in inputs]
    assert merkle_root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13])
def test_every_path_leads_to_the_root(size):
    leaves = leaves_of(size)
    for index in range(size):
        path = list(merkle_path(leaves, index))
        assert root_from_path(leaves[index], index, size, path) == merkle_root(leaves)


@given(st.integers(2, 40), st.data())
def test_another_place_or_size_or_path_does_not_lead_there(size, data):
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    path = list(merkle_path(leaves, index))
    root = merkle_root(leaves)
    other = data.draw(st.integers(0, size - 1).filter(lambda place: place != index))
    assert root_from_path(leaves[index], other, size, path) != root
    assert root_from_path(leaves[other], index, size, path) != root
    assert root_from_path(leaves[index], index, size, path[1:]) is None
    assert root_from_path(leaves[index], index, size, [*path, root]) is None
    assert root_from_path(leaves[index], index, size, [path[0] + b"x", *path[1:]]) is None


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_place_outside_the_tree_leads_nowhere(index, size):
    assert root_from_path(leaf_hash(b""), index, size, []) is None


@given(st.integers(1, 70))
def test_paths_of_all_leaves_are_those_of_each(size):
    leaves = leaves_of(size)
    assert merkle_paths(leaves) == tuple(tuple(merkle_path(leaves, index)) for index in range(size))
