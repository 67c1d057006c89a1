"""What a checkpoint on disk is made of, as values: names, dtypes, shapes and where the bytes lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from pathlib import Path

from fpvec_audit.domain.ports import ModelDescription


class Dtype(Enum):
    """Number formats of safetensors headers; the value is (header name, bytes per element, is floating point)."""

    F64 = ("F64", 8, True)
    F32 = ("F32", 4, True)
    F16 = ("F16", 2, True)
    BF16 = ("BF16", 2, True)
    F8_E4M3 = ("F8_E4M3", 1, True)
    F8_E5M2 = ("F8_E5M2", 1, True)
    I64 = ("I64", 8, False)
    I32 = ("I32", 4, False)
    I16 = ("I16", 2, False)
    I8 = ("I8", 1, False)
    U64 = ("U64", 8, False)
    U32 = ("U32", 4, False)
    U16 = ("U16", 2, False)
    U8 = ("U8", 1, False)
    BOOL = ("BOOL", 1, False)

    @property
    def label(self) -> str:
        """Name in a safetensors header."""
        return self.value[0]

    @property
    def size(self) -> int:
        """Bytes per element."""
        return self.value[1]

    @property
    def floating(self) -> bool:
        """Whether it is a floating-point format."""
        return self.value[2]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a safetensors file.

    Attributes:
        name: name as stored.
        dtype: number format.
        shape: row-major shape; () for a scalar.
        file: name of the file inside the checkpoint directory.
        start: offset of the first byte from the beginning of the file.
        end: offset after the last byte.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    file: str
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Number of bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory in Hugging Face layout, described but not loaded.

    Attributes:
        path: the directory.
        tensors: stored name → where it lies.
        files: safetensors file names in stored order.
        sharded: whether an index file ties several shards together.
        description: what the checkpoint says of itself in JSON.
    """

    path: Path
    tensors: Mapping[str, TensorSpec]
    files: tuple[str, ...]
    sharded: bool
    description: ModelDescription

    @property
    def parameters(self) -> int:
        """Number of stored elements."""
        return sum(spec.elements for spec in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Number of tensor bytes."""
        return sum(spec.bytes for spec in self.tensors.values())
