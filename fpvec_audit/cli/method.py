"""``fpvec method``: the methods by which a key set can be embedded, and what they cost."""

from typing import Annotated

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(
    help="Look at the methods of `fpvec embed`, and at what they cost.\n\nExample: fpvec method list",
    no_args_is_help=True,
)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List methods with their sources, the schemes of key sets that they embed, and their parameters.

    Example: fpvec method list
    """
    from fpvec_audit.reports.methods import render_methods
    from fpvec_audit.services.methods import describe_methods

    bench = open_bench(home, registry, json)
    bench.emit([method.to_json() for method in describe_methods(bench.catalog)], render_methods)


@app.command()
def cost(
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Only models with this key set; repeatable.  \\[default: all]")
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show what `fpvec embed` cost by each method, and what 1, 10 and 100 models would cost.

    More models than were measured are extrapolated linearly, and marked.

    Example: fpvec method cost
    """
    from fpvec_audit.reports.methods import render_costs
    from fpvec_audit.services.method_costs import compare_costs

    bench = open_bench(home, registry, json)
    compared = compare_costs(registry=bench.registry, key_sets=key or ())
    bench.emit([group.to_json() for group in compared], render_costs)
