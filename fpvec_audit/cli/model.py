"""``fpvec model``: register, list, show, verify and identify checkpoints, and read the carriers in their weights."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.audit import EXIT_CODES
from fpvec_audit.cli.listing import (
    PANEL,
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
from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.domain.selection import CREATED

app = typer.Typer(help="Register and look at models.\n\nExample: fpvec model register ./chat-7b", no_args_is_help=True)


@app.command()
def register(
    path: Annotated[Path, typer.Argument(help="Checkpoint directory in Hugging Face layout.")],
    name: Annotated[str | None, typer.Option(help="Unique name.  \\[default: the directory's]")] = None,
    role: Annotated[ModelRole, typer.Option(help="What it is to you.")] = ModelRole.DOWNSTREAM,
    parent: Annotated[str | None, typer.Option(help="Registered model that it was made from.")] = None,
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Record a checkpoint by the canonical digest of its weights.

    Example: fpvec model register ./chat-7b --role downstream --parent base-7b
    """
    from fpvec_audit.reports.terminal import render_model
    from fpvec_audit.services.models import register_model

    bench = open_bench(home, registry, json)
    model = register_model(
        path,
        registry=bench.registry,
        catalog=bench.catalog,
        name=name,
        role=role,
        parent=parent,
        architecture=architecture,
        progress=bench.progress,
    )
    bench.emit(model.to_json(), render_model)


@app.command("list")
def list_(
    role: Annotated[ModelRole | None, typer.Option(help="Only models with this role.", rich_help_panel=PANEL)] = None,
    base: BaseOption = None,
    parent: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Only what was made from this one.", rich_help_panel=PANEL)
    ] = None,
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
    """List registered models, newest last; sorted by created or name.

    Example: fpvec model list --role stamped --base base-7b --limit 20
    """
    from fpvec_audit.reports.terminal import render_models
    from fpvec_audit.services.models import list_models

    bench = open_bench(home, registry, json)
    wanted = selection(
        since=since,
        until=until,
        sort=sort,
        limit=limit,
        after=after,
        role=role,
        base=base,
        parent=parent,
    )
    show_list(
        bench,
        wanted,
        lambda chosen: [model.to_json() for model in list_models(registry=bench.registry, selection=chosen)],
        render=render_models,
        columns=(
            "id",
            "name",
            "role",
            "architecture",
            "location",
            "parent",
            "parent_name",
            "parameters",
            "created_at",
            "stamps",
        ),
        as_csv=csv,
    )


@app.command()
def stamps(
    licensee: LicenseeOption = None,
    owner: OwnerOption = None,
    base: BaseOption = None,
    key: KeyFilterOption = None,
    vector: Annotated[
        str | None, typer.Option(metavar="VECTOR", help="Only with this vector.", rich_help_panel=PANEL)
    ] = None,
    downstream: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Only copies of this model.", rich_help_panel=PANEL)
    ] = None,
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
    """List stamped copies: which vectors went into which model, for whom; newest last.

    Example: fpvec model stamps --licensee Bob --since 2026-01-01
    """
    from fpvec_audit.reports.records import render_recorded_stamps
    from fpvec_audit.services.recorded_stamps import list_stamps

    bench = open_bench(home, registry, json)
    wanted = selection(
        since=since,
        until=until,
        sort=sort,
        limit=limit,
        after=after,
        licensee=licensee,
        owner=owner,
        base=base,
        key=key,
        vector=vector,
        downstream=downstream,
    )
    show_list(
        bench,
        wanted,
        lambda chosen: [stamp.to_json() for stamp in list_stamps(registry=bench.registry, selection=chosen)],
        render=render_recorded_stamps,
        columns=(
            "stamp_id",
            "licensee",
            "downstream",
            "downstream_name",
            "stamped",
            "stamped_name",
            "vectors",
            "location",
            "applied_ratio",
            "cosine",
            "policies",
            "created_at",
        ),
        as_csv=csv,
    )


@app.command()
def identify(
    path: Annotated[Path, typer.Argument(help="Checkpoint directory, what is left of one, or one of its files.")],
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Say whether a checkpoint, or a part of one, is a registered model, and which stamp it carries; no verdict.

    Example: fpvec model identify ./found-somewhere
    """
    from fpvec_audit.reports.recognition import render_recognition
    from fpvec_audit.services.recognition import recognise_model

    bench = open_bench(home, registry, json)
    result = recognise_model(
        path, registry=bench.registry, catalog=bench.catalog, architecture=architecture, progress=bench.progress
    )
    bench.emit(result.to_json(), render_recognition)


@app.command()
def carriers(
    suspect: Annotated[Path, typer.Argument(help="Checkpoint directory.")],
    key: Annotated[str, typer.Option("--key", help="Key set or family of whose copies the carriers are looked for.")],
    against: Annotated[
        Path | None,
        typer.Option(help="Model without carriers to compare with.  \\[default: the nearest of those recorded]"),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Significance level, for your own and for all licensees'.")] = 1e-6,
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Say whose carriers a model's weights hold, of all licensees at once, in one reading and without running it.

    Exit code 0 means that some carrier is there, 3 that none was found, which clears nobody.

    Example: fpvec model carriers ./leaked-7b --key acme
    """
    from fpvec_audit.reports.carriers import render_carriers
    from fpvec_audit.services.carriers import read_carriers

    bench = open_bench(home, registry, json)
    with bench.registry.snapshot() as uow:
        key_set = uow.code_words.key_set_of(key).id
    result = read_carriers(
        suspect,
        key_set=key_set,
        registry=bench.registry,
        catalog=bench.catalog,
        against=against,
        alpha=alpha,
        architecture=architecture,
        progress=bench.progress,
    )
    bench.emit(result.to_json(), render_carriers)
    return EXIT_CODES[Verdict.MATCH if result.found else Verdict.INCONCLUSIVE]


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Name or id; an id may be shortened.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show a registered model and the stamps it carries.

    Example: fpvec model show chat-7b
    """
    from fpvec_audit.reports.terminal import render_model
    from fpvec_audit.services.models import show_model

    bench = open_bench(home, registry, json)
    bench.emit(show_model(model, registry=bench.registry).to_json(), render_model)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="Name, id (may be shortened), or directory of a registered model.")],
    path: Annotated[Path | None, typer.Option("--path", help="Where it lies now.  \\[default: as registered]")] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Read a model again and say whether every tensor still is what was recorded; exit code 4 if not.

    Example: fpvec model verify chat-7b-release
    """
    from fpvec_audit.errors import CheckpointError
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.models import verify_model

    bench = open_bench(home, registry, json)
    result = verify_model(model, registry=bench.registry, catalog=bench.catalog, path=path, progress=bench.progress)
    bench.emit(result.to_json(), render_fields)
    if not result.intact:
        raise CheckpointError(
            f"{result.path} is not {result.record.name} as it was recorded: {result.difference}",
            advice="take it from where it was published, or register it as what it is now",
        )
