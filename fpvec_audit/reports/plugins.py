"""A plugin that was just written, and what to do with it, for people to read."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fpvec_audit.reports.terminal import render_bullets


def render_new_plugin(document: Mapping[str, Any], console: Console) -> None:
    """Say what was written and how to go on."""
    given = document["directory"]
    directory = given if Path(given).is_absolute() else f"./{given}"  # a bare name would be a package to download
    render_bullets(console, f"Written to {given}", document["files"])
    steps = [
        f"pip install -e {shlex.quote(directory + '[test]')}",
        f"python -m pytest {shlex.quote(directory)}",
        f"fpvec plugin list    # shows {document['kind']} {document['name']}",
    ]
    render_bullets(console, "It works as it is; README.md says what to change", steps)
