"""Addresses of stored checkpoints: read, shown without secrets, and opened through fsspec.

Who may enter is never part of an address here: a password or a query would be recorded with what was done. Libraries
find their credentials where they always do (environment, configuration files, the machine's role).

This module owns fsspec and the packages behind it: their exceptions end here, as :class:`StorageError`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fpvec_audit.domain.addresses import without_secrets
from fpvec_audit.errors import StorageError, UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LOCAL = "file"
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "oss": "ossfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "hdfs": "pyarrow",
    "hf": "huggingface_hub",
}
"""Protocol → the package that fsspec needs for it."""
EXTRA = "fpvec-audit[fleet]"

_WITH_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"}
_URL = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_FOREIGN = {"botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "s3fs", "azure", "paramiko", "requests", "fsspec"}
"""Top-level packages whose exceptions are about the place, and not a fault of ours."""


@dataclass(frozen=True, slots=True)
class Address:
    """A directory in a store.

    Attributes:
        url: as it was given, without a slash at the end; holds neither a password nor a query.
        protocol: what stands before ``://``, in lower case.
    """

    url: str
    protocol: str

    @property
    def name(self) -> str:
        """Last part of the path, the name of what lies there."""
        return self.url.rpartition("/")[2]

    @property
    def shown(self) -> str:
        """The address for messages and records: a user's name, which may be a token, is left out."""
        return without_secrets(self.url)

    def __str__(self) -> str:
        return self.shown


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a plain path."""
    return _URL.match(text) is not None


def read_address(url: str) -> Address:
    """Return an address, checked.

    Args:
        url: ``PROTOCOL://…/NAME``.

    Raises:
        UsageError: it is no URL, names nothing below its store, is a chain of URLs, or holds a password or a query.
    """
    text = url.strip()
    found = _URL.match(text)
    shown = without_secrets(text)
    if found is None or not text.isprintable():
        raise UsageError(
            f"{shown!r} is no URL", advice="write it as s3://BUCKET/PATH, gs://BUCKET/PATH or file:///PATH"
        )
    rest = found["rest"]
    if "::" in text or "*" in rest:
        raise UsageError(f"{shown} names no single place", advice="give the URL of one directory")
    if "?" in rest or ":" in rest.partition("/")[0].rpartition("@")[0]:
        raise UsageError(
            f"{shown} holds a password or a query, which would be recorded with what is done",
            advice="leave it out; the credentials come from the environment or the store's own configuration files",
        )
    protocol = found["protocol"].lower()
    parts = [part for part in rest.split("/") if part]
    if len(parts) < (2 if protocol in _WITH_BUCKETS else 1):
        raise UsageError(f"{shown} names a whole store", advice="name a directory in it, as s3://BUCKET/PATH")
    if {".", ".."} & set(parts):
        raise UsageError(f"{shown} has . or .. in its path", advice="write the path out")
    return Address(text.rstrip("/"), protocol)


def open_store(address: Address) -> "tuple[AbstractFileSystem, str]":
    """Return fsspec's file system for an address, and the path in it.

    Raises:
        UsageError: a package is missing, or no package knows the protocol.
        StorageError: the store cannot be opened.
    """
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import available_protocols
    except ImportError:
        raise UsageError(f"{address.shown} needs fsspec", advice=f"pip install '{EXTRA}'") from None
    if address.protocol not in available_protocols():
        raise UsageError(
            f"{address.shown}: no package knows {address.protocol}://", advice="use s3://, gs://, file:// or a path"
        )
    with explained(address):
        try:
            store, path = url_to_fs(address.url)
        except ImportError as error:
            _refuse_missing_package(address, error)
    return store, str(path)


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Turn what fsspec and the packages behind it raise into errors that say which place it was, and what to do.

    Raises:
        StorageError: the store is away, refuses, or has no such thing.
    """
    try:
        yield
    except Exception as error:
        problem = _explanation(address, error)
        if problem is None:  # a fault of ours, or an error that says enough
            raise
        raise problem from error


def _explanation(address: Address, error: Exception) -> StorageError | None:
    foreign = type(error).__module__.partition(".")[0] in _FOREIGN
    if not foreign and not isinstance(error, OSError):
        return None
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{address.shown} does not exist", advice="check the bucket and the path")
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return StorageError(
            f"{address.shown}: access was refused ({_line(error)})",
            advice="check the credentials that the environment or the store's configuration gives, and their rights",
        )
    return StorageError(
        f"{address.shown} could not be reached or read: {_line(error)}",
        advice="check the network and the store, then try again",
    )


def _line(error: Exception) -> str:
    """Return what an exception says, as one short line without secrets."""
    text = " ".join(without_secrets(str(error)).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"


def _refuse_missing_package(address: Address, error: ImportError) -> NoReturn:
    package = PACKAGES.get(address.protocol)
    advice = f"pip install {package}" if package else _line(error)
    raise UsageError(f"{address.protocol}:// needs a package that is not installed", advice=advice) from error


def local_path(address: Address) -> Path | None:
    """Return the path of a ``file://`` address, None of any other."""
    return Path(address.url.partition("://")[2]) if address.protocol == LOCAL else None
