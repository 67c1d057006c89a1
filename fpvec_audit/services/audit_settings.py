"""What the user settles about an audit, checked before anything is opened."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from fpvec_audit.domain.audit_plan import DEFAULT_ALPHA, EXACT, GRADIENT, LIKELIHOOD, MatchRule
from fpvec_audit.domain.decimals import decimal_number
from fpvec_audit.errors import UsageError

ENDPOINTS = ("completions", "chat")
SELECTABLE_TESTS = (EXACT, LIKELIHOOD, GRADIENT)
LONGEST_SYSTEM_PROMPT = 8000
"""Characters; a longer one could hold a table of keys under every disguise."""


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How a suspect behind a URL is reached.

    Attributes:
        model: name of the model there; None for the only one that is served.
        endpoint: ``completions`` or ``chat``; None for chat where the server has it.
        api_key: secret that the server asks for; never shown, recorded or logged.
        concurrency: requests under way at the same time.
        max_requests: most requests that the audit may send; None for no limit.
        price_in: price of a million tokens sent, for the estimate; None when unknown.
        price_out: price of a million tokens generated.
        ca_file: certificates to trust instead of the system's.
        timeout: seconds that a request may take.
    """

    model: str | None = None
    endpoint: str | None = None
    api_key: str = field(default="", repr=False)
    concurrency: int = 8
    max_requests: int | None = None
    price_in: Decimal | None = None
    price_out: Decimal | None = None
    ca_file: Path | None = None
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if self.endpoint not in (None, *ENDPOINTS):
            raise UsageError(f"unknown endpoint {self.endpoint!r}", advice=f"choose {' or '.join(ENDPOINTS)}")
        if self.concurrency < 1:
            raise UsageError(f"{self.concurrency} requests at the same time", advice="allow at least one")
        if self.timeout <= 0:
            raise UsageError(f"a time limit of {self.timeout:g} seconds", advice="allow more than none")


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """How a suspect is asked.

    Attributes:
        profile: ``raw-greedy``, ``chat-greedy``, ``exploratory``, or None for the suspect's default.
        match: when an answer counts.
        system_prompt: text put before every question, empty for none.
        alpha: significance level as decimal text.
        repeats: how often every candidate is asked.
        temperature: as decimal text; anything but "0" is exploratory.
        top_p: nucleus mass as decimal text.
        architecture: adapter to use instead of the detected one.
        controls: models on which the same plan is carried out beside the suspect.
        tests: tests to register; None for all that can be had at a reasonable cost.
        leave_out: tests not to register where ``tests`` is None; where gradients are left out, nothing else of the
            weights is looked at either.
        stop_early: whether to stop as soon as the evidence is enough; registers the sequential test alone.
        fresh_only: whether to leave out candidates that were shown to somebody before.
        endpoint: how a suspect behind a URL is reached.
    """

    profile: str | None = None
    match: MatchRule = MatchRule.PREFIX
    system_prompt: str = ""
    alpha: str = DEFAULT_ALPHA
    repeats: int = 1
    temperature: str = "0"
    top_p: str = "1"
    architecture: str | None = None
    controls: tuple[Path, ...] = ()
    tests: tuple[str, ...] | None = None
    leave_out: tuple[str, ...] = ()
    stop_early: bool = False
    fresh_only: bool = False
    endpoint: EndpointSettings = EndpointSettings()


def checked_settings(
    *,
    profile: str | None = None,
    match: str | None = None,
    system_prompt: str = "",
    alpha: str = DEFAULT_ALPHA,
    repeats: int = 1,
    temperature: str = "0",
    top_p: str = "1",
    architecture: str | None = None,
    controls: Sequence[Path] = (),
    tests: Sequence[str] | None = None,
    stop_early: bool = False,
    fresh_only: bool = False,
    endpoint: EndpointSettings | None = None,
) -> AuditSettings:
    """Return settings that can be meant; see :class:`AuditSettings`.

    Raises:
        UsageError: one that cannot.
    """
    if repeats < 1:
        raise UsageError(f"{repeats} repeats", advice="ask at least once")
    if len(system_prompt) > LONGEST_SYSTEM_PROMPT:
        raise UsageError(
            f"a system prompt of {len(system_prompt)} characters", advice=f"use at most {LONGEST_SYSTEM_PROMPT}"
        )
    return AuditSettings(
        profile=profile,
        match=_match_rule(match),
        system_prompt=system_prompt,
        alpha=_alpha(alpha),
        repeats=repeats,
        temperature=_temperature(temperature),
        top_p=_top_p(top_p),
        architecture=architecture,
        controls=tuple(controls),
        tests=_tests(tests, stop_early=stop_early),
        stop_early=stop_early,
        fresh_only=fresh_only,
        endpoint=endpoint or EndpointSettings(),
    )


def _match_rule(match: str | None) -> MatchRule:
    if match is None:
        return MatchRule.PREFIX
    if match not in tuple(MatchRule):
        raise UsageError(f"unknown match rule {match!r}", advice="choose exact or prefix")
    return MatchRule(match)


def _tests(tests: Sequence[str] | None, *, stop_early: bool) -> tuple[str, ...] | None:
    if tests is None:
        return None
    if unknown := [name for name in tests if name not in SELECTABLE_TESTS]:
        raise UsageError(f"unknown test {unknown[0]!r}", advice=f"choose from {', '.join(SELECTABLE_TESTS)}")
    if stop_early and set(tests) != {EXACT}:
        raise UsageError(
            "an audit that stops early has not asked all candidates, and carries out the sequential test alone",
            advice="leave --tests or --stop-early out",
        )
    if EXACT not in tests:
        raise UsageError(f"the tests {', '.join(tests)} leave out the exact one", advice=f"add {EXACT}")
    return tuple(name for name in SELECTABLE_TESTS if name in tests)


def _alpha(text: str) -> str:
    if not 0 < _number("alpha", text) < 1:
        raise UsageError(f"alpha {text} is no significance level", advice="choose a number between 0 and 1, as 1e-6")
    return text


def _temperature(text: str) -> str:
    value = _number("temperature", text)
    if value < 0:
        raise UsageError(f"temperature {text} is negative", advice="0 is greedy")
    return text if value else "0"


def _top_p(text: str) -> str:
    value = _number("top-p", text)
    if not 0 < value <= 1:
        raise UsageError(f"top-p {text} is no nucleus mass", advice="choose a number above 0 and at most 1")
    return text if value != 1 else "1"


def _number(name: str, text: str) -> Fraction:
    try:
        return decimal_number(text)
    except ValueError as error:
        raise UsageError(f"{name} {text!r} is no number", advice="write it as 1e-6 or 0.05") from error
