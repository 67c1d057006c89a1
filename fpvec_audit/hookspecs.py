"""The hooks: what a plugin may give to fpvec-audit.

A plugin is a module named in the entry-point group ``fpvec_audit``. It implements any of the functions below, marked
with :data:`fpvec_audit.api.hookimpl`. Hooks take nothing and return values, so that what a plugin gives can be tested
without a host. Every plugin is imported, checked and called on its own; a fault in one leaves the others working.
"""

from collections.abc import Iterable
from typing import cast

import pluggy

from fpvec_audit.domain.ports import ArchitectureAdapter, FingerprintMethod, QueryAttack, WeightAttack

PROJECT = "fpvec_audit"
"""Name of the entry-point group and of the pluggy project."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def fpvec_architectures() -> Iterable[ArchitectureAdapter]:
    """Return the model architectures that this plugin knows.

    Of all adapters that support a checkpoint the one with the highest specificity is used; a tie is refused until the
    user names one with ``--architecture``.
    """
    return cast("Iterable[ArchitectureAdapter]", ())  # a specification is never called; pluggy reads its signature


@hookspec
def fpvec_attacks() -> Iterable[WeightAttack | QueryAttack]:
    """Return the attacks that this plugin can carry out.

    An attack with ``apply`` changes weights, one with ``probes`` and ``wrap`` changes what is asked or answered.
    """
    return cast("Iterable[WeightAttack | QueryAttack]", ())


@hookspec
def fpvec_methods() -> Iterable[FingerprintMethod]:
    """Return the methods by which this plugin can embed a key set into one given model.

    The same audit and the same attacks serve all methods, so what they achieve can be compared.
    """
    return cast("Iterable[FingerprintMethod]", ())
