"""Attack runs in a terminal: the headline first, then every attack with what it left and what it cost.

Nothing depends on colour, and a table fits 80 columns; a wider terminal gets more of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fpvec_audit.domain.frontier import PERPLEXITY
from fpvec_audit.reports.attack_results import Cell, measure_of, points_text, read_cells
from fpvec_audit.reports.attack_text import headline, lead, traced_rows, traced_sentence
from fpvec_audit.reports.audit_text import p_shown
from fpvec_audit.reports.terminal import render_bullets, table_of, verdict_text

WIDE = 110
"""Columns of a terminal from which on everything has a column of its own."""
NARROW = ("keys", "p\nanswers", "p like-\nlihood", "utility")
"""Columns of numbers where there is little room."""
TONES = {"found": "bold green", "absent": "bold red", "open": "bold yellow", "plain": "bold"}


def render_run(document: Mapping[str, Any], console: Console) -> None:
    """Show an attack run: what silence costs, every attack, guesses by kind, and what limits all this."""
    cells = read_cells(document)
    measure = measure_of(cells)
    first, tone = headline(cells, measure)
    console.print(Text(first, style=TONES[tone]))
    for sentence in lead(cells, measure):
        console.print(Text(sentence))
    console.print()
    render_cells(document, console)
    render_bullets(console, "Notes", document.get("warnings") or ())
    console.print()
    console.print(Text(_ending(document), style="dim"))


def render_cells(document: Mapping[str, Any], console: Console) -> None:
    """Show what attacks left of a fingerprint, and what they cost."""
    cells = read_cells(document)
    titles = [_titled(cell, raw) for cell, raw in zip(cells, document["cells"], strict=True)]
    console.print(_cells_table(cells, titles, wide=console.width >= WIDE))
    console.print(Text(_legend(cells), style="dim"))
    _render_guesses(cells, titles, console)
    _render_traced(cells, console)
    problems = [
        f"{cell.number}  {title}: {cell.problem}" for cell, title in zip(cells, titles, strict=True) if cell.problem
    ]
    render_bullets(console, "Failed or not measured", problems)


def render_attacks(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List attacks with their parameters."""
    rows = [
        [
            attack["name"],
            attack["kind"],
            attack["description"],
            ", ".join(f"{item['name']}={item['default']}" for item in attack["parameters"]) or "–",
        ]
        for attack in document
    ]
    console.print(table_of("Attacks", ("name", "kind", "what it does", "parameters"), rows))


def render_cleared(document: Mapping[str, Any], console: Console) -> None:
    """Show what clearing the cache of attacked copies did."""
    used = f"; {document['in_use']} in use stayed" if document["in_use"] else ""
    console.print(f"{document['removed']} attacked copies removed, {document['bytes_freed'] / 1e6:.1f} MB freed{used}")


def _cells_table(cells: Sequence[Cell], titles: Sequence[str], *, wide: bool) -> Table:
    """Return a row for every attack; names break, numbers and verdicts do not."""
    table = Table(
        title="Attacks", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("attack", overflow="fold")
    numbers = ("keys", "95 % interval", "p answers", "p likelihood", "λ̂", "utility") if wide else NARROW
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("result", no_wrap=True, overflow="fold")
    for cell, title in zip(cells, titles, strict=True):
        interval = "–" if cell.interval is None else f"{100 * cell.interval[0]:.0f}–{100 * cell.interval[1]:.0f}"
        keys = [_rate(cell), interval]
        tests = [_p(cell.p_value), _p(cell.likelihood)]
        share = ["–" if cell.share is None else f"{cell.share:.2f}"]
        row = [*keys, *tests, *share] if wide else ["\n".join(keys), *tests]
        table.add_row(str(cell.number), Text(title), *row, _cost(cell, wide=wide), _result(cell))
    return table


def _rate(cell: Cell) -> str:
    if cell.fsr is None:
        return "–"
    return f"{100 * cell.fsr:.3g} %"


def _p(value: float | None) -> str:
    return "–" if value is None else p_shown(value)


def _cost(cell: Cell, *, wide: bool) -> str:
    """Return what an attack cost by every measure that was taken, briefly."""
    told = []
    for measure in cell.before_utility:
        cost = cell.cost(measure)
        if cost is not None:
            told.append(f"×{1 + cost:.3g}" if measure == PERPLEXITY else f"{points_text(cost)} pts")
    return (", " if wide else "\n").join(told) or "–"


def _result(cell: Cell) -> Text:
    if cell.state != "succeeded":
        return Text(cell.state, style="bold red")
    if cell.verdict:
        return verdict_text(cell.verdict)
    return Text("guessed" if cell.guesses else cell.state)


def _legend(cells: Sequence[Cell]) -> str:
    before = next((cell for cell in cells if cell.before is not None), None)
    utility = next((cell.before_utility for cell in cells if cell.before_utility), {})
    worth = ", ".join(f"{measure} {value:.3g}" for measure, value in utility.items())
    told = (
        "keys: share answered afterwards (where guessed: false triggers), with its 95 % interval in %; utility: change "
        "of accuracy in points, and of perplexity as a multiple (×)"
    )
    if before is not None and before.before is not None:
        told += f". The stamped model answers {100 * before.before:.3g} % of them"
        told += f" and has {worth}" if worth else ""
    return f"{told}."


def _render_guesses(cells: Sequence[Cell], titles: Sequence[str], console: Console) -> None:
    """Show guesses by kind: what a stranger can ask, and what takes somebody who knows a key."""
    rows = [
        [
            title,
            group["kind"],
            str(group["asked"]),
            str(group["triggered"]),
            f"{100 * group['rate']:.3g} %",
            f"{100 * group['interval'][0]:.3g}–{100 * group['interval'][1]:.3g} %",
        ]
        for cell, title in zip(cells, titles, strict=True)
        for group in cell.groups
    ]
    if rows:
        columns = ("attack", "guess", ">asked", ">triggered", ">rate", ">95 % interval")
        console.print()
        console.print(table_of("Guesses by kind (near-misses take somebody who knows a key)", columns, rows))


def _render_traced(cells: Sequence[Cell], console: Console) -> None:
    """Show whom a trace of a family names after every attack, beside whose copies are in it."""
    rows = [list(row) for row in traced_rows(cells)]
    if rows:
        console.print()
        console.print(table_of(traced_sentence(cells), ("attack", "copies of", "named (rule)", "innocents", ""), rows))


def _titled(cell: Cell, raw: Mapping[str, Any]) -> str:
    return f"{cell.label} on {raw['model']}" if "model" in raw else cell.label


def _ending(document: Mapping[str, Any]) -> str:
    resumed = f", {document['resumed']} of them from the interrupted run" if document.get("resumed") else ""
    return (
        f"{len(document['cells'])} cells{resumed}; {document.get('engine_starts', 0)} engine starts, "
        f"{document.get('seconds', 0.0):.0f} s; run {document.get('matrix_id') or '–'}"
    )
