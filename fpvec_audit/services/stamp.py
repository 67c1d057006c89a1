"""Use case: stamp downstream models with fingerprint vectors, one copy for each licensee, alike or by code words.

Everything is checked on headers before the first byte is written. What needs the model's identity – another base, a
fingerprint that it carries already – is known when its bytes have passed, and stops the stamp before the result is
renamed into place. All copies of one command are made in one reading of the vectors, and either all of them appear or
none. The stamped directory says nowhere that it is stamped: the registry alone remembers.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fpvec_audit.domain.records import ModelRole, StampRecord, VectorRecord
from fpvec_audit.errors import UsageError, VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.digested import Inputs
from fpvec_audit.services.extract import adopt_vector
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.key_life import refuse_ended
from fpvec_audit.services.lineage import refuse_carrier, stems_from
from fpvec_audit.services.models import IdentifiedModel, add_model, identify_model
from fpvec_audit.services.stamp_orders import (
    StampOrder,
    adapter_mode,
    copies,
    plan_order,
    skipped_roles,
    vocabulary_policy,
    with_vectors,
)
from fpvec_audit.services.stamp_recognition import recognised
from fpvec_audit.services.stamp_staging import staged_copies
from fpvec_audit.services.stamp_vectors import (
    CodeWords,
    family_vectors,
    named_vectors,
    refuse_second_copy,
    with_carriers,
    words_of_licensees,
)
from fpvec_audit.services.stamped_model import StampedModel, adapter_fields, peak_memory, stamp_warnings

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork
    from fpvec_audit.tensors.stamp import StampCopy
    from fpvec_audit.tensors.stamp_outcome import StampOutcome


def begin_to_read(downstreams: Sequence[Path], vectors: Sequence[str]) -> None:
    """Let the disk begin to read what is about to be stamped, while the registry is still being opened.

    Args:
        downstreams: as given to :func:`stamp_models`.
        vectors: likewise; those that are given by id are not found yet and left out.
    """
    from fpvec_audit.tensors.reader import ask_in_advance

    places = [Path(text.rpartition(":")[0] or text) for text in vectors]
    ask_in_advance([place for place in (*places, *downstreams[:1]) if place.is_dir()])


def stamp_models(
    downstreams: Sequence[Path],
    *,
    vectors: Sequence[str],
    out: Path,
    registry: "Registry",
    catalog: "Catalog",
    licensees: Sequence[str] = (),
    family: str | None = None,
    code_words: CodeWords = words_of_licensees,
    carrier: float | None = None,
    base: Path | None = None,
    vocabulary: str = "refuse",
    skip: Sequence[str] = (),
    again: bool = False,
    resume: bool = False,
    file_digests: bool = False,
    reread: bool = False,
    adapter: str | None = None,
    architecture: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[StampedModel]:
    """Stamp every downstream model, once for each licensee.

    Args:
        downstreams: checkpoint directories, or LoRA adapters as PEFT saves them.
        vectors: ids or directories, each with ``:SCALE`` where it is not 1.
        out: directory of the stamped model; of several, the directory that holds them.
        registry: where vectors are found and stamps are recorded.
        catalog: plugins.
        licensees: for whom; a copy each.
        family: family of marks, instead of vectors: each licensee's copy gets those of its code word.
        code_words: gives the code words of licensees.
        carrier: strength of the owner's carrier and of the licensee's, a share of the vectors' spread; None for none.
        base: base of downstream models whose origin is not registered; checked, then remembered. Of a LoRA adapter
            that does not name a base that is here, it is the base that is stamped.
        vocabulary: ``refuse`` or ``shared``: what to do with rows that vector and model do not share.
        skip: roles whose tensors are left as they are ("embedding").
        again: stamp a model that carries the fingerprint already.
        resume: go on with what an interrupted run left, as far as it still is what that run wrote.
        file_digests: read the result again and give the SHA-256 of every file.
        reread: digest vectors and downstream models although their files have not changed since they were digested.
        adapter: what becomes of LoRA adapters: ``keep`` them beside their stamped base, or ``merge`` them into it.
        architecture: adapter to use instead of the detected one.
        progress: where to report.

    Returns:
        one result per copy, downstream models in the order given, licensees within.

    Raises:
        UsageError: an unknown vector, policy, role, mode or adapter, a bad scale, two copies with one name, a LoRA
            adapter of which nobody says what becomes of it or where its base is, a licensee without a code word, or
            carriers for vectors of no key set.
        CheckpointError: a model cannot be read, is quantised, or holds NaN or Inf.
        VectorError: a vector does not fit a model, or the model carries it already; a licensee has another copy.
        KeySetError: a vector carries a key set that is retired or compromised, or a licensee's code word is retired.
        OutputError: something else is at the output, or the disk is full.
    """
    policy, roles, mode = vocabulary_policy(vocabulary), skipped_roles(skip), adapter_mode(adapter)
    if family is None:
        sets = named_vectors(vectors, licensees, registry=registry)
    else:
        sets = family_vectors(family, licensees, registry=registry, code_words=code_words)
    with registry.snapshot() as uow:
        ids = dict.fromkeys(item.vector.description.id for own in sets for item in own.vectors)
        known = [uow.vectors.find(identifier) for identifier in ids]
        _refuse_ended(uow, [record for record in known if record is not None])
    planned = [
        plan_order(
            path,
            sets[0].vectors,
            catalog=catalog,
            architecture=architecture,
            vocabulary=policy,
            skip=roles,
            again=again,
            mode=mode,
            base=base,
            progress=progress,
        )
        for path in downstreams
    ]
    if mode is not None and not any(order.adapted for order in planned):
        raise UsageError(
            f"--adapter {mode.value}: none of the downstream models is an adapter", advice="leave --adapter out"
        )
    wanted = [
        replace(with_vectors(order, own.vectors, licensee=own.licensee), family=own.family)
        for order in planned
        for own in sets
    ]
    orders = copies(wanted, out=out)
    if carrier is not None:
        orders = with_carriers(orders, carrier, registry=registry)
    there = {
        order.out: recognised(order, registry=registry, progress=progress)
        for order in orders
        if order.out.exists() or order.out.is_symlink()
    }
    missing = [order for order in orders if order.out not in there]
    if base is not None:
        missing = _compared(missing, base, catalog=catalog, progress=progress)
    manner = _Manner(resume=resume, file_digests=file_digests, reread=reread)
    made = _carry_out(missing, manner, registry=registry, progress=progress)
    found = {**there, **{item.out: item for item in made}}
    return [found[order.out] for order in orders]


def _compared(orders: Sequence[StampOrder], base: Path, *, catalog: "Catalog", progress: Progress) -> list[StampOrder]:
    """Check that a base is the vectors' own and that every downstream model is close to it.

    Where the base that was given is an adapter's, it is itself what is stamped, and there is nothing to compare.
    """
    from fpvec_audit.tensors.distance import CLOSE, relative_distance

    if all(order.stamps_given_base for order in orders):
        return list(orders)
    model = identify_model(base, catalog=catalog, architecture=orders[0].adapter.name, progress=progress)
    for scaled in {item.vector.files.path: item for order in orders for item in order.plan.vectors}.values():
        if scaled.vector.description.base_digest != model.digest:
            raise VectorError(
                f"{scaled.vector.description.id} was not extracted from {base}: its base has digest "
                f"{scaled.vector.description.base_digest[:16]}…, this {model.digest[:16]}…",
                advice="give the base that the vector was extracted from",
            )
    others = [order for order in orders if not order.stamps_given_base]
    for target in {order.plan.target.path: order.plan.target for order in others}.values():
        distance = relative_distance(model.checkpoint, target, orders[0].adapter, progress=progress)
        if distance > CLOSE:
            raise VectorError(
                f"{target.path} is no fine-tune of {base}: its matrices are {distance:.2f} times the base's norm away "
                f"(at most {CLOSE})",
                advice="stamp a model that was made from this base",
            )
    return [order if order.stamps_given_base else replace(order, base=model) for order in orders]


@dataclass(frozen=True, slots=True)
class _Manner:
    """How copies are made, which does not decide what they become.

    Attributes:
        resume: go on with what an interrupted run left.
        file_digests: give the SHA-256 of every file.
        reread: digest what was digested before.
    """

    resume: bool
    file_digests: bool
    reread: bool


def _carry_out(
    orders: Sequence[StampOrder], manner: _Manner, *, registry: "Registry", progress: Progress
) -> list[StampedModel]:
    """Make the copies that are not there yet, many in one reading of the vectors."""
    from fpvec_audit.tensors.staging import sole_finisher
    from fpvec_audit.tensors.stamp import write_stamps

    if not orders:
        return []
    started = time.perf_counter()
    detail = {
        "copies": [
            {
                "downstream": str(order.source),
                "licensee": order.licensee,
                "out": str(order.out),
                "vectors": [f"{vector}:{scale!r}" for vector, scale in order.vectors],
            }
            | {name: str(value) for name, value in adapter_fields(order).items()}
            for order in orders
        ]
    }
    with recorded_job(registry, "stamp", detail), ExitStack() as stack:
        claim = stack.enter_context(sole_finisher())
        inputs = Inputs.look_at(orders, registry=registry, reread=manner.reread)
        with registry.snapshot() as uow:
            for order, manifest in zip(orders, inputs.manifests, strict=True):
                if manifest is not None:  # else it is known when the bytes have passed
                    refuse_second_copy(uow, order, manifest.digest)
        places = staged_copies(orders, inputs, stack, resume=manner.resume, progress=progress)
        outcomes = write_stamps(places, checked=inputs.checked, progress=progress)
        for adapted in (order.adapted for order in orders):
            if adapted is not None:
                adapted.adapter.refuse_changed()
        digests = [_file_digests(place, progress=progress) if manner.file_digests else {} for place in places]
        claim([order.out for order in orders])  # so that nothing is recorded of a copy that another process made first
        with registry.unit_of_work() as uow:
            known = [
                _record_origin(uow, order, outcome, registry=registry)
                for order, outcome in zip(orders, outcomes, strict=True)
            ]
            records = [
                _record(uow, order, outcome, files, registry=registry)
                for order, outcome, files in zip(orders, outcomes, digests, strict=True)
            ]
            inputs.remember(uow, [outcome.target_digest for outcome in outcomes])
    seconds = time.perf_counter() - started
    return [
        StampedModel(
            out=order.out,
            vectors=order.vectors,
            licensee=order.licensee or None,
            tensors=outcome.tensors,
            bytes_written=outcome.bytes_written,
            applied_ratio=outcome.applied_ratio,
            cosine=outcome.cosine,
            carrier=None if order.carrier is None else order.carrier.strength,
            carried_ratio=outcome.carried_ratio,
            roles={
                role.value: {
                    "applied_ratio": rounding.applied_ratio,
                    "cosine": rounding.cosine,
                    "tensors": rounding.tensors,
                }
                for role, rounding in outcome.roles.items()
            },
            file_digests=files,
            resumed=outcome.resumed,
            digest=record.stamped,
            downstream_digest=record.downstream,
            stamp_id=record.id,
            already=False,
            warnings=stamp_warnings(order, outcome, known=stems),
            seconds=seconds,
            peak_memory_bytes=peak_memory(),
            **adapter_fields(order),
        )
        for order, outcome, files, record, stems in zip(orders, outcomes, digests, records, known, strict=True)
    ]


def _file_digests(place: "StampCopy", *, progress: Progress) -> dict[str, str]:
    from fpvec_audit.tensors.digest import file_digests

    found: dict[str, str] = {}
    names = sorted({*place.plan.target.files, *place.plan.others.carried})
    for directory in sorted({str(PurePosixPath(name).parent) for name in names}):
        inside = [name for name in names if str(PurePosixPath(name).parent) == directory]
        bare = [PurePosixPath(name).name for name in inside]
        digests = file_digests(place.directory / directory, bare, progress=progress)
        found |= {name: digests[last] for name, last in zip(inside, bare, strict=True)}
    return found


def _refuse_ended(uow: "UnitOfWork", vectors: Sequence[VectorRecord]) -> None:
    refuse_ended(uow, [vector.key_set for vector in vectors if vector.key_set is not None])


def _record_origin(uow: "UnitOfWork", order: StampOrder, outcome: "StampOutcome", *, registry: "Registry") -> bool:
    """Record vectors and downstream model, and say whether that is known to stem from the vectors' base.

    Raises:
        VectorError: it stems from another, or carries a fingerprint already.
    """
    records = [adopt_vector(uow, scaled.vector, registry=registry) for scaled in order.plan.vectors]
    _refuse_ended(uow, records)
    parent = None
    if order.base is not None:
        parent = add_model(uow, order.base, registry=registry, role=ModelRole.BASE).id
    downstream = IdentifiedModel(order.plan.target, order.adapter, outcome.target)
    add_model(uow, downstream, registry=registry, role=ModelRole.DOWNSTREAM, parent=parent)
    refuse_second_copy(uow, order, downstream.digest)
    if not order.again:
        for vector in records:
            refuse_carrier(uow, downstream.digest, vector)
    known = [stems_from(uow, downstream.digest, vector) for vector in records]
    return all(known)


def _record(
    uow: "UnitOfWork", order: StampOrder, outcome: "StampOutcome", files: Mapping[str, str], *, registry: "Registry"
) -> StampRecord:
    stamped = IdentifiedModel(order.plan.target, order.adapter, outcome.stamped)
    downstream = outcome.target_digest
    add_model(uow, stamped, registry=registry, role=ModelRole.STAMPED, parent=downstream, location=order.out)
    return uow.stamps.add(
        StampRecord(
            id=order.stamp_id(downstream),
            downstream=downstream,
            stamped=stamped.digest,
            vectors=order.vectors,
            licensee=order.licensee,
            location=str(order.out.resolve()),
            applied_ratio=outcome.applied_ratio,
            cosine=outcome.cosine,
            policies={**order.policies, **({"file_digests": dict(files)} if files else {})},
            created_at=registry.clock(),
        )
    )
