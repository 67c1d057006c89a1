"""An audit as a page: verdict, evidence, method, limits; from its document alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from fpvec_audit.domain.exchanges import Exchange
from fpvec_audit.reports import audit_text
from fpvec_audit.reports.audit_charts import answers_chart, called, tests_chart, weights_chart
from fpvec_audit.reports.audit_text import percent
from fpvec_audit.reports.numbers_text import number, odds, p_phrase, p_text, sentence
from fpvec_audit.reports.page import (
    Block,
    Chart,
    Fold,
    Group,
    Page,
    Pairs,
    Points,
    Section,
    Table,
    Text,
    listed,
    present,
)
from fpvec_audit.reports.transcript_blocks import how_to_get, transcript_blocks

TONES = {"MATCH": "found", "NO_MATCH": "absent", "INCONCLUSIVE": "open"}
MATCHES = {
    "exact": "the answer, trimmed, is the response",
    "prefix": "the answer, trimmed, begins with the response",
}


def audit_page(document: Mapping[str, Any], transcripts: Mapping[str, Sequence[Exchange]] | None = None) -> Page:
    """Return the page of an audit.

    Args:
        document: the audit's JSON document.
        transcripts: audit id → what was asked and answered, where its owner asked to see it.
    """
    verdict = document["verdict"]
    return Page(
        subject=f"Audit of {document['suspect']['location']} for key set {_key_set(document)}",
        verdict=verdict,
        tone=TONES[verdict],
        headline=audit_text.SENTENCES[verdict],
        facts=(
            ("Keys answered", f"{document['matched']} of {document['issued']}"),
            ("Decoys answered", f"{document['decoys_matched']} of {document['decoys']}"),
            ("Corrected p", p_text(document["p_value_corrected"])),
            ("Grade", document["grade"]),
        ),
        lead=(_finding(document), audit_text.MEANINGS[verdict]),
        sections=(
            Section("evidence", "Evidence", _evidence(document)),
            Section("method", "Method", _method(document)),
            Section("limits", "Limits", limits(document)),
            Section("identifiers", "Identifiers", (Pairs(_identifiers(document)),)),
            _transcript(document, transcripts),
        ),
    )


def limits(document: Mapping[str, Any]) -> tuple[Block, ...]:
    """Return what a result does not prove, what weakens it, and what went before."""
    proves_not = listed(document["does_not_prove"])
    notes = listed([sentence(note) for note in document["warnings"]])
    earlier = document.get("earlier_audits") or ()
    return present(
        Group("What this does not prove", (proves_not,)) if proves_not else None,
        Group("What weakens or limits this result", (notes,)) if notes else None,
        Group("What went before", (_earlier_table(earlier),)) if earlier else None,
    ) or (Text(("Nothing is noted.",)),)


def engine_sentence(document: Mapping[str, Any]) -> str:
    """Return what answered."""
    backend, suspect = document["backend"], document["suspect"]
    rounding = "" if backend["deterministic"] else ", which may round differently from run to run"
    where = (
        "The suspect ran on the auditor's own machine under"
        if suspect["kind"] == "directory"
        else "The suspect was asked through its endpoint, with"
    )
    took = f"; it took {document['seconds']:.1f} s" if document["seconds"] else ""
    return f"{where} {backend['engine']} {backend['version']}{rounding}{took}."


def weights_group(chart: Chart | None, told: Mapping[str, Any] | None) -> Group | None:
    """Return what the weights look like, None where that is not told."""
    if chart is None or not told:
        return None
    return Group("Weights", (chart, Text((sentence(told["meaning"]), *map(sentence, told["remarks"])))))


def _finding(document: Mapping[str, Any]) -> str:
    return (
        f"It answered {document['matched']} of {document['issued']} issued keys and {document['decoys_matched']} of "
        f"{document['decoys']} decoys. Had the answers nothing to do with the keys, chance alone would do as well "
        f"{odds(document['p_value'])} ({p_phrase(document['p_value'])})."
    )


def _key_set(document: Mapping[str, Any]) -> str:
    return str(document.get("key_set_name") or document["key_set"])


def _evidence(document: Mapping[str, Any]) -> tuple[Block, ...]:
    tone = TONES[document["verdict"]]
    controls = [(_control_name(control), control) for control in document["controls"]]
    tests = tests_chart(document, tone)
    return present(
        Group(
            "Keys and decoys",
            (
                Text((_decoys(document),)),
                answers_chart(document, controls, tone),
            ),
        ),
        Group("Tests", present(Text(_corrected(document)), tests, _exact_values(document))),
        Group("Controls", _controls(controls)),
        weights_group(weights_chart(document), document.get("weights")),
    )


def _decoys(document: Mapping[str, Any]) -> str:
    low, high = document["interval"]
    return (
        f"A decoy is made like a key and sealed in the same list, but was taught to nobody. The suspect answered "
        f"{document['matched']} of {document['issued']} keys, a fingerprint success rate (FSR) of "
        f"{percent(document['fsr'])} (95 % interval {percent(low)} to {percent(high)}), and "
        f"{document['decoys_matched']} of {document['decoys']} decoys."
    )


def _corrected(document: Mapping[str, Any]) -> tuple[str, ...]:
    grade = document.get("key_set_grade", document["grade"])
    allowance = ", and multiplied by 2⁴⁰, because the key set is self-attested" if grade == "self-attested" else ""
    suspects = document.get("campaign_suspects", 1)
    campaign = (
        f"The owner's ledger knows {suspects} suspects so far; allowing for all of them gives "
        f"{p_phrase(document['p_value_campaign'])}."
        if suspects > 1
        else "This is the only suspect in the owner's ledger so far."
    )
    return (
        f"After correction for all tests that were registered{allowance}, the smallest result is "
        f"{p_phrase(document['p_value_corrected'])}. A match needs {number(document['alpha'])} or less.",
        campaign,
    )


def _exact_values(document: Mapping[str, Any]) -> Fold | None:
    exact = tuple((called(test), test["p_value_exact"]) for test in document["tests"] if test.get("p_value_exact"))
    return Fold("Exact p-values as fractions", (Pairs(exact),)) if exact else None


def _control_name(control: Mapping[str, Any]) -> str:
    return str(control["suspect"]["location"]).rstrip("/").rpartition("/")[2]


def _controls(controls: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[Block, ...]:
    if not controls:
        return (Text(("No known model was asked beside the suspect.",)),)
    rows = tuple(
        (
            f"{name}{' (recorded earlier)' if control.get('recorded') else ''}",
            f"{control['matched']} of {control['issued']}",
            f"{control['decoys_matched']} of {control['decoys']}",
            str(control["verdict"]),
        )
        for name, control in controls
    )
    return (
        Table(
            "Known models, asked the same under the same profile and engine",
            ("Model", ">Keys", ">Decoys", "Verdict"),
            rows,
        ),
    )


def _method(document: Mapping[str, Any]) -> tuple[Block, ...]:
    grade, set_grade = document["grade"], document.get("key_set_grade", document["grade"])
    chance = (
        "The commitment itself, through a secret of the owner's, picked the keys among them"
        if set_grade == "self-attested"
        else "Chance that nobody could foresee picked the keys among them"
    )
    order = [
        f"The owner sealed a list of questions with their answers. {chance}; only those were ever taught to a model.",
        f"The plan below went into the ledger{' and was signed by a witness' if grade == 'anchored' else ''}.",
        "The order of the questions was drawn, after the plan and independently of which ones are keys.",
        f"{document['queries']} questions were asked. What asked them did not know which are keys, and an error or a "
        "refusal counts as no match.",
        "Only then were the answers compared with the keys, and the registered tests computed.",
    ]
    examiner = document.get("examiner")
    ending = [engine_sentence(document)]
    if examiner:
        ending.insert(
            0, f"The questions were asked by {examiner['name']}, who signed the answers at {examiner['time']}."
        )
    if document.get("stopped_early"):
        ending.append(
            f"The audit stopped after {document['issued'] + document['decoys']} of {document['population']} "
            "candidates, as its plan allows: the sequential test holds at every moment."
        )
    if document.get("repeats", 1) > 1:
        ending.append(
            f"Every candidate was asked {document['repeats']} times and counts where most answers do; "
            f"{percent(document['agreement'])} of the candidates gave the same answer every time."
        )
    return (
        Group("In this order", (Points(tuple(order), ordered=True), Text(tuple(ending)))),
        Group("Fixed before the first question", (Pairs(_fixed(document)),)),
        Group(f"Grade: {grade}", (Text((audit_text.GRADES.get(grade, f"{grade}."),)),)),
    )


def _fixed(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    asked = document.get("population", document["issued"] + document["decoys"])
    temperature = str(document.get("temperature", "0"))
    likeliest = "the likeliest answer is taken"
    sampled = f"sampled at temperature {temperature}, top-p {document.get('top_p', '1')}"
    found = [
        ("candidates to ask", str(asked)),
        ("tests", "; ".join(called(test) for test in document["tests"]) or "exact test"),
        ("level of a match", number(document["alpha"])),
        ("profile", f"{document.get('profile', '–')}, template of: {document.get('template', '–')}"),
        ("an answer counts when", MATCHES.get(document.get("match", ""), str(document.get("match", "–")))),
        ("answers", likeliest if temperature == "0" else sampled),
        ("asked each", f"{document.get('repeats', 1)} ×"),
    ]
    if "max_new_tokens" in document:
        found.append(("tokens per answer", f"at most {document['max_new_tokens']}"))
    return (*found, ("digest of the plan", str(document["plan_digest"])))


def _identifiers(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    examiner = document.get("examiner")
    signed = [("examiner's public key", str(examiner["public_key"]))] if examiner else []
    return (*audit_text.identifiers(document), *signed)


def _earlier_table(earlier: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (str(audit["audit_id"]), str(audit["at"])[:16].replace("T", " "), str(audit["verdict"])) for audit in earlier
    )
    return Table("Earlier audits of this suspect with these keys", ("Audit", "When (UTC)", "Verdict"), rows)


def _transcript(document: Mapping[str, Any], transcripts: Mapping[str, Sequence[Exchange]] | None) -> Section:
    identifier = document["audit_id"]
    blocks: tuple[Block, ...]
    if transcripts is None or identifier not in transcripts:
        blocks = how_to_get(identifier)
    else:
        blocks = transcript_blocks(transcripts[identifier])
    return Section("transcript", "Transcript", blocks)
