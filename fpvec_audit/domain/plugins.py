"""What is recorded of a plugin, and the light structural check that everything plugged in goes through."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any, get_type_hints

from fpvec_audit.domain.keys import SCHEMES
from fpvec_audit.domain.ports import ModelDescription

ARCHITECTURE, ATTACK, METHOD, PLUGIN = "architecture", "attack", "method", "plugin"
"""Kinds of :class:`PluginInfo`."""

_ADAPTER_METHODS = ("supports", "role", "canonical", "tied", "prompt")


class PluginState(StrEnum):
    """``working``; ``failed`` by its own fault; ``clash`` when another plugin claims the same name."""

    WORKING = "working"
    FAILED = "failed"
    CLASH = "clash"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One adapter, attack or method, or a plugin that gave none because it failed.

    Attributes:
        name: its name; the entry point's name for a plugin that failed.
        kind: ``architecture``, ``attack``, ``method``, or ``plugin`` for one that failed.
        distribution: which installed package it comes from.
        version: version of that package.
        state: whether it can be used.
        problem: why it cannot; empty when it can.
    """

    name: str
    kind: str
    distribution: str
    version: str
    state: PluginState = PluginState.WORKING
    problem: str = ""

    @property
    def owner(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}".strip()

    def to_json(self) -> dict[str, str]:
        """Return the JSON object of the command-line contract."""
        return {
            "name": self.name,
            "kind": self.kind,
            "distribution": self.distribution,
            "version": self.version,
            "state": self.state.value,
            "problem": self.problem,
        }


def contribution_problem(kind: str, value: Any) -> str:
    """Say what is structurally wrong with an adapter, attack or method; empty when nothing is.

    Light: looks at names and shapes and asks an adapter about an empty configuration, nothing more.
    """
    if isinstance(value, type):
        return "a class, not an object; return an instance of it"
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
        return f"its name is {name!r}, which is no lower-case identifier"
    return {ARCHITECTURE: _adapter_problem, METHOD: _method_problem, ATTACK: _attack_problem}[kind](value)


def _adapter_problem(value: Any) -> str:
    missing = [method for method in _ADAPTER_METHODS if not callable(getattr(value, method, None))]
    if missing:
        return f"it lacks {', '.join(missing)}"
    if not isinstance(getattr(value, "chat_template", None), str):
        return "its chat_template is no text"
    if not isinstance(getattr(value, "defaults", None), Sequence):
        return "its defaults are no sequence"
    rank = value.supports(ModelDescription(config={}))
    if not isinstance(rank, int):
        return f"supports returned {type(rank).__name__}, not a number"
    return "it supports an empty configuration, so it would claim every checkpoint" if rank > 0 else ""


def _attack_problem(value: Any) -> str:
    weights = callable(getattr(value, "apply", None))
    queries = [callable(getattr(value, method, None)) for method in ("probes", "wrap")]
    if weights == all(queries):
        return "it has both apply and probes/wrap" if weights else "it lacks apply, or probes and wrap"
    return _described_problem(value)


def _method_problem(value: Any) -> str:
    if not callable(getattr(value, "embed", None)):
        return "it lacks embed"
    if not isinstance(getattr(value, "source", None), str):
        return "its source is no text"
    schemes = getattr(value, "schemes", None)
    if isinstance(schemes, str) or not isinstance(schemes, Sequence) or not schemes:
        return "its schemes are no sequence of names"
    if unknown := [scheme for scheme in schemes if scheme not in SCHEMES]:
        return f"its scheme {unknown[0]!r} is unknown; there are {', '.join(SCHEMES)}"
    return _described_problem(value)


def _described_problem(value: Any) -> str:
    if not isinstance(getattr(value, "description", None), str):
        return "its description is no text"
    parameters = getattr(value, "Parameters", None)
    if not isinstance(parameters, type) or not is_dataclass(parameters):
        return "its Parameters are no dataclass"
    get_type_hints(parameters)  # raises where an annotation names what is not there when the command line is read
    bare = [field.name for field in fields(parameters) if field.default is MISSING and field.default_factory is MISSING]
    return f"its parameters {', '.join(bare)} have no default" if bare else ""
