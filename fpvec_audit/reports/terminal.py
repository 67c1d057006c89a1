"""Results in a terminal: the same documents that ``--json`` prints, for people.

Everything reads JSON documents, so a stored document is shown like a fresh one. An audit report serves two readers: its
first sentence says the verdict in plain words, the numbers follow, then how they came about and what they do not prove.
Nothing depends on colour or on more than 80 columns, and no text of a document is taken for markup.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fpvec_audit.reports import audit_text
from fpvec_audit.reports.audit_text import p_shown, percent

COLOURS = {
    **{"MATCH": "green", "NO_MATCH": "blue", "INCONCLUSIVE": "yellow"},
    **{"good": "green", "limited": "yellow", "broken": "red", "working": "green", "failed": "red"},
    **{"burnt": "yellow", "retired": "yellow", "compromised": "red"},
    **{"running": "cyan", "succeeded": "green", "interrupted": "red", "cancelled": "yellow"},
}


def render_audit(document: Mapping[str, Any], console: Console) -> None:
    """Show one audit: verdict, meaning, numbers, method, limits, identifiers."""
    verdict = document["verdict"]
    console.print(Text.assemble((f"{verdict}  ", f"bold {COLOURS[verdict]}"), (audit_text.SENTENCES[verdict], "bold")))
    console.print(Text(audit_text.finding(document)))
    _section(console, "What this means", [audit_text.MEANINGS[verdict]])
    render_pairs(console, "Numbers", audit_text.numbers(document))
    if document["controls"]:
        shown = {_control_name(control): control for control in document["controls"]}
        render_audits({"the suspect": document, **shown}, console, title="Beside controls")
    _section(console, "How it was measured", audit_text.method(document))
    render_bullets(console, "What the weights look like", audit_text.weights(document))
    render_bullets(console, "Notes", document["warnings"])
    render_bullets(console, "What this does not prove", document["does_not_prove"])
    if document["earlier_audits"]:
        earlier = [
            f"{audit['at'][:16]} {audit['verdict']} ({audit['audit_id']})" for audit in document["earlier_audits"]
        ]
        render_bullets(console, "Earlier audits of this suspect with these keys", earlier)
    render_pairs(console, "Identifiers", audit_text.identifiers(document))


def render_audits(documents: Mapping[str, Mapping[str, Any]], console: Console, *, title: str = "Audits") -> None:
    """Show several audits side by side, by the names given."""
    rows = [
        [
            name,
            f"{audit['matched']}/{audit['issued']}",
            f"{audit['decoys_matched']}/{audit['decoys']}",
            p_shown(audit["p_value_corrected"]),
            f"{audit['seconds']:.1f}" if audit["seconds"] else "–",
            verdict_text(audit["verdict"]),
        ]
        for name, audit in documents.items()
    ]
    columns = ("model", ">keys", ">decoys", ">corrected p", ">s", "verdict")
    console.print(table_of(title, columns, rows))
    engines = {f"{audit['backend']['engine']} {audit['backend']['version']}" for audit in documents.values()}
    limits = sorted({audit["alpha"] for audit in documents.values()})
    console.print(
        Text(
            f"keys and decoys answered of those asked; a match needs a corrected p of at most "
            f"{', '.join(f'{alpha:g}' for alpha in limits)}; answered by {', '.join(sorted(engines))}",
            style="dim",
        )
    )


def _control_name(control: Mapping[str, Any]) -> str:
    path = PurePath(control["suspect"]["location"])
    recorded = ", recorded earlier" if control.get("recorded") else ""
    return f"{'/'.join(path.parts[-2:])}{recorded}"


def _kind_of_key(key: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if not key["issued"]:
        return "decoy"
    return "issued" if document["marks"] == 1 else f"mark {key['mark']}"


def render_harmlessness(documents: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Show what stamping cost models, by the names given."""
    rows = []
    for name, harm in documents.items():
        before, after, difference = harm["before"], harm["after"], harm["difference"]
        rows.append(
            [
                name,
                percent(before["accuracy"]),
                percent(after["accuracy"]),
                f"{100 * difference['accuracy']:+.1f} points",
                f"{before['perplexity']:.2f}",
                f"{after['perplexity']:.2f}",
                f"×{after['perplexity'] / before['perplexity']:.3f}",
            ]
        )
    columns = ("model", ">accuracy", ">after", ">change", ">perplexity", ">after", ">ratio")
    console.print(table_of("What the fingerprint costs", columns, rows))


def render_key_set(document: Mapping[str, Any], console: Console) -> None:
    """Show one key set, and its keys where they were revealed."""
    plain = {name: value for name, value in document.items() if name not in ("keys", "warnings")}
    render_fields(plain, console)
    if document.get("keys"):
        rows = [
            [
                key["prompt"],
                key["response"],
                _kind_of_key(key, document),
                "burnt" if key["burnt"] else "",
            ]
            for key in document["keys"]
        ]
        console.print(table_of("Keys", ("prompt", "response", "kind", ""), rows))
    render_bullets(console, "Notes", document.get("warnings", []))


def render_key_sets(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List key sets."""
    rows = [
        [
            keys["name"],
            short(keys["id"]),
            f"{keys['issued']} + {keys['decoys']}",
            f"waits for {keys['waits_for']}" if keys.get("waits_for") else keys["grade"],
            Text(keys["state"], style=COLOURS.get(keys["state"], "")),
            short(keys["base"]) if keys["base"] else "not yet",
        ]
        for keys in document
    ]
    columns = ("name", "id", ">issued + decoys", "grade", "state", "bound to")
    render_list(console, "Key sets", columns, rows, empty="no key set yet: fpvec key issue NAME")


def render_model(document: Mapping[str, Any], console: Console) -> None:
    """Show one registered model, and the stamps it carries."""
    render_fields({name: value for name, value in document.items() if name != "stamps"}, console)
    if document.get("stamps"):
        render_bullets(console, "Stamps", [_line(stamp) for stamp in document["stamps"]])


def render_models(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List registered models."""
    rows = [
        [
            model["name"],
            short(model["id"]),
            model["role"],
            model["architecture"] or "unknown",
            f"{model['parameters']:,}",
            model.get("parent_name") or short(model["parent"] or "–"),
        ]
        for model in document
    ]
    columns = ("name", "id", "role", "architecture", ">parameters", "made from")
    render_list(console, "Models", columns, rows, empty="no model yet: fpvec model register PATH")


def render_vectors(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List fingerprint vectors."""
    rows = [
        [
            short(vector["vector_id"]),
            vector["key_set"] or "unknown",
            vector["mark"],
            vector["base"],
            vector["architecture"],
            f"{vector['norm']:.3g}",
            vector["inexact_elements"],
            vector["location"],
        ]
        for vector in document
    ]
    columns = ("id", "key set", ">mark", "base", "architecture", ">norm", ">inexact", "where")
    render_list(
        console, "Vectors", columns, rows, empty="no vector yet: fpvec vector extract BASE FINGERPRINTED --out DIR"
    )


def render_compression(document: Mapping[str, Any], console: Console) -> None:
    """Show a compressed vector, and what was lost by what tensors do."""
    render_fields({name: value for name, value in document.items() if name not in ("roles", "warnings")}, console)
    rows = [
        [
            loss["role"].replace("_", " "),
            loss["tensors"],
            f"{loss['elements']:,}",
            "–" if loss["share_of_bytes"] is None else f"{100 * loss['share_of_bytes']:.3g} %",
            f"{loss['relative_error']:.3g}",
            "–" if loss["cosine"] is None else f"{loss['cosine']:.5f}",
        ]
        for loss in document["roles"]
    ]
    columns = ("role", ">tensors", ">elements", ">share of bytes", ">relative error", ">cosine")
    console.print(table_of("What was lost", columns, rows))
    render_bullets(console, "Notes", document["warnings"])


def render_stamps(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show stamped models."""
    rows = [
        [
            stamp["out"],
            ", ".join(f"{short(vector['vector'])}×{vector['scale']:g}" for vector in stamp["vectors"]),
            stamp["licensee"] or "–",
            f"{stamp['applied_ratio']:.4f}",
            f"{stamp['seconds']:.2f}",
            "already there" if stamp["already"] else "written",
        ]
        for stamp in document
    ]
    console.print(table_of("Stamped", ("directory", "vectors", "licensee", ">applied", ">s", ""), rows))
    told = [
        [
            PurePath(stamp["out"]).name,
            role.replace("_", " "),
            rounding["tensors"],
            f"{rounding['applied_ratio']:.4f}",
            f"{rounding['cosine']:.5f}",
        ]
        for stamp in document
        for role, rounding in stamp.get("roles", {}).items()
    ]
    if told:
        columns = ("model", "role", ">tensors", ">applied / wanted", ">cosine")
        console.print(table_of("What rounding left of the vectors", columns, told))
    render_bullets(
        console, "Notes", list(dict.fromkeys(note for stamp in document for note in stamp.get("warnings", [])))
    )


def render_jobs(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List jobs, oldest first."""
    rows = [
        [
            short(job["id"]),
            job["kind"],
            Text(job["state"], style=COLOURS.get(job["state"], "")),
            job["started_at"][:19],
            (job["ended_at"] or "–")[:19],
            _line(job["detail"]),
        ]
        for job in document
    ]
    render_list(console, "Jobs", ("id", "kind", "state", "begun (UTC)", "ended", "what"), rows, empty="no job yet")


def render_plugins(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List plugins, and why those that failed did."""
    rows = [
        [
            plugin["name"],
            plugin["kind"],
            f"{plugin['distribution']} {plugin['version']}",
            Text(plugin["state"], style=COLOURS.get(plugin["state"], "")),
        ]
        for plugin in document
    ]
    console.print(table_of("Plugins", ("name", "kind", "distribution", "state"), rows))
    render_bullets(
        console, "Problems", [f"{plugin['name']}: {plugin['problem']}" for plugin in document if plugin["problem"]]
    )


def render_findings(document: Mapping[str, Any], console: Console) -> None:
    """Show what works here, with the mend for each thing that does not."""
    rows = []
    for finding in document["findings"]:
        detail = Text(finding["detail"])
        if finding["mend"]:
            detail.append(f"\n→ {finding['mend']}", style="bold")
        rows.append([finding["subject"], Text(finding["state"], style=COLOURS.get(finding["state"], "")), detail])
    console.print(table_of("What works here", ("subject", "state", "detail"), rows))
    console.print("Everything that is needed works." if document["healthy"] else "Something that is needed is broken.")


def render_ledger(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show ledger entries, oldest first."""
    rows = [
        [entry["serial"], entry["at"][:19], entry["event"], short(entry["subject"]), entry["digest"][:12]]
        for entry in document
    ]
    render_list(
        console, "Ledger", (">#", "when (UTC)", "event", "subject", "digest"), rows, empty="the ledger is empty"
    )


def render_fields(document: Mapping[str, Any], console: Console) -> None:
    """Show a flat document as names and values; notes come last."""
    shown = [(name.replace("_", " "), _value(value)) for name, value in document.items() if name != "warnings"]
    console.print(_pairs(shown))
    render_bullets(console, "Notes", document.get("warnings") or [])


def table_of(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table; a column name that begins with ">" is set flush right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            Text(column.removeprefix(">")), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(item if isinstance(item, Text) else Text(str(item)) for item in row))
    return table


def render_list(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str
) -> None:
    """Show a table, or a sentence where there are no rows; a column name that begins with ">" is set flush right."""
    console.print(table_of(title, columns, rows) if rows else Text(empty))


def _pairs(pairs: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name, style="dim"), Text(value))
    return grid


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _section(console: Console, title: str, paragraphs: Sequence[str]) -> None:
    _heading(console, title)
    for paragraph in paragraphs:
        console.print(Padding(Text(paragraph), (0, 0, 0, 2)))


def render_pairs(console: Console, title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Show a heading, and names and values under it."""
    _heading(console, title)
    console.print(Padding(_pairs(pairs), (0, 0, 0, 2)))


def render_bullets(console: Console, title: str, lines: Sequence[str]) -> None:
    """Show a heading and sentences under it; nothing where there are none."""
    if not lines:
        return
    _heading(console, title)
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(Text("•"), Text(line))
    console.print(Padding(grid, (0, 0, 0, 2)))


def verdict_text(verdict: str) -> Text:
    """Return a verdict or state in its colour."""
    return Text(verdict, style=f"bold {COLOURS.get(verdict, '')}".strip())


def short(identifier: str) -> str:
    """Return the beginning of an id, long enough to be typed as a reference."""
    return identifier if len(identifier) <= 19 else identifier[:12]


def _value(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return _line(value)
    if isinstance(value, (list, tuple)):
        return "\n".join(_value(item) for item in value) or "–"
    return str(value)


def _line(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_value(item)}" for name, item in value.items())
