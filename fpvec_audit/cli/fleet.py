"""``fpvec fleet``: what the single commands do, done to thousands of models on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.fleet_options import (
    CLUSTER,
    RETRIES,
    SAID,
    AddressOption,
    CpusOption,
    DivisionOption,
    GpusOption,
    InFlightOption,
    KeyOption,
    LinesOption,
    MemoryOption,
    RetriesOption,
    SkipBadOption,
    SourceArgument,
    WhereOption,
    begin,
    drive,
    manner_of,
)
from fpvec_audit.cli.listing import (
    PANEL,
    AfterOption,
    CsvOption,
    LimitOption,
    SinceOption,
    SortOption,
    UntilOption,
    selection,
    show_list,
)
from fpvec_audit.cli.suspect_options import (
    AlphaOption,
    MatchOption,
    ModelOption,
    ProfileOption,
    RepeatsOption,
    SystemPromptOption,
    TestsOption,
    test_names,
)
from fpvec_audit.cli.wiring import (
    ArchitectureOption,
    BackendOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    open_bench,
)
from fpvec_audit.domain.audit_plan import DEFAULT_ALPHA
from fpvec_audit.domain.carrier import DEFAULT_STRENGTH
from fpvec_audit.domain.fleet import FleetAction, RunState
from fpvec_audit.domain.selection import CREATED

app = typer.Typer(
    help="Stamp, audit, trace or attack thousands of models on a Ray cluster.\n\n"
    "Example: fpvec fleet stamp models.csv --vector ./vector --out ./release",
    no_args_is_help=True,
)
RunArgument = Annotated[str, typer.Argument(help="Id of a run; it may be shortened.")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Also where the same is recorded already.", rich_help_panel=SAID)
]


@app.command()
def stamp(
    source: SourceArgument = None,
    where: WhereOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="DIR", help="Directory or URL of all copies that name none.", rich_help_panel=SAID
        ),
    ] = None,
    vector: Annotated[
        list[str] | None,
        typer.Option("--vector", metavar="V[:SCALE]", help="Vector; repeatable.", rich_help_panel=SAID),
    ] = None,
    family: Annotated[str | None, typer.Option(help="Family of marks instead.", rich_help_panel=SAID)] = None,
    licensee: Annotated[str | None, typer.Option(help="For whom.", rich_help_panel=SAID)] = None,
    base: Annotated[Path | None, typer.Option(help="Base of unregistered models.", rich_help_panel=SAID)] = None,
    vocabulary: Annotated[
        str | None, typer.Option(metavar="refuse|shared", help="What to do with added tokens.", rich_help_panel=SAID)
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="ROLE", help="Leave tensors of a role alone.", rich_help_panel=SAID),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="keep|merge", help="What becomes of LoRA adapters.", rich_help_panel=SAID)
    ] = None,
    carrier: Annotated[
        bool | None,
        typer.Option(
            "--carrier/--no-carrier",
            help="Also add keyed patterns.  \\[default: with --family]",
            show_default=False,
            rich_help_panel=SAID,
        ),
    ] = None,
    again: AgainOption = False,
    architecture: ArchitectureOption = None,
    skip_bad: SkipBadOption = False,
    retries: RetriesOption = RETRIES,
    address: AddressOption = "local",
    in_flight: InFlightOption = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    json_lines: LinesOption = False,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Stamp every model of a manifest, or of a query to the registry, as fpvec stamp does each.

    A manifest has an item a line: downstream, and out, vector, family, licensee, base, vocabulary, skip, adapter or
    architecture where they differ. A stamp that is whole already is recognised. Exit code 4 means that some items were
    set aside.

    Example: fpvec fleet stamp models.csv --vector ./vector --out ./release

    Example: fpvec fleet stamp --where 'role=downstream and base=llama-7b' --vector acme --out ./release
    """
    bench = open_bench(home, registry, json)
    said = {
        "into": out,
        "vector": vector,
        "family": family,
        "licensee": licensee,
        "base": None if base is None else str(base),
        "vocabulary": vocabulary,
        "skip": skip,
        "adapter": adapter,
        "carrier": None if carrier is None else str(DEFAULT_STRENGTH if carrier else 0),
        "again": again,
        "architecture": architecture,
    }
    return begin(
        bench,
        FleetAction.STAMP,
        said,
        source=source,
        where=where,
        skip_bad=skip_bad,
        retries=retries,
        address=address,
        manner=manner_of(cpus=cpus, memory=memory, gpus=0.0, in_flight=in_flight),
        as_lines=json_lines,
    )


@app.command()
def audit(
    source: SourceArgument = None,
    where: WhereOption = None,
    key: KeyOption = None,
    backend: BackendOption = None,
    profile: ProfileOption = None,
    match: MatchOption = None,
    system_prompt: SystemPromptOption = None,
    alpha: AlphaOption = DEFAULT_ALPHA,
    repeats: RepeatsOption = 1,
    tests: TestsOption = None,
    model: ModelOption = None,
    again: AgainOption = False,
    architecture: ArchitectureOption = None,
    device: DeviceOption = None,
    skip_bad: SkipBadOption = False,
    retries: RetriesOption = RETRIES,
    address: AddressOption = "local",
    in_flight: InFlightOption = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    gpus: GpusOption = None,
    tensor_parallel: DivisionOption = None,
    json_lines: LinesOption = False,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Audit every suspect of a manifest, or of a query to the registry, as fpvec audit does each.

    An audit of the same suspect, by content, with the same settings is recognised and not repeated, unless --again is
    given. A manifest has suspect and key, and profile, match, alpha, repeats, tests, backend, model or endpoint where
    they differ. Exit code 0 means that all were audited, whatever the verdicts, 4 that some items were set aside.

    Example: fpvec fleet audit uploads.jsonl --key acme-2026
    """
    bench = open_bench(home, registry, json)
    said = {
        "key": key,
        "backend": backend,
        "profile": profile,
        "match": match,
        "system_prompt": None if system_prompt is None else str(system_prompt),
        "alpha": alpha,
        "repeats": repeats,
        "tests": test_names(tests),
        "model": model,
        "again": again,
        "architecture": architecture,
        "device": device,
    }
    return begin(
        bench,
        FleetAction.AUDIT,
        said,
        source=source,
        where=where,
        skip_bad=skip_bad,
        retries=retries,
        address=address,
        manner=manner_of(cpus=cpus, memory=memory, gpus=gpus, parts=tensor_parallel, in_flight=in_flight),
        as_lines=json_lines,
    )


@app.command()
def trace(
    source: SourceArgument = None,
    where: WhereOption = None,
    keys: Annotated[
        list[str] | None, typer.Option("--keys", metavar="KEY", help="Key set; repeatable.", rich_help_panel=SAID)
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", metavar="F", help="Family of marks.", rich_help_panel=SAID)
    ] = None,
    backend: BackendOption = None,
    profile: ProfileOption = None,
    match: MatchOption = None,
    system_prompt: SystemPromptOption = None,
    alpha: AlphaOption = DEFAULT_ALPHA,
    repeats: RepeatsOption = 1,
    tests: TestsOption = None,
    model: ModelOption = None,
    architecture: ArchitectureOption = None,
    device: DeviceOption = None,
    skip_bad: SkipBadOption = False,
    retries: RetriesOption = RETRIES,
    address: AddressOption = "local",
    in_flight: InFlightOption = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    gpus: GpusOption = None,
    tensor_parallel: DivisionOption = None,
    json_lines: LinesOption = False,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Trace every suspect of a manifest, or of a query to the registry, as fpvec trace does each.

    A manifest has suspect, and keys, family and what fpvec fleet audit takes where they differ. A trace that was cut
    short is carried out anew. Exit code 4 means that some items were set aside.

    Example: fpvec fleet trace leaks.csv --family acme-family
    """
    bench = open_bench(home, registry, json)
    said = {
        "keys": keys,
        "family": family,
        "backend": backend,
        "profile": profile,
        "match": match,
        "system_prompt": None if system_prompt is None else str(system_prompt),
        "alpha": alpha,
        "repeats": repeats,
        "tests": test_names(tests),
        "model": model,
        "architecture": architecture,
        "device": device,
    }
    return begin(
        bench,
        FleetAction.TRACE,
        said,
        source=source,
        where=where,
        skip_bad=skip_bad,
        retries=retries,
        address=address,
        manner=manner_of(cpus=cpus, memory=memory, gpus=gpus, parts=tensor_parallel, in_flight=in_flight),
        as_lines=json_lines,
    )


@app.command()
def attack(
    source: SourceArgument = None,
    where: WhereOption = None,
    key: KeyOption = None,
    suite: Annotated[
        str | None, typer.Option(metavar="quick|standard|full", help="Ready-made attacks.", rich_help_panel=SAID)
    ] = None,
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", metavar="SPEC", help="Attack; repeatable.", rich_help_panel=SAID)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel=SAID)] = 0,
    backend: BackendOption = None,
    architecture: ArchitectureOption = None,
    device: DeviceOption = None,
    skip_bad: SkipBadOption = False,
    retries: RetriesOption = RETRIES,
    address: AddressOption = "local",
    in_flight: InFlightOption = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    gpus: GpusOption = None,
    tensor_parallel: DivisionOption = None,
    json_lines: LinesOption = False,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Attack every stamped model of a manifest, or of a query to the registry, as fpvec attack run does each.

    A run of the same attacks on the same model is gone on with, and recognised where it is whole. A manifest has
    stamped and key, and suite, attack or seed where they differ. Exit code 4 means that some items were set aside.

    Example: fpvec fleet attack --where role=stamped --key acme-2026 --suite quick
    """
    bench = open_bench(home, registry, json)
    said = {
        "key": key,
        "suite": suite,
        "attack": attacks,
        "seed": seed or None,
        "backend": backend,
        "architecture": architecture,
        "device": device,
    }
    return begin(
        bench,
        FleetAction.ATTACK,
        said,
        source=source,
        where=where,
        skip_bad=skip_bad,
        retries=retries,
        address=address,
        manner=manner_of(cpus=cpus, memory=memory, gpus=gpus, parts=tensor_parallel, in_flight=in_flight),
        as_lines=json_lines,
    )


@app.command()
def status(
    run: RunArgument, home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False
) -> None:
    """Say how far a run is, and what was set aside and why; from the registry, wherever it is driven.

    Example: fpvec fleet status fr-3f2a
    """
    from fpvec_audit.fleet.runs import run_report
    from fpvec_audit.reports.fleet import render_run

    bench = open_bench(home, registry, json)
    bench.emit(run_report(run, registry=bench.registry).to_json(), render_run)


@app.command()
def resume(
    run: RunArgument,
    set_aside: Annotated[bool, typer.Option("--set-aside", help="Also try once more what was set aside.")] = False,
    address: AddressOption = "local",
    in_flight: InFlightOption = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    gpus: GpusOption = None,
    tensor_parallel: DivisionOption = None,
    json_lines: LinesOption = False,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Go on with a run that was stopped or cancelled, or whose driver was lost; the registry alone is needed for it.

    Example: fpvec fleet resume fr-3f2a
    """
    from fpvec_audit.fleet.knocking import knock
    from fpvec_audit.fleet.runs import run_to_resume

    knock(address)
    bench = open_bench(home, registry, json)
    manner = manner_of(cpus=cpus, memory=memory, gpus=gpus, parts=tensor_parallel, in_flight=in_flight)
    found = run_to_resume(run, registry=bench.registry, try_again=set_aside)
    return drive(bench, found, address=address, manner=manner, as_lines=json_lines)


@app.command()
def cancel(
    run: RunArgument,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for its driver.", rich_help_panel=CLUSTER)
    ] = 90.0,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """End a run, wherever it is driven: what is under way ends or rolls back, and the rest waits.

    Example: fpvec fleet cancel fr-3f2a
    """
    from fpvec_audit.fleet.runs import cancel_run
    from fpvec_audit.reports.fleet import render_run

    bench = open_bench(home, registry, json)
    bench.emit(cancel_run(run, registry=bench.registry, patience=wait).to_json(), render_run)


@app.command("list")
def list_(
    state: Annotated[RunState | None, typer.Option(help="Only those in this state.", rich_help_panel=PANEL)] = None,
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
    """List runs.

    Example: fpvec fleet list --state stopped
    """
    from fpvec_audit.fleet.runs import list_runs, run_json
    from fpvec_audit.reports.fleet import render_runs

    bench = open_bench(home, registry, json)
    wanted = selection(since=since, until=until, sort=sort, limit=limit, after=after, state=state)
    show_list(
        bench,
        wanted,
        lambda chosen: [run_json(run) for run in list_runs(registry=bench.registry, selection=chosen)],
        render=render_runs,
        columns=("run", "action", "state", "items", "source", "created_at", "ended_at"),
        as_csv=csv,
    )
