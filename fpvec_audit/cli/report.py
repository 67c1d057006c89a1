"""``fpvec report``: make the report of a result that is there already."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpvec_audit.cli.report_files import FiguresOption, ReportOrder, TranscriptOption
from fpvec_audit.cli.suspect_options import read_json
from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, Workbench, open_bench
from fpvec_audit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fpvec_audit.domain.records import AuditRecord


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    result: Annotated[
        str, typer.Argument(help="Id of a finished audit or trace, or a file with what a command printed as JSON.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="File for the report.")],
    figures: FiguresOption = None,
    transcript: TranscriptOption = False,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Make the report of an audit or trace in the registry, or of what a command printed with --json.

    One file that loads nothing and runs nothing. With --transcript it holds every key that was asked.

    Example: fpvec report au-1f2e3d --out acme.html

    Example: fpvec report tr-5f0c --out whose.html
    """
    from fpvec_audit.reports.terminal import render_fields

    bench = open_bench(home, registry, json)
    order = ReportOrder(out, figures, transcript).check()
    document = _document(result, bench)
    drawn = order.write(document, bench)
    bench.emit(
        {
            "out": str(out),
            "bytes": out.stat().st_size,
            "transcript": transcript,
            "figures": [str(path) for path in drawn],
        },
        render_fields,
    )


def _document(reference: str, bench: Workbench) -> dict[str, Any]:
    """Return the document of an audit or trace by its id, or the one in a file."""
    file = Path(reference)
    if file.is_file():
        document = read_json(file, "the result")
        if not isinstance(document, dict):
            raise UsageError(f"{file} holds no result", advice="give what a command printed with --json")
        return document
    with bench.registry.snapshot() as uow:
        if reference.startswith("tr-"):
            return _of_trace(uow.audits.of_trace(reference), reference)
        audit = uow.audits.get(reference)
    if audit.ended_at is None:
        raise UsageError(f"audit {audit.id} is not finished", advice="finish it with `fpvec audit … --resume`")
    return dict(audit.result)


def _of_trace(audits: "Sequence[AuditRecord]", reference: str) -> dict[str, Any]:
    """Return the document of a trace, which that of its likeliest audit holds."""
    from fpvec_audit.services.audit_result import TRACE_DOCUMENT

    for audit in audits:
        if TRACE_DOCUMENT in audit.result:
            return dict(audit.result[TRACE_DOCUMENT])
    raise UsageError(
        f"trace {reference} did not end, or an older version recorded it, which kept its audits alone",
        advice=f"report one of them: {', '.join(audit.id for audit in audits[:10])}",
    )
