"""The wheel must work where no checkout is: its own migrations, plugins and console script."""

import json

import pytest

from tests.e2e.conftest import run_fpvec

pytestmark = pytest.mark.xdist_group("demo")


def test_installed_wheel_makes_a_registry_and_finds_its_plugins(installed, tmp_path):
    made = run_fpvec(installed, "registry", "init", "--home", "home", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "home" / "registry.db").is_file()
    listed = run_fpvec(installed, "plugin", "list", "--home", "home", "--json", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    plugins = {plugin["name"]: plugin["problem"] for plugin in json.loads(listed.stdout)}
    assert {"gpt2", "bloom", "llama2", "vicuna", "guessing", "fine_tune"} <= set(plugins)
    assert not any(plugins.values())
    made = run_fpvec(installed, "plugin", "new", "bend", "--kind", "attack", "--home", "home", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "fpvec-bend" / "fpvec_bend" / "attack.py").is_file()


def test_installed_wheel_uses_its_own_code(installed, tmp_path):
    python = installed.parent / "python"
    where = run_fpvec(python, "-c", "import fpvec_audit, fpvec_plugins; print(fpvec_audit.__file__)", cwd=tmp_path)
    assert str(installed.parents[1]) in where.stdout
