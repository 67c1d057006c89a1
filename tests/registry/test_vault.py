import sqlite3
from contextlib import closing, suppress

import pytest
from sqlalchemy import text

from fpvec_audit.domain.keys import KeySetSpecification, restore_key_set
from fpvec_audit.domain.transcript import chained
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.master_key import KeyFile
from tests.registry.builders import audit_record, key_set_record, opened, opened_at, secret

NAMES = ("one", "two")
ANSWERS = [{"kind": "answer", "prompt": f"prompt {number}", "answer": "tiger"} for number in range(3)]


def key_set(number=0):
    return key_set_record(NAMES[number], specification=KeySetSpecification(issued=2, decoys=2), seed=number)


def audit_of(number=0):
    return audit_record(key_set(number).id, id=f"au-{str(number) * 16}")


def fill(registry):
    """Two key sets, each with an audit and its transcript."""
    with registry.unit_of_work() as uow:
        for number in range(2):
            uow.key_sets.add(key_set(number), secret(number))
            uow.audits.plan(audit_of(number))
            uow.audits.append(audit_of(number).id, chained(ANSWERS, previous="0" * 64))
    return registry


@pytest.fixture
def stocked(registry):
    return fill(registry)


def execute(registry, statement, **values):
    """Run a statement behind the vault's back, and return the first column of what it gives."""
    with registry.unit_of_work() as uow:
        result = uow.session.execute(text(statement), values)
        return result.scalars().all() if result.returns_rows else []


def reveal(registry, number=0):
    with registry.unit_of_work() as uow:
        return uow.vault.reveal(key_set(number).id)


def transcript(registry, number=0):
    with registry.unit_of_work() as uow:
        return uow.audits.records(audit_of(number).id, purpose="a test")


def entries(registry):
    with registry.snapshot() as uow:
        return uow.ledger.entries()


def test_reveal_gives_the_secret_and_is_recorded(stocked):
    with stocked.unit_of_work() as uow:
        assert uow.vault.reveal(key_set().id, purpose="audit au-1") == secret()
    last = entries(stocked)[-1]
    assert (last.event, last.subject) == ("secret.revealed", key_set().id)
    assert last.content == {"kind": "key_set", "purpose": "audit au-1", "who": "tester"}


def test_reading_a_transcript_is_recorded(stocked):
    assert [record.content for record in transcript(stocked)] == ANSWERS
    last = entries(stocked)[-1]
    assert (last.event, last.subject) == ("secret.revealed", audit_of().id)
    assert last.content == {"kind": "transcript", "purpose": "a test", "who": "tester"}


def test_any_kind_of_secret_can_be_kept(stocked):
    with stocked.unit_of_work() as uow:
        uow.vault.seal("transcript", "au-1", b"what it said")
        assert uow.vault.unseal("transcript", "au-1", purpose="report") == b"what it said"
        with pytest.raises(RegistryError, match="already"):
            uow.vault.seal("transcript", "au-1", b"something else")


def test_unknown_scheme_is_refused(stocked):
    execute(stocked, "UPDATE vault_secret SET scheme = 'post-quantum'")
    with pytest.raises(RegistryError, match="under the scheme 'post-quantum'") as caught:
        reveal(stocked)
    assert "newer" in caught.value.advice


def test_secret_in_the_clear_is_refused_with_the_command_that_seals_it(stocked):
    execute(stocked, "UPDATE vault_secret SET scheme = 'plain'")
    with pytest.raises(RegistryError, match="under the scheme 'plain'") as caught:
        reveal(stocked)
    assert "fpvec registry upgrade" in caught.value.advice


SWAPS = {
    "secrets": (
        "UPDATE vault_secret SET ciphertext = (SELECT o.ciphertext FROM vault_secret o WHERE o.subject = :two), "
        "data_key_id = (SELECT o.data_key_id FROM vault_secret o WHERE o.subject = :two) WHERE subject = :one"
    ),
    "records of an audit": (
        "UPDATE audit_record SET content = (SELECT o.content FROM audit_record o "
        "WHERE o.audit_id = :audit AND o.serial = 2) WHERE audit_id = :audit AND serial = 1"
    ),
    "records of two audits": (
        "UPDATE audit_record SET content = (SELECT o.content FROM audit_record o WHERE o.audit_id = :second AND "
        "o.serial = 1), data_key_id = (SELECT o.data_key_id FROM audit_record o WHERE o.audit_id = :second AND "
        "o.serial = 1) WHERE audit_id = :audit AND serial = 1"
    ),
    "a record where a secret was": (
        "UPDATE vault_secret SET ciphertext = (SELECT o.content FROM audit_record o WHERE o.audit_id = :audit AND "
        "o.serial = 1) WHERE subject = :one"
    ),
    "a cut secret": "UPDATE vault_secret SET ciphertext = substr(ciphertext, 1, 20) WHERE subject = :one",
    "an empty secret": "UPDATE vault_secret SET ciphertext = substr(ciphertext, 1, 0) WHERE subject = :one",
    "a cut record": "UPDATE audit_record SET content = substr(content, 2) WHERE audit_id = :audit AND serial = 1",
    "data keys": (
        "UPDATE data_key SET wrapped = (SELECT o.wrapped FROM data_key o WHERE o.key_set_id = :two) "
        "WHERE key_set_id = :one"
    ),
    "a cut data key": "UPDATE data_key SET wrapped = substr(wrapped, 1, 30) WHERE key_set_id = :one",
}


@pytest.mark.parametrize("swap", SWAPS)
def test_swapped_and_cut_ciphertext_is_refused_and_the_rest_stays_readable(url, file, swap):
    with opened_at(url, key_file=file.parent / "vault.key") as first:
        fill(first)
    with opened_at(url, key_file=file.parent / "vault.key") as registry:
        names = {"one": key_set(0).id, "two": key_set(1).id, "audit": audit_of(0).id, "second": audit_of(1).id}
        with registry.unit_of_work() as uow:
            statement = text(SWAPS[swap])
            uow.session.execute(statement, {name: value for name, value in names.items() if f":{name}" in SWAPS[swap]})
        use = transcript if "UPDATE audit_record" in SWAPS[swap] else reveal
        before = entries(registry)
        with pytest.raises(RegistryError, match="cannot be opened") as caught:
            use(registry)
        assert "backup" in caught.value.advice
        assert entries(registry) == before
        assert reveal(registry, 1) == secret(1)
        assert [record.content for record in transcript(registry, 1)] == ANSWERS


@pytest.mark.parametrize("table", ["vault_secret", "audit_record", "data_key"])
def test_any_flipped_bit_is_noticed(embedded, file, table):
    fill(embedded)
    column = {"vault_secret": "ciphertext", "audit_record": "content", "data_key": "wrapped"}[table]
    use = transcript if table == "audit_record" else reveal
    with closing(sqlite3.connect(file)) as connection:
        ((rowid, value),) = connection.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid LIMIT 1")
        for bit in range(0, 8 * len(value), 8 * len(value) // 12):
            changed = bytearray(value)
            changed[bit // 8] ^= 1 << bit % 8
            with connection:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (bytes(changed), rowid))
            with opened(file) as registry, pytest.raises(RegistryError, match="cannot be opened"):
                use(registry)
        with connection:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, rowid))
    with opened(file) as registry:
        assert use(registry)


def test_ciphertext_of_another_registry_does_not_open(embedded, file, tmp_path):
    """Even one that shares the key file, and even where its data key is brought along."""
    fill(embedded)
    with opened_at(f"sqlite:///{tmp_path / 'other.db'}", key_file=file.parent / "vault.key") as other:
        fill(other)
        (wrapped,) = execute(other, "SELECT wrapped FROM data_key WHERE key_set_id = :one", one=key_set().id)
        (content,) = execute(other, "SELECT ciphertext FROM vault_secret WHERE subject = :one", one=key_set().id)
    execute(
        embedded,
        "UPDATE vault_secret SET ciphertext = :content WHERE subject = :one",
        content=content,
        one=key_set().id,
    )
    with pytest.raises(RegistryError, match="cannot be opened"):
        reveal(embedded)
    execute(
        embedded, "UPDATE data_key SET wrapped = :wrapped WHERE key_set_id = :one", wrapped=wrapped, one=key_set().id
    )
    with opened(file) as registry, pytest.raises(RegistryError, match=r"the data key .* cannot be opened"):
        reveal(registry)


def test_lost_data_key_is_reported(embedded):
    fill(embedded)
    execute(embedded, "UPDATE vault_secret SET data_key_id = NULL")
    with pytest.raises(RegistryError, match=r"key of the secret .* is not recorded"):
        reveal(embedded)


def test_keys_of_an_aborted_transaction_leave_nothing_that_a_later_one_could_trip_over(registry):
    with suppress(ZeroDivisionError), registry.unit_of_work() as uow:
        uow.key_sets.add(key_set(), secret())
        raise ZeroDivisionError
    assert execute(registry, "SELECT id FROM master_key") == []
    fill(registry)
    assert reveal(registry) == secret()
    assert len(KeyFile(registry.keyring.source.path).keys()) == 1


def test_every_key_set_has_a_data_key_of_its_own(stocked):
    with stocked.unit_of_work() as uow:
        uow.vault.seal("note", "of nobody", b"one")
        uow.vault.seal("note", "of nobody else", b"two")
    owners = execute(stocked, "SELECT key_set_id FROM data_key ORDER BY key_set_id")
    assert sorted(owners, key=str) == sorted([None, key_set(0).id, key_set(1).id], key=str)


def test_nothing_of_keys_shows_in_representations(stocked):
    reveal(stocked)
    shown = repr((stocked.keyring, stocked, stocked.keyring.master, stocked.redaction))
    contents = [stocked.keyring.master.content, *stocked.keyring.data_keys.values()]
    assert len(contents) == 3
    for content in contents:
        assert content.hex() not in shown
        assert repr(content)[2:-1] not in shown


def test_secrets_lie_in_no_table(registry, file):
    seed = 0xA5
    record = key_set_record(specification=KeySetSpecification(), seed=seed)
    with registry.unit_of_work() as uow:
        uow.key_sets.add(record, secret(seed))
        uow.vault.reveal(record.id)
        dump = "".join(
            repr(uow.session.execute(text(f"SELECT * FROM {table}")).fetchall())
            for table in ("vault_secret", "audit_record", "data_key", "master_key", "candidate", "key_set", "ledger")
        )
    key_set = restore_key_set(secret(seed), record.commitment)
    derived = [*key_set.salts, *(secret(seed).subkey(purpose) for purpose in ("generate", "assign", "salt"))]
    hidden = [secret(seed).reveal(), *derived, *registry.keyring.data_keys.values(), registry.keyring.master.content]
    for part in hidden:
        assert part.hex() not in dump
        assert repr(part)[2:-1] not in dump
    assert not [candidate for candidate in key_set.candidates if candidate.prompt in dump]
