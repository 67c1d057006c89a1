"""``fpvec registry export|import|backup|restore``: the registry elsewhere."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, Workbench, open_bench

if TYPE_CHECKING:
    from fpvec_audit.services.moving import MovedRegistry

_STREAM = "-"


def export(
    file: Annotated[str, typer.Argument(help="A new file, or - for stdout.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Write everything that the registry holds as JSON Lines, as of one moment, while others write.

    Secrets are in the file as they lie in the registry, sealed; the master key is not.

    Example: fpvec registry export registry.jsonl
    """
    from fpvec_audit.services.moving import export_registry, export_to_stream

    bench = open_bench(home, registry, json)
    if file == _STREAM:
        _warn(bench, export_to_stream(sys.stdout.buffer, registry=bench.registry))
    else:
        _show(bench, export_registry(Path(file), registry=bench.registry))


def import_(
    file: Annotated[str, typer.Argument(help="A file of `fpvec registry export`, or - for stdin.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Fill an empty registry, embedded or on PostgreSQL, from an export: verified, and as a whole or not at all.

    Example: fpvec registry import registry.jsonl --registry postgresql+psycopg://fpvec@db/fpvec
    """
    from fpvec_audit.services.moving import import_from_stream, import_registry

    bench = open_bench(home, registry, json)
    if file == _STREAM:
        _show(bench, import_from_stream(sys.stdin.buffer, registry=bench.registry))
    else:
        _show(bench, import_registry(Path(file), registry=bench.registry))


def backup(
    file: Annotated[Path, typer.Argument(help="A new file.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Copy the registry as of one moment, while others write. The master key is not in the copy.

    Example: fpvec registry backup registry-2026-05-01.backup
    """
    from fpvec_audit.services.moving import backup_registry

    bench = open_bench(home, registry, json)
    _show(bench, backup_registry(file, bench.settings.registry_url))


def restore(
    file: Annotated[Path, typer.Argument(help="A file of `fpvec registry backup`.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Put a backup where there is no registry yet: verified, and as a whole or not at all.

    The ledger goes on with an entry that says so: what happened after the backup was made, the registry does not know.

    Example: fpvec registry restore registry-2026-05-01.backup --home ./restored
    """
    from fpvec_audit.services.moving import restore_registry

    bench = open_bench(home, registry, json)
    restored = restore_registry(file, bench.settings.registry_url, master_key=bench.master_key, actor=bench.actor)
    _show(bench, restored)


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``fpvec registry``."""
    app.command()(export)
    app.command("import")(import_)
    app.command()(backup)
    app.command()(restore)


def _show(bench: Workbench, moved: "MovedRegistry") -> None:
    from fpvec_audit.reports.terminal import render_fields

    _warn(bench, moved)  # on stderr; the JSON document has it too
    bench.emit(moved.to_json(), lambda document, console: render_fields({**document, "warnings": []}, console))


def _warn(bench: Workbench, moved: "MovedRegistry") -> None:
    for sentence in moved.warnings:
        bench.say(sentence)
