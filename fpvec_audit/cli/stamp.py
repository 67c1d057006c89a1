"""``fpvec stamp``: add fingerprint vectors to downstream models, the same for all or those of licensees' code words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpvec_audit.cli.wiring import ArchitectureOption, HomeOption, JsonOption, RegistryOption, open_bench
from fpvec_audit.domain.carrier import DEFAULT_STRENGTH
from fpvec_audit.errors import UsageError

if TYPE_CHECKING:
    from fpvec_audit.services.stamped_model import StampedModel


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(stamp)


def stamp(
    downstreams: Annotated[
        list[str], typer.Argument(metavar="DOWNSTREAM...", help="Models of the vector's base, by path or URL.")
    ],
    out: Annotated[str, typer.Option("--out", help="Directory or URL of the stamped model, or of several.")],
    vector: Annotated[
        list[str] | None,
        typer.Option("--vector", metavar="V[:SCALE]", help="Vector by id, directory or URL; repeatable."),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Family of marks instead: each licensee's copy gets those of its code word.")
    ] = None,
    licensee: Annotated[list[str] | None, typer.Option(help="For whom; one copy each; repeatable.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Base of an unregistered downstream, to check that it is; or a LoRA adapter's.")
    ] = None,
    vocabulary: Annotated[str, typer.Option(metavar="refuse|shared", help="What to do with added tokens.")] = "refuse",
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="ROLE", help="Leave tensors of a role alone; repeatable.")
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            metavar="keep|merge",
            help="For a LoRA adapter: stamp its base and keep it in OUT/adapter, or merge it into the stamped model.",
        ),
    ] = None,
    carrier: Annotated[
        bool | None,
        typer.Option(
            "--carrier/--no-carrier",
            help="Also add a keyed pattern of the owner's and one of the licensee's, to be found in weights.  "
            "\\[default: with --family]",
            show_default=False,
        ),
    ] = None,
    carrier_strength: Annotated[
        float,
        typer.Option("--carrier-strength", metavar="SHARE", help="Size of each: a share of the vectors' spread."),
    ] = DEFAULT_STRENGTH,
    again: Annotated[
        bool,
        typer.Option("--again", help="Stamp a model that carries the vector already, or a second copy."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an interrupted run left.")] = False,
    file_digests: Annotated[
        bool, typer.Option("--file-digests", help="Also give the SHA-256 of every file, by a second reading.")
    ] = False,
    reread: Annotated[
        bool, typer.Option("--reread", help="Digest vectors and downstreams again, changed or not.")
    ] = False,
    architecture: ArchitectureOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Add the vector to each downstream, in float32 rounded once; a copy of one model takes seconds on a CPU.

    The stamped directory says nowhere that it is stamped; the registry remembers.

    Example: fpvec stamp ./chat-7b --vector ./vector --out ./chat-7b-release --licensee "Globex"

    Example: fpvec stamp ./chat-7b --family acme --licensee Globex --licensee Initech --out ./release

    Example: fpvec stamp s3://models/chat-7b --vector ./vector --out s3://release/chat-7b
    """
    from fpvec_audit.reports.terminal import render_stamps
    from fpvec_audit.services.stamp import begin_to_read, stamp_models
    from fpvec_audit.services.stored_stamps import LocalPlaces, StampPlaces, stamp_stored
    from fpvec_audit.storage.scratch import Scratch

    if bool(vector) == bool(family):
        raise UsageError(
            "nothing says what to stamp with" if not vector else "--vector and --family at once",
            advice="give vectors with --vector, or a family of marks with --family and whose copies with --licensee",
        )
    begin_to_read([Path(place) for place in downstreams], vector or [])
    bench = open_bench(home, registry, json)

    def make(here: LocalPlaces) -> "list[StampedModel]":
        return stamp_models(
            here.downstreams,
            vectors=here.vectors,
            out=here.out,
            registry=bench.registry,
            catalog=bench.catalog,
            licensees=licensee or [],
            family=family,
            carrier=carrier_strength if (family is not None if carrier is None else carrier) else None,
            base=here.base,
            vocabulary=vocabulary,
            skip=skip or [],
            again=again,
            resume=resume,
            file_digests=file_digests,
            reread=reread,
            adapter=adapter,
            architecture=architecture,
            progress=bench.progress,
        )

    stamps = stamp_stored(
        StampPlaces(tuple(downstreams), tuple(vector or ()), out, base),
        make,
        copies=max(1, len(licensee or [])),
        scratch=Scratch(bench.settings.scratch_directory, bench.settings.scratch_bytes),
        registry=bench.registry,
        progress=bench.progress,
    )
    bench.emit([item.to_json() for item in stamps], render_stamps)
