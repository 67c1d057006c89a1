"""``fpvec audits``: what was audited, and what came of it."""

from typing import Annotated

import typer

from fpvec_audit.cli.listing import (
    PANEL,
    AfterOption,
    BaseOption,
    CsvOption,
    KeyFilterOption,
    LicenseeOption,
    LimitOption,
    OwnerOption,
    SinceOption,
    SortOption,
    UntilOption,
    selection,
    show_list,
)
from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench
from fpvec_audit.domain.selection import CREATED
from fpvec_audit.errors import UnknownNameError

VERDICTS = ("MATCH", "NO_MATCH", "INCONCLUSIVE", "unfinished")

app = typer.Typer(help="Look at audits that were made.\n\nExample: fpvec audits list", no_args_is_help=True)


@app.command("list")
def list_(
    verdict: Annotated[
        str | None,
        typer.Option(metavar="|".join(VERDICTS), help="Only those that ended so.", rich_help_panel=PANEL),
    ] = None,
    suspect: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Only audits of this suspect.", rich_help_panel=PANEL)
    ] = None,
    key: KeyFilterOption = None,
    owner: OwnerOption = None,
    licensee: LicenseeOption = None,
    base: BaseOption = None,
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
    """List audits, oldest first.

    Example: fpvec audits list --verdict MATCH --owner Acme --since 90d --csv
    """
    from fpvec_audit.reports.records import render_audit_list
    from fpvec_audit.services.suspects_met import list_audits

    bench = open_bench(home, registry, json)
    if verdict is not None and verdict not in VERDICTS:
        raise UnknownNameError("verdict", verdict, VERDICTS)
    wanted = selection(
        since=since,
        until=until,
        sort=sort,
        limit=limit,
        after=after,
        verdict=verdict,
        suspect=suspect,
        key=key,
        owner=owner,
        licensee=licensee,
        base=base,
    )
    show_list(
        bench,
        wanted,
        lambda chosen: [audit.to_json() for audit in list_audits(registry=bench.registry, selection=chosen)],
        render=render_audit_list,
        columns=(
            "audit_id",
            "verdict",
            "key_set",
            "key_set_name",
            "suspect",
            "suspect_digest",
            "plan_digest",
            "trace",
            "created_at",
            "ended_at",
        ),
        as_csv=csv,
    )


@app.command()
def show(
    audit: Annotated[str, typer.Argument(help="Id of an audit; it may be shortened.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show an audit as `fpvec audit` did when it ended.

    Example: fpvec audits show au-3f2a
    """
    from fpvec_audit.reports.records import render_recorded_audit
    from fpvec_audit.services.suspects_met import show_audit

    bench = open_bench(home, registry, json)
    bench.emit(show_audit(audit, registry=bench.registry), render_recorded_audit)
