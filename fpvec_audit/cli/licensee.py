"""``fpvec licensee``: whom key sets and stamped copies were issued to, and which word of a family's code each has."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fpvec_audit.cli.listing import (
    AfterOption,
    CsvOption,
    LimitOption,
    SinceOption,
    SortOption,
    UntilOption,
    selection,
    show_list,
)
from fpvec_audit.cli.wiring import HomeOption, JsonOption, RegistryOption, open_bench
from fpvec_audit.errors import UsageError

if TYPE_CHECKING:
    from fpvec_audit.services.family_codes import Wanted

app = typer.Typer(
    help="Give licensees words of a family's code, and look at who has what.\n\nExample: fpvec licensee list",
    no_args_is_help=True,
)

FAMILY_HELP = "Key set with several marks, or a vector family trained on it; names and ids."
FamilyOption = Annotated[str, typer.Option("--family", metavar="F", help=FAMILY_HELP)]
CodeOption = Annotated[
    str,
    typer.Option(metavar="plane:Q|rs:Q,K,L|random:W", help="Code of the family.  \\[default: proposed]"),
]
CountOption = Annotated[
    int | None,
    typer.Option("--licensees", min=1, metavar="N", help="How many there will be.  \\[default: as many as marks]"),
]
ColludersOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="C", help="How many may pool copies.  \\[default: 3, 2 or 1, what the marks carry]"),
]
EpsilonOption = Annotated[
    str | None,
    typer.Option(metavar="P", help="Chance that random words name anybody wrongly, at most.  \\[default: 1e-3]"),
]
FirstNumberOption = Annotated[
    int | None,
    typer.Option(
        "--first-number",
        metavar="N",
        help="Number of the first word. Those before it that are not known here were issued outside of this registry.  "
        "\\[default: the next one]",
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it goes to the ledger.")]


@app.command()
def add(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Licensees; new ones are recorded.")],
    family: FamilyOption,
    code: CodeOption = "",
    licensees: CountOption = None,
    colluders: ColludersOption = None,
    epsilon: EpsilonOption = None,
    first_number: FirstNumberOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Assign a code word: which marks of a family the licensee's copies carry.

    The first word chooses the family's code, once and for all; what that code can bear is shown before. Words are
    issued in a secret order, no word twice, and the registry keeps numbers and digests of them. A registry that was
    restored or imported cannot know which were issued since it was copied, and asks for --first-number.

    Example: fpvec licensee add Globex --family acme-family

    Example: fpvec licensee add Globex Initech --family acme-family --licensees 1000 --colluders 2

    Example: fpvec licensee add Stark --family acme-family --first-number 3
    """
    from fpvec_audit.reports.families import render_code, render_words
    from fpvec_audit.services.family_codes import add_licensees, family_code

    bench = open_bench(home, registry, json)
    wanted = replace(_wanted(code, licensees, colluders, epsilon), at_once=len(names))
    chosen = family_code(family, registry=bench.registry, wanted=wanted)
    if not chosen.created_at:
        render_code(chosen.to_json(), bench.errors)
    added = add_licensees(names, family, registry=bench.registry, wanted=wanted, first_number=first_number)
    bench.emit(added.to_json(), render_words)


@app.command()
def code(
    family: Annotated[str, typer.Argument(help=FAMILY_HELP)],
    code: CodeOption = "",
    licensees: CountOption = None,
    colluders: ColludersOption = None,
    epsilon: EpsilonOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show a family's code, or the one that would be chosen: how many words, what coalitions, what a copy costs.

    Example: fpvec licensee code acme-family --licensees 1000 --colluders 2
    """
    from fpvec_audit.reports.families import render_code
    from fpvec_audit.services.family_codes import family_code

    bench = open_bench(home, registry, json)
    wanted = _wanted(code, licensees, colluders, epsilon)
    bench.emit(family_code(family, registry=bench.registry, wanted=wanted).to_json(), render_code)


@app.command()
def retire(
    licensee: Annotated[str, typer.Argument(metavar="NAME", help="A licensee that has a word; name or whole id.")],
    family: FamilyOption,
    reason: ReasonOption,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Take a licensee's word out of use for good. Copies that carry it are still traced to the licensee.

    Example: fpvec licensee retire Globex --family acme-family --reason "contract ended"
    """
    from fpvec_audit.reports.families import render_retired
    from fpvec_audit.services.family_codes import retire_licensee

    bench = open_bench(home, registry, json)
    retired = retire_licensee(licensee, family, registry=bench.registry, reason=reason)
    bench.emit(retired.to_json(), render_retired)


@app.command("list")
def list_(
    family: Annotated[
        str | None, typer.Option("--family", metavar="F", help=f"Words of one family. {FAMILY_HELP}")
    ] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="With --family: show the marks of every word; recorded in the ledger.")
    ] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why they are shown, for the ledger.")] = "",
    since: SinceOption = None,
    until: UntilOption = None,
    sort: SortOption = "name",
    limit: LimitOption = None,
    after: AfterOption = None,
    home: HomeOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """List licensees, with how many key sets and stamped copies each was issued; sorted by name or created.

    With --family: who has which word of it, by number.

    Example: fpvec licensee list --sort -created --limit 10

    Example: fpvec licensee list --family acme-family
    """
    from fpvec_audit.reports.records import render_licensees
    from fpvec_audit.services.licensees import licensee_json, list_licensees

    bench = open_bench(home, registry, json)
    wanted = selection(since=since, until=until, sort=sort, limit=limit, after=after)
    if family is not None:
        if csv or wanted != selection(since=None, until=None, sort="name", limit=None, after=None):
            raise UsageError(
                "the words of a family are listed whole, by number",
                advice="leave --csv, --since, --until, --sort, --limit and --after out",
            )
        if reason and not reveal:
            raise UsageError("--reason says why words are shown, and none is", advice="add --reveal, or leave it out")
        from fpvec_audit.reports.families import render_words
        from fpvec_audit.services.family_codes import family_words

        bench.emit(family_words(family, registry=bench.registry, reveal=reveal, reason=reason).to_json(), render_words)
        return
    if reveal or reason:
        raise UsageError("--reveal and --reason are about the words of a family", advice="name it: --family F")
    show_list(
        bench,
        wanted,
        lambda chosen: [licensee_json(found) for found in list_licensees(registry=bench.registry, selection=chosen)],
        render=render_licensees,
        columns=("id", "name", "key_sets", "stamps", "created_at"),
        as_csv=csv,
    )


def _wanted(code: str, licensees: int | None, colluders: int | None, epsilon: str | None) -> "Wanted":
    from fpvec_audit.services.family_codes import Wanted

    return Wanted(code=code, licensees=licensees, colluders=colluders, epsilon=epsilon)
