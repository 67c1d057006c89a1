"""The figures of an audit and a trace: who answers how much, how rare that is, and what the weights look like."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fpvec_audit.domain.statistics import clopper_pearson
from fpvec_audit.reports.audit_text import TESTS, percent
from fpvec_audit.reports.dot_rows import SHARES, Axis, Dot, Row, decades, draw_rows, p_axis, p_note
from fpvec_audit.reports.numbers_text import number, p_text
from fpvec_audit.reports.page import Chart, Table

MOST_RANKED, MOST_OPEN = 20, 8
"""Key sets in the figure of a trace; the table beside it has all, and is opened on demand where there are many."""


def share_row(label: str, matched: int, asked: int, tone: str = "ink") -> Row:
    """Return a row for a share with its 95 % interval."""
    share = matched / asked if asked else 0.0
    interval = clopper_pearson(matched, asked) if asked else (0.0, 1.0)
    return Row(label, f"{matched} of {asked}", (Dot(share),), span=interval, tone=tone)


def answers_chart(document: Mapping[str, Any], controls: Sequence[tuple[str, Mapping[str, Any]]], tone: str) -> Chart:
    """Return the figure of who answered which share of keys and decoys.

    Args:
        document: an audit.
        controls: known models by name, with their audits.
        tone: colour of the suspect's keys.
    """
    counts = [
        ("The suspect, keys", document["matched"], document["issued"], tone),
        ("The suspect, decoys", document["decoys_matched"], document["decoys"], "muted"),
    ]
    for name, control in controls:
        counts.append((f"{name}, keys", control["matched"], control["issued"], "ink"))
        counts.append((f"{name}, decoys", control["decoys_matched"], control["decoys"], "muted"))
    rows = tuple(share_row(*count) for count in counts)
    described = "; ".join(
        f"{row.label}: {row.note}, 95 % interval {percent(row.span[0])} to {percent(row.span[1])}"
        for row in rows
        if row.span
    )
    return Chart(
        name="answers",
        caption="Share of the keys and of the decoys that drew the right answer; the line is the 95 % interval.",
        description=f"Shares answered. {described}.",
        table=Table(
            "Keys and decoys answered",
            ("Asked", ">Answered", ">Share", ">95 % interval"),
            tuple(
                (row.label, row.note, percent(row.dots[0].x), f"{percent(row.span[0])} to {percent(row.span[1])}")
                for row in rows
                if row.span
            ),
        ),
        draw=partial(draw_rows, rows, SHARES),
    )


def tests_chart(document: Mapping[str, Any], tone: str) -> Chart | None:
    """Return the figure of how rare every test's result would be under chance; None where no test is told."""
    tests = document["tests"]
    if not tests:
        return None
    rows = tuple(_test_row(test, tone if _adjusted(test) <= document["alpha"] else "muted") for test in tests)
    described = "; ".join(f"{row.label}: p {row.note}" for row in rows)
    return Chart(
        name="tests",
        caption=(
            "How rare the result of every registered test would be if the suspect had no contact with the keys. "
            "Hollow: by itself. Filled: corrected for everything else that was looked at. Left of the dashed line a "
            "result does not count as a match; what is rarer than 10⁻¹² is drawn at the edge."
        ),
        description=f"Exact p-values. {described}. A match needs a corrected p of {number(document['alpha'])} or less.",
        table=Table(
            "The registered tests",
            ("Test", "What it counted", ">p", ">Corrected\u00a0p"),
            tuple(
                (called(test), str(test["statistic"]), p_text(test["p_value"]), p_text(_adjusted(test)))
                for test in tests
            ),
        ),
        draw=partial(draw_rows, rows, p_axis(document["alpha"], "match")),
        folded=False,
    )


def ranking_chart(document: Mapping[str, Any]) -> Chart | None:
    """Return the figure of the likeliest key sets of a trace; None where none was looked for."""
    candidates = document["candidates"]
    if not candidates:
        return None
    shown = candidates[:MOST_RANKED]
    rows = tuple(
        Row(
            f"{item['name']}{', named' if item['named'] else ''}",
            p_note(item["p_value_corrected"]),
            (Dot(decades(item["p_value_corrected"])),),
            tone="found" if item["named"] else "muted",
        )
        for item in shown
    )
    more = f" The {len(shown)} likeliest of {len(candidates)} are drawn." if len(candidates) > len(shown) else ""
    return Chart(
        name="ranking",
        caption=(
            "Every key set that was looked for, the likeliest first: how rare its best test would be without contact, "
            f"corrected over all tests of all key sets. Right of the dashed line a key set is named.{more}"
        ),
        description="Corrected p by key set. " + "; ".join(f"{row.label}: {row.note}" for row in rows) + ".",
        table=_ranking_table(candidates),
        draw=partial(draw_rows, rows, p_axis(document["alpha"], "named")),
        folded=len(candidates) > MOST_OPEN,
    )


def weights_chart(document: Mapping[str, Any]) -> Chart | None:
    """Return the figure of how much of the known vectors the weights hold; None where that is not told."""
    told = document.get("weights")
    if not told or not told["vectors"]:
        return None
    vectors = told["vectors"]
    values = [vector["coefficient"] for vector in vectors]
    ends = [end for vector in vectors for end in vector["control_range"] or ()]
    low, high = min(-0.25, *values, *ends), max(1.25, *values, *ends)
    step = 0.5 if high - low <= 4 else round((high - low) / 5, 1)
    first = -(-low // step)
    ticks = tuple(
        (place * step, f"{place * step:g}".replace("-", "−")) for place in range(int(first), int(high // step) + 1)
    )
    rows = tuple(
        Row(
            _vector_name(vector, vectors),
            f"{vector['coefficient']:.2f}".replace("-", "−"),
            (Dot(vector["coefficient"]),),
            band=None if vector["control_range"] is None else tuple(vector["control_range"]),
        )
        for vector in vectors
    )
    return Chart(
        name="weights",
        caption=(
            "How much of each known fingerprint vector the suspect's weights seem to hold: near 1 in a copy stamped at "
            "scale 1, near 0 in a model without it. The pale bar is where clean models of the same base lie."
        ),
        description="Estimated share of each vector. " + "; ".join(f"{row.label}: {row.note}" for row in rows) + ".",
        table=Table(
            "Known vectors in the weights",
            ("Key set", "Vector", ">Share λ̂", ">Cosine", ">Clean models", ">Conformal p"),
            tuple(_vector_row(vector, vectors) for vector in vectors),
        ),
        draw=partial(draw_rows, rows, Axis(low, high, ticks, title="λ̂, share of the vector")),
        folded=False,
    )


def called(test: Mapping[str, Any]) -> str:
    """Return what a test is called in prose."""
    return TESTS.get(test["name"], str(test["name"]))


def _test_row(test: Mapping[str, Any], tone: str) -> Row:
    adjusted = _adjusted(test)
    dots = (Dot(decades(test["p_value"]), filled=False), Dot(decades(adjusted)))
    return Row(called(test), p_note(test["p_value"], adjusted), dots, tone=tone)


def _adjusted(test: Mapping[str, Any]) -> float:
    return float(test.get("p_value_adjusted", test["p_value"]))


def _ranking_table(candidates: Sequence[Mapping[str, Any]]) -> Table:
    tests = list(dict.fromkeys(test["name"] for item in candidates for test in item["tests"]))
    rows = []
    for item in candidates:
        by_name = {test["name"]: test["p_value"] for test in item["tests"]}
        rows.append(
            (
                str(item["name"]),
                str(item["licensee"] or "–"),
                f"{item['matched']} of {item['issued']}",
                f"{item['decoys_matched']} of {item['decoys']}",
                *(p_text(by_name[name]) if name in by_name else "–" for name in tests),
                p_text(item["p_value_corrected"]),
                "named" if item["named"] else "–",
            )
        )
    columns = (
        "Key set",
        "Issued to",
        ">Keys",
        ">Decoys",
        *(f">p, {TESTS.get(name, name).replace(' test', '')}" for name in tests),
        ">Corrected\u00a0p",
        "Result",
    )
    return Table("All key sets, the likeliest first", columns, tuple(rows))


def _vector_name(vector: Mapping[str, Any], vectors: Sequence[Mapping[str, Any]]) -> str:
    """Return what a vector is of: its key set, and its mark where the key set has several."""
    several = sum(other["key_set"] == vector["key_set"] for other in vectors) > 1 and "mark" in vector
    return f"{vector['key_set']}, mark {vector['mark']}" if several else str(vector["key_set"])


def _vector_row(vector: Mapping[str, Any], vectors: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    beside = vector["control_range"]
    return (
        _vector_name(vector, vectors),
        str(vector["vector_id"]),
        f"{vector['coefficient']:.3f}".replace("-", "−"),
        "–" if vector["cosine"] is None else f"{vector['cosine']:.2f}",
        "–" if beside is None else f"{beside[0]:.3f} to {beside[1]:.3f}".replace("-", "−"),
        p_text(vector["conformal_p"]) if "conformal_p" in vector else "–",
    )
