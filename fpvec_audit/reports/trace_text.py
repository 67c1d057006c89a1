"""The words of a trace, apart from how they are laid out."""

from collections.abc import Mapping
from typing import Any

SENTENCES = {
    "MATCH": "The suspect knows the keys of {named}.",
    "NO_MATCH": "None of the key sets was found in the suspect.",
    "INCONCLUSIVE": "This trace can neither name anybody nor rule out all.",
}
MEANINGS = {
    "MATCH": (
        "Chance settled which candidates are keys, and the suspect's answers tell the keys of those who are named from "
        "decoys. So it had contact with those keys, or stems from a copy that carries them. Who passed it on is not "
        "shown."
    ),
    "NO_MATCH": (
        "Nobody is named. For every key set: had the suspect answered a quarter or more of its keys, this trace would "
        "have seen more answers, with 95 % confidence, and a model that carries a fingerprint does answer."
    ),
    "INCONCLUSIVE": (
        "The answers are too few to name anybody at this level, and not all conditions for saying that nothing is "
        "there are met. The notes under Limits say what is missing."
    ),
}


def identifiers(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what identifies the suspect and the trace."""
    suspect = document["suspect"]
    return [
        ("suspect", str(suspect["location"])),
        ("weights" if suspect["kind"] == "directory" else "address", str(suspect["digest"])),
        ("trace", str(document["trace_id"])),
    ]
