"""``fpvec evidence``: hand over what an audit rests on, check it, and let somebody else ask."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpvec_audit.cli.audit import EXIT_CODES
from fpvec_audit.cli.suspect_options import (
    AuditBackendOption,
    CaFileOption,
    ConcurrencyOption,
    MaxRequestsOption,
    ModelOption,
    TimeoutOption,
    checked_backend,
    endpoint_settings,
)
from fpvec_audit.cli.wiring import (
    ArchitectureOption,
    BackendOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    RegistryOption,
    Workbench,
    open_bench,
)

if TYPE_CHECKING:
    from fpvec_audit.services.evidence import OwnerKey

app = typer.Typer(
    help="Give evidence of an audit that anybody can check offline.\n\n"
    "Example: fpvec evidence verify acme.evidence.json --signer owner.pub",
    no_args_is_help=True,
)


@app.command()
def export(
    audit: Annotated[str, typer.Argument(help="Id of a finished audit or trace; it may be shortened.")],
    out: Annotated[Path, typer.Option("--out", help="File for the bundle.")],
    signing_key: Annotated[
        Path | None,
        typer.Option(help="Private key to sign with.  \\[default: signing.key in the home, made on first use]"),
    ] = None,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(help="A witness's signed statement over an entry of the ledger, to go into the bundle."),
    ] = None,
    disclose_secret: Annotated[
        bool,
        typer.Option("--disclose-secret", help="Agree that the whole secret of a self-attested key set is opened."),
    ] = False,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Write everything that a verdict rests on into one signed file.

    The bundle opens the candidates that were asked, with their responses, and nothing else of the key set; of a
    self-attested set it opens the secret. Of a family's trace it opens the code words of those who are named. It is
    verified as a stranger would before it is written.

    Example: fpvec evidence export au-1f2e3d --out acme.evidence.json
    """
    from fpvec_audit.reports.evidence import render_export
    from fpvec_audit.services.evidence import export_evidence, owner_key, refuse_export

    bench = open_bench(home, registry, json)
    said: dict[str, Any] = {"registry": bench.registry, "anchors": anchor or (), "disclose_secret": disclose_secret}
    refuse_export(audit, out, **said)
    signer = owner_key(bench.settings.home, signing_key)
    _introduce(signer, bench)
    exported = export_evidence(audit, out, key=signer.key, **said)
    bench.emit(exported.to_json(), render_export)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A bundle.")],
    signer: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Public key that must have signed it: a file, or 64 hexadecimal digits."),
    ] = None,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(help="A witness's public key or signed statement, had from the witness itself."),
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Recompute a bundle: keys, assignment, transcript, tests and verdict. Works offline, without registry or model.

    Without --signer the bundle is held against the key that it names itself, which says nothing about whose key that
    is. Exit code 0 means that everything fits, whatever the verdict; 4 that something does not.

    Example: fpvec evidence verify acme.evidence.json --signer owner.pub --anchor notary.pub
    """
    from fpvec_audit.reports.evidence import render_verification
    from fpvec_audit.services.evidence import verify_bundle

    bench = open_bench(home, registry, json)
    found = verify_bundle(file, signer=signer, anchors=anchor or ())
    bench.emit(found.to_json(), render_verification)
    return 0 if found.valid else 4


@app.command()
def record(
    file: Annotated[Path, typer.Argument(help="A bundle that somebody handed over.")],
    signer: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Public key that must have signed it: a file, or 64 hexadecimal digits."),
    ] = None,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(help="A witness's public key or signed statement, had from the witness itself."),
    ] = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Verify a bundle and record it: digest, verdict, grade and signer, with an entry in the ledger.

    For auditors: neither the key set nor a master key needs to be here. The bundle itself is not kept, as it shows
    keys. The same bundle, verified in the same way, is recorded once.

    Example: fpvec evidence record acme.evidence.json --signer owner.pub
    """
    from fpvec_audit.reports.evidence import render_recording
    from fpvec_audit.services.recorded_audits import record_bundle

    bench = open_bench(home, registry, json)
    recording = record_bundle(file, registry=bench.registry, signer=signer, anchors=anchor or ())
    bench.emit(recording.to_json(), render_recording)


@app.command("list")
def list_(home: HomeOption = None, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """Show the audits that were handed over as bundles and recorded, oldest first.

    Example: fpvec evidence list
    """
    from fpvec_audit.reports.evidence import render_recorded
    from fpvec_audit.services.recorded_audits import list_recorded, recorded_json

    bench = open_bench(home, registry, json)
    bench.emit([recorded_json(record) for record in list_recorded(registry=bench.registry)], render_recorded)


@app.command("open-carrier")
def open_carrier(
    licensee: Annotated[str, typer.Argument(help="Licensee whose copies have it.")],
    key: Annotated[str, typer.Option("--key", help="Key set or family of the copies.")],
    out: Annotated[Path, typer.Option("--out", help="File, for you alone to read: its key can take the carrier off.")],
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Open one licensee's carrier to somebody who has the suspect's weights and wants to measure it himself.

    The ledger records it. All other carriers, your own too, stay sealed.

    Example: fpvec evidence open-carrier Globex --key acme-family --out globex.carrier
    """
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.opened_carriers import open_carrier as open_it

    bench = open_bench(home, registry, json)
    with bench.registry.snapshot() as uow:
        key_set = uow.code_words.key_set_of(key).id
    opened = open_it(licensee, out, key_set=key_set, registry=bench.registry)
    told = {name: value for name, value in opened.to_json().items() if name != "key"}
    bench.emit({"out": str(out), **told}, render_fields)


@app.command("read-carrier")
def read_carrier(
    opened: Annotated[Path, typer.Argument(help="An opened carrier, as the owner handed it over.")],
    suspect: Annotated[Path, typer.Argument(help="Checkpoint directory of the suspect.")],
    against: Annotated[Path, typer.Option(help="Model that the copy was made from, or the base.")],
    alpha: Annotated[float, typer.Option(help="Significance level.")] = 1e-6,
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Measure an opened carrier in a suspect's weights; works without the owner's registry.

    Compare the commitment with that of the bundle's ledger. Exit code 0 means that the carrier is there, 3 that it was
    not found.

    Example: fpvec evidence read-carrier globex.carrier ./leaked-7b --against ./chat
    """
    from fpvec_audit.domain.audit import Verdict
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.opened_carriers import OpenedCarrier, read_opened_carrier

    bench = open_bench(home, registry, json)
    reading = read_opened_carrier(
        OpenedCarrier.load(opened),
        suspect,
        against=against,
        catalog=bench.catalog,
        alpha=alpha,
        architecture=architecture,
        progress=bench.progress,
    )
    bench.emit(reading.to_json(), render_fields)
    return EXIT_CODES[Verdict.MATCH if reading.finding.present else Verdict.INCONCLUSIVE]


@app.command()
def examine(
    package: Annotated[Path, typer.Argument(help="The package, as the owner handed it over.")],
    suspect: Annotated[str, typer.Argument(help="The suspect, as you have it: directory, hub id or base URL.")],
    examiner_key: Annotated[Path, typer.Option(help="Your private key (`fpvec witness init` makes one).")],
    name: Annotated[str, typer.Option(help="What you call yourself in the evidence.")],
    out: Annotated[Path, typer.Option("--out", help="File for transcript and signed statement; it is secret.")],
    backend: AuditBackendOption = None,
    model: ModelOption = None,
    concurrency: ConcurrencyOption = 8,
    max_requests: MaxRequestsOption = None,
    ca_file: CaFileOption = None,
    timeout: TimeoutOption = 60.0,
    architecture: ArchitectureOption = None,
    device: DeviceOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a suspect for somebody else, without knowing which of the questions matter, and sign what comes back.

    The suspect is digested first, and refused if it is not the planned one. No registry is used. An endpoint's key
    comes from FPVEC_API_KEY or OPENAI_API_KEY.

    Example: fpvec evidence examine acme.package ./suspect-7b --examiner-key lab.key --name Lab --out acme.examined
    """
    from fpvec_audit.evidence.signing import SigningKey
    from fpvec_audit.reports.terminal import render_fields
    from fpvec_audit.services.doctor import checked_device
    from fpvec_audit.services.examiner import examine as examine_suspect

    settled = checked_backend(backend, suspect)
    bench = open_bench(home, registry, json, device=device)
    engine_device = checked_device(bench.settings.device)
    examination = examine_suspect(
        package,
        suspect,
        key=SigningKey.load(examiner_key),
        name=name,
        out=out,
        catalog=bench.catalog,
        backend=settled,
        endpoint=endpoint_settings(
            model=model,
            endpoint=None,
            concurrency=concurrency,
            max_requests=max_requests,
            price_in=None,
            price_out=None,
            ca_file=ca_file,
            timeout=timeout,
        ),
        architecture=architecture,
        device=engine_device,
        progress=bench.progress,
    )
    bench.emit(examination.to_json(), render_fields)


@app.command()
def attach(
    file: Annotated[Path, typer.Argument(help="What the examiner handed back.")],
    backend: BackendOption = None,
    device: DeviceOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> int:
    """Join what an examiner asked and signed to the audit that `fpvec audit --blind` planned, and score it.

    Exit code 0 means MATCH, 1 NO_MATCH, 3 INCONCLUSIVE.

    Example: fpvec evidence attach acme.examined
    """
    from fpvec_audit.reports.terminal import render_audit
    from fpvec_audit.services.doctor import checked_device
    from fpvec_audit.services.evidence import known_owner
    from fpvec_audit.services.examining import attach as attach_examination

    bench = open_bench(home, registry, json, backend=backend, device=device)
    engine_device = checked_device(bench.settings.device)
    examined = attach_examination(
        file,
        registry=bench.registry,
        catalog=bench.catalog,
        owner=known_owner(bench.settings.home),
        backend=bench.settings.backend,
        device=engine_device,
        progress=bench.progress,
    )
    bench.emit(examined.to_json(), render_audit)
    return EXIT_CODES[examined.result.verdict]


def _introduce(signer: "OwnerKey", bench: Workbench) -> None:
    if signer.made:
        bench.say(f"made the signing key {signer.file}: keep it, and keep it to yourself")
    bench.say(f"signed by {signer.key.public_key.hex}: tell whoever verifies, for --signer")
