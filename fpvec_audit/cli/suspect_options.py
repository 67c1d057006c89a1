"""Options that ``fpvec audit`` and ``fpvec trace`` share: how a suspect is asked."""

import json
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from fpvec_audit.errors import SettingsError, UsageError
from fpvec_audit.services.audit_settings import EndpointSettings
from fpvec_audit.settings import api_key

API = "api"
HOW, ENDPOINT, LIMITS = "How it is asked", "Endpoints", "What is asked"

ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="raw-greedy|chat-greedy|exploratory",
        help="How the prompts are put.  \\[default: chat-greedy "
        "where the suspect has a chat template or a known architecture, else raw-greedy]",
        rich_help_panel=HOW,
    ),
]
MatchOption = Annotated[
    str | None, typer.Option(metavar="exact|prefix", help="When an answer counts.", rich_help_panel=HOW)
]
SystemPromptOption = Annotated[
    Path | None, typer.Option(help="File with a system prompt to put first.", rich_help_panel=HOW)
]
RepeatsOption = Annotated[int, typer.Option(help="How often every candidate is asked.", rich_help_panel=HOW)]
AlphaOption = Annotated[str, typer.Option(help="Significance level of a MATCH.", rich_help_panel=HOW)]
TestsOption = Annotated[
    str | None,
    typer.Option(
        metavar="exact[,likelihood][,gradient]",
        help="Tests to register.  \\[default: all that can be had at a reasonable cost]",
        rich_help_panel=HOW,
    ),
]
AuditBackendOption = Annotated[
    str | None, typer.Option("--backend", metavar="auto|vllm|transformers|api", help="What answers.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Model to ask for, where several are served.", rich_help_panel=ENDPOINT)
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="completions|chat", help="What to call.  \\[default: chat where there is one]", rich_help_panel=ENDPOINT
    ),
]
ConcurrencyOption = Annotated[int, typer.Option(help="Requests under way at a time.", rich_help_panel=ENDPOINT)]
MaxRequestsOption = Annotated[
    int | None, typer.Option(help="Send no more requests than this, retries included.", rich_help_panel=ENDPOINT)
]
PriceInOption = Annotated[
    str | None, typer.Option(metavar="PRICE", help="Price of a million tokens sent.", rich_help_panel=ENDPOINT)
]
PriceOutOption = Annotated[
    str | None, typer.Option(metavar="PRICE", help="Price of a million tokens generated.", rich_help_panel=ENDPOINT)
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(help="Certificates (PEM) to trust instead of the system's.", rich_help_panel=ENDPOINT),
]
TimeoutOption = Annotated[float, typer.Option(help="Seconds that a request may take.", rich_help_panel=ENDPOINT)]


def endpoint_settings(
    *,
    model: str | None,
    endpoint: str | None,
    concurrency: int,
    max_requests: int | None,
    price_in: str | None,
    price_out: str | None,
    ca_file: Path | None,
    timeout: float,
) -> EndpointSettings:
    """Return how an endpoint is reached; the key comes from the environment.

    Raises:
        UsageError: a value that cannot be meant.
    """
    return EndpointSettings(
        model=model,
        endpoint=endpoint,
        api_key=api_key(),
        concurrency=concurrency,
        max_requests=max_requests,
        price_in=_price("price-in", price_in),
        price_out=_price("price-out", price_out),
        ca_file=ca_file,
        timeout=timeout,
    )


def checked_backend(backend: str | None, suspect: str) -> str | None:
    """Return the engine to use; ``api`` goes with a URL, and a URL with ``api`` or ``auto``.

    Raises:
        UsageError: they do not fit.
    """
    from fpvec_audit.services.suspects import is_endpoint

    if is_endpoint(suspect):
        if backend not in (None, "auto", API):
            raise UsageError(
                f"--backend {backend}: {suspect} is an endpoint, which answers itself",
                advice="leave --backend out, or give a directory",
            )
        return "auto"
    if backend == API:
        raise UsageError(f"--backend api: {suspect} is no URL", advice="give the endpoint's base URL, as https://…/v1")
    return backend


def checked_tensor_parallel(parts: int | None, suspect: str) -> int | None:
    """Return over how many GPUs a suspect is divided; none of them is ours where an endpoint answers.

    Raises:
        UsageError: it is said for an endpoint.
    """
    from fpvec_audit.services.suspects import is_endpoint

    if parts is not None and is_endpoint(suspect):
        raise UsageError(
            f"--tensor-parallel {parts}: {suspect} is an endpoint, which runs itself",
            advice="leave --tensor-parallel out, or give a directory",
        )
    return parts


def test_names(text: str | None) -> list[str] | None:
    """Return the tests named in an option, None for the default."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def read_text(path: Path | None) -> str:
    """Return the text of a system prompt, empty for none.

    Raises:
        SettingsError: it cannot be read.
    """
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"system prompt {path} cannot be read: {error}") from error


def read_json(path: Path | None, what: str) -> Any:
    """Return the JSON document in a file, None for none.

    Raises:
        SettingsError: it cannot be read.
    """
    if path is None:
        return None
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{what} {path} cannot be read: {error}") from error


def _price(name: str, text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        price = Decimal(text)
    except InvalidOperation as error:
        raise UsageError(f"--{name} {text!r} is no number", advice="write it as 0.15") from error
    if not price.is_finite() or price < 0:
        raise UsageError(f"--{name} {text} is no price", advice="give 0 or more")
    return price
