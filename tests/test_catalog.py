"""Faults of plugins, made with distributions that exist only as metadata and modules that exist only in memory."""

import json
import subprocess
import sys
import types
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest

from fpvec_audit.api import ModelDescription, TensorRole, hookimpl
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.plugins import PluginState
from fpvec_audit.errors import AmbiguousNameError, ArchitectureError, PluginError, UnknownNameError, UsageError
from fpvec_audit.hookspecs import PROJECT
from fpvec_audit.plugin_code import plugin_code


class FakeDistribution(Distribution):
    def __init__(self, name, version="1.0"):
        self._text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"

    def read_text(self, filename):
        return self._text if filename == "METADATA" else None

    def locate_file(self, path):
        return Path(path)


@dataclass(frozen=True)
class Adapter:
    name: str = "made_up"
    fits: str = "made_up"
    rank: int = 10
    chat_template: str = ""
    defaults: tuple = ()

    def supports(self, description):
        return self.rank if description.config.get("model_type") == self.fits else 0

    def role(self, tensor_name):
        return TensorRole.OTHER

    def canonical(self, tensor_name):
        return tensor_name

    def tied(self, config):
        return {}

    def prompt(self, user, system=""):
        return user


@dataclass(frozen=True)
class Settings:
    strength: float = 1.0


@dataclass(frozen=True)
class Attack:
    Parameters: ClassVar[type] = Settings
    name: str = "bend"
    description: str = "Bends."

    def apply(self, source, target, parameters, context):
        pass


@dataclass
class Shelf:
    """Puts modules where entry points find them."""

    monkeypatch: pytest.MonkeyPatch
    points: list = field(default_factory=list)

    def put(self, point, distribution="stranger", version="1.0", **members):
        name = f"fake_plugin_{len(self.points)}"
        module = types.ModuleType(name)
        vars(module).update(members)
        self.monkeypatch.setitem(sys.modules, name, module)
        return self.point(point, name, distribution, version)

    def point(self, point, value, distribution="stranger", version="1.0"):
        made = EntryPoint(point, value, PROJECT)._for(FakeDistribution(distribution, version))
        self.points.append(made)
        return self

    def load(self):
        return load_catalog(self.points)


@pytest.fixture
def shelf(monkeypatch):
    return Shelf(monkeypatch)


def architectures(*adapters):
    return hookimpl(lambda: list(adapters))


def attacks(*given):
    return hookimpl(lambda: list(given))


def described(kind="made_up", **tokenizer):
    return ModelDescription({"model_type": kind}, tokenizer, "my-model")


def problem(catalog, name):
    (info,) = [info for info in catalog.plugins if info.name == name]
    assert info.state is PluginState.FAILED
    return info.problem


def test_built_ins_are_found_through_their_entry_points():
    catalog = load_catalog()
    assert {"gpt2", "bloom", "llama2", "vicuna"} <= set(catalog.architectures)
    assert {"guessing", "fine_tune"} <= set(catalog.attacks)
    assert catalog.versions()["architecture gpt2"].startswith("fpvec-audit ")
    assert not [info for info in catalog.plugins if info.distribution == "fpvec-audit" and info.problem]


def test_loading_all_plugins_loads_nothing_heavy():
    code = (
        "import sys\nfrom fpvec_audit.catalog import load_catalog\nload_catalog()\n"
        "heavy = {'torch','transformers','vllm','numpy','scipy','sqlalchemy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plugin_that_raises_at_import_hits_itself_only(shelf, monkeypatch, tmp_path):
    (tmp_path / "explodes_at_import.py").write_text("print('chatter')\nraise RuntimeError('no licence key')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog = (
        shelf.point("broken", "explodes_at_import", "bad-package", "0.3")
        .put("good", fpvec_architectures=architectures(Adapter()))
        .load()
    )
    assert set(catalog.architectures) == {"made_up"}
    assert "RuntimeError: no licence key" in problem(catalog, "broken")
    with pytest.raises(UsageError, match=r"plugin 'broken' of bad-package 0.3 failed: .*no licence key"):
        catalog.attack("broken")


def test_a_plugin_that_exits_or_prints_at_import_stops_nothing_and_leaves_stdout_alone(
    shelf, monkeypatch, tmp_path, capsys
):
    (tmp_path / "exits_at_import.py").write_text("print('chatter')\nraise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "SystemExit: 3" in problem(shelf.point("leaver", "exits_at_import").load(), "leaver")
    assert capsys.readouterr().out == ""


def test_a_missing_module_is_a_failed_plugin(shelf):
    assert "ModuleNotFoundError" in problem(shelf.point("gone", "no_such_module_anywhere").load(), "gone")


def test_an_entry_point_that_names_no_module_is_a_failed_plugin(shelf):
    assert problem(shelf.point("odd", "not a module!").load(), "odd") == (
        "its entry point is 'not a module!', which names no module"
    )


def test_a_plugin_that_raises_in_its_hook_hits_itself_only(shelf):
    def fails():
        raise ValueError("bad day")

    catalog = shelf.put("sad", fpvec_attacks=hookimpl(fails)).put("good", fpvec_attacks=attacks(Attack())).load()
    assert set(catalog.attacks) == {"bend"}
    assert problem(catalog, "sad") == "fpvec_attacks failed: ValueError: bad day"


def test_a_generator_that_raises_half_way_gives_nothing(shelf):
    def half():
        yield Attack()
        raise ValueError("ran dry")

    catalog = shelf.put("half", fpvec_attacks=hookimpl(half)).load()
    assert not catalog.attacks
    assert "ran dry" in problem(catalog, "half")


def test_a_misspelt_hook_suggests_the_right_one(shelf):
    catalog = shelf.put("typo", fpvec_atacks=attacks(Attack())).load()
    assert problem(catalog, "typo") == "it implements the unknown hook 'fpvec_atacks'; did you mean fpvec_attacks?"


def test_a_hook_with_arguments_is_refused(shelf):
    catalog = shelf.put("eager", fpvec_attacks=hookimpl(lambda config: [Attack()])).load()
    assert "cannot be registered" in problem(catalog, "eager")


def test_a_module_without_marked_hooks_says_how_to_mark_them(shelf):
    assert "hookimpl" in problem(shelf.put("bare", fpvec_attacks=lambda: [Attack()]).load(), "bare")


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (None, "returned None"),
        ("gpt2", "returned str"),
        (7, "returned int"),
        ([Adapter], "a class, not an object"),
        ([object()], "its name is None"),
        ([Adapter(name="Not Lower")], "no lower-case identifier"),
        ([types.SimpleNamespace(name="half", supports=len)], "it lacks role, canonical, tied, prompt"),
        ([Adapter(chat_template=None)], "chat_template is no text"),
        ([Adapter(defaults=None)], "defaults are no sequence"),
        ([Adapter(fits=None)], "supports an empty configuration, so it would claim every checkpoint"),
    ],
)
def test_an_adapter_of_the_wrong_shape_fails_with_the_reason(shelf, returned, reason):
    catalog = shelf.put("odd", fpvec_architectures=hookimpl(lambda: returned)).load()
    assert not catalog.architectures
    assert reason in problem(catalog, "odd")


@dataclass(frozen=True)
class Demanding:
    strength: float


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (types.SimpleNamespace(name="idle", description="", Parameters=Settings), "it lacks apply, or probes and wrap"),
        (
            types.SimpleNamespace(name="both", description="", Parameters=Settings, apply=len, probes=len, wrap=len),
            "it has both",
        ),
        (types.SimpleNamespace(name="mute", Parameters=Settings, apply=len), "description is no text"),
        (
            types.SimpleNamespace(name="loose", description="", Parameters=dict, apply=len),
            "Parameters are no dataclass",
        ),
        (
            types.SimpleNamespace(name="wants", description="", Parameters=Demanding, apply=len),
            "parameters strength have no default",
        ),
    ],
)
def test_an_attack_of_the_wrong_shape_fails_with_the_reason(shelf, attack, reason):
    catalog = shelf.put("odd", fpvec_attacks=attacks(attack)).load()
    assert reason in problem(catalog, "odd")


def test_of_two_strangers_with_one_name_neither_is_used_and_both_are_named(shelf):
    catalog = (
        shelf.put("one", "red-team", "1.0", fpvec_attacks=attacks(Attack()))
        .put("two", "blue-team", "2.0", fpvec_attacks=attacks(Attack(), Attack(name="twist")))
        .load()
    )
    assert set(catalog.attacks) == {"twist"}
    assert [info.state for info in catalog.plugins if info.name == "bend"] == [PluginState.CLASH] * 2
    with pytest.raises(AmbiguousNameError, match=r"blue-team 2.0 and red-team 1.0") as caught:
        catalog.attack("bend")
    assert caught.value.exit_code == 2


def test_a_built_in_keeps_its_name(shelf):
    mine, theirs = Attack(description="ours"), Attack(description="theirs")
    catalog = (
        shelf.put("bend", "stranger", "9", fpvec_attacks=attacks(theirs))
        .put("bend", "fpvec-audit", "0.1", fpvec_attacks=attacks(mine))
        .load()
    )
    assert catalog.attack("bend") is mine
    assert "fpvec-audit 0.1 also gives" in next(info.problem for info in catalog.plugins if info.problem)


def test_an_attack_and_an_adapter_may_share_a_name(shelf):
    catalog = (
        shelf.put("a", fpvec_attacks=attacks(Attack(name="same")))
        .put("b", fpvec_architectures=architectures(Adapter(name="same")))
        .load()
    )
    assert catalog.attack("same").name == catalog.architecture("same").name


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match=r"did you mean guessing.*\(`fpvec attack list`"):
        load_catalog().attack("guesing")
    with pytest.raises(UnknownNameError, match="did you mean llama2"):
        load_catalog().architecture_for(described(), override="llama")


def test_the_most_specific_adapter_wins(shelf):
    catalog = shelf.put("a", fpvec_architectures=architectures(Adapter(), Adapter(name="closer", rank=20))).load()
    assert catalog.architecture_for(described()).name == "closer"


def test_two_adapters_that_fit_alike_are_refused_until_one_is_named(shelf):
    catalog = (
        shelf.put("a", "alpha", fpvec_architectures=architectures(Adapter()))
        .put("b", "beta", fpvec_architectures=architectures(Adapter(name="rival")))
        .load()
    )
    with pytest.raises(
        ArchitectureError, match=r"my-model: the adapters made_up \(alpha 1.0\) and rival \(beta 1.0\) .*--architecture"
    ):
        catalog.architecture_for(described())
    assert catalog.architecture_for(described(), override="rival").name == "rival"


def test_an_unknown_architecture_says_what_was_found_and_what_is_known():
    with pytest.raises(ArchitectureError, match=r"my-model: no adapter for architecture 'gptj'.*bloom, gemma, gpt2"):
        load_catalog().architecture_for(described("gptj"))
    with pytest.raises(ArchitectureError, match=r"its config.json"):
        load_catalog().architecture_for(ModelDescription({}))


def test_an_adapter_that_raises_when_asked_does_not_hide_the_others(shelf):
    class Touchy(Adapter):
        def supports(self, description):
            return len(description.config["model_type"]) // 0 if description.config else 0

    catalog = shelf.put("a", fpvec_architectures=architectures(Touchy(name="touchy"), Adapter())).load()
    assert catalog.architecture_for(described()).name == "made_up"
    with pytest.raises(ArchitectureError, match=r"architecture touchy of stranger 1.0 failed: ZeroDivisionError"):
        catalog.architecture_for(described("other"))


def test_an_adapter_that_raises_while_it_is_used_names_its_owner(shelf):
    class Fragile(Adapter):
        def canonical(self, tensor_name):
            return {}[tensor_name]

    adapter = shelf.put("a", "red-team", fpvec_architectures=architectures(Fragile())).load().architecture("made_up")
    with pytest.raises(PluginError, match=r"architecture made_up of red-team 1.0 failed: KeyError: 'x'"):
        adapter.canonical("x")
    assert (adapter.name, adapter.prompt("q"), adapter.tied({}), adapter.role("x")) == ("made_up", "q", {}, "other")
    assert (adapter.chat_template, adapter.defaults) == ("", ())


@pytest.mark.parametrize(
    ("method", "arguments", "told"),
    [
        ("role", ("x",), "role returned str, not TensorRole"),
        ("canonical", ("x",), "canonical returned int, not str"),
        ("tied", ({},), "tied returned list, not Mapping"),
        ("prompt", ("q",), "prompt returned NoneType, not str"),
        ("supports", (ModelDescription({"model_type": "made_up"}),), "supports returned NoneType, not int"),
    ],
)
def test_an_adapter_that_returns_nonsense_while_it_is_used_names_its_owner(shelf, method, arguments, told):
    class Fragile(Adapter):
        def supports(self, description):
            return None if description.config else 0

        def role(self, tensor_name):
            return "attention"

        def canonical(self, tensor_name):
            return 7

        def tied(self, config):
            return []

        def prompt(self, user, system=""):
            return None

    adapter = shelf.put("a", "red-team", fpvec_architectures=architectures(Fragile())).load().architecture("made_up")
    with pytest.raises(PluginError, match=rf"architecture made_up of red-team 1.0 failed: TypeError: {told}"):
        getattr(adapter, method)(*arguments)


@dataclass(frozen=True)
class Unresolved:
    place: "NotImported" = None  # noqa: F821


def test_parameters_that_cannot_be_read_are_a_failed_plugin(shelf):
    attack = types.SimpleNamespace(name="vague", description="", Parameters=Unresolved, apply=len)
    catalog = shelf.put("vague", fpvec_attacks=attacks(attack)).load()
    assert "NameError: name 'NotImported' is not defined" in problem(catalog, "vague")


def test_what_plugin_code_raises_names_its_owner_and_our_own_errors_pass(shelf):
    catalog = shelf.put("a", "red-team", "1.0", fpvec_attacks=attacks(Attack())).load()
    info = catalog.info("attack", "bend")
    with pytest.raises(PluginError, match=r"attack bend of red-team 1.0 failed: KeyError: 'x'"), plugin_code(info):
        raise KeyError("x")
    with pytest.raises(UsageError, match="mine"), plugin_code(info):
        raise UsageError("mine")


def test_the_catalog_is_frozen_and_lists_as_json(shelf):
    catalog = shelf.put("a", fpvec_attacks=attacks(Attack())).load()
    with pytest.raises(TypeError):
        catalog.attacks["other"] = Attack()
    assert json.loads(json.dumps([info.to_json() for info in catalog.plugins])) == [
        {
            "name": "bend",
            "kind": "attack",
            "distribution": "stranger",
            "version": "1.0",
            "state": "working",
            "problem": "",
        }
    ]
