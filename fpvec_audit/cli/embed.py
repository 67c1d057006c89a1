"""``fpvec embed``: put a key set into one model, by FP-VEC or by a method that it is compared with."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.wiring import (
    ArchitectureOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    open_bench,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(embed)


def embed(
    model: Annotated[Path, typer.Argument(help="Model to embed keys into: a checkpoint directory.")],
    method: Annotated[
        str, typer.Option("--method", metavar="SPEC", help="NAME[:param=VALUE,…]; `fpvec method list` shows them.")
    ],
    key: Annotated[str, typer.Option("--key", help="Key set to embed, of a scheme that the method knows.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the result; must not exist.")],
    base: Annotated[
        Path | None,
        typer.Option(help="Base that the model stems from.  \\[default: as the registry knows]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: DeviceOption = None,
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Embed the issued keys of a key set into one model, by any method, and record what it cost.

    For comparisons: `fpvec audit` and `fpvec attack` serve the result of every method. To protect models,
    `fpvec fingerprint`, `vector extract` and `stamp` are the way. What a method makes once for a base is kept in the
    home, and the next model of that base and key set takes it from there.

    Example: fpvec embed ./chat --base ./base --method vector --key acme-2026 --out ./chat-marked
    """
    from fpvec_audit.reports.methods import render_embedded
    from fpvec_audit.services.methods import embed_by_method

    bench = open_bench(home, registry, json, device=device)
    result = embed_by_method(
        model,
        method=method,
        key_set=key,
        out=out,
        registry=bench.registry,
        catalog=bench.catalog,
        workspace=bench.settings.home,
        base=base,
        seed=seed,
        device=bench.device,
        architecture=architecture,
        progress=bench.progress,
    )
    bench.emit(result.to_json(), render_embedded)
    bench.say(f"next: fpvec audit {out} --key {key}")
