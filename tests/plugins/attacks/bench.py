"""What the tests of weight attacks share: bound parameters, contexts and small models."""

from fpvec_audit.api import NO_PROGRESS, AttackContext
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.attack_spec import bind_spec
from tests.tiny import tensors_of

CATALOG = load_catalog()


def bound(attack, text=""):
    """Return an attack's parameters as the command line binds them: ``bound(ATTACK, "ratio=0.3")``."""
    (chain,) = bind_spec(f"{attack.name}:{text}" if text else attack.name, lambda name: attack.Parameters)
    return chain.links[0].parameters


def context(tmp_path, architecture=None, *, seed=3, progress=NO_PROGRESS, **more):
    """Return a context with an empty staging directory."""
    staging = tmp_path / "staging"
    staging.mkdir(exist_ok=True)
    adapter = None if architecture is None else CATALOG.architectures[architecture]
    return AttackContext(adapter, staging, seed, "cpu", progress, **more)


def attacked(attack, source, tmp_path, text="", *, architecture="gpt2", name="target", **more):
    """Attack a checkpoint and return the tensors of the result."""
    target = tmp_path / name
    attack.apply(source, target, bound(attack, text), context(tmp_path, architecture, **more))
    assert not list((tmp_path / "staging").iterdir())
    return tensors_of(target)


def is_layer(name):
    """Say whether a stored tensor of a tiny model is a matrix of attention or MLP."""
    return name.endswith(".weight") and (".attn." in name or ".self_attn." in name or ".mlp." in name)
