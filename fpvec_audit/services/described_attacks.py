"""Use case: list the attacks with their parameters."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_type_hints

from fpvec_audit.domain.attack_matrix import QUERY, WEIGHT
from fpvec_audit.domain.attack_spec import parameter_default, parameter_type, plain
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.domain.ports import WeightAttack

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog


@dataclass(frozen=True, slots=True)
class AttackDescription:
    """An attack as it is listed.

    Attributes:
        name: name.
        kind: ``weight`` or ``query``.
        description: what an infringer does.
        parameters: (name, type, default) as shown and as JSON.
        distribution: which installed package it comes from.
        version: version of that package.
    """

    name: str
    kind: str
    description: str
    parameters: tuple[tuple[str, str, Any], ...]
    distribution: str
    version: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "name": self.name,
            "kind": self.kind,
            "description": self.description,
            "parameters": [{"name": name, "type": kind, "default": default} for name, kind, default in self.parameters],
            "distribution": self.distribution,
            "version": self.version,
        }


def describe_attacks(catalog: "Catalog") -> tuple[AttackDescription, ...]:
    """Return every attack with its parameters, by name."""
    described = []
    for name, attack in sorted(catalog.attacks.items()):
        info = catalog.info(ATTACK, name)
        hints = get_type_hints(attack.Parameters)
        parameters = tuple(
            (field.name, parameter_type(hints[field.name]), plain(parameter_default(field)))
            for field in fields(attack.Parameters)
        )
        kind = WEIGHT if isinstance(attack, WeightAttack) else QUERY
        described.append(AttackDescription(name, kind, attack.description, parameters, info.distribution, info.version))
    return tuple(described)
