"""``fpvec licensee``: whom key sets and stamped copies were issued to."""

import typer

from fpvec_audit.cli.listing import (
    AfterOption,
    CsvOption,
    LimitOption,
    SinceOption,
    SortOption,
    UntilOption,
    selection,
    show_list,
)
from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(help="Look at licensees.\n\nExample: fpvec licensee list", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the group a group while it has one command."""


@app.command("list")
def list_(
    since: SinceOption = None,
    until: UntilOption = None,
    sort: SortOption = "name",
    limit: LimitOption = None,
    after: AfterOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """List licensees, with how many key sets and stamped copies each was issued; sorted by name or created.

    Example: fpvec licensee list --sort -created --limit 10
    """
    from fpvec_audit.reports.records import render_licensees
    from fpvec_audit.services.licensees import licensee_json, list_licensees

    bench = open_bench(home, registry, json)
    wanted = selection(since=since, until=until, sort=sort, limit=limit, after=after)
    show_list(
        bench,
        wanted,
        lambda chosen: [licensee_json(found) for found in list_licensees(registry=bench.registry, selection=chosen)],
        render=render_licensees,
        columns=("id", "name", "key_sets", "stamps", "created_at"),
        as_csv=csv,
    )
