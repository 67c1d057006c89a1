"""``fpvec witness``: sign what others commit to, offline and without a registry."""

from pathlib import Path
from typing import Annotated

import typer

from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench

app = typer.Typer(
    help="Be the second party whose signature decides what its owner cannot choose.\n\n"
    "Example: fpvec witness init --out ./witness",
    no_args_is_help=True,
)


@app.command()
def init(
    out: Annotated[Path, typer.Option("--out", help="Directory of the three files; made if it is missing.")] = Path(),
    name: Annotated[str, typer.Option(help="Beginning of the files' names.")] = "witness",
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Make a witness: a private key that only you can read, a public key to hand out, and an empty log.

    Keep key and log together, and the log in your backups: it is what keeps anybody from asking twice.

    Example: fpvec witness init --out ./witness
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.witness import init_witness

    bench = open_bench(home, registry, json)
    bench.emit(init_witness(out, name=name).to_json(), render_fields)


@app.command()
def sign(
    request: Annotated[Path, typer.Argument(help="The request, as its owner handed it over.")],
    witness_key: Annotated[Path, typer.Option("--witness-key", help="Your private key; the log lies beside it.")],
    out: Annotated[Path, typer.Option("--out", help="File for the signed statement.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Sign that you were shown a commitment, a plan or a ledger head now. Works offline.

    Everything is signed once: asked again about the same, you hand out the first statement again, since whoever could
    choose among signatures could choose what follows from them.

    Example: fpvec witness sign acme-2026.request.json --witness-key ./witness/witness.key --out acme-2026.signed.json
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.witness import sign_request

    bench = open_bench(home, registry, json)
    bench.emit(sign_request(request, witness_key=witness_key, out=out).to_json(), render_fields)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A signed statement.")],
    signer: Annotated[
        Path | None, typer.Option("--signer", metavar="PUB", help="Public key of the witness, from somebody you trust.")
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Check a statement's signature, and show what it says.

    Without --signer it is held against the key that it names itself, which says nothing about whose key that is.

    Example: fpvec witness verify acme-2026.signed.json --signer witness.pub
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.witness import verify_statement_file

    bench = open_bench(home, registry, json)
    result = verify_statement_file(file, signer=signer)
    bench.emit(result.to_json(), render_fields)
    return 0 if result.valid else 4
