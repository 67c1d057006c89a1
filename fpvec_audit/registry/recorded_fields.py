"""Which fields of a row the ledger's entries name, so that a row can be compared with them one by one.

Entries of before rows had digests are all there is to compare such a row with; for the others, the fields say *what*
was changed. Entries fold in order: the last one that names a field counts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.merkle import merkle_root
from fpvec_audit.registry.row_digests import Row, time_text

EVENTS = frozenset(
    {
        "licensee.added",
        "model.registered",
        "model.completed",
        "key_set.committed",
        "key_set.issued",
        "key_set.bound",
        "key_set.burnt",
        "vector.extracted",
        "stamp.made",
        "stamp.repeated",
        "audit.planned",
        "audit.begun",
        "audit.finished",
        "attack.run",
    }
)
"""Events that told of a row before entries said its digest."""
_TOLD = EVENTS | {"code.chosen", "code_word.issued", "code_word.retired"}
"""Events whose fields are those of a row."""

_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "licensee": {"name": "name"},
    "model": {
        "name": "name",
        "role": "role",
        "architecture": "architecture",
        "parent": "parent_id",
        "parameters": "parameters",
    },
    "key_set": {
        "name": "name",
        "owner": "owner",
        "commitment": "commitment_digest",
        "root": "root",
        "grade": "grade",
        "chance": "chance",
        "base": "base_id",
    },
    "code": {
        "key_set": "key_set_id",
        "code": "text",
        "colluders": "colluders",
        "epsilon": "epsilon",
        "binding": "binding",
    },
    "code_word": {"code": "code_id", "number": "number", "commitment": "commitment", "state": "state"},
    "vector": {
        "digest": "digest",
        "family": "family_id",
        "mark": "mark",
        "key_set": "vector_family_key_set_id",
        "base": "vector_family_base_id",
        "fingerprinted": "fingerprinted_id",
        "inexact_elements": "inexact_elements",
        "norm": "norm",
    },
    "stamp": {
        "downstream": "downstream_id",
        "stamped": "stamped_id",
        "location": "location",
        "applied_ratio": "applied_ratio",
        "cosine": "cosine",
        "policies": "policies",
    },
    "audit": {
        "key_set": "key_set_id",
        "plan": "plan_digest",
        "suspect": "suspect",
        "suspect_digest": "suspect_digest",
        "verdict": "verdict",
    },
    "attack_run": {
        "stamped": "stamped_id",
        "key_set": "key_set_id",
        "attack": "attack",
        "parameters": "parameters",
        "state": "state",
    },
}
"""By kind: what entries call a field → the column it is kept in."""


def contradictions(kind: str, contents: Sequence[Mapping[str, Any]], row: Row) -> list[str]:
    """Return where a row is not what the entries about it say, in sentences.

    Args:
        kind: table of the row.
        contents: of all entries about it, in order, each with its ``event``.
        row: as it lies there now.
    """
    said: dict[str, Any] = {}
    for content in contents:
        said |= _named(content)
    found = [
        _sentence(column, row.columns.get(column), said[name])
        for name, column in _COLUMNS.get(kind, {}).items()
        if name in said and row.columns.get(column) != said[name]
    ]
    return [*found, *_MORE.get(kind, _nothing_more)(contents, said, row)]


def _named(content: Mapping[str, Any]) -> dict[str, Any]:
    if content["event"] not in _TOLD or content["event"] == "key_set.burnt":
        return {}
    if content["event"] == "key_set.bound":  # the rest is about the training
        return {"base": content.get("base"), "root": content.get("root")}
    return {name: value for name, value in content.items() if name != "event"}


def _sentence(what: str, found: Any, said: Any) -> str:
    return f"{what} is {_brief(found)}, the ledger says {_brief(said)}"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _nothing_more(_: Sequence[Mapping[str, Any]], __: Mapping[str, Any], ___: Row) -> Iterator[str]:
    return iter(())


def _licensee(said: Mapping[str, Any], row: Row) -> Iterator[str]:
    if "licensee" not in said:
        return
    name = said["licensee"]
    wanted = f"li-{canonical_digest([name])[:16]}" if name else None
    if row.columns["licensee_id"] != wanted:
        yield f"it is for {_brief(row.columns['licensee_id'])}, the ledger says {_brief(name)} ({wanted})"


def _key_set(contents: Sequence[Mapping[str, Any]], said: Mapping[str, Any], row: Row) -> Iterator[str]:
    yield from _licensee(said, row)
    if "created_at" in said and row.columns["created_at"] != time_text(datetime.fromisoformat(said["created_at"])):
        yield _sentence("created_at", row.columns["created_at"], said["created_at"])
    commitment = row.columns["commitment"]
    if canonical_digest(commitment) != row.columns["commitment_digest"]:
        yield "its commitment is not the one that was issued"
    candidates = row.parts["candidate"]
    if any(content["event"] == "key_set.issued" for content in contents):
        if len(candidates) != said.get("candidates") or not _under_root(candidates, said.get("root")):
            yield "its candidates are not those that were committed"
        if sum(mark is not None for _, mark, *_ in candidates) != said.get("issued"):
            yield f"it does not have the {said.get('issued')} issued candidates that the ledger says"
        if [number for (number,) in row.parts["mark"]] != list(range(said.get("marks", 0))):
            yield f"it does not have the {said.get('marks')} marks that the ledger says"
    elif candidates:
        yield "it has candidates, but the ledger does not say that it was issued"
    burnt = {
        (place, content.get("where"))
        for content in contents
        if content["event"] == "key_set.burnt"
        for place in content.get("candidates", ())
    }
    now = {(place, where) for place, _, _, at, where in candidates if at is not None or where is not None}
    if burnt != now:
        yield f"candidates {sorted({place for place, _ in burnt ^ now})[:10]} are not burnt as the ledger says"


def _under_root(candidates: Sequence[Sequence[Any]], root: Any) -> bool:
    if [candidate[0] for candidate in candidates] != list(range(len(candidates))) or not candidates:
        return False
    try:
        return bool(merkle_root([bytes.fromhex(candidate[2]) for candidate in candidates]).hex() == root)
    except (ValueError, TypeError):
        return False


def _word(_: Sequence[Mapping[str, Any]], said: Mapping[str, Any], row: Row) -> Iterator[str]:
    yield from _licensee(said, row)


def _stamp(_: Sequence[Mapping[str, Any]], said: Mapping[str, Any], row: Row) -> Iterator[str]:
    yield from _licensee(said, row)
    vectors = [[vector, scale] for _, vector, scale in row.parts["stamp_vector"]]
    if "vectors" in said and vectors != said["vectors"]:
        yield f"its vectors are {_brief(vectors)}, the ledger says {_brief(said['vectors'])}"


def _audit(contents: Sequence[Mapping[str, Any]], said: Mapping[str, Any], row: Row) -> Iterator[str]:
    events = {content["event"] for content in contents}
    begin, result = row.columns["begin"], row.columns["result"]
    if (begin is not None) != ("audit.begun" in events):
        yield f"it {'began' if begin is not None else 'did not begin'}, the ledger says otherwise"
    elif begin is not None and (not isinstance(begin, dict) or begin.get("nonce") != said.get("nonce")):
        yield "its nonce is not the one that the ledger says"
    finished = "audit.finished" in events
    if (row.columns["ended_at"] is not None) != finished:
        yield f"it {'did not end' if finished else 'ended'}, the ledger says otherwise"
        return
    if not finished:
        if row.columns["verdict"]:
            yield f"its verdict is {_brief(row.columns['verdict'])}, the ledger says that it did not end"
        return
    if canonical_digest(result) != said.get("result"):
        yield "its result is not the one that the ledger says"
    records = row.parts.get("audit_record", ())
    if "records" in said and said.get("transcript"):
        whole = [record[0] for record in records] == list(range(1, said["records"] + 1))
        if not whole or records[-1][1] != said["transcript"]:
            yield f"its transcript is not the one of {said['records']} records that the ledger says"


def _attack_run(_: Sequence[Mapping[str, Any]], said: Mapping[str, Any], row: Row) -> Iterator[str]:
    if "result" in said and canonical_digest(row.columns["result"]) != said["result"]:
        yield "its result is not the one that the ledger says"


_More = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any], Row], Iterator[str]]
_MORE: Mapping[str, _More] = {
    "key_set": _key_set,
    "code_word": _word,
    "stamp": _stamp,
    "audit": _audit,
    "attack_run": _attack_run,
}
