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


def description() -> str:
    """Return what does the work here, for ``fpvec doctor``: "compiled (AVX-512)" or "torch and hashlib"."""
    loaded = library()
    return f"compiled ({LEVELS[loaded.fpvec_level()]})" if loaded else "torch and hashlib"


def hashes_faster(loaded: ctypes.CDLL) -> bool:
    """Say whether messages side by side beat OpenSSL one by one, which uses SHA instructions where there are any."""
    return bool(loaded.fpvec_level() == max(LEVELS) or not loaded.fpvec_has_sha())
