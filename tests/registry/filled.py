"""A registry with something in every table, and odd values in many of them."""

from datetime import UTC, datetime

from sqlalchemy import insert

from fpvec_audit.domain.records import RecordedAudit
from fpvec_audit.registry.tables import Base, DigestedFilesRow, JobRow, LicenseeRow, ModelManifestRow, SuspectRow
from tests.registry.builders import (
    attack_run_record,
    audit_record,
    code_record,
    fleet,
    key_set_record,
    model_record,
    secret,
    stamp_record,
    vector_record,
)

SEALED_TEXT = b"what nobody should read"
ODD_TIME = datetime(2000, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
ODD_TEXT = "Ünïcode – 漢字 🔑 \"quoted\" 'single' \\ %s :name {brace}"
ODD_JSON = {
    "float": 0.1,
    "tiny": 5e-324,
    "large": 1.7976931348623157e308,
    "integer": 2**63,
    "none": None,
    "text": ODD_TEXT + "\x00\n\ud800",
    "deep": [[[{"": []}]], True, False, -0.0],
    "order": {"z": 1, "a": 2},
}


def recorded_audit(digit="1", **changes) -> RecordedAudit:
    values = {
        "id": "ra-" + digit * 16,
        "bundle": digit * 64,
        "audit": "au-" + "2" * 16,
        "key_set": "ks-" + "3" * 16,
        "commitment": "4" * 64,
        "suspect": "/their/suspect",
        "suspect_digest": "",
        "verdict": "MATCH",
        "alpha": "1/1000000",
        "grade": "anchored",
        "signer": "5" * 64,
        "key_from": "verifier",
        "ordering": "self-asserted",
        "location": "/bundle.json",
        "recorded_at": ODD_TIME,
        "recorded_by": "auditor",
    }
    return RecordedAudit(**values | changes)


def fill(registry) -> None:
    """Put something into every table."""
    with registry.unit_of_work() as uow:
        uow.models.add(model_record("base", digit="f"))
        uow.models.add(model_record("fingerprinted", digit="b", parent="f" * 64))
        uow.models.add(model_record(ODD_TEXT, digit="a", parent="b" * 64, location=ODD_TEXT))
        record = key_set_record(licensee="Globex")
        uow.key_sets.add(record, secret())
        uow.vectors.add(vector_record(key_set=record.id, base="f" * 64, fingerprinted="b" * 64, norm=1 / 3))
        uow.stamps.add(stamp_record(downstream="a" * 64, applied_ratio=5e-324))
        uow.audits.plan(audit_record(record.id, plan=ODD_JSON))
        uow.attack_runs.add(attack_run_record(record.id))
        fleet(uow, job=uow.jobs.start("stamp", ODD_JSON).id)
        uow.recorded_audits.add(recorded_audit())
        code = uow.code_words.choose(code_record(record.id))
        uow.code_words.issue(code, ODD_TEXT.replace("\\", ""), number=2**31 - 1, commitment="9" * 64)
        session = uow.session
        audit = audit_record(record.id).id
        place = ("audit_record", audit, 0)
        value = uow.vault.sealed_at(place, SEALED_TEXT, key_set=record.id)
        session.execute(
            insert(Base.metadata.tables["audit_record"]).values(
                audit_id=audit,
                serial=0,
                scheme=value.scheme,
                data_key_id=value.data_key,
                content=value.content,
                digest="0" * 64,
            )
        )
        session.execute(insert(ModelManifestRow).values(model_id="a" * 64, tensors=1, content=bytes(range(256)) * 9))
        session.execute(
            insert(Base.metadata.tables["model_tensor"]),
            [{"content": number, "model_id": "a" * 64} for number in (-(2**63), -1, 0, 2**63 - 1)],
        )
        session.execute(insert(DigestedFilesRow).values(state="6" * 64, digest="7" * 64))
        session.execute(insert(LicenseeRow).values(id=ODD_TEXT, name=" ", created_at=ODD_TIME))
        for number, name in enumerate(("Z", "a", "Ä", "_", "-", "ﬀ", "𐀀", "\uffff")):  # collations disagree on them
            session.execute(insert(LicenseeRow).values(id=name, name=f"{number}", created_at=ODD_TIME))
        session.execute(insert(SuspectRow).values(id="8" * 64, kind="endpoint", location="", first_seen_at=ODD_TIME))
        session.execute(
            insert(JobRow).values(
                id="job-odd",
                kind="",
                state="failed",
                detail={},
                process=2**40,
                host="",
                identity="",
                directory=ODD_TEXT,
                command=["fpvec", ODD_TEXT],
                started_at=ODD_TIME,
                heartbeat_at=ODD_TIME,
            )
        )


def counts(registry) -> dict[str, int]:
    from sqlalchemy import func, select

    with registry.snapshot() as uow:
        return {
            name: uow.session.scalar(select(func.count()).select_from(table))
            for name, table in Base.metadata.tables.items()
        }
