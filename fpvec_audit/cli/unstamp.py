"""``fpvec unstamp``: give back the downstream model of a stamp."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.wiring import ArchitectureOption, HomeOption, JsonOption, RegistryOption, open_bench


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(unstamp)


def unstamp(
    stamped: Annotated[Path, typer.Argument(help="Stamped model.")],
    stamp: Annotated[str, typer.Option("--stamp", metavar="ID", help="Stamp to take out; may be shortened.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the downstream model; must not exist.")],
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Subtract what a stamp added, if that gives the downstream model back bit for bit; nothing is written if not.

    Example: fpvec unstamp ./chat-7b-release --stamp st-4be1 --out ./chat-7b-again
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.unstamp import unstamp_model

    bench = open_bench(home, registry, json)
    result = unstamp_model(
        stamped,
        stamp=stamp,
        out=out,
        registry=bench.registry,
        catalog=bench.catalog,
        architecture=architecture,
        progress=bench.progress,
    )
    bench.emit(result.to_json(), render_fields)
