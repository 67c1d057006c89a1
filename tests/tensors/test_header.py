import json
import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.header import LARGEST_HEADER, header_bytes, read_header
from tests.tiny import write_raw

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def entry(**changes):
    return {"x": ONE | changes}


def test_header_gives_tensors_in_the_order_of_their_bytes_with_absolute_offsets(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [8, 12]},
        "a": ONE,
    }
    path = write_raw(tmp_path / "x.safetensors", header, b"\0" * 12)
    read = read_header(path)
    assert [(spec.name, spec.dtype, spec.shape, spec.bytes) for spec in read.tensors] == [
        ("a", Dtype.F32, (2,), 8),
        ("b", Dtype.BF16, (2, 1), 4),
    ]
    assert read.tensors[0].start == read.data_start
    assert read.tensors[1].end == path.stat().st_size
    assert read.metadata == {"format": "pt"}


def test_header_written_by_us_is_read_back_and_accepted_by_safetensors(tmp_path):
    from safetensors.torch import load_file

    tensors = {"a": (Dtype.F32, (2, 3)), "empty": (Dtype.F32, (0, 4)), "scalar": (Dtype.F16, ())}
    path = tmp_path / "x.safetensors"
    path.write_bytes(header_bytes(tensors, {"format": "pt"}) + b"\0" * 26)
    assert {spec.name: (spec.dtype, spec.shape) for spec in read_header(path).tensors} == tensors
    assert {name: tuple(value.shape) for name, value in load_file(path).items()} == {
        name: shape for name, (_, shape) in tensors.items()
    }
    assert read_header(path).data_start % 8 == 0


LIES = {
    "not an object": b"[1]",
    "not JSON": b"{",
    "not UTF-8": b'{"\xff": 1}',
    "nested too deeply": b'{"a":' * 100_000,
    "endless number": b'{"x":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
    "constant": b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "duplicate tensor": b'{"x":%b,"x":%b}' % ((json.dumps(ONE).encode(),) * 2),
    "duplicate key in an entry": b'{"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "half a surrogate pair as name": b'{"\\ud800":%b}' % json.dumps(ONE).encode(),
    "metadata that is no object": {"__metadata__": [], "x": ONE},
    "metadata that is no text": {"__metadata__": {"a": 1}, "x": ONE},
    "entry that is no object": {"x": [1]},
    "entry without shape": {"x": {"dtype": "F32", "data_offsets": [0, 8]}},
    "entry with more": entry(extra=1),
    "unknown dtype": entry(dtype="F7"),
    "dtype that is no text": entry(dtype=["F32"]),
    "negative size": entry(shape=[-2]),
    "size that is true": entry(shape=[True, 2]),
    "size that is a fraction": entry(shape=[2.0]),
    "shape that is no list": entry(shape=2),
    "size beyond 64 bits": entry(shape=[2**64]),
    "product that overflows 64 bits to the right count": entry(shape=[2**32, 2**32, 2]),
    "too many dimensions": entry(shape=[1] * 100 + [2]),
    "three offsets": entry(data_offsets=[0, 4, 8]),
    "offsets the wrong way round": entry(data_offsets=[8, 0]),
    "offset beyond the file": entry(data_offsets=[0, 1 << 60]),
    "fewer bytes than shape and dtype say": entry(shape=[3]),
    "hole at the beginning": {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "bytes after the last tensor": {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    "overlap": {"x": ONE, "y": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "no tensors but bytes": {},
}


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_lying_header_is_refused_with_the_file_name(tmp_path, lie):
    path = write_raw(tmp_path / "lying.safetensors", LIES[lie], b"\0" * 8)
    with pytest.raises(CheckpointError, match=r"lying\.safetensors") as caught:
        read_header(path)
    assert caught.value.advice


@pytest.mark.parametrize("content", [b"", b"\0" * 7, (100).to_bytes(8, "little") + b"{}"], ids=["empty", "7", "short"])
def test_truncated_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_header(path)


def test_header_length_beyond_the_file_is_refused_before_anything_is_read(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"x": ONE}, b"\0" * 8, length=2**64 - 1)
    with pytest.raises(CheckpointError, match="claims 18446744073709551615 bytes"):
        read_header(path)


def test_header_beyond_the_formats_limit_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((LARGEST_HEADER + 1).to_bytes(8, "little"))
        file.truncate(LARGEST_HEADER + 9)
    with pytest.raises(CheckpointError, match="more than the 100000000"):
        read_header(path)


def test_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="regular file"):
        read_header(tmp_path / "x.safetensors")


def test_long_and_unprintable_names_are_shortened_in_messages(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"\x1b[31m" + "n" * 10_000: ONE | {"dtype": "F7"}}, b"\0" * 8)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*(dtype.label for dtype in Dtype), "F7"]) | JSON_VALUES,
        "shape": st.lists(st.integers(-1, 5) | st.integers(), max_size=4) | JSON_VALUES,
        "data_offsets": st.lists(st.integers(-1, 40) | st.integers(), min_size=2, max_size=2) | JSON_VALUES,
    }
)


def accepted_or_refused(path):
    try:
        header = read_header(path)
    except CheckpointError:
        return
    place = header.data_start
    for spec in header.tensors:
        assert spec.start == place
        assert spec.bytes == spec.elements * spec.dtype.size
        place = spec.end
    assert place == path.stat().st_size


@FUZZ
@given(content=st.binary(max_size=200))
@example(content=b"\x02" + b"\0" * 7 + b"{}")
def test_arbitrary_bytes_are_refused_or_fully_explained(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    accepted_or_refused(path)


@FUZZ
@given(
    header=st.dictionaries(st.text(max_size=6), ENTRIES | JSON_VALUES, max_size=3) | JSON_VALUES,
    data=st.binary(max_size=40),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_arbitrary_headers_are_refused_or_fully_explained(tmp_path, header, data, length):
    content = json.dumps(header).encode()
    accepted_or_refused(write_raw(tmp_path / "x.safetensors", content, data, length=length))


@FUZZ
@given(data=st.data())
def test_every_truncation_and_flipped_byte_of_a_good_header_is_refused_or_fully_explained(tmp_path, data):
    path = write_raw(tmp_path / "x.safetensors", {"x": ONE, "y": ONE | {"data_offsets": [8, 16]}}, b"\0" * 16)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_header(path)
    else:
        content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        accepted_or_refused(path)
