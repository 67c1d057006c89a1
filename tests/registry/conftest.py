"""The registry on both databases: an embedded file, and a real PostgreSQL server."""

import shutil

import pytest

from tests.registry.builders import opened, opened_at


@pytest.fixture
def file(tmp_path):
    return tmp_path / "home" / "registry.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, file):
    """URL of a registry that nobody has opened yet (SQLite), or that holds an empty registry (PostgreSQL)."""
    if request.param == "sqlite":
        return f"sqlite:///{file}"
    return request.getfixturevalue("postgresql").with_schema()


@pytest.fixture
def registry(url, file, _empty_registry):
    if url.startswith("sqlite"):
        _copy(_empty_registry, file)
    with opened_at(url, key_file=file.parent / "vault.key") as registry:
        yield registry


@pytest.fixture
def embedded(file, _empty_registry):
    """A registry in a file, for what is about files."""
    _copy(_empty_registry, file)
    with opened(file) as registry:
        yield registry


def _copy(template, file):
    """Begin with an empty registry that is migrated already, which takes most of a test's time otherwise."""
    file.parent.mkdir(mode=0o700, parents=True)
    shutil.copy(template, file)
    file.chmod(0o600)
