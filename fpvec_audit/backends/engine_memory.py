"""How much memory a vLLM engine sets aside, and over how many GPUs its model is divided.

An engine takes what it needs and no more, so that the engines of a suspect and of its base stand side by side.
"""

from collections.abc import Sequence

from fpvec_audit.backends.prompts import SuspectFiles
from fpvec_audit.domain.tensor_parallel import (
    USABLE,
    attention_heads,
    fits,
    part_bytes,
    possible_parts,
    settled_parts,
)
from fpvec_audit.errors import BackendError, UsageError

LONGEST = 2048
"""Most tokens of prompt and answer together, whatever a context window would allow: memory is set aside for it."""
SEQUENCES = 64
BLOCK = 128
ROOM = 1 << 30
"""Bytes of key-value cache beyond one whole sequence, at most."""


def cache_bytes(files: SuspectFiles, longest: int, *, parts: int = 1) -> int | None:
    """Return how much key-value cache each part of an engine needs: one whole sequence, and room for many short ones.

    None where the architecture keeps no plain keys and values; vLLM then decides. The cache is filled with zeros at the
    start, so a generous one costs seconds.

    Args:
        files: the suspect.
        longest: tokens of one whole sequence.
        parts: into how many the model is divided; heads of keys and values that are fewer are repeated.
    """
    config = files.config
    try:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        number = 4 if files.dtype == "float32" else 2
        token = 2 * config.num_hidden_layers * max(1, heads // parts) * width * number
    except (AttributeError, TypeError):
        return None
    sequence = token * (-(-longest // BLOCK) + 2) * BLOCK
    return int(sequence + min(ROOM // parts, token * SEQUENCES * 2 * BLOCK))


def weight_bytes(files: SuspectFiles) -> int:
    """Return how large the weights of a checkpoint are as they are stored, which is how an engine runs them."""
    return sum(file.stat().st_size for file in files.directory.glob("*.safetensors"))


def settle_parts(files: SuspectFiles, asked: int | None, *, gpus: Sequence[int]) -> int:
    """Return over how many GPUs a suspect is divided: as many as were asked for, else as few as hold it.

    They hold it where its base finds room beside it, and where that is nowhere, where it stands alone. Without GPUs it
    is not divided unless that is asked for.

    Args:
        files: the suspect.
        asked: how many were asked for (``--tensor-parallel``), None where nothing was said.
        gpus: bytes of each GPU that vLLM sees; none on a processor.

    Raises:
        UsageError: what was asked for does not divide the attention heads, or there are not as many GPUs.
        BackendError: no possible number holds the suspect.
    """
    possible = possible_parts(files.config.to_dict())
    if asked is not None:
        _refuse_impossible(files, asked, possible=possible, gpus=gpus)
        return asked
    if not gpus:
        return 1
    weights = weight_bytes(files)
    if parts := settled_parts(weights, possible=possible, gpus=gpus):
        return parts
    raise BackendError(
        f"{files.directory}: {weights / 1e9:.1f} GB of weights do not fit {_described(gpus)}, into however many of "
        f"{_listed(possible, len(gpus))} parts they are divided",
        advice="use more or larger GPUs; --tensor-parallel N tries it nevertheless",
    )


def memory_share(files: SuspectFiles, parts: int, *, gpus: Sequence[int]) -> float | None:
    """Return the share of a GPU that one part of a suspect takes, in (0, 1); None on a processor.

    vLLM starts an engine where so much is free.
    """
    if not gpus:
        return None
    weights = weight_bytes(files)
    if not fits(weights, parts=parts, gpu=min(gpus)):
        return USABLE
    return part_bytes(weights, parts) / min(gpus)


def _refuse_impossible(files: SuspectFiles, asked: int, *, possible: Sequence[int], gpus: Sequence[int]) -> None:
    if asked not in possible:
        heads = attention_heads(files.config.to_dict())
        raise UsageError(
            f"--tensor-parallel {asked}: the {heads or 'unknown number of'} attention heads of {files.directory} "
            "cannot be divided so",
            advice=f"choose {_listed(possible)}",
        )
    if gpus and asked > len(gpus):
        raise UsageError(
            f"--tensor-parallel {asked}: vLLM sees {_described(gpus)}", advice=f"choose {_listed(possible, len(gpus))}"
        )


def _described(gpus: Sequence[int]) -> str:
    return f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''} of {min(gpus) / 1e9:.1f} GB"


def _listed(possible: Sequence[int], most: int | None = None) -> str:
    """Return numbers as "1, 2 or 4"."""
    numbers = [str(number) for number in possible if most is None or number <= most]
    return " or ".join([", ".join(numbers[:-1]), numbers[-1]]) if len(numbers) > 1 else numbers[0]
