"""Records and registries that tests are about, with everything they are not about filled in."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fpvec_audit.domain.code_records import CodeRecord
from fpvec_audit.domain.fleet import FleetAction, FleetItem, ItemState
from fpvec_audit.domain.keys import SELF_ATTESTED, KeySetSecret, KeySetSpecification, draw_key_set
from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.records import (
    AttackRunRecord,
    AuditRecord,
    JobState,
    KeySetRecord,
    ModelRecord,
    ModelRole,
    StampRecord,
    VectorRecord,
)
from fpvec_audit.domain.transcript import chained, genesis, head
from fpvec_audit.registry.master_key import KeyFile
from fpvec_audit.registry.unit_of_work import Registry, open_registry

START = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
SMALL = KeySetSpecification(issued=4, decoys=6)


class Clock:
    """Goes on by one second every time it is read."""

    def __init__(self):
        self.now = START

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def opened(file: Path, **options) -> Registry:
    return open_registry(url_of(file), **({"clock": Clock()} | options))


def opened_at(url: str, *, key_file: Path, **options) -> Registry:
    """Open a registry anywhere, with its master key in a file."""
    return open_registry(url, **({"clock": Clock(), "master_key": KeyFile(key_file), "actor": "tester"} | options))


def secret(seed: int = 0) -> KeySetSecret:
    return KeySetSecret(bytes([seed]) * 32)


def key_set_record(name="acme", *, seed=0, specification=SMALL, **changes) -> KeySetRecord:
    commitment = draw_key_set(secret(seed), specification).commitment
    values = {
        "id": f"ks-{commitment.digest[:16]}",
        "name": name,
        "owner": "Acme",
        "licensee": "",
        "commitment": commitment,
        "grade": SELF_ATTESTED,
        "chance": "",
        "base": None,
        "created_at": START,
    }
    return KeySetRecord(**values | changes)


def model_record(name="base", *, digit="a", **changes) -> ModelRecord:
    values = {
        "id": digit * 64,
        "name": name,
        "role": ModelRole.BASE,
        "architecture": "gpt2",
        "location": f"/models/{name}",
        "parent": None,
        "parameters": 12,
        "created_at": START,
    }
    return ModelRecord(**values | changes)


def vector_record(*, digit="d", **changes) -> VectorRecord:
    values = {
        "id": f"vec-{digit * 16}",
        "digest": digit * 64,
        "family": "fam-1",
        "mark": 0,
        "key_set": None,
        "base": "a" * 64,
        "fingerprinted": "b" * 64,
        "architecture": "gpt2",
        "location": "/vectors/v",
        "inexact_elements": 3,
        "norm": 0.1,
        "created_at": START,
    }
    return VectorRecord(**values | changes)


def code_record(key_set: str, **changes) -> CodeRecord:
    values = {
        "id": f"co-{key_set.removeprefix('ks-')}",
        "key_set": key_set,
        "text": "plane:4",
        "colluders": 3,
        "epsilon": "1e-3",
        "binding": "c" * 64,
        "created_at": START,
    }
    return CodeRecord(**values | changes)


def issue_words(registry: Registry, key_set: str) -> None:
    """Record a code and three words of it, of which one is retired."""
    with registry.unit_of_work() as uow:
        code = uow.code_words.choose(code_record(key_set))
        for number, name in enumerate(("Carol", "Dave", "Erin")):
            uow.code_words.issue(code, name, number=number, commitment=f"{number}" * 64)
        uow.code_words.retire(code, "Dave", reason="left", by="tester")


def stamp_record(**changes) -> StampRecord:
    values = {
        "id": "st-" + "e" * 16,
        "downstream": "a" * 64,
        "stamped": "b" * 64,
        "vectors": (("vec-" + "d" * 16, 0.5),),
        "licensee": "Bob",
        "location": "/stamped",
        "applied_ratio": 0.999,
        "cosine": 0.9999,
        "policies": {"vocabulary": "refuse"},
        "created_at": START,
    }
    return StampRecord(**values | changes)


def audit_record(key_set: str, **changes) -> AuditRecord:
    values = {
        "id": "au-" + "f" * 16,
        "key_set": key_set,
        "suspect": "/suspect",
        "suspect_digest": "",
        "plan_digest": "1" * 64,
        "plan": {"alpha": "1e-6"},
        "verdict": "",
        "result": {},
        "created_at": START,
        "ended_at": None,
    }
    return AuditRecord(**values | changes)


def attack_run_record(key_set: str, **changes) -> AttackRunRecord:
    values = {
        "id": "at-" + "7" * 16,
        "stamped": "b" * 64,
        "key_set": key_set,
        "attack": "fine_tune",
        "parameters": {"steps": 3, "rate": 0.1},
        "state": JobState.SUCCEEDED,
        "result": {"fsr_after": 0.5},
        "created_at": START,
    }
    return AttackRunRecord(**values | changes)


def manifest(seed=0) -> Manifest:
    return Manifest.of(TensorDigest(f"layer.{place}", "F32", (2, 3), f"{seed:032x}{place:032x}") for place in range(3))


def fill(registry: Registry) -> None:
    """Record some of everything that a registry can hold, through the repositories."""
    base, downstream, stamped = (manifest(seed) for seed in (1, 2, 3))
    key_set, other = key_set_record(licensee="Carol"), key_set_record("other", seed=1)
    with registry.unit_of_work() as uow:
        uow.models.add(model_record(id=base.digest), manifest=base)
        uow.models.add(model_record("fingerprinted", id="b" * 64, role=ModelRole.FINGERPRINTED, parent=base.digest))
        uow.models.add(model_record("downstream", id=downstream.digest, parent=base.digest), manifest=downstream)
        uow.models.add(model_record("stamped", id=stamped.digest, role=ModelRole.STAMPED), manifest=stamped)
        uow.key_sets.add(key_set, secret())
        uow.key_sets.add(other, secret(1))
        uow.key_sets.bind(key_set.id, base.digest, {"settings": {"rate": 1e-3}})
    made = stamp_record(downstream=downstream.digest, stamped=stamped.digest)
    with registry.unit_of_work() as uow:
        uow.vectors.add(vector_record(key_set=key_set.id, base=base.digest))
        uow.stamps.add(made)
        uow.stamps.add(stamp_record(id="st-" + "0" * 16, downstream=downstream.digest, stamped=stamped.digest))
    with registry.unit_of_work() as uow:
        uow.stamps.add(stamp_record(downstream=downstream.digest, stamped=stamped.digest, location="/moved"))
    issue_words(registry, key_set.id)
    audit(registry, key_set.id)
    with registry.unit_of_work() as uow:
        uow.audits.plan(audit_record(key_set.id, id="au-" + "0" * 16))
        uow.attack_runs.add(attack_run_record(key_set.id))
        uow.models.remember_files("5" * 64, base.digest)
        job = uow.jobs.start("stamp", {"out": "/x"})
        fleet(uow, job=job.id)


def fleet(uow, *, job: str) -> None:
    """Record a run of two items, of which one is done; its id is the same in every registry."""
    uow.fleets._entropy = bytes
    run = uow.fleets.open(FleetAction.STAMP, {"into": "/out"}, source="/models.csv", retries=2)
    items = [
        FleetItem(0, digit * 64, number, {"downstream": f"/{digit}"}) for number, digit in enumerate("ab", start=2)
    ]
    uow.fleets.add(run.id, items)
    uow.fleets.filled(run.id)
    uow.fleets.drive(run.id, job=job)
    first = uow.fleets.queued(run.id, after=0, limit=1)[0]
    ended = replace(first, state=ItemState.DONE, attempts=1, outcome="made", seconds=0.1, node="n", ended_at=START)
    uow.fleets.record(run.id, [ended])


def audit(registry: Registry, key_set: str, **changes) -> None:
    """Record a finished audit with a transcript and burnt candidates."""
    record = audit_record(key_set, **changes)
    start = genesis(record.plan_digest, "ab" * 32)
    records = chained(({"kind": "answer", "index": place, "prompt": "p"} for place in range(3)), previous=start)
    with registry.unit_of_work() as uow:
        uow.audits.plan(record)
        uow.audits.begin(record.id, {"nonce": "ab" * 32, "witness": None})
        uow.key_sets.burn(key_set, [1, 3], where=record.id)
        uow.audits.append(record.id, records)
    with registry.unit_of_work() as uow:
        uow.audits.finish(
            record.id,
            verdict="MATCH",
            result={"fsr": 0.9, "verdict": "MATCH"},
            transcript=head(records, start=start),
            records=len(records),
        )
