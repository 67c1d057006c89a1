"""Figures of attacks that were carried out at several strengths: the λ curve, survival over steps, and their like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log10
from typing import TYPE_CHECKING, Any

from fpvec_audit.reports.attack_results import Cell, parameters_text, value_text
from fpvec_audit.reports.audit_text import percent
from fpvec_audit.reports.drawing import NARROW, PALETTE, bare_axes, label, label_left, new_figure, shortened
from fpvec_audit.reports.page import Chart, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST_POINTS = 3
LOGARITHMIC_FROM = 20.0
"""Strengths whose ends differ by this factor are drawn at equal ratios."""
SCALES = ("scale", "lambda", "lam")
STEPS = ("steps", "max_steps")
MARKS = (("found", "o"), ("absent", "s"), ("open", "D"), ("alarm", "^"))


@dataclass(frozen=True, slots=True)
class Series:
    """Cells that differ in one parameter only.

    Attributes:
        title: what they have in common and other series have not.
        points: (value of the parameter, cell), in the order of the values.
    """

    title: str
    points: tuple[tuple[float, Cell], ...]


def sweep_charts(cells: Sequence[Cell], measure: str) -> tuple[Chart, ...]:
    """Return one figure for every parameter that was swept over at least three values."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, Cell]]]] = {}
    for cell in cells:
        if not cell.measured:
            continue
        attack = "+".join(name for name, _ in cell.links)
        for parameter, value in cell.parameters.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                others = {name: other for name, other in cell.parameters.items() if name != parameter}
                series = found.setdefault((attack, parameter), {}).setdefault(repr(sorted(others.items(), key=str)), [])
                series.append((float(value), cell))
    swept = {place: _series(groups, place[1]) for place, groups in found.items()}
    return tuple(_chart(attack, parameter, lines, measure) for (attack, parameter), lines in swept.items() if lines)


def draw_sweep(series: Sequence[Series], parameter: str, measure: str, width: int) -> "Figure":
    """Draw what is left of the keys against a strength, and under it how useful the copy still is."""
    left, height, gap, lower = 44, 190, 36, 70
    priced = bool(measure) and any(cell.kept(measure) is not None for one in series for _, cell in one.points)
    names = len(series) if len(series) > 1 else 0
    top = 14 + 16 * names
    figure = new_figure(width, top + height + 40 + (gap + lower if priced else 0))
    values = sorted({value for one in series for value, _ in one.points})
    places = _places(values)
    upper_axes = bare_axes(figure, left, top, width - left - 12, height)
    _frame(upper_axes, values, places, (0, 0.25, 0.5, 0.75, 1), narrow=width <= NARROW, pixels=height, named=not priced)
    _draw_before(upper_axes, series)
    for place, one in enumerate(series):
        tone, marker = MARKS[place % len(MARKS)]
        _draw_line(upper_axes, one, places, PALETTE[tone], marker)
        if names:
            upper_axes.plot(
                [0.012], [height_share(place, names, height)], marker=marker, markersize=5, linestyle="none",
                color=PALETTE[tone], transform=upper_axes.transAxes, clip_on=False,
            )  # fmt: skip
            title = shortened(one.title, 60 if width > NARROW else 40)
            label(
                upper_axes, 0.035, height_share(place, names, height), title, ha="left", transform=upper_axes.transAxes
            )
    if priced:
        axes = bare_axes(figure, left, top + height + gap, width - left - 12, lower)
        _frame(axes, values, places, (0, 0.5, 1), narrow=width <= NARROW, pixels=lower)
        label(axes, 0, 1 + 14 / lower, "utility kept", ha="left", color=PALETTE["muted"], transform=axes.transAxes)
        for place, one in enumerate(series):
            tone, marker = MARKS[place % len(MARKS)]
            kept = [(places[value], share) for value, cell in one.points if (share := cell.kept(measure)) is not None]
            axes.plot(
                [x for x, _ in kept], [y for _, y in kept], color=PALETTE[tone], marker=marker, markersize=4.5,
                linewidth=1.2, linestyle=(0, (4, 2)), clip_on=False,
            )  # fmt: skip
        last, pixels = axes, lower
    else:
        last, pixels = upper_axes, height
    label(
        last, 0, -34 / pixels, parameter.replace("_", " "), ha="left", color=PALETTE["muted"], transform=last.transAxes
    )
    return figure


def height_share(place: int, names: int, height: int) -> float:
    """Return where the name of a series stands above the axes, as a share of their height."""
    return 1 + (10 + 16 * (names - place - 1)) / height


def _chart(attack: str, parameter: str, series: Sequence[Series], measure: str) -> Chart:
    bare = parameter.rpartition(".")[2]
    shown = bare.replace("_", " ")
    if bare in SCALES:
        title = f"λ curve of {attack}: share of the keys answered by scale, with 95 % intervals."
    elif bare in STEPS:
        title = f"Survival under {attack}: share of the keys answered by training steps, with 95 % intervals."
    else:
        title = f"{attack} by {shown}: share of the keys answered, with 95 % intervals."
    priced = bool(measure) and any(cell.kept(measure) is not None for one in series for _, cell in one.points)
    rows = tuple(
        (
            value_text(value),
            *([one.title] if len(series) > 1 else []),
            percent(cell.fsr or 0.0),
            f"{percent(cell.interval[0])} to {percent(cell.interval[1])}" if cell.interval else "–",
            *([_kept(cell, measure)] if priced else []),
            cell.verdict or "–",
        )
        for one in series
        for value, cell in one.points
    )
    columns = (
        shown.capitalize(),
        *(["Series"] if len(series) > 1 else []),
        ">Keys answered",
        ">95 % interval",
        *([">Utility kept"] if priced else []),
        "Result",
    )
    described = "; ".join(
        f"{one.title + ': ' if len(series) > 1 else ''}"
        + ", ".join(f"{value_text(value)}: {percent(cell.fsr or 0.0)}" for value, cell in one.points)
        for one in series
    )
    return Chart(
        name=_file_name(f"sweep-{attack}-{parameter}"),
        caption=title + (" Below: how useful the copy still is." if priced else ""),
        description=f"Keys answered by {shown}. {described}.",
        table=Table(title.partition(":")[0], columns, rows),
        draw=partial(draw_sweep, tuple(series), shown, measure),
    )


def _series(groups: Mapping[str, Sequence[tuple[float, Cell]]], parameter: str) -> tuple[Series, ...]:
    """Return the groups with enough points, each named by what it has and the others have not."""
    kept = [group for group in groups.values() if len({value for value, _ in group}) >= FEWEST_POINTS]
    settings = [dict(group[0][1].parameters) for group in kept]
    for setting in settings:
        setting.pop(parameter, None)
    different = {name for setting in settings for name in setting if len({repr(one.get(name)) for one in settings}) > 1}
    return tuple(
        Series(
            parameters_text({name: value for name, value in setting.items() if name in different}),
            tuple(sorted(group, key=lambda point: (point[0], point[1].number))),
        )
        for group, setting in zip(kept, settings, strict=True)
    )


def _places(values: Sequence[float]) -> dict[float, float]:
    """Return where on the axis each value stands."""
    if values[0] > 0 and values[-1] / values[0] >= LOGARITHMIC_FROM:
        return {value: log10(value) for value in values}
    return {value: value for value in values}


def _frame(
    axes: "Axes",
    values: Sequence[float],
    places: Mapping[float, float],
    shares: Sequence[float],
    *,
    narrow: bool,
    pixels: int,
    named: bool = True,
) -> None:
    low, high = places[values[0]], places[values[-1]]
    margin = 0.03 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(-0.03, 1.03)
    for share in shares:
        axes.axhline(share, color=PALETTE["rule"], linewidth=0.6, zorder=0)
        label_left(axes, share, f"{100 * share:.0f} %")
    least = (high - low) / (5 if narrow else 9)
    if not named:
        return
    last: float | None = None
    for value in values:
        if last is None or places[value] - last >= least:
            last = places[value]
            label(axes, last, -0.03 - 14 / pixels, value_text(value), ha="center", color=PALETTE["muted"])


def _draw_before(axes: "Axes", series: Sequence[Series]) -> None:
    """Draw how many keys were answered before, where that is the same for all."""
    before: set[Any] = {cell.before for one in series for _, cell in one.points}
    if len(before) == 1:
        axes.axhline(before.pop(), color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _draw_line(axes: "Axes", series: Series, places: Mapping[float, float], colour: str, marker: str) -> None:
    x = [places[value] for value, _ in series.points]
    y = [cell.fsr or 0.0 for _, cell in series.points]
    intervals = [cell.interval or (share, share) for share, (_, cell) in zip(y, series.points, strict=True)]
    axes.fill_between(
        x, [low for low, _ in intervals], [high for _, high in intervals], color=colour, alpha=0.14, linewidth=0
    )
    axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.6, zorder=3, clip_on=False)


def _kept(cell: Cell, measure: str) -> str:
    share = cell.kept(measure)
    return "–" if share is None else percent(share)


def _file_name(text: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in text).strip("-")
