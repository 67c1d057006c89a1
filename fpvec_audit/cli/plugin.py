"""``fpvec plugin``: what is plugged in, and what failed to be."""

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(
    help="Look at architecture adapters, attacks and methods.\n\nExample: fpvec plugin list", no_args_is_help=True
)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List every adapter, attack and method with its distribution, and plugins that failed with the reason.

    Example: fpvec plugin list
    """
    from fpvec_audit.reports.terminal import render_plugins

    bench = open_bench(home, registry, json)
    bench.emit([plugin.to_json() for plugin in bench.catalog.plugins], render_plugins)
