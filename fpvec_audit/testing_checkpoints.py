"""Conformance of an adapter on a real checkpoint, and small random checkpoints; public names are in ``testing``.

Law: what :func:`check_checkpoint` passes can be fingerprinted, stamped and audited by its canonical names, since the
names in its files and those of the model that transformers loads from them are the same parameters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.errors import FpvecError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fpvec_audit.domain.checkpoint import Checkpoint


def random_checkpoint(
    directory: Path, config: Any, *, seed: int = 0, dtype: str = "float32", max_shard_size: str = "1GB"
) -> Path:
    """Write a model with random weights, as transformers would save it, and return the directory.

    Nothing is drawn from torch's global generator.

    Args:
        directory: where to; made if it does not exist.
        config: transformers configuration of a causal language model; two layers of width 32 make a quick test.
        seed: equal seeds make equal weights.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        max_shard_size: largest file, as transformers writes it ("40KB").
    """
    import torch
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    directory.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    return directory


def check_checkpoint(adapter: ArchitectureAdapter, *, checkpoint: Path, workspace: Path) -> None:
    """Hold an adapter to a small checkpoint that transformers can load.

    Its stored names, those of the loaded model and what the configuration ties must agree; embedding, output head and
    norms must have their roles; and a fingerprint vector, taken from the checkpoint and added to it, must give the
    fingerprinted model back bit for bit.

    Args:
        adapter: what to check.
        checkpoint: directory in Hugging Face layout, small.
        workspace: empty directory for a fingerprinted copy, a vector and a stamped copy; made if it does not exist.

    Raises:
        AssertionError: it breaks a law; the message says which and with which value.
    """
    from fpvec_audit.tensors.index import read_checkpoint

    try:
        stored = read_checkpoint(checkpoint)
        assert adapter.supports(stored.description) > 0, f"{adapter.name} does not support {checkpoint}"
        _check_model(adapter, stored)
        _check_round_trip(adapter, stored, workspace)
    except FpvecError as error:
        raise AssertionError(f"{adapter.name}: {error}") from error


def _check_model(adapter: ArchitectureAdapter, stored: "Checkpoint") -> None:
    """Compare the names in the files with those of the model that transformers makes of them."""
    from fpvec_audit.tensors.naming import named_parameters

    model = _without_weights(stored.path)
    tied = adapter.tied(stored.description.config)
    modules: dict[str, nn.Module] = {}
    for place, module in model.named_modules():
        for own, _ in module.named_parameters(recurse=False):
            full = f"{place}.{own}" if place else own
            name = adapter.canonical(full)
            assert name is not None, f"{full} is a parameter, canonical says it is a buffer"
            modules[name] = module
    for name, _ in model.named_buffers():
        assert adapter.canonical(name) is None, f"{name} is a buffer, canonical gives {adapter.canonical(name)}"
    in_files = set(named_parameters(stored, adapter).parameters)
    in_model = {tied.get(name, name) for name in modules}
    assert in_files == in_model, (
        f"only in the files: {sorted(in_files - in_model)}; only in the model: {sorted(in_model - in_files)}"
    )
    _check_roles(adapter, model, modules)


def _check_roles(adapter: ArchitectureAdapter, model: Any, modules: Mapping[str, "nn.Module"]) -> None:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    for name, module in modules.items():
        expected = adapter.role(name)
        if module is embedding:
            expected = TensorRole.EMBEDDING
        elif module is head:
            expected = TensorRole.OUTPUT_HEAD
        elif "Norm" in type(module).__name__:
            expected = TensorRole.NORM
        assert adapter.role(name) is expected, f"{name} has the role {adapter.role(name)}, it is {expected}"


def _check_round_trip(adapter: ArchitectureAdapter, base: "Checkpoint", workspace: Path) -> None:
    """Take a vector from the checkpoint and add it again."""
    from fpvec_audit.tensors.delta import plan_extraction, write_vector
    from fpvec_audit.tensors.digest import canonical_digest
    from fpvec_audit.tensors.index import read_checkpoint
    from fpvec_audit.tensors.recompute import rewrite_checkpoint
    from fpvec_audit.tensors.stamp import write_stamp
    from fpvec_audit.tensors.stamp_plan import ScaledVector, plan_stamp
    from fpvec_audit.tensors.vector_files import read_vector

    workspace.mkdir(parents=True, exist_ok=True)
    rewrite_checkpoint(base.path, workspace / "fingerprinted", _moved, adapter=adapter)
    fingerprinted = read_checkpoint(workspace / "fingerprinted")
    vector = workspace / "vector"
    vector.mkdir()
    taken = write_vector(plan_extraction(base, fingerprinted, adapter), vector, tool_version="0").description
    assert taken.inexact_elements == 0, f"{taken.inexact_elements} elements of the vector are not exact"
    plan = plan_stamp(base, [ScaledVector(read_vector(vector), 1.0)], adapter)
    (workspace / "stamped").mkdir()
    write_stamp(plan, workspace / "stamped")
    expected = canonical_digest(fingerprinted, adapter)
    stamped = canonical_digest(read_checkpoint(workspace / "stamped"), adapter)
    assert stamped == expected, f"base + vector is {stamped}, the fingerprinted model {expected}"


def _moved(_name: str, tensor: "Tensor") -> "Tensor":
    """Move every weight by a small amount that depends on its value, so that tied copies stay alike."""
    from fpvec_audit.tensors.representable import representable

    values = tensor.float()
    return representable(tensor, (values + 0.01 * (1000 * values).sin()).to(tensor.dtype))


def _without_weights(directory: Path) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
