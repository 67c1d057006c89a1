"""``fpvec registry``: the database behind everything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fpvec_audit.cli import registry_moving
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
    limit: Annotated[int, typer.Option(help="Most entries shown, counted from the newest.", min=0)] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on showing entries as they are written, until Ctrl-C.")
    ] = False,
    event: Annotated[
        list[str] | None,
        typer.Option(metavar="EVENT", help="Show this event alone, or all that begin with it (audit)."),
    ] = None,
    subject: Annotated[
        str, typer.Option(metavar="ID", help="Show what happened to this id; it may be shortened.")
    ] = "",
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Show entries from this time (UTC) on.")] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show the newest ledger entries.

    With --follow --json every entry is one line of JSON.

    Example: fpvec registry log --follow --event audit
    """
    from fpvec_audit.reports.terminal import render_ledger
    from fpvec_audit.services.history import chosen_entries, follow_ledger, ledger_entries

    bench = open_bench(home, registry, json)
    chosen = chosen_entries(events=event or (), subject=subject, since=since)
    if not follow:
        bench.emit(ledger_entries(registry=bench.registry, limit=limit, chosen=chosen), render_ledger)
        return
    for entry in follow_ledger(registry=bench.registry, limit=limit, chosen=chosen):
        bench.emit_line(entry, ledger_line)


@app.command()
def verify(
    anchor: Annotated[
        list[Path] | None,
        typer.Option(help="A published anchor, or a witness's statement over one, that the history must contain."),
    ] = None,
    signer: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Public key that must have signed the anchors: a file, or 64 hex digits."),
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Walk the ledger's hash chain, and hold every row against what the ledger says of it.

    Names the first entry that does not fit. With --anchor it is also certain that nothing was cut off or written anew
    before the entry that was anchored. Exit code 0 means that everything fits, 4 that something does not.

    Example: fpvec registry verify --anchor 2026-05-01.anchor.json --signer owner.pub
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.verification import verify_registry

    bench = open_bench(home, registry, json)
    result = verify_registry(registry=bench.registry, anchors=anchor or (), signer=signer)
    bench.emit(result.to_json(), render_fields)
    return 0 if result.valid else 4


@app.command()
def anchor(
    out: Annotated[Path | None, typer.Option("--out", help="File for the signed anchor.")] = None,
    request: Annotated[
        Path | None, typer.Option("--request", help="File for a request that a witness signs (`fpvec witness sign`).")
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(help="Private key to sign with.  \\[default: signing.key in the home, made on first use]"),
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Sign where the history stands, to be published elsewhere.

    Nothing inside a registry shows that its newest entries were cut off together with the rows they tell of; an anchor
    that lies elsewhere does: `fpvec registry verify --anchor`.

    Example: fpvec registry anchor --out 2026-05-01.anchor.json
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.anchors import publish_anchor
    from fpvec_audit.services.evidence import owner_key

    bench = open_bench(home, registry, json)
    signer = owner_key(bench.settings.home, signing_key)
    if signer.made:
        bench.say(f"made the signing key {signer.file}: keep it, and keep it to yourself")
    published = publish_anchor(registry=bench.registry, key=signer.key, out=out, request=request)
    document = published.to_json()
    bench.emit(document, lambda value, console: render_fields(_without(value, "envelope"), console))


@app.command(name="accept-clock")
def accept_clock(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """Go on although the last ledger entry says a later time than this machine's clock.

    Only for when that entry's time was wrong: it is recorded who said so.

    Example: fpvec registry accept-clock
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.history import accept_clock as accept

    bench = open_bench(home, registry, json)
    bench.emit(accept(registry=bench.registry), render_fields)


def ledger_line(entry: Mapping[str, Any]) -> str:
    """Return an entry as one line for a terminal."""
    return f"{entry['serial']:>8}  {entry['at'][:19]}  {entry['event']:<24} {entry['subject']}"


def _without(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


registry_moving.add_to(app)
