"""``fpvec attack``: what an infringer could do to a stamped model."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.report_files import FiguresOption, ReportOption, ReportOrder
from fpvec_audit.cli.wiring import (
    ArchitectureOption,
    BackendOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    TensorParallelOption,
    open_bench,
)

HOURS = 6.0

app = typer.Typer(help="Test the robustness of a stamped model.\n\nExample: fpvec attack list", no_args_is_help=True)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List attacks with their parameters.

    Example: fpvec attack list
    """
    from fpvec_audit.reports.attack_tables import render_attacks
    from fpvec_audit.services.described_attacks import describe_attacks

    bench = open_bench(home, registry, json)
    bench.emit([attack.to_json() for attack in describe_attacks(bench.catalog)], render_attacks)


@app.command()
def run(
    stamped: Annotated[Path, typer.Argument(help="Stamped model.")],
    key: Annotated[str, typer.Option("--key", help="Key set it carries.")],
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="quick|standard|full", help="A ready-made list of attacks.")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="SPEC",
            help="NAME[:param=VALUE,…][+NAME…]; VALUE a scalar, a|b|c or lo..hi; repeatable.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run of the same attacks that was left unfinished.")
    ] = False,
    backend: BackendOption = None,
    device: DeviceOption = None,
    tensor_parallel: TensorParallelOption = None,
    architecture: ArchitectureOption = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", metavar="SECONDS", help="End an attack on the weights that takes longer.")
    ] = HOURS * 3600,
    report: ReportOption = None,
    figures: FiguresOption = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random in the attacks.")] = 0,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Attack a stamped model and see what is left of its fingerprint, and what that costs an infringer.

    Copies that attacks make are kept in the home and used again; `fpvec attack clean` removes them.

    Example: fpvec attack run ./stamped --key acme-2026 --suite quick --attack fine_tune:method=lora,steps=10|100
    """
    from fpvec_audit.reports.attack_tables import render_run
    from fpvec_audit.services.robustness import AttackOptions, AttackTools, run_attacks

    order = ReportOrder(report, figures).check()
    bench = open_bench(home, registry, json, backend=backend, device=device)
    options = AttackOptions(
        specs=attack or [],
        suite=suite,
        resume=resume,
        seed=seed,
        architecture=architecture,
        device=bench.device,
        tensor_parallel=tensor_parallel,
        time_limit=time_limit,
        cache_bytes=bench.settings.attack_cache_bytes,
    )
    tools = AttackTools(
        registry=bench.registry,
        catalog=bench.catalog,
        workspace=bench.settings.home,
        backend=bench.settings.backend,
        progress=bench.progress,
        announce=bench.say,
    )
    found = run_attacks(stamped, key_set=key, options=options, tools=tools)
    document = found.to_json()
    bench.emit(document, render_run)
    order.write(document, bench)
    return 4 if found.all_failed else 0


@app.command()
def clean(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """Remove the attacked copies that earlier runs left to be used again.

    Example: fpvec attack clean
    """
    from fpvec_audit.reports.attack_tables import render_cleared
    from fpvec_audit.services.attack_copies import PLACE, CopyStore

    bench = open_bench(home, registry, json)
    cleared = CopyStore(bench.settings.home / PLACE, bench.settings.attack_cache_bytes).clear()
    bench.emit(cleared.to_json(), render_cleared)
