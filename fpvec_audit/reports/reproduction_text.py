"""A reproduction as Markdown: what reproduced, what did not, every table, and what could not be carried out."""

from collections.abc import Mapping, Sequence
from typing import Any

from fpvec_audit.reports.reproduction_comparisons import comparison_tables
from fpvec_audit.reports.reproduction_findings import findings
from fpvec_audit.reports.reproduction_methods import method_tables
from fpvec_audit.reports.reproduction_results import Results, ResultTable, seconds_text
from fpvec_audit.reports.reproduction_tables import paper_tables


def all_tables(document: Mapping[str, Any]) -> list[ResultTable]:
    """Return every table that a record fills."""
    results = Results(document)
    return [*paper_tables(results), *comparison_tables(results), *method_tables(results)]


def summary(document: Mapping[str, Any]) -> str:
    """Return in one line how far a reproduction came."""
    results = Results(document)
    counts = [f"{results.count('done')} of {len(document['stages'])} stages done"]
    counts += [f"{count} {state}" for state in ("failed", "skipped", "missing") if (count := results.count(state))]
    machine = document["machine"]
    where = f"{machine['device']}, {machine['architecture']}, {machine['cores']} cores"
    return f"{document['name']}: {', '.join(counts)}; {seconds_text(document['seconds'])} of work ({where})"


def markdown(document: Mapping[str, Any], *, level: int = 2) -> str:
    """Return the whole report.

    Args:
        document: as ``fpvec reproduce --json`` prints it.
        level: level of its headings.
    """
    results = Results(document)
    mark = "#" * level
    held, failed = findings(results)
    parts = [f"{summary(document)}.\n"]
    parts += _bullets(f"{mark} What did not reproduce", failed or ["Nothing that was measured."])
    parts += _bullets(f"{mark} What did", held)
    for table in all_tables(document):
        parts.append(f"\n{mark} {table.title}\n\n{_table(table)}")
        parts += [f"\n{_escaped(note[:1].upper() + note[1:])}.\n" for note in table.notes]
    parts += _bullets(f"{mark} What could not be carried out", results.problems())
    return "".join(parts)


def _bullets(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    return [f"\n{title}\n\n", *(f"* {line}\n" for line in lines)]


def _table(table: ResultTable) -> str:
    heads = [_escaped(name.removeprefix(">")) for name in table.columns]
    rule = ["---:" if name.startswith(">") else "---" for name in table.columns]
    lines = [heads, rule, *([_escaped(cell) for cell in row] for row in table.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("*", "\\*")
