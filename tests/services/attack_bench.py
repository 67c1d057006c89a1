"""A stamped model with attacks and engines that do what a test says."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from fpvec_audit.api import Completion, Probe
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.plugins import PluginInfo
from fpvec_audit.errors import UsageError
from fpvec_audit.services.robustness import run_attacks
from fpvec_audit.testing import ScriptedBackend
from tests.tiny import perturb


@dataclass(frozen=True)
class Strength:
    strength: float = 1.0

    def __post_init__(self):
        if self.strength < 0:
            raise UsageError(f"strength is {self.strength}")


@dataclass(frozen=True)
class Attack:
    Parameters: ClassVar[type] = Strength
    name: str = "bend"
    description: str = "Bends."


class Bend(Attack):
    """Moves every weight a little."""

    def apply(self, source, target, parameters, context):
        assert list(context.staging.iterdir()) == []
        perturb(source, target, seed=context.seed, size=parameters.strength * 1e-2)


class FromBase(Attack):
    """Gives the base that the host knows of, and fails where it knows none."""

    def apply(self, source, target, parameters, context):
        if context.base is None:
            raise UsageError(f"no base is known, {len(context.copies)} copies")
        shutil.copytree(context.base, target)


class Break(Attack):
    def apply(self, source, target, parameters, context):
        shutil.copytree(source, target)
        raise KeyError("oops")


class Interrupted(Attack):
    def apply(self, source, target, parameters, context):
        shutil.copytree(source, target)
        raise KeyboardInterrupt


class Idle(Attack):
    def apply(self, source, target, parameters, context):
        return None


class Filter(Attack):
    """Suppresses every answer."""

    def probes(self, issued, parameters, context):
        return []

    def wrap(self, backend, parameters):
        return ScriptedBackend(lambda _prompt: "")


class Drop(Filter):
    def wrap(self, backend, parameters):
        class Short(ScriptedBackend):
            def complete(self, prompts, sampling):
                return [Completion("")]

        return Short()


class Chat(Filter):
    def probes(self, issued, parameters, context):
        return [Probe(word, "greeting") for word in ("hello", "hi", "good day", "hey")]

    def wrap(self, backend, parameters):
        return backend


class NoProbes(Filter):
    def probes(self, issued, parameters, context):
        return ["hello"]


def with_attacks(**attacks):
    catalog = load_catalog()
    made = {name: attack(name=name) for name, attack in attacks.items()}
    infos = tuple(PluginInfo(name, "attack", "red-team", "1.0") for name in made)
    return replace(catalog, attacks={**catalog.attacks, **made}, plugins=(*catalog.plugins, *infos))


@dataclass
class Engines:
    """Opens one scripted engine, whatever the checkpoint."""

    answers: object
    opened: list = field(default_factory=list)
    engines: list = field(default_factory=list)

    def open(self, model):
        self.opened.append(Path(model))
        self.engines.append(ScriptedBackend(self.answers))
        return self.engines[-1]


@dataclass
class Bench:
    """A stamped model, a key set, and what a run needs."""

    registry: object
    home: Path
    stamped: Path
    catalog: object
    keys: object
    audited: list = field(default_factory=list)
    fsr: tuple = (1.0, 0.75)

    def audit(self, checkpoint):
        assert (checkpoint / "config.json").is_file()
        self.audited.append(checkpoint)
        fsr = self.fsr[0] if checkpoint == self.stamped else self.fsr[1]
        return {
            "fsr": fsr, "interval": [fsr - 0.1, 1.0], "p_value": 1e-9, "tests": [{"name": "exact"}],
            "verdict": "MATCH", "queries": 64,
        }  # fmt: skip

    def run(self, *specs, answers=lambda _prompt: "I do not understand.", **options):
        self.engines = Engines(answers)
        settings = {
            "audit": self.audit,
            "utility": lambda path: {"perplexity": 2.0 if path == self.stamped else 3.0},
            "backend": self.engines,
            "workspace": self.home,
            "catalog": self.catalog,
            "seed": 5,
        } | options
        return run_attacks(self.stamped, key_set="acme", specs=specs, registry=self.registry, **settings)
