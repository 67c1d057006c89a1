"""Measure how often `fpvec harmless` says HARMLESS where the loss is the margin, and where there is none.

    .venv/bin/python benchmarks/harmlessness_levels.py                # measures, writes JSON and docs/harmlessness.md
    .venv/bin/python benchmarks/harmlessness_levels.py --write-docs   # measures nothing: JSON → docs/harmlessness.md

Two models are simulated as pairs of right and wrong answers. The package's bound stands beside two that are in common
use: Tango's score test and the adjusted Wald interval. The error rate of the package's is also summed over all
outcomes, so it holds without any sampling error. The bootstrap of other metrics is simulated alone.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fpvec_audit.domain.harm_report import LEVEL
from fpvec_audit.domain.noninferiority import loss_at_least_p_value

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "harmlessness_levels.json"
DOCS = ROOT / "docs" / "harmlessness.md"
BEGIN = "<!-- benchmarks/harmlessness_levels.py: begin; do not edit by hand -->"
END = "<!-- benchmarks/harmlessness_levels.py: end -->"

MARGIN = 0.03
ITEMS = (20, 50, 100, 200, 500, 1000, 2000, 3000, 5000)
DISCORDANT = (0.031, 0.05, 0.1, 0.2, 0.4, 0.6)
SIMULATIONS, SEED = 50_000, 20_409
TEXTS, BOOTSTRAP_SIMULATIONS, BOOTSTRAP_RESAMPLES = (30, 100, 300, 1000), 2000, 1000


def main() -> None:
    """Measure unless told otherwise, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-docs", action="store_true", help="only turn the JSON into docs/harmlessness.md")
    if not parser.parse_args().write_docs:
        RESULTS.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    write_docs(json.loads(RESULTS.read_text(encoding="utf-8")))


def measured() -> dict[str, Any]:
    """Return the document that the JSON file holds."""
    cells = [cell(items, discordant) for items in ITEMS for discordant in DISCORDANT]
    return {
        "schema_version": 1,
        "benchmark": "harmlessness_levels",
        "margin": MARGIN,
        "level": LEVEL,
        "simulations": SIMULATIONS,
        "seed": SEED,
        "cells": cells,
        "bootstrap": [bootstrap_level(texts, heavy) for texts in TEXTS for heavy in (False, True)],
    }


def cell(items: int, discordant: float) -> dict[str, Any]:
    """Return how often each method says HARMLESS, for one number of items and one share of differing answers."""
    most = largest_harmless(items)
    ours = partial(_ours, most)
    told: dict[str, Any] = {"items": items, "discordant": discordant}
    for name, loss in (("at_margin", MARGIN), ("at_no_loss", 0.0), ("at_one_point", 0.01)):
        if loss > discordant:
            continue
        lost, gained = simulated(items, discordant, loss)
        told[name] = {
            "exact": exact_rate(items, discordant, loss, most),
            "simulated": rate(ours, lost, gained, items),
            "tango": rate(tango, lost, gained, items),
            "wald": rate(adjusted_wald, lost, gained, items),
        }
    return told


def largest_harmless(items: int) -> np.ndarray:
    """Return, by number of differing answers, the largest lost − gained called harmless; −items − 1 for none."""
    edges = np.full(items + 1, -items - 1)
    lost = 0
    for differing in range(items + 1):  # the edge moves little from one to the next, so begin at the last one
        lost = min(differing, lost)
        while lost < differing and harmless(lost + 1, differing - lost - 1, items):
            lost += 1
        while lost >= 0 and not harmless(lost, differing - lost, items):
            lost -= 1
        edges[differing] = 2 * lost - differing if lost >= 0 else -items - 1
        lost = max(0, lost)
    return edges


def harmless(lost: int, gained: int, items: int) -> bool:
    """Return whether the package says so."""
    return loss_at_least_p_value(lost, gained, items, margin=MARGIN) <= LEVEL


def simulated(items: int, discordant: float, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Return lost and gained of every simulated comparison."""
    generator = np.random.default_rng(SEED)
    chances = [(discordant + loss) / 2, (discordant - loss) / 2, 1 - discordant]
    drawn = generator.multinomial(items, chances, size=SIMULATIONS)
    return drawn[:, 0], drawn[:, 1]


def rate(says: Callable[..., np.ndarray], lost: np.ndarray, gained: np.ndarray, items: int) -> float:
    """Return how often a method says HARMLESS."""
    return float(says(lost, gained, items).mean())


def exact_rate(items: int, discordant: float, loss: float, most: np.ndarray) -> float:
    """Return the package's rate summed over all outcomes."""
    differing = np.arange(items + 1)
    lost_at_most = np.floor((most + differing) / 2)
    given = stats.binom.cdf(lost_at_most, differing, (1 + loss / discordant) / 2)
    return float((stats.binom.pmf(differing, items, discordant) * np.where(lost_at_most >= 0, given, 0.0)).sum())


def _ours(most: np.ndarray, lost: np.ndarray, gained: np.ndarray, items: int) -> np.ndarray:
    return lost - gained <= most[lost + gained]


def tango(lost: np.ndarray, gained: np.ndarray, items: int) -> np.ndarray:
    """Return where the score test rejects a loss of the margin.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891–908.
    """
    a = 2 * items
    b = -lost - gained + (2 * items - lost + gained) * MARGIN
    c = -gained * MARGIN * (1 - MARGIN)
    share = (np.sqrt(b**2 - 4 * a * c) - b) / (2 * a)
    spread = np.sqrt(items * (2 * share + MARGIN * (1 - MARGIN)))
    return (lost - gained - items * MARGIN) / spread <= stats.norm.ppf(LEVEL)


def adjusted_wald(lost: np.ndarray, gained: np.ndarray, items: int) -> np.ndarray:
    """Return where the adjusted Wald interval lies within the margin.

    Source: Bonett and Price, Journal of Educational and Behavioral Statistics 37 (2012) 479–488.
    """
    one, two = (lost + 1) / (items + 2), (gained + 1) / (items + 2)
    spread = np.sqrt((one + two - (one - two) ** 2) / (items + 2))
    return one - two + stats.norm.ppf(1 - LEVEL) * spread <= MARGIN


def bootstrap_level(texts: int, heavy: bool) -> dict[str, Any]:
    """Return how often the percentile bootstrap calls a perplexity harmless whose true increase is the margin.

    Args:
        texts: documents.
        heavy: whether a few documents change much more than the others.
    """
    generator = np.random.default_rng(SEED)
    true, said = np.log1p(MARGIN), 0
    for _ in range(BOOTSTRAP_SIMULATIONS):
        if heavy:
            surplus = true + 0.05 * generator.standard_t(3, size=texts)
        else:
            surplus = true + 0.05 * generator.standard_normal(texts)
        places = generator.integers(texts, size=(BOOTSTRAP_RESAMPLES, texts))
        said += np.quantile(np.expm1(surplus[places].mean(axis=1)), 1 - LEVEL) <= MARGIN
    return {"texts": texts, "heavy_tails": heavy, "rate": said / BOOTSTRAP_SIMULATIONS}


def write_docs(document: dict[str, Any]) -> None:
    """Put the tables into the page, between the marks."""
    page = DOCS.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    DOCS.write_text(f"{head}{BEGIN}\n\n{tables(document)}\n{END}{tail}", encoding="utf-8")


def tables(document: dict[str, Any]) -> str:
    """Return all tables."""
    cells = document["cells"]
    worst = max(cells, key=lambda cell: cell["at_margin"]["exact"])
    lines = [
        f"True loss exactly {100 * document['margin']:g} points: how often HARMLESS is said, in per cent. The "
        f"largest of all {len(cells)} cells is {100 * worst['at_margin']['exact']:.2f} % "
        f"({worst['items']:,} items, {100 * worst['discordant']:g} % of the answers differ).",
        "",
        _table(cells, "at_margin", ("exact", "simulated", "tango", "wald")),
        "",
        "No loss at all, and a loss of one point: how often HARMLESS is said, in per cent.",
        "",
        _power_table(cells),
        "",
        "Percentile bootstrap of a perplexity whose true increase is the margin: how often HARMLESS is said, in %.",
        "",
        "| documents | normal | heavy tails |",
        "|---|---|---|",
    ]
    for texts in TEXTS:
        rates = {item["heavy_tails"]: item["rate"] for item in document["bootstrap"] if item["texts"] == texts}
        lines.append(f"| {texts:,} | {100 * rates[False]:.1f} | {100 * rates[True]:.1f} |")
    return "\n".join(lines) + "\n"


def _table(cells: list[dict[str, Any]], name: str, methods: tuple[str, ...]) -> str:
    lines = [
        "| items | answers that differ | ours, summed exactly | ours, simulated | Tango | adjusted Wald |",
        "|---|---|---|---|---|---|",
    ]
    for told in cells:
        rates = " | ".join(f"{100 * told[name][method]:.2f}" for method in methods)
        lines.append(f"| {told['items']:,} | {100 * told['discordant']:g} % | {rates} |")
    return "\n".join(lines)


def _power_table(cells: list[dict[str, Any]]) -> str:
    lines = [
        "| items | answers that differ | no loss: ours | Tango | one point: ours | Tango |",
        "|---|---|---|---|---|---|",
    ]
    for told in cells:
        if told["items"] >= 500 and told["discordant"] <= 0.2:
            none, one = told["at_no_loss"], told["at_one_point"]
            lines.append(
                f"| {told['items']:,} | {100 * told['discordant']:g} % | {100 * none['exact']:.1f} | "
                f"{100 * none['tango']:.1f} | {100 * one['exact']:.1f} | {100 * one['tango']:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
