"""The words of a reading of carriers, apart from how they are laid out."""

from collections.abc import Mapping
from typing import Any

OWN = "(your own)"


def carriers_sentence(document: Mapping[str, Any]) -> str:
    """Return what was found, in a sentence."""
    named = [finding["licensee"] for finding in document["named"]]
    if named:
        return f"The weights hold the carrier of {' and of '.join(named)}."
    if document["owner"]["present"]:
        return "The weights hold your own carrier, and no licensee's that can be told: copies may have been averaged."
    return "No carrier was found."


def how_read(document: Mapping[str, Any]) -> list[str]:
    """Return with what the suspect was compared, and how, in sentences."""
    reference = document["reference"]
    model = f" {reference['model'][:16]}" if reference["model"] else ""
    lines = [
        f"compared with the {reference['role']}{model} at {reference['path']}",
        f"{document['elements']:,} of {document['shared_elements']:,} weights, {document['seconds']:.1f} s",
        f"{document['candidates']} licensees at once, Holm's correction at α = {document['alpha']:g}; every p times "
        f"{document['grinding_allowance']:.1e}, since you alone chose the secret",
        f"committed to in the ledger at {document['committed_at'][:19]}",
    ]
    if document["largest_z_of_others"] is not None:
        lines.append(f"largest z of the others: {document['largest_z_of_others']:.1f}")
    return lines


def findings_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the owner's own finding and then the licensees', the strongest first, as far as they are told."""
    own = {"licensee": OWN, **{name: value for name, value in document["owner"].items() if value is not None}}
    return [own, *(document.get("ranked") or document["named"])]
