"""Every error the package raises on purpose, so that callers can tell a refusal from a bug.

::

    FpvecError                     something was refused or failed; carries advice and an exit code
    ├── UsageError                 exit 2: what was asked for cannot be meant
    │   ├── UnknownNameError       no such key set, vector, model or plugin; suggests the nearest
    │   ├── AmbiguousNameError     a shortened id or a plugin name that fits several things
    │   ├── ArchitectureError      no adapter, or two, for a checkpoint
    │   └── SettingsError          a bad value in a file, the environment or an option
    └── OperationError             exit 4: the operation failed or something does not verify
        ├── CheckpointError        a checkpoint that cannot be trusted or read
        ├── VectorError            a fingerprint vector that does not fit
        ├── OutputError            the output exists, or could not be written (disk full)
        ├── KeySetError            a key set that cannot be used as asked
        ├── TrainingError          fingerprint training or fine-tuning cannot proceed
        ├── BackendError           an inference engine failed or answered nonsense
        ├── StorageError           a store named by a URL is away, refuses, or holds half of something
        ├── RegistryError          the registry is outdated, locked, inconsistent or away
        │   └── RegistryAwayError  it does not answer now, and may later
        ├── EvaluationError        a harmlessness task could not be evaluated
        ├── EvidenceError          a key, signature, witness statement or bundle that does not verify
        └── PluginError            a plugin failed while it was used

The message says what failed and with which value; ``advice`` says what to do next.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FpvecError(Exception):
    """Something was refused or failed, for a reason that the user can act on.

    Args:
        problem: what failed and with which value.
        advice: what to do next; empty when the problem says it.
    """

    exit_code = 4

    def __init__(self, problem: str, *, advice: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.problem} – {self.advice}" if self.advice else self.problem


class UsageError(FpvecError):
    """What was asked for cannot be meant: exit code 2."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not known; the nearest known ones are suggested.

    Args:
        kind: what was looked for, in the singular ("key set", "vector", "attack").
        name: what the user wrote.
        known: the names that would have been accepted.
        listing: command that lists them, if there is one.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, listing: str = "") -> None:
        names = sorted(set(known))
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            advice = f"did you mean {' or '.join(near)}?"
        elif names:
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            advice = f"known: {shown}"
        else:
            advice = f"there is no {kind} yet"
        if listing:
            advice = f"{advice} (`{listing}` lists them)"
        super().__init__(f"unknown {kind} {name!r}", advice=advice)


class AmbiguousNameError(UsageError):
    """A shortened id, or a plugin name, that fits more than one thing."""


class ArchitectureError(UsageError):
    """No architecture adapter fits a checkpoint, or several do."""


class SettingsError(UsageError):
    """A bad value in a settings file, the environment or an option."""


class OperationError(FpvecError):
    """The operation failed, or something does not verify: exit code 4."""


class CheckpointError(OperationError):
    """A checkpoint that cannot be trusted or read."""


class VectorError(OperationError):
    """A fingerprint vector that does not fit what it is applied to."""


class OutputError(OperationError):
    """The output exists already, or could not be written."""


class KeySetError(OperationError):
    """A key set that cannot be used as asked."""


class TrainingError(OperationError):
    """Fingerprint training or fine-tuning cannot proceed."""


class BackendError(OperationError):
    """An inference engine failed or answered nonsense."""


class StorageError(OperationError):
    """A store that is named by a URL is away, refuses, or does not hold what was asked for."""


class RegistryError(OperationError):
    """The registry is outdated, locked, inconsistent or away."""


class RegistryAwayError(RegistryError):
    """The registry does not answer, is locked or restarting: nothing was recorded, and trying again may help."""


class EvaluationError(OperationError):
    """A harmlessness task could not be evaluated."""


class EvidenceError(OperationError):
    """A key, signature, witness statement or evidence bundle that cannot be read or does not verify."""


class PluginError(OperationError):
    """A plugin failed while it was used."""
