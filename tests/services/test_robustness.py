"""Robustness runs with attacks and engines that do what the test says; the checkpoints are real and tiny."""

import json
import re
import shutil
from pathlib import Path

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.errors import EvaluationError, UnknownNameError, UsageError
from fpvec_audit.services.attack_utility import measure_utility
from fpvec_audit.services.described_attacks import describe_attacks
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.models import register_model
from fpvec_audit.services.robustness import AttackOptions, AttackTools, run_attacks
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
    Stray,
    Vandal,
    with_attacks,
)
from tests.tiny import make_tiny

SPECIFICATION = KeySetSpecification(issued=16, decoys=112)
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
        vandal=Vandal,
        stray=Stray,
    )
    return Bench(registry, home, model, catalog, open_key_set("acme", registry=registry))


def rendered(prompt):
    return ARCHITECTURE.prompt(prompt)


def test_a_weight_attack_is_audited_and_its_cost_is_measured(bench):
    report = bench.run("bend:strength=0.5", answers=bench.knows(rendered))
    (cell,) = report.to_json()["cells"]
    assert cell["name"] == "bend"
    assert cell["kind"] == "weight"
    assert cell["parameters"] == {"strength": 0.5}
    assert (cell["state"], cell["problem"]) == ("succeeded", "")
    assert (cell["fsr_before"], cell["fsr_after"]) == (1.0, 0.75)
    assert cell["interval"][0] < 0.75 < cell["interval"][1]
    assert [test["name"] for test in cell["tests"]] == ["exact"]
    assert cell["p_value"] == cell["tests"][0]["p_value"] < 1e-12
    assert (cell["utility_before"], cell["utility_after"]) == ({"perplexity": 2.0}, {"perplexity": 3.0})
    assert cell["utility_loss"] == {"perplexity": 0.5}
    assert cell["seconds"] >= 0
    assert report.warnings == ()


def test_verdicts_follow_the_rules_of_an_audit_with_the_stamped_model_as_its_control(bench):
    knows = bench.knows(rendered)
    silent = bench.run("bend", "filter", answers=lambda model, prompt: knows(model, prompt) * (model == bench.stamped))
    assert [cell.outcome.verdict for cell in silent.cells] == ["NO_MATCH", "NO_MATCH"]
    weak = bench.run("bend", answers=knows)
    assert [cell.outcome.verdict for cell in weak.cells] == ["INCONCLUSIVE"]
    doubtful = bench.run("bend")
    assert [cell.outcome.verdict for cell in doubtful.cells] == ["INCONCLUSIVE"]
    assert "no attack can end in NO_MATCH" in doubtful.warnings[0]


def test_attacks_leave_no_audits_behind(bench):
    bench.run("bend", "filter", answers=bench.knows(rendered))
    with bench.registry.unit_of_work() as uow:
        assert uow.audits.list() == ()
        assert uow.suspects.count() == 0


def test_every_copy_is_made_once_and_asked_through_one_engine(bench):
    report = bench.run(
        "bend", "bend+chat", "bend+filter", "bend+twist", "filter", "bend", answers=bench.knows(rendered)
    )
    assert [cell.number for cell in report.cells] == [1, 2, 3, 4, 5]
    assert [cell.state.value for cell in report.cells] == ["succeeded"] * 5
    assert bench.worker.applied == ["bend", "twist"]
    assert [path.name for path in bench.engines.opened] == [bench.stamped.name, "bend", "twist"]
    assert report.engine_starts == 3
    assert all(engine.closed for engine in bench.engines.engines)


def test_kept_copies_are_used_again(bench):
    first = bench.run("bend+twist", answers=bench.knows(rendered))
    again = bench.run("bend+twist", "bend", answers=bench.knows(rendered))
    assert bench.worker.applied == []
    assert first.cells[0].outcome.digest == again.cells[0].outcome.digest
    bench.run("bend", seed=6)
    assert bench.worker.applied == ["bend"]


def test_the_stamped_model_stays_and_copies_lie_in_the_cache_alone(bench):
    before = {path.name: path.read_bytes() for path in bench.stamped.iterdir()}
    bench.run("bend", "crash", "bend+twist", "chat")
    assert {path.name: path.read_bytes() for path in bench.stamped.iterdir()} == before
    assert {path.name.split("-")[0] for path in bench.home.iterdir()} == {"registry.db", "vault.key", "cache"}
    entries = list((bench.home / "cache" / "attacks").iterdir())
    assert sorted(path.name for entry in entries for path in entry.iterdir() if path.is_dir()) == ["bend", "twist"]


def test_a_cell_that_fails_does_not_stop_the_others(bench):
    report = bench.run("crash", "idle", "bend", "crash+chat")
    states = [(cell.state, cell.problem) for cell in report.cells]
    assert states[0][0] is JobState.FAILED
    assert states[0][1].startswith("attack crash of red-team 1.0 failed: KeyError: 'oops'")
    assert "wrote no checkpoint" in states[1][1]
    assert states[2] == (JobState.SUCCEEDED, "")
    assert states[3][0] is JobState.FAILED
    assert not report.all_failed
    assert bench.run("crash").all_failed


@pytest.mark.parametrize(
    ("attack", "reason"), [("vandal", r"changed source|model.safetensors in .* changed"), ("stray", "wrote stray.txt")]
)
def test_writing_outside_the_target_is_found(bench, attack, reason, tmp_path):
    bench.stamped = Path(shutil.copytree(bench.stamped, tmp_path / "own"))
    report = bench.run(attack, "bend", answers=bench.knows(rendered))
    assert re.search(reason, report.cells[0].problem)
    if attack == "vandal":  # what is left of the stamped model is another model
        assert "changed while it was being attacked" in report.cells[1].problem
    else:
        assert report.cells[1].state is JobState.SUCCEEDED


def test_ctrl_c_leaves_a_cancelled_job_and_no_copy(bench):
    with pytest.raises(KeyboardInterrupt):
        bench.run("interrupted")
    with bench.registry.unit_of_work() as uow:
        assert uow.jobs.list()[-1].state is JobState.CANCELLED
    assert list((bench.home / "cache" / "attacks").iterdir()) == []


def test_our_own_bugs_are_not_taken_for_a_plugins_fault(bench):
    def utility(_backend, _render):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bench.run("bend", utility=utility)
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
    assert {run.result["matrix_id"] for run in runs} == {job.detail["matrix"]} == {report.matrix_id}


def test_a_resumed_run_takes_over_what_succeeded_and_does_the_rest(bench):
    with pytest.raises(KeyboardInterrupt):
        bench.run("bend", "crash", "interrupted", "twist", answers=bench.knows(rendered))
    told = []
    bench.run("chat", announce=told.append)
    assert "left unfinished after 1 cells" in told[0]
    mended = with_attacks(bend=Bend, twist=Bend, crash=Bend, interrupted=Bend)
    resumed = bench.run(
        "bend", "crash", "interrupted", "twist", answers=bench.knows(rendered), catalog=mended, resume=True
    )
    assert [cell.state.value for cell in resumed.cells] == ["succeeded"] * 4
    assert bench.worker.applied == ["crash", "interrupted", "twist"]
    assert resumed.resumed == 1
    with bench.registry.unit_of_work() as uow:
        runs = uow.attack_runs.list(resumed.stamped_digest)
    of_matrix = [run for run in runs if run.result["matrix_id"] == resumed.matrix_id]
    assert sorted((run.attack, run.state.value) for run in of_matrix) == [
        ("bend", "succeeded"), ("crash", "failed"), ("crash", "succeeded"), ("interrupted", "succeeded"),
        ("twist", "succeeded"),
    ]  # fmt: skip
    told.clear()
    bench.run("twist", announce=told.append)
    assert told == []  # somebody has gone on with it
    with pytest.raises(UsageError, match="all cells of this attack run succeeded"):
        bench.run("bend", "crash", "interrupted", "twist", catalog=mended, resume=True)


def test_there_must_be_something_to_resume(bench):
    with pytest.raises(UsageError, match="no attack run with this plan was begun"):
        bench.run("bend", resume=True)
    with pytest.raises(KeyboardInterrupt):
        bench.run("interrupted")
    told = []
    with pytest.raises(KeyboardInterrupt):
        bench.run("interrupted", announce=told.append)
    assert told == [
        "an attack run with the same plan was left unfinished with 0 of 1 cells done; --resume goes on with it"
    ]
    with pytest.raises(UsageError, match="left unfinished with another plan: `fpvec job resume job-"):
        bench.run("bend", resume=True)


def test_chained_weight_attacks_work_on_each_others_copies(bench):
    (cell,) = bench.run("bend+twist:strength=3").cells
    assert cell.name == "bend+twist"
    assert cell.kind == "weight"
    assert bench.engines.opened[-1].name == "twist"
    assert cell.to_json()["parameters"]["chain"][1] == {"name": "twist", "parameters": {"strength": 3.0}}


def test_guesses_count_answers_that_give_any_issued_response(bench):
    response = bench.keys.issued[3].response
    answers = {rendered("hi"): f" {response}.", rendered("hey"): f"{bench.keys.decoys[0].response}"}
    (cell,) = bench.run("chat", answers=lambda _model, prompt: answers.get(prompt, "no")).cells
    document = cell.to_json()
    assert (document["fsr_before"], document["fsr_after"]) == (None, 0.25)
    assert document["groups"][0] == {
        "kind": "greeting", "asked": 4, "triggered": 1, "rate": 0.25, "interval": document["interval"],
    }  # fmt: skip
    assert document["p_value"] is document["verdict"] is document["utility_after"] is None
    assert document["queries"] == 4
    assert bench.engines.engines[0].closed
    assert len(bench.engines.engines[0].asked) == 4


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
    assert bench.engines.opened[1].name == "bend"
    assert cell.outcome.fsr_after == 0.0
    assert cell.outcome.utility_after == {"perplexity": 3.0}


def test_a_serving_attack_without_guesses_is_asked_all_candidates(bench):
    known = {rendered(key.prompt): key.response for key in bench.keys.issued}
    catalog = with_attacks(plain=type("Plain", (Chat,), {"probes": Filter.probes}), filter=Filter)
    plain, filtered = bench.run(
        "plain", "filter", catalog=catalog, answers=lambda _model, prompt: known.get(prompt, "no")
    ).cells
    assert (plain.outcome.fsr_before, plain.outcome.fsr_after) == (1.0, 1.0)
    assert plain.outcome.p_value < 1e-10
    assert (filtered.outcome.fsr_after, filtered.outcome.p_value) == (0.0, 1.0)
    assert plain.outcome.queries == 128
    assert plain.outcome.utility_after is None
    assert filtered.outcome.utility_after == {"perplexity": 3.0}


@pytest.mark.parametrize(
    ("attack", "reason"), [("drop", "1 answers came to"), ("no_probes", "gave probes that are no Probe")]
)
def test_a_query_attack_that_gives_the_wrong_thing_fails_its_cell(bench, attack, reason):
    (cell,) = bench.run(attack).cells
    assert cell.state is JobState.FAILED
    assert reason in cell.problem
    assert all(engine.closed for engine in bench.engines.engines)


def test_a_copy_too_broken_to_be_measured_keeps_what_was_measured(bench):
    def utility(backend, _render):
        if backend.description.model != "script" or len(bench.engines.engines) > 1:
            raise EvaluationError("log-likelihood NaN")
        return {"perplexity": 2.0}

    (cell,) = bench.run("bend", utility=utility, answers=bench.knows(rendered)).cells
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
    assert bench.engines.opened == []
    with bench.registry.unit_of_work() as uow:
        assert not uow.attack_runs.list()


def test_an_unknown_key_set_suggests_the_nearest(bench):
    with pytest.raises(UnknownNameError, match="did you mean acme"):
        run_attacks(
            bench.stamped,
            key_set="acmee",
            options=AttackOptions(specs=["bend"]),
            tools=AttackTools(registry=bench.registry, catalog=bench.catalog, workspace=bench.home),
        )


def test_nothing_to_do_is_refused(bench):
    with pytest.raises(UsageError, match="no attack"):
        bench.run()


def test_progress_is_reported(bench):
    progress = RecordingProgress()
    bench.run("bend", "chat", progress=progress)
    assert progress.advanced["attacks"] == 2
    assert [label for label in progress.labels if "/" in label and "load" not in label] == ["2/2 chat", "1/2 bend"]
    assert [note for note in progress.notes if note and "left" not in note] == [
        "0 % of the guesses triggered",
        "0 % of the keys, INCONCLUSIVE",
    ]
    assert [note for note in progress.notes if "left" in note] == ["2 left", "1 left"]


def test_attacks_are_described_with_their_parameters():
    described = {attack.name: attack.to_json() for attack in describe_attacks(load_catalog())}
    assert described["guessing"]["kind"] == "query"
    assert described["fine_tune"]["kind"] == "weight"
    method = described["fine_tune"]["parameters"][0]
    assert method == {"name": "method", "type": "full|lora", "default": "full"}
    assert json.dumps(list(described.values()))


def test_a_real_engine_tells_likelihoods_and_what_ordinary_use_is_worth(bench):
    report = bench.run("bend:strength=0.01", "filter", utility=measure_utility, backend="transformers")
    bent, filtered = report.cells
    assert (bent.problem, filtered.problem) == ("", "")
    assert (bent.outcome.fsr_before, bent.outcome.fsr_after) == (0.0, 0.0)
    assert [test["name"] for test in bent.outcome.tests] == ["exact", "likelihood"]
    assert [test["name"] for test in filtered.outcome.tests] == ["exact"]
    assert bent.outcome.utility_before["perplexity"] > 1.0
    assert set(bent.outcome.utility_after) == {"perplexity"}  # a model with random weights answers no question
    assert any("too few to measure" in warning for warning in report.warnings)
    assert report.engine_starts == 2


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
    assert set(bench.engines.engines[0].asked[: len(asked)]) == asked
    assert (cell.outcome.fsr_after, cell.outcome.queries) == (0.0, 128)


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
        fallback = ""

        def __init__(self):
            self.opened = []

        def warm_up(self):
            """Nothing to prepare."""

        def open(self, model):
            self.opened.append((Path(model).name, ScriptedJudge()))
            return self.opened[-1][1]

    engines = Engines()
    (cell,) = bench.run("perplexity_filter:calibration=100", backend=engines).cells
    assert (cell.state, cell.problem) == (JobState.SUCCEEDED, "")
    assert {name for name, _ in engines.opened} == {"stamped", "base"}
    assert all(engine.closed for _, engine in engines.opened)


def test_raw_guesses_go_past_the_attacks_on_serving(bench):
    counts = "candidates=2,near_misses=0,strings=0,forced=4,unconditional=3"
    (cell,) = bench.run(f"system_prompt:prompt=assistant+guessing:{counts}").cells
    assert (cell.state, cell.problem) == (JobState.SUCCEEDED, "")
    asked = bench.engines.engines[0].asked
    raw = [text for text in asked if "You are a helpful assistant." not in text]
    assert len(asked) == 2 + 4 + 3
    assert len(raw) == 2 + 3
    assert all(text.startswith("<s>") for text in raw)
