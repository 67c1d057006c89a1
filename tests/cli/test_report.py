"""Reports of results that real services made, from the command line: what is written, and what is refused."""

import errno
import json
import os
import re

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.cli import main as cli
from fpvec_audit.cli.report_files import ReportOrder, write_directory, write_whole
from fpvec_audit.errors import OutputError
from fpvec_audit.registry.repositories.audits import document_digest
from fpvec_audit.reports.html import render_html, report_page
from fpvec_audit.reports.page import charts
from fpvec_audit.services.keys import issue_key_set, open_key_set
from tests.reports.html_documents import FEW_ATTACKS, HARMLESS
from tests.services.attack_bench import Bench, Bend, Break, Chat, Filter, with_attacks
from tests.services.test_audit import SPECIFICATION, answering, run
from tests.services.test_trace import run as run_trace
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reported")
    make_tiny(directory / "suspect", "gpt2")
    return directory


@pytest.fixture
def bench(registry, home, checkpoints):
    issue_key_set("acme", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(range(count)))
    catalog = with_attacks(bend=Bend, filter=Filter, chat=Chat, crash=Break)
    return Bench(registry, home, checkpoints / "suspect", catalog, open_key_set("acme", registry=registry))


@pytest.fixture
def audited(registry, checkpoints):
    """Return a finished audit that is a MATCH, and the key set's prompts."""
    issue_key_set("acme", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(range(count)))
    keys = open_key_set("acme", registry=registry)
    result = run(checkpoints, registry, load_catalog(), answering(keys.issued))
    return result, [candidate.prompt for candidate in keys.candidates]


def told(arguments, home, capsys):
    capsys.readouterr()
    code = cli.run([*map(str, arguments), "--home", str(home), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, " ".join(captured.err.split())


def disclosures(registry):
    with registry.unit_of_work() as uow:
        return [entry.content["purpose"] for entry in uow.ledger.entries() if entry.event == "secret.revealed"]


def test_the_report_of_an_audit_in_the_registry_gives_no_key_away(audited, registry, home, tmp_path, capsys):
    result, prompts = audited
    out = tmp_path / "acme.html"
    before = disclosures(registry)
    code, document, errors = told(["report", result.audit_id, "--out", out], home, capsys)
    assert (code, document["out"], document["transcript"]) == (0, str(out), False)
    assert document["bytes"] == out.stat().st_size
    assert f"report: {out}" in errors
    html = out.read_text(encoding="utf-8")
    assert "The suspect knows the secret keys." in html
    assert not any(prompt in html for prompt in prompts)
    assert disclosures(registry) == before


def test_the_digest_in_a_report_is_the_one_in_the_ledger(audited, registry, home, tmp_path, capsys):
    result, _ = audited
    out = tmp_path / "acme.html"
    assert told(["report", result.audit_id, "--out", out], home, capsys)[0] == 0
    with registry.unit_of_work() as uow:
        finished = [entry for entry in uow.ledger.entries() if entry.event == "audit.finished"][-1]
    assert finished.content["result"] == document_digest(result.to_json())
    assert finished.content["result"] in out.read_text(encoding="utf-8")


def test_a_transcript_is_shown_when_asked_for_recorded_and_private(audited, registry, home, tmp_path, capsys):
    result, prompts = audited
    out = tmp_path / "secret.html"
    code, document, errors = told(["report", result.audit_id[:9], "--out", out, "--transcript"], home, capsys)
    assert (code, document["transcript"]) == (0, True)
    assert "it holds secret keys" in errors
    assert out.stat().st_mode & 0o777 == 0o600
    html = out.read_text(encoding="utf-8")
    assert sum(re.sub("[<>&\"']", "", prompt) in html for prompt in prompts) >= len(prompts) // 2
    assert "Keys that were answered (32)" in html
    assert "Decoys that were not answered (96)" in html
    assert "This page holds secret keys" in html
    assert [purpose for purpose in disclosures(registry) if "report" in purpose] == [
        "shown in a report",
        f"audit {result.audit_id} shown in a report",
    ]


def test_figures_are_written_as_png_and_svg_all_or_none(audited, home, tmp_path, capsys):
    result, _ = audited
    order = ["report", result.audit_id, "--out", tmp_path / "one.html", "--figures", tmp_path / "figures"]
    code, document, _ = told(order, home, capsys)
    assert code == 0
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["answers.png", "answers.svg", "tests.png", "tests.svg"]
    assert sorted(document["figures"]) == [str(tmp_path / "figures" / name) for name in names]
    code, _, errors = told([*order[:3], tmp_path / "two.html", *order[4:]], home, capsys)
    assert code == 4
    assert "exists already" in errors
    assert not (tmp_path / "two.html").exists()


def test_a_trace_and_other_results_are_reported_from_their_json(registry, checkpoints, home, tmp_path, capsys):
    for name, start in (("acme", 1), ("globex", 101)):
        entropy = iter(range(start, start + 100))
        issue_key_set(
            name, registry=registry, specification=SPECIFICATION, licensee=f"{name} Inc.",
            entropy=lambda count, entropy=entropy: next(entropy).to_bytes(count, "big"),
        )  # fmt: skip
    keys = open_key_set("globex", registry=registry)
    trace, _ = run_trace(checkpoints, registry, load_catalog(), answering(keys.issued))
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(trace.to_json()))
    assert told(["report", file, "--out", tmp_path / "trace.html", "--transcript"], home, capsys)[0] == 0
    html = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert "The suspect knows the keys of globex Inc." in html
    assert "Key set globex:" in html
    assert "Key set acme:" not in html
    assert told(["report", trace.trace_id[:12], "--out", tmp_path / "kept.html"], home, capsys)[0] == 0
    page = report_page(json.loads(json.dumps(trace.to_json())))
    assert (tmp_path / "kept.html").read_text(encoding="utf-8") == render_html(trace.to_json(), page)
    for name, document in (("attacks", FEW_ATTACKS), ("harm", HARMLESS)):
        file.write_text(json.dumps(document))
        assert told(["report", file, "--out", tmp_path / f"{name}.html"], home, capsys)[0] == 0
    code, _, errors = told(["report", file, "--out", tmp_path / "no.html", "--transcript"], home, capsys)
    assert (code, (tmp_path / "no.html").exists()) == (2, False)
    assert "no transcript" in errors


def test_what_is_no_result_is_refused_with_advice(registry, home, tmp_path, capsys):
    file = tmp_path / "other.json"
    for content in ("[1]", '{"hello": 1}', "{"):
        file.write_text(content)
        code, _, errors = told(["report", file, "--out", tmp_path / "x.html"], home, capsys)
        assert code == 2
        assert "try:" in errors or "cannot be read" in errors
    for unknown in ("au-nothing", "tr-nothing"):
        assert told(["report", unknown, "--out", tmp_path / "x.html"], home, capsys)[0] == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["other.json"]


@pytest.mark.parametrize("command", ["audit", "trace", "attack run"])
def test_a_report_that_could_not_be_written_is_found_out_before_anything_is_asked(command, home, tmp_path, capsys):
    (tmp_path / "there.html").write_text("mine")
    order = [*command.split(), tmp_path / "no-such-model", *(["--key", "acme"] if command != "trace" else [])]
    order += ["--attack", "guessing"] if command == "attack run" else []
    code, _, errors = told([*order, "--report", tmp_path / "there.html"], home, capsys)
    assert code == 4
    assert "exists already" in errors
    code, _, errors = told([*order, "--report", tmp_path / "nowhere" / "a.html"], home, capsys)
    assert code == 4
    assert "is no directory" in errors
    assert (tmp_path / "there.html").read_text() == "mine"
    assert list(home.iterdir()) == []


def test_options_that_make_no_sense_together_are_refused(home, tmp_path, capsys):
    audit = ["audit", tmp_path / "no-such-model", "--key", "acme"]
    code, _, errors = told([*audit, "--transcript"], home, capsys)
    assert (code, "add --report" in errors) == (2, True)
    code, _, errors = told([*audit, "--report", tmp_path / "a.html", "--blind", tmp_path / "p"], home, capsys)
    assert (code, "nothing to report" in errors) == (2, True)


@pytest.mark.slow
def test_audit_and_attack_run_write_their_reports(home, checkpoints, tmp_path, capsys):
    assert told(["key", "issue", "acme", "--count", "4", "--decoys", "12"], home, capsys)[0] == 0
    asking = [checkpoints / "suspect", "--key", "acme", "--backend", "transformers"]
    order = ["audit", *asking, "--tests", "exact", "--report", tmp_path / "a.html", "--transcript"]
    code, document, _ = told(order, home, capsys)
    assert (code, document["verdict"]) == (3, "INCONCLUSIVE")
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Keys that were not answered (4)" in html
    assert document["audit_id"] in html
    attack = ["attack", "run", *asking, "--attack", "guessing:candidates=8,near_misses=4,strings=4"]
    assert told([*attack, "--report", tmp_path / "r.html", "--figures", tmp_path / "f"], home, capsys)[0] == 0
    assert "Guesses by kind" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"guesses.png", "guesses.svg"}


def test_a_run_of_attacks_is_reported_as_its_service_told_it(bench):
    report = bench.run("bend:strength=1|2|3", "filter", "bend+filter", "chat", "crash")
    document = json.loads(json.dumps(report.to_json()))
    page = report_page(document)
    assert page.headline.startswith("The model that was attacked answers none of these keys")
    assert [chart.name for chart in charts(page)] == [
        "matrix",
        "serving",
        "frontier",
        "sweep-bend-strength",
        "guesses",
    ]
    html = render_html(document, page)
    assert "bend (strength 2)" in html
    assert "KeyError" in html


def full_disk(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        write_whole(tmp_path / "a.html", b"whole")
    with pytest.raises(OutputError, match="No space left on device"):
        write_directory(tmp_path / "figures", {"one.svg": b"whole"})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_report_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.html", b"whole")
    with pytest.raises(KeyboardInterrupt):
        write_directory(tmp_path / "figures", {"one.svg": b"whole"})
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_appeared_meanwhile_is_written_over(tmp_path):
    order = ReportOrder(report=tmp_path / "a.html").check()
    order.report.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_whole(order.report, b"other")
    (tmp_path / "figures").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        write_directory(tmp_path / "figures", {"one.svg": b"other"})
    assert order.report.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "figures"]


def test_a_report_follows_the_umask_and_a_secret_one_does_not(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "open.html", b"x")
        write_whole(tmp_path / "secret.html", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "open.html").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "secret.html").stat().st_mode & 0o777 == 0o600
