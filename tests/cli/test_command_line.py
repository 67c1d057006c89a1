"""What of a command a job records."""

import pytest

from fpvec_audit.cli.command_line import acting, recordable, recorded_command


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["stamp", "m", "--home", "/h", "--out", "o"], ["stamp", "m", "--out", "o"]),
        (["stamp", "--registry", "postgresql://ann:secret@host/db", "m"], ["stamp", "m"]),
        (["stamp", "--registry=postgresql://ann:secret@host/db", "--home=/h", "m"], ["stamp", "m"]),
        (["stamp", "--home", "--registry", "m"], ["stamp", "m"]),
        (["audit", "https://ann:secret@host/v1"], ["audit", "https://ann:***@host/v1"]),
        (["audit", "https://token@host/v1"], ["audit", "https://***@host/v1"]),
        (["audit", "--x=https://host/v1?key=secret&b=c#d"], ["audit", "--x=https://host/v1?***#d"]),
        (["audit", "https://host:8000/v1", "--key", "a@b"], ["audit", "https://host:8000/v1", "--key", "a@b"]),
    ],
)
def test_recorded_command_has_neither_secrets_nor_places(given, kept):
    assert list(recordable(given)) == kept


def test_command_is_known_while_it_acts_only():
    with acting(["job", "list"]):
        assert recorded_command() == ("job", "list")
    assert recorded_command() == ()
