"""A registry taken elsewhere from the command line."""

import io
import json
import sys

import pytest

from fpvec_audit.cli import main as cli


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Return the home of a registry with a key set."""
    home = tmp_path_factory.mktemp("world") / "home"
    assert cli.run(["key", "issue", "acme", "--count", "4", "--decoys", "12", "--home", str(home), "--json"]) == 0
    return home


@pytest.fixture
def told(capsys):
    def tell(*arguments):
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, " ".join(captured.err.split())

    return tell


def test_export_and_import_keep_everything_and_name_the_key(filled, told, tmp_path):
    code, exported, errors = told("registry", "export", tmp_path / "r.jsonl", "--home", filled, "--json")
    assert (code, exported["entries"]) == (0, 1)
    assert exported["master_key"] in errors
    assert exported["master_key"] in exported["warnings"][0]
    code, imported, errors = told("registry", "import", tmp_path / "r.jsonl", "--home", tmp_path / "other", "--json")
    assert code == 0
    assert (imported["rows"], imported["head"]) == (exported["rows"], exported["head"])
    assert f"put it into {tmp_path / 'other' / 'vault.key'}" in errors
    code, keys, _ = told("key", "list", "--home", tmp_path / "other", "--json")
    assert [key["name"] for key in keys] == ["acme"]
    assert told("registry", "verify", "--home", tmp_path / "other", "--json")[0] == 0
    assert told("registry", "import", tmp_path / "r.jsonl", "--home", tmp_path / "other", "--json")[0] == 4
    assert told("registry", "export", tmp_path / "r.jsonl", "--home", filled, "--json")[0] == 4


def test_export_goes_through_a_pipe(filled, tmp_path, monkeypatch, capfdbinary):
    capfdbinary.readouterr()
    assert cli.run(["registry", "export", "-", "--home", str(filled)]) == 0
    out, errors = capfdbinary.readouterr()
    assert out.count(b"\n") > 20
    assert b"master key" in errors
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(out)))
    assert cli.run(["registry", "import", "-", "--home", str(tmp_path / "piped")]) == 0


def test_backup_and_restore_keep_everything_and_name_the_key(filled, told, tmp_path):
    code, made, errors = told("registry", "backup", tmp_path / "r.backup", "--home", filled, "--json")
    assert code == 0
    assert f"the master key {made['master_key']} is not in the backup" in errors
    code, restored, errors = told("registry", "restore", tmp_path / "r.backup", "--home", tmp_path / "new", "--json")
    assert (code, restored["head"], restored["rows"]) == (0, made["head"], made["rows"])
    assert made["master_key"] in errors
    code, _, errors = told("registry", "restore", tmp_path / "r.backup", "--home", filled, "--json")
    assert (code, "holds entries already" in errors) == (4, True)
    (tmp_path / "new" / "vault.key").write_bytes((filled / "vault.key").read_bytes())
    (tmp_path / "new" / "vault.key").chmod(0o600)
    assert told("key", "show", "acme", "--reveal", "--home", tmp_path / "new", "--json")[0] == 0


@pytest.mark.parametrize("command", ["import", "restore"])
def test_missing_file_exits_as_promised(told, tmp_path, command):
    code, _, errors = told("registry", command, tmp_path / "none", "--home", tmp_path / "home", "--json")
    assert code == 4
    assert "cannot be read" in errors


def test_recorded_audits_are_listed(told, tmp_path):
    assert told("evidence", "list", "--home", tmp_path / "home", "--json")[:2] == (0, [])
    code, _, errors = told("evidence", "record", tmp_path / "none", "--home", tmp_path / "home", "--json")
    assert code == 4
    assert "none" in errors
