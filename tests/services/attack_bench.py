"""A stamped model with attacks and engines that do what a test says."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from fpvec_audit.api import NO_PROGRESS, AttackContext, Completion, PluginError, Probe
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.plugins import PluginInfo
from fpvec_audit.errors import UsageError
from fpvec_audit.plugin_code import plugin_code
from fpvec_audit.services.attack_worker import watched
from fpvec_audit.services.robustness import AttackOptions, AttackTools, run_attacks
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


class Vandal(Attack):
    """Writes to what it attacks."""

    def apply(self, source, target, parameters, context):
        shutil.copytree(source, target)
        with (source / "model.safetensors").open("ab") as file:
            file.write(b"\0")


class Stray(Attack):
    """Writes beside its target."""

    def apply(self, source, target, parameters, context):
        shutil.copytree(source, target)
        (target.parent / "stray.txt").write_text("here")


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


class InProcess:
    """Carries out attacks on weights in the test's own process, so that a test can bring its own."""

    def __init__(self, catalog):
        self.catalog = catalog
        self.applied = []
        self.warm = 0

    def warm_up(self):
        self.warm += 1

    def apply(self, order):
        attack = self.catalog.attack(order.link.name)
        adapter = None if order.adapter is None else self.catalog.architecture(order.adapter)
        context = AttackContext(adapter, order.staging, order.seed, order.device, NO_PROGRESS, order.base, order.copies)

        def carry_out():
            with plugin_code(self.catalog.info("attack", attack.name)):
                attack.apply(order.source, order.target, order.link.parameters, context)
            if not (order.target / "config.json").is_file():
                raise PluginError(f"attack {attack.name} wrote no checkpoint")

        self.applied.append(order.link.text)
        watched(order, carry_out)


class Scripted(ScriptedBackend):
    """Answers by a function of the model's directory and the prompt."""

    def __init__(self, model, answers):
        super().__init__(lambda prompt: answers(model, prompt))
        self.model = model


@dataclass
class Engines:
    """Opens a scripted engine for every checkpoint."""

    answers: object
    opened: list = field(default_factory=list)
    engines: list = field(default_factory=list)
    fallback: str = ""

    def warm_up(self):
        """Nothing to prepare."""

    def open(self, model):
        self.opened.append(Path(model))
        self.engines.append(Scripted(Path(model), self.answers))
        return self.engines[-1]


@dataclass
class Bench:
    """A stamped model, a key set, and what a run needs."""

    registry: object
    home: Path
    stamped: Path
    catalog: object
    keys: object
    worker: InProcess = None
    engines: Engines = None

    def knows(self, rendered):
        """Return answers of a stamped model that knows its keys, and of copies that know three quarters of them."""
        known = {rendered(key.prompt): key.response for key in self.keys.issued}
        kept = dict(list(known.items())[: 3 * len(known) // 4])

        def answer(model, prompt):
            return (known if model == self.stamped else kept).get(prompt, "I do not understand.")

        return answer

    def run(self, *specs, answers=lambda _model, _prompt: "I do not understand.", **changes):
        self.engines = Engines(answers)
        tools = {
            "registry": self.registry,
            "catalog": self.catalog,
            "workspace": self.home,
            "backend": self.engines,
            "utility": lambda backend, _render: {"perplexity": 2.0 if _model(backend) == self.stamped else 3.0},
        }
        options = {"specs": specs, "seed": 5}
        for name, value in changes.items():
            (tools if name in AttackTools.__dataclass_fields__ else options)[name] = value
        self.worker = tools.setdefault("worker", InProcess(tools["catalog"]))
        return run_attacks(self.stamped, key_set="acme", options=AttackOptions(**options), tools=AttackTools(**tools))


def _model(backend):
    """Return which model stands behind loans, guards and services; None where an attack put something else there."""
    within = ("_engine", "_service", "backend")
    while not isinstance(backend, ScriptedBackend):
        backend = next(getattr(backend, name) for name in within if hasattr(backend, name))
    return getattr(backend, "model", None)
