"""``fpvec demo``: the whole life of a fingerprint on tiny models made on the spot."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpvec_audit.cli.wiring import BackendOption, HomeOption, JsonOption, RegistryOption, Workbench, open_bench
from fpvec_audit.errors import UnknownNameError

if TYPE_CHECKING:
    from fpvec_audit.demo.story import Tell


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    arch: Annotated[str, typer.Option(metavar="gpt2|bloom|llama2|vicuna", help="Shape of the tiny models.")] = "gpt2",
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where the models are kept.  \\[default: models in the demo's home]")
    ] = None,
    backend: BackendOption = None,
    fresh_keys: Annotated[
        bool, typer.Option("--fresh-keys", help="Issue a new key set instead of the last one.")
    ] = False,
    licensees: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Tell of N licensees instead: a copy of its own for each, leaks, and whom a trace names."
        ),
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show everything on a tiny model family that is trained on the spot; needs no GPU and no network.

    Without --home, --registry or FPVEC_HOME it keeps to a directory of its own and never touches your registry.

    Example: fpvec demo --arch llama2

    Example: fpvec demo --licensees 20
    """
    from fpvec_audit.demo.story import ARCHITECTURES, DemoOptions, Story

    if arch not in ARCHITECTURES:
        raise UnknownNameError("demo architecture", arch, ARCHITECTURES)
    bench = open_bench(home, registry, json, backend=backend, home_name="fpvec-demo")
    options = DemoOptions(
        architecture=arch,
        directory=(directory or bench.settings.home / "models").resolve(),
        backend=bench.settings.backend,
        fresh_keys=fresh_keys,
    )
    tools: dict[str, Any] = {"registry": bench.registry, "catalog": bench.catalog, "progress": bench.progress}
    if licensees is None:
        from fpvec_audit.cli import demo_pages as pages

        story = Story(options, tell=_narrator(bench, pages.RENDER), **tools)
        bench.emit(story.run(), partial(pages.render_ending, home=bench.settings.home))
    else:
        from fpvec_audit.cli import demo_licensee_pages
        from fpvec_audit.demo.licensees import LicenseeStory

        told = LicenseeStory(options, licensees, tell=_narrator(bench, demo_licensee_pages.RENDER), **tools)
        bench.emit(told.run(), partial(demo_licensee_pages.render_ending, home=bench.settings.home))


def _narrator(bench: Workbench, pages: Mapping[str, Callable[[Any, Any], None]]) -> "Tell":
    """Return what shows each stage as soon as it is over; with --json everything comes at the end instead."""

    def tell(stage: str, document: Any) -> None:
        if not bench.json:
            pages[stage](document, bench.output)

    return tell
