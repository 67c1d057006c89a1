"""The matrix of an attack run: which cells there are, which of them share an attacked copy, and how long it will take.

A chain has a weight part, which makes a copy, and a query part, which changes how that copy is asked. Cells of one
weight part are carried out on one copy and through one engine, so the costly things – a copy, an engine – are had once.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.domain.attack_spec import AttackChain, AttackLink

WEIGHT, QUERY = "weight", "query"


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One cell to carry out.

    Attributes:
        number: from 1, in the order asked for.
        chain: what it carries out.
        weights: its attacks on the weights, in order.
        queries: its attacks on serving or asking, in order.
    """

    number: int
    chain: AttackChain
    weights: tuple[AttackLink, ...]
    queries: tuple[AttackLink, ...]

    @property
    def kind(self) -> str:
        """``weight``, ``query`` or ``weight+query``."""
        return "+".join([*([WEIGHT] if self.weights else []), *([QUERY] if self.queries else [])])

    @property
    def identity(self) -> str:
        """What makes it this cell and no other: attacks and parameters, as canonical text."""
        return links_text(self.chain.links)


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One attacked copy, or the stamped model itself where there is no link, and the cells that want it.

    Attributes:
        links: the attacks that make it, in order.
        cells: the cells, in the order asked for.
    """

    links: tuple[AttackLink, ...]
    cells: tuple[PlannedCell, ...]


def arrange(chains: Iterable[AttackChain], attacks_weights: Callable[[str], bool]) -> tuple[PlannedCell, ...]:
    """Return the cells of chains; what is asked for twice is one cell.

    Args:
        chains: in the order asked for.
        attacks_weights: name of an attack → whether it makes a copy.
    """
    distinct = {links_text(chain.links): chain for chain in chains}
    return tuple(
        PlannedCell(
            number,
            chain,
            tuple(link for link in chain.links if attacks_weights(link.name)),
            tuple(link for link in chain.links if not attacks_weights(link.name)),
        )
        for number, chain in enumerate(distinct.values(), start=1)
    )


def weight_sets(cells: Sequence[PlannedCell]) -> tuple[WeightSet, ...]:
    """Group cells by the copy that they want; the stamped model itself first, the others as they first appear."""
    grouped: dict[str, list[PlannedCell]] = {}
    for cell in sorted(cells, key=lambda cell: bool(cell.weights)):
        grouped.setdefault(links_text(cell.weights), []).append(cell)
    return tuple(WeightSet(members[0].weights, tuple(members)) for members in grouped.values())


def plan_digest(cells: Sequence[PlannedCell], settings: Mapping[str, Any]) -> str:
    """Return what a run must have in common with another to be the same one, interrupted: SHA-256, hex.

    Args:
        cells: what is carried out.
        settings: everything else that decides the results, as JSON.
    """
    document = {"cells": [cell.identity for cell in cells], "settings": dict(settings)}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def seconds_left(finished: Sequence[tuple[str, str, float]], left: Sequence[tuple[str, str]]) -> float | None:
    """Estimate how long the cells that are left will take; None while there is too little to go by.

    A cell takes as long as those of its own name took on the mean, else as those of its kind did.

    Args:
        finished: (name, kind, seconds) of every cell that was carried out.
        left: (name, kind) of the cells to come.
    """
    taken: dict[str, list[float]] = {}
    for name, kind, seconds in finished:
        taken.setdefault(name, []).append(seconds)
        taken.setdefault(f"kind {kind}", []).append(seconds)
    means = {group: sum(times) / len(times) for group, times in taken.items()}
    estimates = [means.get(name, means.get(f"kind {kind}")) for name, kind in left]
    known = [estimate for estimate in estimates if estimate is not None]
    return sum(known) if finished and len(known) == len(left) else None


def links_text(links: Sequence[AttackLink]) -> str:
    """Return attacks with their parameters as canonical text."""
    return json.dumps([[link.name, link.to_json()] for link in links], sort_keys=True)
