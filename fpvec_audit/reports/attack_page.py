"""An attack run as a page: whether the fingerprint could be silenced, what that cost, and every attack beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fpvec_audit.domain.frontier import SILENCED
from fpvec_audit.reports.attack_charts import frontier_chart, guesses_chart, matrix_chart, serving_chart
from fpvec_audit.reports.attack_results import Cell, measure_of, parameters_text, read_cells
from fpvec_audit.reports.attack_text import headline, lead, traced_rows, traced_sentence
from fpvec_audit.reports.audit_text import percent
from fpvec_audit.reports.numbers_text import number, p_text, sentence
from fpvec_audit.reports.page import Block, Fold, Group, Page, Pairs, Points, Section, Table, Text, listed, present
from fpvec_audit.reports.sweep_charts import sweep_charts

LIMITS = (
    "that no other attack does better: only the attacks listed here were carried out, with these parameters",
    "that the same holds for another model, another key set or another seed: every attack was carried out once",
    "that usefulness is all that an attacker loses or keeps: it is one measure, on one set of texts or tasks",
)


def attack_page(document: Mapping[str, Any]) -> Page:
    """Return the page of an attack run.

    Args:
        document: the run's JSON document.
    """
    cells = read_cells(document)
    measure = measure_of(cells)
    first, tone = headline(cells, measure)
    return Page(
        subject=f"Attacks on {document.get('stamped', 'a stamped model')} with key set "
        f"{document.get('key_set_name') or document.get('key_set', '–')}",
        verdict="",
        tone=tone,
        headline=first,
        facts=_facts(cells),
        lead=lead(cells, measure),
        sections=(
            Section("evidence", "Evidence", _evidence(cells, measure)),
            Section("method", "Method", _method(document, cells, measure)),
            Section("limits", "Limits", _limits(document, cells)),
            Section("identifiers", "Identifiers", (Pairs(_identifiers(document)),)),
        ),
    )


def _facts(cells: Sequence[Cell]) -> tuple[tuple[str, str], ...]:
    counted = [
        (name, sum(cell.measured and cell.verdict == verdict for cell in cells))
        for verdict, name in (("MATCH", "Still found"), ("INCONCLUSIVE", "In doubt"), (SILENCED, "Not found"))
    ]
    failed = sum(cell.state == "failed" for cell in cells)
    return (*((name, str(number)) for name, number in counted), *([("Failed", str(failed))] if failed else []))


def _evidence(cells: Sequence[Cell], measure: str) -> tuple[Block, ...]:
    matrix, serving = matrix_chart(cells, measure), serving_chart(cells)
    cost = frontier_chart(cells, measure)
    traced = traced_sentence(cells)
    sweeps, guesses = sweep_charts(cells, measure), guesses_chart(cells)
    return present(
        Group("The matrix", (matrix,)) if matrix else None,
        Group("Weights and service together", (serving,)) if serving else None,
        Group("What silence costs", (cost,)) if cost else None,
        Group("By strength", sweeps) if sweeps else None,
        Group("Guessing", (guesses,)) if guesses else None,
        Group("Whom a trace names", (Text((traced,)), _traced_table(cells))) if traced else None,
        Group("Every attack", (_cells_table(cells, measure), _parameters(cells))),
    )


def _cells_table(cells: Sequence[Cell], measure: str) -> Table:
    columns = (
        "Attack",
        ">Keys answered",
        ">95 % interval",
        ">p",
        *([f">{measure.capitalize()}"] if measure else []),
        "Result",
    )
    rows = tuple(
        (
            f"{cell.number}  {cell.label}",
            "–" if cell.fsr is None or cell.guesses else percent(cell.fsr),
            _interval(cell),
            _p(cell.p_value),
            *([_utility(cell, measure)] if measure else []),
            cell.verdict or (f"{number(100 * (cell.fsr or 0))} % false triggers" if cell.guesses else cell.state),
        )
        for cell in cells
    )
    return Table("Every attack in the order of the run", columns, rows)


def _traced_table(cells: Sequence[Cell]) -> Table:
    columns = ("Attack", "Copies of", "Named (rule)", "Innocents", "Result")
    return Table(
        "Whose copies an attack put together, and whom a trace of the result names", columns, traced_rows(cells)
    )


def _interval(cell: Cell) -> str:
    if cell.interval is None or cell.guesses:
        return "–"
    return f"{number(100 * cell.interval[0], 3)} to {number(100 * cell.interval[1], 3)} %"


def _p(value: float | None) -> str:
    return "–" if value is None else p_text(value)


def _utility(cell: Cell, measure: str) -> str:
    before, after = cell.before_utility.get(measure), cell.after_utility.get(measure)
    return "–" if before is None or after is None else f"{before:.3g} → {after:.3g}"


def _parameters(cells: Sequence[Cell]) -> Fold:
    items = tuple((f"{cell.number}  {cell.label}", parameters_text(cell.parameters) or "none") for cell in cells)
    return Fold("Parameters of every attack", (Pairs(items),))


def _method(document: Mapping[str, Any], cells: Sequence[Cell], measure: str) -> tuple[Block, ...]:
    worth = (
        f"How useful a copy still is was measured as {measure}, before and after, on the same items."
        if measure
        else "How useful the copies still are was not measured."
    )
    steps = (
        "Every attack starts from the same stamped model, which stays as it is. Attacks joined by + are carried out "
        "one after the other on the same copy.",
        "Whoever attacks does not know the keys; guesses are made without them, except near-misses, which say so.",
        "Afterwards the copy is audited like any suspect: all keys and all decoys, the same tests.",
        worth,
    )
    seed = document.get("seed")
    fixed = () if seed is None else (Text((f"Everything random in the attacks follows from seed {seed}.",)),)
    return (Points(steps, ordered=True), *fixed)


def _limits(document: Mapping[str, Any], cells: Sequence[Cell]) -> tuple[Block, ...]:
    failed = [f"{cell.label}: {cell.problem}" for cell in cells if cell.problem]
    notes = [*(document.get("warnings") or ()), *failed]
    weakening = listed([sentence(note) for note in notes])
    return present(
        Group("What this does not prove", (Points(tuple(document.get("does_not_prove") or LIMITS)),)),
        Group("What failed or was not measured", (weakening,)) if weakening else None,
    )


def _identifiers(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    named = (
        ("stamped model", "stamped"),
        ("weights", "stamped_digest"),
        ("key set", "key_set"),
        ("run", "matrix_id"),
        ("suite", "suite"),
    )
    return tuple((name, str(document[field])) for name, field in named if document.get(field))
