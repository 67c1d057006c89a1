"""Which stored tensor is which parameter: canonical names, tied tensors once, buffers left out.

Everything in this package matches tensors by the names made here, never by order.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.blocks import block_ranges
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.source import TensorSource


@dataclass(frozen=True, slots=True)
class NamedParameters:
    """The parameters of a checkpoint.

    Attributes:
        parameters: canonical name → where it is stored; a tied tensor stands here once, under the name it is tied to.
        canonical: stored name → canonical name, for every stored tensor that is a parameter; a tied tensor that is
            stored under its alias too has the name it is tied to. Buffers are not in it.
        tied: alias → canonical name it shares its values with, whether the alias is stored or not.
    """

    parameters: Mapping[str, TensorSpec]
    canonical: Mapping[str, str]
    tied: Mapping[str, str]


def named_parameters(checkpoint: Checkpoint, adapter: ArchitectureAdapter | None) -> NamedParameters:
    """Name the parameters of a checkpoint.

    Args:
        checkpoint: the model.
        adapter: its architecture; without one a stored name is the canonical name, and nothing is tied.

    Raises:
        CheckpointError: two stored tensors have one canonical name, or a tied tensor is stored twice with different
            values.
    """
    tied = {} if adapter is None else dict(adapter.tied(checkpoint.description.config))
    parameters: dict[str, TensorSpec] = {}
    canonical: dict[str, str] = {}
    aliases: dict[str, TensorSpec] = {}
    for stored, spec in checkpoint.tensors.items():
        name = stored if adapter is None else adapter.canonical(stored)
        if name is None:
            continue
        canonical[stored] = tied.get(name, name)
        places = aliases if name in tied else parameters
        if name in places:
            raise CheckpointError(
                f"{checkpoint.path}: {places[name].name} and {stored} are both {name}",
                advice="remove one of them; the checkpoint was put together wrongly",
            )
        places[name] = spec
    for alias, spec in aliases.items():
        kept = parameters.setdefault(tied[alias], spec)
        if kept is not spec:
            _check_equal(checkpoint, kept, spec)
    return NamedParameters(dict(sorted(parameters.items())), canonical, tied)


def _check_equal(checkpoint: Checkpoint, kept: TensorSpec, alias: TensorSpec) -> None:
    """Refuse a tie that the stored values contradict: which of the two the model would use is anyone's guess."""
    equal = (kept.dtype, kept.shape) == (alias.dtype, alias.shape)
    if equal:
        with OpenFiles(checkpoint.path) as files:
            one, other = files.source(kept), files.source(alias)
            equal = all(_equal(one, other, start, count) for start, count in block_ranges(kept.elements))
    if not equal:
        raise CheckpointError(
            f"{checkpoint.path}: {alias.name} differs from {kept.name}, although the configuration ties them",
            advice='write "tie_word_embeddings": false into config.json, or remove the stored alias',
        )


def _equal(one: TensorSource, other: TensorSource, start: int, count: int) -> bool:
    size = count * one.dtype.size
    first, second = bytearray(size), bytearray(size)
    one.read_into(start, count, memoryview(first))
    other.read_into(start, count, memoryview(second))
    return first == second
