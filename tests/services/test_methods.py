import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.cli.main import run
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.plugins import METHOD, PluginInfo
from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.errors import KeySetError, OutputError, PluginError, UnknownNameError, UsageError
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.method_costs import compare_costs
from fpvec_audit.services.methods import describe_methods, embed_by_method
from fpvec_audit.services.models import register_model, show_model
from fpvec_audit.toolkit import recompute_checkpoint, rewrite_checkpoint
from tests.tiny import make_tiny, perturb, tensors_of


@dataclass(frozen=True)
class Amount:
    amount: float = 0.5
    fails: bool = False


@dataclass(frozen=True)
class Shift:
    """Adds a number that is "made once"; remembers what it was handed."""

    Parameters: ClassVar[type] = Amount
    name: str = "shift"
    description: str = "Adds a number."
    source: str = "a test"
    schemes: tuple = ("independent", "rare-word")
    seen: ClassVar[list] = []

    def embed(self, model, target, keys, parameters, context):
        self.seen.append((keys, context))

        def make(directory):
            directory.mkdir()
            (directory / "amount").write_text(str(parameters.amount))

        made = context.once("amount", make, on={"amount": parameters.amount})
        amount = float((made / "amount").read_text())
        rewrite_checkpoint(model, target, lambda _name, tensor: tensor + amount)
        if parameters.fails:
            raise ZeroDivisionError("by nought")
        return {"added": amount}


class Idle(Shift):
    def embed(self, model, target, keys, parameters, context):
        return {}


@pytest.fixture
def tools(registry, tmp_path):
    catalog = load_catalog()
    made = {"shift": Shift(), "idle": Idle(name="idle")}
    infos = [PluginInfo(name, METHOD, "stranger", "1.0") for name in made]
    catalog = replace(catalog, methods={**catalog.methods, **made}, plugins=(*catalog.plugins, *infos))
    Shift.seen.clear()
    return {"registry": registry, "catalog": catalog, "workspace": tmp_path / "home"}


@pytest.fixture
def base(tmp_path):
    return make_tiny(tmp_path / "base", "gpt2")


@pytest.fixture
def model(tmp_path, base):
    return perturb(base, tmp_path / "model")


@pytest.fixture(autouse=True)
def key_sets(registry):
    for name, scheme in (("acme", "independent"), ("signed", "signature")):
        issue_key_set(name, registry=registry, specification=KeySetSpecification(scheme, issued=4, decoys=12))


def test_a_model_is_embedded_recorded_and_bound_to_its_base(tmp_path, tools, registry, base, model):
    out = tmp_path / "out"
    result = embed_by_method(model, method="shift:amount=0.25", key_set="acme", out=out, base=base, seed=3, **tools)
    assert tensors_of(out)["transformer.wte.weight"].allclose(tensors_of(model)["transformer.wte.weight"] + 0.25)
    (keys, context) = Shift.seen[0]
    assert len(keys.issued) == 4
    assert len(keys.avoid) == 12
    assert not keys.avoid & {key.prompt for key in keys.issued}
    assert repr(keys) == "MethodKeys(4 issued, scheme='independent', <redacted>)"
    assert (context.base, context.seed, context.adapter.name) == (base, 3, "gpt2")
    record = show_model(result.embedded, registry=registry).record
    assert (record.role, record.parent) == (ModelRole.FINGERPRINTED, result.model)
    with registry.unit_of_work() as uow:
        key_set = uow.key_sets.get("acme")
        assert key_set.base == result.bound_to == show_model("base", registry=registry).record.id
        assert [own.id for own in uow.models.own(key_set.id, base=key_set.base, most=9)] == [result.embedded]
        (entry,) = uow.ledger.about(result.embedded, events=("model.embedded",))
        assert uow.jobs.list()[-1].state is JobState.SUCCEEDED
    assert entry.content["method"] == "shift"
    assert entry.content["plugin"] == "stranger 1.0"
    assert entry.content["parameters"] == {"amount": "0.25", "fails": False}
    document = json.loads(json.dumps(result.to_json()))
    assert document["detail"] == {"added": 0.25}
    assert document["cost"]["once"]["seconds"] >= 0
    assert document["cost"]["each"]["peak_memory_bytes"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "home", "model", "out"]


def test_what_is_made_once_is_found_by_the_next_model_of_the_base(tmp_path, tools, base, model):
    other = perturb(base, tmp_path / "other", seed=2)
    results = [
        embed_by_method(path, method=method, key_set="acme", out=tmp_path / f"out{at}", base=base, **tools)
        for at, (path, method) in enumerate([(model, "shift"), (other, "shift"), (other, "shift:amount=2")])
    ]
    assert [result.reused for result in results] == [False, True, False]
    assert results[0].once == results[1].once
    kept = [path for path in (tmp_path / "home" / "methods").iterdir() if path.is_dir()]
    assert len(kept) == 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_the_base_that_the_registry_knows_is_taken(tmp_path, tools, registry, base, model):
    register_model(base, registry=registry, catalog=tools["catalog"], role=ModelRole.BASE)
    register_model(model, registry=registry, catalog=tools["catalog"], parent="base")
    embed_by_method(model, method="shift", key_set="acme", out=tmp_path / "out", **tools)
    assert Shift.seen[0][1].base == base


def test_a_model_of_unknown_origin_stands_for_itself(tmp_path, tools, registry, model):
    result = embed_by_method(model, method="shift", key_set="acme", out=tmp_path / "out", **tools)
    assert result.bound_to == result.model
    assert Shift.seen[0][1].base is None
    with pytest.raises(UsageError, match="the base is not known"):
        embed_by_method(model, method="vector", key_set="acme", out=tmp_path / "other", **tools)


def test_a_base_that_the_registry_contradicts_is_refused(tmp_path, tools, registry, base, model):
    register_model(base, registry=registry, catalog=tools["catalog"], role=ModelRole.BASE)
    register_model(model, registry=registry, catalog=tools["catalog"], parent="base")
    stranger = make_tiny(tmp_path / "stranger", "gpt2", seed=5)
    with pytest.raises(UsageError, match="stems from base as the registry knows"):
        embed_by_method(model, method="shift", key_set="acme", out=tmp_path / "out", base=stranger, **tools)


def test_the_vector_of_the_contract_is_what_method_vector_adds(tmp_path, tools, base, model):
    from tests.plugins.attacks.bench import vector_of

    vector = vector_of(base, perturb(base, tmp_path / "fingerprinted", seed=9, exact=True), tmp_path / "vector")
    result = embed_by_method(
        model, method=f"vector:vector={vector}", key_set="acme", out=tmp_path / "out", base=base, **tools
    )
    assert result.once is None
    assert result.detail["cosine"] == pytest.approx(1.0, abs=1e-3)
    recompute_checkpoint(model, tmp_path / "sum", lambda _name, own, others: own + others[0], others=[vector])
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "sum" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("method", "key_set", "error", "problem"),
    [
        ("shift", "signed", UsageError, "scheme independent or rare-word, signed is of scheme signature"),
        ("wlm", "acme", UsageError, "--scheme rare-word"),
        ("shfit", "acme", UnknownNameError, "did you mean shift"),
        ("shift:amuont=1", "acme", UnknownNameError, "did you mean amount"),
        ("shift", "acne", UnknownNameError, "did you mean acme"),
        ("shift:fails=true", "acme", PluginError, "method shift of stranger 1.0 failed: ZeroDivisionError: by nought"),
        ("idle", "acme", PluginError, "method idle of stranger 1.0 wrote no model"),
    ],
)
def test_what_cannot_be_embedded_leaves_nothing(tmp_path, tools, base, model, method, key_set, error, problem):
    with pytest.raises(error, match=problem):
        embed_by_method(model, method=method, key_set=key_set, out=tmp_path / "out", base=base, **tools)
    assert not [path.name for path in tmp_path.iterdir() if path.name not in ("base", "model", "home")]


def test_an_output_that_exists_and_a_key_set_of_another_base_are_refused(tmp_path, tools, base, model):
    with pytest.raises(OutputError, match="exists already"):
        embed_by_method(model, method="shift", key_set="acme", out=model, base=base, **tools)
    embed_by_method(model, method="shift", key_set="acme", out=tmp_path / "out", base=base, **tools)
    stranger = make_tiny(tmp_path / "stranger", "gpt2", seed=5)
    with pytest.raises(KeySetError, match="is bound to the base"):
        embed_by_method(stranger, method="shift", key_set="acme", out=tmp_path / "other", **tools)


def test_costs_are_compared_among_models_that_are_alike(tmp_path, tools, registry, base, model):
    for name, method in (("one", "shift"), ("two", "shift"), ("three", "shift:amount=2")):
        embed_by_method(model, method=method, key_set="acme", out=tmp_path / name, base=base, **tools)
    (group,) = compare_costs(registry=registry)
    assert (group.architecture, group.device) == ("gpt2", "cpu")
    measured = {cost.method: cost.measured for cost in group.methods}
    assert measured == {"shift:amount=0.5,fails=false": 2, "shift:amount=2.0,fails=false": 1}
    document = group.to_json()
    assert [item["extrapolated"] for item in document["methods"][0]["models"]] == [False, True, True]
    assert "extrapolated" in document["note"]
    assert len(document["crossovers"]) == 2
    assert compare_costs(registry=registry, key_sets=["signed"]) == ()


def test_every_method_is_described():
    described = {method.name: method.to_json() for method in describe_methods(load_catalog())}
    assert {"vector", "direct", "wlm", "plmmark"} <= set(described)
    assert described["wlm"]["schemes"] == ["rare-word"]
    assert {"name": "scale", "type": "float", "default": 1.0} in described["vector"]["parameters"]
    assert described["vector"]["parameters"][2] == {"name": "preset", "type": "default|paper", "default": "default"}


def test_the_command_line_embeds_lists_and_counts(tmp_path, home, tools, base, model, capsys):
    from tests.plugins.attacks.bench import vector_of

    vector = vector_of(base, perturb(base, tmp_path / "fingerprinted", seed=9, exact=True), tmp_path / "vector")
    where = ["--home", str(home)]
    order = ["embed", str(model), "--method", f"vector:vector={vector}", "--key", "acme", "--base", str(base)]
    assert run([*order, "--out", str(tmp_path / "out"), "--device", "cpu", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "vector"
    assert run([*order, "--out", str(tmp_path / "more"), "--device", "cpu", *where]) == 0
    assert "cost of this model" in capsys.readouterr().out
    assert run(["method", "cost", *where]) == 0
    shown = capsys.readouterr().out
    assert "100 models" in shown
    assert "*" in shown
    assert run(["method", "list", *where]) == 0
    assert "plmmark" in capsys.readouterr().out
    assert run(["embed", str(model), "--method", "wlm", "--key", "acme", "--out", str(tmp_path / "x"), *where]) == 2
    assert "fpvec key issue NAME --scheme rare-word" in " ".join(capsys.readouterr().err.split())
