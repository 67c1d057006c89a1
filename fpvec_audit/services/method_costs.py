"""Use case: what embedding cost by each method, as recorded, and from how many models on a method is the cheaper one.

Only what can be compared is put together: models of one architecture and size, embedded on one kind of device.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.cost import QUANTITIES, Cost, MethodCost, crossover, mean_cost
from fpvec_audit.services.methods import EMBEDDED

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

EXTRAPOLATION = (
    "what more models cost than were measured is extrapolated: the cost of the work done once, plus that of one model "
    "times their number"
)


@dataclass(frozen=True, slots=True)
class ComparedCosts:
    """Costs of methods on models that are alike.

    Attributes:
        architecture: adapter name.
        parameters: number of parameters of each model.
        device: torch device.
        methods: what each method cost.
    """

    architecture: str
    parameters: int
    device: str
    methods: tuple[MethodCost, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "architecture": self.architecture,
            "parameters": self.parameters,
            "device": self.device,
            "methods": [method.to_json() for method in self.methods],
            "crossovers": [
                {
                    "method": method.method,
                    "against": other.method,
                    **{quantity: crossover(method, other, quantity=quantity) for quantity in QUANTITIES},
                }
                for method in self.methods
                for other in self.methods
                if method is not other
            ],
            "note": EXTRAPOLATION,
        }


def compare_costs(*, registry: "Registry", key_sets: Sequence[str] = ()) -> tuple[ComparedCosts, ...]:
    """Return what the embeddings that the ledger records cost, by architecture, size and device.

    Args:
        registry: whose history.
        key_sets: names or ids of the key sets to look at; all when empty.

    Raises:
        UsageError: there is no such key set.
    """
    from fpvec_audit.registry.ledger import Choice

    with registry.snapshot() as uow:
        wanted = {uow.key_sets.find(reference).id for reference in key_sets}
        entries = [entry.content for entry in uow.ledger.entries(chosen=Choice((EMBEDDED,)))]
    groups: dict[tuple[str, int, str], dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for content in entries:
        if not wanted or content["key_set"] in wanted:
            place = (content["architecture"], content["model_parameters"], content["device"])
            groups[place][_label(content)].append(content["cost"])
    return tuple(
        ComparedCosts(*place, tuple(_method_cost(label, costs) for label, costs in sorted(methods.items())))
        for place, methods in sorted(groups.items())
    )


def _label(content: Mapping[str, Any]) -> str:
    """Return a method's name, with those parameters that are set."""
    given = {name: value for name, value in content["parameters"].items() if value is not None}
    shown = ",".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in sorted(given.items())
    )
    return f"{content['method']}:{shown}" if shown else str(content["method"])


def _method_cost(label: str, costs: Sequence[Mapping[str, Any]]) -> MethodCost:
    shared = [cost for cost in costs if cost["once"] is not None]
    made = [cost for cost in shared if not cost["once_reused"]] or shared
    once = mean_cost([_cost(cost["once"]) for cost in made]) if made else Cost()
    return MethodCost(label, once, mean_cost([_cost(cost["each"]) for cost in costs]), len(costs))


def _cost(content: Mapping[str, Any]) -> Cost:
    return Cost(
        float(content["seconds"]),
        float(content["device_seconds"]),
        int(content["peak_memory_bytes"]),
        int(content["peak_device_memory_bytes"]),
    )
