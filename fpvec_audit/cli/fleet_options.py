"""Options that all of ``fpvec fleet stamp|audit|trace|attack`` share: what is done to which models, where and how."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpvec_audit.cli.fleet_view import json_line, shown_run
from fpvec_audit.errors import UsageError

if TYPE_CHECKING:
    from fpvec_audit.cli.wiring import Workbench
    from fpvec_audit.domain.fleet import FleetAction
    from fpvec_audit.fleet.driver import Manner

WHERE, CLUSTER, SAID = "Which models", "Cluster", "For every item that does not say otherwise"
FAILED = 4
RETRIES = 2
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

SourceArgument = Annotated[
    Path | None, typer.Argument(metavar="[SOURCE]", help="Manifest: a .csv, .jsonl or .toml file, one model an item.")
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="QUERY",
        help="Registered models instead of a manifest: conditions on role, base and parent, as "
        "'role=downstream and base=NAME'.",
        rich_help_panel=WHERE,
    ),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out what is broken in a manifest.", rich_help_panel=WHERE)
]
RetriesOption = Annotated[
    int, typer.Option(help="How often an item that failed is tried again.", rich_help_panel=CLUSTER)
]
AddressOption = Annotated[
    str,
    typer.Option(
        metavar="local|auto|ray://HOST:PORT",
        help="Ray cluster: one that is started on this machine, the one that this machine is part of, or another.",
        rich_help_panel=CLUSTER,
    ),
]
InFlightOption = Annotated[
    int | None,
    typer.Option(
        help="Most items handed out at a time.  \\[default: twice as many as the cluster works on at once]",
        rich_help_panel=CLUSTER,
    ),
]
CpusOption = Annotated[
    float | None, typer.Option(help="Processors of an item.  \\[default: 1]", rich_help_panel=CLUSTER)
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help='Memory of an item, as "8 GB".  \\[default: by its size]', rich_help_panel=CLUSTER
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(help="GPUs of an item.  \\[default: as few as hold its model]", rich_help_panel=CLUSTER),
]
DivisionOption = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel",
        metavar="N",
        help="GPUs over which vLLM divides the model of an item.  \\[default: as few as hold it]",
        rich_help_panel=CLUSTER,
    ),
]
LinesOption = Annotated[
    bool,
    typer.Option(
        "--json-lines",
        help="Say how far the run is as JSON on stdout, a line each time; the last line is the report.",
        rich_help_panel="Everywhere",
    ),
]
KeyOption = Annotated[str | None, typer.Option("--key", help="Key set.", rich_help_panel=SAID)]


def manner_of(
    *,
    cpus: float | None,
    memory: str | None,
    gpus: float | None,
    in_flight: int | None,
    parts: int | None = None,
) -> "Manner":
    """Return how a run is driven.

    Args:
        cpus: processors of an item.
        memory: memory of an item, as "8 GB".
        gpus: GPUs of an item.
        in_flight: most items handed out at a time.
        parts: over how many GPUs an item's engine divides its model.

    Raises:
        UsageError: a number or a size that is none.
    """
    from fpvec_audit.fleet.driver import Manner
    from fpvec_audit.fleet.sizing import Sizing

    for name, value in (("cpus", cpus), ("gpus", gpus)):
        if value is not None and value < 0:
            raise UsageError(f"--{name} {value:g}", advice="give 0 or more")
    if gpus is not None and gpus > 1 and not gpus.is_integer():
        raise UsageError(f"--gpus {gpus:g}", advice="give a whole number, or less than 1 to share one")
    if parts is not None and parts < 1:
        raise UsageError(f"--tensor-parallel {parts}", advice="give 1 or more")
    if gpus and parts and parts > max(gpus, 1):
        raise UsageError(
            f"--tensor-parallel {parts} and --gpus {gpus:g}: a model is not divided over more than it gets",
            advice="give one of them",
        )
    if in_flight is not None and in_flight < 1:
        raise UsageError(f"--in-flight {in_flight}", advice="allow at least one item")
    return Manner(Sizing(cpus, None if memory is None else _bytes(memory), gpus, parts), in_flight)


def begin(
    bench: "Workbench",
    action: "FleetAction",
    options: Mapping[str, Any],
    *,
    source: Path | None,
    where: str | None,
    skip_bad: bool,
    retries: int,
    address: str,
    manner: "Manner",
    as_lines: bool,
) -> int:
    """Record a run and drive it to its end; return the exit code.

    Raises:
        UsageError: what is asked for cannot be meant; nothing has begun.
        OperationError: no cluster answers, or it cannot do the work; the run is recorded and can be resumed.
    """
    from fpvec_audit.fleet.knocking import knock
    from fpvec_audit.fleet.known import refuse_unknown
    from fpvec_audit.fleet.runs import record_run
    from fpvec_audit.fleet.sources import Source, parse_where

    if (source is None) == (where is None):
        raise UsageError(
            "nothing says which models" if source is None else "a manifest and --where at once",
            advice="give a manifest, or a query to the registry with --where",
        )
    knock(address)
    said = public_options(action, options)
    refuse_unknown(action, said, registry=bench.registry, attack=lambda name: bench.catalog.attack(name).Parameters)
    asked = Source(action, said, source, {} if where is None else parse_where(where))
    run, found = record_run(asked, registry=bench.registry, retries=retries, skip_bad=skip_bad)
    return drive(bench, run, address=address, manner=manner, as_lines=as_lines, found=found)


def public_options(action: "FleetAction", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that hold for every item, as the run records them; those that were left out are not there.

    Raises:
        UsageError: one that cannot be meant.
    """
    from fpvec_audit.fleet.items import INTO, read_fields

    given = {name: value for name, value in options.items() if value not in (None, [], "", False)}
    apart = {name: given.pop(name) for name in (INTO, "again") if name in given}
    if INTO in apart:
        apart |= read_fields(action, {"out": str(apart[INTO])}, directory=Path())
        apart[INTO] = apart.pop("out")
    return read_fields(action, given, directory=Path()) | apart


def drive(bench: "Workbench", run: Any, *, address: str, manner: "Manner", as_lines: bool, found: Any = None) -> int:
    """Drive a run, show how far it is, and report; return the exit code."""
    from fpvec_audit.fleet.runs import Place, drive_run
    from fpvec_audit.reports.fleet import render_run

    if as_lines and bench.json:
        raise UsageError("--json and --json-lines are two forms, and stdout takes one")
    place = Place(bench.settings, address, manner)
    with shown_run(bench, run, as_lines=as_lines) as watch:
        report = drive_run(run, registry=bench.registry, place=place, watch=watch, found=found)
    document = report.to_json()
    if as_lines:
        json_line(document, event="report")
    else:
        bench.emit(document, render_run)
    return 0 if report.whole else FAILED


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if found is None:
        raise UsageError(f"--memory {text!r} is no size", advice='write it as "8 GB"')
    return int(float(found[1]) * _UNITS[found[2]])
