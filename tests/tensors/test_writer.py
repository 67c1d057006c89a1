import errno
import os
import random

import pytest

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors import writer
from fpvec_audit.tensors.blocks import BlockMemory
from fpvec_audit.tensors.writer import FileSink, OutputFile


def block(content):
    made = BlockMemory().block(Dtype.U8, len(content))
    made.memory[:] = content
    return made


def test_tensors_are_written_in_any_order_at_their_places(tmp_path):
    with OutputFile(tmp_path / "x", b"head", size=12, tensors=2) as file:
        second = FileSink(file, start=8, end=12, dtype=Dtype.BF16)
        first = FileSink(file, start=4, end=8, dtype=Dtype.U8)
        second.write(1, block(b"gh"))
        first.write(0, block(b"abcd"))
        second.write(0, block(b"ef"))
    assert (tmp_path / "x").read_bytes() == b"headabcdefgh"


def test_file_has_its_size_from_the_beginning_and_no_other_file_is_touched(tmp_path):
    with OutputFile(tmp_path / "x", b"head", size=100, tensors=1):
        assert (tmp_path / "x").stat().st_size == 100
    with pytest.raises(FileExistsError):
        OutputFile(tmp_path / "x", b"head", size=100, tensors=1)
    with OutputFile(tmp_path / "x", b"HEAD", size=100, tensors=1, again=True):
        assert (tmp_path / "x").read_bytes()[:4] == b"HEAD"


def test_last_tensor_makes_the_file_durable(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(writer.os, "fsync", synced.append)
    with OutputFile(tmp_path / "x", b"", size=8, tensors=2) as file:
        sinks = [FileSink(file, start=start, end=start + 4, dtype=Dtype.U8) for start in (0, 4)]
        sinks[1].close()
        assert synced == []
        sinks[0].close()
        assert len(synced) == 1


def test_file_without_tensors_is_durable_at_once(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(writer.os, "fsync", synced.append)
    with OutputFile(tmp_path / "x", b"head", size=4, tensors=0):
        assert len(synced) == 1


def test_short_writes_are_continued(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(writer.os, "pwrite", lambda file, content, place: pwrite(file, content[:3], place))
    with OutputFile(tmp_path / "x", b"0123456789", size=10, tensors=0):
        assert (tmp_path / "x").read_bytes() == b"0123456789"


@pytest.mark.parametrize("offset", [0, 8, 4095, 4096, 5000])
@pytest.mark.parametrize(
    "blocks",
    [
        *([3], [5000], [4096, 4096], [8192, 100], [1000, 1000, 5000, 1], [40960, 40960, 7]),
        *([100, 100, 0, 0], [5000, 8, 0]),  # a tensor that is shorter than the vector's gets empty blocks at its end
    ],
)
def test_large_files_are_written_past_the_cache_to_the_same_bytes(tmp_path, monkeypatch, offset, blocks):
    monkeypatch.setattr(writer, "WORTH_DIRECT", 0)
    tensors = [random.Random(place).randbytes(sum(blocks)) for place in range(3)]
    size = offset + sum(map(len, tensors))
    with OutputFile(tmp_path / "x", b"h" * offset, size=size, tensors=len(tensors)) as file:
        if not file.direct:
            pytest.skip("this file system knows no O_DIRECT")
        for place, tensor in enumerate(tensors):
            start = offset + place * len(tensor)
            sink, memory, done = FileSink(file, start=start, end=start + len(tensor), dtype=Dtype.U8), BlockMemory(), 0
            for count in blocks:
                room = memory.block(Dtype.U8, count, sink.lead(done))
                room.memory[:] = tensor[done : done + count]
                sink.write(done, room)
                done += count
            sink.close()
    assert (tmp_path / "x").read_bytes() == b"h" * offset + b"".join(tensors)


def test_blocks_in_foreign_memory_are_written_too(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "WORTH_DIRECT", 0)
    content = random.Random(1).randbytes(30_000)
    with OutputFile(tmp_path / "x", b"head", size=30_004, tensors=1) as file:
        sink, memory = FileSink(file, start=4, end=30_004, dtype=Dtype.U8), BlockMemory()
        room = memory.block(Dtype.U8, 10_000, sink.lead(0))
        room.memory[:] = content[:10_000]
        sink.write(0, room)
        sink.write(10_000, block(content[10_000:25_000]))
        room = memory.block(Dtype.U8, 5_000, sink.lead(25_000))
        room.memory[:] = content[25_000:]
        sink.write(25_000, room)
        sink.close()
    assert (tmp_path / "x").read_bytes() == b"head" + content


def test_disk_that_takes_no_direct_writes_is_written_through_the_cache(tmp_path, monkeypatch):
    def refuse(descriptor, content, place):
        raise OSError(errno.EINVAL, "Invalid argument")

    pwrite = os.pwrite
    monkeypatch.setattr(writer, "WORTH_DIRECT", 0)
    with OutputFile(tmp_path / "x", b"", size=8192, tensors=1) as file:
        sink, room = FileSink(file, start=0, end=8192, dtype=Dtype.U8), BlockMemory().block(Dtype.U8, 8192)
        room.memory[:] = b"x" * 8192
        monkeypatch.setattr(writer.os, "pwrite", lambda *call: (refuse if call[0] == file._direct else pwrite)(*call))
        sink.write(0, room)
        sink.close()
    assert (tmp_path / "x").read_bytes() == b"x" * 8192
