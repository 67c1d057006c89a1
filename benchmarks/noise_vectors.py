"""Vectors of noise in Llama's shape, for benchmarks that need many and do not care what is in them."""

import json
from pathlib import Path

from llama_checkpoints import INDEX_FILE, LlamaSize, make_checkpoint

from fpvec_audit.domain.vector import StoredDtype, VectorDescription
from fpvec_audit.tensors.digest import canonical_digest
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.vector_files import DESCRIPTION


def make_vector(out: Path, size: LlamaSize, *, seed: int, spread: float, base: str) -> VectorDescription:
    """Write a vector of noise.

    Args:
        out: directory to make.
        size: shape.
        seed: of the noise.
        spread: its standard deviation.
        base: canonical digest of the base that it is said to be of.
    """
    described = out / DESCRIPTION
    if described.is_file():  # the very same, or whoever wants another makes it elsewhere
        return VectorDescription.from_json(json.loads(described.read_text(encoding="utf-8")), where=str(described))
    make_checkpoint(out, size, seed=seed, of=None, noise=spread)
    files = read_checkpoint(out)
    digest = canonical_digest(files, None)
    description = VectorDescription(
        digest=digest,
        architecture="llama2",
        dtype=StoredDtype.SAME,
        base_digest=base,
        fingerprinted_digest=digest,
        tied={},
        tensors=len(files.tensors),
        elements=files.parameters,
        bytes=files.bytes,
        inexact_elements=0,
        norm=spread * files.parameters**0.5,
        tool_version="0",
    )
    for file in files.files:
        (out / file).rename(out / file.replace("model", "vector"))
    index = out / INDEX_FILE
    if index.is_file():
        text = index.read_text(encoding="utf-8").replace('"model-', '"vector-')
        (out / INDEX_FILE.replace("model", "vector")).write_text(text, encoding="utf-8")
        index.unlink()
    described.write_text(json.dumps(description.to_json()), encoding="utf-8")
    return description
