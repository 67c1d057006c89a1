"""The parts that a report page is made of: values that say what is shown, and nothing of how it looks.

Each kind of result has a module that turns its JSON document into a :class:`Page`; one template lays out every page. So
what a report says can be tested without reading HTML, and no module but ``html.py`` writes any.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST_ON_A_TELEPHONE = 44
"""Characters of a table's columns together up to which it stays a table on a telephone."""


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs.

    Attributes:
        paragraphs: one sentence or more each.
    """

    kind: ClassVar[str] = "text"
    paragraphs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Points:
    """A list of sentences.

    Attributes:
        items: the sentences.
        ordered: whether their order matters; they are numbered then.
    """

    kind: ClassVar[str] = "points"
    items: tuple[str, ...]
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names with their values.

    Attributes:
        items: (name, value).
    """

    kind: ClassVar[str] = "pairs"
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what it shows.
        columns: headings; one that begins with ">" is set flush right.
        rows: as many texts each as there are columns.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def wide(self) -> bool:
        """Whether a telephone shows every row as a list."""
        widest = (max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True))
        return sum(widest) > WIDEST_ON_A_TELEPHONE


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure, what it shows in words, and its numbers.

    Attributes:
        name: letters, digits and dashes; its file's name where it is exported.
        caption: how to read it.
        description: what is to be seen in it, for somebody who cannot.
        table: its numbers.
        draw: width in CSS pixels → matplotlib figure.
        folded: whether the table is opened on demand, because the page has its numbers elsewhere.
    """

    kind: ClassVar[str] = "chart"
    name: str
    caption: str
    description: str
    table: Table
    draw: "Callable[[int], Figure]"
    folded: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """Text that is shown as it is, line by line.

    Attributes:
        text: the text.
    """

    kind: ClassVar[str] = "source"
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that must not be overlooked.

    Attributes:
        text: one sentence or more.
    """

    kind: ClassVar[str] = "notice"
    text: str


@dataclass(frozen=True, slots=True)
class Fold:
    """What is opened on demand.

    Attributes:
        summary: what is inside.
        blocks: the inside.
    """

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True)
class Group:
    """A part of a section, with a heading of its own.

    Attributes:
        title: the heading.
        blocks: what stands under it.
    """

    kind: ClassVar[str] = "group"
    title: str
    blocks: "tuple[Block, ...]"


Block = Text | Points | Pairs | Table | Chart | Source | Notice | Fold | Group


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a page.

    Attributes:
        name: letters and dashes, for links to it.
        title: the heading.
        blocks: what stands under it.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A report.

    Attributes:
        subject: what is reported on, in a few words.
        verdict: the verdict in one word; empty where there is none.
        tone: ``found``, ``absent``, ``open`` or ``plain``; colours the verdict, and says nothing that it does not.
        headline: the result as a plain sentence.
        facts: (name, value) of the few numbers to remember.
        lead: what the result means.
        sections: evidence, method, limits.
    """

    subject: str
    verdict: str
    tone: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    lead: tuple[str, ...]
    sections: tuple[Section, ...]


def charts(page: Page) -> tuple[Chart, ...]:
    """Return the figures of a page in the order in which they stand there."""
    return tuple(chart for section in page.sections for chart in _charts_in(section.blocks))


def present(*blocks: Block | None) -> tuple[Block, ...]:
    """Return the blocks that there are."""
    return tuple(block for block in blocks if block is not None)


def listed(items: "tuple[str, ...] | list[str]") -> Points | None:
    """Return a list of sentences, None where there are none."""
    return Points(tuple(items)) if items else None


def _charts_in(blocks: tuple[Block, ...]) -> list[Chart]:
    found: list[Chart] = []
    for block in blocks:
        if isinstance(block, Chart):
            found.append(block)
        elif isinstance(block, Group | Fold):
            found += _charts_in(block.blocks)
    return found
