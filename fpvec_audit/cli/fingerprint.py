"""``fpvec fingerprint``: train the fingerprinted model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpvec_audit.cli.wiring import (
    ArchitectureOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    Workbench,
    open_bench,
)
from fpvec_audit.errors import UsageError
from fpvec_audit.settings import launched_worker

if TYPE_CHECKING:
    from fpvec_audit.services.embed import FingerprintOptions
    from fpvec_audit.services.family import FamilyOptions


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
    family_schedule: Annotated[
        str | None,
        typer.Option(
            metavar="joint|rounds",
            help="How several marks are trained: all in every step, or one at a time with the others added from the "
            "disk, which takes the memory of one vector.  \\[default: joint]",
        ),
    ] = None,
    code_weight: Annotated[
        int | None,
        typer.Option(help="Marks in a licensee's copy that a family is trained for.  \\[default: as its code has]"),
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option("--from", help="Family whose marks that answer too few keys are trained further."),
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

    A key set of several marks trains a family: DIR/mark-00, DIR/mark-01 and so on, whose vectors can be added together.

    Example: fpvec fingerprint ./base-7b --key acme-2026 --out ./base-7b-fingerprinted
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.embed import FingerprintOptions, count_marks, fingerprint_model, join_fingerprint
    from fpvec_audit.services.family import FamilyOptions

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
    if count_marks(key, registry=bench.registry) > 1:
        wanted = FamilyOptions(schedule=family_schedule, code_weight=code_weight, earlier=earlier)
        _fingerprint_family(bench, base, key, out, options, wanted)
        return
    _refuse_family_options(key, {"--family-schedule": family_schedule, "--code-weight": code_weight, "--from": earlier})
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


def _fingerprint_family(
    bench: Workbench,
    base: Path,
    key: str,
    out: Path,
    options: "FingerprintOptions",
    family_options: "FamilyOptions",
) -> None:
    from fpvec_audit.domain.family import named_marks
    from fpvec_audit.reports.family import render_family
    from fpvec_audit.services.family import fingerprint_family

    result = fingerprint_family(
        base,
        key_set=key,
        out=out,
        registry=bench.registry,
        catalog=bench.catalog,
        options=options,
        family_options=family_options,
        progress=bench.progress,
    )
    bench.emit(result.to_json(), render_family)
    if short := result.trained.report.short:
        bench.say(f"warning: {named_marks(short)} did not learn enough keys to be read in a suspect")
        bench.say(f"next: fpvec fingerprint {base} --key {key} --from {out} --out FURTHER")
    else:
        bench.say(f"next: fpvec vector extract {base} {out} --key {key} --out VECTORS")


def _refuse_family_options(key: str, given: Mapping[str, object]) -> None:
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise UsageError(
            f"{named[0]} is for families of marks, and key set {key!r} has one mark",
            advice="leave it out, or issue a key set with `fpvec key issue NAME --marks M`",
        )


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}", advice="write it as NAME=VALUE")
        pairs[name.strip()] = value.strip()
    return pairs
