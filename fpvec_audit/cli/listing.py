"""What all ``list`` commands have in common: which options they take, and how they print."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fpvec_audit.domain.selection import CREATED, Selection, moment_since, moment_until
from fpvec_audit.errors import UsageError

if TYPE_CHECKING:
    from fpvec_audit.cli.wiring import Workbench

SHOWN = 100
"""Rows of a table where nothing else is asked for; JSON and CSV are for programs, and whole."""

AT_ONCE = 1000
"""Rows that are fetched together when a whole list is written."""

PANEL = "Which and how many"

OwnerOption = Annotated[
    str | None, typer.Option("--owner", help="Only what belongs to this owner.", rich_help_panel=PANEL)
]
LicenseeOption = Annotated[
    str | None, typer.Option("--licensee", help="Only what is for this licensee.", rich_help_panel=PANEL)
]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="MODEL", help="Only what stems from this base.", rich_help_panel=PANEL),
]
KeyFilterOption = Annotated[
    str | None, typer.Option("--key", help="Only what carries this key set.", rich_help_panel=PANEL)
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="WHEN", help="From this date or time on, or as long ago as 7d, 12h.", rich_help_panel=PANEL
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option("--until", metavar="WHEN", help="Up to this day's end, or this time.", rich_help_panel=PANEL),
]
SortOption = Annotated[
    str,
    typer.Option("--sort", metavar="FIELD", help="Field to sort by; -FIELD for the last first.", rich_help_panel=PANEL),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", help=f"Most shown.  \\[default: {SHOWN} in a table, all as JSON or CSV]", rich_help_panel=PANEL
    ),
]
AfterOption = Annotated[
    str | None,
    typer.Option(
        "--after", metavar="ID", help="The next page: what follows this one in the order.", rich_help_panel=PANEL
    ),
]
CsvOption = Annotated[
    bool, typer.Option("--csv", help="Comma-separated values on stdout, nothing else.", rich_help_panel="Everywhere")
]


def selection(
    *,
    since: str | None,
    until: str | None,
    sort: str = CREATED,
    limit: int | None = None,
    after: str | None = None,
    **where: str | None,
) -> Selection:
    """Return what is asked for on a command line; a filter that was left out filters nothing.

    Raises:
        UsageError: a time that is none, or what a list cannot be asked for.
    """
    from fpvec_audit.registry.unit_of_work import utc_now

    now = utc_now()
    return Selection(
        where={name: value for name, value in where.items() if value is not None},
        since=None if since is None else moment_since(since, now),
        until=None if until is None else moment_until(until, now),
        sort=sort,
        limit=limit,
        after=after,
    )


def show_list(
    bench: "Workbench",
    wanted: Selection,
    fetch: Callable[[Selection], Sequence[Mapping[str, Any]]],
    *,
    render: Callable[[Any, Console], None],
    columns: Sequence[str],
    as_csv: bool,
) -> None:
    """Print a list as table, JSON or CSV.

    Args:
        bench: where to print.
        wanted: what is asked for.
        fetch: gives the documents of a selection, the id of each under the first of ``columns``.
        render: shows them as a table.
        columns: fields of a document, for CSV.
        as_csv: whether ``--csv`` was given.

    Raises:
        UsageError: both JSON and CSV are asked for, or the selection names nothing.
    """
    if as_csv and bench.json:
        raise UsageError("--json and --csv are two forms, and stdout takes one")
    if as_csv:
        from fpvec_audit.reports.listing import write_csv

        pages = _pages(wanted, fetch, columns[0])
        write_csv((document for page in pages for document in page), columns, sys.stdout)
        sys.stdout.flush()
    elif bench.json:
        _write_json(_pages(wanted, fetch, columns[0]))
    else:
        limit = SHOWN if wanted.limit is None else wanted.limit
        found = fetch(wanted.page(limit + 1, after=wanted.after))
        render(found[:limit], bench.output)
        if len(found) > limit:
            bench.say(f"more follow: add --after {found[limit - 1][columns[0]]}, or raise --limit")


def _pages(
    wanted: Selection, fetch: Callable[[Selection], Sequence[Mapping[str, Any]]], identifier: str
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Yield a list in pages, so that a million rows never lie in memory together."""
    left, after = wanted.limit, wanted.after
    while left is None or left > 0:
        size = AT_ONCE if left is None else min(AT_ONCE, left)
        found = fetch(wanted.page(size, after=after))
        if found:
            yield found
        if len(found) < size:
            return
        left = None if left is None else left - size
        after = found[-1][identifier]


def _write_json(pages: Iterator[Sequence[Mapping[str, Any]]]) -> None:
    """Write one JSON array, as ``json.dumps`` with an indent of two would."""
    written = "["
    for page in pages:
        for document in page:
            text = json.dumps(document, indent=2, ensure_ascii=False).replace("\n", "\n  ")
            sys.stdout.write(f"{written}\n  {text}")
            written = ","
    sys.stdout.write("[]\n" if written == "[" else "\n]\n")
    sys.stdout.flush()
