import io

import pytest

from fpvec_audit.cli.consoles import console_on
from fpvec_audit.cli.progress import BarProgress, LineProgress, terminal_progress


def test_a_pipe_gets_one_line_a_step_with_its_last_remark():
    console = console_on(io.StringIO(), width=80)
    progress = terminal_progress(console)
    assert isinstance(progress, LineProgress)
    with progress.step("train", 3, "steps") as step:
        step.advance()
        step.note("FSR 1/2")
        step.note("FSR 2/2")
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("train ")
    assert lines[0].endswith("FSR 2/2")


def test_a_terminal_gets_bars_and_a_line_for_what_is_done():
    console = console_on(io.StringIO(), width=100, force_terminal=True)
    progress = terminal_progress(console)
    assert isinstance(progress, BarProgress)
    with progress.step("outer", 2, "models") as outer, progress.step("inner", None, "") as inner:
        outer.advance()
        inner.note("almost")
    text = console.file.getvalue()
    assert "outer" in text
    assert "inner" in text
    assert "✓" in text


def test_a_step_that_fails_is_not_called_done():
    console = console_on(io.StringIO(), width=80, force_terminal=True)
    with pytest.raises(ValueError, match="broken"), BarProgress(console).step("work"):
        raise ValueError("broken")
    assert "✓" not in console.file.getvalue()


def test_a_step_that_took_no_time_and_had_nothing_to_say_leaves_no_line():
    console = console_on(io.StringIO(), width=80)
    with LineProgress(console).step("blink"):
        pass
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_path_with_brackets_is_shown_as_it_is_and_in_one_line(terminal):
    out = io.StringIO()
    progress = terminal_progress(console_on(out, force_terminal=terminal, width=40, color_system=None))
    label = f"remove /models/[red]chat[/]/{'x' * 60}"
    with progress.step(label) as step:
        step.note("left by an interrupted run")
    assert label in out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_steps_deep_within_others_leave_no_line(terminal):
    console = console_on(io.StringIO(), force_terminal=terminal, width=60, color_system=None)
    progress = terminal_progress(console)
    with progress.step("attacks") as attacks, progress.step("1/2 noise") as cell:
        with progress.step("load") as load:
            load.note("deep")
        cell.note("MATCH")
        attacks.note("done")
    lines = [line for line in console.file.getvalue().splitlines() if line.rstrip().endswith(("deep", "MATCH", "done"))]
    assert any("1/2 noise" in line and "MATCH" in line for line in lines)
    assert any("attacks" in line and "done" in line for line in lines)
    assert terminal or not any("load" in line for line in lines)
