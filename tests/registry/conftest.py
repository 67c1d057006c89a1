import pytest

from tests.registry.builders import opened


@pytest.fixture
def file(tmp_path):
    return tmp_path / "home" / "registry.db"


@pytest.fixture
def registry(file):
    with opened(file) as registry:
        yield registry
