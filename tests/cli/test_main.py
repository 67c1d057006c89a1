import json
import re
import subprocess
import sys

import pytest
from typer.main import get_command

from fpvec_audit.cli import main as cli
from fpvec_audit.errors import OperationError, UsageError


def commands(command, path=()):
    inner = getattr(command, "commands", None)
    if not inner:
        yield path, command
        return
    for name, child in inner.items():
        yield from commands(child, (*path, name))


EVERY_COMMAND = dict(commands(get_command(cli.app)))


@pytest.mark.parametrize("path", EVERY_COMMAND, ids=" ".join)
def test_every_help_has_an_example_of_the_command_itself(path):
    assert f"Example: fpvec {' '.join(path)}" in EVERY_COMMAND[path].help


@pytest.mark.parametrize("path", EVERY_COMMAND, ids=" ".join)
def test_every_command_takes_home_registry_and_json(path):
    options = {option for parameter in EVERY_COMMAND[path].params for option in parameter.opts}
    assert {"--home", "--registry", "--json"} <= options


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom fpvec_audit.cli.main import run\nrun(['--help'])\n"
        "heavy = {'torch','transformers','vllm','numpy','scipy','sqlalchemy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fingerprint" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["audit"], ["no-such-command"], ["key", "issue", "x", "--count", "many"], ["stamp", "a", "--nope"]]
)
def test_wrong_usage_exits_2_and_says_where_help_is(arguments, capsys):
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--help" in captured.err


def test_errors_become_their_exit_code_with_advice(monkeypatch, capsys):
    for error in (UsageError("bad [value]", advice="use another"), OperationError("gone", advice="use another")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(cli, "app", fail)
        assert cli.run([]) == error.exit_code
        captured = capsys.readouterr().err
        assert error.problem in captured
        assert "use another" in captured
        assert "Traceback" not in captured


def test_a_bug_exits_70_with_a_traceback_and_ctrl_c_130(monkeypatch, capsys):
    def bug(*_, **__):
        raise KeyError("oops")

    monkeypatch.setattr(cli, "app", bug)
    assert cli.run([]) == 70
    assert "Traceback" in capsys.readouterr().err

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    assert cli.run([]) == 130


def test_json_output_is_one_document_on_stdout(tmp_path, capsys):
    assert cli.run(["key", "issue", "acme", "--home", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"id", "name", "root", "scheme", "grade", "marks", "issued", "decoys"} <= set(document)
    assert document["issued"] == 32
    assert re.fullmatch(r"[0-9a-f]{64}", document["root"])


def test_version_is_printed(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fpvec-audit ")
