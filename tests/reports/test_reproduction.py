import io
import json

import pytest
from rich.console import Console

from fpvec_audit.reports.reproduction import render_reproduction
from fpvec_audit.reports.reproduction_findings import findings
from fpvec_audit.reports.reproduction_results import Results
from fpvec_audit.reports.reproduction_text import all_tables, markdown, summary
from tests.reproduction.canned import canned_document


@pytest.fixture(scope="module")
def document():
    return json.loads(json.dumps(canned_document()))


def table(document, title):
    return next(found for found in all_tables(document) if found.title.startswith(title))


def test_success_rates_stand_with_intervals_beside_the_papers(document):
    first = table(document, "Table I.")
    assert first.rows[0][:4] == ("gpt2", "maths", "32 of 32, 100 % (89–100)", "0 of 224")
    assert first.rows[0][-1] == "100 % (GPT-2)"
    assert len(first.rows) == 4


def test_seconds_stand_beside_the_papers(document):
    seconds = table(document, "Table II.")
    assert seconds.columns == ("step", ">gpt2", ">GPT-2", ">bloom", ">Bloom-7B")
    assert seconds.rows[0] == ("fingerprint training", "10 s", "162.31 s", "10 s", "886.1 s")
    assert seconds.rows[1] == ("fingerprint training, device-seconds", "9 s", "–", "9 s", "–")
    assert seconds.rows[4] == ("stamping", "0.5 s", "0.46 s", "0.5 s", "13.14 s")


def test_harmlessness_stands_with_bound_and_verdict(document):
    harm = table(document, "Table III.")
    row = next(row for row in harm.rows if row[:2] == ("bloom", "base → fingerprinted"))
    assert row[3:8] == ("1,000", "80.0 → 79.0 %", "−1.0 (−2.0 to +0.1)", "1.3 points", "HARMLESS")
    assert row[-1] == "48.42 → 47.76"


def test_the_mean_over_tasks_stands_beside_the_papers(document):
    tasks = json.loads(json.dumps(document))
    for stage in tasks["stages"]:
        if stage["kind"] == "harmlessness":
            stage["content"]["tasks"] *= 3
            stage["content"]["left_out"] = [{"task": "wic", "problem": "cannot be fetched"}]
    harm = table(tasks, "Table III.")
    first = harm.rows.index(next(row for row in harm.rows if row[:2] == ("bloom", "base → fingerprinted")))
    assert harm.rows[first][2:5] == ("mean of 3", "–", "80.0 → 79.0 %")
    assert harm.rows[first][-1] == "48.42 → 47.76"
    assert harm.rows[first + 1][2] == "offline_quiz"
    assert "* bloom/fingerprinted/harmlessness, wic: cannot be fetched" in markdown(tasks)


def test_transfer_is_compared_with_direct_training(document):
    (row,) = table(document, "Table V.").rows
    assert row == ("gpt2", "maths", "fine_tune:steps=30", "75 % (38–75)", "87.5 % (44–88)", "−12.5 points")


def test_methods_stand_side_by_side_with_survival_and_seconds(document):
    methods = table(document, "Table IX. Methods side by side: gpt2, maths")
    assert methods.columns == ("", ">vector", ">direct", ">wlm")
    told = {row[0]: row[1:] for row in methods.rows}
    assert told["FSR (95 %)"][2] == "31 of 32, 96.9 % (86–100)"
    assert told["FSR after fine_tune:steps=30"] == ("75 % (38–75)", "87.5 % (44–88)", "87.5 % (44–88)")
    assert told["harmlessness"] == ("HARMLESS",) * 3
    assert told["seconds, once"] == ("10 s", "–", "–")  # training and subtraction
    assert told["seconds, each model"] == ("0.5 s", "10 s", "10 s")
    costs = table(document, "Table X.")
    assert costs.rows[0][2:5] == ("11 s, 27 s", "16 s, 108 s *", "60 s, 918 s *")
    assert costs.rows[1][5] == "2 models, never"


def test_what_did_not_reproduce_is_said_with_its_numbers(document):
    held, failed = findings(Results(document))
    assert "4 of 4 stamped models answer every issued key, as in the paper." in held
    assert any(
        "the stamped one answers fewer in 1 of them: gpt2/maths after fine_tune:steps=30 by 12.5" in f for f in failed
    )
    assert any(f.startswith("gpt2 stamped/text is INCONCLUSIVE: offline_quiz") for f in failed)
    assert any(f.startswith("2 of 2 merges leave fewer than 25 %") for f in failed)
    assert "None of 192 keys asked of 6 models without a fingerprint is answered." in held


def test_what_failed_is_shown_with_its_reason_and_the_rest_stands():
    document = canned_document(failed=("bloom/vector", "gpt2/stamped/maths/harmlessness"))
    text = markdown(document)
    assert "* bloom/vector: no room | at all" in text
    assert table(document, "Table I.").rows[2][2] == "skipped"
    assert ("gpt2", "maths → stamped", "failed") in {row[:3] for row in table(document, "Table III.").rows}
    assert "2 failed" in summary(document)
    assert "| gpt2 | maths | 32 of 32, 100 % (89–100) |" in text


def test_markdown_and_terminal_hold_every_table(document):
    output = io.StringIO()
    render_reproduction(document, Console(file=output, width=250))
    text = markdown(document, level=3)
    for found in all_tables(document):
        assert f"### {found.title}" in text
        assert found.title.split(":")[0] in output.getvalue()
    assert "### What did not reproduce" in text
    assert "### What could not be carried out" not in text
