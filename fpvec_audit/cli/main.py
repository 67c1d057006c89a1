"""The ``fpvec`` command: one thin module per group, and the one place where errors become exit codes."""

import gc
import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fpvec_audit import __version__
from fpvec_audit.cli import (
    attack,
    audit,
    demo,
    doctor,
    evidence,
    fingerprint,
    job,
    key,
    model,
    plugin,
    registry,
    stamp,
    trace,
    unstamp,
    vector,
    witness,
)
from fpvec_audit.errors import FpvecError

USAGE = 2
BUG = 70
INTERRUPTED = 130

app = typer.Typer(
    name="fpvec",
    help="Prove that a language model stems from yours: issue keys, stamp copies, audit suspects.\n\n"
    "Example: fpvec demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (demo, doctor, fingerprint, stamp, unstamp, audit, trace):
    module.register(app)
for name, group in (
    ("key", key.app),
    ("witness", witness.app),
    ("evidence", evidence.app),
    ("model", model.app),
    ("vector", vector.app),
    ("attack", attack.app),
    ("registry", registry.app),
    ("job", job.app),
    ("plugin", plugin.app),
):
    app.add_typer(group, name=name)


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"fpvec-audit {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hold the options of the bare command."""


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Every error that the package raises on purpose is printed as what, which value and what to do; a traceback means a
    bug.
    """
    errors = Console(file=sys.stderr)
    try:
        result = app(args=arguments, standalone_mode=False)
    except FpvecError as error:
        errors.print(f"[bold red]error:[/] {escape(error.problem)}", highlight=False, soft_wrap=True)
        if error.advice:
            errors.print(f"[bold]try:[/] {escape(error.advice)}", highlight=False, soft_wrap=True)
        return error.exit_code
    except typer.TyperException as error:
        if not error.format_message():  # a bare group: its help has been shown
            return USAGE
        errors.print(f"[bold red]error:[/] {escape(error.format_message())}", highlight=False, soft_wrap=True)
        command = getattr(getattr(error, "ctx", None), "command_path", "fpvec")
        errors.print(f"[bold]try:[/] {command} --help", highlight=False)
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        errors.print("interrupted; nothing half-written is left behind", highlight=False)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our stdout went away (`fpvec … | head`); nothing is left to tell
        return 0
    except Exception:  # noqa: BLE001 - the one place where a bug is caught, shown whole and given its own exit code
        traceback.print_exc()
        errors.print("[bold red]this is a bug in fpvec-audit[/]; please report it with the lines above")
        return BUG
    return result if isinstance(result, int) else 0


def entry() -> None:
    """Run as the console script."""
    gc.set_threshold(100_000, 20, 20)  # loading libraries makes much and frees nothing: look for garbage less often
    sys.exit(run())


if __name__ == "__main__":
    entry()
