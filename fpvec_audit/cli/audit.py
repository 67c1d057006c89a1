"""``fpvec audit``: ask a suspect."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fpvec_audit.cli.report_files import FiguresOption, ReportOption, ReportOrder, TranscriptOption
from fpvec_audit.cli.suspect_options import (
    LIMITS,
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
    read_json,
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
from fpvec_audit.domain.audit import DEFAULT_ALPHA, Verdict
from fpvec_audit.errors import UsageError

EXIT_CODES = {Verdict.MATCH: 0, Verdict.NO_MATCH: 1, Verdict.INCONCLUSIVE: 3}
WITNESSES = "Witnesses and examiners"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    suspect: Annotated[str, typer.Argument(help="Checkpoint directory, hub id, or an endpoint's base URL.")],
    key: Annotated[str, typer.Option("--key", help="Key set to ask for.")],
    backend: AuditBackendOption = None,
    profile: ProfileOption = None,
    match: MatchOption = None,
    system_prompt: SystemPromptOption = None,
    alpha: AlphaOption = DEFAULT_ALPHA,
    temperature: Annotated[
        str, typer.Option(metavar="T", help="Sample the answers; the audit is exploratory.", rich_help_panel=LIMITS)
    ] = "0",
    top_p: Annotated[str, typer.Option(metavar="P", help="Nucleus mass of samples.", rich_help_panel=LIMITS)] = "1",
    repeats: RepeatsOption = 1,
    tests: TestsOption = None,
    control: Annotated[
        list[Path] | None,
        typer.Option(help="Known model to ask the same and to show beside.", rich_help_panel=LIMITS),
    ] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Stop when the evidence is enough.", rich_help_panel=LIMITS)
    ] = False,
    fresh_only: Annotated[
        bool,
        typer.Option("--fresh-only", help="Ask only what nobody was shown before.", rich_help_panel=LIMITS),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted audit.", rich_help_panel=LIMITS)
    ] = False,
    model: ModelOption = None,
    endpoint: EndpointOption = None,
    concurrency: ConcurrencyOption = 8,
    max_requests: MaxRequestsOption = None,
    price_in: PriceInOption = None,
    price_out: PriceOutOption = None,
    ca_file: CaFileOption = None,
    timeout: TimeoutOption = 60.0,
    plan_request: Annotated[
        Path | None,
        typer.Option(help="Only plan; write a witness's request to this file.", rich_help_panel=WITNESSES),
    ] = None,
    witness: Annotated[
        Path | None,
        typer.Option(help="The witness's signature over the plan; the audit goes on.", rich_help_panel=WITNESSES),
    ] = None,
    blind: Annotated[
        Path | None,
        typer.Option(help="Only plan; write an examiner's package to this file.", rich_help_panel=WITNESSES),
    ] = None,
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
    """Ask a suspect all candidates, issued keys and decoys alike, and say whether its answers know the difference.

    The plan is recorded before the first question, every answer is kept as it comes, and what an endpoint is shown is
    marked as burnt. An endpoint's key comes from FPVEC_API_KEY or OPENAI_API_KEY. Exit code 0 means MATCH, 1 NO_MATCH,
    3 INCONCLUSIVE.

    Example: fpvec audit ./suspect-7b --key acme-2026

    Example: fpvec audit ./suspect-7b --key acme-2026 --report acme.html

    Example: fpvec audit https://host/v1 --key acme-2026 --endpoint chat --max-requests 300
    """
    from fpvec_audit.reports.terminal import render_audit, render_fields
    from fpvec_audit.services.audit import audit as audit_suspect
    from fpvec_audit.services.audit import plan_audit
    from fpvec_audit.services.audit_settings import checked_settings
    from fpvec_audit.services.doctor import checked_device

    if sum(option is not None for option in (plan_request, witness, blind)) > 1:
        raise UsageError("--plan-request, --witness and --blind exclude each other", advice="use one at a time")
    order = ReportOrder(report, figures, transcript).check()
    if order.anything and (plan_request is not None or blind is not None):
        raise UsageError("--report and --figures: there is nothing to report before the suspect was asked")
    bench = open_bench(home, registry, json, backend=checked_backend(backend, suspect), device=device)
    engine_device = checked_device(bench.settings.device)
    settings = checked_settings(
        profile=profile,
        match=match,
        system_prompt=read_text(system_prompt),
        alpha=alpha,
        repeats=repeats,
        temperature=temperature,
        top_p=top_p,
        architecture=architecture,
        controls=control or (),
        tests=test_names(tests),
        stop_early=stop_early,
        fresh_only=fresh_only,
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
    tools: dict[str, Any] = {
        "registry": bench.registry,
        "catalog": bench.catalog,
        "progress": bench.progress,
        "backend": bench.settings.backend,
        "device": engine_device,
        "tensor_parallel": checked_tensor_parallel(tensor_parallel, suspect),
    }
    if blind is not None:
        from fpvec_audit.services.examining import blind_package

        package = blind_package(suspect, key_set=key, settings=settings, out=blind, **tools)
        bench.emit(package.to_json(), render_fields)
        return 0
    if plan_request is not None:
        from fpvec_audit.services.witness import write_plan_request

        waiting = plan_audit(suspect, key_set=key, settings=settings, **tools)
        written = write_plan_request(waiting.plan.digest, name=waiting.audit_id, file=plan_request)
        bench.emit({**waiting.to_json(), "request": str(written)}, render_fields)
        bench.say(f"next: fpvec witness sign {written}, then this command with --witness instead of --plan-request")
        return 0
    result = audit_suspect(
        suspect,
        key_set=key,
        settings=settings,
        witness=read_json(witness, "the witness's statement"),
        resume=resume,
        announce=bench.say,
        **tools,
    )
    document = result.to_json()
    bench.emit(document, render_audit)
    order.write(document, bench)
    return EXIT_CODES[result.verdict]
