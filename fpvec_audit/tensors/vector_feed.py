"""What stamps read, opened once however many copies are made of it: downstream models, adapters, and vectors.

Guarded here: a vector that is not the one that was extracted does not go unnoticed, whichever of its tensors are used.
"""

from contextlib import ExitStack
from pathlib import Path

from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.digest import tensor_digest
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.vector_files import StoredVector, open_tensors


class VectorFeed:
    """The tensors of one vector: their elements, and, unless it was checked, their digests as they pass.

    Args:
        vector: the vector.
        stack: closes its files.
        checked: whether its files have not changed since they were found to be what they say.
    """

    def __init__(self, vector: StoredVector, stack: ExitStack, *, checked: bool = False) -> None:
        self.vector = vector
        self._checked = checked
        self._sources = stack.enter_context(open_tensors(vector))
        self._files = stack.enter_context(OpenFiles(vector.files.path))
        self._stack = stack
        self._given: set[str] = set()
        self._digests: dict[str, str] = {}
        self._claimed: set[str] = set()

    def source(self, name: str) -> TensorSource:
        """Return the elements of a tensor; each call's own, since works that read them may be under way at once."""
        if name in self._given:
            with_others = self._stack.enter_context(open_tensors(self.vector))
            return with_others[name]
        self._given.add(name)
        return self._sources[name]

    def claim(self, name: str) -> bool:
        """Say whether a tensor is to be hashed by whoever asks first; what is stored in parts is hashed apart."""
        if self._checked or name in self._claimed or name not in self.vector.files.tensors:
            return False
        self._claimed.add(name)
        return True

    def stored(self, name: str) -> TensorSource:
        """Return the elements of what is stored under a name: a tensor, or a part of a compressed one."""
        return self._files.source(self.vector.files.tensors[name])

    def unclaimed(self) -> list[str]:
        """Return what nobody hashes yet."""
        return [] if self._checked else [name for name in self.vector.files.tensors if name not in self._claimed]

    def digested(self, name: str, digest: str) -> None:
        """Take in a digest."""
        self._digests[name] = digest

    def check(self) -> None:
        """Refuse a vector that is not the one that was extracted."""
        if self._checked:
            return
        manifest = Manifest.of(
            tensor_digest(name, spec.dtype, spec.shape, self._digests[name])
            for name, spec in self.vector.files.tensors.items()
        )
        if manifest.digest != self.vector.description.digest:
            raise VectorError(
                f"{self.vector.files.path}: the tensors are not those that {self.vector.description.id} was made of",
                advice="the vector was changed or damaged; extract it again",
            )


class StampSources:
    """The files and vectors of all copies of one run.

    Args:
        stack: closes them.
        checked: ids of vectors whose files have not changed since they were found to be what they say; their bytes are
            read but not hashed.
    """

    def __init__(self, stack: ExitStack, *, checked: frozenset[str] = frozenset()) -> None:
        self._stack = stack
        self._checked = checked
        self._files: dict[Path, OpenFiles] = {}
        self._feeds: dict[Path, VectorFeed] = {}

    @property
    def feeds(self) -> tuple[VectorFeed, ...]:
        """The vectors that were asked for so far."""
        return tuple(self._feeds.values())

    def files(self, directory: Path) -> OpenFiles:
        """Return the files of a model or adapter."""
        if directory not in self._files:
            self._files[directory] = self._stack.enter_context(OpenFiles(directory))
        return self._files[directory]

    def feed(self, vector: StoredVector) -> VectorFeed:
        """Return the tensors of a vector."""
        path = vector.files.path
        if path not in self._feeds:
            self._feeds[path] = VectorFeed(vector, self._stack, checked=vector.description.id in self._checked)
        return self._feeds[path]

    def check(self) -> None:
        """Refuse a vector that is not the one that was extracted."""
        for feed in self._feeds.values():
            feed.check()
