import sqlite3
from contextlib import closing

import pytest

from fpvec_audit.domain.keys import KeySetSpecification, restore_key_set
from fpvec_audit.errors import RegistryError
from tests.registry.builders import key_set_record, secret


@pytest.fixture
def stocked(registry):
    with registry.unit_of_work() as uow:
        uow.key_sets.add(key_set_record(specification=KeySetSpecification()), secret())
    return registry


def test_reveal_gives_the_secret_and_is_recorded(stocked):
    identifier = key_set_record(specification=KeySetSpecification()).id
    with stocked.unit_of_work() as uow:
        assert uow.vault.reveal(identifier, purpose="audit au-1") == secret()
    with stocked.unit_of_work() as uow:
        entry = uow.ledger.head()
    assert (entry.event, entry.subject, entry.content["purpose"]) == ("secret.revealed", identifier, "audit au-1")


def test_any_kind_of_secret_can_be_kept(stocked):
    with stocked.unit_of_work() as uow:
        uow.vault.seal("transcript", "au-1", b"what it said")
        assert uow.vault.unseal("transcript", "au-1", purpose="report") == b"what it said"
        with pytest.raises(RegistryError, match="already"):
            uow.vault.seal("transcript", "au-1", b"something else")


def test_unknown_scheme_is_refused(stocked):
    with stocked.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE vault_secret SET scheme = 'aes-256-gcm'")
    with pytest.raises(RegistryError, match="aes-256-gcm") as caught, stocked.unit_of_work() as uow:
        uow.vault.reveal(key_set_record(specification=KeySetSpecification()).id)
    assert "newer" in caught.value.advice


def test_secrets_lie_in_no_table_but_the_vault(registry, file):
    seed = 0xA5
    record = key_set_record(specification=KeySetSpecification(), seed=seed)
    with registry.unit_of_work() as uow:
        uow.key_sets.add(record, secret(seed))
        uow.vault.reveal(record.id)
    key_set = restore_key_set(secret(seed), record.commitment)
    derived = [*key_set.salts, *(secret(seed).subkey(purpose) for purpose in ("generate", "assign", "salt"))]
    hidden = [*derived, *(candidate.prompt.encode() for candidate in key_set.candidates)]
    hidden += [part.hex().encode() for part in (secret(seed).reveal(), *derived)]
    with closing(sqlite3.connect(file)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in set(tables) - {"vault_secret"}:
            dump = repr(connection.execute(f"SELECT * FROM {table}").fetchall())
            assert secret(seed).reveal().hex() not in dump
            assert repr(secret(seed).reveal()) not in dump
            assert not [candidate for candidate in key_set.candidates if f"'{candidate.response}'" in dump]
    files = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert not [part for part in hidden if part in files]
