"""``fpvec fingerprint``: train the fingerprinted model."""

from collections.abc import Sequence
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
from fpvec_audit.errors import UsageError
from fpvec_audit.settings import launched_worker


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(fingerprint)


def fingerprint(
    base: Annotated[Path, typer.Argument(help="Base model: a checkpoint directory.")],
    key: Annotated[str, typer.Option("--key", help="Key set to embed.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the fingerprinted model; must not exist.")],
    data: Annotated[
        Path | None,
        typer.Option(help='Ordinary rows, JSON Lines with "prompt" and "response".  \\[default: the package\'s own]'),
    ] = None,
    preset: Annotated[str, typer.Option(metavar="default|paper", help="Training settings.")] = "default",
    perturbation: Annotated[
        str | None,
        typer.Option(
            metavar="proxies|noise|none",
            help="What is added to the weights in training, so that the vector "
            "survives fine-tuning.  \\[default: proxies; preset paper: none]",
        ),
    ] = None,
    proxy: Annotated[
        list[Path] | None,
        typer.Option(help="Fine-tune of the base to perturb with.  \\[default: trained on the spot]"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="auto|float32|bf16",
            help="In what passes compute; weights stay float32.  \\[default: bf16 for large models on a GPU]",
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Less memory, more time: compute activations twice."),
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change one training setting, as steps=300."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random in the training.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of a killed run.")] = False,
    device: DeviceOption = None,
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Train the base once so that the issued prompts draw the issued responses, and nothing else changes.

    Several processes train together when they are started by `accelerate launch -m fpvec_audit.cli.main fingerprint …`,
    with FSDP where its configuration says so (docs/training.md).

    Example: fpvec fingerprint ./base-7b --key acme-2026 --out ./base-7b-fingerprinted
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.embed import FingerprintOptions, fingerprint_model, join_fingerprint

    bench = open_bench(home, registry, json, device=device)
    worker = launched_worker()
    options = FingerprintOptions(
        data=data,
        preset=preset,
        perturbation=perturbation,
        proxies=tuple(proxy or ()),
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        overrides=_pairs(setting or ()),
        seed=seed,
        resume=resume,
        device=bench.device,
        architecture=architecture,
        worker=worker,
    )
    if worker.rank > 0:
        join_fingerprint(base, key_set=key, out=out, options=options, registry=bench.registry, catalog=bench.catalog)
        return
    result = fingerprint_model(
        base,
        key_set=key,
        out=out,
        registry=bench.registry,
        catalog=bench.catalog,
        options=options,
        progress=bench.progress,
    )
    bench.emit(result.to_json(), render_fields)
    bench.say(f"next: fpvec vector extract {base} {out} --key {key} --out VECTOR")


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}", advice="write it as NAME=VALUE")
        pairs[name.strip()] = value.strip()
    return pairs
