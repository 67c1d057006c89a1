"""How the conformance suites run what writes a checkpoint; what is public is in ``testing``.

Law: what passes :func:`run_twice` writes the same weights for the same seed whatever state the global random generators
are in, writes nothing beside its target, and leaves everything that it was given as it was.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def run_twice(name: str, given: Sequence[Path], workspace: Path, run: Callable[[Path, Path], None]) -> None:
    """Let something write a checkpoint twice, and check that it is the same, whole, and all that was written.

    Args:
        name: what is run, for messages.
        given: checkpoints that must stay as they are.
        workspace: empty directory; what was written first is then in ``first/target``.
        run: (target, staging) → None, writes to a target that does not exist and may use an empty directory.

    Raises:
        AssertionError: it breaks a law; the message says which.
    """
    before = [digests_of(path) for path in given]
    beside = {path.parent: _names(path.parent) for path in given}
    results = []
    for turn in ("first", "second"):
        place = workspace / turn
        staging, target = place / "staging", place / "target"
        staging.mkdir(parents=True)
        with _global_generators(turn):
            run(target, staging)
        assert (target / "config.json").is_file(), f"{name} wrote no checkpoint: {target} has no config.json"
        left = sorted(_names(staging))
        assert not left, f"{name} left {', '.join(left)} in its staging directory"
        strays = sorted(_names(place) - {"staging", "target"})
        assert not strays, f"{name} wrote {', '.join(strays)} outside its target"
        results.append(digests_of(target))
    for path, digests in zip(given, before, strict=True):
        assert digests_of(path) == digests, f"{name} changed its source {path.name}"
    for parent, names in beside.items():
        made = {"first", "second"} if parent == workspace else {workspace.name}
        strays = sorted(_names(parent) - names - made)
        assert not strays, f"{name} wrote {', '.join(strays)} outside its target"
    weights = [{file: value for file, value in found.items() if file.endswith(".safetensors")} for found in results]
    assert weights[0], f"{name} wrote no safetensors file"
    assert weights[0] == weights[1], f"{name} gives other weights with the same seed"
    _check_readable(workspace / "first" / "target")


def _check_readable(directory: Path) -> None:
    from fpvec_audit.errors import FpvecError
    from fpvec_audit.tensors.index import read_checkpoint

    try:
        read_checkpoint(directory)
    except FpvecError as error:
        raise AssertionError(f"the attacked checkpoint cannot be read: {error}") from error


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@contextmanager
def _global_generators(turn: str) -> Iterator[None]:
    """Give the global random generators another state in every turn, and put back the one they had."""
    import torch

    number = sum(turn.encode())
    states = random.getstate(), torch.get_rng_state()
    random.seed(number)
    torch.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(states[0])
        torch.set_rng_state(states[1])


def digests_of(directory: Path) -> dict[str, str]:
    """Return the path of every file under a directory, relative to it, with SHA-256 of its bytes, hex."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
