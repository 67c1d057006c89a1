"""Which models are read to describe weights: all of them, few of them, or none where it would take long."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fpvec_audit.services import described_weights as module
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.weight_evidence import KnownVector
from tests.tiny import make_tiny

CLEAN = [Path("clean-1"), Path("clean-2")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("weights") / "base", "gpt2")


@pytest.fixture
def read(monkeypatch):
    """Which clean models were read, for one vector of the base; empty lists where none was."""
    asked = []

    def evidence(_suspect, *, controls, **_):
        asked.append(list(controls))
        return SimpleNamespace(to_json=lambda: {"vectors": []})

    monkeypatch.setattr(module, "weight_evidence", evidence)
    monkeypatch.setattr(module, "_known", lambda *_: ([KnownVector("v", Path("v"), "keys")], list(CLEAN), 0))
    return asked


def described(base, **options):
    suspect = SimpleNamespace(directory=base, adapter=None)
    bench = SimpleNamespace(settings=checked_settings(), progress=None)
    return module.described_weights(suspect, SimpleNamespace(directory=base, digest=""), bench, **options)


def allow(monkeypatch, models, base):
    from fpvec_audit.training.candidate_gradients import gradient_cost

    monkeypatch.setattr(module, "MOST_ELEMENTS", models * gradient_cost(base))


def test_everything_is_read_where_there_is_room(base, read, monkeypatch):
    allow(monkeypatch, 5, base)  # suspect, base, vector and two clean models
    assert described(base) == ({"vectors": []}, ())
    assert read == [CLEAN]


def test_nothing_is_read_where_it_would_only_be_told(base, read, monkeypatch):
    allow(monkeypatch, 4, base)
    assert described(base) == (None, ())
    assert read == []


@pytest.mark.parametrize(("models", "clean"), [(4, CLEAN[:1]), (3, []), (0, [])])
def test_what_decides_is_read_and_clean_models_give_way(base, read, monkeypatch, models, clean):
    allow(monkeypatch, models, base)
    assert described(base, decisive=True) == ({"vectors": []}, ())
    assert read == [clean]
