"""The figures of a family's trace: its marks as a strip of cells, licensees by what they share, carriers by z."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil, log, sqrt
from typing import TYPE_CHECKING, Any

from fpvec_audit.reports.carriers_text import findings_of
from fpvec_audit.reports.dot_rows import Axis, Dot, Row, draw_rows
from fpvec_audit.reports.drawing import PALETTE, bare_axes, label, new_figure
from fpvec_audit.reports.family_text import standing_text, told_by_text
from fpvec_audit.reports.numbers_text import p_text
from fpvec_audit.reports.page import Chart, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL, SMALL_CELL, GAP, EDGE = 38, 26, 3, 4
"""Sides of a mark's cell, of one among many, the gap between two and the margin, in CSS pixels."""
MANY_MARKS = 64
LEAST_SHARE_SHOWN = 0.03
"""Smaller shares have no bar: it would be a speck."""
MOST_ROWS = 8
"""Licensees in a figure; those that are named are all shown."""


def marks_chart(family: Mapping[str, Any], marks: Sequence[Mapping[str, Any]], place: int) -> Chart:
    """Return the strip of a family's marks.

    Args:
        family: the family's object in a trace's document.
        marks: its marks, by number.
        place: of the family in the document, for the figure's name.
    """
    seen = ", ".join(str(mark["mark"]) for mark in marks if mark["state"] == "PRESENT")
    weighed = any(mark["coefficient"] is not None for mark in marks)
    share = " The bar below a number is the share of the mark's vector in the weights." if weighed else ""
    return Chart(
        name=f"marks-{place}",
        caption=(
            "One cell a mark: full where its answers tell that it is PRESENT, framed where its share of the weights "
            f"alone does, pale where it is UNKNOWN, which never means absent.{share}"
        ),
        description=f"Marks of {family['name']}. PRESENT: {seen or 'none'}; {len(marks)} in all.",
        table=Table(
            "Marks of the family",
            ("Mark", "State", "Told by", ">Keys", ">p", ">Share λ̂"),
            tuple(_mark_row(mark) for mark in marks),
        ),
        draw=partial(_draw_marks, marks),
    )


def licensees_chart(family: Mapping[str, Any], place: int) -> Chart | None:
    """Return the figure of who shares how many marks with what was read; None where nobody shares any."""
    ranked = family["licensees"]
    if not ranked:
        return None
    needed = [(float(count), f"rule {rule}: {count}") for rule, count in family["needed"].items() if count is not None]
    weight = max(item["weight"] for item in ranked)
    shown = [item for at, item in enumerate(ranked) if item["named"] or at < MOST_ROWS]
    rows = tuple(
        Row(
            str(item["licensee"]),
            f"{item['shared']} of {item['weight']}{', named' if item['named'] else ''}",
            (Dot(float(item["shared"]), filled=bool(item["named"])),),
            tone="found" if item["named"] else "ink",
        )
        for item in shown
    )
    step = max(1, ceil(weight / 8))
    ticks = tuple((float(tick), str(tick)) for tick in range(0, weight + 1, step))
    more = f" The {len(shown)} likeliest are drawn." if len(ranked) > len(shown) else ""
    return Chart(
        name=f"licensees-{place}",
        caption=(
            "How many of the marks of each licensee's copy are PRESENT. Filled dots are named; left of a dashed line "
            f"an innocent may stand.{more}"
        ),
        description="Shared marks by licensee. " + "; ".join(f"{row.label}: {row.note}" for row in rows) + ".",
        table=Table(
            "Licensees, the likeliest first",
            ("Licensee", ">Marks", ">p", "Named"),
            tuple(_licensee_row(item) for item in ranked),
        ),
        draw=partial(draw_rows, rows, Axis(0.0, float(weight), ticks, tuple(needed[:1]), "marks that are PRESENT")),
        folded=False,
    )


def carriers_chart(carriers: Mapping[str, Any], place: int) -> Chart:
    """Return the figure of how strongly carriers show: the owner's own, and the largest of the licensees'.

    Args:
        carriers: what was found of one key set's carriers.
        place: of the object in the document, for the figure's name.
    """
    findings = findings_of(carriers)
    own, *others = findings
    shown = [own, *(item for at, item in enumerate(others) if item["present"] or at < MOST_ROWS)]
    bound = _least_z(carriers)
    rows = tuple(
        Row(
            str(item["licensee"]),
            f"z = {_signed(item['z'])}{', there' if item['present'] else ''}",
            (Dot(item["z"], filled=bool(item["present"])),),
            tone="found" if item["present"] else "ink",
        )
        for item in shown
    )
    low = min(0.0, *(item["z"] for item in shown))
    high = max(bound * 1.2, *(item["z"] for item in shown))
    step = float(max(1, round((high - low) / 6)))
    ticks = tuple((tick * step, _signed(tick * step)) for tick in range(ceil(low / step), int(high // step) + 1))
    return Chart(
        name=f"carriers-{place}",
        caption=(
            "How strongly each carrier shows in the weights: z in standard deviations of what chance would give at "
            f"most. From the dashed line on one licensee's of {carriers['candidates']} would be called present. Every "
            "copy has the owner's."
        ),
        description="z of carriers. " + "; ".join(f"{row.label}: {row.note}" for row in rows) + ".",
        table=Table(
            f"Carriers, the strongest of {carriers['candidates']} licensees' first",
            ("Whose", ">z", ">p", ">p, corrected for all", "Result"),
            tuple(
                (
                    str(item["licensee"]),
                    _signed(item["z"]),
                    p_text(item["p_value"]),
                    p_text(item["p_value_corrected"]),
                    "there" if item["present"] else "–",
                )
                for item in findings
            ),
        ),
        draw=partial(draw_rows, rows, Axis(low, high, ticks, ((bound, f"present from z = {bound:.1f}"),), "z")),
        folded=False,
    )


def _least_z(carriers: Mapping[str, Any]) -> float:
    """Return the z from which the strongest licensee's carrier is called present: exp(−z²/2) times all corrections."""
    corrections = carriers["grinding_allowance"] * max(1, carriers["candidates"])
    return sqrt(2 * log(corrections / carriers["alpha"]))


def _signed(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def _mark_row(mark: Mapping[str, Any]) -> tuple[str, ...]:
    share = mark["coefficient"]
    return (
        str(mark["mark"]),
        str(mark["state"]),
        told_by_text(mark),
        f"{mark['matched']} of {mark['keys']}",
        p_text(mark["p_value"]),
        "–" if share is None else f"{share:.3f}".replace("-", "−"),
    )


def _licensee_row(item: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(item["licensee"]),
        f"{item['shared']} of {item['weight']}",
        p_text(min(item["rules"].values())) if item["rules"] else "–",
        standing_text(item),
    )


def _draw_marks(marks: Sequence[Mapping[str, Any]], width: int) -> "Figure":
    side = CELL if len(marks) <= MANY_MARKS else SMALL_CELL
    columns = max(1, min(len(marks), (width - 2 * EDGE) // (side + GAP)))
    rows = ceil(len(marks) / columns)
    height = rows * (side + GAP)
    figure = new_figure(width, height + 2 * EDGE)
    axes = bare_axes(figure, EDGE, EDGE, width - 2 * EDGE, height)
    axes.set_xlim(0, width - 2 * EDGE)
    axes.set_ylim(height, 0)
    for place, mark in enumerate(marks):
        row, column = divmod(place, columns)
        _draw_cell(axes, mark, column * (side + GAP), row * (side + GAP), side)
    return figure


def _draw_cell(axes: "Axes", mark: Mapping[str, Any], left: int, top: int, side: int) -> None:
    from matplotlib.patches import Rectangle

    present = mark["state"] == "PRESENT"
    answered = present and "answers" in told_by_text(mark)
    edge = PALETTE["found"] if present else PALETTE["rule"]
    face = PALETTE["found"] if answered else PALETTE["paper"]
    axes.add_patch(
        Rectangle(
            (left + 1, top + 1), side - 2, side - 2, facecolor=face, edgecolor=edge, linewidth=1.8 if present else 0.8
        )
    )
    ink = PALETTE["paper"] if answered else PALETTE["ink"] if present else PALETTE["muted"]
    label(axes, left + side / 2, top + side / 2 - 2, str(mark["mark"]), ha="center", color=ink)
    share = mark["coefficient"]
    if share is not None and share >= LEAST_SHARE_SHOWN:
        length = (side - 10) * min(1.0, share)
        axes.add_patch(Rectangle((left + 5, top + side - 8), length, 3, facecolor=ink, linewidth=0))
