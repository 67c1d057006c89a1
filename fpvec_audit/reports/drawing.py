"""How figures become SVG inside a page, and SVG and PNG files.

A figure is drawn twice for a page, for a desk and for a phone, so that its text is never smaller than the page's. Its
colours are the page's own: in the page they are names that follow light, dark and paper, in a file they are plain.
Equal documents give equal bytes: identifiers come from the figure's name, and no date is written.
"""

import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from fpvec_audit.reports.page import Chart
from fpvec_audit.reports.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 680, 340
"""Widths of a figure for a desk and for a phone, in CSS pixels."""
PIXELS_PER_INCH = 96
PNG_DOTS_PER_INCH = 192
SMALL = 8.25
"""Size of a figure's text in points, 11 CSS pixels."""
PALETTE: Mapping[str, str] = {
    "paper": "#fdfcfa",
    "ink": "#1c1b19",
    "muted": "#5c5850",
    "rule": "#d8d3c8",
    "found": "#1b6b4a",
    "absent": "#2c4f86",
    "open": "#84590a",
    "alarm": "#9c2f21",
}
"""The page's colours by name; the stylesheet holds them for light and dark."""

_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_REFERENCE = re.compile(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"")
_TAG = re.compile(r"<[^<>]*>")
_FONT_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
_FONT = re.compile(r"font: (?:(?P<weight>\d+|bold) )?(?P<size>[\d.]+)px [^;\"]*")


def new_figure(width: int, height: int) -> "Figure":
    """Return an empty figure of this many CSS pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)


def bare_axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Return axes without frame and ticks at a place given in CSS pixels from the top left corner."""
    whole_width, whole_height = (side * PIXELS_PER_INCH for side in figure.get_size_inches())
    axes = figure.add_axes(
        (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    )
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.patch.set_visible(False)
    return axes


def label(axes: "Axes", x: float, y: float, text: str, **options: Any) -> None:
    """Write plain text; what it looks like is never taken for mathematics or control characters."""
    plain: dict[str, Any] = {"fontsize": SMALL, "color": PALETTE["ink"], "va": "center", "parse_math": False}
    axes.text(x, y, visible(text), **plain | options)


def label_left(axes: "Axes", y: float, text: str) -> None:
    """Write the name of a tick to the left of axes."""
    axes.annotate(
        visible(text), (0, y), xytext=(-6, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
        ha="right", va="center", fontsize=SMALL, color=PALETTE["muted"], annotation_clip=False,
    )  # fmt: skip


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters; the middle is left out."""
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def inline_svg(chart: Chart) -> str:
    """Return a figure as SVG for a page: one for wide and one for narrow windows, of which a stylesheet shows one."""
    return "\n".join(_inlined(chart, width, kind) for width, kind in ((WIDE, "wide"), (NARROW, "narrow")))


def svg_file(chart: Chart) -> bytes:
    """Return a figure as an SVG file of its own, with its text as text."""
    return _saved(chart, WIDE, "svg")


def png_file(chart: Chart) -> bytes:
    """Return a figure as a PNG file."""
    return _saved(chart, WIDE, "png")


def _saved(chart: Chart, width: int, form: str) -> bytes:
    content = io.BytesIO()
    with _style(f"{chart.name}-{width}"):
        figure = chart.draw(width)
        if form == "png":
            figure.savefig(content, format=form, dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
        else:
            figure.savefig(content, format=form, metadata=_METADATA)
    return content.getvalue()


@contextmanager
def _style(salt: str) -> Iterator[None]:
    import matplotlib

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": SMALL,
        "text.color": PALETTE["ink"],
        "figure.facecolor": PALETTE["paper"],
        "lines.solid_capstyle": "round",
        "path.simplify": False,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _inlined(chart: Chart, width: int, kind: str) -> str:
    text = _saved(chart, width, "svg").decode()
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    opening = re.search(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', text)
    assert opening is not None  # matplotlib writes one
    inside = text[opening.end() :]
    wanted = {found for pair in _REFERENCE.findall(inside) for found in pair if found}
    prefix = f"{chart.name}-{kind}-"
    inside = _TAG.sub(lambda tag: _for_the_page(tag[0], wanted, prefix), inside)
    inside = re.sub(r"[ \t]*\n\s*", "\n", _without_idle_groups(inside))
    return (
        f'<svg class="{kind}" viewBox="{opening[1]}" role="img" aria-label="{escape(visible(chart.description))}" '
        f'style="max-width: {width}px">{inside.strip()}'
    )


def _without_idle_groups(text: str) -> str:
    """Return SVG without groups that say nothing: they are two thirds of what matplotlib writes."""
    kept: list[bool] = []

    def judged(tag: re.Match[str]) -> str:
        if tag[0] == "</g>":
            return tag[0] if kept.pop() else ""
        if tag[0].startswith("<g") and not tag[0].endswith("/>") and tag[0][2] in " >":
            kept.append(tag[0] != "<g>")
            return tag[0] if kept[-1] else ""
        return "" if tag[0] == "<g/>" else tag[0]

    return re.sub(r"<defs>\s*</defs>", "", _TAG.sub(judged, text))


def _for_the_page(tag: str, wanted: Collection[str], prefix: str) -> str:
    """Return a tag with the page's colours and font, and with identifiers that no other figure has.

    Only tags are changed, never a text, whatever it looks like.
    """

    def identifier(found: re.Match[str]) -> str:
        return f' id="{prefix}{found[1]}"' if found[1] in wanted else ""

    tag = re.sub(r' id="([^"]+)"', identifier, tag).replace("xlink:href", "href")
    tag = tag.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    tag = _FONT_FAMILY.sub("", _FONT.sub(_font_size, tag))
    for name, colour in PALETTE.items():
        tag = tag.replace(colour, f"var(--{name})")
    return tag


def _font_size(found: re.Match[str]) -> str:
    weight = f"font-weight: {found['weight']}; " if found["weight"] else ""
    return f"{weight}font-size: {found['size']}px"
