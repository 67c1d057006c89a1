"""The header parser under fire: every input is read or refused, as a simple reference says, in time and in memory."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from math import prod

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors import header_scanner
from fpvec_audit.tensors.header import read_header

CONSTANT = 64 * 1024
SECONDS = 10
DTYPES = {dtype.label: dtype.size for dtype in Dtype}
NAMES = [
    "",
    "x",
    "model.layers.0.weight",
    'a"b\\c/d',
    "\x7f\n\t",
    "é",
    "中文",
    "\U0001f600",
    "n" * 250,
    "é" * 300,
    "a b",
]
NASTY = [
    *(b"-0", b"-1", b"1e5", b"1.0", b"0.", b"01", b"NaN", b"Infinity", b"null", b"true", b"9" * 5000, b"+1", b"0x1"),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551615", b"18446744073709551616"),
    *(rb'"\ud800"', rb'"\udc00"', rb'"\ud83d\ude00"', rb'"\ud83d\u0041"', rb'"\u00g0"', rb'"\x41"', rb'"\/\b\f\n\r\t"'),
    *(b"\xef\xbb\xbf", b"\0", b"\x0b", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xc3\xa9", b"'x'"),
    *(b"[", b"]", b"{", b"}", b":", b",", b'"', b"\\", b" ", b"\t\r\n", b"//", b"[" * 3000, b'{"a":' * 2000),
    *(b'"__metadata__"', rb'"\u005f_metadata__"', b'"dtype"', rb'"dt\u0079pe"', b'"shape"', b'"data_offsets"'),
    *(b'"__metadata__":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},', b'"":{},', b'"e":[],', b'"__metadata__":{},'),
    *(
        b'"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
        b"[1,1,1]",
        b"[" + b"1," * 63 + b"1]",
        b"[1" + b",1" * 64,
    ),
]
TOKEN = re.compile(rb'"[^"]*"|[0-9]+|[\[\]{}:,]|\s+|.', re.DOTALL)


def valid(draw):
    """Return header object and number of tensor bytes of a file that is in order."""
    header, end = {}, 0
    if draw.random() < 0.5:
        header["__metadata__"] = {draw.choice(NAMES): draw.choice(NAMES) for _ in range(draw.randrange(4))}
    for name in draw.sample(NAMES, draw.randrange(6)):
        shape = [draw.choice((0, 1, 1, 2, 3)) for _ in range(draw.randrange(4))]
        label = draw.choice(list(DTYPES))
        begin, end = end, end + prod(shape) * DTYPES[label]
        entry = {"dtype": label, "shape": shape, "data_offsets": [begin, end]}
        header[name] = dict(draw.sample(list(entry.items()), 3)) if draw.random() < 0.3 else entry
    return dict(draw.sample(list(header.items()), len(header))), end


def written(draw, header):
    """Return a header as one of many writers would put it."""
    layout = draw.choice(({"separators": (",", ":")}, {}, {"indent": 1}, {"separators": (" ,\t", "\r\n: ")}))
    return json.dumps(header, ensure_ascii=draw.random() < 0.5, **layout).encode() + b" " * draw.choice(
        (0, 0, 1, 7, 90)
    )


def mutated(draw, content):
    """Return a header with one thing changed that the grammar or the claims may depend on."""
    kind = draw.randrange(7)
    place = draw.randrange(len(content))
    if kind == 0:
        return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + content[draw.randrange(len(content)) :]
    tokens = TOKEN.findall(content)
    numbers = [spot for spot, token in enumerate(tokens) if token.isdigit()]
    spot, other = draw.randrange(len(tokens)), draw.randrange(len(tokens))
    if kind == 3 and numbers:
        spot = draw.choice(numbers)
        number = int(tokens[spot][:30])
        tokens[spot] = b"%d" % draw.choice((number + 1, number - 1, number * 2, 0, number + 2**63, number + 2**64))
    elif kind == 4:
        tokens[spot], tokens[other] = tokens[other], tokens[spot]
    elif kind == 5:
        tokens[spot:spot] = [draw.choice(NASTY)]
    else:
        tokens[spot] = draw.choice([*NASTY, b"", tokens[other]])
    return b"".join(tokens)


def inputs(seed, count):
    """Yield whole files, sound and damaged; the same for the same seed."""
    draw = random.Random(seed)
    for _ in range(count):
        header, size = valid(draw)
        content = written(draw, header)
        for _ in range(draw.choice((0, 1, 1, 1, 1, 2, 3))):
            content = mutated(draw, content) or b"{"
        length = len(content)
        if draw.random() < 0.1:
            length = draw.choice((0, 1, length - 1, length + 1, length + size, 2**31, 2**32 + length, 2**63, 2**64 - 1))
        size += draw.choice((0,) * 30 + (1, -1))
        file = length.to_bytes(8, "little") + content + bytes(max(size, 0))
        yield file[: draw.randrange(len(file))] if draw.random() < 0.02 else file


def reference(file):
    """Return (tensors in the order of their bytes, metadata) by the plainest means, or None for a bad file."""

    def unique(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def whole(digits):
        assert digits.isdigit()
        assert len(digits) < 20
        return int(digits)

    def never(text):
        raise AssertionError(text)

    length = int.from_bytes(file[:8], "little")
    try:
        assert len(file) >= 8 + length >= 8
        assert file[8:9] == b"{"
        text = file[8 : 8 + length].decode()
        header = json.loads(text, object_pairs_hook=unique, parse_int=whole, parse_float=never, parse_constant=never)
        json.dumps(header, ensure_ascii=False).encode()
        metadata = header.pop("__metadata__", {})
        assert type(metadata) is dict
        assert all(type(value) is str for value in metadata.values())
        tensors = []
        for name, entry in header.items():
            assert type(entry) is dict
            assert entry.keys() == {"dtype", "shape", "data_offsets"}
            label, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
            assert type(label) is str
            assert type(shape) is type(offsets) is list
            assert all(type(number) is int and number < 2**63 for number in shape + offsets)
            assert len(shape) <= 64
            begin, end = offsets
            assert prod(size for size in shape if size) * DTYPES[label] * 8 < 2**64
            assert end - begin == prod(shape) * DTYPES[label]
            tensors.append((name, label, tuple(shape), 8 + length + begin, 8 + length + end))
        tensors.sort(key=lambda tensor: tensor[3:])
        places = [8 + length, *(end for *_, end in tensors)]
        assert [begin for *_, begin, _ in tensors] == places[:-1]
        assert places[-1] == len(file)
    except (AssertionError, ValueError, KeyError, RecursionError):
        return None
    return tensors, metadata


def bytes_of_result(header):
    """Return what a header and everything in it take in memory."""
    parts = [header, header.tensors, header.metadata, *header.metadata, *header.metadata.values()]
    for spec in header.tensors:
        parts += [spec, spec.name, spec.shape, *spec.shape, spec.start, spec.end]
    return sum(sys.getsizeof(part) + 16 for part in parts)  # 16 for the collector's own


@contextmanager
def limited_time():
    def expire(number, frame):
        raise TimeoutError(f"more than {SECONDS} seconds of processor time for one file")

    before = signal.signal(signal.SIGVTALRM, expire)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def check(path, file, expected):
    """Read one input under watch, compare with what the reference says, and return whether it was accepted."""
    path.write_bytes(file)
    header = refusal = None
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        header = read_header(path)
        peak = tracemalloc.get_traced_memory()[1] - before
    except CheckpointError as error:
        peak = tracemalloc.get_traced_memory()[1] - before
        refusal = error
    assert (header is None) == (expected is None), file
    assert peak <= len(file) + CONSTANT + (bytes_of_result(header) if header else 0), file
    if refusal is not None:
        assert refusal.advice, file
        assert len(str(refusal)) < 2000, file
        return False
    found = [(spec.name, spec.dtype.label, spec.shape, spec.start, spec.end) for spec in header.tensors]
    assert (found, header.metadata) == expected, file
    return True


def accepted_of(path, files):
    """Check every file and return how many were accepted."""
    cases = [(file, reference(file)) for file in files]  # before memory is traced, which is slow
    tracemalloc.start()
    try:
        with limited_time():
            return sum(check(path, file, expected) for file, expected in cases)
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_windows(monkeypatch):
    """Let every token lie across the border of two windows sooner or later."""
    monkeypatch.setattr(header_scanner, "_WINDOW", 23)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_damaged_header_is_refused_and_every_sound_one_read_in_bounded_memory(tmp_path, seed):
    accepted = accepted_of(tmp_path / "x.safetensors", inputs(seed, 4000))
    assert 400 < accepted < 3000


@pytest.mark.slow
def test_borders_of_windows_change_nothing(tmp_path, small_windows):
    accepted = accepted_of(tmp_path / "x.safetensors", inputs(100, 1000))
    assert 100 < accepted < 750


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F7"]) | VALUES,
        "shape": st.lists(st.integers(0, 3), max_size=3) | st.lists(st.integers(), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(0, 20), min_size=2, max_size=2).map(sorted) | VALUES,
    }
)
HEADERS = st.dictionaries(st.text(max_size=6), ENTRIES | VALUES, max_size=3) | VALUES


@pytest.mark.slow
@settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(header=HEADERS, notes=st.none() | VALUES, data=st.binary(max_size=24))
def test_arbitrary_json_is_read_or_refused_as_the_reference_says(tmp_path, header, notes, data):
    if notes is not None and isinstance(header, dict):
        header["__metadata__"] = notes
    content = json.dumps(header).encode()
    accepted_of(tmp_path / "x.safetensors", [len(content).to_bytes(8, "little") + content + data])


STRICTER = "|".join(
    (
        "does not begin with an object",  # the format's text forbids white space there, safetensors does not
        "stands twice",
        "none of dtype, shape and data_offsets",  # it ignores other keys
        "expected an object",  # it takes a list for an entry, and null for metadata
        "unknown dtype",  # it knows formats that we do not read
        "whole number from 0 to 2",  # it allows sizes up to 2^64
        "more than 64 numbers",
        "multiply to more",
    )
)


def repeats_a_name(file):
    """Return whether an object has a name twice: safetensors forgets the first, and with it what is wrong there."""
    repeated = []
    length = int.from_bytes(file[:8], "little")
    json.loads(file[8 : 8 + length], object_pairs_hook=lambda pairs: repeated.append(len(dict(pairs)) < len(pairs)))
    return any(repeated)


def opened_by_safetensors(path):
    try:
        with safe_open(path, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError:
        return None


@pytest.mark.slow
def test_what_safetensors_opens_is_read_alike_unless_a_named_rule_is_stricter(tmp_path):
    path = tmp_path / "x.safetensors"
    both = 0
    for file in inputs(200, 3000):
        path.write_bytes(file)
        theirs = opened_by_safetensors(path)
        refusal = ""
        try:
            ours = {spec.name: (spec.dtype.label, spec.shape) for spec in read_header(path).tensors}
        except CheckpointError as error:
            refusal = str(error)
        if refusal:
            assert theirs is None or re.search(STRICTER, refusal) or repeats_a_name(file), (file, refusal)
        else:
            assert theirs == ours, file
            both += 1
    assert both > 300


ENTRY = b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
LARGE = {
    "a shape without end": lambda: b'{"x":{"dtype":"F32","shape":[' + b"1," * 10_000_000,
    "an object in an object": lambda: b'{"a":' * 4_000_000,
    "a name of escapes": lambda: b'{"' + rb"\ud83d\ude00" * 500_000 + b'":1}',
    "white space": lambda: b"{" + b" " * 20_000_000 + b"x",
    "small entries of metadata": lambda: b'{"__metadata__":{' + b",".join(b'"%x":""' % n for n in range(1_000_000)),
    "a duplicate at the end": lambda: b"{" + b",".join(ENTRY % n for n in [*range(50_000), 7]) + b"}",
}
CHILD = """
import re, sys
from pathlib import Path
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.header import read_header

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

small, large = map(Path, sys.argv[1:])
read_header(small)
before = most()
try:
    read_header(large)
except CheckpointError:
    print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for the most memory that was resident")
@pytest.mark.parametrize("kind", LARGE, ids=str)
def test_large_adversarial_header_takes_no_more_resident_memory_than_the_file_has_bytes(tmp_path, kind):
    content = LARGE[kind]()
    (tmp_path / "small").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "large").write_bytes(len(content).to_bytes(8, "little") + content)
    command = [sys.executable, "-c", CHILD, tmp_path / "small", tmp_path / "large"]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert grown <= len(content) + 2 * CONSTANT  # the kernel gives and counts memory in chunks of its own


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
def test_large_sound_header_takes_no_more_than_file_and_result(tmp_path, order):
    count = 10_000
    header = {f"{n:x}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(count)}
    content = json.dumps(dict(list(header.items())[::order]), separators=(",", ":")).encode()
    file = len(content).to_bytes(8, "little") + content + bytes(count)
    assert accepted_of(tmp_path / "x.safetensors", [file]) == 1


@pytest.mark.parametrize("character", ["n", "é", "中", "\U0001f600", "\0"])
def test_text_of_many_windows_is_read_whole(tmp_path, character):
    text = character * 30_000
    header = {"__metadata__": {text: "y" + text}, "x" + text: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    contents = [json.dumps(header, ensure_ascii=escaped).encode() for escaped in (False, True)]
    files = [len(content).to_bytes(8, "little") + content + b"\0" for content in contents]
    assert accepted_of(tmp_path / "x.safetensors", files) == 2


def test_metadata_of_countless_tiny_entries_is_refused_and_of_many_usual_ones_read(tmp_path):
    path = tmp_path / "x.safetensors"
    for value, accepted in (("", False), ("y" * 32, True)):
        content = json.dumps({"__metadata__": {f"{n:x}": value for n in range(3000)}}).encode()
        path.write_bytes(len(content).to_bytes(8, "little") + content)
        if accepted:
            assert len(read_header(path).metadata) == 3000
        else:
            with pytest.raises(CheckpointError, match="more than 1024 entries"):
                read_header(path)


def test_sparse_file_of_a_terabyte_is_read_or_refused_by_its_header_alone(tmp_path):
    path = tmp_path / "x.safetensors"
    content = b'{"x":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}'
    for length, accepted in ((len(content), True), (1 << 39, False)):
        path.write_bytes(length.to_bytes(8, "little") + content)
        os.truncate(path, 8 + len(content) + (1 << 40))
        if accepted:
            assert read_header(path).tensors[0].bytes == 1 << 40
        else:
            with pytest.raises(CheckpointError, match="more than the 100000000"):
                read_header(path)


@pytest.mark.parametrize("name", ["directory", "/dev/null", "/dev/zero", "missing"])
def test_what_is_no_regular_file_is_refused(tmp_path, name):
    (tmp_path / "directory").mkdir()
    with pytest.raises(CheckpointError):
        read_header(tmp_path / name)


@pytest.mark.parametrize("size", [0, 8, 40, 1000])
@pytest.mark.parametrize("call", range(2, 60, 5))
def test_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch, small_windows, size, call):
    path, calls, pread = tmp_path / "x.safetensors", [], os.pread
    header = {f"x{n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(20)}
    content = json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(20))

    def shrinking(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            os.truncate(path, size)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", shrinking)
    with pytest.raises(CheckpointError, match=r"while it was read"):
        read_header(path)


@pytest.mark.parametrize(("old", "new"), [(b'"x1"', b'"x0"'), (b"[1, 2]", b"[0, 1]"), (b'"note"', b'"tone"')])
def test_file_that_changes_between_the_two_scans_is_refused_or_read_as_it_became(tmp_path, monkeypatch, old, new):
    path, calls, pread = tmp_path / "x.safetensors", [], os.pread
    header = {f"x{n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(3)}
    content = json.dumps({"__metadata__": {"note": ""}, **header}).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(3))

    def changing(*arguments):
        calls.append(arguments)
        if len(calls) == 3:  # length field, first scan, second scan
            path.write_bytes(path.read_bytes().replace(old, new))
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", changing)
    if old == b'"note"':
        assert read_header(path).metadata == {"tone": ""}
    else:
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            read_header(path)
