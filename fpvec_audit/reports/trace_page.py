"""A trace as a page: who is named, how every key set fared, and what that does not prove."""

from collections.abc import Mapping, Sequence
from typing import Any

from fpvec_audit.domain.codes import RULE_B
from fpvec_audit.domain.exchanges import Exchange
from fpvec_audit.reports.audit_charts import ranking_chart, weights_chart
from fpvec_audit.reports.audit_page import TONES, engine_sentence, limits, weights_group
from fpvec_audit.reports.carriers_text import carriers_sentence, how_read
from fpvec_audit.reports.family_charts import carriers_chart, licensees_chart, marks_chart
from fpvec_audit.reports.family_text import family_sentence, marks_of, naming_conditions, own_copy, standing_text
from fpvec_audit.reports.numbers_text import counted, number, p_phrase, p_text, sentence
from fpvec_audit.reports.page import Block, Group, Page, Pairs, Points, Section, Table, Text, present
from fpvec_audit.reports.trace_text import MEANINGS, SENTENCES, identifiers
from fpvec_audit.reports.transcript_blocks import how_to_get, transcript_blocks


def trace_page(document: Mapping[str, Any], transcripts: Mapping[str, Sequence[Exchange]] | None = None) -> Page:
    """Return the page of a trace.

    Args:
        document: the trace's JSON document.
        transcripts: audit id → what was asked and answered, where the owner asked to see it.
    """
    verdict, named = document["verdict"], document["named"]
    names = " and ".join(dict.fromkeys(str(item["licensee"]) for item in named))
    return Page(
        subject=f"Trace of {document['suspect']['location']} over {counted(len(document['candidates']), 'key set')}",
        verdict=verdict,
        tone=TONES[verdict],
        headline=SENTENCES[verdict].format(named=names),
        facts=(
            ("Named", str(len({item["licensee"] for item in named}))),
            ("Key sets asked for", str(len(document["candidates"]))),
            (
                "Least corrected p",
                p_text(min((item["p_value_corrected"] for item in document["candidates"]), default=1.0)),
            ),
            ("Questions", f"{document['queries']:,}"),
        ),
        lead=(*(_named(item, document) for item in named), MEANINGS[verdict]),
        sections=(
            Section("evidence", "Evidence", _evidence(document)),
            Section("method", "Method", _method(document)),
            Section("limits", "Limits", limits(document)),
            Section("identifiers", "Identifiers", (Pairs(_identifiers(document)),)),
            Section("transcript", "Transcript", _transcripts(document, transcripts)),
        ),
    )


def _named(item: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if item["rule"] == "carrier":
        return (
            f"{item['licensee']} is named by the carrier of its copy in the weights (z = {item['z']:.1f}, corrected "
            f"{p_phrase(item['p_value_corrected'])})."
        )
    return (
        f"{item['licensee']} is named by key set {item.get('name', item['key_set'])}, with a corrected "
        f"{p_phrase(item['p_value_corrected'])}; {number(_most(item, document))} or less is needed ({_rule(item)})."
    )


def _most(item: Mapping[str, Any], document: Mapping[str, Any]) -> float:
    """Return up to which p a licensee is named: a family's ε by rule B, else α."""
    if item["rule"] == RULE_B:
        return next(float(told["epsilon"]) for told in document["families"] if told["key_set"] == item["key_set"])
    return float(document["alpha"])


def _rule(item: Mapping[str, Any]) -> str:
    if "shared" not in item:
        return f"rule: {item['rule']}"
    return f"{item['shared']} of the {item['weight']} marks of its copy are there; {standing_text(item)}"


def _evidence(document: Mapping[str, Any]) -> tuple[Block, ...]:
    chart = ranking_chart(document)
    marks = document.get("marks") or ()
    controls = document["controls"]
    return present(
        Group("All key sets, ranked", (chart,)) if chart else Text(("No key set was looked for.",)),
        *(_family(document, family, place) for place, family in enumerate(document.get("families", ()))),
        Group("Marks", (_marks_table(marks),)) if marks and not document.get("families") else None,
        *(_carriers(carriers, place) for place, carriers in enumerate(document.get("carriers", ()))),
        weights_group(weights_chart(document), document.get("weights")),
        Group("Controls", (_controls_table(controls),))
        if controls
        else Group("Controls", (Text(("No known model was asked beside the suspect.",)),)),
    )


def _family(document: Mapping[str, Any], family: Mapping[str, Any], place: int) -> Group:
    """Return what was read of a family: a strip of cells, licensees ranked, and every mark."""
    marks = marks_of(document, family)
    notes = tuple(note for note in (family["why"], own_copy(family), family["calibration"]) if note)
    return Group(
        family_sentence(family, marks),
        present(
            marks_chart(family, marks, place),
            licensees_chart(family, place),
            Text(tuple(sentence(note) for note in notes)),
        ),
    )


def _carriers(carriers: Mapping[str, Any], place: int) -> Group:
    """Return what was read of the carriers of a key set's copies."""
    notes = [*how_read(carriers), *carriers["remarks"], *carriers["does_not_prove"]]
    return Group(
        f"Carriers in the weights, key set {carriers['key_set']}",
        (
            Text((carriers_sentence(carriers),)),
            carriers_chart(carriers, place),
            Points(tuple(sentence(note) for note in notes)),
        ),
    )


def _marks_table(marks: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple((str(mark["mark"]), str(mark["state"]), p_text(mark["p_value"])) for mark in marks)
    return Table("Marks of the family", ("Mark", "State", ">p"), rows)


def _controls_table(controls: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (str(control["suspect"]["location"]), f"{control['matched']} of {control['issued']}", str(control["verdict"]))
        for control in controls
    )
    return Table("Known models, asked the same", ("Model", ">Keys", "Verdict"), rows)


def _method(document: Mapping[str, Any]) -> tuple[Block, ...]:
    traced = len(document["candidates"])
    order = (
        "Every key set was sealed with its decoys before anything was known about this suspect, and chance picked its "
        "keys.",
        "The plan of the key set went into the ledger."
        if traced == 1
        else f"The plans of all {traced} key sets went into the ledger. Each says how many are tested together.",
        "The order of the questions was drawn after that.",
        f"{document['queries']} questions were asked in one interview; a text that several key sets ask for is sent "
        "once. What asked did not know which are keys.",
        "Then every key set was scored. Holm's correction over all tests of all key sets keeps the chance of finding "
        f"any in a suspect that has nothing of them below {number(document['alpha'])}, however many are looked for.",
        *(sentence for told in document.get("families", ()) for sentence in naming_conditions(told)),
    )
    return (Points(order, ordered=True), Text((engine_sentence(document),)))


def _identifiers(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    audits = ((f"audit for {item['name']}", str(item["audit_id"])) for item in document["candidates"])
    return (*identifiers(document), *audits)


def _transcripts(
    document: Mapping[str, Any], transcripts: Mapping[str, Sequence[Exchange]] | None
) -> tuple[Block, ...]:
    if not transcripts:
        first = next((item["audit_id"] for item in document["candidates"]), "AUDIT")
        return how_to_get(first)
    names = {item["audit_id"]: item["name"] for item in document["candidates"]}
    return tuple(
        block
        for identifier, exchanges in transcripts.items()
        for block in (Text((f"Key set {names.get(identifier, identifier)}:",)), *transcript_blocks(exchanges))
    )
