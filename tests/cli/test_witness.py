import hashlib
import json
import subprocess
import sys

import pytest

from fpvec_audit.cli import main as cli
from fpvec_audit.domain.beacon import QUICKNET


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Return the options of a registry of its own; files lie in the test's directory."""
    monkeypatch.chdir(tmp_path)
    return ["--home", str(tmp_path / "home"), "--json"]


def told(arguments, capsys):
    code = cli.run(arguments)
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None


def issue(*options):
    return ["key", "issue", "acme", "--count", "4", "--decoys", "12", *options]


def test_owner_and_witness_exchange_three_files(at, tmp_path, capsys):
    code, witness = told(["witness", "init", "--out", "w", *at], capsys)
    assert (code, witness["key"]) == (0, "w/witness.key")
    code, pending = told(issue("--witness", "w/witness.pub", *at), capsys)
    assert (code, pending["grade"], pending["request"]) == (0, "pending", "acme.request.json")
    sign = ["witness", "sign", "acme.request.json", "--witness-key", "w/witness.key", "--out", "signed.json"]
    code, signed = told([*sign, "--json"], capsys)
    assert (code, signed["subject"], signed["digest"]) == (0, "commitment", pending["commitment"])
    code, verified = told(["witness", "verify", "signed.json", "--signer", "w/witness.pub", "--json"], capsys)
    assert (code, verified["valid"], verified["signer"]) == (0, True, "pinned")
    code, issued = told(issue("--witness", "signed.json", *at), capsys)
    assert (code, issued["grade"], issued["root"]) == (0, "anchored", pending["root"])
    assert {"id", "name", "scheme", "marks", "issued", "decoys"} <= set(issued)


def test_tables_show_what_is_signed_and_what_comes_next(at, capsys):
    home = at[:2]
    assert cli.run(["witness", "init", *home]) == 0
    assert cli.run(issue("--witness", "witness.pub", *home)) == 0
    assert "fpvec witness sign" in " ".join(capsys.readouterr().out.split())
    assert cli.run(["key", "list", *home]) == 0
    assert "waits for" in capsys.readouterr().out
    sign = ["witness", "sign", "acme.request.json", "--witness-key", "witness.key", "--out", "signed"]
    assert cli.run(sign) == 0
    shown = capsys.readouterr().out
    assert "commitment" in shown
    assert "acme" in shown
    assert cli.run([*sign[:-1], "again"]) == 0
    assert "signed once" in " ".join(capsys.readouterr().out.split())


def test_use_of_a_waiting_set_exits_4_and_says_what_to_do(at, capsys):
    assert cli.run(["witness", "init", *at]) == 0
    assert cli.run(issue("--witness", "witness.pub", *at)) == 0
    capsys.readouterr()
    assert cli.run(["key", "show", "acme", "--reveal", *at]) == 4
    assert "fpvec witness sign" in capsys.readouterr().err
    code, shown = told(["key", "show", "acme", *at], capsys)
    assert (code, shown["waits_for"]) == (0, "its witness")


def test_statement_that_does_not_verify_exits_4(at, tmp_path, capsys):
    for name in ("one", "two"):
        assert cli.run(["witness", "init", "--name", name, *at]) == 0
    assert cli.run(issue("--witness", "one.pub", *at)) == 0
    assert cli.run(["witness", "sign", "acme.request.json", "--witness-key", "one.key", "--out", "signed"]) == 0
    capsys.readouterr()
    code, verified = told(["witness", "verify", "signed", "--signer", "two.pub", "--json"], capsys)
    assert (code, verified["valid"]) == (4, False)
    assert verified["problems"]
    (tmp_path / "one.key").chmod(0o644)
    assert cli.run(["witness", "sign", "acme.request.json", "--witness-key", "one.key", "--out", "again"]) == 4
    assert "chmod 600" in capsys.readouterr().err


def test_beacon_waits_and_then_issues_from_a_file(at, tmp_path, capsys, monkeypatch):
    assert cli.run(issue("--beacon", "1", *at)) == 4
    assert "decides nothing any more" in capsys.readouterr().err
    code, pending = told(issue("--beacon", "400000000", *at), capsys)
    assert (code, pending["waits_for"]) == (0, "its beacon")
    assert cli.run(issue("--beacon", "400000000", *at)) == 4
    assert "run the same command again" in capsys.readouterr().err

    signature = b"\x07" * QUICKNET.signature_bytes
    answer = {"round": 400000000, "randomness": hashlib.sha256(signature).hexdigest(), "signature": signature.hex()}
    (tmp_path / "round.json").write_text(json.dumps(answer))
    from fpvec_audit.registry import unit_of_work

    late = QUICKNET.time_of(400000000)
    monkeypatch.setitem(unit_of_work.open_registry.__kwdefaults__, "clock", lambda: late)
    code, issued = told(issue("--beacon", "400000000", "--beacon-file", "round.json", *at), capsys)
    assert (code, issued["grade"]) == (0, "self-attested")
    assert any("not verified" in warning for warning in issued["warnings"])


@pytest.mark.parametrize(
    "options",
    [
        ["--beacon-file", "x"],
        ["--beacon-url", "https://x"],
        ["--request", "x"],
        ["--beacon", "0"],
        ["--beacon", "400000000", "--request", "x"],
        ["--beacon", "400000000", "--witness", "x"],
        ["--beacon", "400000000", "--beacon-chain", "fastnet"],
        ["--beacon", "400000000", "--beacon-url", "http://x"],
    ],
)
def test_options_that_cannot_be_meant_exit_2_and_leave_nothing(at, tmp_path, capsys, options):
    assert cli.run(issue(*options, *at)) == 2
    assert capsys.readouterr().out == ""
    assert told(["key", "list", *at], capsys) == (0, [])
    assert not list(tmp_path.glob("*.request.json"))


def test_witness_needs_no_registry_and_nothing_heavy(at, tmp_path):
    code = (
        "import sys\nfrom fpvec_audit.cli.main import run\n"
        "assert run(['witness', 'init', '--home', 'no-home']) == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'sqlalchemy', 'httpx'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"witness.key", "witness.pub", "witness.log"}
