"""``fpvec licensee``: whom key sets and stamped copies were issued to."""

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(help="Look at licensees.\n\nExample: fpvec licensee list", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the group a group while it has one command."""


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List licensees, with how many key sets and stamped copies each was issued.

    Example: fpvec licensee list
    """
    from fpvec_audit.reports.records import render_licensees
    from fpvec_audit.services.licensees import licensee_json, list_licensees

    bench = open_bench(home, registry, json)
    bench.emit([licensee_json(licensee) for licensee in list_licensees(registry=bench.registry)], render_licensees)
