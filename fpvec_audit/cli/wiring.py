"""The composition root: settings, registry, catalog and progress are made here and handed down.

Every command opens one :class:`Workbench`. Heavy packages are imported only when a command asks for what needs them, so
that ``fpvec --help`` stays quick.
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fpvec_audit.cli.command_line import recorded_command
from fpvec_audit.cli.consoles import error_console, output_console
from fpvec_audit.cli.progress import terminal_progress
from fpvec_audit.cli.streams import ReaderGoneError
from fpvec_audit.progress import Progress
from fpvec_audit.services.own_registry import open_own_registry, own_master_key
from fpvec_audit.settings import HOME_NAME, Settings, load_settings, login_name

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.master_key import MasterKeySource
    from fpvec_audit.registry.unit_of_work import Registry

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Directory of the registry, the vault and artefacts.", rich_help_panel="Everywhere"),
]
RegistryOption = Annotated[
    str | None,
    typer.Option("--registry", help="SQLAlchemy URL of another registry.", rich_help_panel="Everywhere"),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, nothing else.", rich_help_panel="Everywhere")
]
ArchitectureOption = Annotated[
    str | None, typer.Option("--architecture", metavar="NAME", help="Adapter to use instead of the detected one.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
BackendOption = Annotated[
    str | None, typer.Option("--backend", metavar="auto|vllm|transformers", help="Which engine answers.")
]
TensorParallelOption = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel",
        metavar="N",
        help="GPUs over which vLLM divides a model.  \\[default: as few as hold it]",
    ),
]


@dataclass
class Workbench:
    """What a command works with.

    Attributes:
        settings: merged settings.
        json: whether stdout carries one JSON document.
        output: console on stdout, for results.
        errors: console on stderr, for everything else.
    """

    settings: Settings
    json: bool = False
    output: Console = field(default_factory=output_console)
    errors: Console = field(default_factory=error_console)

    @cached_property
    def progress(self) -> Progress:
        """Where long work reports: bars or lines on stderr."""
        return terminal_progress(self.errors)

    @cached_property
    def catalog(self) -> "Catalog":
        """All plugins; failed ones are recorded, not fatal."""
        from fpvec_audit.catalog import load_catalog

        return load_catalog()

    @cached_property
    def registry(self) -> "Registry":
        """The opened registry, brought to head when it is new."""
        return open_own_registry(
            self.settings, command=recorded_command(), warn=lambda sentence: self.say(f"warning: {sentence}")
        )

    @cached_property
    def master_key(self) -> "MasterKeySource":
        """Where the key comes from that seals the registry's secrets."""
        return own_master_key(self.settings)

    @cached_property
    def actor(self) -> str:
        """Who acts, for the ledger."""
        return self.settings.actor or login_name()

    @cached_property
    def device(self) -> str:
        """The torch device that ``auto`` means here."""
        from fpvec_audit.services.doctor import resolve_device

        return resolve_device(self.settings.device)

    def emit(self, document: Any, render: Callable[[Any, Console], None]) -> None:
        """Show a result: the JSON document on stdout, or a rendering of it.

        Where nobody reads it, the command goes on: a report is still to be written, and the exit code is its verdict.
        """
        with suppress(ReaderGoneError):
            if self.json:
                sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
                sys.stdout.flush()
            else:
                render(document, self.output)

    def emit_line(self, document: Any, line: Callable[[Any], str]) -> None:
        """Show one of many results at once: JSON on a line of its own, or a line of text; nothing is held back."""
        if self.json:
            sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            self.output.print(line(document), highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Tell the user something beside the result, on stderr."""
        self.errors.print(text, highlight=False, soft_wrap=True)


def open_bench(
    home: Path | None, registry: str | None, as_json: bool, *, home_name: str = HOME_NAME, **overrides: Any
) -> Workbench:
    """Merge the settings of a command and open its workbench.

    Args:
        home: ``--home``.
        registry: ``--registry``.
        as_json: ``--json``.
        home_name: name of the home when nothing else names one.
        overrides: further settings from the command line.

    Raises:
        SettingsError: a bad value in a file, the environment or an option.
    """
    settings = load_settings({"home": home, "registry": registry, **overrides}, home_name=home_name)
    return Workbench(settings, json=as_json)
