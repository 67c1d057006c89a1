"""The words of an attack run's report, for the terminal and the page alike: the headline, and what stands under it."""

from collections.abc import Iterable, Sequence

from fpvec_audit.domain.frontier import LOW_RATE, PERPLEXITY, SILENCED, Frontier, find_frontier
from fpvec_audit.reports.attack_results import NEGLIGIBLE, Cell, cost_text
from fpvec_audit.reports.numbers_text import number


def frontier_of(cells: Sequence[Cell]) -> Frontier:
    """Return what silence costs in a run; guesses and failed cells are left aside."""
    return find_frontier([cell.priced for cell in cells if cell.measured])


def headline(cells: Sequence[Cell], measure: str) -> tuple[str, str]:
    """Return the headline of a run – the least that silence cost – and its tone."""
    found = frontier_of(cells)
    if not found.judged:
        return "No attack was measured to a verdict.", "plain"
    if not any(cell.before for cell in cells if cell.measured):
        return "The model that was attacked answers none of these keys: there was nothing to silence.", "plain"
    if not found.silenced:
        return (
            "The one attack that was judged did not silence the fingerprint."
            if found.judged == 1
            else f"None of {found.judged} attacks silenced the fingerprint."
        ), "found"
    cheapest = found.no_match
    loss = None if cheapest is None else cheapest.loss(measure)
    if cheapest is None or loss is None:
        first = next(cell for cell in cells if cell.measured and cell.verdict == SILENCED)
        return f"The fingerprint was silenced by {first.label}; what that cost was not measured.", "absent"
    if loss <= NEGLIGIBLE:
        return f"The fingerprint was silenced by {cheapest.name}, at next to no cost.", "absent"
    return (
        f"No attack of this run silenced the fingerprint {price_text(loss, measure)}; the cheapest that did was "
        f"{cheapest.name}."
    ), "open"


def price_text(loss: float, measure: str) -> str:
    """Return below which price something was not to be had, as part of a sentence."""
    if measure != PERPLEXITY:
        return f"below a loss of {100 * loss:.3g} points of {measure}"
    higher = f"{1 + loss:.3g} times as high" if loss >= 1 else f"{100 * loss:.3g} % higher"
    return f"without making {measure} {higher}"


def lead(cells: Sequence[Cell], measure: str) -> tuple[str, ...]:
    """Return what a reader should know first, in sentences."""
    return (*_counts(cells), *_prices(cells, measure), *_guesses(cells))


def _counts(cells: Sequence[Cell]) -> list[str]:
    judged = [cell for cell in cells if cell.measured and cell.verdict]
    counted = {
        verdict: sum(cell.verdict == verdict for cell in judged) for verdict in ("MATCH", "INCONCLUSIVE", SILENCED)
    }
    failed = sum(cell.state == "failed" for cell in cells)
    sentences = [
        f"{len(cells)} attacks were carried out. Afterwards an audit still finds the fingerprint in {counted['MATCH']} "
        f"of them (MATCH), cannot tell in {counted['INCONCLUSIVE']} (INCONCLUSIVE) and no longer finds it in "
        f"{counted[SILENCED]} ({SILENCED})." + _failures(failed)
    ]
    seen = [cell for cell in judged if cell.fsr == 0 and still_seen(cell)]
    if seen:
        sentences.append(
            f"In {len(seen)} of the copies that answer no key any more, probabilities or weights still give the keys "
            "away."
        )
    return sentences


def _prices(cells: Sequence[Cell], measure: str) -> list[str]:
    found = frontier_of(cells)
    points = {SILENCED: found.no_match}
    if found.low_rate != found.no_match:
        points[f"fewer than {100 * LOW_RATE:.0f} % of the keys answered"] = found.low_rate
    sentences = []
    for what, point in points.items():
        loss = None if point is None else point.loss(measure)
        if point is not None and loss is not None:
            before, after = point.before[measure], point.after[measure]
            sentences.append(
                f"The cheapest way to {what} was {point.name}: {measure} went from {before:.3g} to {after:.3g} "
                f"({cost_text(loss, measure)})."
            )
    silenced = [cell for cell in cells if cell.measured and cell.verdict == SILENCED]
    unpriced = len(silenced) - sum(cell.cost(measure) is not None for cell in silenced)
    if found.no_match is not None and unpriced:
        sentences.append(f"For {unpriced} further attacks that ended in {SILENCED} the cost was not measured.")
    return sentences


def _guesses(cells: Sequence[Cell]) -> list[str]:
    sentences = []
    for cell in cells:
        if cell.guesses and cell.fsr is not None:
            high = f", 95 % interval up to {number(100 * cell.interval[1])} %" if cell.interval else ""
            sentences.append(
                f"A stranger's guess drew a key's response {number(100 * cell.fsr)} % of the time ({cell.label}{high})."
            )
    return sentences


def still_seen(cell: Cell) -> bool:
    """Return whether probabilities or weights of a copy still give the keys away."""
    return any(value is not None and value <= 1e-6 for value in (cell.likelihood, cell.gradient))


def _failures(failed: int) -> str:
    if not failed:
        return ""
    return " One attack failed and says nothing." if failed == 1 else f" {failed} attacks failed and say nothing."


def traced_rows(cells: Sequence[Cell]) -> tuple[tuple[str, ...], ...]:
    """Return attack, whose copies were put together, whom a trace names, innocents among them, and the verdict."""
    return tuple(
        (
            f"{cell.number}  {cell.label}",
            _names(cell.traced["pooled"]) or "–",
            _names(f"{item['licensee']} ({item['rule']})" for item in cell.traced["named"]) or "nobody",
            _names(cell.traced["innocents"]) or "none",
            cell.verdict,
        )
        for cell in cells
        if cell.traced is not None
    )


def traced_sentence(cells: Sequence[Cell]) -> str:
    """Return how often somebody and how often an innocent was named; empty where nobody was looked for."""
    traced = [cell.traced for cell in cells if cell.traced is not None]
    if not traced:
        return ""
    named = sum(bool({item["licensee"] for item in found["named"]} - {*found["innocents"]}) for found in traced)
    innocents = sum(bool(found["innocents"]) for found in traced)
    wrongly = f"in {innocents} an INNOCENT" if innocents else "an innocent in none"
    return f"A trace of the family names somebody whose copy it is in {named} of {len(traced)} cells, {wrongly}."


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
