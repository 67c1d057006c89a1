"""Where master keys come from: a private file, the environment, a passphrase."""

import multiprocessing
import os

import pytest

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.given_key import GivenKey, Passphrase
from fpvec_audit.registry.master_key import KEY_BYTES, KeyFile, KnownKey, MasterKey, NoKey

KEY = MasterKey(bytes(range(KEY_BYTES)))
KNOWN = KnownKey(KEY.id, "file", {})


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path / "home" / "vault.key")


def write(file, text, mode=0o600):
    file.path.parent.mkdir(exist_ok=True)
    file.path.write_text(text)
    file.path.chmod(mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_file_is_made_on_first_use_for_its_owner_alone_in_a_home_that_was_not_there(file, mask):
    before = os.umask(mask)
    try:
        key, derivation = file.first()
    finally:
        os.umask(before)
    assert (file.path.stat().st_mode & 0o777, file.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert derivation == {}
    assert file.first()[0] == file.find(KnownKey(key.id, "file", {})) == key
    assert [path.name for path in file.path.parent.iterdir()] == ["vault.key"]


def make(path, barrier, found):
    barrier.wait(60)
    found.put(KeyFile(path).first()[0].id)


def test_processes_that_make_a_file_at_once_use_one_key(file):
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(8), context.Queue()
    processes = [context.Process(target=make, args=(file.path, barrier, found)) for _ in range(8)]
    for process in processes:
        process.start()
    identifiers = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert identifiers == {file.keys()[0].id}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o777])
def test_file_that_others_may_read_is_refused_with_the_command_that_mends_it(file, mode):
    write(file, f"{KEY.content.hex()}\n", mode)
    for use in (file.first, lambda: file.find(KNOWN)):
        with pytest.raises(RegistryError, match=f"may be read by others .mode {mode:04o}") as caught:
            use()
        assert f"chmod 600 {file.path}" in caught.value.advice
    file.path.chmod(0o400)
    assert file.find(KNOWN) == KEY


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "abc\n", f"{'0' * 63}g\n", f"{KEY.content.hex()}\nx\n", "é" * 64]
)
def test_file_that_is_no_key_file_is_refused_and_left_as_it_is(file, text):
    write(file, text)
    with pytest.raises(RegistryError, match="is no master key") as caught:
        file.first()
    assert "backed up" in caught.value.advice
    assert file.path.read_text() == text


def test_what_is_no_file_is_refused_without_waiting_for_it(file):
    file.path.parent.mkdir()
    os.mkfifo(file.path, 0o600)
    with pytest.raises(RegistryError, match="is no file"):
        file.first()
    file.path.unlink()
    file.path.mkdir(mode=0o700)
    with pytest.raises(RegistryError, match="is no file"):
        file.first()


def test_link_is_followed_and_one_to_nothing_is_refused(file, tmp_path):
    file.path.parent.mkdir()
    file.path.symlink_to(tmp_path / "elsewhere.key")
    with pytest.raises(RegistryError, match="symbolic link to nothing"):
        file.first()
    real = KeyFile(tmp_path / "elsewhere.key")
    key, _ = real.first()
    assert file.first()[0] == key
    file.replace([key, KEY])
    assert file.path.is_symlink()
    assert real.keys() == [key, KEY]


def test_missing_file_is_never_made_where_a_registry_needs_a_certain_key(file):
    with pytest.raises(RegistryError, match=f"the master key {KEY.id} is missing") as caught:
        file.find(KNOWN)
    assert "FPVEC_VAULT_KEY" in caught.value.advice
    assert not file.path.exists()


def test_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be"):
        KeyFile(tmp_path / "file" / "vault.key").first()


def test_given_key_is_taken_as_it_is(file):
    text = KEY.content.hex()
    assert GivenKey(f" {text.upper()}\n").find(KNOWN) == GivenKey(text).first()[0] == KEY
    with pytest.raises(RegistryError, match=f"sealed with a key of id {KEY.id}, but FPVEC_VAULT_KEY is mk-"):
        GivenKey("ab" * KEY_BYTES).find(KNOWN)


@pytest.mark.parametrize("text", ["", "hunter2", "g" * 64, "٣" * 64, "0" * 65])
def test_given_key_that_is_none_is_refused_without_repeating_it(text):
    with pytest.raises(RegistryError, match="FPVEC_VAULT_KEY is no master key") as caught:
        GivenKey(text).first()
    assert not text or text not in str(caught.value)
    assert "openssl rand" in caught.value.advice


def test_passphrase_leads_to_the_same_key_however_it_was_typed():
    key, derivation = Passphrase("Schlüssel 鍵").first()
    known = KnownKey(key.id, "passphrase", derivation)
    assert Passphrase("Schlu\u0308ssel 鍵").find(known) == key
    with pytest.raises(RegistryError, match=f"the passphrase is not that of the master key {key.id}"):
        Passphrase("schlüssel 鍵").find(known)
    with pytest.raises(RegistryError, match="FPVEC_VAULT_PASSPHRASE is set"):
        Passphrase("Schlüssel 鍵").find(KNOWN)
    assert (derivation["kdf"], derivation["n"], len(bytes.fromhex(derivation["salt"]))) == ("scrypt", 1 << 17, 16)


def test_passphrase_of_bytes_that_are_no_text_is_taken_and_never_repeated():
    source = Passphrase(os.fsdecode(b"p\xffss"))
    key, derivation = source.first()
    assert source.find(KnownKey(key.id, "passphrase", derivation)) == key
    with pytest.raises(RegistryError) as caught:
        source.find(KnownKey("mk-other", "passphrase", derivation))
    assert "ss" not in str(caught.value).replace("passphrase", "").replace("PASSPHRASE", "").split("–")[0]


COST = {"kdf": "scrypt", "n": 2, "r": 1, "p": 1, "salt": "00"}


@pytest.mark.parametrize("derivation", [{}, COST | {"kdf": "md5"}, COST | {"n": 1 << 40}, COST | {"salt": "x"}])
def test_derivation_that_is_none_or_too_costly_is_refused(derivation):
    with pytest.raises(RegistryError, match="does not say how"):
        Passphrase("x").find(KnownKey(KEY.id, "passphrase", derivation))


def test_no_key_says_what_was_looked_for():
    for use in (NoKey("nothing was there").first, lambda: NoKey("nothing was there").find(KNOWN)):
        with pytest.raises(RegistryError, match="nothing was there") as caught:
            use()
        assert "FPVEC_VAULT_KEY_FILE" in caught.value.advice


def test_nothing_secret_shows():
    text = KEY.content.hex()
    shown = repr((KEY, GivenKey(text), Passphrase("hunter2"), KNOWN))
    assert text not in shown
    assert "hunter2" not in shown
    assert repr(KEY.content)[2:-1] not in shown
    assert KEY.id not in text
