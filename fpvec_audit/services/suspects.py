"""What stands before an audit: a suspect that is found, described and digested, whatever its architecture.

An endpoint has no weights to digest: what identifies it is its address and the name of the model that it serves, and
an audit of it burns the candidates that it shows.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.domain.addresses import without_secrets
from fpvec_audit.domain.canonical_json import canonical_digest as canonical_json_digest
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import ArchitectureError, CheckpointError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.encoding import text_files_digest

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A checkpoint or an endpoint that is suspected.

    Attributes:
        location: as the user gave it; of a URL, without a password.
        directory: where it lies; None for an endpoint.
        digest: canonical digest of its weights, hex; of address and model name for an endpoint.
        adapter: its architecture, None when unknown.
        warnings: what the user should know, in sentences.
        model: name of the model that an endpoint serves.
        texts: digest of a checkpoint's tokenizer and chat template, hex; empty where there is none.
    """

    location: str
    directory: Path | None
    digest: str
    adapter: ArchitectureAdapter | None
    warnings: tuple[str, ...] = ()
    model: str = ""
    texts: str = ""

    @property
    def shown(self) -> str:
        """A short name for progress."""
        return self.location if self.directory is None else short_path(self.directory)

    def to_json(self) -> dict[str, str]:
        """Return the JSON object that goes into plans and reports."""
        if self.directory is None:
            return {"kind": "endpoint", "location": self.location, "model": self.model, "digest": self.digest}
        return {"kind": "directory", "location": self.location, "digest": self.digest, "texts": self.texts}


def describe_suspect(
    suspect: str | Path,
    *,
    catalog: "Catalog",
    architecture: str | None = None,
    directory: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> Suspect:
    """Find a suspect and digest its weights; nothing of it is run.

    Args:
        suspect: checkpoint directory, or the id of a repository on the hub.
        catalog: plugins.
        architecture: adapter to use instead of the detected one.
        directory: where a copy of a suspect that lies elsewhere is; None for one that is found by what it is called.
        progress: where to report.

    Raises:
        UsageError: an endpoint, or a path that cannot be recorded.
        UnknownNameError: ``architecture`` names no adapter.
        CheckpointError: the checkpoint cannot be read, or is not on the hub.
    """
    from fpvec_audit.tensors.digest import canonical_digest
    from fpvec_audit.tensors.index import read_checkpoint

    directory = locate(str(suspect)) if directory is None else directory
    checkpoint = read_checkpoint(directory)
    warnings: tuple[str, ...] = ()
    try:
        adapter = catalog.architecture_for(checkpoint.description, override=architecture)
    except ArchitectureError as error:
        adapter = None
        warnings = (f"no adapter is used: {error.problem}",)
    digest = canonical_digest(checkpoint, adapter, progress=progress)
    return Suspect(str(suspect), directory, digest, adapter, warnings, texts=text_files_digest(directory))


def describe_endpoint(url: str, model: str, *, adapter: ArchitectureAdapter | None = None) -> Suspect:
    """Describe a model behind an endpoint.

    Args:
        url: base URL, without a password.
        model: name of the model there.
        adapter: architecture, where the user says what it is.
    """
    digest = canonical_json_digest({"url": url, "model": model})
    return Suspect(url, None, digest, adapter, model=model)


def is_endpoint(suspect: str | Path) -> bool:
    """Return whether a suspect is given by URL."""
    return re.match(r"https?://", str(suspect)) is not None


def is_hub_id(suspect: str) -> bool:
    """Return whether a text has the form of a repository's id on the hub."""
    return _HUB_ID.fullmatch(suspect) is not None


def printable(suspect: str | Path) -> str:
    """Return a suspect as it was given, fit to be recorded: without secrets, and as text whatever its bytes."""
    return ascii(without_secrets(str(suspect)))[1:-1]


def short_path(path: Path) -> str:
    """Return the last two parts of a path, which tell models of one name apart."""
    return "/".join(path.parts[-2:])


def locate(suspect: str) -> Path:
    """Return the directory of a checkpoint; one that is on the hub is fetched, or found where it was fetched to.

    Args:
        suspect: checkpoint directory, or the id of a repository on the hub.

    Raises:
        UsageError: an endpoint, or a path that cannot be recorded.
        CheckpointError: it is not on the hub, or the hub cannot be reached.
    """
    if is_endpoint(suspect):
        raise UsageError(f"{suspect} is an endpoint", advice="this needs weights: give a directory")
    try:
        suspect.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{suspect!a} is not valid Unicode and cannot be recorded", advice="rename it") from error
    path = Path(suspect).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(suspect):
        return path
    return _download(suspect)


def _download(identifier: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(identifier, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{identifier} is no directory here, and was not found on the hub: {reason}",
            advice="check the path, or download the checkpoint and give its directory",
        ) from error
