"""``fpvec doctor``: what works here."""

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> int:
    """Say what works here – torch, device, vLLM, registry, plugins – and how to mend what does not.

    Example: fpvec doctor
    """
    from fpvec_audit.reports.terminal import render_findings
    from fpvec_audit.services.doctor import examine, summary

    bench = open_bench(home, registry, json)
    findings = examine(home=bench.settings.home, catalog=bench.catalog, open_registry=lambda: bench.registry)
    document = summary(findings)
    bench.emit(document, render_findings)
    return 0 if document["healthy"] else 4
