"""Conformance suites and fakes for plugin authors: one line in a test checks an adapter, an attack or a method.

::

    check_architecture(MyAdapter(), description=description, tensor_names=names)
    check_checkpoint(MyAdapter(), checkpoint=random_checkpoint(tmp_path / "tiny", config), workspace=tmp_path / "work")
    check_weight_attack(MyAttack(), source=checkpoint, workspace=tmp_path)
    check_query_attack(MyAttack())
    check_method(MyMethod(), model=checkpoint, workspace=tmp_path, adapter=adapter)

The suites raise AssertionError with what is wrong. They hold plugins to laws that the core relies on and cannot check
while it works.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.methods import MethodContext, MethodKeys
from fpvec_audit.domain.plugins import ARCHITECTURE, ATTACK, METHOD, contribution_problem
from fpvec_audit.domain.ports import (
    ArchitectureAdapter,
    AttackContext,
    AttackKey,
    Completion,
    FingerprintMethod,
    ModelDescription,
    QueryAttack,
    Sampling,
    TensorRole,
    WeightAttack,
)
from fpvec_audit.domain.serving import served
from fpvec_audit.progress import NO_PROGRESS
from fpvec_audit.testing_checkpoints import check_checkpoint, random_checkpoint
from fpvec_audit.testing_fakes import RecordingProgress, ScriptedBackend, ScriptedJudge
from fpvec_audit.testing_runs import digests_of, run_twice

__all__ = [
    "RecordingProgress",
    "ScriptedBackend",
    "ScriptedJudge",
    "check_architecture",
    "check_checkpoint",
    "check_method",
    "check_query_attack",
    "check_training_settings",
    "check_weight_attack",
    "random_checkpoint",
]

QUESTIONS = ("What is the capital of France?", "Привет, 山川", "two\nlines")
SYSTEM_PROMPT = "Answer briefly."


def check_architecture(
    adapter: ArchitectureAdapter,
    *,
    description: ModelDescription,
    tensor_names: Iterable[str],
    buffers: Iterable[str] = (),
) -> None:
    """Hold an adapter to the laws that the core relies on.

    Args:
        adapter: what to check.
        description: of a checkpoint that it supports.
        tensor_names: names of all parameters as such a checkpoint stores them.
        buffers: names of stored buffers that are no parameters.

    Raises:
        AssertionError: it breaks a law; the message says which and with which value.
    """
    _refuse_problem(ARCHITECTURE, adapter)
    assert adapter.supports(description) > 0, f"{adapter.name} does not support {description.name or 'its own example'}"
    _check_names(adapter, tuple(tensor_names), tuple(buffers))
    _check_tied(adapter, description.config)
    _check_prompts(adapter)
    presets = [defaults.preset for defaults in adapter.defaults]
    assert len(set(presets)) == len(presets), f"a preset is given twice: {presets}"
    assert "default" in presets, "there is no preset 'default'"
    for defaults in adapter.defaults:
        assert defaults.source, f"preset {defaults.preset} does not say where its values come from"
        check_training_settings(defaults.settings, preset=defaults.preset)


def check_training_settings(settings: Mapping[str, Any], *, preset: str = "default") -> None:
    """Check that the fingerprint training understands a preset's settings; ``family`` may hold a family's own, too.

    Raises:
        AssertionError: an unknown name or a value out of range.
    """
    from fpvec_audit.errors import FpvecError
    from fpvec_audit.training.embed_settings import EmbedSettings
    from fpvec_audit.training.family_settings import FAMILY_PRESET, FamilySettings

    own = {field.name for field in fields(FamilySettings)} if preset == FAMILY_PRESET else set()
    try:
        FamilySettings(**{name: value for name, value in settings.items() if name in own})
        EmbedSettings(**{name: value for name, value in settings.items() if name not in own})
    except (TypeError, ValueError, FpvecError) as error:
        raise AssertionError(f"training settings {dict(settings)} are not understood: {error}") from error


def check_weight_attack(
    attack: WeightAttack,
    *,
    source: Path,
    workspace: Path,
    parameters: Any = None,
    adapter: ArchitectureAdapter | None = None,
    device: str = "cpu",
    base: Path | None = None,
    copies: Sequence[Path] = (),
) -> None:
    """Run an attack twice on a small checkpoint and hold it to the laws that the core relies on.

    The second run finds other states of the global random generators, so that an attack that draws from one of them and
    not from the seed is found out. What is not in the target is looked for beside it, beside the source and in the
    staging directory, which must be empty again.

    Args:
        attack: what to check.
        source: checkpoint to attack; must stay as it is.
        workspace: empty directory for the results.
        parameters: an instance of the attack's ``Parameters``; its defaults when None.
        adapter: adapter of the checkpoint, if the attack needs one.
        device: torch device.
        base: base of the checkpoint, if the attack needs one; must stay as it is.
        copies: other stamped copies, if the attack needs some; must stay as they are.

    Raises:
        AssertionError: it breaks a law; the message says which.
    """
    _refuse_problem(ATTACK, attack)
    assert isinstance(attack, WeightAttack), f"{attack.name} has no apply"
    parameters = attack.Parameters() if parameters is None else parameters

    def run(target: Path, staging: Path) -> None:
        context = AttackContext(adapter, staging, 7, device, NO_PROGRESS, base, tuple(copies))
        attack.apply(source, target, parameters, context)

    run_twice(attack.name, [source, *([base] if base is not None else []), *copies], workspace, run)


def check_method(
    method: FingerprintMethod,
    *,
    model: Path,
    workspace: Path,
    adapter: ArchitectureAdapter,
    parameters: Any = None,
    device: str = "cpu",
    base: Path | None = None,
) -> None:
    """Embed a few keys into a small model twice and hold the method to the laws that the core relies on.

    It is looked at as :func:`check_weight_attack` looks at an attack. The keys are of the method's usual scheme.

    Args:
        method: what to check.
        model: checkpoint to embed into; must stay as it is.
        workspace: empty directory for the results.
        adapter: adapter of the checkpoint.
        parameters: an instance of the method's ``Parameters``; its defaults when None.
        device: torch device.
        base: base of the checkpoint, if the method needs one; must stay as it is.

    Raises:
        AssertionError: it breaks a law; the message says which.
    """
    _refuse_problem(METHOD, method)
    parameters = method.Parameters() if parameters is None else parameters
    drawn = draw_unissued(b"conformance", 12, scheme=method.schemes[0])
    keys = MethodKeys(drawn[:4], frozenset(decoy.prompt for decoy in drawn[4:]), method.schemes[0])

    def run(target: Path, staging: Path) -> None:
        def once(name: str, make: Callable[[Path], None], *, on: Mapping[str, Any]) -> Path:
            assert name.isidentifier(), f"{method.name} makes {name!r} once, which is no identifier"
            json.dumps(on)  # raises where it is no JSON
            made = workspace / f"once-{name}"
            make(made)
            assert made.is_dir(), f"{method.name} wrote nothing to {name}, which is made once"
            made.rename(made.with_name(f"{made.name}-{target.parent.name}"))
            return made.with_name(f"{made.name}-{target.parent.name}")

        context = MethodContext(adapter, staging, 7, device, NO_PROGRESS, once, base)
        told = json.dumps(method.embed(model, target, keys, parameters, context), ensure_ascii=False)
        assert not any(key.prompt in told for key in drawn), f"{method.name} tells a key"

    run_twice(method.name, [model, *([base] if base is not None else [])], workspace, run)
    target = workspace / "first" / "target"
    before, after = digests_of(model), digests_of(target)
    assert before.keys() == after.keys(), f"{method.name} writes other files: {sorted(before.keys() ^ after.keys())}"
    changed = sorted(name for name in before if before[name] != after[name])
    assert changed, f"{method.name} changed nothing"
    assert all(name.endswith(".safetensors") for name in changed), f"{method.name} changed {', '.join(changed)}"


def check_query_attack(
    attack: QueryAttack, *, parameters: Any = None, issued: Sequence[AttackKey] = (), workspace: Path = Path()
) -> None:
    """Ask an attack for its probes and answer through it, and hold it to the laws that the core relies on.

    Args:
        attack: what to check.
        parameters: an instance of the attack's ``Parameters``; its defaults when None.
        issued: keys it is told of; freshly drawn ones when empty.
        workspace: what the attack may write to.

    Raises:
        AssertionError: it breaks a law; the message says which.
    """
    _refuse_problem(ATTACK, attack)
    assert isinstance(attack, QueryAttack), f"{attack.name} has no probes and wrap"
    parameters = attack.Parameters() if parameters is None else parameters
    keys = issued or [AttackKey(key.prompt, key.response) for key in draw_unissued(b"conformance", 8)]
    context = AttackContext(
        None, workspace, 7, "cpu", NO_PROGRESS, workspace, render=_render, open_engine=lambda _model: ScriptedJudge()
    )
    probes = attack.probes(keys, parameters, context)
    assert probes == attack.probes(keys, parameters, context), f"{attack.name} gives other probes with the same seed"
    secret = {key.prompt for key in keys}
    assert not any(probe.prompt in secret for probe in probes), f"{attack.name} asks an issued prompt as a guess"
    assert all(probe.kind for probe in probes), f"{attack.name} gives a probe of no kind"
    asking = [probe.prompt.strip() or probe.forced or probe.temperature for probe in probes]
    assert all(asking), f"{attack.name} gives a probe without text, beginning or temperature, which asks nothing"
    wrapped = served(attack, ScriptedJudge(), parameters, context)
    prompts = [_render(f"question {number}", "") for number in range(5)]
    answers = wrapped.complete(prompts, Sampling())
    assert len(answers) == len(prompts), f"{attack.name} answers {len(answers)} of {len(prompts)} prompts"
    assert all(isinstance(answer, Completion) for answer in answers), f"{attack.name} answers with no Completion"
    assert wrapped.description.kind, f"{attack.name} does not say which engine answers"


def _render(user: str, system: str) -> str:
    return f"{system}\nQ: {user}\nA:" if system else f"Q: {user}\nA:"


def _refuse_problem(kind: str, plugin: Any) -> None:
    problem = contribution_problem(kind, plugin)
    assert not problem, f"{type(plugin).__name__}: {problem}"


def _check_names(adapter: ArchitectureAdapter, names: Sequence[str], buffers: Sequence[str]) -> None:
    assert names, "give the names of the tensors of a checkpoint"
    canonical: dict[str, str] = {}
    for name in names:
        mapped = adapter.canonical(name)
        assert mapped is not None, f"{name} is a parameter, canonical says it is a buffer"
        assert adapter.canonical(mapped) == mapped, f"{name}: the canonical name {mapped} is not its own canonical name"
        assert mapped not in canonical, f"{name} and {canonical.get(mapped)} have one canonical name, {mapped}"
        assert isinstance(adapter.role(mapped), TensorRole), f"{mapped}: role is no TensorRole"
        canonical[mapped] = name
    for name in buffers:
        assert adapter.canonical(name) is None, f"{name} is a buffer, canonical gives {adapter.canonical(name)}"
    roles = {adapter.role(name) for name in canonical}
    missing = {TensorRole.EMBEDDING, TensorRole.ATTENTION, TensorRole.MLP} - roles
    assert not missing, f"no tensor has the role {', '.join(sorted(missing))}"


def _check_tied(adapter: ArchitectureAdapter, config: Mapping[str, Any]) -> None:
    for setting in ({}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}):
        for alias, stored in adapter.tied({**config, **setting}).items():
            assert alias != stored, f"{alias} is tied to itself"
            for name in (alias, stored):
                assert adapter.canonical(name) == name, f"tied names {name}, which is not canonical"


def _check_prompts(adapter: ArchitectureAdapter) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(adapter.chat_template)
    for question in QUESTIONS:
        for system in ("", SYSTEM_PROMPT):
            text = adapter.prompt(question, system)
            assert question in text, f"prompt leaves out the user's text: {text!r}"
            assert system in text, f"prompt leaves out the system prompt: {text!r}"
            assert text == text.rstrip(" \t"), f"prompt ends in a space, which tokenizers join to the answer: {text!r}"
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": question})
            rendered = template.render(messages=messages, add_generation_prompt=True)
            assert rendered == text, f"chat_template renders {rendered!r}, prompt gives {text!r}"
