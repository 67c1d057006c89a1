"""Text of users, paths and the registry is shown letter by letter: neither markup nor emoji codes are read in it."""

import ast
import io
from pathlib import Path

import pytest
from rich.table import Table

import fpvec_audit
from fpvec_audit.catalog import load_catalog
from fpvec_audit.cli import demo_pages
from fpvec_audit.cli.consoles import console_on
from fpvec_audit.cli.main import run
from fpvec_audit.cli.progress import BarProgress
from fpvec_audit.services.keys import issue_key_set, open_key_set
from tests.services.test_audit import SPECIFICATION, answering
from tests.services.test_audit import run as run_audit
from tests.tiny import make_tiny

PACKAGE = Path(fpvec_audit.__file__).parent
HOSTILE = ("m[/x]", "a[b]", "[red]chat[/]", ":key:", "a:key:[/]")
"""What rich would fail at, swallow, colour, or show as a picture."""


@pytest.fixture
def fpvec(settings, capsys):
    def ask(*arguments):
        capsys.readouterr()
        code = run([*map(str, arguments), "--home", str(settings.home)])
        told = capsys.readouterr()
        return code, " ".join(told.out.split()), told.err

    return ask


@pytest.fixture
def audit_id(registry, tmp_path):
    make_tiny(tmp_path / "suspect", "gpt2")
    issue_key_set("acme", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(range(count)))
    keys = open_key_set("acme", registry=registry)
    return run_audit(tmp_path, registry, load_catalog(), answering(keys.issued)).audit_id


def test_consoles_are_made_in_one_place_and_nothing_reads_markup():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert name == "cli/consoles.py" or not called.endswith("Console"), f"{name}:{node.lineno} makes a console"
            assert not called.endswith(("from_markup", "secho", "get_console")), f"{name}:{node.lineno} reads markup"
            imported = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            assert imported not in {"rich", "rich.markup", "rich.prompt"}, f"{name}:{node.lineno} imports {imported}"


@pytest.mark.parametrize("text", HOSTILE)
def test_text_and_cells_are_shown_as_they_are(text):
    shown = io.StringIO()
    console = console_on(shown)
    table = Table(text, title=text)
    table.add_row(text)
    console.print(text)
    console.print(table)
    assert shown.getvalue().count(text) == 4


@pytest.mark.parametrize("text", HOSTILE)
def test_bars_and_remarks_are_shown_as_they_are(text):
    shown = io.StringIO()
    progress = BarProgress(console_on(shown, force_terminal=True, color_system=None, width=160))
    with progress.step(f"read {text}", 2, "models") as step:
        step.note(f"from {text}")
    assert f"read {text}" in shown.getvalue()
    assert f"from {text}" in shown.getvalue()


@pytest.mark.parametrize("name", ["m[/x]", "a[b]", "a:key:"])
def test_report_is_said_to_be_where_it_is(fpvec, audit_id, tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    out = tmp_path / name / f"{name.replace('/', '')}.html"
    code, shown, said = fpvec("report", audit_id, "--out", out)
    assert (code, out.is_file()) == (0, True)
    assert f"report: {out}" in said
    assert out.name in shown


@pytest.mark.parametrize("name", HOSTILE)
def test_error_repeats_the_name_that_was_given(fpvec, name):
    code, _, said = fpvec("key", "show", name)
    assert code == 2
    assert f"unknown key set {name!r}" in said


def test_names_in_lists_are_shown_as_they_are(fpvec):
    assert fpvec("key", "issue", "set[/x]", "--count", "10", "--decoys", "20", "--owner", ":key:")[0] == 0
    assert "set[/x]" in fpvec("key", "list")[1]
    assert ":key:" in fpvec("key", "show", "set[/x]")[1]
    assert fpvec("key", "issue", "family", "--marks", "16")[0] == 0
    assert fpvec("licensee", "add", "a[b]", ":key:", "--family", "family")[0] == 0
    listed = fpvec("licensee", "list", "--family", "family")[1]
    assert "a[b]" in listed
    assert ":key:" in listed
    assert ":key:" in fpvec("licensee", "list")[1]


def test_what_models_say_in_the_demo_is_shown_as_it_is():
    said = dict.fromkeys(demo_pages.TITLES, "[bold]so[/x]") | {"base": "", "stamped_a": ":key:"}
    question = {"kind": "key", "prompt": "[red]why[/]", "response": ":key:", "answers": said}
    shown = io.StringIO()
    console = console_on(shown, width=240)
    demo_pages.render_conversation({"models": list(said), "questions": [question]}, console)
    for text in ("[bold]so[/x]", ":key:", "[red]why[/]", "(nothing)"):
        assert text in shown.getvalue()
