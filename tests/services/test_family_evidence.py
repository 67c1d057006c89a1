"""Evidence of a family's trace, from the registry to a stranger."""

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.marks import family_specification
from fpvec_audit.errors import EvidenceError, UnknownNameError, UsageError
from fpvec_audit.evidence.signing import SigningKey
from fpvec_audit.services.evidence import export_evidence, verify_bundle
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.witness import init_witness, issue_with_witness, sign_request
from tests.services import test_family_trace
from tests.services.test_audit import answering
from tests.services.test_family_trace import NAMES, Family, named, run
from tests.tiny import make_tiny

OWNER = SigningKey(bytes(range(7, 39)))


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture(scope="module")
def suspect_directory(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("family") / "suspect", "gpt2")


@pytest.fixture
def witness(tmp_path):
    return init_witness(tmp_path / "witness", key=lambda: SigningKey(bytes(range(32))))


@pytest.fixture
def family(registry, witness, tmp_path, monkeypatch):
    """A family whose chance a witness gave."""

    def issued(name, *, registry, specification, entropy):
        request, signed = tmp_path / "request.json", tmp_path / "signed.json"
        told = {"registry": registry, "specification": specification}
        issue_with_witness(name, witness.public, request_file=request, entropy=entropy, **told)
        sign_request(request, witness_key=witness.key, out=signed)
        issue_with_witness(name, signed, **told)
        with registry.unit_of_work() as uow:
            return type("Issued", (), {"record": uow.key_sets.get(name)})

    monkeypatch.setattr(test_family_trace, "issue_key_set", issued)
    return Family(registry)


def export(trace, out, registry, **options):
    return export_evidence(trace, out, registry=registry, key=OWNER, **options)


def test_trace_of_a_witnessed_family_is_exported_and_opens_the_named_word_alone(
    registry, catalog, suspect_directory, family, tmp_path
):
    document, _ = run(suspect_directory, registry, catalog, answering(family.copy(NAMES[4])))
    out = tmp_path / "bundle.json"
    exported = export(document["trace_id"], out, registry)
    assert exported.audit_id == document["candidates"][0]["audit_id"]
    assert exported.to_json()["named"] == [NAMES[4]]
    (word,) = exported.evidence.words
    assert (word.licensee, word.marks) == (NAMES[4], family.words[NAMES[4]])
    assert any("1 of 20 licensees are opened" in warning for warning in exported.warnings)
    found = verify_bundle(out, signer=OWNER.public_key.hex)
    assert (found.valid, found.verdict, [item["licensee"] for item in found.named]) == (True, "MATCH", [NAMES[4]])
    assert not any(name in str(exported.evidence.to_json()) for name in NAMES if name != NAMES[4])


def test_family_that_names_nobody_gives_a_bundle_that_accuses_nobody(
    registry, catalog, suspect_directory, family, tmp_path
):
    document, _ = run(suspect_directory, registry, catalog, answering(family.keys_of(range(16))))
    assert (document["verdict"], named(document)) == ("INCONCLUSIVE", [])
    export(document["trace_id"][:10], tmp_path / "bundle.json", registry)
    found = verify_bundle(tmp_path / "bundle.json")
    assert (found.valid, found.verdict, found.named) == (True, "INCONCLUSIVE", ())
    assert found.accusation.startswith("NOBODY IS NAMED (INCONCLUSIVE)")


def test_secret_of_a_self_attested_family_is_opened_with_agreement_and_a_warning(
    registry, catalog, suspect_directory, tmp_path
):
    family = Family(registry)
    document, _ = run(suspect_directory, registry, catalog, answering(family.copy(NAMES[4])))
    with pytest.raises(UsageError, match="whole secret"):
        export(document["trace_id"], tmp_path / "bundle.json", registry)
    exported = export(document["trace_id"], tmp_path / "bundle.json", registry, disclose_secret=True)
    (warning,) = [warning for warning in exported.warnings if "the words of all 20 licensees" in warning]
    assert "names of others can be confirmed by guessing" in warning
    assert exported.to_json()["named"] == [NAMES[4]]


def test_words_that_were_altered_in_the_registry_are_not_exported(
    registry, catalog, suspect_directory, family, tmp_path
):
    from sqlalchemy import text

    document, _ = run(suspect_directory, registry, catalog, answering(family.copy(NAMES[4])))
    with registry.engine.begin() as connection:
        for trigger in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars():
            connection.execute(text(f"DROP TRIGGER {trigger}"))
        connection.execute(text("UPDATE code_word SET number = number + 100 WHERE number = 4"))
        connection.execute(text("UPDATE code_word SET number = 4 WHERE number = 5"))
        connection.execute(text("UPDATE code_word SET number = 5 WHERE number = 104"))
    with pytest.raises(EvidenceError, match="code or words"):
        export(document["trace_id"], tmp_path / "bundle.json", registry)
    assert not (tmp_path / "bundle.json").exists()


def test_trace_of_two_families_is_exported_by_its_audits(registry, catalog, suspect_directory, tmp_path):
    family = Family(registry)
    Family(registry, "other", entropy=lambda count: b"7" * count)
    document, _ = run(
        suspect_directory, registry, catalog, answering(family.copy(NAMES[0])), families=["family", "other"]
    )
    with pytest.raises(UsageError, match="is about 2 families") as refused:
        export(document["trace_id"], tmp_path / "bundle.json", registry)
    assert all(item["audit_id"] in refused.value.advice for item in document["candidates"])
    with pytest.raises(UnknownNameError, match="tr-nothing"):
        export("tr-nothing", tmp_path / "bundle.json", registry)


def test_family_without_words_is_evidence_of_a_key_set(registry, catalog, suspect_directory, tmp_path):
    from fpvec_audit.services.keys import open_key_set

    issue_key_set("family", registry=registry, specification=family_specification(8, decoys=200), licensee="Carol")
    document, _ = run(suspect_directory, registry, catalog, answering(open_key_set("family", registry=registry).issued))
    exported = export(document["trace_id"], tmp_path / "bundle.json", registry, disclose_secret=True)
    assert (exported.verification.verdict, exported.verification.accusation) == ("MATCH", "")
