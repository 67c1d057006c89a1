"""Compiled loops, if this installation has them: 0.1 MB of C that is built with the package (``hatch_build.py``).

Without a C compiler, or on another processor than x86-64 with AVX2, there are none; torch and hashlib then do the same
work with the same result, only slower.
"""

import ctypes
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).with_name("_kernels.so")
LEVELS = {2: "AVX2", 3: "AVX-512"}


class Part(ctypes.Structure):
    """``fpvec_part`` of kernels.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("format", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class Difference(ctypes.Structure):
    """``fpvec_difference`` of kernels.h."""

    _fields_ = (
        ("base_nonfinite", ctypes.c_uint64),
        ("other_nonfinite", ctypes.c_uint64),
        ("tau_nonfinite", ctypes.c_uint64),
        ("inexact", ctypes.c_uint64),
        ("square", ctypes.c_double),
    )


class Carrier(ctypes.Structure):
    """``fpvec_carrier`` of kernels.h."""

    _fields_ = (("key", ctypes.c_uint8 * 16), ("strength", ctypes.c_double))


class Message(ctypes.Structure):
    """``fpvec_message`` of kernels.h."""

    _fields_ = (("state", ctypes.c_uint32 * 8), ("data", ctypes.c_void_p), ("blocks", ctypes.c_uint64))


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled loops, or None where there are none for this processor."""
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        level = int(loaded.fpvec_level())
    except (OSError, AttributeError):
        return None
    if level not in LEVELS:
        return None
    integer, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    loaded.fpvec_add.argtypes = [pointer, integer, pointer, size, pointer, size, pointer]
    loaded.fpvec_subtract.argtypes = [pointer, integer, pointer, integer, pointer, integer, size, pointer]
    loaded.fpvec_sha256.argtypes = [pointer, size]
    for function in (loaded.fpvec_add, loaded.fpvec_subtract, loaded.fpvec_sha256):
        function.restype = None
    return loaded


@cache
def carrier_library() -> ctypes.CDLL | None:
    """Return the compiled loops if they know carriers and this processor has the instructions for them."""
    loaded = library()
    try:
        level = 0 if loaded is None else int(loaded.fpvec_carrier_level())
    except AttributeError:  # built before there were carriers
        return None
    if loaded is None or level not in LEVELS:
        return None
    integer, pointer, size, wide = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
    loaded.fpvec_carry.argtypes = [
        pointer, size, pointer, integer, wide, size, pointer, size, pointer, pointer, pointer
    ]  # fmt: skip
    loaded.fpvec_levels.argtypes = [
        pointer, integer, pointer, integer, size, ctypes.c_double, pointer, pointer, pointer, pointer
    ]  # fmt: skip
    loaded.fpvec_read_carriers.argtypes = [pointer, size, pointer, wide, size, pointer, pointer, pointer, pointer]
    loaded.fpvec_carry.restype = loaded.fpvec_read_carriers.restype = None
    loaded.fpvec_levels.restype = wide
    return loaded


def description() -> str:
    """Return what does the work here, for ``fpvec doctor``: "compiled (AVX-512)" or "torch and hashlib"."""
    loaded = library()
    return f"compiled ({LEVELS[loaded.fpvec_level()]})" if loaded else "torch and hashlib"


def hashes_faster(loaded: ctypes.CDLL) -> bool:
    """Say whether messages side by side beat OpenSSL one by one, which uses SHA instructions where there are any."""
    return bool(loaded.fpvec_level() == max(LEVELS) or not loaded.fpvec_has_sha())
