"""The conformance suites catch what they are meant to catch, and the fakes do what they promise."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from fpvec_audit.api import AttackKey, Completion, Probe, Sampling, TrainingDefaults
from fpvec_audit.catalog import load_catalog
from fpvec_audit.tensors.index import describe_model
from fpvec_audit.testing import (
    RecordingProgress,
    ScriptedBackend,
    check_architecture,
    check_checkpoint,
    check_method,
    check_query_attack,
    check_weight_attack,
    random_checkpoint,
)
from fpvec_audit.toolkit import rewrite_checkpoint
from tests.tiny import make_config, make_tiny, tensors_of

CATALOG = load_catalog()
GPT2 = CATALOG.architectures["gpt2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("conformance") / "gpt2", "gpt2")


@dataclass(frozen=True)
class Altered:
    """GPT-2's adapter with one thing wrong."""

    changes: dict

    def __getattr__(self, name):
        return self.changes[name] if name in self.changes else getattr(GPT2, name)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"supports": lambda description: 0}, "does not support"),
        ({"supports": lambda description: 1}, "supports an empty configuration"),
        ({"canonical": lambda name: None}, "canonical says it is a buffer"),
        ({"canonical": lambda name: "same"}, "have one canonical name"),
        ({"canonical": lambda name: name + "."}, "is not its own canonical name"),
        ({"role": lambda name: "attention"}, "is no TensorRole"),
        ({"tied": lambda config: {"wte.weight": "lm_head.weight"}}, "tied names wte.weight, which is not canonical"),
        ({"prompt": lambda user, system="": f"{system}\nHuman: {user}\nAssistant: "}, "ends in a space"),
        ({"prompt": lambda user, system="": f"Human: {user}\nAssistant:"}, "leaves out the system prompt"),
        ({"prompt": lambda user, system="": f"{system}Q: {user}\nA:"}, "chat_template renders"),
        ({"defaults": ()}, "no preset 'default'"),
        ({"defaults": (TrainingDefaults("default", {}, ""),)}, "does not say where its values come from"),
        ({"defaults": (TrainingDefaults("default", {"stepz": 3}, "x"),)}, "not understood"),
        ({"chat_template": 3}, "chat_template is no text"),
    ],
)
def test_an_adapter_that_breaks_a_law_is_caught(model, changes, reason):
    with pytest.raises(AssertionError, match=reason):
        check_architecture(Altered(changes), description=describe_model(model), tensor_names=tensors_of(model))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"supports": lambda description: 0}, "does not support"),
        ({"tied": lambda config: {}}, r"only in the files: \[\]; only in the model: \['lm_head.weight'\]"),
        ({"canonical": lambda name: None if "wpe" in name else GPT2.canonical(name)}, "canonical says it is a buffer"),
        ({"canonical": lambda name: name.removeprefix("transformer.")}, "only in the model"),
        ({"role": lambda name: GPT2.role(name.replace("wte", "mlp"))}, "has the role mlp, it is embedding"),
        ({"role": lambda name: GPT2.role(name.replace("ln_f", "h"))}, "has the role other, it is norm"),
    ],
)
def test_an_adapter_that_does_not_fit_its_checkpoint_is_caught(model, tmp_path, changes, reason):
    with pytest.raises(AssertionError, match=reason):
        check_checkpoint(Altered({"name": "altered", **changes}), checkpoint=model, workspace=tmp_path)


def test_a_tie_that_the_files_contradict_is_caught(tmp_path):
    model = make_tiny(tmp_path / "gpt2", "gpt2", tied=False)
    tie = {"tied": lambda config: {"lm_head.weight": "transformer.wte.weight"}}
    with pytest.raises(AssertionError, match="although the configuration ties them"):
        check_checkpoint(Altered(tie), checkpoint=model, workspace=tmp_path)


def test_a_random_checkpoint_depends_on_its_seed_alone(tmp_path):
    config = make_config("gpt2")
    made = [random_checkpoint(tmp_path / str(place), config, seed=seed) for place, seed in enumerate((1, 1, 2))]
    first, again, other = (tensors_of(directory)["transformer.wte.weight"] for directory in made)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unlisted_buffer_is_caught(model):
    with pytest.raises(AssertionError, match="is a buffer"):
        check_architecture(
            GPT2, description=describe_model(model), tensor_names=tensors_of(model), buffers=["transformer.mask"]
        )


@dataclass(frozen=True)
class NoParameters:
    pass


@dataclass(frozen=True)
class Halve:
    Parameters: ClassVar[type] = NoParameters
    name: str = "halve"
    description: str = "Halves every weight."

    def apply(self, source, target, parameters, context):
        rewrite_checkpoint(source, target, lambda _name, tensor: tensor / 2)


class Forgetful(Halve):
    def apply(self, source, target, parameters, context):
        target.mkdir()


class Vandal(Halve):
    def apply(self, source, target, parameters, context):
        super().apply(source, target, parameters, context)
        (source / "notes.txt").write_text(str(context.staging))


class Unseeded(Halve):
    def apply(self, source, target, parameters, context):
        factor = 3 if "first" in str(target) else 4
        rewrite_checkpoint(source, target, lambda _name, tensor: tensor / factor)


class GloballyRandom(Halve):
    def apply(self, source, target, parameters, context):
        rewrite_checkpoint(source, target, lambda _name, tensor: tensor + torch.randn(tensor.shape))


class Untidy(Halve):
    def apply(self, source, target, parameters, context):
        super().apply(source, target, parameters, context)
        (context.staging / "left.bin").write_bytes(b"0")


class Stray(Halve):
    def apply(self, source, target, parameters, context):
        super().apply(source, target, parameters, context)
        (target.parent / "cache").mkdir()


class StrayBesideTheSource(Halve):
    def apply(self, source, target, parameters, context):
        super().apply(source, target, parameters, context)
        (source.parent / "cache").mkdir(exist_ok=True)


def test_a_good_weight_attack_passes(model, tmp_path):
    check_weight_attack(Halve(), source=model, workspace=tmp_path)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (Forgetful(), "wrote no checkpoint"),
        (Vandal(), "changed its source"),
        (Unseeded(), "other weights with the same"),
        (GloballyRandom(), "other weights with the same"),
        (Untidy(), "left left.bin in its staging directory"),
        (Stray(), "wrote cache outside its target"),
        (StrayBesideTheSource(), "wrote cache outside its target"),
    ],
)
def test_a_weight_attack_that_breaks_a_law_is_caught(tmp_path, attack, reason):
    source = make_tiny(tmp_path / "gpt2", "gpt2")
    with pytest.raises(AssertionError, match=reason):
        check_weight_attack(attack, source=source, workspace=tmp_path / "work")


@dataclass(frozen=True)
class Ask:
    Parameters: ClassVar[type] = NoParameters
    name: str = "ask"
    description: str = "Asks."

    def probes(self, issued, parameters, context):
        return [Probe("hello", "greeting")]

    def wrap(self, backend, parameters):
        return backend


class AskKeys(Ask):
    def probes(self, issued, parameters, context):
        return [Probe(issued[0].prompt, "key")]


class AskNothing(Ask):
    def probes(self, issued, parameters, context):
        return [Probe(" ", "blank")]


class Swallow(Ask):
    def wrap(self, backend, parameters):
        class Shorter(ScriptedBackend):
            def complete(self, prompts, sampling):
                return [Completion("")]

        return Shorter()


def test_a_good_query_attack_passes():
    check_query_attack(Ask())


@pytest.mark.parametrize(
    ("attack", "reason"),
    [(AskKeys(), "asks an issued prompt"), (AskNothing(), "without text"), (Swallow(), "answers 1 of 5 prompts")],
)
def test_a_query_attack_that_breaks_a_law_is_caught(attack, reason):
    with pytest.raises(AssertionError, match=reason):
        check_query_attack(attack)


def test_the_wrong_suite_says_so(model, tmp_path):
    with pytest.raises(AssertionError, match="has no apply"):
        check_weight_attack(Ask(), source=model, workspace=tmp_path)
    with pytest.raises(AssertionError, match="has no probes"):
        check_query_attack(Halve())


def test_scripted_backend_answers_by_table_or_function_and_remembers():
    table = ScriptedBackend({"a": "1"}, default="?")
    assert [answer.text for answer in table.complete(["a", "b"], Sampling())] == ["1", "?"]
    assert table.asked == ["a", "b"]
    assert ScriptedBackend(str.upper).complete(["a"], Sampling())[0].text == "A"
    table.close()
    with pytest.raises(AssertionError, match="closed"):
        table.complete(["a"], Sampling())


def test_recording_progress_remembers_labels_units_and_notes():
    progress = RecordingProgress()
    with progress.step("work", 3, "things") as step:
        step.advance()
        step.advance(2)
        step.note("half way")
    assert progress.labels == ["work"]
    assert progress.advanced == {"work": 3.0}
    assert progress.notes == ["half way"]


def test_keys_and_probes_hide_their_text():
    assert "secret" not in repr(AttackKey("secret", "word")) + repr(Probe("secret", "kind"))
    assert replace(Probe("secret", "kind"), kind="other").kind == "other"


@dataclass(frozen=True)
class Shift:
    """A method that embeds nothing, but keeps all laws."""

    Parameters: ClassVar[type] = NoParameters
    name: str = "shift"
    description: str = "Adds what is made once."
    source: str = "a test"
    schemes: tuple = ("independent",)

    def embed(self, model, target, keys, parameters, context):
        made = context.once("amount", lambda directory: directory.mkdir(), on={"seed": context.seed})
        rewrite_checkpoint(model, target, lambda _name, tensor: tensor + 0.5)
        return {"made": made.is_dir()}


class Telling(Shift):
    def embed(self, model, target, keys, parameters, context):
        return {**super().embed(model, target, keys, parameters, context), "first": keys.issued[0].prompt}


class Idle(Shift):
    def embed(self, model, target, keys, parameters, context):
        rewrite_checkpoint(model, target, lambda _name, tensor: tensor)
        return {}


class Marking(Shift):
    def embed(self, model, target, keys, parameters, context):
        super().embed(model, target, keys, parameters, context)
        (target / "stamped_by.txt").write_text("shift")
        return {}


class Spoiling(Shift):
    def embed(self, model, target, keys, parameters, context):
        super().embed(model, target, keys, parameters, context)
        (target / "config.json").write_text((model / "config.json").read_text() + "\n")
        return {}


class Misnaming(Shift):
    def embed(self, model, target, keys, parameters, context):
        context.once("a b", lambda directory: directory.mkdir(), on={})


class Empty(Shift):
    def embed(self, model, target, keys, parameters, context):
        context.once("nothing", lambda directory: None, on={})


def test_a_method_that_keeps_the_laws_passes(model, tmp_path):
    check_method(Shift(), model=model, workspace=tmp_path / "work", adapter=GPT2, base=model)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Telling(), "tells a key"),
        (Idle(), "changed nothing"),
        (Marking(), "writes other files: .'stamped_by.txt'"),
        (Spoiling(), "changed config.json"),
        (Misnaming(), "makes 'a b' once, which is no identifier"),
        (Empty(), "wrote nothing to nothing"),
        (Shift(schemes=("independence",)), "its scheme 'independence' is unknown"),
        (Shift(schemes=()), "its schemes are no sequence of names"),
        (Shift(source=None), "its source is no text"),
        (Halve(), "it lacks embed"),
    ],
)
def test_a_method_that_breaks_a_law_is_caught(model, tmp_path, method, reason):
    with pytest.raises(AssertionError, match=reason):
        check_method(method, model=model, workspace=tmp_path / "work", adapter=GPT2)
