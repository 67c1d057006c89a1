"""Audits that were handed over as bundles, recorded by somebody who has neither their key set nor a master key."""

import pytest

from fpvec_audit.errors import EvidenceError
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.recorded_audits import list_recorded, record_bundle
from fpvec_audit.services.verification import verify_registry
from tests.conftest import FIXED_TIME
from tests.services.test_audit import answering
from tests.services.test_evidence import OWNER, bench, catalog, checkpoints, keys, witness, witnessed_keys

__all__ = ["bench", "catalog", "checkpoints", "keys", "witness", "witnessed_keys"]


@pytest.fixture
def auditor(tmp_path):
    """A registry of its own, where nobody ever needed a master key."""
    url = f"sqlite:///{tmp_path / 'auditor' / 'registry.db'}"
    with open_registry(url, clock=lambda: FIXED_TIME, actor="alice") as registry:
        yield registry


@pytest.fixture
def bundle(bench, witnessed_keys):
    exported = bench.export(bench.witnessed_audit(answering(witnessed_keys.issued)))
    return bench.out, exported


def events(registry):
    with registry.snapshot() as uow:
        return [(entry.event, entry.subject) for entry in uow.ledger.entries()]


def test_bundle_is_recorded_with_what_verifying_it_found(bundle, auditor, bench, tmp_path):
    file, exported = bundle
    recording = record_bundle(
        file, registry=auditor, signer=OWNER.public_key.hex, anchors=[bench.witness.public]
    ).to_json()
    assert recording["new"]
    assert recording["warnings"] == []
    assert (recording["verdict"], recording["grade"]) == ("MATCH", "anchored")
    assert (recording["bundle"], recording["audit"]) == (exported.digest, exported.audit_id)
    assert (recording["signer"], recording["key_from"]) == (OWNER.public_key.hex, "verifier")
    assert recording["ordering"] == f"anchored by {bench.witness.public_key.hex}"
    assert (recording["recorded_by"], recording["recorded_at"]) == ("alice", FIXED_TIME.isoformat())
    with auditor.snapshot() as uow:
        (entry,) = uow.ledger.entries()
        assert (entry.event, entry.subject) == ("recorded_audit.added", recording["id"])
        assert entry.content["bundle"] == exported.digest
        assert entry.content["verdict"] == "MATCH"
        assert uow.key_sets.list() == ()
        assert [record.id for record in uow.recorded_audits.list()] == [recording["id"]]
    assert verify_registry(registry=auditor).valid
    assert not (tmp_path / "auditor" / "vault.key").exists()


def test_bundle_is_recorded_once_under_the_same_assurance(bundle, auditor):
    file, _ = bundle
    first = record_bundle(file, registry=auditor)
    again = record_bundle(file, registry=auditor)
    assert (first.new, again.new, again.record) == (True, False, first.record)
    assert any("--signer" in sentence for sentence in first.to_json()["warnings"])
    pinned = record_bundle(file, registry=auditor, signer=OWNER.public_key.hex)
    assert pinned.new
    assert pinned.record.id != first.record.id
    assert len(events(auditor)) == len(list_recorded(registry=auditor)) == 2


def test_bundle_that_does_not_verify_is_not_recorded(bundle, auditor, bench):
    file, _ = bundle
    with pytest.raises(EvidenceError, match="does not verify") as refused:
        record_bundle(file, registry=auditor, signer=bench.witness.public_key.hex)
    assert refused.value.advice
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EvidenceError, match="does not verify"):
        record_bundle(file, registry=auditor)
    with pytest.raises(EvidenceError):
        record_bundle(file.with_name("missing"), registry=auditor)
    assert events(auditor) == []


def test_nothing_that_the_bundle_opens_is_kept(bundle, auditor, witnessed_keys, tmp_path):
    record_bundle(bundle[0], registry=auditor)
    auditor.close()
    content = b"".join(path.read_bytes() for path in (tmp_path / "auditor").iterdir())
    for candidate in witnessed_keys.candidates:
        assert candidate.prompt.encode() not in content  # a response is one word, which may be that of a table
