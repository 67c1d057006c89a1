"""A result as one HTML file: no network, no script, readable in light and dark, on a telephone and on paper.

Every text of a document is escaped and made visible; the only markup is the template's and the figures'. Equal
documents give equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fpvec_audit import __version__
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.exchanges import Exchange
from fpvec_audit.errors import UsageError
from fpvec_audit.reports.drawing import PALETTE, inline_svg
from fpvec_audit.reports.page import Page
from fpvec_audit.reports.visible import visible

if TYPE_CHECKING:
    from jinja2 import Environment

GENERATOR = "fpvec-audit"


def report_page(document: Mapping[str, Any], transcripts: Mapping[str, Sequence[Exchange]] | None = None) -> Page:
    """Return the page of a result.

    Args:
        document: JSON document of an audit, a trace, an attack run or a harmlessness comparison.
        transcripts: audit id → what was asked and answered, where its owner asked to see it.

    Raises:
        UsageError: it is none of these.
    """
    try:
        if "cells" in document:
            from fpvec_audit.reports.attack_page import attack_page

            return attack_page(document)
        if "candidates" in document:
            from fpvec_audit.reports.trace_page import trace_page

            return trace_page(document, transcripts)
        if "tasks" in document:
            from fpvec_audit.reports.harmless_page import harmless_page

            return harmless_page(document)
        if "audit_id" in document:
            from fpvec_audit.reports.audit_page import audit_page

            return audit_page(document, transcripts)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"the document lacks something, or holds something else: {error!r}", advice=ADVICE) from error
    raise UsageError("the document is none that a report can be made of", advice=ADVICE)


ADVICE = "give what `fpvec audit`, `fpvec trace`, `fpvec attack run` or `fpvec harmless` prints with --json"


def render_html(document: Mapping[str, Any], page: Page, *, secret: bool = False) -> str:
    """Return the HTML of a page.

    Args:
        document: JSON document that the page was made from; it is shown at the end.
        page: what is shown.
        secret: whether keys are shown.
    """
    source = json.dumps(document, indent=2, ensure_ascii=False)
    template = _environment().get_template("page.html")
    return template.render(
        page=page,
        secret=secret,
        palette=PALETTE,
        source=source,
        digest=document_digest(document),
        generator=f"{GENERATOR} {__version__}",
    )


def document_digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document's canonical JSON with floats as text, as the ledger records results.

    Empty where the document holds text that is no Unicode, such as paths of other encodings.
    """
    try:
        return canonical_digest(_floatless(document))
    except UnicodeEncodeError:
        return ""


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("fpvec_audit.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.globals["svg"] = lambda chart: Markup(inline_svg(chart))  # noqa: S704 - figures escape their texts
    return environment


def _floatless(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(name): _floatless(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_floatless(item) for item in value]
    return value
