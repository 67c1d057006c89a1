"""``fpvec job``: long work under way and ended."""

from pathlib import Path
from typing import Annotated

import typer

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
from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, Workbench, open_bench
from fpvec_audit.domain.records import JobState
from fpvec_audit.domain.selection import CREATED

app = typer.Typer(help="Look at long work, end it, go on with it.\n\nExample: fpvec job list", no_args_is_help=True)
JobArgument = Annotated[str, typer.Argument(help="Id of a job; it may be shortened.")]


@app.command("list")
def list_(
    state: Annotated[JobState | None, typer.Option(help="Only those in this state.", rich_help_panel=PANEL)] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Only this kind of work.", rich_help_panel=PANEL)
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
    """List jobs; one whose process is gone, or that gave no sign of life for two minutes, is marked as interrupted.

    Example: fpvec job list --state running
    """
    from fpvec_audit.reports.terminal import render_jobs
    from fpvec_audit.services.jobs import job_json, list_jobs

    bench = open_bench(home, registry, json)
    wanted = selection(since=since, until=until, sort=sort, limit=limit, after=after, state=state, kind=kind)
    show_list(
        bench,
        wanted,
        lambda chosen: [job_json(job) for job in list_jobs(registry=bench.registry, selection=chosen)],
        render=render_jobs,
        columns=(
            "id",
            "kind",
            "state",
            "detail",
            "host",
            "process",
            "command",
            "directory",
            "started_at",
            "heartbeat_at",
            "ended_at",
        ),
        as_csv=csv,
    )


@app.command()
def show(job: JobArgument, home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """Show a job: what it works on, the command that began it, its last sign of life.

    Example: fpvec job show job-3f2a
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.jobs import job_json, show_job

    bench = open_bench(home, registry, json)
    bench.emit(job_json(show_job(job, registry=bench.registry)), render_fields)


@app.command()
def cancel(
    job: JobArgument,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for its end.")] = 20.0,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """End a running job as Ctrl-C would, wherever it runs: nothing half-written is left behind.

    The job hears of it through the registry within seconds. Exit code 4 means that it has not ended yet.

    Example: fpvec job cancel job-3f2a
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.jobs import cancel_job, job_json

    bench = open_bench(home, registry, json)
    bench.emit(job_json(cancel_job(job, registry=bench.registry, patience=wait)), render_fields)


@app.command()
def resume(job: JobArgument, home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> int:
    """Go on with an interrupted, cancelled or failed job: its command is run again with --resume, where it was given.

    fingerprint, stamp and audit can go on with what is left. The output and the exit code are the command's.

    Example: fpvec job resume job-3f2a
    """
    from fpvec_audit.services.jobs import resumption

    bench = open_bench(home, registry, json)
    found = resumption(job, registry=bench.registry)
    bench.say(f"fpvec {' '.join(found.arguments)}   (in {found.directory})")
    return _run(found.arguments, found.directory, bench)


def _run(arguments: tuple[str, ...], directory: Path, bench: Workbench) -> int:
    """Give a command in a directory, to this registry; in this process, so that no password shows in a list of them."""
    import os

    from fpvec_audit.cli.main import run_command

    places = ["--home", str(bench.settings.home)]
    if bench.settings.registry:
        places += ["--registry", bench.settings.registry]
    kept = [argument for argument in arguments if argument != "--json"]
    bench.registry.close()
    os.chdir(directory)
    return run_command([*kept, *places, *(["--json"] if bench.json else [])])
