"""What is there of a checkpoint, however little: for recognising it, never for using it.

Unlike ``tensors/index.py`` this takes a single shard, a directory without its configuration or some of its files, and
a model with code of its own, because nothing is run and nothing is written. Invariant: whatever is left out is said.
"""

from pathlib import Path

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.domain.ports import ModelDescription
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.header import read_header
from fpvec_audit.tensors.index import CONFIG, MODEL, describe_model, followed, inside, read_json

SAFETENSORS = ".safetensors"


def read_present(path: Path) -> tuple[Checkpoint, tuple[str, ...]]:
    """Read the headers of the files of a checkpoint that are there.

    Args:
        path: directory of a checkpoint or of some of its files, or one safetensors file.

    Returns:
        what is there, and in sentences what is not.

    Raises:
        CheckpointError: nothing is there, or nothing that can be read.
    """
    if path.is_file():
        directory, names, notes = path.parent, [path.name], [f"only {path.name} was read"]
        followed(path, directory)
    elif path.is_dir():
        directory = path
        names, notes = _files(path)
    else:
        raise CheckpointError(f"{path} does not exist", advice="give a directory or a safetensors file")
    description, problem = _description(directory)
    tensors: dict[str, TensorSpec] = {}
    read: list[str] = []
    unreadable: CheckpointError | None = None
    for name in names:
        try:
            found = read_header(inside(directory, name)).tensors
        except CheckpointError as error:
            unreadable = error
            notes.append(f"{name} was left out: {error.problem}")
            continue
        read.append(name)
        for spec in found:
            if spec.name in tensors:
                notes.append(f"{spec.name} is in {tensors[spec.name].file} and in {name}: only the first was read")
                continue
            tensors[spec.name] = TensorSpec(spec.name, spec.dtype, spec.shape, name, spec.start, spec.end)
    if not read:
        raise unreadable or CheckpointError(
            f"{path} has no safetensors file that is there", advice="give a directory or a safetensors file"
        )
    notes += problem
    return Checkpoint(directory, tensors, tuple(read), len(read) > 1, description), tuple(notes)


def _files(directory: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files that hold a model's tensors, and what is missing of them."""
    single, index = f"{MODEL}{SAFETENSORS}", f"{MODEL}{SAFETENSORS}.index.json"
    if (directory / single).exists():
        return [single], []
    here = sorted(entry.name for entry in directory.iterdir() if entry.name.endswith(SAFETENSORS) and entry.exists())
    if not (directory / index).is_file():
        return here, [f"there is neither {single} nor its index: all {len(here)} safetensors files here were read"]
    try:
        named = read_json(directory, index).get("weight_map")
    except CheckpointError as error:
        return here, [f"the index was left out: {error.problem}"]
    if not isinstance(named, dict):
        return here, [f"{index} has no weight_map: all {len(here)} safetensors files here were read"]
    wanted = sorted({str(name) for name in named.values()})
    missing = [name for name in wanted if name not in here]
    shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return [name for name in wanted if name in here], (
        [f"{len(missing)} of the {len(wanted)} files that the index names are missing: {shown}"] if missing else []
    )


def _description(directory: Path) -> tuple[ModelDescription, list[str]]:
    """Return what the directory says of its model, and a note where it says nothing."""
    try:
        return describe_model(directory), []
    except CheckpointError as error:
        name = directory.resolve().name
        what = error.problem if (directory / CONFIG).is_file() else f"there is no {CONFIG}"
        return ModelDescription({}, {}, name), [f"tensors keep the names they are stored under: {what}"]
