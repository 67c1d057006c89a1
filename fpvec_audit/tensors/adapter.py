"""Adapter directories of PEFT: what lies there, and what a LoRA adapter makes of each tensor of its base.

A LoRA adapter holds two thin matrices for a module: A, (r, in), and B, (out, r). It adds s · B · A to the module's
weight, s = α / r, or α / √r under ``use_rslora``. It may also hold whole tensors that take the place of the base's
(``modules_to_save``).

Laws:

* what is merged here is what PEFT computes when base and adapter run together; everything of which that cannot be said
  is refused by name, never merged in part;
* modules are matched with tensors by canonical name; whether a product is transposed (GPT-2's ``Conv1D`` stores its
  weights (in, out)) follows from the base, as ``fan_in_fan_out`` is one flag for all modules of an adapter.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter, ModelDescription, TensorRole
from fpvec_audit.errors import CheckpointError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.digest import file_digests, tensor_digests
from fpvec_audit.tensors.index import CONFIG, MODEL, inside, read_json, read_tensors, refuse_own_code
from fpvec_audit.tensors.naming import NamedParameters
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.source import TensorSource

ADAPTER_CONFIG = "adapter_config.json"
STEM = "adapter_model"
WEIGHTS = f"{STEM}.safetensors"
PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
MERGE_WITH_PEFT = (
    "merge it with peft first (PeftModel.from_pretrained(base, adapter).merge_and_unload(), then save_pretrained) and "
    "stamp the result, or keep it apart with --adapter keep"
)
CONV1D_MODELS = ("gpt2", "openai-gpt")
"""Model types whose attention and MLP weights are stored (in, out)."""

_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""Ways to initialise A and B that leave the base as it is."""
_VARIANTS = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA biases",
    "target_parameters": "LoRA on single parameters",
    "trainable_token_indices": "trained rows of an embedding",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "a router of several adapters",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
"""Settings of ``adapter_config.json`` that make an adapter more than s · B · A, and what they stand for."""
_TENSORS = {
    "lora_magnitude_vector": "DoRA",
    "lora_embedding_": "LoRA on an embedding",
    ".lora_A.bias": "LoRA biases",
    ".lora_B.bias": "LoRA biases",
    "trainable_tokens_": "trained rows of an embedding",
}
"""Parts of tensor names that say the same."""


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter on disk.

    Attributes:
        files: its directory and tensors; the description's configuration is ``adapter_config.json``.
        digest: over configuration and weights, hexadecimal.
    """

    files: Checkpoint
    digest: str

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.files.path

    @property
    def config(self) -> Mapping[str, Any]:
        """``adapter_config.json``."""
        return self.files.description.config

    @property
    def kind(self) -> str:
        """PEFT's word for what it is ("LORA")."""
        return str(self.config.get("peft_type"))

    @property
    def base_name(self) -> str:
        """What its configuration calls its base; empty when it says nothing."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) else ""

    @property
    def replaced(self) -> tuple[str, ...]:
        """Tensors that it holds whole, to take the place of the base's, by the base's stored names."""
        if self.kind != "LORA":
            return ()
        return tuple(sorted(_stored_name(name) for name in self.files.tensors if "lora_" not in name))

    def refuse_changed(self) -> None:
        """Refuse files that are no longer those that were read first.

        Raises:
            CheckpointError: configuration or weights were changed.
        """
        if _digest(self.path) != self.digest:
            raise CheckpointError(
                f"{self.path} was changed while it was read", advice="try again when nobody writes to it"
            )


@dataclass(frozen=True, slots=True)
class LoraUpdate:
    """What a LoRA module adds: scale · up · down.

    Attributes:
        down: A, (r, in).
        up: B, (out, r).
        scale: s.
        transposed: whether the module stores its weight (in, out).
    """

    down: TensorSpec
    up: TensorSpec
    scale: float
    transposed: bool


@dataclass(frozen=True, slots=True)
class TensorChange:
    """What an adapter makes of one tensor of its base.

    Attributes:
        replacement: what takes its place, None where it stays.
        update: what is added to the one or the other, None for nothing.
    """

    replacement: TensorSpec | None
    update: LoraUpdate | None

    def sources(self, files: OpenFiles) -> tuple[TensorSource, ...]:
        """Return the replacement, if there is one, and what is added."""
        from fpvec_audit.tensors.low_rank import LowRank  # needs torch, which a plain stamp does without

        found: list[TensorSource] = []
        if self.replacement is not None:
            found.append(files.source(self.replacement))
        if self.update is not None:
            up, down = files.source(self.update.up), files.source(self.update.down)
            found.append(LowRank(up, down, scale=self.update.scale, transposed=self.update.transposed))
        return tuple(found)


def is_adapter(path: Path) -> bool:
    """Say whether a directory holds an adapter and no whole model; some trainers put a ``config.json`` beside it."""
    if not (path / ADAPTER_CONFIG).is_file():
        return False
    if any((path / name).exists() for name in (f"{MODEL}.safetensors", f"{MODEL}.safetensors.index.json")):
        return False
    return (path / WEIGHTS).is_file() or not (path / CONFIG).is_file()


def read_adapter(path: Path, *, progress: Progress = NO_PROGRESS) -> PeftAdapter:
    """Read what an adapter directory holds; its tensors are digested, not loaded.

    Raises:
        CheckpointError: files are missing or damaged, the weights are a pickle, the tokenizer brings code of its own,
            or the adapter takes something out of its base whenever it is loaded.
    """
    config = read_json(path, ADAPTER_CONFIG)
    if not (path / WEIGHTS).exists():
        pickled = f"; {STEM}.bin is a pickle, which can run code" if (path / f"{STEM}.bin").exists() else ""
        raise CheckpointError(
            f"{path} is an adapter without {WEIGHTS}{pickled}",
            advice="load the adapter with peft, if you trust it, and save it again with save_pretrained",
        )
    if not isinstance(config.get("peft_type"), str):
        raise CheckpointError(f"{path / ADAPTER_CONFIG} has no peft_type", advice="give an adapter that peft has saved")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{path} was initialised with {start}: it belongs to a base from which something was taken out",
            advice="save it with path_initial_model_for_weight_conversion, as peft's documentation of LoraConfig says",
        )
    inside(path, ADAPTER_CONFIG)
    if (path / "tokenizer_config.json").is_file():  # it speaks for the stamped model
        refuse_own_code(path, ModelDescription({}, read_json(path, "tokenizer_config.json")))
    tensors, files, sharded = read_tensors(path, STEM)
    checkpoint = Checkpoint(path, tensors, files, sharded, ModelDescription(config, {}, path.resolve().name))
    return PeftAdapter(checkpoint, _digest(path, progress=progress))


def adapter_changes(
    adapter: PeftAdapter, target: Checkpoint, names: NamedParameters, architecture: ArchitectureAdapter
) -> dict[str, TensorChange]:
    """Say what a LoRA adapter makes of each tensor of its base: canonical name → change.

    Args:
        adapter: the adapter.
        target: its base.
        names: parameters of the base.
        architecture: architecture of the base.

    Raises:
        CheckpointError: the adapter is no plain LoRA, or does not fit the base; what was found is named.
    """
    _refuse_variants(adapter)
    updates: dict[str, LoraUpdate] = {}
    whole: dict[str, TensorSpec] = {}
    for stored, spec in adapter.files.tensors.items():
        if stored.endswith(DOWN):
            module = stored.removeprefix(PREFIX).removesuffix(DOWN)
            name = _parameter(adapter, target, names, architecture.canonical(f"{module}.weight"), stored)
            _refuse_tied_update(adapter, target, names, name, module)
            updates[name] = _update(adapter, module, names.parameters[name], _is_conv1d(target, architecture, name))
        elif stored.endswith(UP):
            _partner(adapter, stored.removesuffix(UP), DOWN)
        else:
            name = _parameter(adapter, target, names, architecture.canonical(_stored_name(stored)), stored)
            if name in whole:
                _refuse(adapter, f"{whole[name].name} and {stored} are both {name}")
            whole[name] = spec
    replacements = _replacements(adapter, target, names, whole)
    return {name: TensorChange(replacements.get(name), updates.get(name)) for name in sorted({*updates, *replacements})}


def _digest(path: Path, *, progress: Progress = NO_PROGRESS) -> str:
    return canonical_digest(file_digests(path, [ADAPTER_CONFIG, WEIGHTS], progress=progress))


def _stored_name(name: str) -> str:
    """Return what the base calls a tensor that an adapter holds whole."""
    return name.removeprefix(PREFIX).replace(".modules_to_save.", ".").replace(".base_layer.", ".")


def _refuse(adapter: PeftAdapter, problem: str) -> NoReturn:
    raise CheckpointError(f"{adapter.path} cannot be merged: {problem}", advice=MERGE_WITH_PEFT)


def _refuse_misfit(adapter: PeftAdapter, target: Checkpoint, problem: str) -> NoReturn:
    raise CheckpointError(
        f"{adapter.path} is no adapter of {target.path}: {problem}", advice="give the base that it was trained on"
    )


def _refuse_variants(adapter: PeftAdapter) -> None:
    """Refuse whatever is more than s · B · A and whole tensors."""
    config = adapter.config
    if adapter.kind != "LORA":
        _refuse(adapter, f"its peft_type is {adapter.kind}, not LORA")
    for setting, meaning in _VARIANTS.items():
        if config.get(setting):
            _refuse(adapter, f"it uses {meaning} ({setting} in {ADAPTER_CONFIG})")
    if config.get("bias") not in (None, "none"):
        _refuse(adapter, f"it has biases of its own (bias is {config['bias']!r} in {ADAPTER_CONFIG})")
    for name, spec in adapter.files.tensors.items():
        for part, meaning in _TENSORS.items():
            if part in name:
                _refuse(adapter, f"it uses {meaning} ({name})")
        if not spec.dtype.floating or spec.dtype.size == 1:
            _refuse(adapter, f"{name} is stored as {spec.dtype.label}")
    if not any(name.endswith(DOWN) for name in adapter.files.tensors):
        _refuse(adapter, f"{WEIGHTS} has no tensor that ends in {DOWN}")


def _parameter(adapter: PeftAdapter, target: Checkpoint, names: NamedParameters, name: str | None, stored: str) -> str:
    """Return the canonical name of a parameter, an alias of a tied one as it is."""
    if name is None or names.tied.get(name, name) not in names.parameters:
        _refuse_misfit(adapter, target, f"it has {stored}, for which the base has no tensor")
    return name


def _refuse_tied_update(
    adapter: PeftAdapter, target: Checkpoint, names: NamedParameters, name: str, module: str
) -> None:
    if name in names.tied or name in names.tied.values():
        other = names.tied.get(name, name)
        raise CheckpointError(
            f"{adapter.path} cannot be merged: it changes {module} alone, which {target.path} ties to {other}",
            advice="save the base with tie_word_embeddings=False, with a copy of the head, or use --adapter keep",
        )


def _partner(adapter: PeftAdapter, module: str, ending: str) -> TensorSpec:
    spec = adapter.files.tensors.get(module + ending)
    if spec is None:
        _refuse(adapter, f"{module}{ending} is missing")
    return spec


def _update(adapter: PeftAdapter, module: str, weight: TensorSpec, conv1d: bool) -> LoraUpdate:
    stored = next(name for name in (PREFIX + module, module) if name + DOWN in adapter.files.tensors)
    down, up = adapter.files.tensors[stored + DOWN], _partner(adapter, stored, UP)
    rank, scale = _rank_and_scale(adapter, module)
    if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != rank or up.shape[1] != rank:
        _refuse(
            adapter,
            f"A and B of {module} have shapes {list(down.shape)} and {list(up.shape)}, {ADAPTER_CONFIG} says rank "
            f"{rank}",
        )
    product = (up.shape[0], down.shape[1])
    straight, turned = weight.shape == product, weight.shape == product[::-1]
    if not straight and not turned:
        _refuse(
            adapter, f"B·A of {module} has shape {list(product)}, {weight.name} of the base has {list(weight.shape)}"
        )
    return LoraUpdate(down, up, scale, turned and (conv1d or not straight))


def _is_conv1d(target: Checkpoint, architecture: ArchitectureAdapter, name: str) -> bool:
    """Say whether a weight is stored (in, out), which the shape does not tell where it is square."""
    blocks = architecture.role(name) in (TensorRole.ATTENTION, TensorRole.MLP)
    return blocks and target.description.config.get("model_type") in CONV1D_MODELS


def _rank_and_scale(adapter: PeftAdapter, module: str) -> tuple[int, float]:
    config = adapter.config
    rank = _by_pattern(adapter, "rank_pattern", module, config.get("r"))
    alpha = _by_pattern(adapter, "alpha_pattern", module, config.get("lora_alpha"))
    if not _is_number(rank) or rank != int(rank) or rank < 1 or not _is_number(alpha):
        raise CheckpointError(
            f"{adapter.path / ADAPTER_CONFIG}: r is {rank!r} and lora_alpha {alpha!r} for {module}",
            advice="give an adapter that peft has saved",
        )
    return int(rank), alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(adapter: PeftAdapter, setting: str, module: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that fits the end of a module's name, as PEFT chooses it."""
    patterns = adapter.config.get(setting) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{adapter.path / ADAPTER_CONFIG}: {setting} is no object", advice="fetch it again")
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise CheckpointError(
                f"{adapter.path / ADAPTER_CONFIG}: {setting} has {pattern!a}, which is no pattern: {error}",
                advice="give an adapter that peft has saved",
            ) from error
    return otherwise


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _replacements(
    adapter: PeftAdapter, target: Checkpoint, names: NamedParameters, whole: Mapping[str, TensorSpec]
) -> dict[str, TensorSpec]:
    """Return canonical name → what takes its place; tied tensors once."""
    found: dict[str, TensorSpec] = {}
    for name, spec in whole.items():
        kept = names.tied.get(name, name)
        weight = names.parameters[kept]
        if spec.shape != weight.shape:
            _refuse(
                adapter,
                f"{spec.name} has shape {list(spec.shape)}, {weight.name} of the base has {list(weight.shape)}",
            )
        if not weight.dtype.floating:
            _refuse(adapter, f"{weight.name} of the base, which it replaces, is stored as {weight.dtype.label}")
        _refuse_torn_tie(adapter, target, names, kept, whole)
        found[kept] = spec
    return found


def _refuse_torn_tie(
    adapter: PeftAdapter, target: Checkpoint, names: NamedParameters, kept: str, whole: Mapping[str, TensorSpec]
) -> None:
    """Refuse an adapter that replaces one of two tied tensors, or gives them different values."""
    group = [kept, *(alias for alias, name in names.tied.items() if name == kept)]
    if len(group) == 1:
        return
    given = [whole[name] for name in group if name in whole]
    equal = len(set(tensor_digests(adapter.path, given))) == 1
    if equal and (len(given) == len(group) or adapter.config.get("ensure_weight_tying")):
        return
    raise CheckpointError(
        f"{adapter.path} cannot be merged: it replaces {' and '.join(spec.name for spec in given)}, which tears apart "
        f"{' and '.join(group)}, one tensor in {target.path}",
        advice="save the base with tie_word_embeddings=False, with a copy of the head, or use --adapter keep",
    )
