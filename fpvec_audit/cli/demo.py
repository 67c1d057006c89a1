"""``fpvec demo``: the whole life of a fingerprint on tiny models made on the spot."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fpvec_audit.cli.wiring import BackendOption, HomeOption, JsonOption, RegistryOption, Workbench, open_bench
from fpvec_audit.errors import UnknownNameError


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
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show everything on a tiny model family that is trained on the spot; needs no GPU and no network.

    Without --home, --registry or FPVEC_HOME it keeps to a directory of its own and never touches your registry.

    Example: fpvec demo --arch llama2
    """
    from fpvec_audit.demo.story import ARCHITECTURES, DemoOptions, Story

    if arch not in ARCHITECTURES:
        raise UnknownNameError("demo architecture", arch, ARCHITECTURES)
    bench = open_bench(home, registry, json, backend=backend, home_name="fpvec-demo")
    story = Story(
        DemoOptions(
            architecture=arch,
            directory=(directory or bench.settings.home / "models").resolve(),
            backend=bench.settings.backend,
            fresh_keys=fresh_keys,
        ),
        registry=bench.registry,
        catalog=bench.catalog,
        progress=bench.progress,
        tell=_narrator(bench),
    )
    document = story.run()
    bench.emit(document, lambda shown, console: _render_ending(shown, console, bench))


def _narrator(bench: Workbench) -> Any:
    """Return what shows each stage as soon as it is over; with --json everything comes at the end instead."""
    from fpvec_audit.cli import demo_pages as pages

    def tell(stage: str, document: Any) -> None:
        if not bench.json:
            pages.RENDER[stage](document, bench.output)

    return tell


def _render_ending(document: dict[str, Any], console: Any, bench: Workbench) -> None:
    from fpvec_audit.cli.demo_pages import render_ending

    render_ending(document, console, home=bench.settings.home)
