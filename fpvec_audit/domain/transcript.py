"""Transcripts: every question, answer and score of an audit, kept as it came in a chain of records.

A record holds the digest of the one before it, and the first holds the digest of the plan and of the nonce that came
after the plan. So a transcript belongs to one audit, and a record that is dropped, altered or moved shows. Floats are
decimal text (Python's shortest form), so that the digested bytes mean the same everywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest

ANSWER, LIKELIHOOD, GRADIENT, END = "answer", "likelihood", "gradient", "end"
SHARES, CARRIERS = "shares", "carriers"
"""What was measured of a suspect's weights for a family: shares of its vectors, and carriers of its copies."""
COMPLETE, STOPPED_EARLY, CUT_OFF = "complete", "stopped early", "cut off"
"""Why a transcript ends."""


@dataclass(frozen=True, slots=True)
class Record:
    """One link of a transcript.

    Attributes:
        serial: position from 1, without gaps.
        previous: digest of the record before; of plan and nonce for the first.
        content: what happened, as JSON without floats.
    """

    serial: int
    previous: str
    content: Mapping[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is digested and stored."""
        return {"serial": self.serial, "previous": self.previous, "content": dict(self.content)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Record":
        """Rebuild a record from :meth:`to_json`."""
        return cls(value["serial"], value["previous"], value["content"])

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hex."""
        return canonical_digest(self.to_json())

    @property
    def stored(self) -> bytes:
        """Canonical bytes, as they are kept."""
        return canonical_bytes(self.to_json())


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came, to one candidate's prompt.

    Attributes:
        index: which candidate was asked.
        prompt: text that was sent.
        text: what came back; empty for an error.
        error: why nothing came back; counts as no match.
        position: place among the audit's questions, from 0.
        repeat: how often the candidate had been asked before.
        finish: why the answer ended.
        first: likeliest first tokens with their log-probabilities as decimal text.
    """

    index: int
    prompt: str
    text: str
    error: str = ""
    position: int = 0
    repeat: int = 0
    finish: str = "stop"
    first: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Answer(index={self.index}, <redacted>)"

    def to_json(self) -> dict[str, Any]:
        """Return the content of the answer's record."""
        return {
            "kind": ANSWER,
            "index": self.index,
            "position": self.position,
            "repeat": self.repeat,
            "prompt": self.prompt,
            "answer": self.text,
            "error": self.error,
            "finish": self.finish,
            "first": dict(self.first),
        }


def genesis(plan_digest: str, nonce: str) -> str:
    """Return what the first record refers to: the digest of plan and nonce."""
    return canonical_digest({"plan": plan_digest, "nonce": nonce})


def chained(contents: Iterable[Mapping[str, Any]], *, previous: str, serial: int = 0) -> tuple[Record, ...]:
    """Link contents to a chain.

    Args:
        contents: in the order in which they arrived.
        previous: digest of the last record there is, or the genesis.
        serial: its serial, 0 for the genesis.
    """
    records: list[Record] = []
    for content in contents:
        serial += 1
        record = Record(serial, previous, content)
        previous = record.digest
        records.append(record)
    return tuple(records)


def first_misfit(records: Sequence[Record], *, start: str) -> int | None:
    """Return the serial of the first record that does not continue the chain, None when all do."""
    previous = start
    for serial, record in enumerate(records, start=1):
        if record.serial != serial or record.previous != previous:
            return serial
        previous = record.digest
    return None


def head(records: Sequence[Record], *, start: str) -> str:
    """Return the digest of the last record, or the genesis of an empty transcript."""
    return records[-1].digest if records else start


def answers(records: Iterable[Record]) -> tuple[Answer, ...]:
    """Return the answers of a transcript in the order in which they arrived."""
    return tuple(
        Answer(
            index=content["index"],
            prompt=content["prompt"],
            text=content["answer"],
            error=content["error"],
            position=content["position"],
            repeat=content["repeat"],
            finish=content["finish"],
            first=content["first"],
        )
        for content in (record.content for record in records)
        if content["kind"] == ANSWER
    )


def likelihood_scores(records: Iterable[Record], *, with_base: bool) -> dict[int, Fraction | None]:
    """Return per candidate the suspect's log-likelihood of its response, minus the base's where that was asked for.

    None where a value is missing.
    """
    scores: dict[int, Fraction | None] = {}
    for content in (record.content for record in records if record.content["kind"] == LIKELIHOOD):
        suspect, base = decimal(content["suspect"]), decimal(content["base"])
        if with_base:
            scores[content["index"]] = None if suspect is None or base is None else suspect - base
        else:
            scores[content["index"]] = suspect
    return scores


def gradient_scores(records: Iterable[Record], *, vocabulary: bool = False) -> dict[int, Fraction | None]:
    """Return per candidate how far the suspect's weights moved towards its response; None where that is unknown.

    Args:
        records: the transcript.
        vocabulary: whether embedding and head alone are looked at, or all weights.
    """
    name = "vocabulary" if vocabulary else "score"
    contents = (record.content for record in records if record.content["kind"] == GRADIENT)
    return {content["index"]: decimal(content[name]) for content in contents}


def mark_shares(records: Iterable[Record]) -> dict[int, float]:
    """Return λ̂ by mark, of the marks whose vectors were compared with the suspect's weights; empty without a record."""
    told = (record.content["shares"] for record in records if record.content["kind"] == SHARES)
    return {int(mark): float(share) for shares in told for mark, share in shares.items() if share}


def decimal(text: str) -> Fraction | None:
    """Return a number written as decimal text exactly, None for an empty text."""
    return Fraction(text) if text else None


def decimal_text(value: float | None) -> str:
    """Return the shortest decimal text of a number; empty for None, NaN and infinities."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return ""
    return repr(float(value))
