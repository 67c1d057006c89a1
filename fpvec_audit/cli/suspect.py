"""``fpvec suspect``: who was audited, and when each was met first."""

from typing import Annotated

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(help="Look at who was audited.\n\nExample: fpvec suspect list", no_args_is_help=True)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List suspects, the one that was met first at the beginning.

    Example: fpvec suspect list
    """
    from fpvec_audit.reports.records import render_suspects
    from fpvec_audit.services.suspects_met import list_suspects

    bench = open_bench(home, registry, json)
    bench.emit([suspect.to_json() for suspect in list_suspects(registry=bench.registry)], render_suspects)


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
