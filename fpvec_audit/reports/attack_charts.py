"""The figures of an attack run: the whole matrix at a glance, what silence costs, and guesses by kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import copysign, log10, sqrt
from typing import TYPE_CHECKING

from fpvec_audit.domain.frontier import PERPLEXITY
from fpvec_audit.reports.attack_results import Cell, cost_text, frontier, link_label
from fpvec_audit.reports.audit_text import percent
from fpvec_audit.reports.dot_rows import CHARACTER, MOST_DECADES, SHARES, Dot, Row, decades, draw_rows
from fpvec_audit.reports.drawing import NARROW, PALETTE, bare_axes, label, label_left, new_figure, shortened
from fpvec_audit.reports.numbers_text import number, p_text
from fpvec_audit.reports.page import Chart, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {"MATCH": "o", "INCONCLUSIVE": "D", "NO_MATCH": "s"}
TONES = {"MATCH": "found", "NO_MATCH": "absent", "INCONCLUSIVE": "open"}
PALE, DEEP_EVIDENCE, DEEP_UTILITY = "#f1ece1", "#14573b", "#6b4703"
"""Ends of the colours of tiles. They are the same in light and dark, as is the text upon them; no name of the page."""
GAP = 6
"""Pixels between the titles of neighbouring columns, at least."""
AS_STAMPED, PLAINLY = "as stamped", "asked plainly"
EXPLAINED = {
    "keys": "keys answered",
    "answers": "p of the answers",
    "likelihood": "p of the keys' probabilities",
    "weights": "p of the weights' movement",
    "λ̂": "share of the vector in the weights",
    "utility": "usefulness kept",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of tiles.

    Attributes:
        title: what stands above it.
        depth: cell → how deep its tile is, fraction in [0, 1]; None where it is not known.
        text: cell → what stands in its tile.
        deep: colour of the deepest tile.
    """

    title: str
    depth: Callable[[Cell], float | None]
    text: Callable[[Cell], str]
    deep: str = DEEP_EVIDENCE


@dataclass(frozen=True, slots=True)
class TileRow:
    """A row of tiles.

    Attributes:
        label: what it is.
        tiles: (depth or None, text, deepest colour).
        note: what stands at its end.
        tone: colour of the note.
    """

    label: str
    tiles: tuple[tuple[float | None, str, str], ...]
    note: str = ""
    tone: str = "muted"


def matrix_chart(cells: Sequence[Cell], measure: str) -> Chart | None:
    """Return the heat map of a run: what is left of every kind of evidence, beside what the copy is still worth."""
    shown = [cell for cell in cells if cell.measured]
    columns = [column for column in _columns(measure) if any(column.depth(cell) is not None for cell in shown)]
    if not shown:
        return None
    rows = tuple(
        TileRow(
            f"{cell.number}  {cell.label}",
            tuple((column.depth(cell), column.text(cell), column.deep) for column in columns),
            cell.verdict or "–",
            TONES.get(cell.verdict, "muted"),
        )
        for cell in shown
    )
    titles = tuple(column.title for column in columns)
    explained = "; ".join(f"{title}: {EXPLAINED[title]}" for title in titles)
    return Chart(
        name="matrix",
        caption=(
            "Every attack and what it left. Green tiles are evidence, the deeper the more is left; brown ones tell how "
            f"useful the copy still is. An attack pays where green turns pale and brown stays deep. {explained}."
        ),
        description=f"Heat map of {len(shown)} attacks. "
        + "; ".join(_row_described(row, titles) for row in rows)
        + ".",
        table=_tile_table("What every attack left", ("Attack", *titles, "Result"), rows),
        draw=partial(draw_tiles, rows, titles),
    )


def serving_chart(cells: Sequence[Cell]) -> Chart | None:
    """Return the heat map of FSR by weights and way of serving; None where attacks were not crossed."""
    places: dict[tuple[str, str], float] = {}
    for cell in cells:
        if cell.fsr is None or cell.before is None:
            continue
        parts = [link_label(*link) for link in cell.links]
        served = "query" in cell.kind
        row = " + ".join(parts[:-1] if served else parts) or AS_STAMPED
        places.setdefault((AS_STAMPED, PLAINLY), cell.before)
        places[row, parts[-1] if served else PLAINLY] = cell.fsr
    ways = list(dict.fromkeys(way for _, way in places))
    weights = list(dict.fromkeys(row for row, way in places if way != PLAINLY))
    if len(ways) < 2 or len(weights) < 2:
        return None
    rows = tuple(
        TileRow(
            row,
            tuple(
                (share := places.get((row, way)), "–" if share is None else percent(share), DEEP_EVIDENCE)
                for way in ways
            ),
        )
        for row in weights
    )
    return Chart(
        name="serving",
        caption="Share of the keys answered, by what was done to the weights (rows) and to the service (columns).",
        description="Heat map. " + "; ".join(_row_described(row, ways) for row in rows) + ".",
        table=_tile_table("Keys answered by weights and service", ("Weights", *ways), rows),
        draw=partial(draw_tiles, rows, tuple(ways)),
    )


def frontier_chart(cells: Sequence[Cell], measure: str) -> Chart | None:
    """Return the figure of what is left against what it cost; None where no cost was measured."""
    shown = [cell for cell in cells if cell.measured and measure and cell.cost(measure) is not None]
    if not shown:
        return None
    best = frontier(cells, measure)
    described = "; ".join(
        f"{cell.label}: {percent(cell.fsr or 0)} of the keys left at {cost_text(cell.cost(measure) or 0, measure)}"
        for cell in best
    )
    return Chart(
        name="frontier",
        caption=(
            "What is left of the fingerprint against what the attack cost. The stepped line is the frontier: to go "
            "below it, an attacker must give up more. Costs stand at their square root, so that cheap attacks can be "
            "told apart. Numbers are those of the table of all attacks; whiskers are 95 % intervals."
        ),
        description=f"{len(shown)} attacks. On the frontier: {described}.",
        table=Table(
            "Attacks on the frontier, the cheapest first",
            ("Attack", ">Cost", ">Keys left", "Result"),
            tuple(
                (
                    f"{cell.number}  {cell.label}",
                    cost_text(cell.cost(measure) or 0.0, measure),
                    percent(cell.fsr or 0.0),
                    cell.verdict or "–",
                )
                for cell in best
            ),
        ),
        draw=partial(draw_frontier, tuple(shown), best, measure),
        folded=False,
    )


def guesses_chart(cells: Sequence[Cell]) -> Chart | None:
    """Return the figure of false triggers by kind of guess; None where nobody guessed."""
    rows: list[Row] = []
    table: list[tuple[str, ...]] = []
    several = len([cell for cell in cells if cell.groups]) > 1
    for cell in cells:
        for group in cell.groups:
            low, high = group["interval"]
            name = f"{cell.number}  {group['kind']}" if several else str(group["kind"])
            note = f"{group['triggered']} of {group['asked']}"
            rows.append(Row(name, note, (Dot(group["rate"]),), span=(low, high)))
            table.append(
                (name, note, f"{number(100 * group['rate'])} %", f"{number(100 * low)} to {number(100 * high)} %")
            )
    if not rows:
        return None
    return Chart(
        name="guesses",
        caption=(
            "How often a guess drew the response of a key, with 95 % intervals. Near-misses take somebody who knows a "
            "key already."
        ),
        description="False triggers. " + "; ".join(f"{row.label}: {row.note}" for row in rows) + ".",
        table=Table("Guesses by kind", ("Guess", ">Triggered", ">Rate", ">95 % interval"), tuple(table)),
        draw=partial(draw_rows, tuple(rows), SHARES),
        folded=False,
    )


def draw_tiles(rows: Sequence[TileRow], columns: Sequence[str], width: int) -> "Figure":
    """Draw rows of tiles; on a narrow figure the label of a row stands above its tiles."""
    from matplotlib.patches import Rectangle

    narrow = width <= NARROW
    height, left, right = (46, 0, 0) if narrow else (27, 236, 96 if any(row.note for row in rows) else 0)
    figure = new_figure(width, 24 + height * len(rows) + 4)
    axes = bare_axes(figure, 0, 24, width, height * len(rows))
    axes.set_xlim(0, width)
    axes.set_ylim(height * len(rows), 0)
    wide = (width - left - right) / len(columns)
    for place, title in enumerate(columns):
        shown = shortened(title, int((wide - GAP) / CHARACTER))
        label(axes, left + wide * (place + 0.5), -12, shown, ha="center", color=PALETTE["muted"])
    for order, row in enumerate(rows):
        top = order * height
        band, tile = (top + 19, 24) if narrow else (top + 1.5, 24)
        middle = top + 9 if narrow else top + 13.5
        label(axes, 0, middle, shortened(row.label, 36 if narrow else 37), ha="left")
        label(axes, width, middle, row.note, ha="right", color=PALETTE[row.tone], fontweight=700)
        for place, (depth, text, deep) in enumerate(row.tiles):
            x = left + wide * place
            if depth is not None:
                colour = _mixed(PALE, deep, depth)
                axes.add_artist(Rectangle((x + 1, band), wide - 2, tile, facecolor=colour, edgecolor="none"))
            ink = PALETTE["muted"] if depth is None else _readable_on(_mixed(PALE, deep, depth))
            label(axes, x + wide / 2, band + tile / 2, text, ha="center", color=ink)
    return figure


def draw_frontier(cells: Sequence[Cell], best: Sequence[Cell], measure: str, width: int) -> "Figure":
    """Draw what is left against what it cost."""
    left, top, height = 44, 34, 250
    figure = new_figure(width, top + height + 46)
    axes = bare_axes(figure, left, top, width - left - 14, height)
    places = {cell.number: _place(cell.cost(measure) or 0.0, measure) for cell in cells}
    low, high = min(0.0, *places.values()), max(0.2, *places.values())
    margin = 0.04 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(-0.03, 1.03)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        axes.axhline(tick, color=PALETTE["rule"], linewidth=0.6, zorder=0)
        label_left(axes, tick, f"{100 * tick:.0f} %")
    for x, text in _cost_ticks(low, high, measure, most=9 if width > NARROW else 5):
        axes.plot([x, x], [-0.03, 1.03], color=PALETTE["rule"], linewidth=0.6, zorder=0)
        label(axes, x, -0.075, text, ha="center", color=PALETTE["muted"])
    title = "perplexity, times the stamped model's" if measure == PERPLEXITY else f"{measure} lost, points"
    label(axes, low, -0.15, title, ha="left", color=PALETTE["muted"])
    line_x, line_y = [low - margin], [1.0]
    for cell in best:
        line_x += [places[cell.number]] * 2
        line_y += [line_y[-1], cell.fsr or 0.0]
    line_x.append(high + margin)
    line_y.append(line_y[-1])
    axes.plot(line_x, line_y, color=PALETTE["muted"], linewidth=1, zorder=1)
    _draw_legend(
        axes,
        [verdict for verdict in MARKS if any(cell.verdict == verdict for cell in cells)],
        width - left - 14,
        height,
    )
    chosen = {cell.number for cell in best}
    taken: list[tuple[float, float]] = []
    for cell in cells:
        x, y = places[cell.number], cell.fsr or 0.0
        colour = PALETTE[TONES.get(cell.verdict, "muted")]
        if cell.interval:
            axes.plot([x, x], cell.interval, color=colour, linewidth=0.8, alpha=0.45, zorder=2)
        axes.plot(
            [x], [y], marker=MARKS.get(cell.verdict, "o"), linestyle="none", markersize=6, zorder=3, clip_on=False,
            markerfacecolor=colour if cell.number in chosen else PALETTE["paper"], markeredgecolor=colour,
        )  # fmt: skip
        near = any(abs(x - a) < 1.2 * margin and abs(y - b) < 0.06 for a, b in taken)
        if cell.number in chosen or not near:
            label(axes, x + 0.45 * margin, y + 0.035, str(cell.number), ha="left", color=colour)
            taken.append((x, y))
    return figure


def _draw_legend(axes: "Axes", verdicts: Sequence[str], width: int, height: int) -> None:
    """Name the marks above the axes."""
    x, y = 4.0, 1 + 20 / height
    for verdict in verdicts:
        colour = PALETTE[TONES[verdict]]
        axes.plot(
            [x / width], [y], marker=MARKS[verdict], linestyle="none", markersize=6, clip_on=False,
            markerfacecolor=PALETTE["paper"], markeredgecolor=colour, transform=axes.transAxes,
        )  # fmt: skip
        label(axes, (x + 8) / width, y, verdict, ha="left", color=colour, transform=axes.transAxes)
        x += 24 + CHARACTER * 1.25 * len(verdict)


def _columns(measure: str) -> tuple[Column, ...]:
    def p_column(title: str, value: Callable[[Cell], float | None]) -> Column:
        def depth(cell: Cell) -> float | None:
            p_value = value(cell)
            return None if p_value is None else decades(p_value) / MOST_DECADES

        def text(cell: Cell) -> str:
            p_value = value(cell)
            return "–" if p_value is None else p_text(p_value)

        return Column(title, depth, text)

    return (
        Column("keys", lambda cell: cell.fsr, lambda cell: percent(cell.fsr or 0.0)),
        p_column("answers", lambda cell: cell.p_value),
        p_column("likelihood", lambda cell: cell.likelihood),
        p_column("weights", lambda cell: cell.gradient),
        Column(
            "λ̂",
            lambda cell: None if cell.share is None else min(1.0, max(0.0, cell.share)),
            lambda cell: "–" if cell.share is None else f"{cell.share:.2f}",
        ),
        Column(
            "utility",
            lambda cell: cell.kept(measure) if measure else None,
            lambda cell: "–" if (kept := cell.kept(measure)) is None else percent(kept),
            DEEP_UTILITY,
        ),
    )


def _row_described(row: TileRow, columns: Sequence[str]) -> str:
    values = ", ".join(f"{title} {tile[1]}" for title, tile in zip(columns, row.tiles, strict=True))
    return f"{row.label}: {values}{f', {row.note}' if row.note else ''}"


def _tile_table(caption: str, columns: tuple[str, ...], rows: Sequence[TileRow]) -> Table:
    noted = any(row.note for row in rows)
    numbers = len(columns) - noted
    titles = tuple(f">{name}" if 0 < place < numbers else name for place, name in enumerate(columns))
    return Table(
        caption,
        titles,
        tuple((row.label, *(tile[1] for tile in row.tiles), *([row.note] if noted else ())) for row in rows),
    )


def _place(cost: float, measure: str) -> float:
    """Return where on the axis a cost stands: at the root of it, so that cheap attacks can be told apart."""
    size = log10(max(1e-3, 1 + cost)) if measure == PERPLEXITY else 100 * cost
    return copysign(sqrt(abs(size)), size)


def _cost_ticks(low: float, high: float, measure: str, *, most: int) -> list[tuple[float, str]]:
    """Return ticks of the axis of costs, none too near to another and 0 always among them."""
    if measure == PERPLEXITY:
        ratios = (
            0.5,
            0.8,
            0.9,
            1,
            1.01,
            1.05,
            1.1,
            1.2,
            1.5,
            2,
            3,
            5,
            10,
            20,
            50,
            *(10.0**power for power in range(2, 13)),
        )
        named = [(_place(ratio - 1, measure), f"× {ratio:g}") for ratio in ratios]
    else:
        points = (-50, -20, -10, -5, -1, 0, 1, 2, 5, 10, 20, 30, 50, 70, 100)
        named = [(_place(point / 100, measure), f"{point}".replace("-", "−")) for point in points]
    inside = sorted((place for place in named if low - 1e-9 <= place[0] <= high + 1e-9), key=lambda tick: abs(tick[0]))
    kept: list[tuple[float, str]] = []
    for place, text in inside:
        if all(abs(place - other) >= (high - low) / most for other, _ in kept):
            kept.append((place, text))
    return kept


def _mixed(pale: str, deep: str, share: float) -> str:
    ends = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in (pale, deep)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(*ends, strict=True))


def _readable_on(colour: str) -> str:
    """Return black or white, whichever stands out more; one of them always has a contrast of 4.5."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"
