"""``fpvec plugin``: what is plugged in, what failed to be, and a new one to start from."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(
    help="Look at architecture adapters, attacks and methods, and start one.\n\nExample: fpvec plugin list",
    no_args_is_help=True,
)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List every adapter, attack and method with its distribution, and plugins that failed with the reason.

    Example: fpvec plugin list
    """
    from fpvec_audit.reports.terminal import render_plugins

    bench = open_bench(home, registry, json)
    bench.emit([plugin.to_json() for plugin in bench.catalog.plugins], render_plugins)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Its name, a lower-case identifier: what `--attack` will call it.")],
    kind: Annotated[str, typer.Option(metavar="attack|architecture", help="What it gives.")],
    on: Annotated[
        str | None,
        typer.Option(metavar="weights|answers", help="What an attack works on.  \\[default: weights]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory to make.  \\[default: ./fpvec-NAME]")
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Write a plugin package to start from: it installs, is found and passes its own tests as it is.

    Example: fpvec plugin new weight_noise --kind attack
    """
    from fpvec_audit.reports.plugins import render_new_plugin
    from fpvec_audit.services.new_plugin import create_plugin

    bench = open_bench(home, registry, json)
    plugin = create_plugin(name, kind=kind, on=on, out=out, existing=bench.catalog.plugins)
    bench.emit(plugin.to_json(), render_new_plugin)
