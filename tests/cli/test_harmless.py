"""`fpvec harmless` as a script meets it; what is compared and how is tested with the service."""

import json

import pytest

from fpvec_audit.cli import main as cli
from fpvec_audit.services import harm_comparison
from tests.domain.test_harm_report import FEW, LITTLE, MUCH, report


@pytest.fixture
def compared(monkeypatch):
    """Let a comparison end as a test wants it, and remember what was asked for."""
    asked = {}

    def end(told):
        def compare(before, after, **options):
            asked.update(options, before=before, after=after)
            return told

        monkeypatch.setattr(harm_comparison, "compare_models", compare)
        return asked

    return end


def run(home, *arguments):
    return cli.run(["harmless", "before", "after", "--home", str(home), "--device", "cpu", *map(str, arguments)])


@pytest.mark.parametrize(("task", "code"), [(LITTLE, 0), (MUCH, 1), (FEW, 3)])
def test_the_verdict_is_the_exit_code(compared, home, capsys, task, code):
    compared(report(task))
    assert run(home, "--json") == code
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == {0: "HARMLESS", 1: "HARMFUL", 3: "INCONCLUSIVE"}[code]


def test_options_arrive_and_the_report_is_written(compared, home, tmp_path, capsys):
    asked = compared(report(LITTLE))
    page = tmp_path / "harm.html"
    options = ("--tasks", "paper, boolq", "--tasks", tmp_path, "--margin", "0.02", "--limit", "7", "--task-time", "60")
    assert run(home, *options, "--no-text", "--logs", tmp_path / "logs", "--report", page) == 0
    settings = asked["settings"]
    assert settings.tasks == ("paper", "boolq", str(tmp_path))
    assert (settings.margin, settings.limit, settings.task_seconds, settings.text) == (0.02, 7, 60.0, False)
    assert asked["logs"] == tmp_path / "logs"
    assert "HARMLESS" in page.read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith("HARMLESS  Stamping did no harm that matters.")


def test_what_cannot_be_meant_is_refused_before_anything_is_opened(home, capsys):
    assert run(home, "--margin", "3") == 2
    assert "give a fraction such as 0.03" in capsys.readouterr().err
    assert list(home.iterdir()) == []
