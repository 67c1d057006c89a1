import io
import re

import pytest
from rich.console import Console

from fpvec_audit.reports import attack_tables, harmless_terminal, terminal
from fpvec_audit.reports.audit_text import MEANINGS, SENTENCES, p_sentence
from fpvec_audit.reports.trace_page import trace_page
from tests.reports.documents import AUDIT, CELLS, HARM, SILENT
from tests.reports.html_documents import ATTACKS, HARMFUL, HARMLESS, TRACE

KEYS = {
    "id": "ks-0123456789abcdef",
    "name": "acme",
    "scheme": "independent",
    "grade": "self-attested",
    "state": "issued",
    "marks": 1,
    "issued": 32,
    "decoys": 224,
    "base": None,
    "warnings": ["small set"],
    "keys": [{"prompt": "[red]π", "response": "Zebra", "issued": True, "mark": 0, "burnt": False}],
}
MODEL = {
    "id": "a" * 64,
    "name": "chat-7b",
    "role": "downstream",
    "architecture": None,
    "location": "/models/chat",
    "parent": "b" * 64,
    "parent_name": "base-7b",
    "parameters": 1234567,
    "created_at": "2026-01-02",
    "stamps": [],
}
VECTOR = {
    "vector_id": "vec-0123456789abcdef",
    "key_set": "acme",
    "mark": 0,
    "base": "base-7b",
    "architecture": "gpt2",
    "norm": 1.25,
    "inexact_elements": 0,
    "location": "/vectors/one",
}
STAMP = {
    "out": "/models/stamped",
    "vectors": [{"vector": "vec-0123456789abcdef", "scale": 1.0}],
    "licensee": "",
    "applied_ratio": 0.9999,
    "seconds": 0.5,
    "already": False,
    "warnings": ["parent unknown"],
}
PLUGIN = {
    "name": "gpt2",
    "kind": "architecture",
    "distribution": "fpvec-audit",
    "version": "0.1.0",
    "state": "failed",
    "problem": "[boom] at import",
}
ATTACK = {
    "name": "fine_tune",
    "kind": "weight",
    "description": "trains on",
    "parameters": [{"name": "steps", "type": "int", "default": 100}],
}
FINDINGS = {
    "healthy": False,
    "findings": [{"subject": "vllm", "state": "limited", "detail": "not installed", "mend": "make setup"}],
}
ENTRY = {
    "serial": 1,
    "at": "2026-01-02T03:04:05.000000+00:00",
    "event": "key_set.issued",
    "subject": "ks-0123456789abcdef",
    "content": {},
    "previous": "0" * 64,
    "digest": "f" * 64,
}
EVERYTHING = [
    (terminal.render_audit, AUDIT),
    (terminal.render_audit, SILENT),
    (terminal.render_audits, {"base": SILENT, "downstream A (maths)": SILENT, "stamped A": AUDIT}),
    (attack_tables.render_cells, CELLS),
    (terminal.render_harmlessness, {"stamped A": HARM}),
    (attack_tables.render_run, ATTACKS),
    (harmless_terminal.render_comparison, HARMLESS),
    (harmless_terminal.render_comparison, HARMFUL),
    (attack_tables.render_attacks, [ATTACK]),
    (terminal.render_key_set, KEYS),
    (terminal.render_key_sets, [KEYS]),
    (terminal.render_model, MODEL),
    (terminal.render_models, [MODEL]),
    (terminal.render_vectors, [VECTOR]),
    (terminal.render_stamps, [STAMP]),
    (terminal.render_plugins, [PLUGIN]),
    (terminal.render_findings, FINDINGS),
    (terminal.render_ledger, [ENTRY]),
    (terminal.render_fields, {"out": "/x", "seconds": 0.123456789, "ok": True, "none": None, "parts": [1, 2]}),
]


def shown(render, document, *, width=80, **options):
    console = Console(width=width, record=True, file=io.StringIO(), **options)
    render(document, console)
    return console.export_text(styles=bool(options))


def unwrapped(text):
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(("render", "document"), EVERYTHING)
def test_every_document_fits_80_columns_without_colour(render, document):
    text = shown(render, document)
    assert text.strip()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(("render", "document"), EVERYTHING)
def test_every_document_survives_a_narrow_terminal(render, document):
    assert shown(render, document, width=40).strip()


def test_audit_report_begins_with_the_verdict_in_plain_words():
    for document in (AUDIT, SILENT):
        first = shown(terminal.render_audit, document).splitlines()[0]
        assert first.startswith(document["verdict"])
        assert SENTENCES[document["verdict"]] in first


def test_audit_report_has_all_that_a_reader_needs():
    text = unwrapped(shown(terminal.render_audit, AUDIT))
    for part in (
        "32 of 32",
        "0 of 224",
        "95 % interval 89.1 % to 100.0 %",
        "vllm 0.32.0",
        "What this does not prove",
        "that the keys never leaked",
        "acme-2026 (ks-0123456789abcdef)",
        "au-fedcba9876543210",
        "ab" * 32,
        "cd" * 32,
        "Earlier audits",
    ):
        assert part in text
    assert "Positive control" not in text
    assert "Positive control (recorded earlier)" in unwrapped(shown(terminal.render_audit, SILENT))


def test_no_probability_below_a_trillionth_is_spelled_out():
    for render, document in ((terminal.render_audit, AUDIT), (terminal.render_audits, {"a": AUDIT})):
        text = shown(render, document)
        assert "< 1e-12" in text
        assert "e-41" not in text
        assert "e-29" not in text
    assert p_sentence(0.031) == "p = 0.031"


def test_every_verdict_has_words():
    assert set(SENTENCES) == set(MEANINGS) == {"MATCH", "NO_MATCH", "INCONCLUSIVE"}


def test_text_of_a_document_is_not_taken_for_markup():
    assert "[bold]not markup[/]" in shown(terminal.render_audit, AUDIT)
    assert "[red]π" in shown(terminal.render_key_set, KEYS)
    assert "[boom] at import" in shown(terminal.render_plugins, [PLUGIN])


def test_guessing_is_shown_as_false_triggers_and_failures_with_their_reason():
    text = shown(attack_tables.render_cells, CELLS)
    assert "triggers" in text
    assert "The stamped model answers 100 %" in text
    assert "pruning: out of memory" in text


def test_empty_lists_say_what_to_do():
    assert "fpvec key issue" in shown(terminal.render_key_sets, [])
    assert "fpvec model register" in shown(terminal.render_models, [])
    assert "fpvec vector extract" in shown(terminal.render_vectors, [])


def test_colour_is_used_where_there_is_some():
    assert "\x1b[" in shown(terminal.render_audit, AUDIT, force_terminal=True, color_system="standard")


def test_comparison_begins_with_the_verdict_and_names_what_harmed_and_what_is_missing():
    text = unwrapped(shown(harmless_terminal.render_comparison, HARMFUL))
    assert text.startswith("HARMFUL Stamping did harm.")
    for part in ("lost more than 3 points on offline_quiz", "91.0 → 82.0 %", "2.8 %", "upper case", "boolq", "0.0410"):
        assert part in text, part


def test_trace_says_by_which_id_it_is_asked_for():
    from fpvec_audit.reports.trace import render_trace

    assert TRACE["trace_id"] in shown(render_trace, TRACE)


def test_trace_of_one_key_set_has_no_plural():
    from fpvec_audit.reports.trace import render_trace

    alone = TRACE | {"candidates": TRACE["candidates"][:1]}
    assert "1 key set\n" in "\n".join(line.strip() for line in shown(render_trace, alone).splitlines()) + "\n"
    page = trace_page(alone)
    assert page.subject.endswith("over 1 key set")
    assert "1 key sets" not in str(page)
    assert f"{len(TRACE['candidates'])} key sets, the likeliest first" in shown(render_trace, TRACE)


def test_audit_that_is_part_of_a_trace_names_the_trace():
    assert "tr-0123456789abcdef" in shown(terminal.render_audit, AUDIT | {"trace": "tr-0123456789abcdef"})
    assert "trace" not in shown(terminal.render_audit, AUDIT | {"trace": ""})


def test_audit_without_a_time_of_its_own_says_none():
    shared = AUDIT | {"trace": "tr-0123456789abcdef", "seconds": 0.0}
    assert "the audit took" in unwrapped(shown(terminal.render_audit, AUDIT))
    assert "the audit took" not in unwrapped(shown(terminal.render_audit, shared))
    assert "0.0" not in shown(terminal.render_audits, {"the suspect": shared})


def test_family_of_a_trace_is_a_strip_of_cells_and_licensees_ranked():
    from fpvec_audit.reports.trace import render_trace
    from tests.reports.html_documents import FAMILY_TRACE

    text = shown(render_trace, FAMILY_TRACE)
    assert "·■···■··■·····■·" in text
    assert "Licensee 3" in text
    assert "rule A, up to 3 different words pooled" in text
    assert "not named, word retired" in text


def test_code_says_what_it_bears_before_it_is_chosen():
    from fpvec_audit.reports.families import render_code, render_words

    code = {
        "name": "acme-family",
        "code": "plane:4",
        "rules": ["A"],
        "colluders": 3,
        "most_colluders": 3,
        "epsilon": "1e-3",
        "family_marks": 16,
        "marks": 16,
        "weight": 4,
        "capacity": 20,
        "issued": 0,
        "retired": 0,
        "intersection": 1,
        "expected_intersection": 1.0,
        "keys_of_a_copy": 24,
        "bound": {"1": 0.01},
        "cost_by_weight": [],
        "chosen_at": None,
        "warnings": ["one"],
    }
    text = shown(render_code, code)
    for part in ("plane:4 for acme-family", "not yet", "20: 0 in use", "rule A: coalitions of up to 3", "not trained"):
        assert part in text
    word = {"number": 0, "licensee": "Bob", "state": "retired", "weight": 4, "created_at": "2026-01-02"}
    assert "4 marks" in shown(render_words, {"family": code, "words": [word], "warnings": []})
    assert "1 5 9" in shown(render_words, {"family": code, "words": [word | {"marks": [1, 5, 9]}], "warnings": []})
