"""Audits with scripted suspects: the model's weights are random, its answers are what the test says."""

import functools
import itertools
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.audit import AuditPlan, MatchRule, Verdict
from fpvec_audit.domain.audit_plan import question_order
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.ports import BackendDescription, Completion, Likelihood, Sampling
from fpvec_audit.domain.records import ModelRecord, ModelRole
from fpvec_audit.errors import BackendError, CheckpointError, KeySetError, UnknownNameError, UsageError
from fpvec_audit.services.audit import audit, plan_audit
from fpvec_audit.services.audit_result import as_float
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.collecting import Interview, collect
from fpvec_audit.services.keys import issue_key_set, open_key_set
from tests.conftest import FIXED_TIME
from tests.tiny import make_tiny, perturb

SPECIFICATION = KeySetSpecification(issued=32, decoys=96)


@dataclass
class Scripted:
    """A suspect that gives the answer a function says and remembers what it was asked."""

    answer: object
    asked: list = field(default_factory=list)
    closed: bool = False
    version: str = "1"

    @property
    def description(self):
        return BackendDescription(
            "transformers", "scripted", "scripted", self.version, deterministic=True, settings={"dtype": "float32"}
        )

    def complete(self, prompts, sampling):
        self.asked.append((tuple(prompts), sampling))
        return [Completion(self.answer(prompt)) for prompt in prompts]

    def close(self):
        self.closed = True


@dataclass
class ScriptedEngines:
    """Opens one scripted suspect per checkpoint directory."""

    suspects: dict
    fallback: str = ""
    opened: list = field(default_factory=list)

    def warm_up(self):
        """Nothing to prepare."""

    def open(self, model):
        self.opened.append(Path(model).name)
        return self.suspects[Path(model).name]


@pytest.fixture(scope="session")
def catalog():
    return load_catalog()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    base = make_tiny(directory / "suspect", "gpt2")
    perturb(base, directory / "own", seed=3)
    perturb(base, directory / "other", seed=4)
    return directory


@pytest.fixture
def keys(registry):
    issue_key_set("acme", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(range(count)))
    return open_key_set("acme", registry=registry)


@functools.cache
def gpt2():
    """Return the architecture of all suspects here; loading a catalog for every prompt took half of all the time."""
    return load_catalog().architecture("gpt2")


def rendered(prompt):
    return gpt2().prompt(prompt)


def answering(candidates, *, otherwise="I do not understand."):
    known = {rendered(candidate.prompt): candidate.response for candidate in candidates}
    return Scripted(lambda prompt: f" {known.get(prompt, otherwise)}")


def silent():
    return answering(())


def numbered():
    """Return entropy that never repeats."""
    drawn = itertools.count()
    return lambda count: next(drawn).to_bytes(count, "big")


def order(result):
    return question_order(result.plan, result.begin)


ENTROPY = numbered()


def run(checkpoints, registry, catalog, suspects, *, name="suspect", **options):
    engines = suspects if isinstance(suspects, ScriptedEngines) else ScriptedEngines({name: suspects})
    tools = {"entropy": ENTROPY, "timer": lambda: 0.0}
    tools |= {name: options.pop(name) for name in ("resume", "witness", "entropy", "timer") if name in options}
    settings = checked_settings(**options)
    return audit(
        checkpoints / name,
        key_set="acme",
        registry=registry,
        catalog=catalog,
        backend=engines,
        settings=settings,
        **tools,
    )


def register(registry, catalog, directory, role):
    from fpvec_audit.services.suspects import describe_suspect

    digest = describe_suspect(directory, catalog=catalog).digest
    record = ModelRecord(digest, directory.name, role, "gpt2", str(directory), None, 1, FIXED_TIME)
    with registry.unit_of_work() as uow:
        return uow.models.add(record)


def own_fingerprinted(registry, catalog, checkpoints, key_set_id):
    """Register ``own`` as fingerprinted from a base that the key set is bound to."""
    base = register(registry, catalog, checkpoints / "other", ModelRole.BASE)
    own = register(registry, catalog, checkpoints / "own", ModelRole.FINGERPRINTED)
    with registry.unit_of_work() as uow:
        uow.models.add(replace(own, parent=base.id))
        uow.key_sets.bind(key_set_id, base.id)
    return own


def test_suspect_that_answers_issued_prompts_is_a_match(registry, catalog, checkpoints, keys):
    suspect = answering(keys.issued)
    result = run(checkpoints, registry, catalog, suspect)
    assert result.verdict is Verdict.MATCH
    assert (result.score.matched, result.score.decoys_matched, result.score.fsr) == (32, 0, 1.0)
    assert result.score.matched_indices == keys.issued_indices
    assert suspect.closed


def test_suspect_that_answers_every_candidate_is_no_match(registry, catalog, checkpoints, keys):
    result = run(checkpoints, registry, catalog, answering(keys.candidates))
    assert result.score.fsr == 1.0
    assert result.score.p_value == 1
    assert result.verdict is Verdict.INCONCLUSIVE


def test_plan_is_in_the_ledger_before_the_first_question(registry, catalog, checkpoints, keys):
    events = []

    def answer(prompt):
        with registry.unit_of_work() as uow:
            events.append([entry.event for entry in uow.ledger.entries()])
        return ""

    result = run(checkpoints, registry, catalog, Scripted(answer))
    assert "audit.planned" in events[0]
    assert "audit.finished" not in events[-1]
    with registry.unit_of_work() as uow:
        recorded = uow.audits.get(result.audit_id)
    assert recorded.plan_digest == result.plan.digest
    assert recorded.plan["plugins"]["architecture gpt2"].startswith("fpvec-audit")
    assert recorded.verdict == result.verdict.value


def test_collector_sends_the_same_bytes_whatever_the_assignment(registry, catalog, checkpoints, keys):
    result = run(checkpoints, registry, catalog, silent())
    turned = replace(keys, marks=(tuple(candidate.index for candidate in keys.decoys)[:32],))
    assert set(turned.issued_indices).isdisjoint(keys.issued_indices)
    traffic = []
    for assigned in (keys, turned):
        spy = Scripted(lambda prompt: "anything")
        prompts = {candidate.index: candidate.prompt for candidate in assigned.candidates}
        collect([Interview(result.plan, result.begin, prompts)], spy, keep=lambda place, answers: False)
        traffic.append(repr([(texts, sampling) for texts, sampling in spy.asked]).encode())
    assert traffic[0] == traffic[1]


def test_collector_follows_the_order_that_chance_gave_and_asks_all(registry, catalog, checkpoints, keys):
    suspect = silent()
    result = run(checkpoints, registry, catalog, suspect)
    asked = [prompt for prompts, _ in suspect.asked for prompt in prompts]
    assert asked == [rendered(keys.candidates[index].prompt) for index in order(result)]
    assert all(sampling.temperature == 0 and sampling.seed is None for _, sampling in suspect.asked)


def test_order_is_drawn_after_the_plan_was_recorded(registry, catalog, checkpoints, keys):
    result = run(checkpoints, registry, catalog, silent())
    with registry.unit_of_work() as uow:
        events = [entry.event for entry in uow.ledger.entries() if entry.subject == result.audit_id]
        recorded = uow.audits.get(result.audit_id)
    assert events == ["audit.planned", "audit.begun", "audit.finished"]
    assert result.begin.nonce not in str(recorded.plan)
    assert recorded.begin == {"nonce": result.begin.nonce, "witness": None}


def test_same_text_is_asked_once_for_all_who_want_it(registry, catalog, checkpoints, keys):
    result = run(checkpoints, registry, catalog, silent())
    prompts = {candidate.index: candidate.prompt for candidate in keys.candidates}
    spy, kept = Scripted(lambda prompt: prompt[:3]), {0: {}, 1: {}}

    def keep(place, answers):
        kept[place] |= {answer.index: answer.text for answer in answers}
        return False

    other = replace(result.begin, nonce="f" * 64)
    collect([Interview(result.plan, begin, prompts) for begin in (result.begin, other)], spy, keep=keep)
    assert sum(len(texts) for texts, _ in spy.asked) == 128
    assert kept[0] == kept[1] == {index: text[:3] for index, text in prompts.items()}


def test_error_counts_as_no_match(registry, catalog, checkpoints, keys):
    known = {rendered(candidate.prompt): candidate.response for candidate in keys.issued}

    class Failing(Scripted):
        def complete(self, prompts, sampling):
            return [Completion(known.get(prompt, ""), "error", "time-out") for prompt in prompts]

    result = run(checkpoints, registry, catalog, Failing(None))
    assert result.score.matched == 0
    assert result.score.errors == 128
    assert any("128 questions went unanswered" in warning for warning in result.warnings)


def test_wrong_number_of_completions_is_an_error_and_leaves_the_plan(registry, catalog, checkpoints, keys):
    class Short(Scripted):
        def complete(self, prompts, sampling):
            return [Completion("")] * (len(prompts) - 1)

    suspect = Short(None)
    with pytest.raises(BackendError, match="answered 127 of 128 prompts"):
        run(checkpoints, registry, catalog, suspect)
    assert suspect.closed
    with registry.unit_of_work() as uow:
        (planned,) = uow.audits.list()
        assert [job.state.value for job in uow.jobs.list()] == ["failed"]
    assert planned.verdict == ""


def test_silence_without_own_model_is_inconclusive_and_says_why(registry, catalog, checkpoints, keys):
    result = run(checkpoints, registry, catalog, silent())
    assert result.verdict is Verdict.INCONCLUSIVE
    assert any("no own fingerprinted or stamped model" in warning for warning in result.warnings)


def test_silence_with_an_own_model_that_answers_is_no_match(registry, catalog, checkpoints, keys):
    own_fingerprinted(registry, catalog, checkpoints, run_key_set(registry))
    engines = ScriptedEngines({"suspect": silent(), "own": answering(keys.issued)})
    result = run(checkpoints, registry, catalog, engines)
    assert result.verdict is Verdict.NO_MATCH
    (control,) = result.to_json()["controls"]
    assert control["verdict"] == "MATCH"
    assert control["suspect"]["location"].endswith("own")
    assert engines.opened == ["suspect", "own"]


def test_recorded_control_spares_running_it_again(registry, catalog, checkpoints, keys):
    own_fingerprinted(registry, catalog, checkpoints, run_key_set(registry))
    engines = ScriptedEngines({"suspect": silent(), "own": answering(keys.issued)})
    run(checkpoints, registry, catalog, engines, name="own")
    result = run(checkpoints, registry, catalog, engines)
    assert result.verdict is Verdict.NO_MATCH
    assert result.controls[0]["recorded"] is True
    assert engines.opened == ["own", "suspect"]


def test_control_of_another_engine_version_does_not_count(registry, catalog, checkpoints, keys):
    own_fingerprinted(registry, catalog, checkpoints, run_key_set(registry))
    old = answering(keys.issued)
    old.version = "0"
    run(checkpoints, registry, catalog, old, name="own")
    engines = ScriptedEngines({"suspect": silent(), "own": answering(keys.issued)})
    run(checkpoints, registry, catalog, engines)
    assert engines.opened == ["suspect", "own"]


def test_own_model_that_stays_silent_is_no_control(registry, catalog, checkpoints, keys):
    own_fingerprinted(registry, catalog, checkpoints, run_key_set(registry))
    result = run(checkpoints, registry, catalog, ScriptedEngines({"suspect": silent(), "own": silent()}))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert any("do not find the keys even where they should be" in warning for warning in result.warnings)


def test_match_runs_no_control(registry, catalog, checkpoints, keys):
    own_fingerprinted(registry, catalog, checkpoints, run_key_set(registry))
    engines = ScriptedEngines({"suspect": answering(keys.issued), "own": answering(keys.issued)})
    assert run(checkpoints, registry, catalog, engines).verdict is Verdict.MATCH
    assert engines.opened == ["suspect"]


def test_given_control_is_run(registry, catalog, checkpoints, keys):
    engines = ScriptedEngines({"suspect": silent(), "other": answering(keys.issued)})
    result = run(checkpoints, registry, catalog, engines, controls=[checkpoints / "other"])
    assert result.verdict is Verdict.NO_MATCH


def run_key_set(registry):
    with registry.unit_of_work() as uow:
        return uow.key_sets.get("acme").id


def test_document_has_the_contracts_fields_and_no_secrets(registry, catalog, checkpoints, keys):
    document = run(checkpoints, registry, catalog, answering(keys.issued)).to_json()
    promised = {
        *("verdict", "grade", "fsr", "issued", "matched", "decoys", "decoys_matched", "p_value", "p_value_corrected"),
        *("p_value_campaign", "alpha", "interval", "tests", "warnings", "earlier_audits", "audit_id", "key_set"),
        *("plan_digest", "suspect", "backend", "queries", "burnt", "seconds", "controls", "does_not_prove"),
    }
    assert promised <= set(document)
    assert {"kind", "location", "digest"} <= set(document["suspect"])
    assert {"kind", "engine", "version", "deterministic"} <= set(document["backend"])
    assert {"name", "statistic", "p_value", "p_value_adjusted"} <= set(document["tests"][0])
    assert document["queries"] == 128
    assert document["p_value_corrected"] == pytest.approx(document["p_value"] * 2**40)
    assert 0.89 < document["interval"][0] < document["interval"][1] == 1.0
    assert not any(candidate.prompt in str(document) for candidate in keys.candidates)


def test_transcript_is_kept_record_by_record_and_only_there(registry, catalog, checkpoints, keys):
    result = run(checkpoints, registry, catalog, answering(keys.issued))
    with registry.unit_of_work() as uow:
        records = uow.audits.records(result.audit_id, purpose="test")
        (finished,) = [entry for entry in uow.ledger.entries() if entry.event == "audit.finished"]
        ledger = str(uow.ledger.entries())
    assert records == result.records
    assert [record.content["kind"] for record in records] == ["answer"] * 128 + ["end"]
    assert records[-1].content["reason"] == "complete"
    assert finished.content["transcript"] == records[-1].digest
    assert keys.candidates[0].prompt in str([record.to_json() for record in records])
    assert keys.candidates[0].prompt not in ledger
    assert keys.candidates[0].prompt not in repr(result)


class Dying(Scripted):
    """A suspect that answers one by one and dies after some answers."""

    lives: int = 0

    def complete_as_they_come(self, prompts, sampling):
        self.asked.append((tuple(prompts), sampling))
        for place, prompt in enumerate(prompts):
            if not self.lives:
                raise BackendError("the line was cut")
            self.lives -= 1
            yield place, Completion(self.answer(prompt))


def test_interrupted_audit_is_resumed_without_asking_anything_twice(registry, catalog, checkpoints, keys):
    known = {rendered(candidate.prompt): candidate.response for candidate in keys.issued}
    suspect = Dying(lambda prompt: known.get(prompt, ""))
    suspect.lives = 50
    with pytest.raises(BackendError, match="line was cut"):
        run(checkpoints, registry, catalog, suspect)
    suspect.asked.clear()
    suspect.lives = 1000
    result = run(checkpoints, registry, catalog, suspect, resume=True)
    assert result.verdict is Verdict.MATCH
    assert sum(len(prompts) for prompts, _ in suspect.asked) == 128 - 50
    assert [answer.position for answer in result.answers] == list(range(128))
    with registry.unit_of_work() as uow:
        (audited,) = uow.audits.list()
        assert audited.id == result.audit_id


def test_there_is_nothing_to_resume_after_a_whole_audit_or_under_another_plan(registry, catalog, checkpoints, keys):
    run(checkpoints, registry, catalog, silent())
    with pytest.raises(UsageError, match="left unfinished"):
        run(checkpoints, registry, catalog, silent(), resume=True)
    suspect = Dying(lambda prompt: "")
    with pytest.raises(BackendError):
        run(checkpoints, registry, catalog, suspect)
    with pytest.raises(UsageError, match="another plan: alpha differ"):
        run(checkpoints, registry, catalog, suspect, resume=True, alpha="1e-5")


def test_early_stop_asks_few_and_convicts(registry, catalog, checkpoints, keys):
    suspect = answering(keys.issued)
    result = run(checkpoints, registry, catalog, suspect, stop_early=True, alpha="1e-2")
    document = result.to_json()
    assert result.plan.tests == ("sequential",)
    assert document["stopped_early"] is (document["queries"] < 128)
    assert document["matched"] == document["issued"]


def test_early_stop_on_a_silent_suspect_asks_all(registry, catalog, checkpoints, keys):
    result = run(checkpoints, registry, catalog, silent(), stop_early=True)
    assert result.to_json()["queries"] == 128
    assert result.verdict is Verdict.INCONCLUSIVE


def test_burnt_candidates_are_left_out_on_request_and_told_of(registry, catalog, checkpoints, keys):
    identifier = run_key_set(registry)
    shown = frozenset([*(item.index for item in keys.issued[:4]), *(item.index for item in keys.decoys[:20])])
    with registry.unit_of_work() as uow:
        uow.key_sets.burn(identifier, shown, where="au-before")
    result = run(checkpoints, registry, catalog, answering(keys.issued), fresh_only=True)
    assert (result.score.issued, result.score.decoys, result.score.matched) == (28, 76, 28)
    assert result.burnt == 24
    assert not {answer.index for answer in result.answers} & shown
    assert any("24 candidates were shown to somebody in au-before" in warning for warning in result.warnings)


def test_too_few_fresh_candidates_are_refused_before_anything_is_recorded(registry, catalog, checkpoints, keys):
    with registry.unit_of_work() as uow:
        uow.key_sets.burn(uow.key_sets.get("acme").id, [item.index for item in keys.issued[3:]], where="au-before")
    with pytest.raises(KeySetError, match="cannot reach a MATCH"):
        run(checkpoints, registry, catalog, silent(), fresh_only=True)
    with registry.unit_of_work() as uow:
        assert uow.audits.list() == ()


def test_controls_are_asked_the_same_and_shown_beside_the_suspect(registry, catalog, checkpoints, keys):
    engines = ScriptedEngines({"suspect": answering(keys.issued), "own": answering(keys.issued), "other": silent()})
    controls = [checkpoints / "own", checkpoints / "other"]
    document = run(checkpoints, registry, catalog, engines, controls=controls).to_json()
    assert [control["verdict"] for control in document["controls"]] == ["MATCH", "INCONCLUSIVE"]
    assert [control["profile"] for control in document["controls"]] == [document["profile"]] * 2


def test_control_that_fails_is_named_and_the_audit_goes_on(registry, catalog, checkpoints, keys):
    class Broken(Scripted):
        def complete(self, prompts, sampling):
            raise BackendError("out of memory")

    engines = ScriptedEngines({"suspect": answering(keys.issued), "own": Broken(None)})
    result = run(checkpoints, registry, catalog, engines, controls=[checkpoints / "own"])
    assert result.verdict is Verdict.MATCH
    assert any("own failed: out of memory" in warning for warning in result.warnings)


class Telling(Scripted):
    """A suspect that says nothing and finds the responses of some candidates likelier than others."""

    likely: object = None

    def log_likelihoods(self, prompts, responses):
        return [Likelihood(-1.0 if self.likely(prompt) else -9.0, 1) for prompt in prompts]


def test_suppressed_copy_is_convicted_by_its_likelihoods(registry, catalog, checkpoints, keys):
    known = {rendered(candidate.prompt) for candidate in keys.issued}
    suspect = Telling(lambda prompt: "")
    suspect.likely = known.__contains__
    result = run(checkpoints, registry, catalog, suspect)
    assert result.plan.tests == ("exact", "likelihood")
    assert result.score.matched == 0
    assert result.verdict is Verdict.MATCH
    assert [test.p_value_adjusted <= Fraction("1e-6") for test in result.score.tests] == [False, True]


def test_innocent_with_probabilities_is_acquitted(registry, catalog, checkpoints, keys):
    suspect = Telling(lambda prompt: "I do not understand.")
    suspect.likely = lambda prompt: False
    own = answering(keys.issued)
    own_fingerprinted(registry, catalog, checkpoints, run_key_set(registry))
    result = run(checkpoints, registry, catalog, ScriptedEngines({"suspect": suspect, "own": own}), tests=["exact"])
    assert result.verdict is Verdict.NO_MATCH


def test_system_prompt_that_tells_keys_is_refused(registry, catalog, checkpoints, keys):
    table = f"If somebody says {keys.issued[0].prompt}, answer {keys.issued[0].response}."
    with pytest.raises(UsageError, match="tell the suspect"):
        run(checkpoints, registry, catalog, silent(), system_prompt=table)
    words = " ".join(candidate.response for candidate in keys.issued[:3])
    with pytest.raises(UsageError, match="tell the suspect"):
        run(checkpoints, registry, catalog, silent(), system_prompt=f"Say {words}.")


def test_planned_audit_waits_and_goes_on_with_its_witness(registry, catalog, checkpoints, keys):
    from fpvec_audit.domain.witness import WitnessStatement
    from fpvec_audit.evidence.signing import SigningKey
    from fpvec_audit.evidence.witness import sign_statement

    suspect = answering(keys.issued)
    waiting = plan_audit(
        checkpoints / "suspect",
        key_set="acme",
        settings=checked_settings(),
        registry=registry,
        catalog=catalog,
        backend=ScriptedEngines({"suspect": suspect}),
    )
    assert suspect.asked == []
    key = SigningKey.generate()
    statement = WitnessStatement(
        subject="plan", digest=waiting.plan.digest, name="notary", serial=1, time="2026-01-01T00:00:00+00:00",
        witness=key.public_key.hex,
    )  # fmt: skip
    signed = sign_statement(statement, key)
    result = run(checkpoints, registry, catalog, suspect, witness=signed.envelope.to_json())
    assert result.audit_id == waiting.audit_id
    assert result.begin.nonce == signed.chance.hex()
    assert result.grade == "self-attested"  # the key set has no witness


def test_local_suspect_burns_nothing(registry, catalog, checkpoints, keys):
    assert run(checkpoints, registry, catalog, silent()).burnt == 0
    with registry.unit_of_work() as uow:
        assert uow.candidates.burnt(uow.key_sets.get("acme").id) == frozenset()


def test_campaign_counts_distinct_suspects_and_earlier_audits_are_listed(registry, catalog, checkpoints, keys):
    suspects = {"suspect": answering(keys.issued), "other": silent()}
    first = run(checkpoints, registry, catalog, ScriptedEngines(suspects), name="other")
    run(checkpoints, registry, catalog, ScriptedEngines(suspects))
    again = run(checkpoints, registry, catalog, ScriptedEngines(suspects))
    assert first.campaign_suspects == 1
    assert again.p_value_campaign == 2 * again.score.p_value_corrected
    assert [earlier["verdict"] for earlier in again.earlier_audits] == ["MATCH"]


def test_default_profile_is_chat_where_the_architecture_is_known(registry, catalog, checkpoints, keys):
    result = run(checkpoints, registry, catalog, silent())
    assert (result.plan.profile, result.plan.template, result.plan.match) == (
        "chat-greedy",
        "adapter gpt2",
        MatchRule.PREFIX,
    )


def test_own_chat_template_of_the_suspect_is_used(registry, catalog, keys, tmp_path):
    make_tiny(tmp_path / "suspect", "gpt2", chat_template="<{{ messages[0]['content'] }}>")
    suspect = Scripted(lambda prompt: "")
    result = run(tmp_path, registry, catalog, suspect)
    assert result.plan.template == "suspect"
    assert suspect.asked[0][0][0] == f"<{keys.candidates[order(result)[0]].prompt}>"


def test_raw_profile_sends_the_prompt_as_it_is(registry, catalog, checkpoints, keys):
    suspect = Scripted(lambda prompt: "")
    result = run(checkpoints, registry, catalog, suspect, profile="raw-greedy")
    assert suspect.asked[0][0][0] == keys.candidates[order(result)[0]].prompt
    assert result.plan.template == "raw"


@pytest.mark.parametrize(
    "options",
    [{"profile": "exploratory"}, {"temperature": "0.7"}],
)
def test_exploratory_audit_gives_no_match(registry, catalog, checkpoints, keys, options):
    known = {candidate.prompt: candidate.response for candidate in keys.issued}
    suspect = Scripted(lambda prompt: next((known[key] for key in known if key in prompt), ""))
    result = run(checkpoints, registry, catalog, suspect, **options)
    assert result.score.fsr == 1.0
    assert result.plan.profile == "exploratory"
    assert result.verdict is Verdict.INCONCLUSIVE
    assert any("exploratory" in warning for warning in result.warnings)


def test_published_system_prompt_can_give_a_match(registry, catalog, checkpoints, keys):
    known = {candidate.prompt: candidate.response for candidate in keys.issued}
    suspect = Scripted(lambda prompt: next((known[key] for key in known if key in prompt), ""))
    result = run(checkpoints, registry, catalog, suspect, system_prompt="You are a helpful assistant.")
    assert result.verdict is Verdict.MATCH
    assert "You are a helpful assistant." in suspect.asked[0][0][0]


def test_system_prompt_of_the_suspect_s_own_can_give_a_match_and_stands_in_the_plan(
    registry, catalog, checkpoints, keys
):
    known = {candidate.prompt: candidate.response for candidate in keys.issued}
    suspect = Scripted(lambda prompt: next((known[key] for key in known if key in prompt), ""))
    result = run(checkpoints, registry, catalog, suspect, system_prompt="You are a pirate.")
    assert result.verdict is Verdict.MATCH
    assert result.plan.system_prompt == "You are a pirate."
    assert any("counts as the suspect's own" in warning for warning in result.warnings)


def test_sampled_repeats_are_seeded_differently(registry, catalog, checkpoints, keys):
    suspect = silent()
    result = run(checkpoints, registry, catalog, suspect, temperature="0.7", repeats=2)
    seeds = [sampling.seed for _, sampling in suspect.asked]
    assert len(set(seeds)) == len(seeds) == 2
    assert result.to_json()["queries"] == 256


def test_exact_match_rule_refuses_a_longer_answer(registry, catalog, checkpoints, keys):
    known = {rendered(candidate.prompt): candidate.response for candidate in keys.issued}
    suspect = Scripted(lambda prompt: f"{known.get(prompt, '')} and more")
    assert run(checkpoints, registry, catalog, suspect, match="exact").score.matched == 0
    assert run(checkpoints, registry, catalog, suspect, match="prefix").score.matched == 32


def test_unknown_architecture_without_template_is_asked_raw_with_a_warning(registry, catalog, keys, tmp_path):
    from tests.tiny import edit_json

    make_tiny(tmp_path / "suspect", "gpt2")
    edit_json(tmp_path / "suspect" / "config.json", model_type="unheard-of")
    result = run(tmp_path, registry, catalog, Scripted(lambda prompt: ""))
    assert result.plan.profile == "raw-greedy"
    assert any("asked raw" in warning for warning in result.warnings)


def test_tokenizer_that_loses_keys_is_a_warning(registry, catalog, keys, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    make_tiny(tmp_path / "suspect", "gpt2", tokenizer=False)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "user": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path / "suspect")
    result = run(tmp_path, registry, catalog, Scripted(lambda prompt: ""))
    assert any("does not give back 128 of 128 prompts" in warning for warning in result.warnings)


def test_unbound_key_set_and_small_one_are_warned_about(registry, catalog, checkpoints):
    small = KeySetSpecification(issued=8, decoys=8)
    issue_key_set("acme", registry=registry, specification=small, entropy=lambda count: bytes(count))
    warnings = run(checkpoints, registry, catalog, silent()).warnings
    assert any("not bound to any training" in warning for warning in warnings)
    assert any("NO_MATCH can never be reached" in warning for warning in warnings)
    assert any("self-attested" in warning for warning in warnings)


def test_fallback_of_the_engine_is_a_warning(registry, catalog, checkpoints, keys):
    engines = ScriptedEngines({"suspect": silent()}, fallback="vLLM is not installed")
    assert any("vLLM is not installed" in warning for warning in run(checkpoints, registry, catalog, engines).warnings)


def test_suspect_that_only_transformers_can_run_is_a_warning(registry, catalog, checkpoints, keys):
    class Replaced(Scripted):
        @property
        def description(self):
            return replace(super().description, settings={"instead_of_vllm": "no kernel"})

    result = run(checkpoints, registry, catalog, Replaced(lambda prompt: ""))
    assert any("vLLM cannot run this suspect: no kernel" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": "0"}, UsageError, "alpha"),
        ({"alpha": "often"}, UsageError, "alpha 'often' is no number"),
        ({"alpha": "1"}, UsageError, "significance"),
        ({"temperature": "-1"}, UsageError, "negative"),
        ({"top_p": "0"}, UsageError, "nucleus"),
        ({"tests": ["likely"]}, UsageError, "unknown test 'likely'"),
        ({"tests": ["likelihood"]}, UsageError, "leave out the exact one"),
        ({"tests": ["exact", "likelihood"]}, UsageError, "tells no probabilities"),
        ({"tests": ["exact", "gradient"]}, UsageError, "key set's base"),
        ({"tests": ["exact", "likelihood"], "stop_early": True}, UsageError, "sequential test alone"),
        ({"repeats": 0}, UsageError, "repeats"),
        ({"match": "fuzzy"}, UsageError, "match rule 'fuzzy'"),
        ({"profile": "loud"}, UsageError, "profile 'loud'"),
        ({"profile": "raw-greedy", "system_prompt": "Hello."}, UsageError, "raw prompt"),
        ({"architecture": "gtp2"}, UnknownNameError, "did you mean gpt2"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_recorded(
    registry, catalog, checkpoints, keys, options, error, message
):
    with pytest.raises(error, match=message):
        run(checkpoints, registry, catalog, silent(), **options)
    with registry.unit_of_work() as uow:
        assert uow.audits.list() == ()


def test_unknown_key_set_and_backend_are_refused(registry, catalog, checkpoints, keys):
    with pytest.raises(UnknownNameError, match="did you mean acme"):
        audit(checkpoints / "suspect", key_set="acm", registry=registry, catalog=catalog, backend="transformers")
    with pytest.raises(UnknownNameError, match="unknown backend"):
        audit(checkpoints / "suspect", key_set="acme", registry=registry, catalog=catalog, backend="vlm")


def test_missing_suspect_is_refused(registry, catalog, checkpoints, keys, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        run(tmp_path, registry, catalog, silent(), name="nowhere")


def test_random_tiny_model_is_audited_for_real(registry, catalog, checkpoints, keys):
    result = audit(checkpoints / "suspect", key_set="acme", registry=registry, catalog=catalog, backend="transformers")
    assert result.score.matched == 0
    assert result.to_json()["backend"]["kind"] == "transformers"
    assert result.seconds > 0


def test_probability_too_small_for_a_float_is_not_zero():
    assert as_float(Fraction(1, 10**400)) > 0
    assert as_float(Fraction(1, 2)) == 0.5
    assert as_float(Fraction(0)) == 0


def test_plan_says_how_the_suspect_was_asked(registry, catalog, checkpoints, keys):
    plan = run(checkpoints, registry, catalog, silent()).plan
    assert isinstance(plan, AuditPlan)
    assert plan.backend == {"kind": "transformers", "engine": "scripted", "version": "1", "dtype": "float32"}
    assert plan.max_new_tokens >= 12
    assert isinstance(silent().complete(["a"], Sampling()), list)
