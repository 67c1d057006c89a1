"""What the README tells a newcomer to type works as it stands there."""

import shlex
from pathlib import Path

from fpvec_audit.cli import main as cli

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line[2:], comments=True)[1:] for line in README.splitlines() if line.startswith("$ fpvec ")]


def test_every_command_of_the_readme_exists_with_its_options(capsys):
    for command in COMMANDS:
        words = [word for word in command if not word.startswith("-")]
        depth = 2 if words[0] in cli.GROUPS else 1
        assert cli.run([*words[:depth], "--help"]) == 0, command
        told = capsys.readouterr().out
        assert all(word in told for word in command if word.startswith("--")), command


def test_witness_of_the_readme_leads_to_an_anchored_key_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    followed = [command for command in COMMANDS if command[0] == "witness" or "--witness" in command]
    assert len(followed) == 4
    for command in followed:
        assert cli.run([*command, "--json", *(["--home", "home"] if command[0] == "key" else [])]) == 0, command
    assert '"grade": "anchored"' in capsys.readouterr().out
