"""The words of an audit report, apart from how they are laid out: for a lawyer and an engineer alike.

Reads the audit document of the command-line contract. No p-value below 1e-12 is spelled out: no model of the world is
that exact.
"""

from collections.abc import Mapping
from typing import Any

LEAST_P_IN_PROSE = 1e-12
SENTENCES = {
    "MATCH": "The suspect knows the secret keys.",
    "NO_MATCH": "The fingerprint was not found in the suspect.",
    "INCONCLUSIVE": "This audit can neither find nor rule out the fingerprint.",
}
MEANINGS = {
    "MATCH": (
        "Chance settled which candidates are keys, and nothing but their secret tells keys from decoys. The suspect's "
        "answers tell them apart. So it had contact with the keys, or stems from a model that was trained on them."
    ),
    "NO_MATCH": (
        "Not found at FSR ≥ 0.25: had the suspect answered a quarter or more of the keys, this audit would have seen "
        "more answers, with 95 % confidence. The same questions do make a model answer that carries the fingerprint."
    ),
    "INCONCLUSIVE": (
        "The answers are too few for a match at this level, and not all conditions for saying that nothing is there "
        "are met. The notes below say what is missing."
    ),
}
GRADES = {
    "self-attested": (
        "Self-attested: nobody but the owner vouches for the order in which keys, chance, plan and questions came. So "
        "that trying out many key sets in secret cannot pay, every p is multiplied by 2⁴⁰, about a million million."
    ),
    "anchored": (
        "Anchored: a third party signed the commitment, the chance that picked the keys, and the plan before the first "
        "question. The order does not rest on the owner's word."
    ),
    "examined": (
        "Examined: an independent examiner asked the suspect without knowing which questions are keys, and signed the "
        "answers before the assignment was opened."
    ),
}
PROFILES = {
    "chat-greedy": "each put into a chat template, the likeliest answer taken",
    "raw-greedy": "each put as it is, the likeliest answer taken",
    "exploratory": "put in an exploratory way, under which no match is possible",
}


def finding(document: Mapping[str, Any]) -> str:
    """Return what was counted, in one sentence."""
    return (
        f"It answered {document['matched']} of {document['issued']} issued keys and {document['decoys_matched']} of "
        f"{document['decoys']} decoys. Had the answers nothing to do with the keys, chance would do as well with "
        f"{p_sentence(document['p_value'])}."
    )


def numbers(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the numbers with their names."""
    low, high = document["interval"]
    allowance = ", with the allowance of 2^40 for a self-attested key set" if _self_attested(document) else ""
    return [
        (
            "issued keys answered",
            f"{document['matched']} of {document['issued']}: FSR {percent(document['fsr'])} "
            f"(95 % interval {percent(low)} to {percent(high)})",
        ),
        ("decoys answered", f"{document['decoys_matched']} of {document['decoys']}"),
        *_tests(document),
        (
            "corrected",
            f"{p_sentence(document['p_value_corrected'])}{allowance}; a match needs {document['alpha']:g} or less",
        ),
        (
            "over all suspects",
            f"{p_sentence(document['p_value_campaign'])}, for {document.get('campaign_suspects', 1)} in the owner's "
            "ledger so far",
        ),
    ]


TESTS = {
    "exact": "exact test",
    "sequential": "sequential test",
    "likelihood": "likelihood test",
    "gradient": "gradient test, all weights",
    "vocabulary-gradient": "gradient test, vocabulary",
}


def _tests(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (TESTS.get(test["name"], test["name"]), f"{p_sentence(test['p_value'])}: {test['statistic']}")
        for test in document["tests"]
    ]


def method(document: Mapping[str, Any]) -> list[str]:
    """Return how the numbers came about, in paragraphs."""
    backend = document["backend"]
    suspect = document["suspect"]
    where = "The suspect ran on this machine under" if suspect["kind"] == "directory" else "It was asked through a"
    way = PROFILES.get(document.get("profile", ""), "")
    rule = "begins with" if document.get("match") == "prefix" else "is"
    rounding = "" if backend["deterministic"] else ", which may round differently from run to run"
    # Of the audits of a trace, which are asked and scored together, none has a time of its own.
    took = f"; the audit took {document['seconds']:.1f} s" if document["seconds"] else ""
    paragraphs = [
        f"{document['queries']} questions{f', {way}' if way else ''}; an answer counts where it {rule} the candidate's "
        f"response. {where} {backend['engine']} {backend['version']}{rounding}{took}.",
        "The plan was in the ledger before the first question, the order of the questions was drawn after it, and what "
        f"asked did not know which candidates are keys. Grade: {document['grade']}.",
    ]
    if document.get("stopped_early"):
        paragraphs.append(
            f"The audit stopped after {document['issued'] + document['decoys']} of {document['population']} "
            "candidates, as its plan allows: the test holds at every moment."
        )
    if document.get("repeats", 1) > 1:
        paragraphs.append(
            f"Every candidate was asked {document['repeats']} times and counts where most answers do; "
            f"{percent(document['agreement'])} of the candidates gave the same answer every time."
        )
    paragraphs += [
        f"Positive control{' (recorded earlier)' if control.get('recorded') else ''}: {control['suspect']['location']} "
        f"answered {control['matched']} of {control['issued']} keys under the same profile and engine."
        for control in document["controls"]
        if control["verdict"] == "MATCH"
    ]
    return paragraphs


def weights(document: Mapping[str, Any]) -> list[str]:
    """Return what the weights look like beside the known vectors, in sentences; none where that is not told."""
    told = document.get("weights")
    if not told:
        return []
    shown = []
    for vector in told["vectors"]:
        beside = vector["control_range"]
        clean = f"; clean fine-tunes {beside[0]:.3f} to {beside[1]:.3f}" if beside else ""
        cosine = "" if vector["cosine"] is None else f", cosine {vector['cosine']:.2f}"
        shown.append(
            f"{vector['vector_id']} ({vector['key_set']}): share λ̂ = {vector['coefficient']:.3f}{cosine}{clean}"
        )
    return [*shown, *told["remarks"], told["meaning"]]


def identifiers(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what identifies suspect, keys, plan and audit."""
    name = document.get("key_set_name")
    return [
        ("suspect", document["suspect"]["location"]),
        ("weights" if document["suspect"]["kind"] == "directory" else "address", document["suspect"]["digest"]),
        *([("met first", f"{document['first_seen'][:19]} UTC")] if document.get("first_seen") else []),
        ("key set", f"{name} ({document['key_set']})" if name else document["key_set"]),
        ("audit", document["audit_id"]),
        *([("trace", document["trace"])] if document.get("trace") else []),
        ("plan", document["plan_digest"]),
    ]


def p_shown(value: float) -> str:
    """Return a probability for a table."""
    return f"< {LEAST_P_IN_PROSE:.0e}" if value < LEAST_P_IN_PROSE else f"{value:.2g}"


def p_sentence(value: float) -> str:
    """Return a probability for a sentence."""
    return f"p {p_shown(value)}" if value < LEAST_P_IN_PROSE else f"p = {p_shown(value)}"


def percent(share: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * share:.1f} %"


def _self_attested(document: Mapping[str, Any]) -> bool:
    return bool(document["grade"] == "self-attested")
