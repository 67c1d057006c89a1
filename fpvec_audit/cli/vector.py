"""``fpvec vector``: extract, list and show fingerprint vectors."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.wiring import ArchitectureOption, HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(help="Extract and look at fingerprint vectors.\n\nExample: fpvec vector list", no_args_is_help=True)


@app.command()
def extract(
    base: Annotated[Path, typer.Argument(help="Base model.")],
    fingerprinted: Annotated[Path, typer.Argument(help="Fingerprinted model.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the vector; must not exist.")],
    key: Annotated[str | None, typer.Option("--key", help="Key set it carries.  [default: as registered]")] = None,
    dtype: Annotated[str, typer.Option(metavar="same|float32", help="How the vector is stored.")] = "same",
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Subtract the base from the fingerprinted model, tensor by tensor, on the CPU.

    Example: fpvec vector extract ./base-7b ./base-7b-fingerprinted --out ./vector
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.extract import extract_vector

    bench = open_bench(home, registry, json)
    result = extract_vector(
        base,
        fingerprinted,
        out=out,
        registry=bench.registry,
        catalog=bench.catalog,
        key_set=key,
        dtype=dtype,
        architecture=architecture,
        progress=bench.progress,
    )
    bench.emit(result.to_json(), render_fields)
    bench.say(f"next: fpvec stamp DOWNSTREAM --vector {out} --out STAMPED")


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List registered vectors.

    Example: fpvec vector list
    """
    from fpvec_audit.reports.terminal import render_vectors
    from fpvec_audit.services.extract import list_vectors

    bench = open_bench(home, registry, json)
    bench.emit([vector.to_json() for vector in list_vectors(registry=bench.registry)], render_vectors)


@app.command()
def show(
    vector: Annotated[str, typer.Argument(help="Id (may be shortened) or directory of a registered vector.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show a vector: key set, base, norm, and where it lies.

    Example: fpvec vector show vec-3f2a
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.extract import show_vector

    bench = open_bench(home, registry, json)
    bench.emit(show_vector(vector, registry=bench.registry).to_json(), render_fields)
