"""``fpvec harmless``: did the fingerprint harm the model?"""

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
    open_bench,
)
from fpvec_audit.domain.harm_report import DEFAULT_MARGIN, HarmVerdict

EXIT_CODES = {HarmVerdict.HARMLESS: 0, HarmVerdict.HARMFUL: 1, HarmVerdict.INCONCLUSIVE: 3}
TASKS = "What is asked"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(harmless)


def harmless(
    before: Annotated[str, typer.Argument(help="Model without the fingerprint: directory or hub id.")],
    after: Annotated[str, typer.Argument(help="Model with it.")],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="offline|paper|NAME|DIR,…",
            help="Groups, tasks of lm-eval, or a directory of tasks; repeatable.  \\[default: offline]",
            rich_help_panel=TASKS,
        ),
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Loss that does not matter, in units of the score.", rich_help_panel=TASKS)
    ] = DEFAULT_MARGIN,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Ask the first N items of every task.", rich_help_panel=TASKS)
    ] = None,
    task_time: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Leave a task out that takes longer on a side.", rich_help_panel=TASKS),
    ] = None,
    chat_template: Annotated[
        bool,
        typer.Option(
            "--chat-template", help="Put prompts of lm-eval's tasks into the chat template.", rich_help_panel=TASKS
        ),
    ] = False,
    text: Annotated[
        bool, typer.Option(" /--no-text", help="Leave perplexity and divergence out.", rich_help_panel=TASKS)
    ] = True,
    logs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Directory for every item's answers.  \\[default: in the home]", rich_help_panel=TASKS
        ),
    ] = None,
    backend: BackendOption = None,
    report: ReportOption = None,
    figures: FiguresOption = None,
    architecture: ArchitectureOption = None,
    device: DeviceOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Ask two models the same and say whether the second lost more than a margin.

    HARMLESS (exit code 0) has to be shown by every task, HARMFUL (1) by one; too few items for either are INCONCLUSIVE
    (3). The tasks of `offline` come with the package; `paper` are the 17 of the paper, from the hub.

    Example: fpvec harmless ./chat-7b ./chat-7b-stamped

    Example: fpvec harmless ./chat-7b ./chat-7b-stamped --tasks paper,hellaswag --task-time 3600 --report harm.html
    """
    from fpvec_audit.reports.harmless_terminal import render_comparison
    from fpvec_audit.services.harm_comparison import HarmSettings, compare_models
    from fpvec_audit.services.harm_tasks import OFFLINE

    order = ReportOrder(report, figures).check()
    wanted = tuple(name.strip() for text_ in tasks or [OFFLINE] for name in text_.split(",") if name.strip())
    settings = HarmSettings(wanted, margin, limit, task_time, chat_template, text).checked()
    bench = open_bench(home, registry, json, backend=backend, device=device)
    found = compare_models(
        before,
        after,
        registry=bench.registry,
        catalog=bench.catalog,
        home=bench.settings.home,
        settings=settings,
        logs=logs,
        backend=bench.settings.backend,
        device=bench.device,
        architecture=architecture,
        progress=bench.progress,
    )
    document = found.to_json()
    bench.emit(document, render_comparison)
    order.write(document, bench)
    return EXIT_CODES[found.verdict]
