"""The ``fpvec`` command: one thin module per group, and the one place where errors become exit codes.

A command loads its own module and what that needs, not those of its neighbours: stamping a model takes seconds, so a
quarter of a second of loading is felt.
"""

import atexit
import gc
import inspect
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, NoReturn

from fpvec_audit import __version__
from fpvec_audit.cli.streams import ReaderGoneError, guard_streams, settle_streams
from fpvec_audit.errors import FpvecError, OutputError

if TYPE_CHECKING:
    import typer

USAGE = 2
BUG = 70
INTERRUPTED = 130

COMMANDS = (
    "demo",
    "doctor",
    "fingerprint",
    "stamp",
    "unstamp",
    "embed",
    "audit",
    "trace",
    "harmless",
    "reproduce",
    "report",
)
"""Modules of this package that register a command of their name, in the order of the help."""
GROUPS = (
    *("key", "licensee", "witness", "evidence", "model", "vector", "suspect", "audits"),
    *("attack", "method", "fleet", "registry", "job", "plugin"),
)
"""Modules of this package with a group of commands."""


def application(names: Sequence[str] = (*COMMANDS, *GROUPS)) -> "typer.Typer":
    """Return the command line.

    Args:
        names: which commands and groups it knows.
    """
    import typer

    def show_version(asked: bool) -> None:
        if asked:
            sys.stdout.write(f"fpvec-audit {__version__}\n")
            raise typer.Exit

    app = typer.Typer(
        name="fpvec",
        help="Prove that a language model stems from yours: issue keys, stamp copies, audit suspects.\n\n"
        "Example: fpvec demo",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
        ] = False,
    ) -> None:
        """Hold the options of the bare command."""

    for name in names:
        module = import_module(f"fpvec_audit.cli.{name}")
        if name in COMMANDS:
            module.register(app)
        else:
            app.add_typer(module.app, name=name)
    _reflow(app)
    return app


def _reflow(app: "typer.Typer") -> None:
    """Let the terminal break the lines of every command's help, whose paragraphs are broken as source text is."""
    for command in app.registered_commands:
        paragraphs = inspect.cleandoc(getattr(command.callback, "__doc__", None) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _reflow(group.typer_instance)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Every error that the package raises on purpose is printed as what, which value and what to do; a traceback means a
    bug.
    """
    import typer

    try:
        code = run_command(sys.argv[1:] if arguments is None else arguments)
        if code == INTERRUPTED:  # typer takes Ctrl-C for itself, and says nothing
            raise KeyboardInterrupt
        with suppress(ReaderGoneError):  # what was done stands, and so does its exit code
            sys.stdout.flush()
        return code
    except FpvecError as error:
        _tell(error.problem, error.advice)
        return error.exit_code
    except typer.TyperException as error:
        if not error.format_message():  # a bare group: its help has been shown
            return USAGE
        command = getattr(getattr(error, "ctx", None), "command_path", "fpvec")
        _tell(error.format_message(), f"{command} --help")
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        _say("", "interrupted; nothing half-written is left behind")
        return INTERRUPTED
    except ReaderGoneError:
        return 0  # the reader of our stdout went away (`fpvec … | head`); nothing is left to tell
    except Exception:  # noqa: BLE001 - the one place where a bug is caught, shown whole and given its own exit code
        import traceback

        traceback.print_exc()
        _say("this is a bug in fpvec-audit", "; please report it with the lines above", style="bold red")
        return BUG


def run_command(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; errors are the caller's."""
    from fpvec_audit.cli.command_line import acting

    with acting(arguments):
        result = application(_asked_for(arguments))(args=list(arguments), standalone_mode=False)
    return result if isinstance(result, int) else 0


def entry() -> None:
    """Run as the console script."""
    gc.set_threshold(200_000, 20, 20)  # loading libraries makes much and frees nothing: look for garbage less often
    try:
        guard_streams()
    except OutputError as error:
        _tell(error.problem, error.advice)
        _leave(error.exit_code)
    _leave(run())


def _asked_for(arguments: Sequence[str]) -> Sequence[str]:
    """Return the command that is asked for, or all where the first argument is none."""
    known = (*COMMANDS, *GROUPS)
    return arguments[:1] if arguments and arguments[0] in known else known


def _tell(problem: str, advice: str) -> None:
    """Say what went wrong, and what to do about it."""
    _say("error:", f" {problem}", style="bold red")
    if advice:
        _say("try:", f" {advice}", style="bold")


def _say(head: str, rest: str, style: str = "") -> None:
    """Write a line to stderr whose head has a style."""
    from rich.text import Text

    from fpvec_audit.cli.consoles import error_console

    error_console().print(Text.assemble((head, style), rest), soft_wrap=True)


def _leave(code: int) -> NoReturn:
    """End the process; does not return.

    Taking the interpreter apart, object by object, takes as long as stamping hundreds of megabytes, and frees what the
    system frees anyway. What was registered for the end of the process is done all the same. Where torch or another
    thread takes part, the end is the usual one.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if "torch" in sys.modules or not all(thread.daemon for thread in others):
        settle_streams()
        sys.exit(code)
    atexit._run_exitfuncs()
    settle_streams()
    os._exit(code)


if __name__ == "__main__":
    entry()
