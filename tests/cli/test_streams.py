"""What becomes of a process whose stdout or stderr is closed, full, or read by nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-c", "from fpvec_audit.cli.main import entry; entry()")
VERDICT = """
import typer
from fpvec_audit.cli import fleet_view, main, wiring

app = typer.Typer()

@app.command()
def judge(json: bool = False) -> int:
    bench = wiring.open_bench(None, None, json)
    bench.emit({"verdict": "NO_MATCH"}, lambda document, console: console.print(document["verdict"]))
    fleet_view.json_line({"items": 1})
    bench.say("went on")
    return 1

main.application = lambda _: app
main.entry()
"""
"""A command with a verdict: exit code 1 is what it found, and it goes on after it showed that."""


def fpvec(*arguments, home, program=PROGRAM, **streams):
    environment = {**os.environ, "FPVEC_HOME": str(home)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run([*program, *arguments], text=True, check=False, env=environment, **streams)


def without(redirection, *arguments, home):
    """Run fpvec behind a shell that closes or redirects a stream."""
    return fpvec(*arguments, home=home, program=("bash", "-c", f'"$@" {redirection}', "bash", *PROGRAM))


@pytest.fixture
def unread():
    """Return the writing end of a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


EVERY_WAY = [
    ("licensee", "list", "--json"),
    ("licensee", "list", "--limit", "1"),
    ("key", "list", "--csv"),
    ("registry", "export", "-"),
    ("--version",),
    ("--help",),
]
"""Ways in which commands write: lists as JSON, tables and CSV, bytes, a bare line, help."""


@pytest.mark.parametrize("arguments", EVERY_WAY, ids=" ".join)
def test_full_stdout_is_one_sentence_and_exit_code_4(arguments, home):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = fpvec(*arguments, home=home, stdout=full)
    assert done.returncode == 4, done.stderr
    assert "error: stdout cannot be written: No space left on device\n" in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("made the master key")]) == 2


@pytest.mark.parametrize("arguments", EVERY_WAY, ids=" ".join)
def test_stdout_that_nobody_reads_is_no_verdict_and_nothing_to_tell(arguments, home, unread):
    done = fpvec(*arguments, home=home, stdout=unread)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_verdict_that_nobody_reads_keeps_its_exit_code_and_the_command_goes_on(arguments, home, unread):
    done = fpvec(*arguments, home=home, program=(sys.executable, "-c", VERDICT), stdout=unread)
    assert (done.returncode, done.stderr) == (1, "went on\n")


def test_closed_stdout_is_refused_before_anything_is_done(home):
    done = without(">&-", "key", "issue", "acme", home=home)
    assert done.returncode == 4
    assert done.stderr.startswith("error: stdout is closed\n")
    assert "/dev/null" in done.stderr
    assert not list(home.iterdir())


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_lost_stderr_changes_neither_the_exit_code_nor_stdout(redirection, home):
    done = without(redirection, "key", "show", "nobody", home=home)
    assert (done.returncode, done.stdout) == (2, "")
    done = without(redirection, "key", "list", "--json", home=home)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_closed_streams_are_not_taken_by_files_that_are_opened_later(home):
    done = without(">&- 2>&-", "key", "list", "--json", home=home)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")
