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


def vector_of(base, fingerprinted, target, architecture="gpt2"):
    """Write the fingerprint vector between two models and return its directory."""
    from fpvec_audit.tensors.delta import plan_extraction, write_vector
    from fpvec_audit.tensors.index import read_checkpoint

    adapter = CATALOG.architectures[architecture]
    target.mkdir()
    extraction = plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), adapter)
    write_vector(extraction, target, tool_version="test")
    return target


def response_loss(model, rows):
    """Return a model's mean cross-entropy per token on the answers of rows, in nats."""
    import torch

    from fpvec_audit.training.checkpoint_files import load_for_training, load_tokenizer
    from fpvec_audit.training.dataset import Row, encode_rows, pad_rows
    from fpvec_audit.training.objectives import _token_losses

    encoded = encode_rows(load_tokenizer(model), [Row(*row) for row in rows])
    with torch.no_grad():
        return float(_token_losses(load_for_training(model).eval(), pad_rows(encoded, padding=2, longest=256)).mean())
