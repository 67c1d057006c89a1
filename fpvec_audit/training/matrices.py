"""Which parameters of a model are weight matrices, and which way round they are stored; no weight is loaded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.domain.vector import VOCABULARY_ROLES
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.training.checkpoint_files import quiet_transformers


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix.

    Attributes:
        role: what it does; of an unknown architecture EMBEDDING, OUTPUT_HEAD or OTHER, judged by its module.
        transposed: whether it is stored (inputs, outputs), as GPT-2's layers are, and not (outputs, inputs).
    """

    role: TensorRole
    transposed: bool

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Return a view of the matrix with one row per output; several stacked matrices come one under the other.

        Shapes:
            the result is (outputs, inputs).
        """
        turned = values.T if self.transposed else values
        return turned.reshape(-1, turned.shape[-1])

    def stored(self, rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return what :meth:`rows` gave in the shape and order in which it is stored."""
        return rows.T.reshape(shape) if self.transposed else rows.reshape(shape)


def weight_matrices(source: Path, *, adapter: ArchitectureAdapter | None = None) -> Mapping[str, Matrix]:
    """Return canonical name → matrix, for every stored parameter of two or more dimensions.

    Args:
        source: checkpoint directory, of which only the configuration and the headers are read.
        adapter: names and roles; without one, names are as stored.

    Raises:
        CheckpointError: transformers does not know the configuration, or names none of the stored tensors as it does.
    """
    stored = named_parameters(read_checkpoint(source), adapter).parameters
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True)
        with quiet_transformers(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{source}: transformers cannot build it: {error}") from error
    found = {name: matrix for name, matrix in _named(model, adapter) if name in stored}
    if all(matrix.role in VOCABULARY_ROLES for matrix in found.values()):
        raise CheckpointError(
            f"{source}: none of its tensors is a matrix of attention or MLP that transformers knows by its name",
            advice="name the right --architecture, or save the model with this transformers version first",
        )
    return found


def canonical_names(model: Any, adapter: ArchitectureAdapter | None, name: str) -> tuple[str, ...]:
    """Return the names under which a parameter of a loaded model is found in its files' canonical names."""
    if adapter is not None:
        canonical = adapter.canonical(name)
        return () if canonical is None else (canonical,)
    return tuple(dict.fromkeys((name, name.removeprefix(f"{getattr(model, 'base_model_prefix', '')}."))))


def _named(model: Any, adapter: ArchitectureAdapter | None) -> Iterator[tuple[str, Matrix]]:
    head = model.get_output_embeddings()
    for place, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.dim() < 2:
                continue
            role = TensorRole.OTHER
            if isinstance(module, torch.nn.Embedding):
                role = TensorRole.EMBEDDING
            elif module is head:
                role = TensorRole.OUTPUT_HEAD
            transposed = type(module).__name__ == "Conv1D"
            for name in canonical_names(model, adapter, f"{place}.{own}" if place else own):
                known = TensorRole.OTHER if adapter is None else adapter.role(name)
                yield name, Matrix(role if known is TensorRole.OTHER else known, transposed)
