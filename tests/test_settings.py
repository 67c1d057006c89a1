import pytest

from fpvec_audit.errors import SettingsError
from fpvec_audit.settings import ALONE, VaultSecrets, Worker, launched_worker, load_settings, vault_secrets


def test_command_line_outranks_environment_which_outranks_the_file(tmp_path):
    (tmp_path / "fpvec.toml").write_text('device = "cpu"\nbackend = "vllm"\nhome = "from-file"\n', encoding="utf-8")
    settings = load_settings(
        {"home": tmp_path / "from-option", "backend": None},
        environment={"FPVEC_HOME": "from-environment", "FPVEC_BACKEND": "transformers"},
        directory=tmp_path,
    )
    assert settings.home == tmp_path / "from-option"
    assert settings.backend == "transformers"
    assert settings.device == "cpu"


def test_the_registry_lies_in_the_home_unless_told_otherwise(tmp_path):
    settings = load_settings({"home": tmp_path}, environment={}, directory=tmp_path)
    assert settings.registry_url == f"sqlite:///{tmp_path / 'registry.db'}"
    other = load_settings({"home": tmp_path, "registry": "sqlite:///else.db"}, environment={}, directory=tmp_path)
    assert other.registry_url == "sqlite:///else.db"


@pytest.mark.parametrize(
    ("content", "problem"),
    [("devise = 'cpu'", "unknown setting 'devise'"), ("device = 3", "device is 3"), ("device =", "not valid TOML")],
)
def test_a_bad_settings_file_names_the_fault(tmp_path, content, problem):
    (tmp_path / "fpvec.toml").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=problem):
        load_settings({}, environment={}, directory=tmp_path)


def test_scratch_lies_in_the_home_unless_it_is_set(tmp_path):
    settings = load_settings({"home": tmp_path}, environment={}, directory=tmp_path)
    assert settings.scratch_directory == tmp_path / "cache" / "scratch"
    environment = {"FPVEC_SCRATCH": str(tmp_path / "local"), "FPVEC_SCRATCH_SIZE": "2 TB"}
    settings = load_settings({"home": tmp_path}, environment=environment, directory=tmp_path)
    assert (settings.scratch_directory, settings.scratch_bytes) == (tmp_path / "local", 2 * 10**12)
    with pytest.raises(SettingsError, match="scratch_size is 'much', which is no size"):
        _ = load_settings({"scratch_size": "much"}, environment={}, directory=tmp_path).scratch_bytes


def test_the_home_is_not_created_by_looking(tmp_path):
    settings = load_settings({"home": tmp_path / "home"}, environment={}, directory=tmp_path)
    assert not settings.home.exists()


def test_vault_takes_one_secret_from_the_environment_and_shows_none(tmp_path):
    assert vault_secrets(environment={}) == VaultSecrets()
    given = vault_secrets("FPVEC_NEW_VAULT", {"FPVEC_NEW_VAULT_KEY": "ab" * 32, "FPVEC_VAULT_PASSPHRASE": "other"})
    assert (given.key, given.passphrase) == ("ab" * 32, "")
    assert "ab" not in repr(given)
    with pytest.raises(SettingsError, match="FPVEC_VAULT_KEY and FPVEC_VAULT_PASSPHRASE are both set") as caught:
        vault_secrets(environment={"FPVEC_VAULT_KEY": "one-secret", "FPVEC_VAULT_PASSPHRASE": "another-secret"})
    assert "-secret" not in str(caught.value)


def test_a_launcher_says_which_process_this_is():
    assert launched_worker({}) == ALONE == Worker(0, 1)
    assert launched_worker({"RANK": "1", "WORLD_SIZE": "4"}) == Worker(1, 4)
    for rank, processes in (("4", "4"), ("x", "2"), ("0", "-1"), ("0", "0")):
        with pytest.raises(SettingsError, match=f"RANK is '{rank}' and WORLD_SIZE '{processes}'"):
            launched_worker({"RANK": rank, "WORLD_SIZE": processes})
