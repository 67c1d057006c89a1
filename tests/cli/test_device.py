"""Where to compute: a device that is none is refused by every command before anything is loaded."""

import pytest
import torch

from fpvec_audit.cli import main as cli
from fpvec_audit.errors import SettingsError
from fpvec_audit.services.doctor import checked_device, resolve_device

COMMANDS = (
    ["attack", "run", "model", "--key", "acme", "--attack", "fine_tune"],
    ["audit", "model", "--key", "acme"],
    ["embed", "model", "--method", "direct", "--key", "acme", "--out", "out"],
    ["evidence", "attach", "file"],
    ["evidence", "examine", "package", "model", "--examiner-key", "k", "--name", "Lab", "--out", "out"],
    ["fingerprint", "model", "--key", "acme", "--out", "out"],
    ["harmless", "model", "model"],
    ["reproduce", "--preset", "tiny"],
    ["trace", "model"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_device_that_is_none_is_refused_before_anything_is_loaded(command, home, capsys):
    assert cli.run([*command, "--device", "foo", "--home", str(home)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "device 'foo' is unknown" in told
    assert "use auto, cpu or cuda" in told


@pytest.mark.parametrize("name", ["cudax", "cuda:", "cuda:-1", "cpu:0", ""])
def test_what_merely_begins_like_a_device_is_none(name):
    with pytest.raises(SettingsError, match="is unknown"):
        resolve_device(name)


def test_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    with pytest.raises(SettingsError, match="'cuda:2' is not there – torch sees 2: cuda:0 to cuda:1"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="torch sees no CUDA device"):
        checked_device("cuda")


def test_engine_settles_by_itself_what_auto_means():
    assert (checked_device("auto"), checked_device("cpu")) == ("auto", "cpu")
