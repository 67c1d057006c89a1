"""Writes reports and figures: whole or not at all, and never over something that is there.

A report that could not be written is found out before a suspect is asked, not after.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpvec_audit.errors import OutputError, UsageError

if TYPE_CHECKING:
    from fpvec_audit.cli.wiring import Workbench
    from fpvec_audit.domain.exchanges import Exchange

PANEL = "Report"
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE.html", help="Write a report for people to this file.", rich_help_panel=PANEL
    ),
]
FiguresOption = Annotated[
    Path | None,
    typer.Option(
        "--figures", metavar="DIR", help="Write every figure of the report as PNG and SVG.", rich_help_panel=PANEL
    ),
]
TranscriptOption = Annotated[
    bool,
    typer.Option(
        "--transcript",
        help="Put questions and answers into the report: it gives the keys away. Recorded in the ledger.",
        rich_help_panel=PANEL,
    ),
]
OPEN_MODE, SECRET_MODE = 0o666, 0o600
"""Modes of files before the user's umask."""


@dataclass(frozen=True, slots=True)
class ReportOrder:
    """What a command was asked to write beside its result.

    Attributes:
        report: file for the report, None for none.
        figures: directory for its figures, None for none.
        transcript: whether questions and answers go into the report.
    """

    report: Path | None = None
    figures: Path | None = None
    transcript: bool = False

    @property
    def anything(self) -> bool:
        """Whether anything is to be written."""
        return self.report is not None or self.figures is not None

    def check(self) -> "ReportOrder":
        """Return the order, if it can be carried out.

        Raises:
            UsageError: a transcript without a report to put it into.
            OutputError: something is there already, or there is no such directory.
        """
        if self.transcript and self.report is None:
            raise UsageError("--transcript is of no use without a report", advice="add --report FILE.html")
        for path, what in ((self.report, "report"), (self.figures, "figures")):
            if path is not None:
                _refuse_taken(path, what)
        return self

    def write(self, document: Mapping[str, Any], bench: "Workbench") -> tuple[Path, ...]:
        """Write what was asked for and return the figures' files.

        Args:
            document: JSON document of the result.
            bench: where a transcript is, and where to say what was written.

        Raises:
            UsageError: the document is none that a report can be made of, or has no transcript.
            OutputError: something is there by now, or cannot be written.
        """
        if not self.anything:
            return ()
        from fpvec_audit.reports.html import render_html, report_page
        from fpvec_audit.reports.page import charts

        transcripts = _transcripts(document, bench) if self.transcript else None
        page = report_page(document, transcripts)
        if self.report is not None:
            html = render_html(document, page, secret=self.transcript)
            write_whole(self.report, html.encode(errors="replace"), mode=SECRET_MODE if self.transcript else OPEN_MODE)
            bench.say(f"report: {self.report}{' – it holds secret keys' if self.transcript else ''}")
        if self.figures is None:
            return ()
        from fpvec_audit.reports.drawing import png_file, svg_file

        contents = {
            f"{chart.name}.{form}": draw(chart)
            for chart in charts(page)
            for form, draw in (("svg", svg_file), ("png", png_file))
        }
        write_directory(self.figures, contents)
        bench.say(f"figures: {self.figures}")
        return tuple(self.figures / name for name in contents)


def write_whole(path: Path, content: bytes, *, mode: int = OPEN_MODE) -> None:
    """Write a new file: it appears under its name when it is whole, or not at all.

    Args:
        path: the file.
        content: its bytes.
        mode: its mode before the user's umask.

    Raises:
        OutputError: it is there already, or cannot be written.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            _write(staged, content, mode)
            os.link(staged, path)  # unlike a renaming, refuses a name that is taken
        finally:
            staged.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise _taken(path, "report") from error
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", advice="name another file") from error


def write_directory(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a new directory, which appears when all of them are whole.

    Raises:
        OutputError: it is there already, or cannot be written.
    """
    staged = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            staged.mkdir()
            for name, content in contents.items():
                _write(staged / name, content, OPEN_MODE)
            _sync_directory(staged)
            _refuse_taken(directory, "figures")
            staged.rename(directory)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        _sync_directory(directory.parent)
    except OSError as error:
        raise OutputError(f"{directory} cannot be written: {error.strerror}", advice="name another one") from error


def _transcripts(document: Mapping[str, Any], bench: "Workbench") -> dict[str, Sequence["Exchange"]]:
    """Open the transcript of an audit, or those of whom a trace names; of the likeliest where it names nobody."""
    from fpvec_audit.services.disclosed_transcripts import disclosed_transcript

    if "candidates" in document:
        named = [item["audit_id"] for item in document["named"] if "audit_id" in item]  # by carriers without an audit
        wanted = list(dict.fromkeys(named)) or [item["audit_id"] for item in document["candidates"][:1]]
    elif "audit_id" in document:
        wanted = [document["audit_id"]]
    else:
        raise UsageError("this result has no transcript", advice="leave --transcript out")
    return {identifier: disclosed_transcript(identifier, registry=bench.registry) for identifier in wanted}


def _refuse_taken(path: Path, what: str) -> None:
    if path.exists() or path.is_symlink():
        raise _taken(path, what)
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.absolute().parent} is no directory", advice="make it, or name another place")


def _taken(path: Path, what: str) -> OutputError:
    return OutputError(f"{path} exists already", advice=f"name another place for the {what}, or remove it")


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
