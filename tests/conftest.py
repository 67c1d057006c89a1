"""Fixtures shared by all tests: a home of its own, a clock that stands still, a registry, a clean environment."""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from fpvec_audit.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from fpvec_audit.backends import Engines
    from fpvec_audit.registry.unit_of_work import Registry
    from tests.postgresql import PostgreSQL

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_DATASETS_OFFLINE="1")
# One thread per test process: the tests run side by side, and threads that wait for each other on busy cores made tiny
# models up to thirty times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is slow, which is no fault of the code under test.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

FIXED_TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def pytest_collection_finish() -> None:
    """Look for garbage less often, and never among what was imported: that took a fifth of all time.

    The console script does likewise, see ``fpvec_audit.cli.main.entry``.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _own_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("FPVEC_")}


@pytest.fixture(autouse=True)
def _no_leaked_variables() -> Iterator[None]:
    """Fail a test that leaves FPVEC_* variables behind; those of the developer's shell are hidden from all tests."""
    before = _own_variables()
    for name in before:
        del os.environ[name]
    yield
    leaked = sorted(_own_variables())
    for name in leaked:
        del os.environ[name]
    os.environ.update(before)
    assert not leaked, f"the test leaked environment variables: {', '.join(leaked)}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator["PostgreSQL"]:
    """Return a real PostgreSQL server, one for each test process."""
    from tests.postgresql import running_server

    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def engines() -> Iterator["Engines"]:
    """Return vLLM, imported once for the tests of the group "engines"."""
    from fpvec_audit.backends import Engines

    with Engines("vllm") as opened:
        opened.warm_up()
        yield opened


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a directory for the registry, the vault and artefacts."""
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
def settings(home: Path) -> Settings:
    """Return settings whose home is the test's own."""
    return Settings(home=home, device="cpu", backend="transformers")


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """Return a clock that stands still."""
    return lambda: FIXED_TIME


@pytest.fixture(scope="session", autouse=True)
def _migrated_once() -> Iterator[Callable[["Connection"], None]]:
    """Run the migrations once for all tests; returns the function that really runs them."""
    from fpvec_audit.registry import schema
    from tests.migrated import MigratedOnce

    real = schema._run_migrations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_run_migrations", MigratedOnce(real))
        yield real


@pytest.fixture
def real_migrations(monkeypatch: pytest.MonkeyPatch, _migrated_once: Callable[["Connection"], None]) -> None:
    """Let new registries of a test run the migrations themselves, for tests that are about these."""
    from fpvec_audit.registry import schema

    monkeypatch.setattr(schema, "_run_migrations", _migrated_once)


@pytest.fixture(scope="session")
def _empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a registry file at the current schema; copying it is quicker than migrating a new one for every test."""
    from fpvec_audit.registry.unit_of_work import open_registry

    path = tmp_path_factory.mktemp("registry") / "registry.db"
    open_registry(f"sqlite:///{path}", clock=lambda: FIXED_TIME).close()
    return path


@pytest.fixture
def registry(settings: Settings, clock: Callable[[], datetime], _empty_registry: Path) -> Iterator["Registry"]:
    """Return an empty registry in the test's home."""
    from fpvec_audit.registry.unit_of_work import open_registry

    assert {path.name for path in _empty_registry.parent.iterdir()} == {"registry.db"}, "the template is not closed"
    shutil.copy(_empty_registry, settings.home / "registry.db")
    with open_registry(settings.registry_url, clock=clock) as opened:
        yield opened
