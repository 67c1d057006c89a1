"""Which plugins there are: found, imported, checked and called one by one, then frozen.

pluggy as it comes lets one faulty plugin take all others down: an entry point that fails to import aborts the loading,
one raising implementation aborts the call, and a misspelt hook is silent. So every entry point gets a plugin manager of
its own here, and a fault is recorded as that plugin's state and hits no other. Light: no adapter or attack needs torch
to be looked at.

The built-ins use the same entry-point group as everyone else; all they have ahead is that a stranger cannot take their
name.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any

import pluggy

from fpvec_audit import hookspecs
from fpvec_audit.domain.plugins import (
    ARCHITECTURE,
    ATTACK,
    METHOD,
    PLUGIN,
    PluginInfo,
    PluginState,
    contribution_problem,
)
from fpvec_audit.domain.ports import (
    ArchitectureAdapter,
    FingerprintMethod,
    ModelDescription,
    QueryAttack,
    WeightAttack,
)
from fpvec_audit.errors import (
    AmbiguousNameError,
    ArchitectureError,
    PluginError,
    UnknownNameError,
    UsageError,
)
from fpvec_audit.plugin_code import OWN_DISTRIBUTION, GuardedAdapter, shown
from fpvec_audit.plugin_points import announced_plugins, owner

LISTING = "fpvec plugin list"
LISTINGS = {ATTACK: "fpvec attack list", METHOD: "fpvec method list"}
"""Kind → command that lists it, where that is not the plugins' own."""
HOOKS = {"fpvec_architectures": ARCHITECTURE, "fpvec_attacks": ATTACK, "fpvec_methods": METHOD}
"""Hook → kind of what it gives."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every plugin that works, and a record of those that do not.

    Attributes:
        architectures: name → adapter.
        attacks: name → attack.
        methods: name → fingerprinting method.
        plugins: all of them in a stable order, failed and clashing ones too.
    """

    architectures: Mapping[str, ArchitectureAdapter]
    attacks: Mapping[str, WeightAttack | QueryAttack]
    methods: Mapping[str, FingerprintMethod]
    plugins: tuple[PluginInfo, ...]

    def architecture(self, name: str) -> ArchitectureAdapter:
        """Return an adapter by name.

        Raises:
            UnknownNameError: there is none; the nearest are suggested.
            AmbiguousNameError: two distributions claim the name.
            UsageError: the plugin of that name failed.
        """
        if name not in self.architectures:
            raise self._absent(ARCHITECTURE, name, self.architectures)
        return self.architectures[name]

    def attack(self, name: str) -> WeightAttack | QueryAttack:
        """Return an attack by name.

        Raises:
            UnknownNameError: there is none; the nearest are suggested.
            AmbiguousNameError: two distributions claim the name.
            UsageError: the plugin of that name failed.
        """
        if name not in self.attacks:
            raise self._absent(ATTACK, name, self.attacks)
        return self.attacks[name]

    def method(self, name: str) -> FingerprintMethod:
        """Return a fingerprinting method by name.

        Raises:
            UnknownNameError: there is none; the nearest are suggested.
            AmbiguousNameError: two distributions claim the name.
            UsageError: the plugin of that name failed.
        """
        if name not in self.methods:
            raise self._absent(METHOD, name, self.methods)
        return self.methods[name]

    def architecture_for(self, description: ModelDescription, *, override: str | None = None) -> ArchitectureAdapter:
        """Return the adapter of a checkpoint: the one that fits it most specifically.

        Args:
            description: what the checkpoint says of itself.
            override: name of the adapter to use whatever the checkpoint says.

        Raises:
            UnknownNameError: ``override`` names no adapter.
            ArchitectureError: no adapter fits, or two fit alike.
        """
        if override is not None:
            return self.architecture(override)
        ranks, faults = self._ranks(description)
        best = max(ranks.values(), default=0)
        fitting = sorted(name for name, rank in ranks.items() if rank == best and best > 0)
        if len(fitting) == 1:
            return self.architectures[fitting[0]]
        where = description.name or "checkpoint"
        if fitting:
            owners = " and ".join(f"{name} ({self.info(ARCHITECTURE, name).owner})" for name in fitting)
            raise ArchitectureError(
                f"{where}: the adapters {owners} fit alike",
                advice=f"choose one with --architecture {' or --architecture '.join(fitting)}",
            )
        raise ArchitectureError(
            f"{where}: no adapter for {_architecture_found(description.config)}{faults}",
            advice=f"known: {', '.join(sorted(self.architectures)) or 'none'}; name one with --architecture if its "
            f"tensors are alike, or install a plugin (`{LISTING}`)",
        )

    def info(self, kind: str, name: str) -> PluginInfo:
        """Return who gave a working adapter, attack or method."""
        return next(
            plugin
            for plugin in self.plugins
            if (plugin.kind, plugin.name, plugin.state) == (kind, name, PluginState.WORKING)
        )

    def versions(self) -> Mapping[str, str]:
        """Return "kind name" → "distribution version" of every plugin that works, for audit plans."""
        return {
            f"{plugin.kind} {plugin.name}": plugin.owner
            for plugin in self.plugins
            if plugin.state is PluginState.WORKING
        }

    def _ranks(self, description: ModelDescription) -> tuple[dict[str, int], str]:
        ranks: dict[str, int] = {}
        faults = ""
        for name, adapter in self.architectures.items():
            try:
                ranks[name] = int(adapter.supports(description))
            except PluginError as error:  # its fault must not stop the other adapters
                faults += f"; {error.problem}"
        return ranks, faults

    def _absent(self, kind: str, name: str, known: Iterable[str]) -> UsageError:
        clashing = [plugin for plugin in self.plugins if plugin.name == name and plugin.state is PluginState.CLASH]
        if any(plugin.kind == kind for plugin in clashing):
            owners = " and ".join(sorted({plugin.owner for plugin in clashing if plugin.kind == kind}))
            return AmbiguousNameError(f"{kind} {name!r} is claimed by {owners}", advice="uninstall all but one of them")
        for plugin in self.plugins:
            if plugin.name == name and plugin.state is PluginState.FAILED:
                return UsageError(
                    f"plugin {name!r} of {plugin.owner} failed: {plugin.problem}",
                    advice=f"update or uninstall {plugin.distribution}",
                )
        return UnknownNameError(kind, name, known, listing=LISTINGS.get(kind, LISTING))


@dataclass(frozen=True, slots=True)
class _Contribution:
    """What one plugin gave, with its owner."""

    info: PluginInfo
    value: Any


def load_catalog(points: Iterable[EntryPoint] | None = None) -> Catalog:
    """Find, check and freeze all plugins.

    Args:
        points: entry points to load; those of the installed distributions by default.
    """
    found, unreadable = announced_plugins(hookspecs.PROJECT) if points is None else (points, ())
    given: list[_Contribution] = []
    failed = [PluginInfo(name, PLUGIN, name, "", PluginState.FAILED, problem) for name, problem in unreadable]
    for point in sorted(found, key=lambda point: (owner(point), point.name)):
        try:
            given.extend(_load(point))
        except _PluginFailure as failure:
            distribution, version = owner(point)
            failed.append(PluginInfo(point.name, PLUGIN, distribution, version, PluginState.FAILED, str(failure)))
    judged = _without_clashes(given)
    working: dict[str, dict[str, Any]] = {kind: {} for kind in HOOKS.values()}
    for item in judged:
        if not item.info.problem:
            working[item.info.kind][item.info.name] = _guarded(item)
    infos = [item.info for item in judged] + failed
    return Catalog(
        architectures=MappingProxyType(working[ARCHITECTURE]),
        attacks=MappingProxyType(working[ATTACK]),
        methods=MappingProxyType(working[METHOD]),
        plugins=tuple(sorted(infos, key=lambda info: (info.kind, info.name, info.distribution))),
    )


class _PluginFailure(PluginError):  # noqa: N818 - recorded as a state, never shown as an error
    """Why a plugin cannot be used."""


def _load(point: EntryPoint) -> list[_Contribution]:
    with _quiet_stdout():
        if not point.pattern.match(point.value):
            raise _PluginFailure(f"its entry point is {point.value!r}, which names no module")
        try:
            module = point.load()
        except (Exception, SystemExit) as error:  # plugin code: whatever it raises is its own failure
            raise _PluginFailure(f"import of {point.value} failed: {shown(error)}") from error
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        try:
            _refuse_unknown_hooks(manager, module)
            manager.register(module, name=point.name)
        except _PluginFailure:
            raise
        except (Exception, SystemExit) as error:
            raise _PluginFailure(f"{point.value} cannot be registered: {shown(error)}") from error
        called = [(hook, kind) for hook, kind in HOOKS.items() if getattr(manager.hook, hook).get_hookimpls()]
        if not called:
            raise _PluginFailure(
                f"{point.value} implements no hook; mark {' or '.join(HOOKS)} with fpvec_audit.api.hookimpl"
            )
        distribution, version = owner(point)
        return [
            _Contribution(PluginInfo(value.name, kind, distribution, version), value)
            for hook, kind in called
            for value in _call(manager, hook, kind)
        ]


def _refuse_unknown_hooks(manager: pluggy.PluginManager, module: Any) -> None:
    for name in dir(module):
        options = manager.parse_hookimpl_opts(module, name)
        if options is None or options["optionalhook"] or (options["specname"] or name) in HOOKS:
            continue
        near = get_close_matches(name, HOOKS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(HOOKS)}"
        raise _PluginFailure(f"it implements the unknown hook {name!r}; {hint}")


def _call(manager: pluggy.PluginManager, hook: str, kind: str) -> list[Any]:
    caller = getattr(manager.hook, hook)
    try:
        results = caller()
        if not isinstance(results, list) or len(results) != len(caller.get_hookimpls()):
            raise _PluginFailure(f"{hook} returned None; return a list")  # pluggy leaves out what is None
        values = [value for result in results for value in _elements(hook, result)]
        for value in values:
            problem = contribution_problem(kind, value)
            if problem:
                raise _PluginFailure(f"{hook} gave {type(value).__name__}: {problem}")
    except _PluginFailure:
        raise
    except (Exception, SystemExit) as error:
        raise _PluginFailure(f"{hook} failed: {shown(error)}") from error
    return values


def _elements(hook: str, result: Any) -> Sequence[Any]:
    if isinstance(result, (str, bytes, Mapping)) or not isinstance(result, Iterable):
        raise _PluginFailure(f"{hook} returned {type(result).__name__}; return a list")
    return list(result)


def _without_clashes(given: Sequence[_Contribution]) -> list[_Contribution]:
    """Mark every contribution whose name another one has: strangers lose to a built-in, and to each other."""
    judged = []
    for item in given:
        rivals = [
            other.info
            for other in given
            if other is not item and (other.info.kind, other.info.name) == (item.info.kind, item.info.name)
        ]
        if not rivals or (
            item.info.distribution == OWN_DISTRIBUTION
            and all(rival.distribution != OWN_DISTRIBUTION for rival in rivals)
        ):
            judged.append(item)
            continue
        owners = " and ".join(sorted({rival.owner for rival in rivals}))
        problem = f"{owners} also gives {item.info.kind} {item.info.name!r}"
        info = PluginInfo(
            item.info.name, item.info.kind, item.info.distribution, item.info.version, PluginState.CLASH, problem
        )
        judged.append(_Contribution(info, item.value))
    return judged


def _guarded(item: _Contribution) -> Any:
    guarded = item.info.kind == ARCHITECTURE and item.info.distribution != OWN_DISTRIBUTION
    return GuardedAdapter(item.value, item.info) if guarded else item.value


def _architecture_found(config: Mapping[str, Any]) -> str:
    classes = config.get("architectures")
    shown = f" ({', '.join(map(str, classes))})" if isinstance(classes, list) and classes else ""
    return f"architecture {config['model_type']!r}{shown}" if "model_type" in config else f"its config.json{shown}"


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what a plugin prints while it is loaded to stderr, so that ``--json`` stays one document.

    Only while loading, which happens before any thread is started: ``sys.stdout`` belongs to the whole process.
    """
    with contextlib.redirect_stdout(sys.stderr):
        yield
