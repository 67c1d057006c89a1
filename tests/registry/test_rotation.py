"""The master key is exchanged whole or not at all, whenever the process is killed."""

import os
import signal

import pytest
from sqlalchemy import event, text

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.given_key import GivenKey, Passphrase
from fpvec_audit.registry.master_key import KEY_BYTES, KeyFile, MasterKey
from fpvec_audit.registry.rotation import rotate
from tests.registry.builders import key_set_record, opened_at, secret

NAMES = ("one", "two", "three")


def fill(registry):
    with registry.unit_of_work() as uow:
        for seed, name in enumerate(NAMES):
            uow.key_sets.add(key_set_record(name, seed=seed), secret(seed))


def readable(registry):
    with registry.unit_of_work() as uow:
        return [uow.vault.reveal(key_set_record(name, seed=seed).id) for seed, name in enumerate(NAMES)] == [
            secret(seed) for seed in range(len(NAMES))
        ]


def entries(registry, name):
    with registry.snapshot() as uow:
        return [entry for entry in uow.ledger.entries() if entry.event == name]


def assert_refused(use, words):
    with pytest.raises(RegistryError, match=words):
        use()


@pytest.fixture
def key_file(file):
    return KeyFile(file.parent / "vault.key")


@pytest.fixture
def stocked(registry):
    fill(registry)
    return registry


def test_new_key_is_in_the_file_alone_and_the_former_one_is_kept_aside(stocked, key_file, url):
    (former,) = key_file.keys()
    done = rotate(stocked, key_file)
    (now,) = key_file.keys()
    assert (done.before, done.now, done.source, done.data_keys) == (former.id, now.id, "file", 3)
    assert key_file.retired.keys() == [former]
    assert key_file.retired.path.stat().st_mode & 0o777 == key_file.path.stat().st_mode & 0o777 == 0o600
    assert (done.retired_to, done.remark) == (str(key_file.retired.path), "")
    (entry,) = entries(stocked, "vault.rekeyed")
    assert entry.content == {"before": former.id, "data_keys": 3, "source": "file", "who": "tester"}
    assert readable(stocked)
    with opened_at(url, key_file=key_file.path) as again:
        assert readable(again)
    key_file.retired.remove()
    with opened_at(url, key_file=key_file.path) as without_former:
        assert readable(without_former)
    wrong = f"sealed with a key of id {now.id}, but FPVEC_VAULT_KEY is {former.id}"
    with opened_at(url, key_file=key_file.path, master_key=GivenKey(former.content.hex())) as with_former:
        assert_refused(lambda: readable(with_former), wrong)


def test_no_ciphertext_of_a_secret_changes_and_every_wrapped_key_does(stocked, key_file):
    def contents(column, table):
        with stocked.snapshot() as uow:
            return uow.session.execute(text(f"SELECT {column} FROM {table} ORDER BY id")).scalars().all()

    secrets, keys = contents("ciphertext", "vault_secret"), contents("wrapped", "data_key")
    rotate(stocked, key_file)
    assert contents("ciphertext", "vault_secret") == secrets
    assert not set(contents("wrapped", "data_key")) & set(keys)


def test_key_can_go_to_the_environment_to_a_passphrase_and_back(stocked, key_file, url):
    (first,) = key_file.keys()
    given = GivenKey("ab" * KEY_BYTES)
    assert rotate(stocked, given).before == first.id
    assert not key_file.path.exists()
    assert key_file.retired.keys() == [first]
    phrase = Passphrase("correct horse battery staple")
    rotate(stocked, phrase)
    with opened_at(url, key_file=key_file.path, master_key=Passphrase("correct horse battery staple")) as again:
        assert readable(again)
        assert rotate(again, key_file).source == "file"
    with opened_at(url, key_file=key_file.path) as back:
        assert readable(back)
        assert rotate(back, given).now == MasterKey(b"\xab" * KEY_BYTES).id  # one that was in use before may come back
        assert readable(back)
    sources = [entry.content["source"] for entry in entries(stocked, "vault.rekeyed")]
    assert sources == ["environment", "passphrase", "file", "environment"]


def test_same_key_is_refused_and_nothing_changes(stocked, key_file):
    (key,) = key_file.keys()
    with pytest.raises(RegistryError, match="already"):
        rotate(stocked, GivenKey(key.content.hex()))
    assert key_file.keys() == [key]
    assert entries(stocked, "vault.rekeyed") == []


def test_wrong_key_is_refused_before_anything_is_written(stocked, key_file, url):
    before = key_file.path.read_bytes()
    with opened_at(url, key_file=key_file.path, master_key=GivenKey("cd" * KEY_BYTES)) as other:
        assert_refused(lambda: rotate(other, key_file), "sealed with a key of id")
    assert key_file.path.read_bytes() == before
    assert readable(stocked)


def test_registry_that_has_sealed_nothing_gets_its_key_from_where_it_was_said(registry, key_file, url):
    assert rotate(registry, Passphrase("correct horse battery staple")).before == ""
    fill(registry)
    assert not key_file.path.exists()
    with opened_at(url, key_file=key_file.path) as without, pytest.raises(RegistryError, match="PASSPHRASE"):
        readable(without)


def test_another_registry_that_shares_the_file_stays_readable(stocked, key_file, tmp_path):
    with opened_at(f"sqlite:///{tmp_path / 'other.db'}", key_file=key_file.path) as other:
        fill(other)
        rotate(stocked, key_file)
        rotate(stocked, key_file)
    with opened_at(f"sqlite:///{tmp_path / 'other.db'}", key_file=key_file.path) as other:
        assert readable(other)
        rotate(other, key_file)
        assert readable(other)
    assert readable(stocked)
    assert len(key_file.keys()) == 2  # one for each
    assert len(key_file.retired.keys()) == 2  # the one that they shared, and the first registry's second


def test_process_that_goes_on_finds_the_key_that_another_exchanged(stocked, key_file, url):
    with opened_at(url, key_file=key_file.path) as other:
        assert readable(other)
        rotate(stocked, key_file)
        with other.unit_of_work() as uow:
            uow.vault.seal("note", "about nothing", b"new")
        assert readable(other)
    with stocked.unit_of_work() as uow:
        assert uow.vault.unseal("note", "about nothing", purpose="test") == b"new"


def test_two_exchanges_at_once_are_one_and_a_refusal(stocked, key_file, monkeypatch):
    keep = KeyFile.replace

    def meanwhile(file, keys):
        monkeypatch.setattr(KeyFile, "replace", keep)
        with pytest.raises(RegistryError, match="another exchange of keys"):
            rotate(stocked, key_file)
        keep(file, keys)

    monkeypatch.setattr(KeyFile, "replace", meanwhile)
    rotate(stocked, key_file)
    assert len(key_file.keys()) == len(key_file.retired.keys()) == 1
    assert readable(stocked)


def test_former_key_that_cannot_be_moved_stays_and_is_told(stocked, key_file):
    key_file.retired.path.mkdir()
    done = rotate(stocked, key_file)
    assert "could not be moved" in done.remark
    assert len(key_file.keys()) == 2
    assert readable(stocked)
    key_file.retired.path.rmdir()
    assert rotate(stocked, key_file).remark == ""
    assert (len(key_file.keys()), len(key_file.retired.keys())) == (1, 2)


def killed_at(moment, url, key_file):
    """Exchange the key in a process that is killed just before its ``moment``-th step; return whether it was."""
    pid = os.fork()
    if not pid:
        try:
            left = [moment]

            def step(*_):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

            with opened_at(url, key_file=key_file.path) as registry:
                for name in ("fsync", "replace", "link", "unlink"):
                    real = getattr(os, name)
                    setattr(os, name, lambda *given, real=real, **named: (step(), real(*given, **named))[1])
                event.listen(registry.engine, "commit", step)
                rotate(registry, key_file)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_killed_at_any_moment_leaves_a_registry_whose_key_is_there(stocked, key_file, url):
    moment, outcomes = 1, set()
    while killed_at(moment, url, key_file):
        with opened_at(url, key_file=key_file.path) as registry:
            assert readable(registry)
            rekeyed = entries(registry, "vault.rekeyed")
            outcomes.add((len(rekeyed) > 0, len(key_file.keys())))
            with registry.snapshot() as uow:
                assert uow.ledger.verify() is None
        moment += 1
    assert moment > 10
    assert {done for done, _ in outcomes} == {True, False}  # killed before the commit, and after it
    with opened_at(url, key_file=key_file.path) as registry:
        assert readable(registry)
        for left in key_file.path.parent.glob(".vault.key.*"):  # unfinished files, as old as they become
            os.utime(left, (0, 0))
        rotate(registry, key_file)
        assert readable(registry)
    assert {path.name for path in key_file.path.parent.iterdir() if "key" in path.name} == {
        "vault.key", "vault.key.retired", ".vault.key-lock",
    }  # fmt: skip
