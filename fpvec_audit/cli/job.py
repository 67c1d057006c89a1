"""``fpvec job``: long work under way and ended."""

from typing import Annotated

import typer

from fpvec_audit.cli.listing import (
    PANEL,
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
from fpvec_audit.domain.records import JobState
from fpvec_audit.domain.selection import CREATED

app = typer.Typer(help="Look at long work.\n\nExample: fpvec job list", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the group a group while it has one command."""


@app.command("list")
def list_(
    state: Annotated[JobState | None, typer.Option(help="Only those in this state.", rich_help_panel=PANEL)] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Only this kind of work.", rich_help_panel=PANEL)
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    sort: SortOption = CREATED,
    limit: LimitOption = None,
    after: AfterOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """List jobs, newest last; one whose process is gone is marked as interrupted.

    Example: fpvec job list --state running
    """
    from fpvec_audit.reports.terminal import render_jobs
    from fpvec_audit.services.jobs import job_json, list_jobs

    bench = open_bench(home, registry, json)
    wanted = selection(since=since, until=until, sort=sort, limit=limit, after=after, state=state, kind=kind)
    show_list(
        bench,
        wanted,
        lambda chosen: [job_json(job) for job in list_jobs(registry=bench.registry, selection=chosen)],
        render=render_jobs,
        columns=COLUMNS,
        as_csv=csv,
    )
