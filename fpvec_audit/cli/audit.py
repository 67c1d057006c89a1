"""``fpvec audit``: ask a suspect."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.wiring import (
    ArchitectureOption,
    BackendOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    open_bench,
)
from fpvec_audit.domain.audit import DEFAULT_ALPHA, Verdict
from fpvec_audit.errors import SettingsError

EXIT_CODES = {Verdict.MATCH: 0, Verdict.NO_MATCH: 1, Verdict.INCONCLUSIVE: 3}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    suspect: Annotated[str, typer.Argument(help="Checkpoint directory or hub id.")],
    key: Annotated[str, typer.Option("--key", help="Key set to ask for.")],
    backend: BackendOption = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="raw-greedy|chat-greedy|exploratory",
            help="How the prompts are put.  [default: chat-greedy "
            "where the suspect has a chat template or a known architecture, else raw-greedy]",
        ),
    ] = None,
    match: Annotated[str | None, typer.Option(metavar="exact|prefix", help="When an answer counts.")] = None,
    system_prompt: Annotated[Path | None, typer.Option(help="File with a system prompt to put first.")] = None,
    alpha: Annotated[str, typer.Option(help="Significance level of a MATCH.")] = DEFAULT_ALPHA,
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Ask a suspect all candidates, issued keys and decoys alike, and say whether its answers know the difference.

    The plan is recorded before the first question. Exit code 0 means MATCH, 1 NO_MATCH, 3 INCONCLUSIVE.

    Example: fpvec audit ./suspect-7b --key acme-2026
    """
    from fpvec_audit.reports.terminal import render_audit
    from fpvec_audit.services.audit import audit as audit_suspect

    bench = open_bench(home, registry, json, backend=backend)
    result = audit_suspect(
        suspect,
        key_set=key,
        registry=bench.registry,
        catalog=bench.catalog,
        backend=bench.settings.backend,
        profile=profile,
        match=match,
        system_prompt=_read(system_prompt),
        alpha=alpha,
        architecture=architecture,
        progress=bench.progress,
    )
    bench.emit(result.to_json(), render_audit)
    return EXIT_CODES[result.verdict]


def _read(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"system prompt {path} cannot be read: {error}") from error
