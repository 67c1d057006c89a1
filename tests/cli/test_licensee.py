"""Families and their licensees by the commands that owners type."""

import json
import shutil

import pytest

from fpvec_audit.cli.main import run


@pytest.fixture
def fpvec(settings, capsys):
    def ask(*arguments):
        code = run([*arguments, "--home", str(settings.home)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return ask


def test_family_is_issued_and_its_words_are_given_out(fpvec):
    code, out, _ = fpvec("key", "issue", "family", "--marks", "16", "--json")
    issued = json.loads(out)
    assert (code, issued["marks"], issued["issued"], issued["decoys"]) == (0, 16, 96, 576)
    code, out, err = fpvec("licensee", "add", "Globex", "Initech", "--family", "family", "--json")
    added = json.loads(out)
    assert "coalitions of up to 3" in err  # what the code bears is told before it is chosen
    assert (code, added["family"]["code"], [word["number"] for word in added["words"]]) == (0, "plane:4", [0, 1])
    assert "plane:4 for family" not in fpvec("licensee", "add", "Hooli", "--family", "family")[2]
    assert fpvec("licensee", "retire", "Globex", "--family", "family", "--reason", "left")[0] == 0
    listed = json.loads(fpvec("licensee", "list", "--family", issued["id"], "--json")[1])
    assert [(word["licensee"], word["state"]) for word in listed["words"]] == [
        ("Globex", "retired"),
        ("Initech", "issued"),
        ("Hooli", "issued"),
    ]
    assert "marks" not in listed["words"][0]
    revealed = json.loads(fpvec("licensee", "list", "--family", "family", "--reveal", "--json")[1])
    assert all(len(word["marks"]) == 4 for word in revealed["words"])
    shown = fpvec("key", "show", "family", "--reveal")[1]
    assert all(f"mark {number} " in shown for number in range(16))
    assert json.loads(fpvec("licensee", "code", "family", "--json")[1])["left"] == 17


@pytest.mark.parametrize("way", [("backup", "restore"), ("export", "import")])
def test_copied_registry_asks_for_the_first_free_number(fpvec, settings, tmp_path, capsys, way):
    out, back = way
    assert fpvec("key", "issue", "family", "--marks", "16")[0] == 0
    assert fpvec("licensee", "add", "Globex", "Initech", "--family", "family")[0] == 0
    assert fpvec("registry", out, str(tmp_path / "copy"))[0] == 0
    assert fpvec("licensee", "add", "Hooli", "--family", "family")[0] == 0
    home = tmp_path / "new"
    home.mkdir(mode=0o700)
    shutil.copy(settings.home / "vault.key", home)

    def there(*arguments):
        code = run([*arguments, "--home", str(home)])
        told = capsys.readouterr()
        return code, told.out, " ".join(told.err.split())

    assert there("registry", back, str(tmp_path / "copy"))[0] == 0
    code, out, err = there("licensee", "add", "Stark", "--family", "family", "--json")
    assert (code, out) == (2, "")
    assert f"this registry was {back.removesuffix('e')}ed from copy on" in err
    assert "--first-number N" in err
    assert "--first-number 2 where nobody" in err
    code, out, _ = there("licensee", "add", "Stark", "--family", "family", "--first-number", "3", "--json")
    added = json.loads(out)
    assert (code, [word["number"] for word in added["words"]]) == (0, [3])
    assert [word["licensee"] for word in added["unrecorded"]] == ["unrecorded-2 (family)"]
    assert "word 2 is recorded as issued outside" in added["warnings"][-1]
    listed = json.loads(there("licensee", "list", "--family", "family", "--json")[1])["words"]
    assert [(word["licensee"], word["state"]) for word in listed[2:]] == [
        ("unrecorded-2 (family)", "retired"),
        ("Stark", "issued"),
    ]
    assert "unrecorded-2" in there("licensee", "list", "--family", "family")[1]
    assert there("registry", "verify")[0] == 0
    assert f"registry.{back}" in there("registry", "log", "--json")[1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("key", "issue", "f", "--marks", "16", "--count", "3", "--decoys", "100"), "--count 5 is the least that can"),
        (("key", "issue", "f", "--marks", "0"), "a family has from 2 to 512 marks"),
        (("licensee", "list", "--reveal"), "are about the words of a family"),
        (("licensee", "list", "--family", "f", "--csv"), "listed whole"),
        (("licensee", "add", "Globex", "--family", "nobody"), "unknown key set 'nobody'"),
        (("licensee", "retire", "Globex", "--family", "nobody", "--reason", " "), "without a reason"),
        (("licensee", "code", "nobody", "--licensees", "0"), "--licensees"),
        (("licensee", "code", "nobody", "--colluders", "0"), "--colluders"),
        (("licensee", "add", "Globex", "--family", "nobody", "--licensees", "-1"), "--licensees"),
        (("licensee", "add", "Globex", "--family", "nobody", "--colluders", "0"), "--colluders"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(fpvec, arguments, told):
    code, out, err = fpvec(*arguments)
    assert (code, out) == (2, "")
    assert told in err
