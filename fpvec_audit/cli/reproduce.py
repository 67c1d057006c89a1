"""``fpvec reproduce``: the paper's experiment, from one file to its tables."""

import json as json_module
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpvec_audit.cli.wiring import (
    BackendOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    Workbench,
    open_bench,
)
from fpvec_audit.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from fpvec_audit.reproduction.plan import Plan
    from fpvec_audit.reproduction.stages import Stage

NOTHING_WORKED = 4
HOME = "fpvec-reproduce"
DEFAULT = "tiny"
REPORT, DOCUMENT = "report.md", "report.json"
WHAT = "What is carried out"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reproduce)


def reproduce(
    preset: Annotated[
        str | None, typer.Option(metavar="tiny|paper", help="A plan that is shipped.  \\[default: tiny]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="A plan of your own, instead of a preset.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Where models, results and tables are kept.  \\[default: in the home, by the plan's name]"
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory that {data} in a plan stands for.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE",
            help="Carry out these stages, and what they need: a base, a measure (fsr, guessing, …), or a name such as "
            "gpt2/stamped; repeatable.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    again: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE", help="Repeat stages although their results are there; repeatable.", rich_help_panel=WHAT
        ),
    ] = None,
    bases: Annotated[
        list[str] | None,
        typer.Option(metavar="BASE", help="Leave the other bases out; repeatable.", rich_help_panel=WHAT),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Work on so many bases side by side.", rich_help_panel=WHAT)
    ] = 1,
    tables: Annotated[
        bool, typer.Option("--tables", help="Carry out nothing, show what is there.", rich_help_panel=WHAT)
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say what the plan needs and is missing here.", rich_help_panel=WHAT)
    ] = False,
    show_config: Annotated[
        bool,
        typer.Option("--show-config", help="Print the preset's TOML, to be changed.", rich_help_panel=WHAT),
    ] = False,
    backend: BackendOption = None,
    device: DeviceOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Rerun the paper's experiment and print its tables, the paper's figures beside ours.

    Every stage is kept when it ends: after an interruption the same command goes on where it stopped, and a changed
    setting repeats what depends on it. A stage that fails is shown with its reason and the others go on; the exit code
    is 4 only if not a single measurement worked. Without --home, --registry or FPVEC_HOME it keeps to a directory of
    its own and never touches your registry.

    Example: fpvec reproduce --preset tiny --jobs 2

    Example: fpvec reproduce --config mine.toml --only gpt2/stamped --only guessing
    """
    if preset is not None and config is not None:
        raise UsageError("--preset and --config are both given", advice="name one plan")
    if show_config:
        sys.stdout.write(_text(preset, config))
        return 0
    bench = open_bench(home, registry, json, backend=backend, device=device, home_name=HOME)
    plan = _plan(preset, config, data, backend)
    place = (directory or bench.settings.home / plan.name).resolve()
    if check:
        return _check(plan, place, bench)
    order = _Order.of(plan, place, bench, bases=bases or (), only=only or (), again=again or ())
    if jobs > 1 and not tables and len(order.bases) > 1:
        from fpvec_audit.cli.reproduce_jobs import Child, work_side_by_side

        child = Child(preset, config, data, place, backend, tuple(only or ()), tuple(again or ()))
        work_side_by_side(child, order.bases, order.stages, jobs=jobs, bench=bench)
        tables = True
    document = order.collected(bench) if tables else order.carried_out(bench)
    _keep(document, place)
    bench.emit(document, _render)
    bench.say(f"kept: {place / REPORT} and {place / DOCUMENT}")
    measured = {stage.name for stage in order.stages if stage.measures}
    worked = any(stage["state"] == "done" for stage in document["stages"] if stage["name"] in measured)
    return 0 if worked or not measured else NOTHING_WORKED


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be carried out.

    Attributes:
        plan: the plan.
        place: directory of the reproduction.
        stages: what was asked for, with what that needs.
        again: what is repeated.
        device: torch device.
    """

    plan: "Plan"
    place: Path
    stages: "tuple[Stage, ...]"
    again: "tuple[Stage, ...]"
    device: str

    @classmethod
    def of(
        cls,
        plan: "Plan",
        place: Path,
        bench: Workbench,
        *,
        bases: Sequence[str],
        only: Sequence[str],
        again: Sequence[str],
    ) -> "_Order":
        from fpvec_audit.reproduction.plan_check import check_names
        from fpvec_audit.reproduction.stages import choose_stages, named_stages, plan_stages

        schemes = check_names(plan, bench.catalog)
        for name in bases:
            if name not in (known := [base.name for base in plan.bases]):
                raise UnknownNameError("base", name, known)
        everything = plan_stages(plan, device=bench.device, schemes=schemes)
        chosen = [stage for stage in choose_stages(everything, only) if not bases or stage.base in bases]
        repeated = named_stages(everything, again)
        return cls(plan, place, tuple(chosen), tuple(stage for stage in chosen if stage.name in repeated), bench.device)

    @property
    def bases(self) -> tuple[str, ...]:
        """Bases that something is to be done for."""
        return tuple(dict.fromkeys(stage.base for stage in self.stages))

    def carried_out(self, bench: Workbench) -> dict[str, Any]:
        """Carry everything out in this process and return the record."""
        from fpvec_audit.demo.story import single_threaded
        from fpvec_audit.reproduction.run import run_bases
        from fpvec_audit.reproduction.stage_store import StageStore
        from fpvec_audit.reproduction.workshop import open_workshop

        tiny = all(base.family for base in self.plan.bases)
        with (
            single_threaded() if tiny else nullcontext(),
            open_workshop(
                registry=bench.registry,
                catalog=bench.catalog,
                directory=self.place,
                families=_families(),
                backend=self.plan.backend,
                device=self.device,
                progress=bench.progress,
            ) as shop,
        ):
            results = run_bases(self.stages, store=StageStore(self.place), shop=shop, again=self.again)
        return self._document(results)

    def collected(self, bench: Workbench) -> dict[str, Any]:
        """Return the record of what is there, carrying nothing out."""
        from fpvec_audit.reproduction.run import collect
        from fpvec_audit.reproduction.stage_store import StageStore

        with bench.progress.step("collect what is there"):
            return self._document(collect(self.stages, StageStore(self.place)))

    def _document(self, results: Sequence[Any]) -> dict[str, Any]:
        from fpvec_audit.reports.reproduction_text import all_tables
        from fpvec_audit.reproduction.document import document_of

        document = document_of(self.plan, self.stages, results, device=self.device)
        return {**document, "tables": [table.to_json() for table in all_tables(document)]}


def _text(preset: str | None, config: Path | None) -> str:
    from fpvec_audit.reproduction.plan_file import plan_text, preset_text

    return preset_text(preset or DEFAULT) if config is None else plan_text(config)


def _plan(preset: str | None, config: Path | None, data: Path | None, backend: str | None) -> "Plan":
    from fpvec_audit.reproduction.plan_file import preset_plan, read_plan

    plan = preset_plan(preset or DEFAULT, data=data) if config is None else read_plan(config, data=data)
    return plan if backend is None else replace(plan, backend=backend)


def _families() -> Path:
    """Return where embedded families are kept, once for all reproductions."""
    from platformdirs import user_cache_path

    return user_cache_path("fpvec-audit", appauthor=False) / "families"


def _check(plan: "Plan", place: Path, bench: Workbench) -> int:
    from fpvec_audit.reports.reproduction import render_check
    from fpvec_audit.reproduction.plan_check import check_machine, check_names

    check_names(plan, bench.catalog)
    found = check_machine(plan, directory=place, families=_families(), device=bench.device)
    bench.emit([finding.to_json() for finding in found], render_check)
    return 0 if all(finding.there for finding in found) else NOTHING_WORKED


def _keep(document: dict[str, Any], place: Path) -> None:
    from fpvec_audit.reports.reproduction_text import markdown
    from fpvec_audit.reproduction.stage_store import write_whole

    write_whole(place / DOCUMENT, json_module.dumps(document, indent=1, ensure_ascii=False) + "\n")
    write_whole(place / REPORT, f"# Reproduction: {document['name']}\n\n{markdown(document)}")


def _render(document: Any, console: Any) -> None:
    from fpvec_audit.reports.reproduction import render_reproduction

    render_reproduction(document, console)
