"""``fpvec vector``: extract, compress, list and show fingerprint vectors."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from fpvec_audit.cli.listing import (
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
from fpvec_audit.cli.wiring import ArchitectureOption, HomeOption, JsonOption, RegistryOption, open_bench
from fpvec_audit.domain.selection import CREATED

app = typer.Typer(
    help="Extract, compress and look at fingerprint vectors.\n\nExample: fpvec vector list", no_args_is_help=True
)


@app.command()
def extract(
    base: Annotated[Path, typer.Argument(help="Base model.")],
    fingerprinted: Annotated[Path, typer.Argument(help="Fingerprinted model, or a family's directory of marks.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the vector or vectors; must not exist.")],
    key: Annotated[str | None, typer.Option("--key", help="Key set it carries.  \\[default: as registered]")] = None,
    dtype: Annotated[str, typer.Option(metavar="same|float32", help="How the vector is stored.")] = "same",
    reread: Annotated[bool, typer.Option("--reread", help="Digest both models again, changed or not.")] = False,
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Subtract the base from the fingerprinted model, tensor by tensor, on the CPU.

    Of a family, a vector is written for every mark; a mark that answers too few of its keys is refused.

    Example: fpvec vector extract ./base-7b ./base-7b-fingerprinted --out ./vector
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.extract import begin_to_read, extract_vector
    from fpvec_audit.services.family import mark_directories

    begin_to_read(base, fingerprinted)
    bench = open_bench(home, registry, json)
    how: dict[str, Any] = {
        "out": out,
        "registry": bench.registry,
        "catalog": bench.catalog,
        "key_set": key,
        "dtype": dtype,
        "architecture": architecture,
        "reread": reread,
        "progress": bench.progress,
    }
    if mark_directories(fingerprinted):
        from fpvec_audit.reports.family import render_family_vectors
        from fpvec_audit.services.extract_family import extract_family

        family = extract_family(base, fingerprinted, **how)
        bench.emit(family.to_json(), render_family_vectors)
        with bench.registry.snapshot() as uow:
            name = quote(uow.key_sets.find(family.family.key_set).name)
        bench.say(
            f"next: fpvec licensee add NAME --family {name}, then "
            f"fpvec stamp DOWNSTREAM --family {name} --licensee NAME --out STAMPED"
        )
        return
    result = extract_vector(base, fingerprinted, **how)
    bench.emit(result.to_json(), render_fields)
    bench.say(f"next: fpvec stamp DOWNSTREAM --vector {out} --out STAMPED")


@app.command()
def compress(
    vector: Annotated[str, typer.Argument(help="Id (may be shortened) or directory of a vector.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the compressed vector; must not exist.")],
    keep: Annotated[float | None, typer.Option(help="Share of the elements to keep, the largest, such as 0.5.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank to cut matrices to, such as 32.")] = None,
    dtype: Annotated[str | None, typer.Option(metavar="fp8", help="Eight bits an element.")] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Store a vector in fewer bytes, by one of --keep, --rank and --dtype, and measure what that loses.

    Example: fpvec vector compress vec-3f2a --dtype fp8 --out ./vector-small
    """
    from fpvec_audit.reports.terminal import render_compression
    from fpvec_audit.services.compress import compress_vector

    bench = open_bench(home, registry, json)
    result = compress_vector(
        vector,
        out=out,
        registry=bench.registry,
        catalog=bench.catalog,
        keep=keep,
        rank=rank,
        dtype=dtype,
        progress=bench.progress,
    )
    bench.emit(result.to_json(), render_compression)
    bench.say(f"next: fpvec stamp DOWNSTREAM --vector {out} --out STAMPED")


@app.command("list")
def list_(
    owner: OwnerOption = None,
    licensee: LicenseeOption = None,
    base: BaseOption = None,
    key: KeyFilterOption = None,
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
    """List registered vectors, newest last.

    Example: fpvec vector list --base base-7b --since 30d
    """
    from fpvec_audit.reports.terminal import render_vectors
    from fpvec_audit.services.extract import list_vectors

    bench = open_bench(home, registry, json)
    wanted = selection(
        since=since,
        until=until,
        sort=sort,
        limit=limit,
        after=after,
        owner=owner,
        licensee=licensee,
        base=base,
        key=key,
    )
    show_list(
        bench,
        wanted,
        lambda chosen: [vector.to_json() for vector in list_vectors(registry=bench.registry, selection=chosen)],
        render=render_vectors,
        columns=(
            "vector_id",
            "digest",
            "family",
            "mark",
            "key_set",
            "base",
            "base_digest",
            "fingerprinted",
            "fingerprinted_digest",
            "architecture",
            "norm",
            "inexact_elements",
            "location",
            "created_at",
        ),
        as_csv=csv,
    )


@app.command()
def show(
    vector: Annotated[str, typer.Argument(help="Id (may be shortened) or directory of a registered vector.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show a vector: key set, base, norm, where it lies, and the newest copies stamped with it.

    Example: fpvec vector show vec-3f2a
    """
    from fpvec_audit.reports.records import render_vector
    from fpvec_audit.services.extract import show_vector

    bench = open_bench(home, registry, json)
    bench.emit(show_vector(vector, registry=bench.registry).to_json(), render_vector)
