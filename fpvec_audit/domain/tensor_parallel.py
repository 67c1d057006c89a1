"""How many GPUs hold a model: into how many parts it can be divided, and how much memory a part takes.

Tensor parallelism gives every GPU some of the attention heads and its share of every matrix. So the number of parts
must divide the heads, and a part takes a fraction of the weights and the same room as the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

GIBIBYTE = 1 << 30
ACTIVATIONS = 1.2
"""GPU memory for each byte of weights. Source: EleutherAI, "Transformer Math 101" (2023): inference takes about 1.2
times the memory of the model."""
RESERVE = 2 * GIBIBYTE
"""Bytes of every GPU beyond that: the cache of keys and values that an engine sets aside (one whole sequence and a
gibibyte for short ones, divided among the parts), and what CUDA, its libraries and NCCL take themselves."""
USABLE = 0.92
"""Share of a GPU's memory that engines take together: vLLM's own bound (``gpu_memory_utilization``)."""
SIDE_BY_SIDE = 2
"""Engines that an audit has open at the same time: the suspect's, and its base's for the likelihood test."""
MOST_PARTS = 64

_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_SHARED_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_WIDTHS = ("intermediate_size", "ffn_dim", "n_inner")


def attention_heads(config: Mapping[str, Any]) -> int | None:
    """Return how many attention heads a model has, None where its configuration does not say.

    Args:
        config: the content of ``config.json``; where it has a text part, that part counts.
    """
    return _number(_text_part(config), _HEADS)


def possible_parts(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return into how many parts a model can be divided, ascending, with 1 first.

    Heads of keys and values that several heads share are divided too, or repeated, and the width between the two
    matrices of a block is divided. Where the configuration does not say how many heads there are: powers of two.

    Args:
        config: the content of ``config.json``.
    """
    text = _text_part(config)
    heads = _number(text, _HEADS)
    counts = range(1, MOST_PARTS + 1)
    if heads is None:
        return tuple(count for count in counts if count & (count - 1) == 0)
    shared = _number(text, _SHARED_HEADS) or heads
    width = _number(text, _WIDTHS) or 0
    return tuple(
        count
        for count in counts
        if heads % count == 0 and (shared % count == 0 or count % shared == 0) and width % count == 0
    )


def part_bytes(weights: int, parts: int) -> int:
    """Return how much of a GPU one part of a model takes, bytes.

    Args:
        weights: bytes of the checkpoint's weights; an engine runs them in the number format in which they are stored.
        parts: into how many it is divided.
    """
    return int(ACTIVATIONS * weights / parts) + RESERVE


def fits(weights: int, *, parts: int, gpu: int, models: int = 1) -> bool:
    """Say whether so many models of one size, each divided likewise, stand side by side on GPUs of one size.

    Args:
        weights: bytes of one model's weights.
        parts: into how many each is divided, one on each GPU.
        gpu: bytes of a GPU.
        models: how many there are.
    """
    return models * part_bytes(weights, parts) <= USABLE * gpu


def least_parts(weights: int, *, possible: Sequence[int], gpus: Sequence[int], models: int = 1) -> int | None:
    """Return the smallest number of GPUs that hold so many models of one size; None where no possible number does.

    Args:
        weights: bytes of one model's weights.
        possible: into how many parts it can be divided, ascending.
        gpus: bytes of each GPU that is there.
        models: how many stand side by side.
    """
    smallest = min(gpus, default=0)
    return next(
        (parts for parts in possible if parts <= len(gpus) and fits(weights, parts=parts, gpu=smallest, models=models)),
        None,
    )


def settled_parts(weights: int, *, possible: Sequence[int], gpus: Sequence[int]) -> int | None:
    """Return over how many GPUs a model is divided if nothing else is said: as few as hold it and its base.

    Where none hold both, as few as hold it alone; None where no possible number does.

    Args:
        weights: bytes of the model's weights.
        possible: into how many parts it can be divided, ascending.
        gpus: bytes of each GPU that is there.
    """
    both = least_parts(weights, possible=possible, gpus=gpus, models=SIDE_BY_SIDE)
    return both or least_parts(weights, possible=possible, gpus=gpus)


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def _number(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    found = (config.get(name) for name in names)
    return next(
        (value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )
