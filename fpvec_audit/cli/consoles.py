"""The one place where consoles are made: they show every text letter by letter.

What is printed holds names, paths and answers of others. Square brackets in them are no markup and ``:key:`` is no
picture, in sentences and in cells of tables alike, so nobody has to remember to escape anything; who wants colour
makes a ``Text`` with a style.
"""

import sys
from typing import IO, Any

from rich.console import Console


def console_on(file: IO[str], **options: Any) -> Console:
    """Return a console that reads neither markup nor emoji codes.

    Args:
        file: where it writes.
        options: what else rich is told, such as a width.
    """
    return Console(file=file, markup=False, emoji=False, **options)


def output_console() -> Console:
    """Return a console on today's stdout, for results."""
    return console_on(sys.stdout)


def error_console() -> Console:
    """Return a console on today's stderr, unmoved by anyone who redirects it later."""
    return console_on(sys.stderr)
