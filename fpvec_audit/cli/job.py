"""``fpvec job``: long work under way and ended."""

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(help="Look at long work.\n\nExample: fpvec job list", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the group a group while it has one command."""


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List jobs; one whose process is gone is marked as interrupted.

    Example: fpvec job list
    """
    from fpvec_audit.reports.terminal import render_jobs
    from fpvec_audit.services.jobs import job_json, list_jobs

    bench = open_bench(home, registry, json)
    bench.emit([job_json(job) for job in list_jobs(registry=bench.registry)], render_jobs)
