import pytest

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.tables import SCHEMA_REVISION
from fpvec_audit.services.history import ledger_entries
from fpvec_audit.services.registry import check_registry, init_registry, upgrade_registry
from fpvec_audit.services.verification import verify_registry
from tests.registry.builders import opened, url_of


@pytest.fixture
def file(tmp_path):
    return tmp_path / "home" / "registry.db"


def test_init_makes_a_registry_once(file):
    first, second = init_registry(url_of(file)), init_registry(url_of(file))
    assert (first.before, second.before) == ("", first.needed)
    assert first.current
    assert second.current
    assert first.to_json()["location"] == str(file)


def test_upgrade_makes_or_keeps(file):
    assert upgrade_registry(url_of(file)).to_json()["before"] == ""
    assert upgrade_registry(url_of(file)).to_json()["before"] == SCHEMA_REVISION


def test_check_changes_nothing_and_names_problems(file):
    with pytest.raises(RegistryError, match="there is no registry"):
        check_registry(url_of(file))
    assert not file.exists()
    with opened(file) as registry:
        assert check_registry(url_of(file)).current
        with registry.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE job")
        state = check_registry(url_of(file))
    assert not state.current
    assert "job" in state.to_json()["problems"][0]


def test_check_of_an_empty_file_says_that_there_is_none(file):
    file.parent.mkdir()
    file.touch()
    state = check_registry(url_of(file))
    assert not state.current
    assert "holds no registry" in state.problems[0]


def test_log_shows_the_newest_entries_oldest_first(file):
    with opened(file) as registry:
        with registry.unit_of_work() as uow:
            for number in range(5):
                uow.ledger.append("thing.done", f"thing-{number}", {"number": number})
        assert [entry["serial"] for entry in ledger_entries(registry=registry, limit=2)] == [4, 5]
        assert len(ledger_entries(registry=registry)) == 5
        assert ledger_entries(registry=registry, limit=0) == []


def test_verify_names_the_first_fault(file):
    with opened(file) as registry:
        empty = verify_registry(registry=registry).to_json()
        assert (empty["valid"], empty["entries"], empty["head"], empty["first_fault"]) == (True, 0, "", None)
        with registry.unit_of_work() as uow:
            for number in range(3):
                last = uow.ledger.append("thing.done", f"thing-{number}", {"number": number})
        good = verify_registry(registry=registry)
        assert (good.valid, good.entries, good.head) == (True, 3, last.digest)
        with registry.engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER ledger_no_update")
            connection.exec_driver_sql("UPDATE ledger SET subject = 'other' WHERE serial = 2")
        bad = verify_registry(registry=registry)
        assert not bad.valid
        assert bad.to_json()["first_fault"]["serial"] == 2
