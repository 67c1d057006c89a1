"""What a stored directory holds, and which of its files a checkpoint, a vector or an adapter needs.

A directory in an object store appears file by file. What makes it whole is its *entry*, the file that every reader
opens first: it is published last, so a directory without it is not there yet. And what two listings agree on has not
changed in between, so a copy taken between them is one state of the directory and never a mixture.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.errors import StorageError
from fpvec_audit.storage.addresses import Address, explained
from fpvec_audit.tensors.rewrite import RECORDS, is_weights

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

ENTRIES = {"config.json": "model", "fpvec_vector.json": "vector", "adapter_config.json": "adapter_model"}
"""File that readers open first → stem of the files with tensors beside it; the first that is there counts."""
_VERSIONS = (
    *("ETag", "etag", "generation", "VersionId", "md5Hash", "crc32c", "content_md5", "ino"),
    *("LastModified", "last_modified", "updated", "mtime", "created"),
)
"""What stores say of a file that changes with its content."""
_LARGEST_INDEX = 64_000_000


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a stored directory.

    Attributes:
        name: path relative to the directory, with ``/``.
        path: path in the store.
        size: bytes.
        version: changes with the content, as far as the store tells.
    """

    name: str
    path: str
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a stored directory at one moment.

    Attributes:
        address: the directory.
        files: by name, sorted.
    """

    address: Address
    files: Mapping[str, StoredFile]

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def digest(self) -> str:
        """SHA-256 over address, names, sizes and versions: two listings with one digest are of the same content."""
        files = [[file.name, file.size, file.version] for file in self.files.values()]
        return canonical_digest({"address": self.address.url, "files": files})


def list_files(store: "AbstractFileSystem", path: str, address: Address) -> Listing:
    """List a stored directory with everything below it, asking the store anew.

    Raises:
        StorageError: it cannot be listed, or a name leads out of it. One that does not exist is empty.
    """
    with explained(address):
        store.invalidate_cache()
        try:
            found = store.find(path, detail=True)
        except FileNotFoundError:
            found = {}
    prefix = path.rstrip("/") + "/"
    files = {}
    for place, facts in found.items():
        if facts.get("type") != "file" or not place.startswith(prefix):
            continue
        name = place.removeprefix(prefix)
        if _leads_out(name):
            raise StorageError(f"{address.shown} holds {name!a}, which leads out of it", advice="remove that object")
        if name:
            files[name] = StoredFile(name, place, int(facts["size"]), _version(facts))
    return Listing(address, dict(sorted(files.items())))


def needed(store: "AbstractFileSystem", listing: Listing) -> Listing:
    """Return the part of a listing that makes up a checkpoint, a vector or an adapter.

    That is every file but other forms of the same weights (pickles, GGUF, a second set of shards) and records of
    version control: what a stamp carries over, and the tensors themselves.

    Raises:
        StorageError: there is no entry, or files that the index names are missing.
    """
    if entry_of(listing.files) is None:
        found = f"has none of {', '.join(ENTRIES)}" if listing.files else "holds nothing"
        raise StorageError(
            f"{listing.address.shown} {found}",
            advice="check the address; a directory that is still being published gets that file last",
        )
    directories = {str(PurePosixPath(name).parent) for name in listing.files}
    weights = {name for directory in directories for name in _weights(store, listing, directory)}
    return Listing(
        listing.address,
        {
            name: file
            for name, file in listing.files.items()
            if name in weights or not (is_weights(PurePosixPath(name).name) or set(RECORDS) & set(name.split("/")))
        },
    )


def entry_of(names: Mapping[str, Any], directory: str = ".") -> str | None:
    """Return the name of the file that makes a directory whole, None where there is none."""
    return next((name for name in (_within(directory, entry) for entry in ENTRIES) if name in names), None)


def _weights(store: "AbstractFileSystem", listing: Listing, directory: str) -> Iterator[str]:
    """Give the files with tensors that the entry of one directory stands for, and their index."""
    entry = entry_of(listing.files, directory)
    if entry is None:
        return
    single = _within(directory, f"{ENTRIES[PurePosixPath(entry).name]}.safetensors")
    index = f"{single}.index.json"
    if single in listing.files:
        yield single
    elif index in listing.files:
        yield index
        for shard in _shards(store, listing, listing.files[index]):
            name = _within(directory, shard)
            if name not in listing.files:
                raise StorageError(
                    f"{listing.address.shown} has no {name}, which its index names",
                    advice="publish the whole directory again",
                )
            yield name


def _shards(store: "AbstractFileSystem", listing: Listing, index: StoredFile) -> set[str]:
    damaged = StorageError(f"{listing.address.shown}: {index.name} is no index of shards", advice="publish it again")
    if index.size > _LARGEST_INDEX:
        raise damaged
    with explained(listing.address):
        text = store.cat_file(index.path)
    try:
        return {str(name) for name in json.loads(text)["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged from error


def _within(directory: str, name: str) -> str:
    return name if directory == "." else f"{directory}/{name}"


def _leads_out(name: str) -> bool:
    return ".." in name.split("/") or name.startswith("/") or any(sign in name for sign in "\\\0")


def _version(facts: Mapping[str, Any]) -> str:
    known = {name: facts[name] for name in _VERSIONS if facts.get(name) is not None} or dict(facts)
    return "; ".join(f"{name}={value}" for name, value in sorted(known.items()))
