"""The vault through the command line: what works without the master key, and what is said where it is needed."""

import json
import sqlite3
from contextlib import closing

import pytest

from fpvec_audit.cli import main as cli
from fpvec_audit.registry.master_key import KeyFile
from fpvec_audit.registry.unit_of_work import utc_now
from tests.registry.builders import model_record, opened, stamp_record, vector_record

KEY = "ab" * 32


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def fpvec(home, capsys):
    """Run a command and return (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.run([*arguments, "--home", str(home)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def stocked(home, fpvec):
    """A registry with one of everything; its key lies in the file of its home."""
    assert fpvec("key", "issue", "acme", "--count", "2", "--decoys", "2")[0] == 0
    with opened(home / "registry.db", clock=utc_now) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
        uow.models.add(model_record("stamped", digit="b"))
        uow.vectors.add(vector_record(key_set=None))
        uow.stamps.add(stamp_record())
    return fpvec


def missing(home, monkeypatch):
    (home / "vault.key").rename(home / "elsewhere")


def wrong(home, monkeypatch):
    (home / "vault.key").write_text(f"{KEY}\n")


def readable_by_all(home, monkeypatch):
    (home / "vault.key").chmod(0o644)


def empty(home, monkeypatch):
    (home / "vault.key").write_text("")


def corrupt(home, monkeypatch):
    (home / "vault.key").write_bytes((home / "vault.key").read_bytes()[:-10])


def other_variable(home, monkeypatch):
    monkeypatch.setenv("FPVEC_VAULT_KEY", KEY)


def bad_variable(home, monkeypatch):
    monkeypatch.setenv("FPVEC_VAULT_KEY", "hunter2")


def passphrase(home, monkeypatch):
    monkeypatch.setenv("FPVEC_VAULT_PASSPHRASE", "hunter2")


def both_variables(home, monkeypatch):
    monkeypatch.setenv("FPVEC_VAULT_KEY", KEY)
    monkeypatch.setenv("FPVEC_VAULT_PASSPHRASE", "hunter2")


def a_directory(home, monkeypatch):
    (home / "vault.key").unlink()
    (home / "vault.key").mkdir(mode=0o700)


UNFIT = {
    missing: "is missing: there is no",
    wrong: "but",
    readable_by_all: "may be read by others (mode 0644)",
    empty: "is no master key: there is no key in it",
    corrupt: "is no master key: a line is not 64",
    other_variable: "FPVEC_VAULT_KEY is mk-",
    bad_variable: "FPVEC_VAULT_KEY is no master key",
    passphrase: "FPVEC_VAULT_PASSPHRASE is set",
    both_variables: "are both set",
    a_directory: "is no file",
}
LISTS = (
    ("key", "list"), ("key", "show", "acme"), ("model", "list"), ("vector", "list"), ("job", "list"),
    ("registry", "log"), ("registry", "verify"), ("registry", "check"), ("registry", "init"), ("registry", "upgrade"),
)  # fmt: skip


@pytest.mark.parametrize("unfit", UNFIT, ids=lambda unfit: unfit.__name__)
def test_without_the_key_all_but_secrets_is_there_and_secrets_are_refused(stocked, home, unfit, monkeypatch):
    key = KeyFile(home / "vault.key").keys()[0]
    unfit(home, monkeypatch)
    before = sorted((path.name, path.is_file() and path.read_bytes()) for path in home.iterdir() if "key" in path.name)
    for command in LISTS:
        code, out, err = stocked(*command, "--json")
        assert (code, err) == (0, ""), command
        json.loads(out)
    needs = json.loads(stocked("registry", "check", "--json")[1])["master_key"]
    assert (needs["id"], needs["source"], needs["fits"]) == (key.id, "file", False)
    assert UNFIT[unfit] in needs["problem"]
    for command in (("key", "show", "acme", "--reveal"), ("key", "issue", "other"), ("registry", "rekey")):
        code, out, err = stocked(*command)
        assert (code, out) == (4, ""), command
        assert UNFIT[unfit] in " ".join(err.split())
        assert "try:" in err
        assert "hunter2" not in err
        assert KEY not in err
    assert [item["name"] for item in json.loads(stocked("key", "list", "--json")[1])] == ["acme"]
    assert before == sorted(
        (path.name, path.is_file() and path.read_bytes()) for path in home.iterdir() if "key" in path.name
        and not path.name.endswith("-lock")
    )  # fmt: skip
    if unfit is readable_by_all:
        assert f"chmod 600 {home / 'vault.key'}" in stocked("key", "show", "acme", "--reveal")[2]


def test_wrong_passphrase_is_told_and_the_right_one_opens(fpvec, monkeypatch):
    monkeypatch.setenv("FPVEC_VAULT_PASSPHRASE", "correct horse")
    assert fpvec("key", "issue", "acme")[0] == 0
    monkeypatch.setenv("FPVEC_VAULT_PASSPHRASE", "correct house")
    code, _, err = fpvec("key", "show", "acme", "--reveal")
    assert code == 4
    assert "the passphrase is not that of the master key mk-" in err
    assert "house" not in err
    monkeypatch.setenv("FPVEC_VAULT_PASSPHRASE", "correct horse")
    assert fpvec("key", "show", "acme", "--reveal")[0] == 0
    monkeypatch.delenv("FPVEC_VAULT_PASSPHRASE")
    code, _, err = fpvec("key", "show", "acme", "--reveal")
    assert code == 4
    assert "FPVEC_VAULT_PASSPHRASE" in err


def test_reveal_says_who_and_why_in_the_ledger(stocked, monkeypatch):
    monkeypatch.setenv("FPVEC_ACTOR", "counsel@acme")
    assert stocked("key", "show", "acme", "--reveal", "--reason", "case 7")[0] == 0
    last = json.loads(stocked("registry", "log", "--limit", "1", "--json")[1])[-1]
    assert last["event"] == "secret.revealed"
    assert last["content"] == {"kind": "key_set", "purpose": "shown to its owner: case 7", "who": "counsel@acme"}
    code, _, err = stocked("key", "show", "acme", "--reason", "case 7")
    assert code == 2
    assert "--reveal" in err


def test_rekey_makes_a_new_key_and_says_what_to_keep(stocked, home):
    former = KeyFile(home / "vault.key").keys()[0]
    code, out, _ = stocked("registry", "rekey", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["before"], told["source"], told["data_keys"]) == (former.id, "file", 1)
    assert told["now"] == KeyFile(home / "vault.key").keys()[0].id
    assert told["retired_to"] == str(home / "vault.key.retired")
    assert any(former.id in step for step in told["next"])
    assert stocked("key", "show", "acme", "--reveal")[0] == 0
    assert stocked("registry", "rekey")[0] == 0


def test_rekey_to_the_environment_and_to_a_passphrase(stocked, monkeypatch):
    code, _, err = stocked("registry", "rekey", "--to", "environment")
    assert (code, "FPVEC_NEW_VAULT_KEY is not set" in err) == (2, True)
    monkeypatch.setenv("FPVEC_NEW_VAULT_KEY", KEY)
    assert stocked("registry", "rekey")[0] == 2  # a key was given, and would not be used
    code, out, _ = stocked("registry", "rekey", "--to", "environment", "--json")
    assert (code, json.loads(out)["next"][0]) == (
        0, "set FPVEC_VAULT_KEY to what FPVEC_NEW_VAULT_KEY is now, wherever fpvec runs",
    )  # fmt: skip
    assert stocked("key", "show", "acme", "--reveal")[0] == 4
    monkeypatch.setenv("FPVEC_VAULT_KEY", KEY)
    assert stocked("key", "show", "acme", "--reveal")[0] == 0
    monkeypatch.delenv("FPVEC_NEW_VAULT_KEY")
    monkeypatch.setenv("FPVEC_NEW_VAULT_PASSPHRASE", "correct horse")
    code, out, _ = stocked("registry", "rekey", "--to", "passphrase", "--json")
    assert json.loads(out)["next"][0] == "take FPVEC_VAULT_KEY out of the environment"
    monkeypatch.delenv("FPVEC_VAULT_KEY")
    monkeypatch.setenv("FPVEC_VAULT_PASSPHRASE", "correct horse")
    assert stocked("key", "show", "acme", "--reveal")[0] == 0
    assert stocked("registry", "rekey", "--to", "memory")[0] == 2


def test_passphrase_is_asked_for_only_on_a_terminal(stocked, monkeypatch):
    code, _, err = stocked("registry", "rekey", "--to", "passphrase")
    assert (code, "FPVEC_NEW_VAULT_PASSPHRASE is not set" in err) == (2, True)


@pytest.mark.parametrize(
    "change", ["substr(ciphertext, 2)", "x'00'", "x''", "'a text'", "CAST(ciphertext AS TEXT)", "7"]
)
def test_damaged_ciphertext_exits_4_with_advice(stocked, home, change):
    with closing(sqlite3.connect(home / "registry.db")) as connection, connection:
        connection.execute(f"UPDATE vault_secret SET ciphertext = {change}")
    code, out, err = stocked("key", "show", "acme", "--reveal")
    assert (code, out) == (4, "")
    assert "cannot be opened" in err or "Could not decode" in err
    assert "with text" not in err
    assert "try:" in err


def test_first_key_set_says_that_a_master_key_was_made(home, fpvec):
    _, _, errors = fpvec("key", "issue", "acme", "--count", "2", "--decoys", "2")
    assert f"made the master key {home / 'vault.key'}: keep a copy" in " ".join(errors.split())
    _, _, errors = fpvec("key", "issue", "globex", "--count", "2", "--decoys", "2")
    assert "master key" not in errors
