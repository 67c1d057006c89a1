"""``fpvec registry``: the database behind everything."""

from typing import Annotated

import typer

from fpvec_audit.cli.new_master_key import new_master_key
from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(
    help="Look after the registry and its history.\n\nExample: fpvec registry verify", no_args_is_help=True
)


@app.command()
def init(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """Make the registry, or say that it is there.

    Example: fpvec registry init --home ./registry
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.registry import init_registry

    bench = open_bench(home, registry, json)
    bench.emit(init_registry(bench.settings.registry_url).to_json(), render_fields)


@app.command()
def upgrade(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """Bring an outdated registry to this program's schema, and seal secrets that older ones kept in the clear.

    Example: fpvec registry upgrade
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.registry import upgrade_registry

    bench = open_bench(home, registry, json)
    state = upgrade_registry(bench.settings.registry_url, master_key=bench.master_key, actor=bench.actor)
    bench.emit(state.to_json(), render_fields)


@app.command()
def check(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> int:
    """Say whether the registry's schema is this program's, and which master key it needs.

    Example: fpvec registry check
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.registry import check_registry

    bench = open_bench(home, registry, json)
    state = check_registry(bench.settings.registry_url, master_key=bench.master_key)
    bench.emit(state.to_json(), render_fields)
    return 0 if state.current else 4


@app.command()
def rekey(
    to: Annotated[
        str, typer.Option(metavar="file|environment|passphrase", help="Where the new key comes from.")
    ] = "file",
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Seal the registry with another master key: a new random one in the key file, or one that you give.

    With --to environment it is FPVEC_NEW_VAULT_KEY (64 hexadecimal digits), with --to passphrase it follows from
    FPVEC_NEW_VAULT_PASSPHRASE, which is asked for on a terminal where it is not set. The key in use is needed too. It
    is kept as a retired key, for backups of before and for other registries that share the key file.

    Example: fpvec registry rekey
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.master_key import rekey_registry

    bench = open_bench(home, registry, json)
    target = new_master_key(bench.settings, to)
    result = rekey_registry(registry=bench.registry, target=target)
    bench.emit(result.to_json(), render_fields)


@app.command()
def log(
    limit: Annotated[int, typer.Option(help="Most entries shown, counted from the newest.")] = 50,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show the newest ledger entries.

    Example: fpvec registry log --limit 20
    """
    from fpvec_audit.reports.terminal import render_ledger
    from fpvec_audit.services.registry import ledger_entries

    bench = open_bench(home, registry, json)
    bench.emit(ledger_entries(registry=bench.registry, limit=limit), render_ledger)


@app.command()
def verify(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> int:
    """Walk the ledger's hash chain and name the first entry that does not fit.

    Example: fpvec registry verify
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.registry import verify_ledger

    bench = open_bench(home, registry, json)
    result = verify_ledger(registry=bench.registry)
    bench.emit(result.to_json(), render_fields)
    return 0 if result.valid else 4
