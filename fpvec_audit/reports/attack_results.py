"""What the cells of an attack run say, read once for the table, the figures and the headline of a report.

What an attack cost is defined in :mod:`fpvec_audit.domain.frontier`; it is read from one measure for all cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from fpvec_audit.domain.frontier import PERPLEXITY, Priced, common_measure, unbeaten, utility_loss

LIKELIHOOD, GRADIENTS = "likelihood", ("gradient", "vocabulary-gradient")
NEGLIGIBLE = 0.02
"""A cost up to which a copy is called as useful as before."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a run.

    Attributes:
        number: from 1, in the order of the run.
        label: name, and what tells it from the other cells of its name.
        links: (attack, what tells it apart) of the attacks that it joins.
        parameters: parameter → value; of joined attacks ``name.parameter``.
        kind: ``weight``, ``query`` or both joined by "+".
        state: ``succeeded`` or ``failed``.
        problem: why it failed, or what could not be measured.
        verdict: the audit's verdict afterwards; empty where there is none.
        before: fingerprint success rate before, None for guesses.
        fsr: the same afterwards; for guesses the rate of false triggers. None where it failed.
        interval: 95 % interval of ``fsr``.
        p_value: of the exact test on answers.
        likelihood: p-value of the likelihood test.
        gradient: smaller p-value of the gradient tests.
        share: largest estimated share λ̂ of a known vector.
        before_utility: measure → value of the stamped model.
        after_utility: the same of the attacked one.
        groups: guesses by kind.
        traced: whom a trace would name, of a family whose marks mean licensees; else None.
    """

    number: int
    label: str
    links: tuple[tuple[str, str], ...]
    parameters: Mapping[str, Any]
    kind: str
    state: str
    problem: str
    verdict: str
    before: float | None
    fsr: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    likelihood: float | None
    gradient: float | None
    share: float | None
    before_utility: Mapping[str, float]
    after_utility: Mapping[str, float]
    groups: tuple[Mapping[str, Any], ...]
    traced: Mapping[str, Any] | None = None

    @property
    def guesses(self) -> bool:
        """Whether it asks guesses, so that its rate is one of false triggers."""
        return self.before is None and self.fsr is not None

    @property
    def measured(self) -> bool:
        """Whether it says how much of the fingerprint is left."""
        return self.before is not None and self.fsr is not None

    def cost(self, measure: str) -> float | None:
        """Return what the attack cost: accuracy lost, or perplexity added as a share; None where it is not known."""
        return utility_loss(measure, self.before_utility, self.after_utility)

    @property
    def priced(self) -> Priced:
        """The cell as the frontier sees it."""
        return Priced(self.number, self.label, self.fsr or 0.0, self.verdict, self.before_utility, self.after_utility)

    def kept(self, measure: str) -> float | None:
        """Return the share of its usefulness that a copy kept, at most 1; None where it is not known."""
        before, after = self.before_utility.get(measure), self.after_utility.get(measure)
        if before is None or after is None or not (isfinite(before) and isfinite(after)):
            return None
        over, under = (before, after) if measure == PERPLEXITY else (after, before)
        return min(1.0, over / under) if under else None


def read_cells(document: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Return the cells of a run's document."""
    cells = document["cells"]
    links = [_links(cell) for cell in cells]
    varying = _varying(links)
    return tuple(_cell(place + 1, cell, links[place], varying) for place, cell in enumerate(cells))


def measure_of(cells: Sequence[Cell]) -> str:
    """Return the measure of utility that tells of most cells; empty where none was measured."""
    return common_measure([cell.priced for cell in cells])


def cost_text(cost: float, measure: str) -> str:
    """Return a cost in words."""
    if measure == PERPLEXITY:
        return f"{measure} × {1 + cost:.3g}"
    return f"{measure} {points_text(cost)} points"


def points_text(cost: float) -> str:
    """Return a cost in accuracy as the change in points, with its sign."""
    change = round(-100 * cost, 1)
    return f"{change:+.1f}".replace("-", "−") if change else "±0.0"


def frontier(cells: Sequence[Cell], measure: str) -> tuple[Cell, ...]:
    """Return the cells that no other beats: whatever leaves less of the fingerprint costs more; the cheapest first."""
    measured = {cell.number: cell for cell in cells if cell.measured and cell.fsr is not None}
    return tuple(measured[found.number] for found in unbeaten([cell.priced for cell in measured.values()], measure))


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Return parameters as text."""
    return ", ".join(f"{name.replace('_', ' ')} {value_text(value)}" for name, value in parameters.items())


def value_text(value: Any) -> str:
    """Return one value of a parameter as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _links(cell: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    parameters = cell["parameters"]
    chain = parameters.get("chain")
    if isinstance(chain, list):
        return [(link["name"], link["parameters"]) for link in chain]
    return [(cell["name"], parameters)]


def _varying(links: Sequence[Sequence[tuple[str, Mapping[str, Any]]]]) -> dict[str, set[str]]:
    """Return per attack the parameters that differ among its uses."""
    values: dict[tuple[str, str], set[str]] = {}
    for chain in links:
        for name, parameters in chain:
            for parameter, value in parameters.items():
                values.setdefault((name, parameter), set()).add(repr(value))
    found: dict[str, set[str]] = {}
    for (name, parameter), different in values.items():
        if len(different) > 1:
            found.setdefault(name, set()).add(parameter)
    return found


def _cell(
    number: int,
    cell: Mapping[str, Any],
    links: Sequence[tuple[str, Mapping[str, Any]]],
    varying: Mapping[str, set[str]],
) -> Cell:
    told = [
        (name, _told({key: value for key, value in own.items() if key in varying.get(name, ())})) for name, own in links
    ]
    tests = {test["name"]: test["p_value"] for test in cell.get("tests") or () if "p_value" in test}
    interval = cell["interval"]
    return Cell(
        number=number,
        label=" + ".join(link_label(*link) for link in told),
        links=tuple(told),
        parameters=dict(links[0][1])
        if len(links) == 1
        else {f"{name}.{key}": value for name, own in links for key, value in own.items()},
        kind=cell["kind"],
        state=cell["state"],
        problem=cell.get("problem") or "",
        verdict=cell["verdict"] or "",
        before=cell["fsr_before"],
        fsr=cell["fsr_after"],
        interval=None if interval is None else (interval[0], interval[1]),
        p_value=cell["p_value"],
        likelihood=tests.get(LIKELIHOOD),
        gradient=min((tests[name] for name in GRADIENTS if name in tests), default=None),
        share=_largest_share(cell.get("weights")),
        before_utility=cell["utility_before"] or {},
        after_utility=cell["utility_after"] or {},
        groups=tuple(cell.get("groups") or ()),
        traced=cell.get("traced"),
    )


def link_label(name: str, told: str) -> str:
    """Return an attack with what tells it apart."""
    return f"{name} ({told})" if told else name


def _told(parameters: Mapping[str, Any]) -> str:
    """Return what tells uses of an attack apart, in few words: a value that is a word needs no name."""
    return ", ".join(
        value if isinstance(value, str) else parameters_text({name: value}) for name, value in parameters.items()
    )


def _largest_share(weights: Any) -> float | None:
    vectors = weights.get("vectors", ()) if isinstance(weights, Mapping) else ()
    return max((vector["coefficient"] for vector in vectors if "coefficient" in vector), default=None)
