"""``fpvec key``: issue, list and show key sets, and end their lives."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpvec_audit.cli.listing import (
    PANEL,
    AfterOption,
    BaseOption,
    CsvOption,
    LicenseeOption,
    LimitOption,
    OwnerOption,
    SinceOption,
    SortOption,
    UntilOption,
    selection,
    show_list,
)
from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench
from fpvec_audit.domain.records import KeySetState
from fpvec_audit.domain.selection import CREATED
from fpvec_audit.errors import UsageError

if TYPE_CHECKING:
    from fpvec_audit.cli.wiring import Workbench
    from fpvec_audit.domain.keys import KeySetSpecification
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.services.keys import IssuedKeySet

app = typer.Typer(
    help="Issue and look at fingerprint keys.\n\nExample: fpvec key issue acme-2026", no_args_is_help=True
)

KeyArgument = Annotated[str, typer.Argument(help="Name or id of a key set; an id may be shortened.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it goes to the ledger.")]


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="Unique name of the new key set.")],
    owner: Annotated[str, typer.Option(help="Who owns the models that it will protect.")] = "",
    licensee: Annotated[str, typer.Option(help="For whom it is issued.")] = "",
    count: Annotated[
        int | None, typer.Option(help="Issued keys, of each mark.  \\[default: 32, if-simple 10; with --marks 6]")
    ] = None,
    decoys: Annotated[
        int | None,
        typer.Option(help="Decoys, never trained.  \\[default: 224, if-simple 502, with --marks 6 a key]"),
    ] = None,
    marks: Annotated[
        int,
        typer.Option(
            metavar="M",
            help="Groups of keys, each with a vector of its own, so that every licensee gets a different copy.",
        ),
    ] = 1,
    scheme: Annotated[
        str,
        typer.Option(
            metavar="independent|if-simple|rare-word|signature",
            help="Shape of the keys; the last two are for compared methods, see `fpvec method list`.",
        ),
    ] = "independent",
    base: Annotated[
        Path | None, typer.Option(help="Keep only candidates that this model's tokenizer encodes reversibly.")
    ] = None,
    witness: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A witness's public key: commit, and write a request. Its signed statement: issue what was committed.",
        ),
    ] = None,
    beacon: Annotated[
        int | None,
        typer.Option(metavar="ROUND", help="Commit to a later round of the drand beacon; again after it: issue."),
    ] = None,
    beacon_chain: Annotated[
        str, typer.Option(metavar="quicknet|default", help="Network of the beacon, by name or hash.")
    ] = "quicknet",
    beacon_url: Annotated[str | None, typer.Option(metavar="URL", help="Relay to fetch the round from.")] = None,
    beacon_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A relay's answer, where there is no network.")
    ] = None,
    request: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the request to a witness goes.  \\[default: NAME.request.json]"),
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Draw, commit and record a key set: secret prompts with secret responses, and decoys that are never trained.

    Which candidates are issued follows from the commitment, so it cannot be chosen afterwards. With --witness or
    --beacon it follows from chance that comes later, so it could not be chosen before either. Prompts and responses
    stay in the vault.

    Example: fpvec key issue acme-2026 --owner "Acme Models"

    Example: fpvec key issue acme-family --marks 16 --count 6
    """
    from fpvec_audit.reports.terminal import render_key_set

    bench = open_bench(home, registry, json)
    new_key_file = _missing_key_file(bench)
    specification = _specification(scheme, marks, count=count, decoys=decoys)
    common: dict[str, Any] = {"specification": specification, "owner": owner, "licensee": licensee, "base": base}
    if witness is not None and beacon is not None:
        raise UsageError("--witness and --beacon are two sources of chance, and a key set has one")
    _refuse_lone("--witness", witness, request=request)
    _refuse_lone("--beacon", beacon, beacon_url=beacon_url, beacon_file=beacon_file)
    if beacon is not None:
        issued = _issue_with_beacon(name, beacon, bench.registry, beacon_chain, beacon_url, beacon_file, common)
    elif witness is not None:
        from fpvec_audit.services.witness import issue_with_witness

        issued = issue_with_witness(name, witness, registry=bench.registry, request_file=request, **common)
    else:
        from fpvec_audit.services.keys import issue_key_set

        issued = issue_key_set(name, registry=bench.registry, **common)
    bench.emit(issued.to_json(), render_key_set)
    if new_key_file is not None and new_key_file.exists():
        bench.say(
            f"made the master key {new_key_file}: keep a copy of it somewhere else, since without it the secrets of "
            "this registry cannot be read, and keep it to yourself"
        )


def _specification(scheme: str, marks: int, *, count: int | None, decoys: int | None) -> "KeySetSpecification":
    """Return what to draw; marks share their decoys."""
    from fpvec_audit.domain.keys import SCHEME_DEFAULTS, KeySetSpecification
    from fpvec_audit.domain.marks import family_specification

    if marks != 1:
        return family_specification(marks, keys=count, decoys=decoys, scheme=scheme)
    default_count, default_decoys = SCHEME_DEFAULTS.get(scheme, (32, 224))
    return KeySetSpecification(
        scheme=scheme,
        issued=default_count if count is None else count,
        decoys=default_decoys if decoys is None else decoys,
    )


def _missing_key_file(bench: "Workbench") -> Path | None:
    """Return the file of the master key where it is not there yet."""
    from fpvec_audit.registry.master_key import KeyFile

    source = bench.master_key
    return source.path if isinstance(source, KeyFile) and not source.path.exists() else None


def _issue_with_beacon(
    name: str,
    number: int,
    registry: "Registry",
    chain: str,
    url: str | None,
    file: Path | None,
    options: dict[str, Any],
) -> "IssuedKeySet":
    from fpvec_audit.domain.beacon import PUBLIC_BEACON, chain_named
    from fpvec_audit.services.beacon import from_file, from_relay, issue_with_beacon

    fetch = from_relay(url or PUBLIC_BEACON) if file is None else from_file(file)
    return issue_with_beacon(name, number, registry=registry, chain=chain_named(chain), fetch=fetch, **options)


def _refuse_lone(needed: str, source: object, **options: object) -> None:
    for option, value in options.items():
        if value is not None and source is None:
            raise UsageError(f"--{option.replace('_', '-')} is of no use without {needed}")


@app.command("list")
def list_(
    owner: OwnerOption = None,
    licensee: LicenseeOption = None,
    base: BaseOption = None,
    state: Annotated[KeySetState | None, typer.Option(help="Only those in this state.", rich_help_panel=PANEL)] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    sort: SortOption = CREATED,
    limit: LimitOption = None,
    after: AfterOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """List key sets, newest last; sorted by created or name.

    Example: fpvec key list --owner Acme --sort -created
    """
    from fpvec_audit.reports.terminal import render_key_sets
    from fpvec_audit.services.keys import list_key_sets

    bench = open_bench(home, registry, json)
    wanted = selection(
        since=since,
        until=until,
        sort=sort,
        limit=limit,
        after=after,
        owner=owner,
        licensee=licensee,
        base=base,
        state=state,
    )
    show_list(
        bench,
        wanted,
        lambda chosen: [item.to_json() for item in list_key_sets(registry=bench.registry, selection=chosen)],
        render=render_key_sets,
        columns=(
            "id",
            "name",
            "owner",
            "licensee",
            "state",
            "grade",
            "scheme",
            "marks",
            "keys_per_mark",
            "issued",
            "decoys",
            "burnt",
            "root",
            "commitment",
            "chance_source",
            "waits_for",
            "base",
            "created_at",
        ),
        as_csv=csv,
    )


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="Name or id of a key set; an id may be shortened.")],
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show prompts and responses; recorded in the ledger.")
    ] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why they are shown, for the ledger.")] = "",
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
    if reason and not reveal:
        raise UsageError("--reason is of no use without --reveal")
    shown = show_key_set(key, registry=bench.registry, reveal=reveal, reason=reason)
    bench.emit(shown.to_json(), render_key_set)


@app.command()
def retire(
    key: KeyArgument,
    reason: ReasonOption,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Take a key set out of use for good: nothing new is fingerprinted or stamped with it.

    It can still be audited and traced, as copies that carry it may be out there.

    Example: fpvec key retire acme-2026 --reason "replaced by acme-2027"
    """
    from fpvec_audit.reports.terminal import render_key_set
    from fpvec_audit.services.key_life import retire_key_set

    bench = open_bench(home, registry, json)
    bench.emit(retire_key_set(key, registry=bench.registry, reason=reason).to_json(), render_key_set)


@app.command()
def compromise(
    key: KeyArgument,
    reason: ReasonOption,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Record that somebody else has a key set: from now on a match proves nothing. There is no way back.

    Example: fpvec key compromise acme-2026 --reason "the laptop with the vault key was stolen"
    """
    from fpvec_audit.reports.terminal import render_key_set
    from fpvec_audit.services.key_life import compromise_key_set

    bench = open_bench(home, registry, json)
    bench.emit(compromise_key_set(key, registry=bench.registry, reason=reason).to_json(), render_key_set)
