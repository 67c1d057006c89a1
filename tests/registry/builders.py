"""Records and registries that tests are about, with everything they are not about filled in."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from fpvec_audit.domain.keys import SELF_ATTESTED, KeySetSecret, KeySetSpecification, draw_key_set
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
