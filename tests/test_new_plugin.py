"""Plugins as ``fpvec plugin new`` writes them: installed as pip installs them, found, and tested by their own tests."""

import json
import os
import subprocess
import sys

import pytest

from fpvec_audit.cli.main import run
from fpvec_audit.domain.plugins import PluginInfo
from fpvec_audit.errors import OutputError, UnknownNameError, UsageError
from fpvec_audit.services import new_plugin
from fpvec_audit.services.new_plugin import create_plugin

pytestmark = pytest.mark.xdist_group("new plugins")  # written and installed once
MADE = {
    "bend_weights": ("--kind", "attack"),
    "clip_answers": ("--kind", "attack", "--on", "answers"),
    "made_up": ("--kind", "architecture"),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Write one plugin of each kind through the command line: name → directory."""
    place = tmp_path_factory.mktemp("plugins")
    home = str(tmp_path_factory.mktemp("home"))
    for name, options in MADE.items():
        assert run(["plugin", "new", name, *options, "--out", str(place / name), "--home", home]) == 0
    return {name: place / name for name in MADE}


@pytest.fixture(scope="module")
def environment(directories, tmp_path_factory):
    """Install them, without any network, into a directory that other processes look into."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    subprocess.run([*command, *map(str, directories.values())], check=True, capture_output=True, text=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *filter(None, sys.path)])}


def test_they_are_found_once_they_are_installed(environment, tmp_path):
    command = [sys.executable, "-m", "fpvec_audit.cli.main", "plugin", "list", "--json", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    listed = {plugin["name"]: plugin for plugin in json.loads(done.stdout)}
    for name, (_, kind, *_) in MADE.items():
        assert listed[name] == {
            "name": name,
            "kind": kind,
            "distribution": f"fpvec-{name.replace('_', '-')}",
            "version": "0.1.0",
            "state": "working",
            "problem": "",
        }


def test_their_own_tests_pass(directories, environment, tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    command += ["--import-mode=importlib", *map(str, directories.values())]  # two files are called test_attack.py
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout


def test_nothing_of_the_templates_is_left_in_them(directories):
    for directory in directories.values():
        files = [path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert len(files) == 5
        assert not any("$" in path.read_text().replace("fpvec attack run", "") for path in files)


def test_the_result_says_what_was_written_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["plugin", "new", "bend", "--kind", "attack", "--home", "home", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "name": "bend",
        "kind": "attack",
        "on": "weights",
        "directory": "fpvec-bend",
        "distribution": "fpvec-bend",
        "package": "fpvec_bend",
        "files": ["README.md", "fpvec_bend/__init__.py", "fpvec_bend/attack.py", "pyproject.toml",
                  "tests/test_attack.py"],
    }  # fmt: skip
    written = {
        str(path.relative_to(tmp_path / "fpvec-bend"))
        for path in (tmp_path / "fpvec-bend").rglob("*")
        if path.is_file()
    }
    assert written == set(document["files"])


def test_the_result_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["plugin", "new", "bend", "--kind", "architecture", "--home", "home"]) == 0
    told = capsys.readouterr().out
    assert "pip install -e './fpvec-bend[test]'" in told
    assert "python -m pytest ./fpvec-bend" in told


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("My-Attack", "did you mean my_attack?"),
        ("myAttack", "did you mean my_attack?"),
        ("2nd try", "did you mean nd_try?"),
        ("a__b", "did you mean a_b?"),
        ("../up", "did you mean up?"),
        ("größe", "did you mean groe?"),
        ("x" * 41, f"did you mean {'x' * 40}?"),
        ("山川", "use a to z"),
        ("", "use a to z"),
    ],
)
def test_a_name_that_is_no_plain_identifier_is_refused_with_the_nearest_that_is(tmp_path, name, meant):
    with pytest.raises(UsageError) as caught:
        create_plugin(name, kind="attack", out=tmp_path / "new")
    assert caught.value.problem == f"{name!r} cannot be the name of a plugin"
    assert caught.value.advice.startswith(meant)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["audit", "plugins"])
def test_a_package_of_our_own_is_not_written_over(tmp_path, name):
    with pytest.raises(UsageError, match=f"would be our own fpvec_{name}"):
        create_plugin(name, kind="attack", out=tmp_path / "new")


def test_a_name_that_is_taken_is_refused_with_its_owner(tmp_path):
    theirs = [PluginInfo("bend", "attack", "red-team", "2.0"), PluginInfo("x", "attack", "Fpvec_Twist", "1")]
    with pytest.raises(UsageError, match=r"attack 'bend' is given by red-team 2.0 already"):
        create_plugin("bend", kind="attack", out=tmp_path / "new", existing=theirs)
    with pytest.raises(UsageError, match=r"fpvec-twist is installed already, and gives attack 'x'"):
        create_plugin("twist", kind="attack", out=tmp_path / "new", existing=theirs)
    assert create_plugin("bend", kind="architecture", out=tmp_path / "new", existing=theirs).on == ""


def test_kinds_that_do_not_exist_suggest_those_that_do(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown kind of plugin 'atack'.*did you mean attack"):
        create_plugin("bend", kind="atack", out=tmp_path / "new")
    with pytest.raises(UnknownNameError, match=r"unknown thing to attack 'weight'.*did you mean weights"):
        create_plugin("bend", kind="attack", on="weight", out=tmp_path / "new")
    with pytest.raises(UsageError, match="--on weights is for attacks"):
        create_plugin("bend", kind="architecture", on="weights", out=tmp_path / "new")


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        create_plugin("bend", kind="attack", out=tmp_path / "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "mine.txt"]


def test_a_plugin_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def interrupted(source):
        if source.startswith("test_"):
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(new_plugin, "_template", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_plugin("bend", kind="attack", out=tmp_path / "deep" / "new")
    assert not list(tmp_path.iterdir())
