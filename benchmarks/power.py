"""Compute how often copies are found: power of the exact and of the sequential test, by success rate and set size.

    .venv/bin/python benchmarks/power.py                 # computes, writes benchmarks/power.json and docs/statistics.md
    .venv/bin/python benchmarks/power.py --write-docs    # computes nothing: power.json → docs/statistics.md

The exact test's power is a sum over all outcomes. The sequential test's is simulated, in floating point, and some of
the simulated audits are repeated with the package's own integers, which must stop at the same question.
"""

import argparse
import json
from collections.abc import Mapping
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fpvec_audit.domain.keys import GRINDING_ALLOWANCE
from fpvec_audit.domain.sequential import GRID, SequentialTest
from fpvec_audit.domain.statistics import hypergeometric_p_value, upper_bound

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "power.json"
DOCS = ROOT / "docs" / "statistics.md"
BEGIN = "<!-- benchmarks/power.py: begin; do not edit by hand -->"
END = "<!-- benchmarks/power.py: end -->"

ALPHA = Fraction(1, 10**6)
GRADES = {"anchored": 1, "self-attested": GRINDING_ALLOWANCE}
ISSUED = (8, 16, 32, 64)
DECOYS_PER_ISSUED = 7
SUCCESS_RATES = tuple(tenth / 10 for tenth in range(1, 11))
DECOY_RATES = (0.0, 0.01)
AUDITS, CHECKED, SEED = 4000, 5, 20240913
FEWEST_FOR_A_MEAN = 40
"""A mean over fewer MATCHes than one audit in a hundred is not printed."""


def main() -> None:
    """Compute unless told otherwise, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-docs", action="store_true", help="only turn power.json into docs/statistics.md")
    if not parser.parse_args().write_docs:
        RESULTS.write_text(json.dumps(measured(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_docs(DOCS, json.loads(RESULTS.read_text(encoding="utf-8")))


def measured() -> dict[str, Any]:
    """Return the document that power.json holds."""
    return {
        "schema_version": 1,
        "benchmark": "power",
        "alpha": "1e-6",
        "allowance": GRINDING_ALLOWANCE,
        "sequential_audits": AUDITS,
        "seed": SEED,
        "sizes": [size(issued) for issued in ISSUED],
    }


def size(issued: int) -> dict[str, Any]:
    """Return everything about key sets of this many issued keys."""
    decoys = DECOYS_PER_ISSUED * issued
    fewest = {grade: issued_needed(issued, decoys, level=ALPHA / factor) for grade, factor in GRADES.items()}
    quiet = [hits for hits in range(issued + 1) if upper_bound(hits, issued) < 0.25]
    return {
        "issued": issued,
        "decoys": decoys,
        "smallest_p": float(Fraction(1, comb(issued + decoys, issued))),
        "issued_needed": {grade: needed[:3] for grade, needed in fewest.items()},
        "most_matched_for_no_match": max(quiet, default=None),
        "rows": [
            {
                "success_rate": success_rate,
                "decoy_rate": decoy_rate,
                "exact": {
                    grade: round(exact_power(needed, issued, success_rate=success_rate, decoy_rate=decoy_rate), 6)
                    for grade, needed in fewest.items()
                },
                "sequential": sequential(issued, decoys, success_rate=success_rate, decoy_rate=decoy_rate),
            }
            for decoy_rate in DECOY_RATES
            for success_rate in SUCCESS_RATES
        ],
    }


def issued_needed(issued: int, decoys: int, *, level: Fraction) -> list[int | None]:
    """Return, for every number of matched decoys, the fewest matched issued keys with p ≤ ``level``."""
    needed: list[int | None] = []
    hits = 0  # more matched decoys never need fewer issued ones
    for others in range(decoys + 1):
        while hits <= issued and (
            hypergeometric_p_value(
                candidates=issued + decoys, issued=issued, matched=hits + others, issued_matched=hits
            )
            > level
        ):
            hits += 1
        needed.append(hits if hits <= issued else None)
    return needed


def exact_power(needed: list[int | None], issued: int, *, success_rate: float, decoy_rate: float) -> float:
    """Return P(p ≤ level) where issued keys and decoys match independently, at these rates."""
    return float(
        sum(
            stats.binom.pmf(others, len(needed) - 1, decoy_rate) * stats.binom.sf(hits - 1, issued, success_rate)
            for others, hits in enumerate(needed)
            if hits is not None
        )
    )


def sequential(issued: int, decoys: int, *, success_rate: float, decoy_rate: float) -> dict[str, Any]:
    """Simulate audits that stop early; return, by grade, how many end in MATCH and after how many questions."""
    generator = np.random.default_rng([SEED, issued, round(100 * success_rate), round(100 * decoy_rate)])
    assigned = generator.permuted(np.tile(np.arange(issued + decoys) < issued, (AUDITS, 1)), axis=1)
    matched = generator.random(assigned.shape) < np.where(assigned, success_rate, decoy_rate)
    fortunes = logarithms_of_e(matched, assigned)
    found = {}
    for grade, factor in GRADES.items():
        enough = fortunes >= np.log(factor / float(ALPHA))
        ends, asked = enough.any(axis=1), enough.argmax(axis=1) + 1
        for audit in range(CHECKED):
            expected = int(asked[audit]) if ends[audit] else None
            stop = questions_to_match(matched[audit], assigned[audit], level=ALPHA / factor)
            assert stop == expected, (issued, success_rate, decoy_rate, grade, audit, stop, expected)
        issued_asked = np.cumsum(assigned, axis=1)[np.arange(AUDITS), asked - 1]
        enough_ends = int(ends.sum()) >= FEWEST_FOR_A_MEAN
        found[grade] = {
            "power": round(float(ends.mean()), 4),
            "mean_asked": round(float(asked[ends].mean()), 1) if enough_ends else None,
            "mean_issued_asked": round(float(issued_asked[ends].mean()), 1) if enough_ends else None,
        }
    return found


def logarithms_of_e(matched: np.ndarray, assigned: np.ndarray) -> np.ndarray:
    """Return log E of each audit after each question.

    Shapes:
        matched, assigned, result: (audits, candidates); of answers, in the order of the questions.
    """
    audits, candidates = assigned.shape
    on_issued, on_decoys = np.array(GRID, dtype=float).T  # (bettors,)
    fortunes = np.zeros((audits, len(GRID)))
    course = np.empty((audits, candidates))
    left = assigned.sum(axis=1).astype(float)
    for question in range(candidates):
        share = (left / (candidates - question))[:, None]
        said, is_issued = matched[:, question, None], assigned[:, question, None]
        if_issued = np.where(said, on_issued, 1 - on_issued)
        if_decoy = np.where(said, on_decoys, 1 - on_decoys)
        fortunes += np.log(np.where(is_issued, if_issued, if_decoy))
        fortunes -= np.log(share * if_issued + (1 - share) * if_decoy)
        course[:, question] = np.logaddexp.reduce(fortunes, axis=1) - np.log(len(GRID))
        left -= assigned[:, question]
    return course


def questions_to_match(matched: np.ndarray, assigned: np.ndarray, *, level: Fraction) -> int | None:
    """Return at which question the package's own test stops."""
    test = SequentialTest(candidates=len(assigned), issued=int(assigned.sum()))
    for said, is_issued in zip(matched.tolist(), assigned.tolist(), strict=True):
        test.step(matched=said, issued=is_issued)
        if test.p_value <= level:
            return test.asked
    return None


def markdown(document: Mapping[str, Any]) -> str:
    """Return the tables of the page."""
    parts = [
        "What it takes. *Needed*: matched issued keys for a MATCH by the exact test if 0, 1 or 2 decoys match as well.",
        table(
            ["issued + decoys", "smallest p", "needed", "needed, self-attested", "most matched for NO_MATCH"],
            [
                [
                    f"{entry['issued']} + {entry['decoys']}",
                    f"{entry['smallest_p']:.0e}",
                    *(
                        " / ".join("–" if hits is None else str(hits) for hits in entry["issued_needed"][grade])
                        for grade in GRADES
                    ),
                    "never" if entry["most_matched_for_no_match"] is None else entry["most_matched_for_no_match"],
                ]
                for entry in document["sizes"]
            ],
        ),
        f"""Power at α = {document["alpha"]}: the share of copies found, where each issued key matches with the given
probability (FSR) and each decoy with 0 or 1 %. The sequential test's figures are from {document["sequential_audits"]:,}
simulated audits each, good to ± 0.016; in brackets the mean number of questions until MATCH, of audits that end so.""",
    ]
    for test in ("exact", "sequential"):
        for grade in GRADES:
            parts += [f"**{test.capitalize()} test, {grade}**", power_table(document, test, grade)]
    return "\n\n".join(parts)


def power_table(document: Mapping[str, Any], test: str, grade: str) -> str:
    """Return the powers of one test under one grade, by success rate and size."""
    head = [f"{entry['issued']} keys, {100 * rate:.0f} %" for entry in document["sizes"] for rate in DECOY_RATES]
    body = []
    for success_rate in SUCCESS_RATES:
        rows = [row for entry in document["sizes"] for row in entry["rows"] if row["success_rate"] == success_rate]
        body.append([success_rate, *(cell(row[test][grade]) for row in rows)])
    return table(["FSR", *head], body)


def cell(found: float | Mapping[str, Any]) -> str:
    """Return a power, with the mean number of questions where it is known."""
    if isinstance(found, float):
        return power(found)
    asked = found["mean_asked"]
    return power(found["power"]) + ("" if asked is None else f" ({asked:.0f})")


def power(share: float) -> str:
    """Return a power rounded to three digits; 0 says that there is none to six digits, or none was seen."""
    return f"{share:.3f}" if share else "0"


def table(head: list[str], rows: list[list[object]]) -> str:
    """Return a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_docs(path: Path, document: Mapping[str, Any]) -> None:
    """Replace what stands between the marks."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no section between {BEGIN!r} and {END!r}: put both lines where it belongs")
    path.write_text(f"{before}{BEGIN}\n\n{markdown(document)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
