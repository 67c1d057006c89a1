import hashlib
import json
import re
import subprocess
import sys

import pytest
import typer
from typer.main import get_command

from fpvec_audit.cli import main as cli
from fpvec_audit.errors import OperationError, UsageError
from fpvec_audit.tensors import native
from tests.tiny import make_tiny, perturb


def commands(command, path=()):
    inner = getattr(command, "commands", None)
    if not inner:
        yield path, command
        return
    for name, child in inner.items():
        yield from commands(child, (*path, name))


EVERY_COMMAND = dict(commands(get_command(cli.application())))


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

        monkeypatch.setattr(cli, "application", lambda _, app=fail: app)
        assert cli.run([]) == error.exit_code
        captured = capsys.readouterr().err
        assert error.problem in captured
        assert "use another" in captured
        assert "Traceback" not in captured


def test_a_bug_exits_70_with_a_traceback_and_ctrl_c_130(monkeypatch, capsys):
    def bug(*_, **__):
        raise KeyError("oops")

    monkeypatch.setattr(cli, "application", lambda _, app=bug: app)
    assert cli.run([]) == 70
    assert "Traceback" in capsys.readouterr().err

    def interrupt():
        raise KeyboardInterrupt

    app = typer.Typer()  # the real thing, which takes Ctrl-C for itself
    app.command()(interrupt)
    for interrupted in (lambda **_: interrupt(), app):
        monkeypatch.setattr(cli, "application", lambda _, app=interrupted: app)
        assert cli.run([]) == 130
        assert "nothing half-written" in capsys.readouterr().err


def test_json_output_is_one_document_on_stdout(tmp_path, capsys):
    assert cli.run(["key", "issue", "acme", "--home", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"id", "name", "root", "scheme", "grade", "marks", "issued", "decoys"} <= set(document)
    assert document["issued"] == 32
    assert re.fullmatch(r"[0-9a-f]{64}", document["root"])


def test_version_is_printed(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fpvec-audit ")


@pytest.fixture
def stamped(tmp_path, capsys):
    """Make a base, a downstream model, a vector and a stamped copy, all through the command line."""
    base = make_tiny(tmp_path / "base", "gpt2", dtype="bfloat16")
    fingerprinted, downstream = perturb(base, tmp_path / "fp", seed=1), perturb(base, tmp_path / "down", seed=2)
    vector, out, home = str(tmp_path / "vector"), str(tmp_path / "out"), ["--home", str(tmp_path / "home"), "--json"]
    assert cli.run(["vector", "extract", str(base), str(fingerprinted), "--out", vector, *home]) == 0
    capsys.readouterr()
    order = ["stamp", str(downstream), "--vector", vector, "--out", out, "--file-digests", "--skip", "norm", *home]
    assert cli.run(order) == 0
    return json.loads(capsys.readouterr().out)[0], order, home


def test_stamp_tells_rounding_by_role_and_the_digest_of_every_file(stamped, tmp_path, capsys):
    document, order, _ = stamped
    assert set(document["roles"]) == {"embedding", "attention", "mlp"}
    assert all({"applied_ratio", "cosine", "tensors"} <= rounding.keys() for rounding in document["roles"].values())
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out").iterdir()}
    assert document["file_digests"] == files
    assert cli.run(order) == 0
    again = json.loads(capsys.readouterr().out)[0]
    assert again["already"]
    assert again["file_digests"] == files


def test_verify_exits_4_and_names_the_tensor_when_a_byte_changed(stamped, tmp_path, capsys):
    document, _, home = stamped
    assert cli.run(["model", "verify", document["digest"], *home]) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is True
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert cli.run(["model", "verify", document["digest"], *home]) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out)["intact"] is False
    assert "has other numbers" in captured.err


def test_unstamp_says_when_rounding_lost_something(stamped, tmp_path, capsys):
    document, _, home = stamped
    arguments = ["unstamp", document["out"], "--stamp", document["stamp_id"], "--out", str(tmp_path / "again"), *home]
    assert cli.run(arguments) == 4
    assert "cannot be given back bit for bit" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_jobs_are_listed(stamped, capsys):
    _, _, home = stamped
    assert cli.run(["job", "list", *home]) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert [(job["kind"], job["state"]) for job in jobs] == [("extract", "succeeded"), ("stamp", "succeeded")]
    assert cli.run(["job", "list", *home[:2]]) == 0
    assert "succeeded" in capsys.readouterr().out


def test_a_command_loads_its_own_module_and_no_other_commands():
    code = (
        "import sys\nfrom fpvec_audit.cli.main import COMMANDS, GROUPS, run\nrun(['stamp', '--help'])\n"
        "loaded = {name for name in (*COMMANDS, *GROUPS) if f'fpvec_audit.cli.{name}' in sys.modules}\n"
        "sys.exit(str(loaded - {'stamp'}) if loaded != {'stamp'} else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["stamp", "--nope"], 2)])
def test_the_process_ends_with_the_exit_code_when_everything_is_written_and_done(arguments, code):
    script = (
        "import atexit, sys; from fpvec_audit.cli import main\n"
        "atexit.register(print, 'registered for the end')\n"
        f"sys.argv[1:] = {arguments!r}; main.entry()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "registered for the end"


def test_a_process_with_a_thread_under_way_waits_for_it():
    script = (
        "import sys, threading; from fpvec_audit.cli import main\n"
        "threading.Thread(target=lambda: threading.main_thread().join() or print('thread is done')).start()\n"
        "sys.argv[1:] = ['--version']; main.entry()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "thread is done"


def test_stamping_loads_neither_torch_nor_transformers(tmp_path):
    if native.library() is None:
        pytest.skip("the loops are not compiled here")
    base = make_tiny(tmp_path / "base", "gpt2", dtype="bfloat16")
    fingerprinted = perturb(base, tmp_path / "fp", seed=1)
    vector, home = str(tmp_path / "vector"), ["--home", str(tmp_path / "home"), "--json"]
    commands = [
        ["vector", "extract", str(base), str(fingerprinted), "--out", vector, *home],
        ["stamp", str(base), "--vector", vector, "--out", str(tmp_path / "out"), *home],
    ]
    code = (
        "import sys; from fpvec_audit.cli import main\n"
        f"assert [main.run(command) for command in {commands!r}] == [0, 0]\n"
        "sys.exit(str(sorted({'torch', 'transformers'} & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == "[]"
