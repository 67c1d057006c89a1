"""Rows of dots with intervals along one axis: shares, p-values, weights and differences all look alike.

The label of a row stands above its line, so that it has the whole width, on a telephone as on paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING

from fpvec_audit.reports.audit_text import LEAST_P_IN_PROSE
from fpvec_audit.reports.drawing import PALETTE, bare_axes, label, new_figure, shortened
from fpvec_audit.reports.numbers_text import number, p_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, FOOT, HEAD, EDGE = 40, 38, 18, 5
"""Heights of a row, of the axis under all rows and of the names of lines above them, and the margin, in CSS pixels."""
LINE = 28
"""Where in its row the line of a row runs, in CSS pixels."""
MOST_DECADES = -log10(LEAST_P_IN_PROSE)
"""Where the axis of p-values ends: what is rarer is drawn at the end."""
CHARACTER = 6.2
"""Width of a character of a label, in CSS pixels, on the safe side."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One value.

    Attributes:
        x: where, in the axis' units.
        filled: whether it is filled; a hollow one is the value before some correction.
    """

    x: float
    filled: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the figure.

    Attributes:
        label: what it is.
        note: its numbers.
        dots: its values.
        span: interval through the values, None for none.
        band: range that it is compared with, drawn broad and pale; None for none.
        tone: colour.
    """

    label: str
    note: str
    dots: tuple[Dot, ...]
    span: tuple[float, float] | None = None
    band: tuple[float, float] | None = None
    tone: str = "ink"


@dataclass(frozen=True, slots=True)
class Axis:
    """The axis that all rows share.

    Attributes:
        low: left end.
        high: right end.
        ticks: (value, text).
        lines: (value, text) of lines that mean something.
        title: what is measured; empty where the ticks say it.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    lines: tuple[tuple[float, str], ...] = ()
    title: str = ""


SHARES = Axis(0.0, 1.0, tuple((tick / 100, f"{tick} %") for tick in (0, 25, 50, 75, 100)))


def p_axis(alpha: float, what: str) -> Axis:
    """Return the axis of p-values: the rarer under chance, the further to the right.

    Args:
        alpha: significance level.
        what: what is decided there.
    """
    ticks = tuple((float(power), "1" if not power else number(10.0**-power)) for power in (0, 3, 6, 9, 12))
    line = (decades(alpha), f"{what} at {number(alpha)} or less")
    return Axis(0.0, MOST_DECADES, ticks, (line,), "p: how often chance alone would do as well")


def decades(p_value: float) -> float:
    """Return −log10 of a probability, at most what the axis shows."""
    return min(MOST_DECADES, -log10(p_value)) if p_value > 0 else MOST_DECADES


def p_note(p_value: float, corrected: float | None = None) -> str:
    """Return what stands at the right of a row of p-values."""
    first = p_text(p_value)
    return first if corrected is None else f"{first}, corrected {p_text(corrected)}"


def draw_rows(rows: Sequence[Row], axis: Axis, width: int) -> "Figure":
    """Draw rows one under the other.

    Args:
        rows: from top to bottom.
        axis: what they share.
        width: of the figure, in CSS pixels.
    """
    head = HEAD if axis.lines else 4
    foot = FOOT if axis.title else FOOT - 14
    height = len(rows) * ROW
    figure = new_figure(width, head + height + foot)
    axes = bare_axes(figure, EDGE, head, width - 2 * EDGE, height)
    axes.set_xlim(axis.low, axis.high)
    axes.set_ylim(height, 0)
    _draw_axis(axes, axis, height)
    for place, row in enumerate(rows):
        _draw_row(axes, row, place * ROW, axis, width - 2 * EDGE)
    return figure


def _draw_axis(axes: "Axes", axis: Axis, height: int) -> None:
    for value, text in axis.ticks:
        for line in range(LINE, height, ROW):
            axes.plot([value] * 2, [line, line + 4], color=PALETTE["rule"], linewidth=0.8, zorder=0, clip_on=False)
        side = "left" if value <= axis.low else "right" if value >= axis.high else "center"
        label(axes, value, height + 7, text, ha=side, color=PALETTE["muted"])
    for value, text in axis.lines:
        axes.plot([value, value], [0, height], color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        side = "right" if value > (axis.low + axis.high) / 2 else "left"
        label(axes, value, -8, text, ha=side, color=PALETTE["muted"])
    if axis.title:
        label(axes, axis.low, height + 24, axis.title, ha="left", color=PALETTE["muted"])


def _draw_row(axes: "Axes", row: Row, top: int, axis: Axis, width: int) -> None:
    line = top + LINE
    colour = PALETTE[row.tone]
    room = int(width / CHARACTER) - len(row.note) - 2
    label(axes, axis.low, top + 12, shortened(row.label, max(8, room)), ha="left")
    label(axes, axis.high, top + 12, row.note, ha="right", color=PALETTE["muted"])
    axes.plot([axis.low, axis.high], [line, line], color=PALETTE["rule"], linewidth=0.8, zorder=0, clip_on=False)
    if row.band:
        axes.plot(row.band, [line, line], color=PALETTE["rule"], linewidth=6, zorder=1, solid_capstyle="butt")
    if row.span:
        axes.plot(row.span, [line, line], color=colour, linewidth=2, zorder=2, clip_on=False)
    for dot in row.dots:
        axes.plot(
            [min(axis.high, max(axis.low, dot.x))],
            [line],
            marker="o",
            linestyle="none",
            markersize=5.5,
            markerfacecolor=colour if dot.filled else PALETTE["paper"],
            markeredgecolor=colour,
            markeredgewidth=1.2,
            zorder=3,
            clip_on=False,
        )
