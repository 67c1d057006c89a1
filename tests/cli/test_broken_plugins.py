"""Packages of strangers, installed and broken in every way, seen through the command line."""

import json
import os
import subprocess
import sys

import pytest

from fpvec_audit.cli.main import run
from tests.tiny import make_tiny

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
from fpvec_audit.api import hookimpl

@dataclass(frozen=True)
class Nothing:
    pass

@dataclass(frozen=True)
class Attack:
    Parameters: ClassVar[type] = Nothing
    name: str = "sound"
    description: str = "Does nothing."
    def apply(self, source, target, parameters, context):
        pass
"""
HOOK = HEAD + "\n@hookimpl\ndef fpvec_attacks({arguments}):\n    return {value}\n"
GREEDY = """
from types import SimpleNamespace
from fpvec_audit.api import hookimpl

@hookimpl
def fpvec_architectures():
    members = dict.fromkeys(("role", "canonical", "tied", "prompt"), len)
    return [SimpleNamespace(name="greedy", supports=lambda description: 99, chat_template="", defaults=(), **members)]
"""


def hook(value, arguments=""):
    return HOOK.format(value=value, arguments=arguments)


STRANGERS = {
    "sound": (hook("[Attack()]"), "", None),
    "raises": ("print('chatter')\nraise RuntimeError('no licence key')", "plugin", "RuntimeError: no licence key"),
    "leaves": ("raise SystemExit(3)", "plugin", "SystemExit: 3"),
    "unparsable": ("def (", "plugin", "SyntaxError"),
    "nothing": (hook("None"), "plugin", "fpvec_attacks returned None; return a list"),
    "text": (hook("'noise'"), "plugin", "fpvec_attacks returned str; return a list"),
    "eager": (hook("[Attack()]", "config"), "plugin", "cannot be registered"),
    "typo": (hook("[Attack()]").replace("fpvec_attacks", "fpvec_atacks"), "plugin", "did you mean fpvec_attacks?"),
    "unnamed": (hook("[Attack(name='My Attack')]"), "plugin", "'My Attack', which is no lower-case identifier"),
    "greedy": (GREEDY, "plugin", "it would claim every checkpoint"),
    "twin_one": (hook("[Attack(name='twin')]"), "attack", "stranger-twin_two 1.0 also gives attack 'twin'"),
    "twin_two": (hook("[Attack(name='twin')]"), "attack", "stranger-twin_one 1.0 also gives attack 'twin'"),
    "usurper": (hook("[Attack(name='noise')]"), "attack", "also gives attack 'noise'"),
}
"""Distribution → source of its module, kind and problem that `fpvec plugin list` shows."""


def install(site, name, source, *, entry_points=None, metadata=True):
    """Put a distribution where Python finds it, as an installer would."""
    (site / f"stranger_{name}.py").write_text(source)
    info = site / f"stranger_{name}-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(entry_points or f"[fpvec_audit]\n{name} = stranger_{name}\n")
    if metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 1.0\n")


@pytest.fixture
def site(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for name, (source, _, _) in STRANGERS.items():
        install(site, name, source)
    install(site, "nameless", hook("[Attack(name='orphan')]"), metadata=False)
    install(site, "lost", "", entry_points="[fpvec_audit]\nlost = stranger_that_is_not_there\n")
    install(site, "odd", "", entry_points="[fpvec_audit]\nodd = not a module!\n")
    return site


@pytest.fixture
def fpvec(site, home, monkeypatch, capsys):
    """Return a function that runs a command in this process among the strangers: (exit code, stdout, stderr)."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(site))

    def ask(*arguments):
        code = run([*arguments, "--home", str(home)])
        told = capsys.readouterr()
        return code, told.out, told.err

    yield ask
    for name in set(sys.modules) - before:
        if name.startswith("stranger_"):
            del sys.modules[name]


def test_every_broken_plugin_is_listed_with_its_reason_and_the_others_work(fpvec):
    code, out, _ = fpvec("plugin", "list", "--json")
    assert code == 0
    listed = json.loads(out)
    for name, (_, kind, reason) in STRANGERS.items():
        (shown,) = [plugin for plugin in listed if plugin["distribution"] == f"stranger-{name}"]
        if reason is None:
            assert (shown["kind"], shown["state"], shown["problem"]) == ("attack", "working", "")
        else:
            assert (shown["kind"], shown["state"]) == (kind, "failed" if kind == "plugin" else "clash")
            assert reason in shown["problem"]
    problems = {plugin["name"]: plugin["problem"] for plugin in listed}
    assert "No module named 'stranger_that_is_not_there'" in problems["lost"]
    assert "names no module" in problems["odd"]
    (orphan,) = [plugin for plugin in listed if plugin["name"] == "orphan"]
    assert (orphan["distribution"], orphan["state"]) == ("unknown", "working")
    ours = [plugin for plugin in listed if plugin["distribution"] == "fpvec-audit"]
    assert {"gpt2", "noise", "guessing"} <= {plugin["name"] for plugin in ours}
    assert not any(plugin["problem"] for plugin in ours)


def test_the_table_says_why(fpvec):
    code, out, _ = fpvec("plugin", "list")
    assert code == 0
    assert "Problems" in out
    assert "no licence key" in " ".join(out.split())


def test_what_does_not_need_them_works_among_broken_plugins(fpvec, tmp_path):
    model = make_tiny(tmp_path / "model", "gpt2", tokenizer=False)
    assert fpvec("model", "register", str(model))[0] == 0
    code, out, _ = fpvec("attack", "list", "--json")
    assert code == 0
    assert {"sound", "noise", "orphan"} <= {attack["name"] for attack in json.loads(out)}
    code, _, told = fpvec("model", "register", str(model), "--architecture", "raises")
    assert code == 2
    assert "plugin 'raises' of stranger-raises 1.0 failed" in told
    assert "no licence key" in told


def test_entry_points_that_cannot_be_read_are_their_distributions_own_fault(site, home):
    install(site, "garbled", "", entry_points="[fpvec_audit]\nthis is no entry point\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "fpvec_audit.cli.main", "plugin", "list", "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    listed = {plugin["distribution"]: plugin for plugin in json.loads(done.stdout)}
    assert "entry_points.txt cannot be read" in listed["stranger-garbled"]["problem"]
    assert listed["stranger-sound"]["state"] == "working"
    assert listed["fpvec-audit"]["state"] == "working"
