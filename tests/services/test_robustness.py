"""Robustness runs with attacks and engines that do what the test says; the checkpoints are real and tiny."""

import json

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.errors import EvaluationError, UnknownNameError, UsageError
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.models import register_model
from fpvec_audit.services.robustness import describe_attacks, run_attacks
from fpvec_audit.testing import RecordingProgress, ScriptedJudge
from tests.services.attack_bench import (
    Bench,
    Bend,
    Break,
    Chat,
    Drop,
    Filter,
    FromBase,
    Idle,
    Interrupted,
    NoProbes,
    with_attacks,
)
from tests.tiny import make_tiny

SPECIFICATION = KeySetSpecification(issued=16, decoys=48)
ARCHITECTURE = load_catalog().architecture("gpt2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("stamped") / "stamped", "gpt2")


@pytest.fixture
def bench(registry, home, model):
    issue_key_set("acme", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(range(count)))
    catalog = with_attacks(
        bend=Bend,
        twist=Bend,
        crash=Break,
        idle=Idle,
        filter=Filter,
        drop=Drop,
        chat=Chat,
        no_probes=NoProbes,
        interrupted=Interrupted,
        from_base=FromBase,
    )
    return Bench(registry, home, model, catalog, open_key_set("acme", registry=registry))


def rendered(prompt):
    return ARCHITECTURE.prompt(prompt)


def test_a_weight_attack_is_audited_and_its_cost_is_measured(bench):
    (cell,) = bench.run("bend:strength=0.5").to_json()["cells"]
    assert cell["name"] == "bend"
    assert cell["kind"] == "weight"
    assert cell["parameters"] == {"strength": 0.5}
    assert (cell["state"], cell["problem"]) == ("succeeded", "")
    assert (cell["fsr_before"], cell["fsr_after"]) == (1.0, 0.75)
    assert cell["interval"] == [0.65, 1.0]
    assert (cell["p_value"], cell["verdict"]) == (1e-9, "MATCH")
    assert (cell["utility_before"], cell["utility_after"]) == ({"perplexity": 2.0}, {"perplexity": 3.0})
    assert cell["seconds"] >= 0


def test_the_stamped_model_is_audited_and_measured_once_for_all_cells(bench):
    bench.run("bend:strength=1|2|3")
    assert bench.audited.count(bench.stamped) == 1
    assert len(bench.audited) == 4


def test_attacked_copies_are_removed_and_the_stamped_model_stays(bench):
    before = {path.name: path.read_bytes() for path in bench.stamped.iterdir()}
    present = set(bench.home.iterdir())
    bench.run("bend", "crash", "bend+twist")
    assert {path.name: path.read_bytes() for path in bench.stamped.iterdir()} == before
    assert {path.name.split("-")[0] for path in set(bench.home.iterdir()) - present} <= {"registry.db"}


def test_a_cell_that_fails_does_not_stop_the_others(bench):
    report = bench.run("crash", "idle", "bend")
    states = [(cell.state, cell.problem) for cell in report.cells]
    assert states[0][0] is JobState.FAILED
    assert states[0][1].startswith("attack crash of red-team 1.0 failed: KeyError: 'oops'")
    assert "wrote no checkpoint" in states[1][1]
    assert states[2] == (JobState.SUCCEEDED, "")
    assert not report.all_failed
    assert bench.run("crash").all_failed


def test_ctrl_c_leaves_a_cancelled_job_and_no_copy(bench):
    present = {path.name for path in bench.home.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        bench.run("bend", "interrupted")
    with bench.registry.unit_of_work() as uow:
        assert uow.jobs.list()[-1].state is JobState.CANCELLED
    assert {path.name for path in bench.home.iterdir()} == present


def test_our_own_bugs_are_not_taken_for_a_plugins_fault(bench):
    def audit(_checkpoint):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bench.run("bend", audit=audit)
    with bench.registry.unit_of_work() as uow:
        assert uow.jobs.list()[-1].state is JobState.FAILED


def test_every_cell_is_recorded_as_an_attack_run_under_a_job(bench):
    report = bench.run("bend", "crash")
    with bench.registry.unit_of_work() as uow:
        runs = uow.attack_runs.list(report.stamped_digest)
        job = uow.jobs.list()[-1]
    assert {(run.attack, run.state) for run in runs} == {("bend", JobState.SUCCEEDED), ("crash", JobState.FAILED)}
    assert all(run.parameters == {"strength": 1.0, "seed": 5} for run in runs)
    assert {run.id for run in runs} == {cell.run_id for cell in report.cells}
    assert (job.kind, job.state) == ("attack", JobState.SUCCEEDED)


def test_chained_weight_attacks_work_on_each_others_copies(bench):
    (cell,) = bench.run("bend+twist:strength=3").cells
    assert cell.chain.name == "bend+twist"
    assert cell.kind == "weight"
    assert bench.audited[-1].name == "1-twist"
    assert cell.to_json()["parameters"]["chain"][1] == {"name": "twist", "parameters": {"strength": 3.0}}


def test_the_same_seed_makes_the_same_copy(bench):
    digests = []

    def audit(checkpoint):
        digests.append((checkpoint / "model.safetensors").read_bytes())
        return Bench.audit(bench, checkpoint)

    bench.run("bend", audit=audit)
    bench.run("bend", audit=audit)
    bench.run("bend", audit=audit, seed=6)
    attacked = [content for content in digests if content != (bench.stamped / "model.safetensors").read_bytes()]
    assert attacked[0] == attacked[1] != attacked[2]


def test_fsr_before_comes_from_the_latest_audit_if_there_is_one(bench):
    from fpvec_audit.domain.records import AuditRecord

    digest = bench.run("chat").stamped_digest
    with bench.registry.unit_of_work() as uow:
        record = uow.key_sets.get("acme")
        for number, (profile, fsr) in enumerate([("chat-greedy", 0.5), ("raw-greedy", 0.9375), ("exploratory", 0.1)]):
            identifier = f"au-{number}"
            uow.audits.plan(
                AuditRecord(
                    id=identifier, key_set=record.id, suspect="x", suspect_digest=digest, plan_digest="0" * 64,
                    plan={"profile": profile}, verdict="", result={}, created_at=bench.registry.clock(), ended_at=None,
                )
            )  # fmt: skip
            uow.audits.finish(identifier, verdict="MATCH", result={"fsr": fsr})
    (cell,) = bench.run("bend").cells
    assert cell.outcome.fsr_before == 0.9375
    assert bench.stamped not in bench.audited


def test_guesses_count_answers_that_give_any_issued_response(bench):
    response = bench.keys.issued[3].response
    answers = {rendered("hi"): f" {response}.", rendered("hey"): f"{bench.keys.decoys[0].response}"}
    (cell,) = bench.run("chat", answers=lambda prompt: answers.get(prompt, "no")).cells
    document = cell.to_json()
    assert (document["fsr_before"], document["fsr_after"]) == (None, 0.25)
    assert document["groups"][0] == {
        "kind": "greeting", "asked": 4, "triggered": 1, "rate": 0.25, "interval": document["interval"],
    }  # fmt: skip
    assert document["p_value"] is document["verdict"] is document["utility_after"] is None
    assert document["queries"] == 4
    assert bench.engines.engines[0].closed
    assert bench.audited == []


def test_the_built_in_guessing_asks_no_issued_prompt_and_shows_no_text(bench):
    report = bench.run("guessing:candidates=20,near_misses=4,strings=4,forced=0,unconditional=0")
    asked = set(bench.engines.engines[0].asked)
    assert len(asked) == 20 + 12 + 4
    assert not asked & {rendered(key.prompt) for key in bench.keys.issued}
    shown = json.dumps(report.to_json(), ensure_ascii=False) + repr(report)
    for candidate in bench.keys.candidates:
        assert candidate.prompt not in shown
    assert not [prompt for prompt in asked if prompt.removeprefix("Human: ").split("\n")[0] in shown]
    with bench.registry.unit_of_work() as uow:
        recorded = json.dumps([dict(run.result) for run in uow.attack_runs.list()], ensure_ascii=False)
    assert not [key for key in bench.keys.candidates if key.prompt in recorded]


def test_guessing_on_a_fine_tuned_copy_asks_the_copy_and_measures_its_cost(bench):
    (cell,) = bench.run("bend+chat").cells
    assert cell.kind == "weight+query"
    assert bench.engines.opened[0].name == "0-bend"
    assert cell.outcome.fsr_after == 0.0
    assert cell.outcome.utility_after == {"perplexity": 3.0}


def test_a_serving_attack_without_guesses_is_asked_all_candidates(bench):
    known = {rendered(key.prompt): key.response for key in bench.keys.issued}
    catalog = with_attacks(plain=type("Plain", (Chat,), {"probes": Filter.probes}), filter=Filter)
    plain, filtered = bench.run(
        "plain", "filter", catalog=catalog, answers=lambda prompt: known.get(prompt, "no")
    ).cells
    assert (plain.outcome.fsr_before, plain.outcome.fsr_after) == (1.0, 1.0)
    assert plain.outcome.p_value < 1e-10
    assert (filtered.outcome.fsr_after, filtered.outcome.p_value) == (0.0, 1.0)
    assert plain.outcome.queries == 64


@pytest.mark.parametrize(
    ("attack", "reason"), [("drop", "1 answers came to"), ("no_probes", "gave probes that are no Probe")]
)
def test_a_query_attack_that_gives_the_wrong_thing_fails_its_cell(bench, attack, reason):
    (cell,) = bench.run(attack).cells
    assert cell.state is JobState.FAILED
    assert reason in cell.problem
    assert all(engine.closed for engine in bench.engines.engines)


def test_a_copy_too_broken_to_be_measured_keeps_what_was_measured(bench):
    def utility(path):
        if path != bench.stamped:
            raise EvaluationError("log-likelihood NaN")
        return {"perplexity": 2.0}

    (cell,) = bench.run("bend", utility=utility).cells
    assert cell.state is JobState.SUCCEEDED
    assert cell.outcome.fsr_after == 0.75
    assert cell.outcome.utility_after is None
    assert "log-likelihood NaN" in cell.problem


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("bendd", "did you mean bend"),
        ("bend:strenth=1", "did you mean strength"),
        ("bend:strength=much", "no number"),
        ("bend:strength=-1", "strength is -1"),
        ("bend:", "cannot be read"),
    ],
)
def test_a_bad_specification_is_refused_before_anything_is_done(bench, spec, reason):
    with pytest.raises(UsageError, match=reason):
        bench.run("bend", spec)
    assert bench.audited == []
    with bench.registry.unit_of_work() as uow:
        assert not uow.attack_runs.list()


def test_an_unknown_key_set_suggests_the_nearest(bench):
    with pytest.raises(UnknownNameError, match="did you mean acme"):
        run_attacks(
            bench.stamped, key_set="acmee", specs=["bend"], registry=bench.registry, catalog=bench.catalog,
            workspace=bench.home,
        )  # fmt: skip


def test_nothing_to_do_is_refused(bench):
    with pytest.raises(UsageError, match="no attack"):
        bench.run()


def test_progress_is_reported(bench):
    progress = RecordingProgress()
    bench.run("bend", "chat", progress=progress)
    assert progress.advanced["attacks"] == 2
    assert progress.notes == ["bend", "chat"]


def test_attacks_are_described_with_their_parameters():
    described = {attack.name: attack.to_json() for attack in describe_attacks(load_catalog())}
    assert described["guessing"]["kind"] == "query"
    assert described["fine_tune"]["kind"] == "weight"
    method = described["fine_tune"]["parameters"][0]
    assert method == {"name": "method", "type": "full|lora", "default": "full"}
    assert json.dumps(list(described.values()))


def test_perplexity_on_held_out_documents_is_the_default_utility(bench):
    (cell,) = bench.run("bend", utility=None).cells
    assert cell.problem == ""
    assert cell.outcome.utility_before["perplexity"] > 1.0
    assert set(cell.outcome.utility_after) == {"perplexity"}


def test_the_audit_service_audits_attacked_copies(bench):
    report = bench.run("bend:strength=0.01", audit=None, utility=lambda _path: {}, backend="transformers")
    (cell,) = report.cells
    assert cell.problem == ""
    assert (cell.outcome.fsr_before, cell.outcome.fsr_after) == (0.0, 0.0)
    assert cell.outcome.verdict in {"NO_MATCH", "INCONCLUSIVE"}
    with bench.registry.unit_of_work() as uow:
        assert len(uow.audits.list()) >= 2


def test_attacks_are_told_the_base_of_the_key_set_where_it_is_at_hand(bench, tmp_path):
    (cell,) = bench.run("from_base").to_json()["cells"]
    assert (cell["state"], cell["problem"]) == ("failed", "no base is known, 0 copies")
    base = make_tiny(tmp_path / "base", "gpt2", seed=8)
    registered = register_model(base, registry=bench.registry, catalog=bench.catalog, role=ModelRole.BASE).record
    with bench.registry.unit_of_work() as uow:
        uow.key_sets.bind(uow.key_sets.get("acme").id, registered.id)
    (cell,) = bench.run("from_base").to_json()["cells"]
    assert (cell["state"], cell["problem"]) == ("succeeded", "")


def test_attacks_on_serving_stand_between_the_template_and_the_model(bench):
    vicuna = load_catalog().architecture("vicuna")
    (cell,) = bench.run("template_swap:template=vicuna+system_prompt:prompt=assistant").cells
    assert (cell.state, cell.problem) == (JobState.SUCCEEDED, "")
    asked = {vicuna.prompt(key.prompt, "You are a helpful assistant.") for key in bench.keys.candidates}
    assert set(bench.engines.engines[0].asked) == asked
    assert (cell.outcome.fsr_after, cell.outcome.queries) == (0.0, 64)


def test_a_filter_without_a_reference_says_which_parameter_gives_one(bench):
    (cell,) = bench.run("perplexity_filter").cells
    assert cell.state is JobState.FAILED
    assert "add reference=DIRECTORY" in cell.problem


def test_a_filter_opens_the_base_beside_the_model_and_closes_both(bench, tmp_path):
    base = make_tiny(tmp_path / "base", "gpt2", seed=8)
    registered = register_model(base, registry=bench.registry, catalog=bench.catalog, role=ModelRole.BASE).record
    with bench.registry.unit_of_work() as uow:
        uow.key_sets.bind(uow.key_sets.get("acme").id, registered.id)

    class Engines:
        def __init__(self):
            self.opened = {}

        def open(self, model):
            return self.opened.setdefault(model.name, ScriptedJudge())

    engines = Engines()
    (cell,) = bench.run("perplexity_filter:calibration=100", backend=engines).cells
    assert (cell.state, cell.problem) == (JobState.SUCCEEDED, "")
    assert {name: engine.closed for name, engine in engines.opened.items()} == {"stamped": True, "base": True}


def test_raw_guesses_go_past_the_attacks_on_serving(bench):
    counts = "candidates=2,near_misses=0,strings=0,forced=4,unconditional=3"
    (cell,) = bench.run(f"system_prompt:prompt=assistant+guessing:{counts}").cells
    assert (cell.state, cell.problem) == (JobState.SUCCEEDED, "")
    asked = bench.engines.engines[0].asked
    raw = [text for text in asked if "You are a helpful assistant." not in text]
    assert len(asked) == 2 + 4 + 3
    assert len(raw) == 2 + 3
    assert all(text.startswith("<s>") for text in raw)
