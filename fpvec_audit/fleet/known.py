"""Names that hold for a whole run, looked up before anything begins: a mistyped one would set every item aside.

What an item says of itself is looked up with that item, where it is carried out: names of a hundred thousand items are
not for the driver to hold.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.fleet import FleetAction
from fpvec_audit.storage.addresses import is_url

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork


def refuse_unknown(
    action: FleetAction, options: Mapping[str, Any], *, registry: "Registry", attack: Callable[[str], type]
) -> None:
    """Refuse options of a run that name what there is not.

    Args:
        action: what is done.
        options: what holds for all items that do not say otherwise, as the run records it.
        registry: where key sets, families and vectors are.
        attack: gives the parameters of an attack by its name; raises where there is none.

    Raises:
        UsageError: there is no such key set, family, vector, suite or attack, or an attack has no such parameter.
        SettingsError: there is no such device.
    """
    from fpvec_audit.services.doctor import refuse_unknown_device

    if "device" in options:
        refuse_unknown_device(options["device"])
    with registry.snapshot() as uow:
        _look_up(uow, options)
    if action is FleetAction.ATTACK:
        from fpvec_audit.domain.attack_spec import bind_spec
        from fpvec_audit.domain.attack_suites import suite_specs

        if "suite" in options:
            suite_specs(options["suite"], installed=(), at_hand=())
        for spec in options.get("attack", ()):
            bind_spec(spec, attack)


def _look_up(uow: "UnitOfWork", options: Mapping[str, Any]) -> None:
    from fpvec_audit.services.stored_stamps import split_scale

    for key_set in (*([options["key"]] if "key" in options else []), *options.get("keys", ())):
        uow.key_sets.get(key_set)
    families = options.get("family", ())
    for family in [families] if isinstance(families, str) else families:
        uow.code_words.key_set_of(family)
    for text in options.get("vector", ()):
        place, _ = split_scale(text)
        if not is_url(place) and not Path(place).is_dir():
            uow.vectors.get(place)
