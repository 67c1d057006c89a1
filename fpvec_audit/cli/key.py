"""``fpvec key``: issue, list and show key sets."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(
    help="Issue and look at fingerprint keys.\n\nExample: fpvec key issue acme-2026", no_args_is_help=True
)


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="Unique name of the new key set.")],
    owner: Annotated[str, typer.Option(help="Who owns the models that it will protect.")] = "",
    licensee: Annotated[str, typer.Option(help="For whom it is issued.")] = "",
    count: Annotated[int | None, typer.Option(help="Issued keys.  [default: 32, if-simple 10]")] = None,
    decoys: Annotated[int | None, typer.Option(help="Never trained candidates.  [default: 224, if-simple 502]")] = None,
    scheme: Annotated[str, typer.Option(metavar="independent|if-simple", help="Shape of the keys.")] = "independent",
    base: Annotated[
        Path | None, typer.Option(help="Keep only candidates that this model's tokenizer encodes reversibly.")
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Draw, commit and record a key set: secret prompts with secret responses, and decoys that are never trained.

    Which candidates are issued follows from the commitment, so it cannot be chosen afterwards. Prompts and responses
    stay in the vault.

    Example: fpvec key issue acme-2026 --owner "Acme Models"
    """
    from fpvec_audit.domain.keys import SCHEME_DEFAULTS, KeySetSpecification
    from fpvec_audit.reports.terminal import render_key_set
    from fpvec_audit.services.keys import issue_key_set

    bench = open_bench(home, registry, json)
    default_count, default_decoys = SCHEME_DEFAULTS.get(scheme, (32, 224))
    specification = KeySetSpecification(
        scheme=scheme,
        issued=default_count if count is None else count,
        decoys=default_decoys if decoys is None else decoys,
    )
    issued = issue_key_set(
        name, registry=bench.registry, specification=specification, owner=owner, licensee=licensee, base=base
    )
    bench.emit(issued.to_json(), render_key_set)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List key sets, newest last.

    Example: fpvec key list --json
    """
    from fpvec_audit.reports.terminal import render_key_sets
    from fpvec_audit.services.keys import list_key_sets

    bench = open_bench(home, registry, json)
    bench.emit([item.to_json() for item in list_key_sets(registry=bench.registry)], render_key_sets)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="Name or id of a key set; an id may be shortened.")],
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show prompts and responses; recorded in the ledger.")
    ] = False,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show a key set; its secrets with --reveal only.

    Example: fpvec key show acme-2026
    """
    from fpvec_audit.reports.terminal import render_key_set
    from fpvec_audit.services.keys import show_key_set

    bench = open_bench(home, registry, json)
    bench.emit(show_key_set(key, registry=bench.registry, reveal=reveal).to_json(), render_key_set)
