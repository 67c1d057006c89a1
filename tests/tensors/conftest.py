import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.tensors import blocks


@pytest.fixture(scope="session")
def adapters():
    return load_catalog().architectures


@pytest.fixture
def small_blocks(monkeypatch):
    """Let tiny tensors take many blocks, the last of them short."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 37)
