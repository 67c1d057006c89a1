"""An audit is made once, however often it is asked for: whole, cut short, or under way."""

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import BackendError, OperationError, UsageError
from fpvec_audit.services.audit_once import audit_once
from fpvec_audit.services.audit_settings import EndpointSettings, checked_settings
from fpvec_audit.services.keys import issue_key_set, open_key_set
from tests.services.test_audit import SPECIFICATION, Scripted, ScriptedEngines, answering
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture(scope="module")
def suspect(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("suspects") / "suspect", "gpt2")


@pytest.fixture
def keys(registry):
    issue_key_set("acme", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(range(count)))
    return open_key_set("acme", registry=registry)


@pytest.fixture
def ask(registry, catalog, suspect, keys):
    issued = [keys.candidates[index] for index in keys.issued_indices]

    def audit_it(answers=None, **options):
        engines = ScriptedEngines({"suspect": answers or answering(issued)})
        place = options.pop("place", str(suspect))
        settings = options.pop("settings", checked_settings(tests=["exact"]))
        return audit_once(
            place, key_set="acme", settings=settings, registry=registry, catalog=catalog, backend=engines, **options
        )

    return audit_it


def audits(registry):
    with registry.snapshot() as uow:
        return uow.audits.list()


def test_same_audit_is_recognised(ask, registry):
    first, second = ask(), ask()
    assert first.verdict == "MATCH"
    assert not first.already
    assert second.already
    assert (second.audit_id, second.verdict) == (first.audit_id, first.verdict)
    assert len(audits(registry)) == 1


def test_other_settings_or_a_salt_make_another_audit(ask, registry):
    ask()
    assert not ask(settings=checked_settings(tests=["exact"], alpha="1e-5")).already
    assert not ask(salt="fr-1").already
    assert ask(salt="fr-1").already
    assert len(audits(registry)) == 3


def test_audit_that_was_cut_short_is_gone_on_with(ask, registry):
    def fail(prompt):
        raise BackendError("the machine went away")

    with pytest.raises(BackendError):
        ask(Scripted(fail))
    (left,) = audits(registry)
    assert left.ended_at is None
    assert ask().audit_id == left.id
    assert len(audits(registry)) == 1


def test_audit_that_was_cut_short_under_another_engine_is_made_anew(ask, registry):
    def fail(prompt):
        raise BackendError("the machine went away")

    with pytest.raises(BackendError):
        ask(Scripted(fail, version="2"))
    assert ask().verdict == "MATCH"
    assert ask().already
    assert len(audits(registry)) == 2


def test_audit_that_is_under_way_elsewhere_is_refused(ask, registry, keys, suspect):
    def fail(prompt):
        raise BackendError("the machine went away")

    with pytest.raises(BackendError):
        ask(Scripted(fail))
    with registry.unit_of_work() as uow:
        uow.jobs.start("audit", {"suspect": str(suspect), "key_set": uow.key_sets.get("acme").id})
    with pytest.raises(OperationError, match="under way in process"):
        ask()


def test_audit_of_what_lies_elsewhere_names_its_place_and_is_the_same_wherever_it_is_fetched(ask, registry, suspect):
    first = ask(place="s3://bucket/suspect", directory=suspect)
    assert audits(registry)[0].suspect == "s3://bucket/suspect"
    assert ask().audit_id == first.audit_id


def test_endpoint_without_a_model_is_refused(registry, catalog, keys):
    with pytest.raises(UsageError, match="which of its models"):
        audit_once(
            "https://host/v1", key_set="acme", settings=checked_settings(endpoint=EndpointSettings()),
            registry=registry, catalog=catalog,
        )  # fmt: skip
