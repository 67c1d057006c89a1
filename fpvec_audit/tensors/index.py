"""What a model directory holds, from headers and JSON alone: no tensor is loaded, no code of the model is run.

Files named in an index must lie in the directory itself. Symbolic links are followed inside it, and from a snapshot of
the hub's cache to its blobs, nowhere else. Pickles, GGUF files and models that bring their own code are refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.domain.ports import ModelDescription
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.header import read_header

MODEL = "model"
CONFIG = "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
QUANTISED_NAMES = (".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".SCB", ".absmax")

_LARGEST_JSON = 64_000_000


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what a model directory in Hugging Face layout holds.

    Args:
        path: directory with ``config.json`` and ``model.safetensors`` or its shards with their index.

    Raises:
        CheckpointError: not a model directory, in another format than safetensors, with code of its own, damaged, or
            with an index that does not fit.
    """
    description = describe_model(path)
    refuse_own_code(path, description)
    tensors, files, sharded = read_tensors(path, MODEL)
    return Checkpoint(path=path, tensors=tensors, files=files, sharded=sharded, description=description)


def describe_model(path: Path) -> ModelDescription:
    """Read what a model directory says of itself in JSON.

    Raises:
        CheckpointError: no such directory, no ``config.json``, or a file that is not JSON.
    """
    if not path.is_dir():
        problem = "is not a directory" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {problem}", advice="give a model directory in Hugging Face layout")
    if not (path / CONFIG).is_file():
        _refuse_without_config(path)
    tokenizer_config: Mapping[str, Any] = {}
    if (path / "tokenizer_config.json").is_file():
        tokenizer_config = read_json(path, "tokenizer_config.json")
    template = path / "chat_template.jinja"
    if template.is_file():
        tokenizer_config = {**tokenizer_config, "chat_template": _text(template)}
    return ModelDescription(read_json(path, CONFIG), tokenizer_config, path.resolve().name)


def refuse_own_code(path: Path, description: ModelDescription) -> None:
    """Refuse a model that runs only with ``trust_remote_code``.

    Raises:
        CheckpointError: its configuration or tokenizer names Python code.
    """
    for file, content in ((CONFIG, description.config), ("tokenizer_config.json", description.tokenizer_config)):
        if content.get("auto_map"):
            raise CheckpointError(
                f"{path / file}: auto_map asks to run the model's own code (trust_remote_code): {content['auto_map']}",
                advice="use a model type that transformers has itself, and take auto_map out of the file",
            )


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """Refuse weights that are codes of numbers and not numbers: nothing can be added to them.

    Raises:
        CheckpointError: GPTQ, AWQ, bitsandbytes, fp8 or another quantised format.
    """
    config = checkpoint.description.config
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        settings = part.get("quantization_config") or part.get("compression_config")
        if settings:
            method = settings.get("quant_method", "unnamed") if isinstance(settings, dict) else settings
            _refuse_quantised(checkpoint, f"config.json has a quantization_config ({method})")
    for name, spec in checkpoint.tensors.items():
        if name.endswith(QUANTISED_NAMES) or (spec.dtype.floating and spec.dtype.size == 1):
            _refuse_quantised(checkpoint, f"{name} is stored as {spec.dtype.label}")


def read_tensors(path: Path, stem: str) -> tuple[dict[str, TensorSpec], tuple[str, ...], bool]:
    """Read the headers of ``STEM.safetensors``, or of the shards that ``STEM.safetensors.index.json`` names.

    Returns:
        tensors by stored name, file names in order, and whether there is an index.

    Raises:
        CheckpointError: see :func:`read_checkpoint`.
    """
    single = f"{stem}.safetensors"
    if (path / single).exists() or (path / single).is_symlink():
        header = read_header(inside(path, single))
        return {spec.name: _placed(spec, single) for spec in header.tensors}, (single,), False
    index = f"{single}.index.json"
    if (path / index).is_file():
        return *_read_shards(path, index), True
    raise _unreadable_format(path, single)


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Return a JSON object from a file of a directory.

    Raises:
        CheckpointError: it cannot be read or is not a JSON object.
    """
    try:
        value = json.loads(_text(path / name))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / name} is not valid JSON: {error}", advice="fetch it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path / name} holds {type(value).__name__}, not an object", advice="fetch it again")
    return value


def inside(path: Path, name: str) -> Path:
    """Return the path of a file of a directory, and refuse a name or link that leads out of it.

    Links from ``…/snapshots/REVISION`` to ``…/blobs`` are the hub cache's layout and are followed.

    Raises:
        CheckpointError: it leads out of the directory.
    """
    if name in ("", ".", "..") or any(character in name for character in "/\\\0"):
        raise CheckpointError(
            f"{path}: file name {name!a} leads out of the directory",
            advice="only names of files beside the index are read; do not trust this checkpoint",
        )
    return followed(path / name, path)


def followed(file: Path, directory: Path) -> Path:
    """Return a file of a directory unchanged, and refuse a link that leads out of the directory.

    Raises:
        CheckpointError: it does, or there is no such file.
    """
    try:
        real, home = file.resolve(strict=True), directory.resolve()
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        raise CheckpointError(
            f"{str(file)!r} is missing or a broken link", advice="fetch the whole model again"
        ) from error
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{file} is a link to {real}, outside of the directory",
            advice="copy the file into the directory if you trust it",
        )
    return file


def _read_shards(path: Path, index: str) -> tuple[dict[str, TensorSpec], tuple[str, ...]]:
    weight_map = read_json(path, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path / index} has no weight_map", advice="fetch it again")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(f"{path / index}: {name} lies in {file!a}, which is no file name")
    files = tuple(sorted(set(weight_map.values())))
    tensors: dict[str, TensorSpec] = {}
    for file in files:
        for spec in read_header(inside(path, file)).tensors:
            _check_place(path, index, spec.name, found=file, claimed=weight_map.get(spec.name))
            tensors[spec.name] = _placed(spec, file)
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        _refuse_index(path, index, f"{missing[0]} is not in {weight_map[missing[0]]}")
    return tensors, files


def _check_place(path: Path, index: str, name: str, *, found: str, claimed: str | None) -> None:
    if claimed is None:
        _refuse_index(path, index, f"{name} is in {found}, but not in the index")
    if claimed != found:
        _refuse_index(path, index, f"{name} is in {found}, the index says {claimed}")


def _refuse_index(path: Path, index: str, problem: str) -> NoReturn:
    raise CheckpointError(f"{path / index}: {problem}", advice="index and shards are not of one model; fetch both")


def _placed(spec: TensorSpec, file: str) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, spec.shape, file, spec.start, spec.end)


def _refuse_without_config(path: Path) -> NoReturn:
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{path} is an adapter, not a whole model",
            advice="`fpvec stamp` takes it with --adapter keep (the base is stamped, the adapter lies beside it) or "
            "--adapter merge; for all else merge it into its model first (peft: merge_and_unload, save_pretrained)",
        )
    names = _names(path)
    if any(name.endswith(".gguf") for name in names):
        raise _unreadable_format(path, f"{MODEL}.safetensors")
    raise CheckpointError(f"{path} has no {CONFIG}", advice="give a model directory in Hugging Face layout")


def _unreadable_format(path: Path, single: str) -> CheckpointError:
    """Return the error that says what lies there instead of safetensors, and how to convert it."""
    names = _names(path)
    stray = [name for name in names if name.endswith(".safetensors")]
    if stray:
        return CheckpointError(
            f"{path} has {stray[0]}, but neither {single} nor {single}.index.json",
            advice=f"a model in one file is named {single}; shards need their index – fetch the whole model",
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return CheckpointError(
            f"{path} has its weights in {pickles[0]}, a pickle, which can run code when it is loaded",
            advice="if you trust it, convert it: "
            f"AutoModelForCausalLM.from_pretrained({str(path)!r}).save_pretrained('NEW_DIRECTORY')",
        )
    gguf = [name for name in names if name.endswith((".gguf", ".ggml"))]
    if gguf:
        return CheckpointError(
            f"{path / gguf[0]} is a GGUF file", advice="use the safetensors model it was made from, and convert after"
        )
    return CheckpointError(f"{path} has no {single}", advice="give a model directory in Hugging Face layout")


def _refuse_quantised(checkpoint: Checkpoint, problem: str) -> NoReturn:
    raise CheckpointError(
        f"{checkpoint.path} is quantised: {problem}", advice="stamp the model before it is quantised, then quantise"
    )


def _names(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise CheckpointError(f"{file} has more than {_LARGEST_JSON} bytes", advice="fetch it again")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not UTF-8: {error}", advice="fetch it again") from error
