import os

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
