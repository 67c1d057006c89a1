import hashlib

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors import stream
from fpvec_audit.tensors.sha256 import HashlibLanes
from fpvec_audit.tensors.sink import Scratch


class Zeros:
    """A tensor of zeros that lies nowhere."""

    dtype = Dtype.U8
    shape = (1000,)

    def read_into(self, start, count, block):
        block[:] = bytes(count)


class CountingLanes(HashlibLanes):
    most = 0

    def update(self, blocks):
        CountingLanes.most = max(CountingLanes.most, len(blocks))
        super().update(blocks)


def test_two_hashed_streams_a_tensor_fill_the_sixteen_lanes_of_the_hash(monkeypatch):
    monkeypatch.setattr(stream, "digest_lanes", CountingLanes)
    found = []
    sinks = (Scratch(Dtype.U8),)
    work = stream.TensorWork(1000, (Zeros(),), sinks, stream.passed_through, (0, 1), found.extend)
    works = [work] * 20
    stream.run(works, label="stamp", threads=1)
    assert CountingLanes.most == 16
    assert set(found) == {hashlib.sha256(bytes(1000)).hexdigest()}
    assert len(found) == 40
