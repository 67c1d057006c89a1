"""One finished audit of a random tiny model, from the command line to whoever checks it."""

import json
import subprocess
import sys

import pytest

from fpvec_audit.cli import main as cli
from fpvec_audit.evidence.signing import SigningKey
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return (directory, options): a registry with a small key set, a suspect, and an examiner's key."""
    directory = tmp_path_factory.mktemp("world")
    make_tiny(directory / "suspect", "gpt2")
    SigningKey(bytes(range(32))).save(directory / "lab.key")
    options = ["--home", str(directory / "home"), "--json"]
    assert cli.run(["key", "issue", "acme", "--count", "4", "--decoys", "12", *options]) == 0
    return directory, options


def told(arguments, capsys):
    capsys.readouterr()
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, " ".join(captured.err.split())


def asking(directory):
    return ["audit", directory / "suspect", "--key", "acme", "--backend", "transformers", "--tests", "exact"]


def test_audit_is_exported_and_verified(world, capsys):
    directory, options = world
    code, result, _ = told([*asking(directory), *options], capsys)
    assert (code, result["verdict"]) == (3, "INCONCLUSIVE")
    export = ["evidence", "export", result["audit_id"], "--out", directory / "bundle", *options]
    code, _, errors = told(export, capsys)
    assert code == 2
    assert "--disclose-secret" in errors
    assert "sign" not in errors, "nobody signs what is not given out"
    assert not (directory / "home/signing.key").exists()
    code, exported, errors = told([*export, "--disclose-secret"], capsys)
    assert (code, exported["verdict"], exported["grade"]) == (0, "INCONCLUSIVE", "self-attested")
    assert exported["signer"] in errors
    verify = ["evidence", "verify", directory / "bundle"]
    code, found, _ = told([*verify, "--signer", exported["signer"], "--json"], capsys)
    assert (code, found["valid"], found["verdict"]) == (0, True, "INCONCLUSIVE")
    assert {"valid", "verdict", "grade", "signer", "order", "problems"} <= set(found)
    code, found, _ = told([*verify, "--signer", "0" * 63 + "3", "--json"], capsys)
    assert (code, found["valid"]) == (4, False)
    assert cli.run([str(word) for word in verify]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "VALID INCONCLUSIVE, grade self-attested" in shown
    assert "✓ signed by" in shown
    assert "signer not pinned" in shown
    assert "What this does not prove" in shown


def test_verifying_needs_neither_registry_nor_home_nor_anything_heavy(world, tmp_path):
    (tmp_path / "bundle").write_text("{}")
    code = (
        "import sys\nfrom fpvec_audit.cli.main import run\n"
        f"assert run(['evidence', 'verify', {str(tmp_path / 'bundle')!r}, '--home', {str(tmp_path / 'home')!r}]) == 4\n"
        "heavy = {'torch', 'transformers', 'numpy', 'sqlalchemy', 'httpx'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NOT VALID" in done.stdout
    assert "✗" in done.stdout
    assert not (tmp_path / "home").exists()


def test_missing_files_and_unknown_audits_exit_as_promised(world, capsys):
    directory, options = world
    assert told(["evidence", "verify", directory / "nothing"], capsys)[0] == 4
    assert told(["evidence", "attach", directory / "nothing", *options], capsys)[0] == 4
    code, _, errors = told(["evidence", "export", "au-nothing", "--out", directory / "x", *options], capsys)
    assert (code, "signed by" in errors) == (2, False)


def test_examiner_asks_what_the_owner_planned(world, capsys):
    directory, options = world
    code, planned, _ = told([*asking(directory)[:-2], "--blind", directory / "acme.package", *options], capsys)
    assert (code, planned["questions"]) == (0, 16)
    assert "fpvec evidence examine" in planned["next"]
    examine = ["evidence", "examine", directory / "acme.package", directory / "suspect"]
    examine += ["--examiner-key", directory / "lab.key", "--name", "The Lab", "--out", directory / "acme.examined"]
    code, examined, _ = told([*examine, "--home", directory / "elsewhere", "--json"], capsys)
    assert (code, examined["records"], examined["plan_digest"]) == (0, 17, planned["plan_digest"])
    assert not (directory / "elsewhere").exists()
    code, result, _ = told(["evidence", "attach", directory / "acme.examined", *options], capsys)
    assert (code, result["audit_id"], result["examiner"]["name"]) == (3, planned["audit_id"], "The Lab")
    code, exported, _ = told(
        [
            "evidence",
            "export",
            result["audit_id"],
            "--out",
            directory / "examined.bundle",
            "--disclose-secret",
            *options,
        ],
        capsys,
    )
    assert (code, exported["verdict"]) == (0, "INCONCLUSIVE")
