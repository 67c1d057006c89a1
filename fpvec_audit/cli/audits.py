"""``fpvec audits``: what was audited, and what came of it."""

from typing import Annotated

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(help="Look at audits that were made.\n\nExample: fpvec audits list", no_args_is_help=True)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List audits, oldest first.

    Example: fpvec audits list
    """
    from fpvec_audit.reports.records import render_audit_list
    from fpvec_audit.services.suspects_met import list_audits

    bench = open_bench(home, registry, json)
    bench.emit([audit.to_json() for audit in list_audits(registry=bench.registry)], render_audit_list)


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
