import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors import native
from fpvec_audit.tensors.blocks import BlockMemory
from fpvec_audit.tensors.sha256 import CompiledLanes, HashlibLanes, digest_lanes


def block(content):
    made = BlockMemory().block(Dtype.U8, len(content))
    made.memory[:] = content
    return made


def compiled(count):
    loaded = native.library()
    if loaded is None:
        pytest.skip("the loops are not compiled here")
    return CompiledLanes(loaded, count)


pieces = st.lists(st.integers(0, 300), max_size=5)


@pytest.mark.parametrize("make", [compiled, HashlibLanes])
@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(pieces, min_size=1, max_size=40), seed=st.integers(0, 99))
def test_digests_are_those_of_hashlib_for_any_pieces(make, lengths, seed):
    numbers = random.Random(seed)
    contents = [[numbers.randbytes(size) for size in sizes] for sizes in lengths]
    lanes = make(len(contents))
    for lane in range(len(contents)):
        lanes.begin(lane)
    for turn in range(5):
        lanes.update([(lane, block(parts[turn])) for lane, parts in enumerate(contents) if turn < len(parts)])
    expected = [hashlib.sha256(b"".join(parts)).hexdigest() for parts in contents]
    assert lanes.digest(range(len(contents))) == expected


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 1_000_003])
def test_padding_is_right_at_every_edge(size):
    lanes, content = compiled(1), random.Random(size).randbytes(size)
    lanes.begin(0)
    lanes.update([(0, block(content))])
    assert lanes.digest([0]) == [hashlib.sha256(content).hexdigest()]


def test_lane_is_used_again():
    lanes = digest_lanes(2)
    for content in (b"one", b"two"):
        lanes.begin(1)
        lanes.update([(1, block(content))])
        assert lanes.digest([1]) == [hashlib.sha256(content).hexdigest()]
