"""Say which master key a registry needs, and exchange it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import RegistryError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from fpvec_audit.registry.master_key import MasterKeySource
    from fpvec_audit.registry.unit_of_work import Registry


@dataclass(frozen=True, slots=True)
class MasterKeyState:
    """Which master key seals a registry's secrets, and whether the given one is it.

    Attributes:
        id: its id; empty while nothing was sealed.
        source: where it came from: ``file``, ``environment`` or ``passphrase``; empty while nothing was sealed.
        given: what was looked at: a file's path, or a variable's name.
        fits: whether the given one is it; None while nothing was sealed.
        problem: why it does not fit, in a sentence.
    """

    id: str
    source: str
    given: str
    fits: bool | None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "id": self.id,
            "source": self.source,
            "given": self.given,
            "fits": self.fits,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class RekeyedRegistry:
    """How the master key of a registry was exchanged.

    Attributes:
        before: id of the key before; empty when there was none.
        now: id of the key in use.
        source: where that comes from: ``file``, ``environment`` or ``passphrase``.
        data_keys: how many keys of key sets it wraps.
        retired_to: file that holds the former keys; empty where none was in a file.
        warnings: what could not be cleared up, in sentences.
        next: what to do now, in sentences.
    """

    before: str
    now: str
    source: str
    data_keys: int
    retired_to: str
    warnings: tuple[str, ...] = field(default=())
    next: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "before": self.before,
            "now": self.now,
            "source": self.source,
            "data_keys": self.data_keys,
            "retired_to": self.retired_to,
            "warnings": list(self.warnings),
            "next": list(self.next),
        }


def master_key_state(engine: "Engine", given: "MasterKeySource") -> MasterKeyState:
    """Say which master key a registry needs and whether the given one is it; neither made nor needed for that."""
    from sqlalchemy.orm import Session

    from fpvec_audit.registry.database import reading
    from fpvec_audit.registry.vault import master_key_in_use

    with Session(reading(engine)) as session:
        known = master_key_in_use(session)
    if known is None:
        return MasterKeyState("", "", given.shown, None)
    try:
        given.find(known)
    except RegistryError as error:
        return MasterKeyState(known.id, known.source, given.shown, fits=False, problem=str(error))
    return MasterKeyState(known.id, known.source, given.shown, fits=True)


def rekey_registry(*, registry: "Registry", target: "MasterKeySource") -> RekeyedRegistry:
    """Seal a registry with another master key.

    The keys of its key sets are wrapped anew; what they seal is not touched. The former key is retired, not erased:
    backups of before need it, and so may another registry that shares the key file.

    Args:
        registry: opened with the key in use.
        target: where the new key comes from; a key file gets a new random one.

    Raises:
        RegistryError: the key in use does not fit, the new one is that same or cannot be kept, or another exchange is
            under way. The registry keeps its key then.
    """
    from fpvec_audit.registry.rotation import rotate

    given_before = registry.keyring.source
    done = rotate(registry, target)
    steps = [_where_it_is(target)]
    if done.before and given_before.shown != target.shown and given_before.source != "file":
        steps.insert(0, f"take {given_before.shown} out of the environment")
    if done.before:
        kept = f"it lies in {done.retired_to}" if done.retired_to else "keep it"
        steps.append(f"backups of before need the former key {done.before}: {kept}")
    warnings = (done.remark,) if done.remark else ()
    return RekeyedRegistry(done.before, done.now, done.source, done.data_keys, done.retired_to, warnings, tuple(steps))


def _where_it_is(target: "MasterKeySource") -> str:
    if target.source == "file":
        return f"back {target.shown} up: without it nobody can read the secrets"
    variable = target.shown.replace("FPVEC_NEW_VAULT", "FPVEC_VAULT")
    return f"set {variable} to what {target.shown} is now, wherever fpvec runs"
