"""``fpvec attack``: what an infringer could do to a stamped model."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.report_files import FiguresOption, ReportOption, ReportOrder
from fpvec_audit.cli.wiring import (
    BackendOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    open_bench,
)

app = typer.Typer(help="Test the robustness of a stamped model.\n\nExample: fpvec attack list", no_args_is_help=True)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List attacks with their parameters.

    Example: fpvec attack list
    """
    from fpvec_audit.reports.terminal import render_attacks
    from fpvec_audit.services.robustness import describe_attacks

    bench = open_bench(home, registry, json)
    bench.emit([attack.to_json() for attack in describe_attacks(bench.catalog)], render_attacks)


@app.command()
def run(
    stamped: Annotated[Path, typer.Argument(help="Stamped model.")],
    key: Annotated[str, typer.Option("--key", help="Key set it carries.")],
    attack: Annotated[
        list[str],
        typer.Option(
            "--attack", metavar="SPEC", help="NAME[:param=VALUE,…]; VALUE a scalar, a|b|c or lo..hi; repeatable."
        ),
    ],
    backend: BackendOption = None,
    device: DeviceOption = None,
    report: ReportOption = None,
    figures: FiguresOption = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random in the attacks.")] = 0,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Attack a stamped model and see what is left of its fingerprint.

    Example: fpvec attack run ./stamped --key acme-2026 --attack guessing --attack fine_tune:method=lora,steps=100
    """
    from fpvec_audit.reports.terminal import render_cells
    from fpvec_audit.services.robustness import run_attacks

    order = ReportOrder(report, figures).check()
    bench = open_bench(home, registry, json, backend=backend, device=device)
    found = run_attacks(
        stamped,
        key_set=key,
        specs=attack,
        registry=bench.registry,
        catalog=bench.catalog,
        backend=bench.settings.backend,
        device=bench.device,
        seed=seed,
        workspace=bench.settings.home,
        progress=bench.progress,
    )
    document = found.to_json()
    bench.emit(document, render_cells)
    order.write(document, bench)
    return 4 if found.all_failed else 0
