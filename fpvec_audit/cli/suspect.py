"""``fpvec suspect``: who was audited, and when each was met first."""

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
from fpvec_audit.domain.records import SuspectKind
from fpvec_audit.domain.selection import CREATED

app = typer.Typer(help="Look at who was audited.\n\nExample: fpvec suspect list", no_args_is_help=True)


@app.command("list")
def list_(
    kind: Annotated[SuspectKind | None, typer.Option(help="Only this kind.", rich_help_panel=PANEL)] = None,
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
    """List suspects, the one that was met first at the beginning.

    Example: fpvec suspect list --kind endpoint --since 30d
    """
    from fpvec_audit.reports.records import render_suspects
    from fpvec_audit.services.suspects_met import list_suspects

    bench = open_bench(home, registry, json)
    wanted = selection(since=since, until=until, sort=sort, limit=limit, after=after, kind=kind)
    show_list(
        bench,
        wanted,
        lambda chosen: [suspect.to_json() for suspect in list_suspects(registry=bench.registry, selection=chosen)],
        render=render_suspects,
        columns=("id", "kind", "location", "first_seen"),
        as_csv=csv,
    )


@app.command()
def show(
    suspect: Annotated[str, typer.Argument(help="Digest of a suspect; it may be shortened.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show a suspect and its audits.

    Example: fpvec suspect show 3f2a
    """
    from fpvec_audit.reports.records import render_suspect
    from fpvec_audit.services.suspects_met import show_suspect

    bench = open_bench(home, registry, json)
    bench.emit(show_suspect(suspect, registry=bench.registry).to_json(), render_suspect)
