import pytest

from fpvec_audit.errors import SettingsError
from fpvec_audit.settings import load_settings


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


def test_the_home_is_not_created_by_looking(tmp_path):
    settings = load_settings({"home": tmp_path / "home"}, environment={}, directory=tmp_path)
    assert not settings.home.exists()
