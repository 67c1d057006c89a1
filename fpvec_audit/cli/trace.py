"""``fpvec trace``: whose copy is this?"""

from typing import Annotated

import typer

from fpvec_audit.cli.audit import EXIT_CODES
from fpvec_audit.cli.report_files import FiguresOption, ReportOption, ReportOrder, TranscriptOption
from fpvec_audit.cli.suspect_options import (
    AlphaOption,
    AuditBackendOption,
    CaFileOption,
    ConcurrencyOption,
    EndpointOption,
    MatchOption,
    MaxRequestsOption,
    ModelOption,
    PriceInOption,
    PriceOutOption,
    ProfileOption,
    RepeatsOption,
    SystemPromptOption,
    TestsOption,
    TimeoutOption,
    checked_backend,
    checked_tensor_parallel,
    endpoint_settings,
    read_text,
    test_names,
)
from fpvec_audit.cli.wiring import (
    ArchitectureOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    TensorParallelOption,
    open_bench,
)
from fpvec_audit.domain.audit import DEFAULT_ALPHA


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(trace)


def trace(
    suspect: Annotated[str, typer.Argument(help="Checkpoint directory, hub id, or an endpoint's base URL.")],
    keys: Annotated[
        list[str] | None, typer.Option("--keys", metavar="KEY", help="Key set to look for.  \\[default: all issued]")
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option("--family", metavar="F", help="Family of marks to look for, by key set or vector family."),
    ] = None,
    backend: AuditBackendOption = None,
    profile: ProfileOption = None,
    match: MatchOption = None,
    system_prompt: SystemPromptOption = None,
    alpha: AlphaOption = DEFAULT_ALPHA,
    repeats: RepeatsOption = 1,
    tests: TestsOption = None,
    model: ModelOption = None,
    endpoint: EndpointOption = None,
    concurrency: ConcurrencyOption = 8,
    max_requests: MaxRequestsOption = None,
    price_in: PriceInOption = None,
    price_out: PriceOutOption = None,
    ca_file: CaFileOption = None,
    timeout: TimeoutOption = 60.0,
    report: ReportOption = None,
    figures: FiguresOption = None,
    transcript: TranscriptOption = False,
    architecture: ArchitectureOption = None,
    device: DeviceOption = None,
    tensor_parallel: TensorParallelOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Ask a suspect for all issued key sets at once, and name the licensees whose keys are in it.

    Exit code 0 means that somebody is named, 1 that nobody is, 3 INCONCLUSIVE.

    Example: fpvec trace ./leaked-7b

    Of a family of marks, the copies that were pooled are told by their code words. A family that is found without
    pointing to anybody is INCONCLUSIVE.

    Example: fpvec trace ./leaked-7b --keys acme-2026 --keys globex-2026

    Example: fpvec trace ./leaked-7b --family acme-family
    """
    from fpvec_audit.reports.trace import render_trace
    from fpvec_audit.services.audit_settings import checked_settings
    from fpvec_audit.services.doctor import checked_device
    from fpvec_audit.services.trace import trace as trace_suspect

    order = ReportOrder(report, figures, transcript).check()
    bench = open_bench(home, registry, json, backend=checked_backend(backend, suspect), device=device)
    engine_device = checked_device(bench.settings.device)
    settings = checked_settings(
        profile=profile,
        match=match,
        system_prompt=read_text(system_prompt),
        alpha=alpha,
        repeats=repeats,
        architecture=architecture,
        tests=test_names(tests),
        endpoint=endpoint_settings(
            model=model,
            endpoint=endpoint,
            concurrency=concurrency,
            max_requests=max_requests,
            price_in=price_in,
            price_out=price_out,
            ca_file=ca_file,
            timeout=timeout,
        ),
    )
    result = trace_suspect(
        suspect,
        settings=settings,
        key_sets=keys or (),
        families=family or (),
        registry=bench.registry,
        catalog=bench.catalog,
        backend=bench.settings.backend,
        device=engine_device,
        tensor_parallel=checked_tensor_parallel(tensor_parallel, suspect),
        progress=bench.progress,
        announce=bench.say,
    )
    document = result.to_json()
    bench.emit(document, render_trace)
    order.write(document, bench)
    return EXIT_CODES[result.verdict]
